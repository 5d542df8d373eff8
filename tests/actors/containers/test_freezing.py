"""Sleep by standing still, with real processes: what they had in memory is there after the wake."""

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from actors.containers import keeper, leftovers, process
from actors.containers.base import (
    ContainerContext,
    ContainerProcess,
    ProcessExit,
    ProcessOptions,
    ProcessStatus,
    RestartPolicy,
    Run,
)
from actors.containers.freezing import FreezingRun
from actors.containers.keeper import descendants, read_stat
from actors.containers.process import ProcessContainer, process_containers
from actors.containers.process_run import ProcessRun
from actors.containers.service import Service
from actors.errors import ContainerError, NotListeningError
from actors.sandbox.ids import SandboxId
from actors.testing.promises import check_container

from .conftest import Lifeline

FOREVER = "exec sleep 1000000"
# Answers each connection with how many there have been, and says its port into a FIFO once it listens.
COUNTER = """
import os, socket
sock = socket.create_server(("127.0.0.1", int(os.environ["AT"])))
with open(os.environ["SAY"], "w") as fifo:
    print(sock.getsockname()[1], file=fifo)
count = 0
while True:
    count += 1
    connection, _ = sock.accept()
    connection.sendall(b"%d" % count)
    connection.close()
"""
# Each process forks and exits, without end, and notes that it has lived: there is always one more, just born. They live
# for so many turns of a loop.
FORKING = """
import os, signal
life = range(int(os.environ["LIFE"]))
fd = os.open(os.environ["SAY"], os.O_WRONLY)
os.write(fd, b"up\\n")
note = os.open("lives", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            for _ in life: pass
            os.write(note, b".")
            if os.fork():
                os._exit(0)
signal.pause()
"""
# Has the kernel continue it whenever somebody writes into a FIFO (fcntl(2), F_SETSIG).
CONTINUED = """
import fcntl, os, signal
fifo = os.open("fifo", os.O_RDWR | os.O_NONBLOCK)
fcntl.fcntl(fifo, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(fifo, fcntl.F_SETSIG, signal.SIGCONT)
fcntl.fcntl(fifo, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
with open(os.environ["SAY"], "w") as say:
    print("up", file=say)
while True:
    signal.pause()
"""


