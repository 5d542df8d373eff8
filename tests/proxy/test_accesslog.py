"""The access log: lines are gathered, written in time, and dropped rather than waited for."""

import json
import os
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from proxy.accesslog import BUFFER_BYTES, FLUSH_S, AccessLog
from proxy.core.served import Served

SERVED = Served("", "my-app", 8080, "GET", "/a", 200, None, 5, 0.001, complete=True)


async def test_lines_are_written_every_second_and_at_the_end(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"before\n")
    access_log = AccessLog(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(access_log.run)
        access_log(SERVED)
        assert path.read_bytes() == b"before\n"
        await trio.sleep(FLUSH_S * 1.5)
        assert path.read_bytes().count(b"\n") == 2
        nursery.cancel_scope.cancel()
    access_log(replace(SERVED, path="/last"))
    access_log.close()
    lines = path.read_bytes().splitlines()
    assert json.loads(lines[-1])["path"] == "/last"
    assert path.stat().st_mode & 0o007 == 0 or path.stat().st_size  # it was there before: its mode is its owner's


def test_new_file_is_not_for_everybody_and_a_full_buffer_is_written_at_once(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    access_log = AccessLog(path)
    assert path.stat().st_mode & 0o007 == 0
    for _ in range(BUFFER_BYTES // 100):
        access_log(SERVED)
    assert path.stat().st_size >= BUFFER_BYTES
    access_log.close()


def test_lines_without_room_are_dropped_and_counted(logged: list[dict[str, object]]) -> None:
    access_log = AccessLog(Path("/dev/full"))
    for _ in range(3):
        access_log(SERVED)
        access_log.flush()
    assert [event["log_level"] for event in logged] == ["error"]
    os.dup2(os.open("/dev/null", os.O_WRONLY), access_log._descriptor)
    access_log(SERVED)
    access_log.close()
    assert logged[-1]["lines_dropped"] == 3


def test_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(tmp_path / "no" / "access.log")
