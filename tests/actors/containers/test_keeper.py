"""The keeper's frames and its view of /proc; the program itself is tested through `ProcessRun`, with real processes."""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.containers import keeper
from actors.containers.keeper import FRAME_BYTES_MAX, Unpacker, descendants, pack, read_stat, signal_exactly

from .conftest import Lifeline

frames = st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=5), max_size=5)


@given(frames, st.data())
def test_frames_arrive_whole_however_the_bytes_are_cut(sent: list[list[bytes]], data: st.DataObject) -> None:
    stream = b"".join(pack(*fields) for fields in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    unpacker = Unpacker()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += unpacker.feed(stream[start:end])
    assert received == sent


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waited_for(garbage: bytes) -> None:
    with suppress(ValueError):
        for fields in Unpacker().feed(garbage):
            assert pack(*fields) in garbage


def test_frame_of_the_largest_size_fits_and_no_larger() -> None:
    largest = pack(bytes(FRAME_BYTES_MAX - 4))
    assert Unpacker().feed(largest) == [[bytes(FRAME_BYTES_MAX - 4)]]
    with pytest.raises(ValueError, match="at most"):
        pack(bytes(FRAME_BYTES_MAX - 3))
    with pytest.raises(ValueError, match="at most"):
        Unpacker().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("body", [b"", b"\0\0\0\2a", b"\0\0\0"])
def test_malformed_frame_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="frame"):
        Unpacker().feed(len(body).to_bytes(4, "big") + body)


def test_program_with_spaces_and_brackets_in_its_name_is_read() -> None:
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) R 1 (', 0, 0, 0); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        stat = read_stat(child.pid)
        assert stat is not None
        assert stat[0] in (b"R", b"S")
        assert stat[1] == os.getpid(), "the name's own R and 1 are not the state and the parent"
        child.communicate(b"\n")
    assert read_stat(child.pid) is None


def test_process_whose_first_thread_has_ended_while_others_run_is_no_zombie() -> None:
    script = """
import ctypes, os, threading
def wait():
    while open("/proc/self/stat").read().rpartition(") ")[2][0] != "Z": pass
    print("first thread ended", flush=True)
    input()
threading.Thread(target=wait).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        child.kill()


async def test_descendants_are_found_across_generations_and_sessions(lifeline: Lifeline) -> None:
    script = 'exec 9>"$0"; setsid sh -c "sleep 1000000 & echo \\$! >&9; wait" & echo $! >&9; echo $$ >&9; wait'
    child = await trio.lowlevel.open_process(["/bin/sh", "-c", script, lifeline.path])
    with trio.fail_after(30):
        pids = {int(line) for line in await lifeline.wait_held(3)}
        found = descendants(os.getpid())
        assert pids <= set(found)
        assert child.pid in pids
        assert pids - {child.pid} <= set(descendants(child.pid))
        assert os.getpid() not in found
        for pid in pids:
            signal_exactly(pid, found[pid], signal.SIGKILL)
        await lifeline.wait_released()
        await child.wait()


Readings = dict[int, list[tuple[bytes, int, int]]]


@pytest.mark.parametrize(
    ("readings", "found"),
    [
        # {pid: what is read of it, one time after the other; the last one stays}. 5 is the root.
        ({10: [(b"S", 5, 100)], 11: [(b"S", 10, 110)]}, {10: 100, 11: 110}),
        ({10: [(b"Z", 5, 100)], 11: [(b"S", 5, 110)]}, {11: 110}),
        # A child of ours has ended, and its number went to a stranger with a child.
        ({10: [(b"S", 5, 100), (b"S", 1, 200)], 11: [(b"S", 10, 210)]}, {}),
        # 11 was a stranger's child when it was read; then its parent ended, and we got the number.
        ({10: [(b"S", 5, 300)], 11: [(b"S", 10, 210), (b"S", 1, 210)]}, {10: 300}),
        # Ours has ended after it was looked at, and a stranger got the number and a child at once.
        ({10: [(b"S", 5, 100), (b"S", 5, 100), (b"S", 1, 200)], 11: [(b"S", 10, 210)]}, {10: 100}),
    ],
)
def test_stranger_that_got_a_used_number_is_no_descendant(
    readings: Readings, found: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(pid: int) -> tuple[bytes, int, int]:
        return readings[pid].pop(0) if len(readings[pid]) > 1 else readings[pid][0]

    monkeypatch.setattr(os, "listdir", lambda _folder: ["self", *map(str, readings)])
    monkeypatch.setattr(keeper, "read_stat", read)
    assert descendants(5) == found


def test_pid_that_is_another_process_by_now_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "1000000"]) as child:
        stat = read_stat(child.pid)
        assert stat is not None
        signal_exactly(child.pid, stat[2] + 1, signal.SIGKILL)
        assert child.poll() is None
        signal_exactly(child.pid, stat[2], signal.SIGTERM)
        # SIGKILL, were it sent above, would have come first.
        assert child.wait() == -signal.SIGTERM
    signal_exactly(child.pid, stat[2], signal.SIGKILL)


def test_system_without_pidfds_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def prctl(self, *_args: object) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_kwargs: Libc())
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(OSError, match=r"Linux 5\.3"):
        keeper._prepare()


def test_system_without_prctl_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_kwargs: object())
    with pytest.raises(OSError, match="need Linux"):
        keeper._prepare()


def test_keeper_imports_little_and_nothing_of_ours() -> None:
    # Every start of a container pays for what the keeper imports.
    program = "import sys; sys.path.append(sys.argv[1]); import keeper; print(*sys.modules)"
    folder = os.path.dirname(keeper.__file__)
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program, folder], capture_output=True, check=True)
    imported = set(result.stdout.decode().split())
    assert not imported & {"actors", "trio", "typing", "json", "re", "dataclasses", "socket", "subprocess", "logging"}