class Place:
    """A freezing container whose runs are begun one after the other."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.told: list[ProcessExit] = []
        self._factory = process_containers(stop_grace=1.0)
        self._nursery = nursery
        self._runs = 0

    def container(self) -> ProcessContainer:
        """What an activation would be given."""
        context = ContainerContext(SandboxId("my-app"), self.folder, self.told.append)
        container = self._factory(context, {"sleep": "freeze"})
        assert isinstance(container, ProcessContainer)
        return container

    async def wake(self) -> Run:
        self._runs += 1
        return await self.container().start(f"run-{self._runs}", self._nursery)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with nursery_of(tmp_path) as made:
        yield made


@asynccontextmanager
async def nursery_of(tmp_path: Path) -> AsyncIterator[Place]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            yield Place(tmp_path / "my-app", nursery)
            nursery.cancel_scope.cancel()


async def count(run: Run, port: int) -> int:
    stream = await run.dial(port)
    async with stream:
        return int(await stream.receive_some(100))


async def serve(run: Run, lifeline: Lifeline, at: int = 0, *, id: str = "web") -> int:  # noqa: A002  # as the API has it
    env = {"AT": str(at), "SAY": str(lifeline.path)}
    await run.start_process(ProcessOptions([sys.executable, "-c", COUNTER], env=env, id=id))
    [port] = await lifeline.wait_held()
    return int(port)


def behind(run: Run) -> ProcessRun:
    """The processes that last over many runs."""
    assert isinstance(run, FreezingRun)
    return run._processes


async def test_what_is_just_being_started_as_it_falls_asleep_has_been_started(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = trio.Event()
    found: list[ProcessStatus] = []

    class Noted(dict[int, Service]):
        def __setitem__(self, serial: int, service: Service) -> None:
            super().__setitem__(serial, service)
            asked.set()

    async def start() -> None:
        found.append((await run.start_process(ProcessOptions(FOREVER, id="web"))).status)

    run = await place.wake()
    monkeypatch.setattr(behind(run), "_alive", Noted())
    with trio.fail_after(20):
        async with trio.open_nursery() as starting:
            starting.start_soon(start)
            await asked.wait()
            # The keeper reads both in one go: between the fork and the program, the child is told to stand still.
            await run.sleep()
    assert len(found) == 1
    [process] = (await place.wake()).processes()
    assert process.status is ProcessStatus.RUNNING


def keeper_pid(run: Run) -> int:
    return behind(run)._keeper.pid


def states(root: int) -> set[str]:
    """How the descendants of a process are: T is stopped, S and R are not."""
    return {stat[0].decode() for pid in descendants(root) if (stat := read_stat(pid)) is not None}


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # of another process there is no event
        await trio.sleep(0.01)


async def test_freezing_container_keeps_every_promise(tmp_path: Path, lifeline: Lifeline) -> None:
    factory = process_containers(stop_grace=1.0)
    ports: list[int] = []

    async def same_port(run: Run) -> int:
        ports.append(await serve(run, lifeline, ports[-1] if ports else 0))
        return ports[-1]

    await check_container(lambda context: factory(context, {"sleep": "freeze"}), tmp_path, serve=same_port)


async def test_what_a_service_had_in_memory_survives_and_the_run_is_another(place: Place, lifeline: Lifeline) -> None:
    first = await place.wake()
    port = await serve(first, lifeline)
    [service] = first.processes()
    pid = service.pid
    assert [await count(first, port) for _ in range(2)] == [1, 2]
    await first.sleep()
    assert await first.wait_stopped() == "asleep"
    assert service.status is ProcessStatus.FROZEN
    with pytest.raises(NotListeningError, match="the run has stopped"):
        await first.dial(port)
    second = await place.wake()
    assert second.run_id == "run-2"
    assert await count(second, port) == 3
    assert [(one.pid, one.status, one.restarts) for one in second.processes()] == [(pid, ProcessStatus.RUNNING, 0)]
    with pytest.raises(NotListeningError, match="the run has stopped"):
        await first.dial(port)
    with pytest.raises(ContainerError, match="the run has stopped"):
        await first.start_process(ProcessOptions(FOREVER))
    await first.stop()
    assert await count(second, port) == 4, "the old run's end is not the new one's"
    # What is asked for again is what was brought back, as after any wake.
    assert isinstance(service, Service)
    assert await second.start_process(service.launch.options) is service


async def test_connection_that_is_made_as_the_run_ends_is_not_given_out(
    place: Place, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.wake()
    port = await serve(run, lifeline)
    streams: list[trio.SocketStream] = []
    dial = ProcessRun.dial

    async def dial_late(self: ProcessRun, port: int) -> trio.SocketStream:
        streams.append(await dial(self, port))
        await run.sleep()
        return streams[0]

    monkeypatch.setattr(ProcessRun, "dial", dial_late)
    with pytest.raises(NotListeningError, match="the run has stopped"):
        await run.dial(port)
    assert streams[0].socket.fileno() == -1


async def test_whole_tree_stands_still_and_its_keeper_does_not(place: Place, lifeline: Lifeline) -> None:
    run = await place.wake()
    script = 'exec 9>"$SAY"; setsid sh -c "echo 1 >&9; while :; do :; done" & '
    script += '(setsid sh -c "echo 2 >&9; exec sleep 9999" &) ; wait'
    await run.start_process(ProcessOptions(script, env={"SAY": str(lifeline.path)}, id="web"))
    await lifeline.wait_held(2)
    root = keeper_pid(run)
    await run.sleep()
    assert states(root) == {"T"}
    assert len(descendants(root)) == 3
    stat = read_stat(root)
    assert stat is not None
    assert stat[0] != b"T"
    await (await place.wake()).wait_listening(1)
    await until(lambda: "T" not in states(root))


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepers look after those that they have made stand still without a pause worth waiting for."""
    quick = "import keeper; keeper.LOOK_SECONDS_FIRST = keeper.LOOK_SECONDS_MAX = 0.01;"
    monkeypatch.setattr(process, "_KEEPER_PROGRAM", process._KEEPER_PROGRAM.replace("import keeper;", quick))


@pytest.mark.usefixtures("quick_looks")
async def test_one_that_is_continued_while_frozen_is_stopped_again(place: Place, lifeline: Lifeline) -> None:
    run = await place.wake()
    port = await serve(run, lifeline)
    [service] = run.processes()
    await run.sleep()
    os.kill(service.pid, signal.SIGCONT)
    await until(lambda: states(keeper_pid(run)) == {"T"})
    assert await count(await place.wake(), port) == 1


