"""The fixture that most tests of the API take."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_trio

from tests.proxy.api.stage import Stage, open_stage


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """The API, with no sandbox yet."""
    async with open_stage(tmp_path) as opened:
        yield opened
