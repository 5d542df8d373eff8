"""The pytest fixture. In conftest.py::

    from proxy.testing.fixture import preview_engine

and then, for a test in which time passes::

    async def test_preview_wakes(preview_engine, autojump_clock): ...

pytest-trio runs a test on the clock that the test itself takes, so the fixture cannot bring one along.
"""

from collections.abc import AsyncIterator

import pytest_trio

from proxy.testing import engine


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def preview_engine() -> AsyncIterator[engine.PreviewEngine]:
    """An engine of default settings."""
    async with engine.preview_engine() as running:
        yield running
