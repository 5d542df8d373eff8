"""What a run may have left on this host, found and ended before anybody says that it is gone.

A keeper ends everything itself, so usually there is nothing to do. Two cases remain: a keeper that is still at it
while the server has been started anew, and a keeper that was killed (by its services' user, or for want of
memory). In the second the kernel kills its direct children, and what those had spawned is found here by the mark
that every process of the run carries in its environment. A process that wipes its environment *and* outlives a
killed keeper escapes; nothing short of a namespace or cgroup would hold it.
"""

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.containers.keeper import IDENTITY_FILE, KILL_SECONDS_MAX, read_stat
from actors.containers.launch import MARK_VARIABLE

KEEPER_END_S: Final = KILL_SECONDS_MAX + 20
"""Longer than a keeper takes to kill everything, so that whoever outlasts it is stuck."""
SWEEP_S: Final = 5.0
_SWEEP_PASS_MS: Final = 50
# A process in the middle of `execve` shows no environment for a moment, so one clean pass proves nothing.
_CLEAN_PASSES: Final = 3
_IDENTITY_BYTES_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class KeeperIdentity:
    """Who kept a run, as it wrote into the run's folder."""

    pid: int
    started: int
    """In clock ticks since boot: tells it from a later process of the same number."""
    mark: str


def read_identity(run_folder: Path) -> KeeperIdentity | None:
    """Return what the keeper wrote; None if it never got so far (then it never started a process either)."""
    try:
        with open(run_folder / IDENTITY_FILE, "rb") as file:
            pid, started, mark = file.read(_IDENTITY_BYTES_MAX).decode("ascii").split()
        return KeeperIdentity(int(pid), int(started), mark)
    except (OSError, ValueError):
        return None


async def end_leftovers(run_folder: Path) -> None:
    """Return when nothing of that run is left, or `KEEPER_END_S` and `SWEEP_S` have passed in vain."""
    identity = await trio.to_thread.run_sync(read_identity, run_folder)
    if identity is None:
        return
    await _wait_keeper(identity)
    await trio.to_thread.run_sync(sweep, identity.mark)


async def _wait_keeper(identity: KeeperIdentity) -> None:
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError:
        return
    try:
        stat = read_stat(identity.pid)
        if stat is None or stat[0] == b"Z" or stat[2] != identity.started:
            return
        with trio.move_on_after(KEEPER_END_S):
            await trio.lowlevel.wait_readable(pidfd)
            return
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended just now
    finally:
        os.close(pidfd)


def sweep(mark: str, seconds: float = SWEEP_S) -> int:
    """Kill every process that carries `mark`; return how many are left after `seconds`. Blocks: for a thread.

    A pidfd is opened before the mark is read, so the signal goes to the process that carried it, or to nobody.
    """
    deadline = time.monotonic() + seconds
    clean_passes = 0
    while True:
        found = _kill_marked(mark)
        clean_passes = 0 if found else clean_passes + 1
        if clean_passes == _CLEAN_PASSES or time.monotonic() > deadline:
            return found
        if not found:
            select.poll().poll(_SWEEP_PASS_MS)


def _kill_marked(mark: str) -> int:
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    poll = select.poll()
    killed = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = wanted in file.read().split(b"\0")
            if marked:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll.register(pidfd, select.POLLIN)
                killed.append(pidfd)
        except OSError:
            marked = False  # gone, or another user's
        if not marked:
            os.close(pidfd)
    # Wait for one of them to be gone before looking again; a pidfd becomes readable then (pidfd_open(2)).
    if killed:
        poll.poll(_SWEEP_PASS_MS)
    for pidfd in killed:
        os.close(pidfd)
    return len(killed)
