"""The conformance check finds broken promises, and the fake keeps them all."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from actors.containers.base import ContainerContext, ProcessOptions, ProcessStatus, Run
from actors.errors import ContainerStartError, NotListeningError
from actors.sandbox.ids import SandboxId
from actors.testing.containers import (
    FakeContainer,
    FakeContainers,
    FakeProcess,
    FakeProgram,
    FakeRun,
    check_container,
    fake_containers,
)

PORT = 8080


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def on_port(_run: Run) -> int:
    return PORT


def place(factory: FakeContainers, folder: Path) -> FakeContainer:
    return factory(ContainerContext(SandboxId("my-app"), folder), {})


async def test_fake_keeps_every_promise(tmp_path: Path) -> None:
    factory = fake_containers({PORT: echo})
    await check_container(lambda context: factory(context, {}), tmp_path, serve=on_port)


class DialsAfterStop(FakeRun):
    async def dial(self, port: int) -> trio.abc.HalfCloseableStream:
        if self._tasks is None and self._container.run is not None:
            return await FakeRun.dial(self._container.run, port)
        return await super().dial(port)


class NeverSaysStopped(FakeRun):
    async def wait_stopped(self) -> str:
        await trio.sleep_forever()
        raise AssertionError("unreachable")


class ListsBackwards(FakeRun):
    def processes(self) -> tuple[FakeProcess, ...]:
        return tuple(reversed(self._processes))


class StopsOnce(FakeRun):
    async def stop(self) -> None:
        if self._tasks is None:
            raise RuntimeError("stopped already")
        await super().stop()


class ForgetsItsProcesses(FakeRun):
    def _close(self) -> None:
        self._tasks = None
        self._ended.set()


class WearsAnotherId(FakeRun):
    def __init__(self, run_id: str, container: FakeContainer) -> None:
        super().__init__(f"{run_id}-again", container)


class IsNeverBusy(FakeRun):
    @property
    def busy(self) -> bool:
        return False


class PretendsToBeDetachable(FakeRun):
    detachable = True


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (DialsAfterStop, "what was admitted for run A never reaches run B"),
        (NeverSaysStopped, "wait_stopped returns after stop"),
        (ListsBackwards, "processes lists them in order of start"),
        (StopsOnce, "stop may be called several times"),
        (ForgetsItsProcesses, "nothing is left after stop"),
        (WearsAnotherId, "a run has the id that it was started under"),
        (IsNeverBusy, "a running process is RUNNING"),
        (PretendsToBeDetachable, "reattach finds a detachable run"),
    ],
)
async def test_broken_run_fails_the_check_by_the_promise_it_breaks(
    kind: type[FakeRun], promise: str, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    class Broken(FakeContainer):
        async def start(self, run_id: str, nursery: trio.Nursery) -> FakeRun:
            self.run = kind(run_id, self)
            await nursery.start(self.run.serve)
            return self.run

    with pytest.raises(AssertionError, match=f"broken promise: {promise}"):
        await check_container(lambda _context: Broken({PORT: echo}), tmp_path, serve=on_port)


async def test_container_that_leaves_a_task_after_a_cancelled_start_fails_the_check(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    class Leaky(FakeContainer):
        async def start(self, run_id: str, nursery: trio.Nursery) -> FakeRun:
            run = FakeRun(run_id, self)
            nursery.start_soon(run.serve)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            return run

    with pytest.raises(AssertionError, match="broken promise: a cancelled start leaves nothing"):
        await check_container(lambda _context: Leaky({PORT: echo}), tmp_path, serve=on_port)


async def test_container_that_leaves_files_fails_the_check(tmp_path: Path) -> None:
    class Messy(FakeContainer):
        def __init__(self, folder: Path) -> None:
            super().__init__({PORT: echo})
            folder.mkdir()

    with pytest.raises(AssertionError, match="broken promise: remove may be called twice"):
        await check_container(lambda context: Messy(context.folder), tmp_path, serve=on_port)


async def test_fake_counts_starts_and_dials(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = place(fake_containers({PORT: echo}), tmp_path)
    run = await container.start("run-1", nursery)
    stream = await run.dial(PORT)
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    with pytest.raises(NotListeningError):
        await run.dial(PORT + 1)
    assert container.starts == ["run-1"]
    assert container.dials == {"run-1": 1}
    await run.stop()


async def test_fake_held_back_starts_when_it_is_released(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = place(fake_containers(), tmp_path)
    container.hold_starts()
    started = trio.Event()

    async def start() -> None:
        await container.start("run-1", nursery)
        started.set()

    nursery.start_soon(start)
    await trio.testing.wait_all_tasks_blocked()
    assert container.starts == ["run-1"]
    assert not started.is_set()
    container.release_starts()
    await started.wait()
    assert container.run is not None
    await container.run.stop()


async def test_fake_told_to_fail_fails_to_start(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = place(fake_containers(), tmp_path)
    container.start_error = "no room"
    with pytest.raises(ContainerStartError, match="no room"):
        await container.start("run-1", nursery)
    assert container.run is None


async def test_fake_that_dies_cuts_its_connections_and_says_why(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = place(fake_containers({PORT: echo}), tmp_path)
    run = await container.start("run-1", nursery)
    process = await run.start_process(ProcessOptions("serve"))
    stream = await run.dial(PORT)
    run.end("out of memory")
    assert await run.wait_stopped() == "out of memory"
    assert await stream.receive_some() == b""
    assert process.status is ProcessStatus.EXITED
    assert not run.busy


async def test_fake_program_prints_and_exits(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = place(fake_containers(), tmp_path)
    container.programs["make test"] = FakeProgram(2, b"out", b"err")
    run = await container.start("run-1", nursery)
    result = await run.exec(ProcessOptions(["make", "test"]))
    assert (result.exit_code, result.stdout, result.stderr) == (2, b"out", b"err")
    await run.stop()


def test_fake_refuses_options(tmp_path: Path) -> None:
    options: Mapping[str, object] = {"image": "x"}
    with pytest.raises(ValueError, match="'image'"):
        fake_containers()(ContainerContext(SandboxId("my-app"), tmp_path), options)
