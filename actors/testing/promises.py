"""For those who write a kind of container: a check that it keeps the promises of `actors.containers.base`.

`check_container` raises AssertionError with the promise that was broken.
"""

import itertools
import signal as signals
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
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
from actors.errors import ContainerError, NotListeningError, UnsupportedError
from actors.sandbox.ids import SandboxId
from actors.testing.containers import HELLO

FOREVER: Final = "exec sleep 1000000"
"""A command that runs until it is killed."""
SILENT_PORT: Final = 1
"""tcpmux; nobody has served it for decades."""
CHECK_S: Final = 120.0
"""For the whole check, on a slow machine; it takes about a second with real processes."""

Serve = Callable[[Run], Awaitable[int]]
"""Makes something accept connections in that run, and returns its port once it does; the same port every time."""


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
        await check.sleeping()
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
                with _promise("a port of a run's own service is not said to be another's"):
                    assert not await run.is_anothers(port)
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

    async def sleeping(self) -> None:
        container, _ = self._new()
        async with trio.open_nursery() as nursery:
            run = await container.start("run-1", nursery)
            with _promise("sleep ends a run, may be called again, and a stop may follow"):
                await run.sleep()
                await run.sleep()
                await run.stop()
            with _promise("wait_stopped returns after sleep"), trio.fail_after(30):
                await run.wait_stopped()
            await self._assert_refused(run, self._silent_port, "dial refuses after sleep")
            with _promise("what has slept comes up again, as another run"):
                woken = await container.start("run-2", nursery)
                assert woken.run_id == "run-2", f"Its id is {woken.run_id!r}"
            await self._assert_refused(run, self._silent_port, "dial of a run that slept refuses after the wake")
            with suppress(UnsupportedError):
                await woken.start_process(ProcessOptions(self._forever))
            await woken.sleep()
            with _promise("no process of a sleeping place runs, and asleep shows those that are frozen"):
                shown = container.asleep.processes() if container.asleep is not None else ()
                states = {process.status for process in (*woken.processes(), *shown)}
                assert not states & {ProcessStatus.RUNNING, ProcessStatus.RESTARTING}, f"They are {states}"
                assert shown or ProcessStatus.FROZEN not in states, "It shows none"
            with _promise("retire may be called twice, after a sleep too, and nothing is asleep afterwards"):
                await container.retire()
                await container.retire()
                assert container.asleep is None, f"It is {container.asleep!r}"
                left = {process.status for process in woken.processes()}
                assert left <= {ProcessStatus.EXITED}, f"Processes are {left}"
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
