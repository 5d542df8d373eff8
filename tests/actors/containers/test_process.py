"""Process containers with real processes: the promises of every kind, and those of this one."""

import os
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from actors.containers.base import ContainerContext, ProcessOptions, Run
from actors.containers.process import RUNS_KEPT, ProcessContainer, process_containers, remove_tree
from actors.errors import ContainerStartError, InvalidNameError, NotListeningError
from actors.sandbox.ids import SandboxId
from actors.testing.promises import check_container

from .conftest import Lifeline

# Listens on the port it is given, or on one of its own choice for 0, and says which into a FIFO once it does.
LISTENER = """
import os, socket
sock = socket.create_server(("127.0.0.1", int(os.environ["AT"])))
with open(os.environ["SAY"], "w") as fifo:
    print(sock.getsockname()[1], file=fifo)
while True:
    sock.accept()[0].close()
"""


async def serve(run: Run, lifeline: Lifeline, at: int = 0) -> int:
    """Start a listener in the run and return its port once it listens."""
    env = {"AT": str(at), "SAY": str(lifeline.path)}
    await run.start_process(ProcessOptions([sys.executable, "-c", LISTENER], env=env))
    [port] = await lifeline.wait_held()
    return int(port)


def make(folder: Path, **options: object) -> ProcessContainer:
    container = process_containers()(ContainerContext(SandboxId("my-app"), folder), options)
    assert isinstance(container, ProcessContainer)
    return container


async def test_process_container_keeps_every_promise(tmp_path: Path, lifeline: Lifeline) -> None:
    factory = process_containers(stop_grace=1.0)
    ports: list[int] = []

    async def same_port(run: Run) -> int:
        ports.append(await serve(run, lifeline, ports[-1] if ports else 0))
        return ports[-1]

    await check_container(lambda context: factory(context, {}), tmp_path, serve=same_port)


def test_unknown_option_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'image'"):
        make(tmp_path, image="python")


@pytest.mark.parametrize("grace", [-1.0, float("nan"), float("inf")])
def test_grace_that_is_no_time_is_refused(grace: float) -> None:
    with pytest.raises(ValueError, match="stop_grace"):
        process_containers(stop_grace=grace)


@pytest.mark.parametrize("run_id", ["", "..", ".hidden", "a/b", "a\0", "x" * 65])
async def test_run_id_that_is_no_folder_name_is_refused(
    run_id: str, container: ProcessContainer, nursery: trio.Nursery
) -> None:
    with pytest.raises(InvalidNameError, match="run id"):
        await container.start(run_id, nursery)


async def test_folders_are_for_their_owner_alone(container: ProcessContainer, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        run = await container.start("run-1", nursery)
        await run.stop()
    for name in ("", "workspace", "runs", "runs/run-1"):
        assert stat.S_IMODE((tmp_path / "my-app" / name).stat().st_mode) == 0o700


async def test_folders_of_old_runs_are_dropped(container: ProcessContainer, tmp_path: Path) -> None:
    runs = tmp_path / "my-app" / "runs"
    async with trio.open_nursery() as nursery:
        for number in range(RUNS_KEPT + 2):
            run = await container.start(f"run-{number}", nursery)
            await run.stop()
            os.utime(runs / f"run-{number}", (number, number))
    assert sorted(path.name for path in runs.iterdir()) == ["run-2", "run-3", "run-4"]


async def test_interpreter_that_is_not_there_fails_the_start(tmp_path: Path, nursery: trio.Nursery) -> None:
    context = ContainerContext(SandboxId("my-app"), tmp_path)
    container = process_containers(python="/nonexistent/python")(context, {})
    with pytest.raises(ContainerStartError, match="No such file"):
        await container.start("run-1", nursery)


async def test_keeper_that_dies_at_once_fails_the_start_with_its_last_words(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no such interpreter' >&2\nexit 7\n")
    python.chmod(0o755)
    container = process_containers(python=str(python))(ContainerContext(SandboxId("my-app"), tmp_path), {})
    with pytest.raises(ContainerStartError, match=r"ended unexpectedly.*no such interpreter"):
        await container.start("run-1", nursery)
    assert not nursery.child_tasks


async def test_folder_that_cannot_be_made_fails_the_start(tmp_path: Path, nursery: trio.Nursery) -> None:
    (tmp_path / "file").write_text("in the way")
    container = make(tmp_path / "file")
    with pytest.raises(ContainerStartError, match="cannot make the folder"):
        await container.start("run-1", nursery)


async def test_keeper_that_is_killed_ends_the_run_and_every_process(
    container: ProcessContainer, tmp_path: Path
) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            run = await container.start("run-1", nursery)
            # Without the mark, so it is the kernel that ends it; the daemon is found by its mark.
            service = await run.start_process(ProcessOptions("exec env -i sleep 1000000"))
            daemon = await run.exec(ProcessOptions("setsid sleep 1000000 > /dev/null 2>&1 & echo $!"))
            pidfds = [os.pidfd_open(service.pid), os.pidfd_open(int(daemon.stdout))]
            keeper = int((tmp_path / "my-app/runs/run-1/keeper").read_text().split()[0])
            os.kill(keeper, signal.SIGKILL)
            assert "keeper ended unexpectedly (exit code -9)" in await run.wait_stopped()
            assert service.exit_code == -9
            assert not run.busy
            for pidfd in pidfds:
                await trio.lowlevel.wait_readable(pidfd)
                os.close(pidfd)
            with pytest.raises(NotListeningError, match="the run has stopped"):
                await run.dial(8080)


async def test_reattach_finds_nothing_and_leaves_nothing(container: ProcessContainer, nursery: trio.Nursery) -> None:
    assert await container.reattach("never-started", nursery) is None  # type: ignore[func-returns-value]  # None is the point
    run = await container.start("run-1", nursery)
    await run.stop()
    assert await container.reattach("run-1", nursery) is None  # type: ignore[func-returns-value]  # as above


@contextmanager
def as_ordinary_user(*folders: Path) -> Iterator[None]:
    """Give root's own powers up for a while, and the folders with them: root passes every lock."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for folder in folders:
        os.chown(folder, nobody, -1)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


def test_removal_does_not_follow_links_and_opens_locked_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    folder = tmp_path / "my-app"
    (folder / "locked" / "inner").mkdir(parents=True)
    (folder / "link").symlink_to(precious)
    (folder / "locked" / "inner" / "file").write_text("x")
    (folder / "locked" / "inner").chmod(0)
    (folder / "locked").chmod(0)
    monkeypatch.chdir(tmp_path)
    with as_ordinary_user(tmp_path, folder, folder / "locked", folder / "locked" / "inner"):
        remove_tree(Path("my-app"))
        remove_tree(Path("my-app"))
    assert not folder.exists()
    assert (precious / "file").read_text() == "kept"


def test_removal_of_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    link = tmp_path / "my-app"
    link.symlink_to(precious)
    remove_tree(link)
    assert not link.is_symlink()
    assert precious.is_dir()
