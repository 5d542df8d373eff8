"""For those who write a kind of container, and for those who need one that is not real.

`check_container` tells whether a kind keeps the promises of `actors.containers.base`; it raises AssertionError with
the promise that was broken. `FakeContainers` is a kind that keeps them without a process or a socket, and that can
be told to be slow, to fail and to die; the check is run on it like on any other.
"""

import itertools
import signal as signals
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio
import trio.testing

from actors.containers.base import (
    Container,
    ContainerContext,
    ContainerProcess,
    ExecResult,
    ProcessOptions,
    ProcessStatus,
    Run,
)
from actors.errors import ContainerError, ContainerStartError, NotListeningError, UnsupportedError
from actors.sandbox.ids import SandboxId

FOREVER: Final = "exec sleep 1000000"
"""A command that runs until it is killed."""
HELLO: Final = "printf hello; printf oops >&2; exit 3"
"""A command that prints to both streams and exits with 3."""
SILENT_PORT: Final = 1
"""tcpmux; nobody has served it for decades."""
CHECK_S: Final = 120.0
"""For the whole check, on a slow machine; it takes about a second with real processes."""

Handler = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]
"""A fake service: talks to one client, and returns when it is done. The stream is closed for it."""
Serve = Callable[[Run], Awaitable[int]]
"""Makes something accept connections in that run, and returns its port once it does; the same port every time."""


# The fake.


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
        self.removed = False
        self.pair: Callable[[], tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]
        """Makes the two ends of what is dialled."""
        self.pair = socket_stream_pair if sockets else trio.testing.memory_stream_pair
        self._shared_handlers = shared_handlers
        self._gate = trio.Event()
        self._gate.set()

    def hold_starts(self) -> None:
        """Let starts wait until `release_starts`."""
        self._gate = trio.Event()

    def release_starts(self) -> None:
        self._gate.set()

    def handler(self, port: int) -> Handler | None:
        return self.handlers.get(port) or self._shared_handlers.get(port)

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
    def busy(self) -> bool:
        return any(process.status is ProcessStatus.RUNNING for process in self._processes)

    async def stop(self) -> None:
        self.end("stopped")
        await trio.lowlevel.checkpoint()

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


async def _handle(handler: Handler, stream: trio.abc.HalfCloseableStream) -> None:
    try:
        # The client went away: how most conversations end.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await handler(stream)
    finally:
        await trio.aclose_forcefully(stream)


# The check.


async def check_container(
    make: Callable[[ContainerContext], Container],
    folder: Path,
    *,
    serve: Serve | None = None,
    forever: str = FOREVER,
    hello: str = HELLO,
    silent_port: int = SILENT_PORT,
) -> None:
    """Hold one kind of container to every promise of `actors.containers.base` that can be seen from outside.

    Args:
        make: Makes a container; called once per promise, each time for another sandbox.
        folder: An empty one, below which every container gets its own.
        serve: Makes something answer in a run. Without it, only refused connections are checked.
        forever: A command that runs until it is killed.
        hello: A command that prints ``hello`` to stdout, ``oops`` to stderr, and exits with 3.
        silent_port: Where nothing ever listens.

    Raises:
        AssertionError: A promise is broken; the text begins with it.
    """
    check = _Check(make, folder, serve, forever, hello, silent_port)
    with _promise(f"every call returns (within {CHECK_S:g} s for all of them)"), trio.fail_after(CHECK_S):
        await check.dialling()
        await check.stopping()
        await check.runs_apart()
        await check.processes()
        await check.commands()
        await check.cancelled_start()
        await check.cancelled_nursery()
        await check.reattaching()
        await check.removing()


@contextmanager
def _promise(text: str) -> Iterator[None]:
    """Let whatever goes wrong inside be told as this promise being broken."""
    try:
        yield
    except Exception as error:
        cause = error
        # Nurseries wrap what comes out of them.
        while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if isinstance(cause, AssertionError) and str(cause).startswith("broken promise"):
            raise cause from None
        what = str(cause) if isinstance(cause, AssertionError) else f"It raised {cause!r}"
        raise AssertionError(f"broken promise: {text}. {what}".rstrip()) from error


