"""One service of a process container, as those who hold it see it.

What becomes of it is told by its run (`process_run.py`), which alone changes it; it answers from memory.
"""

import os
import signal as signals
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

import trio

from actors.containers.base import ProcessStatus
from actors.containers.keeper import OUTPUT_BYTES_MAX
from actors.containers.launch import Launch
from actors.containers.tail import FileTail

ENDING_SIGNALS: Final = frozenset({signals.SIGTERM, signals.SIGINT, signals.SIGQUIT, signals.SIGKILL})
"""What tells a service to end. Not SIGHUP, by which many read their configuration anew."""

_LOG_READ_ATTEMPTS: Final = 3


class Keeping(Protocol):
    """What a service needs of its run."""

    folder: Path

    @property
    def frozen(self) -> bool:
        """Whether its processes stand still."""

    async def ask(self, *fields: bytes) -> None:
        """Give the keeper a frame."""

    async def let_end(self, service: "Service") -> None:
        """Take a service off the record, as its owner wants it to end."""


class Stage(Enum):
    ASKED = "asked"
    RUNNING = "running"
    REFUSED = "refused"
    RESTARTING = "restarting"
    EXITED = "exited"


class Service:
    """One process of a run (a `ContainerProcess`), and the same for a command that is waited for."""

    def __init__(self, run: Keeping, serial: int, launch: Launch, name: str, process_id: str) -> None:
        self.id = process_id
        self.command = launch.command
        self.pid = 0
        self.exit_code: int | None = None
        self.restarts = 0
        self.serial = serial
        self.launch = launch
        self.name = name
        """Of its output files, without ending. Used once in a run, also if its `id` is used again."""
        self.stage = Stage.ASKED
        self.refusal = ""
        self.truncated = False
        self.settled = trio.Event()
        """It runs, was refused, or the run is over."""
        self.exited = trio.Event()
        """It has exited and is not started again."""
        self.told_to_end = False
        """Its owner wants it to end: what comes of it is nobody's news, and it is not started again."""
        self.revived = False
        """The wake has brought it back, and nobody has asked for it since."""
        self.started_at = trio.current_time()
        self.pause_s = 0.0
        """Before its last restart."""
        self._run = run

    def __repr__(self) -> str:
        return f"<process {self.id} pid {self.pid} {self.stage.value}>"

    @property
    def status(self) -> ProcessStatus:
        if self.exited.is_set():
            return ProcessStatus.EXITED
        if self._run.frozen:
            return ProcessStatus.FROZEN
        return ProcessStatus.RESTARTING if self.stage is Stage.RESTARTING else ProcessStatus.RUNNING

    async def wait(self) -> int:
        """Block until it has exited and is not started again; return the exit code."""
        await self.exited.wait()
        assert self.exit_code is not None
        return self.exit_code

    async def kill(self, signal: int = signals.SIGTERM) -> None:
        """Send a signal to the process and its group; to nobody if it has exited.

        One of those that are meant to end it also takes it off the record: it is not started again, by no policy and no
        wake, whether or not it heeds the signal.

        Raises:
            ValueError: There is no such signal.
            ContainerError: That it is to stay down could not be stored; it was not signalled.
        """
        if signal not in signals.valid_signals():
            raise ValueError(f"{signal} is no signal's number")
        if self.exited.is_set():
            await trio.lowlevel.checkpoint()
            return
        if signal in ENDING_SIGNALS:
            await self._run.let_end(self)
        await self._run.ask(b"signal", b"%d" % self.serial, b"%d" % signal)

    async def logs(self) -> bytes:
        """Return the newest output, 512 KiB at least if there is as much. Empty once the run's folder is gone."""
        return await trio.to_thread.run_sync(read_log, self._run.folder / f"{self.name}.log")

    def tail(self) -> FileTail:
        """Return a reader of the output that goes on where it has left off."""
        # Looked up each time: the folder moves with the run that wakes a frozen one.
        return FileTail(lambda: self._run.folder / f"{self.name}.log")

    def refuse(self, refusal: str) -> None:
        """Note that it could not be started again; it may be tried once more."""
        self.stage = Stage.REFUSED
        self.refusal = refusal
        self.settled.set()

    def settle(self, stage: Stage, *, exit_code: int | None = None, refusal: str = "") -> None:
        """Note what became of it. The first end that is told stays."""
        if self.exited.is_set():
            return
        self.stage = stage
        self.refusal = refusal
        self.settled.set()
        if stage in (Stage.EXITED, Stage.REFUSED):
            self.exit_code = exit_code
            self.exited.set()


def read_log(path: Path) -> bytes:
    """Return the older and the newer half of a service's output. Blocks: for a thread."""
    for _ in range(_LOG_READ_ATTEMPTS):
        try:
            with open(path, "rb") as newer:
                before = os.fstat(newer.fileno()).st_ino
                older = read_end(path.with_name(path.name + ".1"), OUTPUT_BYTES_MAX)
                data = older + newer.read(OUTPUT_BYTES_MAX)
            # Turned over while it was read: the halves do not belong together.
            if os.stat(path).st_ino == before:
                return data
        except FileNotFoundError:
            continue  # in the middle of turning over, or gone with the folder
    return read_end(path, OUTPUT_BYTES_MAX)


def read_end(path: Path, size: int) -> bytes:
    """Return the last bytes of a file, none if it is gone. Blocks: for a thread."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)
    except FileNotFoundError:
        return b""