@pytest.mark.usefixtures("quick_looks")
async def test_one_that_has_itself_continued_again_and_again_is_ended(place: Place, lifeline: Lifeline) -> None:
    run = await place.wake()
    fifo = place.folder / "workspace" / "fifo"
    os.mkfifo(fifo)
    env = {"SAY": str(lifeline.path)}
    await run.start_process(ProcessOptions([sys.executable, "-c", CONTINUED], env=env, id="web"))
    await lifeline.wait_held()
    [service] = run.processes()
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)

    def continue_unless_ended() -> bool:
        with suppress(BrokenPipeError):
            os.write(writer, b"x")
        return place.container().asleep is None

    try:
        with capture_logs() as logged:
            await run.sleep()
            assert service.status is ProcessStatus.FROZEN
            await until(continue_unless_ended)
    finally:
        os.close(writer)
    [told] = logged
    assert (told["log_level"], told["run"]) == ("warning", "run-1")
    assert behind(run)._reason == "its processes did not stay frozen"
    assert not [*place.folder.rglob(keeper.FROZEN_FILE)], "there is nothing to be swept"
    woken = await place.wake()
    await lifeline.wait_held()
    assert [(one.id, one.status) for one in woken.processes()] == [("web", ProcessStatus.RUNNING)]


async def test_one_that_its_service_had_stopped_is_not_let_go_by_the_wake(place: Place, lifeline: Lifeline) -> None:
    run = await place.wake()
    script = "sleep 9999 & kill -STOP $!; echo $! > $SAY; wait"
    await run.start_process(ProcessOptions(script, env={"SAY": str(lifeline.path)}, id="web"))
    [stopped] = await lifeline.wait_held()
    await until(lambda: (read_stat(int(stopped)) or (b"",))[0] == b"T")
    await run.sleep()
    await place.wake()
    stat = read_stat(int(stopped))
    assert stat is not None
    assert stat[0] == b"T"


@pytest.mark.parametrize("life", [1, 300_000])
async def test_of_those_that_fork_while_they_are_stopped_nobody_runs_on(
    place: Place, lifeline: Lifeline, life: int
) -> None:
    """They stand still, or, where they are born and gone too fast to be seen, are stopped for good."""
    run = await place.wake()
    lives = place.folder / "workspace" / "lives"
    env = {"SAY": str(lifeline.path), "LIFE": str(life)}
    await run.start_process(ProcessOptions([sys.executable, "-c", FORKING], env=env, id="web"))
    await lifeline.wait_held()
    await until(lambda: lives.exists() and lives.stat().st_size > 100)
    root = keeper_pid(run)
    await run.sleep()
    then = lives.stat().st_size
    for _ in range(20):
        assert states(root) <= {"T"}
    assert lives.stat().st_size == then
    await place.container().retire()
    await lifeline.wait_released()


