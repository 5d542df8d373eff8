"""Containers that are not real: `FakeContainers` keeps every promise of `actors.containers.base` without a process.

They can be told to be slow, to fail and to die; `check_container` is run on them like on any other kind.
"""

import itertools
import signal as signals
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import trio
import trio.testing

from actors.containers.base import (
    ContainerContext,
    ExecResult,
    ProcessOptions,
    ProcessStatus,
)
from actors.errors import ContainerError, ContainerStartError, NotListeningError
from actors.sandbox.ids import SandboxId

HELLO: Final = "printf hello; printf oops >&2; exit 3"
"""A command that prints to both streams and exits with 3."""

Handler = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]
"""A fake service: talks to one client, and returns when it is done. The stream is closed for it."""


@dataclass(frozen=True, slots=True)
class FakeProgram:
    """What a fake command does at once: print, and exit. A command without a program runs until it is killed."""

    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""


class FakeContainers:
    """A `ContainerFactory` of fakes; one object knows all that it has made."""

    def __init__(self, *, sockets: bool = False) -> None:
        """Begin with none made; see `fake_containers`."""
        self._sockets = sockets
        self.made: dict[SandboxId, FakeContainer] = {}
        """The newest container of each sandbox."""
        self.handlers: dict[int, Handler] = {}
        """{port: service}, in every container that has none of its own on that port."""

    def __call__(self, context: ContainerContext, options: Mapping[str, object]) -> "FakeContainer":
        if options:
            raise ValueError(f"a fake container has no option {next(iter(options))!r}")
        container = FakeContainer(self.handlers, sockets=self._sockets)
        self.made[context.sandbox] = container
        return container


def fake_containers(handlers: Mapping[int, Handler] | None = None, *, sockets: bool = False) -> FakeContainers:
    """Return a factory of fake containers.

    Args:
        handlers: What listens in each of them: {port: service}.
        sockets: Whether services are dialled over pairs of sockets of the kernel, and not over streams in memory.
    """
    made = FakeContainers(sockets=sockets)
    made.handlers.update(handlers or {})
    return made


