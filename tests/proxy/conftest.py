"""What the tests of the router's shell share: the engine, over streams in memory and over sockets, and what it logs.

A connection over plain sockets is carried in another way (`proxy.lane`) than one over any other stream
(`proxy.connection`), and nobody outside may see which: what holds for the one is tested on the other.
"""

from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
import pytest_trio
import structlog
from structlog.testing import capture_logs

from proxy.testing import PreviewEngine
from proxy.testing import preview_engine as make_engine
from tests.proxy.ways import OpenEngine


@pytest.fixture(params=[False, True], ids=["memory", "sockets"])
def sockets(request: pytest.FixtureRequest) -> bool:
    """Which streams the engine is to use."""
    return bool(request.param)


@pytest.fixture
def open_engine(sockets: bool) -> OpenEngine:
    """`preview_engine` of `proxy.testing`, for a test that wants other settings."""
    return partial(make_engine, sockets=sockets)


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def preview_engine(sockets: bool) -> AsyncIterator[PreviewEngine]:
    """An engine of default settings."""
    async with make_engine(sockets=sockets) as engine:
        yield engine


@pytest.fixture
def logged() -> Iterator[list[structlog.typing.EventDict]]:
    """All that is logged during the test."""
    with capture_logs() as events:
        yield events