async def test_what_does_not_stand_still_is_stopped_and_started_anew(
    place: Place, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.containers.standstill.ANSWER_S", 0.0)
    run = await place.wake()
    await serve(run, lifeline)
    [service] = run.processes()
    await run.sleep()
    assert service.status is ProcessStatus.EXITED
    monkeypatch.undo()
    woken = await place.wake()
    [port] = await lifeline.wait_held()
    assert await count(woken, int(port)) == 1


@pytest.mark.parametrize("ending", ["stop", "retire", "remove"])
async def test_end_while_frozen_leaves_nothing(place: Place, lifeline: Lifeline, ending: str) -> None:
    run = await place.wake()
    script = 'trap "echo no > heard" TERM; exec 9>"$SAY"; echo up >&9; (setsid sleep 9999 &); while :; do sleep 1; done'
    service = await run.start_process(ProcessOptions(script, env={"SAY": str(lifeline.path)}, id="web"))
    await lifeline.wait_held()
    await run.sleep()
    container = place.container()
    await (run.stop() if ending == "stop" else getattr(container, ending)())
    await lifeline.wait_released()
    assert service.status is ProcessStatus.EXITED
    assert container.asleep is None
    assert not [*place.folder.rglob(keeper.FROZEN_FILE)], "there is nothing to be swept"
    assert not (place.folder / "workspace" / "heard").exists(), "nothing of it ran once more"


async def test_end_of_the_runtime_while_frozen_leaves_nothing(tmp_path: Path, lifeline: Lifeline) -> None:
    async with nursery_of(tmp_path) as place:
        run = await place.wake()
        await serve(run, lifeline)
        await run.sleep()
    await lifeline.wait_released()


async def test_keeper_that_dies_while_frozen_takes_all_along_and_the_wake_starts_them(
    place: Place, lifeline: Lifeline
) -> None:
    run = await place.wake()
    await serve(run, lifeline)
    [service] = run.processes()
    await run.sleep()
    os.kill(keeper_pid(run), signal.SIGKILL)
    assert await service.wait() == -signal.SIGKILL
    assert place.container().asleep is None
    woken = await place.wake()
    [port] = await lifeline.wait_held()
    assert await count(woken, int(port)) == 1


async def test_keeper_that_dies_while_services_are_brought_back_ends_the_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def revive(processes: ProcessRun) -> None:
        processes._keeper.kill()
        await processes.wait_stopped()

    monkeypatch.setattr(ProcessRun, "revive", revive)
    run = await place.wake()
    with trio.fail_after(5):
        assert "keeper ended unexpectedly" in await run.wait_stopped()


async def test_wake_that_fails_half_way_leaves_nothing_awake(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revive(_: ProcessRun) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError

    run = await place.wake()
    service = await run.start_process(ProcessOptions(FOREVER, id="web"))
    await run.sleep()
    monkeypatch.setattr(ProcessRun, "revive", revive)
    with pytest.raises(KeyError):
        await place.wake()
    assert service.status is ProcessStatus.EXITED
    assert place.container().asleep is None


async def test_run_whose_folder_cannot_be_moved_is_started_anew(place: Place, lifeline: Lifeline) -> None:
    run = await place.wake()
    await serve(run, lifeline)
    [service] = run.processes()
    await run.sleep()
    in_the_way = place.folder / "runs" / "run-2"
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    woken = await place.wake()
    assert service.status is ProcessStatus.EXITED
    [port] = await lifeline.wait_held()
    assert await count(woken, int(port)) == 1


async def test_command_that_is_done_once_is_not_taken_for_a_service_after_the_wake(place: Place) -> None:
    run = await place.wake()
    job = await run.start_process(ProcessOptions(FOREVER, id="job", once=True))
    await run.sleep()
    woken = await place.wake()
    with pytest.raises(ContainerError, match="running already"):
        await woken.start_process(ProcessOptions(FOREVER, id="job"))
    assert job.status is ProcessStatus.RUNNING


async def test_one_that_is_being_started_gets_there_before_the_sleep(place: Place) -> None:
    """The keeper is held up, so that it reads of both at once; and it is a long way to the program."""
    run = await place.wake()
    started: list[ContainerProcess] = []
    env = {"PATH": "/x:" * 20_000 + os.environ["PATH"]}

    async def start(number: int) -> None:
        started.append(await run.start_process(ProcessOptions(["sleep", "1000000"], env=env, id=f"web-{number}")))

    os.kill(keeper_pid(run), signal.SIGSTOP)
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(start, number)
        await until(lambda: len(behind(run)._alive) == 4)
        nursery.start_soon(run.sleep)
        await trio.testing.wait_all_tasks_blocked()
        assert behind(run).frozen
        os.kill(keeper_pid(run), signal.SIGCONT)
        with trio.fail_after(5):
            await until(lambda: len(started) == 4)
    assert {service.status for service in started} == {ProcessStatus.FROZEN}
    await place.wake()
    assert {service.status for service in started} == {ProcessStatus.RUNNING}


async def test_one_that_is_killed_while_frozen_is_started_by_the_wake(place: Place, lifeline: Lifeline) -> None:
    run = await place.wake()
    await serve(run, lifeline)
    other = await run.start_process(ProcessOptions(FOREVER, id="other"))
    [service, _] = run.processes()
    await run.sleep()
    os.kill(service.pid, signal.SIGKILL)
    await service.wait()
    woken = await place.wake()
    await lifeline.wait_held()
    assert {one.id for one in woken.processes() if one.status is ProcessStatus.RUNNING} == {"web", "other"}
    assert other.status is ProcessStatus.RUNNING
    assert place.told == []


async def test_one_that_its_owner_ends_while_frozen_does_not_come_back(place: Place) -> None:
    run = await place.wake()
    killed = await run.start_process(ProcessOptions(FOREVER, id="killed"))
    asked = await run.start_process(ProcessOptions(FOREVER, id="asked"))
    await run.sleep()
    await asked.kill(signal.SIGCONT)
    await asked.kill(signal.SIGTERM)
    await killed.kill(signal.SIGKILL)
    await killed.wait()
    assert (read_stat(asked.pid) or (b"",))[0] == b"T"
    assert asked.status is ProcessStatus.FROZEN, "it hears of it when it goes on"
    await place.wake()
    assert await asked.wait() == -signal.SIGTERM


async def test_one_that_waits_to_be_started_again_waits_for_the_wake(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await place.wake()
    script = "test -e again && exec sleep 9999; touch again; exit 7"
    monkeypatch.setattr("actors.containers.restarting.FIRST_PAUSE_S", 0.2)
    service = await run.start_process(ProcessOptions(script, id="web", restart=RestartPolicy.ON_FAILURE))
    await until(lambda: service.status is ProcessStatus.RESTARTING)
    await run.sleep()
    await until(lambda: behind(run)._standstill._going.statistics().tasks_waiting == 1)
    assert service.restarts == 0
    woken = await place.wake()
    await until(lambda: service.status is ProcessStatus.RUNNING)
    assert [one.id for one in woken.processes()] == ["web"]


async def test_command_that_is_waited_for_is_ended_by_the_sleep(place: Place) -> None:
    run = await place.wake()
    await run.start_process(ProcessOptions(FOREVER, id="web"))
    results: list[int] = []

    async def command() -> None:
        results.append((await run.exec(ProcessOptions(FOREVER))).exit_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(command)
        root = keeper_pid(run)
        await until(lambda: len(descendants(root)) == 2)
        await run.sleep()
    assert results == [-signal.SIGKILL]


async def test_frozen_run_of_a_killed_server_is_ended_before_the_next(
    place: Place, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper is held up, so that the next server finds it still at work."""
    run = await place.wake()
    await serve(run, lifeline)
    await run.sleep()
    assert (place.folder / "runs" / "run-1" / keeper.FROZEN_FILE).exists()
    # Another server knows nothing of what this one has in memory.
    root = keeper_pid(run)
    os.kill(root, signal.SIGSTOP)
    behind(run)._stream.socket.shutdown(socket.SHUT_RDWR)
    looking, started = trio.Event(), trio.Event()

    async def end_leftovers(folder: Path) -> None:
        assert folder.name == "run-1"
        looking.set()
        await leftovers.end_leftovers(folder)

    monkeypatch.setattr("actors.containers.process.end_leftovers", end_leftovers)
    async with trio.open_nursery() as nursery:
        context = ContainerContext(SandboxId("my-app"), place.folder)
        later = process_containers(stop_grace=1.0)(context, {"sleep": "freeze"})

        async def start() -> None:
            await later.start("run-2", nursery)
            started.set()

        nursery.start_soon(start)
        await looking.wait()
        assert not started.is_set()
        os.kill(root, signal.SIGCONT)
        await started.wait()
        assert read_stat(root) is None or not descendants(root)
        assert not (place.folder / "runs" / "run-1" / keeper.FROZEN_FILE).exists()
        nursery.cancel_scope.cancel()


async def test_log_is_followed_over_a_sleep(place: Place) -> None:
    run = await place.wake()
    script = "while :; do test -e go && { echo two; exit; }; echo one; while [ ! -e go ]; do sleep 0.02; done; done"
    service = await run.start_process(ProcessOptions(script, id="web"))
    tail = service.tail()
    log = place.folder / "runs" / "run-1" / "web.log"
    await until(lambda: log.read_bytes() == b"one\n")
    assert await tail.read() == b"one\n"
    await run.sleep()
    woken = await place.wake()
    await woken.exec(ProcessOptions("touch go"))
    await service.wait()
    assert await tail.read() == b"two\n"
    assert await service.logs() == b"one\ntwo\n"
    assert (place.folder / "runs" / "run-2" / "keeper").exists(), "where the next server looks for this run"
    assert not (place.folder / "runs" / "run-2" / keeper.FROZEN_FILE).exists()
    tail.close()


@pytest.mark.parametrize("call", ["retire", "remove"])
async def test_frozen_run_of_a_killed_keeper_is_swept_also_if_it_never_wakes(
    place: Place, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash of the server and of the keeper: what it had is found by its mark alone."""
    ended: list[str] = []

    async def end_leftovers(folder: Path) -> None:
        await trio.lowlevel.checkpoint()
        ended.append(folder.name)

    monkeypatch.setattr("actors.containers.process.end_leftovers", end_leftovers)
    for name in ("run-8", "run-9"):
        (place.folder / "runs" / name).mkdir(parents=True)
    (place.folder / "runs" / "run-8" / keeper.FROZEN_FILE).touch()
    await getattr(place.container(), call)()
    assert ended == ["run-8"]


@pytest.mark.parametrize("options", [{"sleep": "pause"}, {"sleep": True}, {"image": "x"}])
def test_option_that_is_not_understood_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="option"):
        process_containers()(ContainerContext(SandboxId("my-app"), tmp_path), options)
