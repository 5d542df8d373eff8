"""The fake does what tests tell it to."""

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
    FakeProgram,
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
