"""`Process`: what owners hold of one service, in the run in which it was started."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

import trio

from actors.containers.base import ContainerProcess, LogTail, ProcessStatus, Run
from actors.errors import NotListeningError, PortTakenError
from actors.sandbox.ids import Port

LOG_POLL_S: Final = 0.2
"""How often `Process.follow_logs` looks for more: a person watches."""

PORT_POLL_FIRST_S: Final = 0.02
PORT_POLL_MAX_S: Final = 0.5
"""How often `Process.wait_for_port` knocks: soon at first, seldom later."""

TAKEN_S: Final = 2.0
"""How long it waits for another program to leave the port: one that is being replaced does so within moments."""


class Process:
    """One service of a sandbox, in the run in which it was started."""

    __slots__ = ("_process", "_run")

    def __init__(self, process: ContainerProcess, run: Run) -> None:
        self._process = process
        self._run = run

    @property
    def id(self) -> str:
        """Its name within the sandbox."""
        return self._process.id

    @property
    def command(self) -> str:
        """What was started, as text."""
        return self._process.command

    @property
    def pid(self) -> int:
        """The process id, as its container counts."""
        return self._process.pid

    @property
    def status(self) -> ProcessStatus:
        """Whether it runs."""
        return self._process.status

    @property
    def exit_code(self) -> int | None:
        """Of its last end; None while it runs. Minus the signal number if a signal ended it."""
        return self._process.exit_code

    @property
    def restarts(self) -> int:
        """How often it was started again after it had exited by itself."""
        return self._process.restarts

    async def wait(self) -> int:
        """Block until it has exited, and is not started again; return the exit code.

        Cancelling this leaves the process alone.
        """
        return await self._process.wait()

    async def kill(self, signal: int = 15) -> None:
        """Send a signal to it and its group; nothing happens if it has exited."""
        await self._process.kill(signal)

    async def logs(self) -> bytes:
        """Return what it has printed so far, stdout and stderr together, the newest bytes where it was too much."""
        return await self._process.logs()

    @asynccontextmanager
    async def follow_logs(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give what it has printed and goes on to print, piece by piece, until it has exited and all is told.

        What is printed faster than it is taken may miss a piece in the middle, where it is kept no more.
        """
        tail = self._process.tail()
        try:
            async with aclosing(_follow(self._process, tail)) as pieces:
                yield pieces
        finally:
            tail.close()

    async def wait_for_port(self, port: int, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - the published name
        """Block until something accepts connections on `port` and this process still runs; knocks now and then.

        Containers that share a network share its ports, so what answers may be another program's. Where that can be
        told (see `Run.is_anothers`) it does not count, and is waited for to go away for no longer than a moment.

        Raises:
            PortTakenError: What answers there is another program.
            NotListeningError: The process has exited; the text says with which code.
            trio.TooSlowError: Nothing did within `timeout` seconds.
        """
        port = Port(port)
        taken_since: float | None = None
        pause = PORT_POLL_FIRST_S
        with trio.move_on_after(timeout):
            while True:
                tried: Sequence[tuple[str, str]] = ()
                answered = taken = False
                try:
                    stream = await self._run.dial(port)
                except NotListeningError as error:
                    tried = error.tried
                else:
                    await stream.aclose()
                    taken = await self._run.is_anothers(port)
                    answered = not taken
                if self._process.status is ProcessStatus.EXITED:
                    outcome = f"process {self.id} exited with code {self._process.exit_code}"
                    if taken:
                        raise PortTakenError(port, outcome)
                    raise NotListeningError(port, [*tried, ("process", outcome)])
                if answered:
                    return
                if not taken:
                    taken_since = None
                elif taken_since is None:
                    taken_since = trio.current_time()
                if taken_since is not None and trio.current_time() - taken_since >= TAKEN_S:
                    raise PortTakenError(port)
                await trio.sleep(pause)
                pause = min(pause * 2, PORT_POLL_MAX_S)
        if taken_since is not None:
            raise PortTakenError(port)
        raise trio.TooSlowError


async def _follow(process: ContainerProcess, tail: LogTail) -> AsyncGenerator[bytes, None]:
    exited = False
    while True:
        data = await tail.read()
        if data:
            yield data
        elif exited:
            return
        else:
            # Once it has exited, what it has printed last is still read.
            with trio.move_on_after(LOG_POLL_S):
                await process.wait()
                exited = True
