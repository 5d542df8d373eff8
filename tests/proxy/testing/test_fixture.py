"""The fixture, taken from the conftest.py above as users take it from theirs."""

import trio
import trio.testing

from proxy.testing import PreviewEngine, respond, slow_head


async def test_fixture_is_an_engine(preview_engine: PreviewEngine) -> None:
    assert (await preview_engine.get(await preview_engine.expose(respond(b"hello")))).body == b"hello"


async def test_time_jumps_for_a_test_that_takes_the_clock(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    assert (await preview_engine.get(await preview_engine.expose(slow_head(100)))).status == 200
    assert trio.current_time() >= 100
