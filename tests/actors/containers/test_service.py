"""A service over the runs of its container: brought back by a wake, started again by its policy, or left alone."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from actors.containers.base import ContainerContext, ProcessExit, ProcessOptions, ProcessStatus, RestartPolicy
from actors.containers.process import ProcessContainer
from actors.containers.process_run import ProcessRun
from actors.errors import ContainerError
from actors.sandbox.ids import SandboxId

from .conftest import Lifeline, Up

FOREVER = "exec sleep 1000000"


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what another task or process does, looking now and then."""
    with trio.fail_after(20):
        while not holds():  # noqa: ASYNC110  # of another process there is no event
            await trio.sleep(0.01)


def ids(run: ProcessRun) -> list[str]:
    return [process.id for process in run.processes() if process.status is ProcessStatus.RUNNING]


async def test_a_wake_brings_back_what_ran(up: Up, lifeline: Lifeline) -> None:
    env = {"LIFELINE": str(lifeline.path), "SECRET": "hunter2"}
    script = 'exec 9>"$LIFELINE"; echo "$SECRET $PWD" >&9; exec sleep 1000000'
    async with up() as run:
        await run.start_process(ProcessOptions(script, "/tmp", env, "web"))
        await run.start_process(ProcessOptions(FOREVER, id="worker"))
        assert await lifeline.wait_held() == ["hunter2 /tmp"]
        await run.sleep()
    async with up("run-2") as woken:
        assert await lifeline.wait_held() == ["hunter2 /tmp"]
        assert {process.id for process in woken.processes()} == {"web", "worker"}


async def test_what_has_exited_by_itself_and_what_its_owner_ended_is_not_brought_back(up: Up) -> None:
    async with up() as run:
        for code, restart in ((0, RestartPolicy.ON_FAILURE), (3, RestartPolicy.NEVER), (0, RestartPolicy.NEVER)):
            done = await run.start_process(ProcessOptions(f"exit {code}", id=f"done-{code}-{restart}", restart=restart))
            assert await done.wait() == code
        for number in (signal.SIGTERM, signal.SIGKILL):
            ended = await run.start_process(ProcessOptions(FOREVER, id=f"ended-{number}"))
            await ended.kill(number)
            await ended.wait()
        kept = await run.start_process(ProcessOptions("trap : HUP; while :; do sleep 0.1; done", id="kept"))
        await kept.kill(signal.SIGHUP)
        await until(lambda: [options.id for options in run._book.services] == ["kept"])
    async with up("run-2") as woken:
        assert ids(woken) == ["kept"]


async def test_what_cannot_be_brought_back_does_not_keep_the_others_down(up: Up, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 1000000\n")
    program.chmod(0o700)
    async with up() as run:
        await run.start_process(ProcessOptions([str(program)], id="gone"))
        await run.start_process(ProcessOptions(FOREVER, id="web"))
    program.unlink()
    async with up("run-2") as woken:
        assert ids(woken) == ["web"]


async def test_a_start_that_is_refused_is_not_remembered(up: Up) -> None:
    async with up() as run:
        with pytest.raises(ContainerError, match="cannot run"):
            await run.start_process(ProcessOptions(["/nonexistent"], id="web"))
        assert run._book.services == []


async def test_asked_for_again_what_was_brought_back_is_given_once_each(up: Up) -> None:
    options = ProcessOptions(FOREVER)
    async with up() as run:
        first, second = [(await run.start_process(options)).id for _ in range(2)]
    async with up("run-2") as woken:
        given = [(await woken.start_process(options)).id for _ in range(3)]
        assert {*given[:2]} == {first, second}
        assert given[2] not in (first, second)
        assert len(ids(woken)) == 3


async def test_asked_for_otherwise_under_its_id_the_new_takes_the_place(up: Up) -> None:
    async with up() as run:
        await run.start_process(ProcessOptions(FOREVER, id="web"))
    async with up("run-2") as woken:
        newer = await woken.start_process(ProcessOptions("exec sleep 2000000", id="web"))
        assert newer.command == "exec sleep 2000000"
        assert ids(woken) == ["web"]
        with pytest.raises(ContainerError, match="running already"):
            await woken.start_process(ProcessOptions(FOREVER, id="web"))


async def test_a_stopped_sandbox_forgets_the_secrets_of_its_services(up: Up, container: ProcessContainer) -> None:
    async with up() as run:
        await run.start_process(ProcessOptions(FOREVER, env={"KEY": "hunter2"}, id="web"))
    await container.retire()
    assert not any(b"hunter2" in path.read_bytes() for path in container._folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("restart", RestartPolicy)
async def test_what_was_killed_with_its_keeper_is_brought_back(up: Up, restart: RestartPolicy) -> None:
    async with up() as run:
        await run.start_process(ProcessOptions(FOREVER, id="web", restart=restart))
        ended = await run.start_process(ProcessOptions(FOREVER, id="ended", restart=RestartPolicy.ALWAYS))
        await ended.kill(signal.SIGKILL)
        os.kill(run._keeper.pid, signal.SIGKILL)
        await run.wait_stopped()
        assert run.comes_back is (restart is not RestartPolicy.NEVER)
    async with up("run-2") as woken:
        assert ids(woken) == ["web"]


# Policies.


async def test_one_that_crashes_is_started_again_with_its_log_and_each_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ProcessExit] = []
    context = ContainerContext(SandboxId("my-app"), tmp_path / "my-app", told.append)
    container = ProcessContainer(context, stop_grace=1.0, python=sys.executable, freezes=False, asleep={})
    async with trio.open_nursery() as nursery:
        run = await container.start("run-1", nursery)
        script = "echo once; test -e again && exec sleep 1000000; touch again; exit 7"
        service = await run.start_process(ProcessOptions(script, id="web", restart=RestartPolicy.ON_FAILURE))
        await until(lambda: service.restarts == 1 and service.status is ProcessStatus.RUNNING)
        assert told == [ProcessExit("run-1", "web", 7)]
        assert service.exit_code is None
        assert run.processes() == [service]
        await until(lambda: (tmp_path / "my-app" / "runs" / "run-1" / "web.log").read_bytes() == b"once\nonce\n")
        await service.kill(signal.SIGKILL)
        assert await service.wait() == -signal.SIGKILL
        assert told == [ProcessExit("run-1", "web", 7)], "an end that was asked for is no news"
        await run.stop()


async def test_one_that_waits_to_be_started_again_is_ended_by_its_owner(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.containers.restarting.FIRST_PAUSE_S", 1000.0)
    async with up() as run:
        service = await run.start_process(ProcessOptions("exit 7", id="web", restart=RestartPolicy.ALWAYS))
        await until(lambda: service.status is ProcessStatus.RESTARTING)
        assert service.exit_code == 7
        with pytest.raises(ContainerError, match="running already"):
            await run.start_process(ProcessOptions(FOREVER, id="web"))
        await service.kill()
        assert await service.wait() == 7
        assert service.status is ProcessStatus.EXITED
        assert run._book.services == []


async def test_a_run_that_stops_ends_what_waits_to_be_started_again(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.containers.restarting.FIRST_PAUSE_S", 1000.0)
    async with up() as run:
        service = await run.start_process(ProcessOptions("exit 7", id="web", restart=RestartPolicy.ALWAYS))
        await until(lambda: service.status is ProcessStatus.RESTARTING)
    with trio.fail_after(5):
        await service.wait()
    assert service.status is ProcessStatus.EXITED
    assert [options.id for options in run._book.services] == ["web"], "the next wake brings it back"
