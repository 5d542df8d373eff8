"""What an earlier run left: found by its mark, waited for, and never mistaken for somebody else's."""

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from actors.containers import leftovers as module
from actors.containers.keeper import IDENTITY_FILE, read_stat
from actors.containers.launch import MARK_VARIABLE
from actors.containers.leftovers import KeeperIdentity, end_leftovers, read_identity, sweep

Sleeper = subprocess.Popen[bytes]


@contextmanager
def asleep(**env: str) -> Iterator[Sleeper]:
    # `echo` first: its output says that `execve` is over, during which a process shows no environment.
    script = ["/bin/sh", "-c", "echo; read never"]
    with subprocess.Popen(script, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    with asleep() as process:
        yield process


@pytest.fixture
def mark() -> str:
    """Of this test alone: a sweep goes over the whole host, other test runs included."""
    return secrets.token_hex(16)


def write_identity(folder: Path, process: Sleeper, *, later: int = 0) -> None:
    stat = read_stat(process.pid)
    assert stat is not None
    (folder / IDENTITY_FILE).write_text(f"{process.pid} {stat[2] + later} no-such-mark\n")


def test_sweep_ends_what_carries_the_mark_and_nothing_else(sleeper: Sleeper, mark: str) -> None:
    with asleep(**{MARK_VARIABLE: mark}) as ours, asleep(**{MARK_VARIABLE: f"{mark}7"}) as other:
        assert sweep(mark) == 0
        assert ours.wait() == -signal.SIGKILL
        assert other.poll() is None
    assert sleeper.poll() is None


def test_sweep_says_how_many_it_could_not_end(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_args: None)
    with asleep(**{MARK_VARIABLE: mark}):
        assert sweep(mark, seconds=0) == 1


@pytest.mark.parametrize("text", ["", "7", "a b c", "1 2 3 4", "\u00e9"])
def test_identity_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_text(text)
    assert read_identity(tmp_path) is None


def test_identity_is_what_the_keeper_wrote(tmp_path: Path) -> None:
    assert read_identity(tmp_path) is None
    (tmp_path / IDENTITY_FILE).write_bytes(b"7 8 abc\n")
    assert read_identity(tmp_path) == KeeperIdentity(7, 8, "abc")


async def test_keeper_on_its_way_out_is_waited_for(tmp_path: Path, sleeper: Sleeper) -> None:
    write_identity(tmp_path, sleeper)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            done = trio.Event()

            async def end() -> None:
                await end_leftovers(tmp_path)
                done.set()

            nursery.start_soon(end)
            with trio.move_on_after(0.05):
                await done.wait()
            assert not done.is_set()
            sleeper.terminate()
            await done.wait()
    assert sleeper.wait() == -signal.SIGTERM


async def test_keeper_that_does_not_end_is_killed(
    tmp_path: Path, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPER_END_S", 0)
    write_identity(tmp_path, sleeper)
    await end_leftovers(tmp_path)
    assert sleeper.wait() == -signal.SIGKILL


async def test_later_process_with_the_keepers_number_is_left_alone(
    tmp_path: Path, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEPER_END_S", 0)
    write_identity(tmp_path, sleeper, later=1)
    await end_leftovers(tmp_path)
    assert sleeper.poll() is None


async def test_run_of_which_nothing_is_left_is_done_at_once(tmp_path: Path, sleeper: Sleeper) -> None:
    write_identity(tmp_path, sleeper)
    sleeper.kill()
    # Dead, but not reaped: its number is still taken.
    await trio.to_thread.run_sync(os.waitid, os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    with trio.fail_after(5):
        await end_leftovers(tmp_path)
        await end_leftovers(tmp_path / "never")
