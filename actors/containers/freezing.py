"""Sleep by standing still: the processes of a run are stopped where they are, and go on in the run that wakes them.

Two things are to be told apart here. The *processes* (a `ProcessRun`: one keeper, and what it owns) last over many
sleeps. A *run*, as visits know it, ends with each sleep: every wake makes another `FreezingRun` over the same
processes, so what was admitted before a sleep cannot be dialled after it.

Standing still is SIGSTOP, which no process can refuse, for every descendant of the keeper (see `keeper.py`), which
itself goes on. What cannot be brought to stand still in time is stopped and started again, as without all this.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from actors.containers.base import ExecResult, ProcessOptions
from actors.containers.process_run import ProcessRun
from actors.containers.service import Service
from actors.errors import ContainerError, NotListeningError

log = structlog.get_logger("portico.freezing")


class FreezingRun:
    """One run of processes that are frozen at its end, if that end is a sleep."""

    def __init__(
        self,
        run_id: str,
        processes: ProcessRun,
        keep: Callable[["FreezingRun"], None],
        lose: Callable[[], None],
    ) -> None:
        """Begin as up.

        Args:
            run_id: Its name.
            processes: What it is a run of; they are up.
            keep: Told once they stand still, to remember them for the wake.
            lose: Told when they have ended, whether they stood still or not.
        """
        self.run_id: Final = run_id
        self._processes: Final = processes
        self._keep: Final = keep
        self._lose: Final = lose
        self._handed_on = False
        self._over = trio.Event()
        self._reason = ""
        processes.when_ended = self._ended

    def __repr__(self) -> str:
        return f"<freezing run {self.run_id} {'ended' if self._over.is_set() else 'up'}>"

    async def dial(self, port: int) -> trio.SocketStream:
        self._check_up(port)
        stream = await self._processes.dial(port)
        if self._over.is_set():
            stream.socket.close()
            self._check_up(port)
        return stream

    def _check_up(self, port: int) -> None:
        if self._over.is_set():
            raise NotListeningError(port, [("127.0.0.1", "the run has stopped")])

    async def wait_listening(self, port: int) -> None:
        await self._processes.wait_listening(port)

    async def is_anothers(self, port: int) -> bool:
        return await self._processes.is_anothers(port)

    async def start_process(self, options: ProcessOptions) -> Service:
        self._check_runs()
        return await self._processes.start_process(options)

    async def exec(self, options: ProcessOptions) -> ExecResult:
        self._check_runs()
        return await self._processes.exec(options)

    def _check_runs(self) -> None:
        if self._over.is_set():
            raise ContainerError("the run has stopped")

    def processes(self) -> Sequence[Service]:
        return self._processes.processes()

    @property
    def detachable(self) -> bool:
        """False: the keeper ends with its server, and everything with it."""
        return False

    @property
    def busy(self) -> bool:
        return not self._over.is_set() and self._processes.busy

    @property
    def comes_back(self) -> bool:
        return self._processes.comes_back

    async def stop(self) -> None:
        self._finish("stopped")
        if self._handed_on:
            await trio.lowlevel.checkpoint()
        elif self._processes.frozen:
            # Not politely: nothing of a sandbox runs once more only to be told to end.
            await self._processes.abort()
        else:
            await self._processes.stop()

    async def sleep(self) -> None:
        if self._over.is_set():
            await trio.lowlevel.checkpoint()
            return
        self._finish("asleep")
        try:
            frozen = await self._processes.freeze()
        except BaseException:
            await self._processes.abort()
            raise
        if frozen:
            self._keep(self)
        else:
            log.warning("processes did not stand still and are stopped", run=self.run_id)
            await self._processes.stop()

    async def wait_stopped(self) -> str:
        await self._over.wait()
        return self._reason

    def hand_on(self) -> ProcessRun:
        """Return the processes, which are another run's from now on."""
        self._handed_on = True
        return self._processes

    def _ended(self, reason: str) -> None:
        self._finish(reason)
        self._lose()

    def _finish(self, reason: str) -> None:
        if not self._over.is_set():
            self._reason = reason
            self._over.set()