def socket_stream_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two connected streams over sockets of the kernel: what one side has sent is there for the other at once.

    So `trio.testing.wait_all_tasks_blocked` and a clock that jumps work with them as with streams in memory.
    """
    one, other = trio.socket.socketpair()
    return trio.SocketStream(one), trio.SocketStream(other)


class FakeContainer:
    """A place in memory. What a test may set and read are its public attributes."""

    def __init__(self, shared_handlers: Mapping[int, Handler], *, sockets: bool = False) -> None:
        self.handlers: dict[int, Handler] = {}
        """{port: service} of this container."""
        self.programs: dict[str, FakeProgram] = {HELLO: FakeProgram(3, b"hello", b"oops")}
        """{command: what it does}."""
        self.start_error: str | None = None
        """While it is set, starts fail with it."""
        self.starts: list[str] = []
        """Run ids, in the order they were asked for."""
        self.dials: Counter[str] = Counter()
        """{run id: connections that were made}."""
        self.run: FakeRun | None = None
        """The newest run."""
        self.coming: dict[int, trio.Event] = {}
        """{port: set once a service that was brought back listens there, or never will}."""
        self.comes_back = False
        """Whether its runs are to be brought up again when they end by themselves."""
        self.anothers: set[int] = set()
        """Ports on which another program answers."""
        self.slept: list[str] = []
        """Ids of the runs that were put to sleep, in order."""
        self.sleep_error: str | None = None
        """While it is set, runs go to sleep but say that something went wrong."""
        self.retired = False
        self.removed = False
        self.pair: Callable[[], tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]
        """Makes the two ends of what is dialled."""
        self.pair = socket_stream_pair if sockets else trio.testing.memory_stream_pair
        self._shared_handlers = shared_handlers
        self._gate = trio.Event()
        self._gate.set()
        self.falling = trio.Event()
        """Unset, runs take their time to go to sleep."""
        self.falling.set()

    def hold_starts(self) -> None:
        """Let starts wait until `release_starts`."""
        self._gate = trio.Event()

    def release_starts(self) -> None:
        self._gate.set()

    def handler(self, port: int) -> Handler | None:
        return self.handlers.get(port) or self._shared_handlers.get(port)

    @property
    def asleep(self) -> None:
        """None: a fake ends what it runs when it sleeps."""

    async def start(self, run_id: str, nursery: trio.Nursery) -> "FakeRun":
        self.starts.append(run_id)
        await self._gate.wait()
        if self.start_error is not None:
            raise ContainerStartError(self.start_error)
        run = FakeRun(run_id, self)
        await nursery.start(run.serve)
        self.run = run
        return run

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> None:  # noqa: ARG002  # a fake dies with its tasks
        await trio.lowlevel.checkpoint()

    async def retire(self) -> None:
        await trio.lowlevel.checkpoint()
        self.retired = True

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()
        self.removed = True


class FakeRun:
    """A run in memory. `end` makes it die by itself."""

    detachable = False

    def __init__(self, run_id: str, container: FakeContainer) -> None:
        self.run_id = run_id
        self._container = container
        self._reason = "cancelled"
        self._processes: list[FakeProcess] = []
        self._numbers = itertools.count(1)
        self._ended = trio.Event()
        self._tasks: trio.Nursery | None = None

    def end(self, reason: str = "died by itself") -> None:
        """Let everything in the run be over, as if the container had failed."""
        if self._tasks is not None:
            self._reason = reason
            self._tasks.cancel_scope.cancel()
        self._close()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as self._tasks:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._close()

    async def dial(self, port: int) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        if self._tasks is None:
            raise NotListeningError(port, [("memory", "the run has stopped")])
        handler = self._container.handler(port)
        if handler is None:
            raise NotListeningError(port, [("memory", "connection refused")])
        ours, theirs = self._container.pair()
        self._tasks.start_soon(_handle, handler, theirs)
        self._container.dials[self.run_id] += 1
        return ours

    async def wait_listening(self, port: int) -> None:
        await trio.lowlevel.checkpoint()
        coming = self._container.coming.get(port)
        if coming is not None:
            await coming.wait()

    async def is_anothers(self, port: int) -> bool:
        await trio.lowlevel.checkpoint()
        return port in self._container.anothers

    async def start_process(self, options: ProcessOptions) -> "FakeProcess":
        await trio.lowlevel.checkpoint()
        process = self._launch(options)
        self._processes.append(process)
        return process

    async def exec(self, options: ProcessOptions) -> ExecResult:
        process = self._launch(replace(options, id=None))
        code = await process.wait()
        return ExecResult(code, process.stdout, process.stderr)

    def processes(self) -> Sequence["FakeProcess"]:
        return tuple(self._processes)

    @property
    def comes_back(self) -> bool:
        return self._container.comes_back

    @property
    def busy(self) -> bool:
        return any(process.status is ProcessStatus.RUNNING for process in self._processes)

    async def stop(self) -> None:
        self.end("stopped")
        await trio.lowlevel.checkpoint()

    async def sleep(self) -> None:
        await self._container.falling.wait()
        self.end("asleep")
        await trio.lowlevel.checkpoint()
        self._container.slept.append(self.run_id)
        if self._container.sleep_error is not None:
            raise ContainerError(self._container.sleep_error)

    async def wait_stopped(self) -> str:
        await self._ended.wait()
        return self._reason

    def _launch(self, options: ProcessOptions) -> "FakeProcess":
        if self._tasks is None:
            raise ContainerError("the run has stopped")
        number = next(self._numbers)
        process_id = options.id or f"proc-{number:08x}"
        if any(other.id == process_id and other.status is ProcessStatus.RUNNING for other in self._processes):
            raise ContainerError(f"process {process_id!r} is running already")
        command = options.command if isinstance(options.command, str) else " ".join(options.command)
        return FakeProcess(process_id, number, command, self._container.programs.get(command))

    def _close(self) -> None:
        self._tasks = None
        for process in self._processes:
            process.exit(-signals.SIGKILL)
        self._ended.set()


class FakeProcess:
    """A process in memory: it has exited at once if its command has a program, and runs until `exit` otherwise."""

    def __init__(self, process_id: str, pid: int, command: str, program: FakeProgram | None) -> None:
        self.id = process_id
        self.pid = pid
        self.command = command
        self.exit_code: int | None = None
        self.restarts = 0
        self.stdout = program.stdout if program is not None else b""
        self.stderr = program.stderr if program is not None else b""
        self._exited = trio.Event()
        if program is not None:
            self.exit(program.exit_code)

    @property
    def status(self) -> ProcessStatus:
        return ProcessStatus.RUNNING if self.exit_code is None else ProcessStatus.EXITED

    def exit(self, exit_code: int) -> None:
        """Let it have exited; the first code stays."""
        if self.exit_code is None:
            self.exit_code = exit_code
            self._exited.set()

    async def wait(self) -> int:
        await self._exited.wait()
        assert self.exit_code is not None
        return self.exit_code

    async def kill(self, signal: int = signals.SIGTERM) -> None:
        await trio.lowlevel.checkpoint()
        self.exit(-signal)

    async def logs(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.stdout + self.stderr

    def tail(self) -> "FakeTail":
        return FakeTail(self)


class FakeTail:
    """Reads what a fake process prints."""

    def __init__(self, process: FakeProcess) -> None:
        self._process = process
        self._read = 0

    async def read(self) -> bytes:
        """Return what is new."""
        data = (await self._process.logs())[self._read :]
        self._read += len(data)
        return data

    def close(self) -> None:
        """Nothing is held."""


async def _handle(handler: Handler, stream: trio.abc.HalfCloseableStream) -> None:
    try:
        # The client went away: how most conversations end.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await handler(stream)
    finally:
        await trio.aclose_forcefully(stream)
