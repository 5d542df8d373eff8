"""The conformance check finds broken promises, and the fake keeps them all."""

from pathlib import Path

import pytest
import trio

from actors.containers.base import ContainerContext, Run
from actors.sandbox.ids import SandboxId
from actors.testing.containers import (
    FakeContainer,
    FakeContainers,
    FakeProcess,
    FakeRun,
    fake_containers,
)
from actors.testing.promises import check_container

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


class DisownsItsPorts(FakeRun):
    async def is_anothers(self, port: int) -> bool:
        await trio.lowlevel.checkpoint()
        return True


class RunsOnAsleep(FakeRun):
    async def sleep(self) -> None:
        await super().sleep()
        for process in self._processes:
            process.exit_code = None


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (DisownsItsPorts, "a port of a run's own service"),
        (RunsOnAsleep, "no process of a sleeping place runs"),
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


async def test_container_that_keeps_what_is_retired_fails_the_check(tmp_path: Path) -> None:
    class Hoarding(FakeContainer):
        @property
        def asleep(self) -> FakeRun | None:  # type: ignore[override]  # a fake has none
            return self.run if self.slept else None

    with pytest.raises(AssertionError, match="broken promise: retire may be called twice"):
        await check_container(lambda _context: Hoarding({PORT: echo}), tmp_path, serve=on_port)


async def test_container_that_leaves_files_fails_the_check(tmp_path: Path) -> None:
    class Messy(FakeContainer):
        def __init__(self, folder: Path) -> None:
            super().__init__({PORT: echo})
            folder.mkdir()

    with pytest.raises(AssertionError, match="broken promise: remove may be called twice"):
        await check_container(lambda context: Messy(context.folder), tmp_path, serve=on_port)
