"""Output of services: as it is, as it comes, and none of it twice."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actors.testing.containers import FakeProcess
from proxy.api.logs import ANCHOR_LENGTH, fresh
from tests.proxy.api.stage import Stage

LINE = bytes(range(ANCHOR_LENGTH))
AT = "/v1/sandboxes/my-app/processes"


def the_process(stage: Stage) -> FakeProcess:
    run = stage.engine.container().run
    assert run is not None
    return run.processes()[0]


async def test_output_is_told_as_it_is(stage: Stage) -> None:
    await stage.make()
    await stage.got("POST", AT, {"command": "serve", "id": "web"}, status=201)
    process = the_process(stage)
    process.stdout = b"<script>\xff\x1b[31m"
    answer = await stage.call("GET", f"{AT}/web/logs")
    assert (answer.status, answer.body) == (200, b"<script>\xff\x1b[31m")
    assert answer.header("content-type") == "application/octet-stream"
    assert answer.header("x-content-type-options") == "nosniff"
    await stage.refused(404, "PROCESS_NOT_FOUND", "GET", f"{AT}/other/logs")
    await stage.refused(400, "INVALID_REQUEST", "GET", f"{AT}/web/logs?follow=perhaps")


async def test_follower_is_told_until_the_process_has_exited(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.make()
    await stage.got("POST", AT, {"command": "serve", "id": "web"}, status=201)
    process = the_process(stage)
    process.stdout = b"one\n"

    async def print_more() -> None:
        await trio.sleep(3)
        process.stdout += b"two\n"
        await trio.sleep(3)
        process.stdout += b"three\n"
        process.exit(0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(print_more)
        answer = await stage.call("GET", f"{AT}/web/logs?follow=true")
    assert (answer.status, answer.body) == (200, b"one\ntwo\nthree\n")


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        (b"", b"", b""),
        (b"", b"abc", b"abc"),
        (b"abc", b"abc", b""),
        (b"abc", b"abcd", b"d"),
        # The oldest bytes were dropped.
        (b"abc" + LINE, LINE + b"gh", b"gh"),
        (b"abc" + LINE, LINE, b""),
        # The same by chance.
        (b"abc", b"cde", b"cde"),
        # All of them.
        (b"abc", b"xyz", b"xyz"),
        # The folder of the run is gone.
        (b"abc", b"", b""),
    ],
)
def test_what_is_new_is_what_was_not_there(before: bytes, now: bytes, new: bytes) -> None:
    assert fresh(before, now) == new


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=20), st.data())
def test_follower_misses_nothing_of_output_that_does_not_repeat(pieces: list[bytes], data: st.DataObject) -> None:
    """Law: with distinct lines, and no more dropped at a time than was there, every line is told once."""
    lines = [b"%d:%b\n" % (number, piece.hex().encode().rjust(ANCHOR_LENGTH)) for number, piece in enumerate(pieces)]
    output = told = before = b""
    for line in lines:
        output += line
        # Something is left of what was there at the look before.
        gone = data.draw(st.integers(0, max(len(before) - ANCHOR_LENGTH, 0)))
        now = output[len(output) - len(line) - len(before) + gone :]
        told += fresh(before, now)
        before = now
    assert told == output
