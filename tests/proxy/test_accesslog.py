"""The access log: lines are gathered, written in time and in a thread, and dropped rather than waited for."""

import json
import os
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from proxy.accesslog import BUFFER_BYTES, WAITING_BYTES_MAX, AccessLog
from proxy.core.served import Served

SERVED = Served("", "my-app", 8080, "GET", "/a", 200, None, 5, 0.001, complete=True)


async def written(path: Path, least: int) -> bytes:
    """Wait until there are so many bytes."""
    with trio.fail_after(10):
        while len(found := await trio.Path(path).read_bytes()) < least:
            await trio.lowlevel.checkpoint()
    return found


async def test_full_buffer_is_written_at_once_and_the_rest_at_the_end(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    access_log = AccessLog(path)
    nursery.start_soon(access_log.run)
    for _ in range(BUFFER_BYTES // 100):
        access_log(SERVED)
    assert (await written(path, BUFFER_BYTES)).startswith(b"before\n")
    access_log(replace(SERVED, path="/last"))
    nursery.cancel_scope.cancel()
    access_log.close()
    assert json.loads(path.read_bytes().splitlines()[-1])["path"] == "/last"


async def test_lines_are_written_a_second_later(tmp_path: Path, nursery: trio.Nursery, mock_clock: object) -> None:
    assert isinstance(mock_clock, trio.testing.MockClock)
    path = tmp_path / "access.log"
    access_log = AccessLog(path)
    assert path.stat().st_mode & 0o007 == 0
    nursery.start_soon(access_log.run)
    access_log(SERVED)
    await trio.testing.wait_all_tasks_blocked()
    assert path.read_bytes() == b""
    mock_clock.jump(1.1)
    while not path.stat().st_size:
        await trio.lowlevel.checkpoint()


def test_lines_without_room_are_dropped_and_counted(logged: list[dict[str, object]]) -> None:
    access_log = AccessLog(Path("/dev/full"))
    again = os.open("/dev/null", os.O_WRONLY)
    for _ in range(2):
        lines = [b"a", b"b"]
        access_log._note(lines, access_log._write(lines))
    assert [event["log_level"] for event in logged] == ["error"]
    os.dup2(again, access_log._descriptor)
    os.close(again)
    access_log(SERVED)
    access_log.close()
    assert logged[-1]["lines_dropped"] == 4


async def test_reader_that_has_stopped_holds_up_nobody(logged: list[dict[str, object]]) -> None:
    reading, writing = os.pipe()
    access_log = AccessLog(Path(f"/proc/self/fd/{writing}"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access_log.run)
        for number in range(2 * WAITING_BYTES_MAX // 100):
            access_log(SERVED)
            if not number % 1000:
                await trio.lowlevel.checkpoint()
        assert access_log._size <= WAITING_BYTES_MAX + 1000
        assert [event["reason"] for event in logged] == ["whoever reads it is too slow"]
        nursery.cancel_scope.cancel()
    access_log.close()
    os.close(reading)
    os.close(writing)


def test_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(tmp_path / "no" / "access.log")