class _Check:
    def __init__(
        self,
        make: Callable[[ContainerContext], Container],
        folder: Path,
        serve: Serve | None,
        forever: str,
        hello: str,
        silent_port: int,
    ) -> None:
        self._make = make
        self._folder = folder
        self._serve = serve
        self._forever = forever
        self._hello = hello
        self._silent_port = silent_port
        self._numbers = itertools.count(1)

    def _new(self) -> tuple[Container, Path]:
        sandbox = SandboxId(f"check-{next(self._numbers)}")
        folder = self._folder / sandbox
        return self._make(ContainerContext(sandbox, folder)), folder

    @asynccontextmanager
    async def _up(self) -> AsyncIterator[tuple[Container, Run, trio.Nursery]]:
        container, _ = self._new()
        async with trio.open_nursery() as nursery:
            with _promise("start brings the place up"):
                run = await container.start("run-1", nursery)
            try:
                yield container, run, nursery
            except BaseException:
                # Not by `stop`, which may be what is broken.
                nursery.cancel_scope.cancel()
                raise
            with _promise("stop ends a run, and may be called again"):
                await run.stop()
        with suppress(OSError):
            await container.remove()

    async def dialling(self) -> None:
        async with self._up() as (_, run, _):
            with _promise("a run has the id that it was started under"):
                assert run.run_id == "run-1", f"It is {run.run_id!r}"
            await self._assert_refused(run, self._silent_port, "dial refuses a port where nothing listens")
            if self._serve is not None:
                port = await self._serve(run)
                with _promise("dial connects to a service"):
                    stream = await run.dial(port)
                    assert isinstance(stream, trio.abc.HalfCloseableStream), f"It returned {stream!r}"
                    await trio.aclose_forcefully(stream)

    async def stopping(self) -> None:
        async with self._up() as (_, run, _):
            reasons: list[str] = []
            all_told = trio.Event()

            async def note_reason() -> None:
                reasons.append(await run.wait_stopped())
                if len(reasons) == 2:
                    all_told.set()

            async with trio.open_nursery() as waiters:
                waiters.start_soon(note_reason)
                waiters.start_soon(note_reason)
                await trio.testing.wait_all_tasks_blocked()
                with _promise("wait_stopped waits while the run is up"):
                    assert not reasons
                with _promise("stop may be called several times, at the same time too"):
                    async with trio.open_nursery() as stoppers:
                        stoppers.start_soon(run.stop)
                        stoppers.start_soon(run.stop)
                    await run.stop()
                with _promise("wait_stopped returns after stop, to everybody, with a reason"), trio.fail_after(30):
                    await all_told.wait()
                assert all(reasons), "broken promise: wait_stopped returns a reason"
            await self._assert_refused(run, self._silent_port, "dial refuses after stop")
            with _promise("a stopped run is not busy"):
                assert not run.busy
            with _promise("a stopped run starts no process"):
                try:
                    await run.start_process(ProcessOptions(self._forever))
                except ContainerError:
                    pass
                else:
                    raise AssertionError("It started one")

    async def runs_apart(self) -> None:
        if self._serve is None:
            return
        async with self._up() as (container, first, nursery):
            port = await self._serve(first)
            await first.stop()
            second = await container.start("run-2", nursery)
            try:
                with _promise("a run has the id that it was started under"):
                    assert second.run_id == "run-2", f"It is {second.run_id!r}"
                again = await self._serve(second)
                assert again == port, "serve was to use the same port every time"
                await self._assert_refused(first, port, "what was admitted for run A never reaches run B")
                with _promise("a new run can be dialled where an old one was"):
                    await trio.aclose_forcefully(await second.dial(port))
            finally:
                await second.stop()

    async def processes(self) -> None:
        async with self._up() as (_, run, _):
            if not await self._runs_processes(run):
                return
            with _promise("start_process takes the id that it is given"):
                first = await run.start_process(ProcessOptions(self._forever, id="z-first"))
                assert first.id == "z-first", f"It has {first.id!r}"
            second = await run.start_process(ProcessOptions(self._forever))
            third = await run.start_process(ProcessOptions(self._hello, id="a-third"))
            with _promise("processes lists them in order of start"):
                listed = [process.id for process in run.processes()]
                assert listed == [first.id, second.id, third.id], f"It lists {listed}"
            with _promise("a running process is RUNNING, without exit code, and makes its run busy"):
                assert first.status is ProcessStatus.RUNNING
                assert first.exit_code is None
                assert run.busy
            with _promise("the id of a running process is refused"):
                try:
                    await run.start_process(ProcessOptions(self._forever, id="z-first"))
                except ContainerError:
                    pass
                else:
                    raise AssertionError("It started another")
            with _promise("an exited process has its exit code and its output"):
                assert await third.wait() == 3, f"It exited with {third.exit_code}"
                assert third.status is ProcessStatus.EXITED
                logs = await third.logs()
                assert b"hello" in logs, f"Its logs are {logs!r}"
                assert b"oops" in logs, f"Its logs are {logs!r}"
            with _promise("a killed process has minus the signal as its exit code"):
                await first.kill(signals.SIGKILL)
                assert await first.wait() == -signals.SIGKILL, f"It is {first.exit_code}"
            with _promise("kill leaves an exited process in peace"):
                await first.kill()
            await run.stop()
            with _promise("nothing is left after stop, and the processes know it"):
                assert second.status is ProcessStatus.EXITED
                assert await second.wait() == second.exit_code

    async def commands(self) -> None:
        async with self._up() as (_, run, _):
            if not await self._runs_processes(run):
                return
            with _promise("exec returns exit code, stdout and stderr"):
                result = await run.exec(ProcessOptions(self._hello))
                assert result == ExecResult(3, b"hello", b"oops"), f"It returned {result}"
            with _promise("a cancelled exec is killed, and is no process of the run"):
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(run.exec, ProcessOptions(self._forever))
                        await trio.testing.wait_all_tasks_blocked()
                        scope.cancel()
                assert not run.processes(), f"It lists {run.processes()}"

    async def cancelled_start(self) -> None:
        for turns in (0, 1, 2, 5, 20):
            container, _ = self._new()
            with _promise("a cancelled start leaves nothing"):
                async with trio.open_nursery() as nursery:
                    run = await _start_cancelled_after(turns, container, nursery)
                    if run is None:
                        assert not nursery.child_tasks, "A task is left in the nursery"
                    else:
                        await run.stop()
                await container.remove()

    async def cancelled_nursery(self) -> None:
        container, _ = self._new()
        left: list[ContainerProcess] = []
        with _promise("tasks of a run end by cancellation, and leave nothing running"):
            async with trio.open_nursery() as nursery:
                run = await container.start("run-1", nursery)
                with suppress(UnsupportedError):
                    left.append(await run.start_process(ProcessOptions(self._forever)))
                nursery.cancel_scope.cancel()
            for process in left:
                await process.wait()
        await container.remove()

    async def reattaching(self) -> None:
        container, _ = self._new()
        async with trio.open_nursery() as nursery:
            run = await container.start("run-1", nursery)
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            found = await container.reattach("run-1", nursery)
            with _promise("reattach finds a detachable run under its id, and no other"):
                assert (found is not None) is run.detachable, f"It returned {found!r}"
                if found is not None:
                    assert found.run_id == "run-1", f"It has the id {found.run_id!r}"
                    await found.stop()
        await container.remove()

    async def removing(self) -> None:
        container, folder = self._new()
        async with trio.open_nursery() as nursery:
            run = await container.start("run-1", nursery)
            await run.stop()
        with _promise("remove may be called twice, and its files are gone"):
            await container.remove()
            await container.remove()
            assert not await trio.Path(folder).exists()

    async def _runs_processes(self, run: Run) -> bool:
        """Return False for a kind without processes, after having checked that it is one in everything."""
        with suppress(UnsupportedError):
            await run.exec(ProcessOptions(self._hello))
            return True
        with _promise("a kind without exec starts no processes either, lists none and is never busy"):
            assert not run.processes()
            assert not run.busy
            with suppress(UnsupportedError):
                await run.start_process(ProcessOptions(self._hello))
                raise AssertionError("It started one")
        return False

    async def _assert_refused(self, run: Run, port: int, promise: str) -> None:
        with _promise(f"{promise}, with NotListeningError"):
            refusal: NotListeningError | None = None
            try:
                await trio.aclose_forcefully(await run.dial(port))
            except NotListeningError as error:
                refusal = error
            assert refusal is not None, "It connected"
            assert refusal.port == port, f"The error names port {refusal.port}"
            assert refusal.tried, "The error names no address"


async def _start_cancelled_after(turns: int, container: Container, nursery: trio.Nursery) -> Run | None:
    """Start a run and cancel that after some turns of the event loop. Return the run if it was quicker."""
    run: Run | None = None

    async def cancel() -> None:
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        canceller.cancel_scope.cancel()

    async with trio.open_nursery() as canceller:
        canceller.start_soon(cancel)
        run = await container.start("run-1", nursery)
        canceller.cancel_scope.cancel()
    return run
