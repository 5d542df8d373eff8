"""The pipe in memory: a stream like others, with room for one piece."""

import pytest
import trio
import trio.testing

from proxy.pipe import PipeEnd, open_pipe


async def test_stream_behaves_as_trio_says_streams_do(autojump_clock: trio.testing.MockClock) -> None:
    async def make() -> tuple[PipeEnd, PipeEnd]:
        await trio.lowlevel.checkpoint()
        return open_pipe()

    await trio.testing.check_half_closeable_stream(make, None)


async def test_writer_waits_when_one_piece_has_not_been_taken(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = open_pipe()
    await ours.send_all(b"one")
    with trio.move_on_after(1) as waited:
        await ours.send_all(b"two")
    assert waited.cancelled_caught
    assert await theirs.receive_some() == b"one"


async def test_what_was_sent_before_the_close_is_received_and_then_the_end() -> None:
    ours, theirs = open_pipe()
    await ours.send_all(b"last words")
    ours.close()
    assert await theirs.receive_some(4) == b"last"
    assert await theirs.receive_some() == b" words"
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"too late")
