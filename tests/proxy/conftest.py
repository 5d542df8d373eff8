"""What the tests of the router's shell share: the engine, and what it logs."""

from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from proxy.testing.fixture import preview_engine

__all__ = ["preview_engine"]


@pytest.fixture
def logged() -> Iterator[list[structlog.typing.EventDict]]:
    """All that is logged during the test."""
    with capture_logs() as events:
        yield events
