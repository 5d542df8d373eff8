"""The runtime: which actors live, what costs none, and how all of them end."""

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.actor import Actor
from actors.containers.base import ContainerContext, ProcessStatus
from actors.containers.keeper import read_stat
from actors.errors import (
    InvalidNameError,
    PorticoError,
    SandboxMismatchError,
    SandboxNotFoundError,
    ShuttingDownError,
    StoreError,
    StoreLockedError,
)
from actors.filestore import FileStore
from actors.handle import Sandbox
from actors.memorystore import MemoryStore
from actors.messages import ActorGoneError, Done
from actors.processes import Process
from actors.runtime import Runtime, RuntimeStatistics, open_runtime
from actors.sandbox.admission import CutBecause, RefusedBecause, VisitRequest
from actors.sandbox.decide import Command, UnexposePort
from actors.sandbox.events import ContainerSpec, RunEnd, RunEnded, RunStarted, ServiceExited, decode
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId
from actors.store import Store, Tenure
from actors.surroundings import Limits
from actors.testing.containers import FakeContainer, FakeContainers, fake_containers
from actors.testing.storage import FaultyStore
from actors.visits import Visit

NAME = SandboxId("my-app")
KNOCK = VisitRequest(Port(8080), PortToken("secret"))


@asynccontextmanager
async def running(
    store: Store | None = None, containers: FakeContainers | None = None, limits: Limits | None = None
) -> AsyncIterator[Runtime]:
    async with open_runtime(
        store or MemoryStore(), containers={"process": containers or fake_containers()}, limits=limits or Limits()
    ) as runtime:
        yield runtime


async def exposed(runtime: Runtime, name: str = NAME) -> None:
    await (await runtime.get_sandbox(name)).expose_port(8080, token="secret")


async def enter(runtime: Runtime, name: SandboxId = NAME, *, stubborn: bool = False) -> Visit:
    """Be admitted, and end when cut, unless `stubborn`."""
    visit = await runtime.admit(name, KNOCK)
    assert isinstance(visit, Visit)
    if not stubborn:
        visit.on_cut(lambda _: visit.end())
    return visit


# Finding and making.


async def test_a_name_is_folded_checked_or_made_up() -> None:
    async with running() as runtime:
        assert (await runtime.get_sandbox("My-App")).id == "my-app"
        assert (await runtime.find_sandbox("MY-APP")).id == "my-app"
        assert (await runtime.get_sandbox()).id.startswith("sb-")
        with pytest.raises(InvalidNameError):
            await runtime.get_sandbox("not a name")
        assert len(await runtime.list_sandboxes()) == 2


async def test_asking_again_agrees_or_says_in_what_it_differs() -> None:
    async with running() as runtime:
        await runtime.get_sandbox(NAME, open_ports=True)
        await runtime.get_sandbox(NAME)
        await runtime.get_sandbox(NAME, open_ports=True, container="process", when_asleep="wake")
        with pytest.raises(SandboxMismatchError, match="open_ports"):
            await runtime.get_sandbox(NAME, open_ports=False)


async def test_a_sandbox_made_private_is_private_from_its_first_moment() -> None:
    secret = PreviewToken("0123456789abcdef")
    async with running() as runtime:
        sandbox = await runtime.get_sandbox(NAME, preview_auth=secret)
        await sandbox.expose_port(8080, token="secret")
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.AUTH_REQUIRED


async def test_what_does_not_exist_costs_no_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    claims: list[SandboxId] = []

    async def claim(sandbox: SandboxId) -> Tenure:
        claims.append(sandbox)
        raise StoreError("not now")

    store = MemoryStore()
    monkeypatch.setattr(store, "claim", claim)
    async with running(store) as runtime:
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.INVALID_TOKEN
        assert await runtime.admit(NAME, VisitRequest(Port(8080))) is RefusedBecause.SANDBOX_NOT_FOUND
        assert runtime.admit_nowait(NAME, KNOCK) is None
        with pytest.raises(SandboxNotFoundError):
            await runtime.find_sandbox(NAME)
        with pytest.raises(SandboxNotFoundError):
            await runtime.call(NAME, UnexposePort(8080))
        assert not runtime.exists(NAME)
        assert runtime.live_run(NAME) is None
        assert claims == []
        assert runtime.statistics() == RuntimeStatistics(actors=0, visits=0, runs=0)


async def test_a_wrong_credential_loads_the_actor_and_nothing_more(autojump_clock: MockClock) -> None:
    store, containers = MemoryStore(), fake_containers()
    async with running(store) as runtime:
        await exposed(runtime)
    async with running(store, containers) as runtime:
        wrong = VisitRequest(Port(8080), PortToken("wrong"))
        assert await runtime.admit(NAME, wrong) is RefusedBecause.INVALID_TOKEN
        assert runtime.statistics() == RuntimeStatistics(actors=1, visits=0, runs=0)
        assert containers.made[NAME].starts == []


async def test_listing_loads_nothing() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        for name in ("b", "a", "c"):
            await runtime.get_sandbox(name)
    async with running(store) as runtime:
        assert await runtime.list_sandboxes() == ["a", "b", "c"]
        assert runtime.statistics().actors == 0


async def test_a_call_that_finds_its_actor_gone_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Actor.call
    tries: list[Command] = []

    async def gone_at_first(actor: Actor, command: Command, *, drain: float = 0.0) -> Done:
        tries.append(command)
        if len(tries) == 1:
            raise ActorGoneError
        return await real(actor, command, drain=drain)

    async with running() as runtime:
        await exposed(runtime)
        monkeypatch.setattr(Actor, "call", gone_at_first)
        done = await runtime.call(NAME, UnexposePort(8080))
        assert done.state is not None
        assert done.state.ports == {}
        assert len(tries) == 2


# Many.


async def test_of_many_sandboxes_only_the_active_ones_are_in_memory(tmp_path: Path) -> None:
    many = 2000
    store = FileStore(tmp_path / "data")
    async with running(store, limits=Limits(rest_after_s=0.001)) as runtime:
        async with trio.open_nursery() as nursery:
            for number in range(many):
                nursery.start_soon(runtime.get_sandbox, f"sandbox-{number}")
        with trio.fail_after(30):
            while runtime.statistics().actors:
                await trio.testing.wait_all_tasks_blocked(0.002)
    async with running(store) as runtime:
        assert len(await runtime.list_sandboxes()) == many
        assert runtime.statistics().actors == 0
        for number in range(5):
            await runtime.find_sandbox(f"sandbox-{number * 300}")
        assert runtime.statistics().actors == 5


# Closing.


async def test_closing_ends_visits_and_runs_on_the_record() -> None:
    store, containers = MemoryStore(), fake_containers()
    async with running(store, containers) as runtime:
        await exposed(runtime)
        visit = await enter(runtime)
        assert runtime.statistics() == RuntimeStatistics(actors=1, visits=1, runs=1)
    run = containers.made[NAME].run
    assert run is not None
    assert run._ended.is_set()
    assert visit.cut_because is CutBecause.RUN_ENDED
    last = (await store.read(NAME)).records[-1]
    assert decode(last.name, last.version, last.fields) == RunEnded(run.run_id, RunEnd.STOPPED)
    assert runtime.statistics() == RuntimeStatistics(actors=0, visits=0, runs=0)


async def test_after_closing_every_call_is_refused() -> None:
    async with running() as runtime:
        await exposed(runtime)
        sandbox = await runtime.find_sandbox(NAME)
        await runtime.aclose()
        await runtime.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: runtime.get_sandbox(NAME),
            lambda: runtime.find_sandbox(NAME),
            lambda: runtime.admit(NAME, KNOCK),
            lambda: sandbox.expose_port(9090),
            lambda: sandbox.unexpose_port(8080),
            lambda: sandbox.exec("true"),
            sandbox.destroy,
            sandbox.state,
        ]
        for call in calls:
            with pytest.raises(ShuttingDownError):
                await call()
        assert runtime.admit_nowait(NAME, KNOCK) is None


async def test_whoever_waits_for_anything_when_the_runtime_closes_gets_an_answer(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    got: dict[str, object] = {}

    async def note(name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            got[name] = await call()
        except PorticoError as error:
            got[name] = type(error)

    async def begin(name: str, call: Callable[[], Awaitable[object]]) -> None:
        nursery.start_soon(note, name, call)
        await wait_all_tasks_blocked()

    async with running(store, containers) as runtime:
        for name in ("held", "drains", "dies", "writes"):
            await exposed(runtime, name)
        held, drains, dies, writes = [await runtime.find_sandbox(name) for name in ("held", "drains", "dies", "writes")]
        visit = await enter(runtime, drains.id)
        stuck = await enter(runtime, dies.id, stubborn=True)
        containers.made[held.id].hold_starts()
        await begin("held visit", lambda: runtime.admit(held.id, KNOCK))
        await begin("held exec", lambda: held.exec("true"))
        await begin("drain", lambda: drains.unexpose_port(8080, drain=3600))
        await begin("destroy", dies.destroy)
        await begin("create", lambda: runtime.get_sandbox(dies.id))
        assert got == {}
        with store.hold_appends():
            await begin("append", lambda: writes.expose_port(2000))
            await begin("behind it", writes.get_exposed_ports)
            nursery.start_soon(runtime.aclose)
            await wait_all_tasks_blocked()
        began = trio.current_time()
    assert trio.current_time() - began == Limits().cut_timeout_s, "a stuck visit is waited for, but not longer"
    await wait_all_tasks_blocked()
    assert visit.cut_because is CutBecause.RUN_ENDED
    assert got.pop("drain") == 1
    assert got.pop("held visit") is got.pop("held exec") is got.pop("create") is ShuttingDownError
    assert {*got} == {"destroy", "append", "behind it"}
    assert not any(answer is ShuttingDownError for answer in got.values()), "what had begun is finished"
    stuck.end()


async def test_whoever_waits_outside_when_the_runtime_is_cancelled_gets_an_answer(nursery: trio.Nursery) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    got: dict[str, object] = {}

    async def begin(name: str, call: Callable[[], Awaitable[object]]) -> None:
        async def note() -> None:
            try:
                got[name] = await call()
            except PorticoError as error:
                got[name] = type(error)

        nursery.start_soon(note)
        await wait_all_tasks_blocked()

    with trio.CancelScope() as scope:
        async with running(store, containers) as runtime:
            for name in ("drains", "held", "dies"):
                await exposed(runtime, name)
            drains, held, dies = [await runtime.find_sandbox(name) for name in ("drains", "held", "dies")]
            visit = await enter(runtime, drains.id)
            stuck = await enter(runtime, dies.id, stubborn=True)
            containers.made[held.id].hold_starts()
            await begin("drain", lambda: drains.unexpose_port(8080, drain=3600))
            await begin("visit", lambda: runtime.admit(held.id, KNOCK))
            await begin("destroy", dies.destroy)
            await begin("create", lambda: runtime.get_sandbox(dies.id))
            assert got == {}
            scope.cancel()
            await trio.lowlevel.checkpoint()
    await wait_all_tasks_blocked()
    assert got == dict.fromkeys(["drain", "visit", "destroy", "create"], ShuttingDownError)
    assert [visit.cut_because, stuck.cut_because] == [CutBecause.RUN_ENDED, CutBecause.DESTROYED]
    stuck.end()


async def test_a_start_that_comes_up_while_the_runtime_closes_is_ended_on_the_record(nursery: trio.Nursery) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    async with running(store, containers) as runtime:
        await exposed(runtime)
        containers.made[NAME].hold_starts()
        nursery.start_soon(_try_to_enter, runtime)
        await wait_all_tasks_blocked()
        containers.made[NAME].release_starts()
    records = (await store.read(NAME)).records
    assert isinstance(decode(records[-1].name, records[-1].version, records[-1].fields), RunEnded)
    run = containers.made[NAME].run
    assert run is None or run._ended.is_set()


async def _try_to_enter(runtime: Runtime) -> None:
    try:
        (await enter(runtime)).end()
    except ShuttingDownError:
        return


async def test_a_failed_append_at_the_end_does_not_keep_the_runtime_from_closing(autojump_clock: MockClock) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    async with running(store, containers) as runtime:
        await exposed(runtime)
        (await enter(runtime)).end()
        store.fail_next_append()
    run = containers.made[NAME].run
    assert run is not None
    assert run._ended.is_set()


async def test_an_error_in_the_block_closes_the_runtime_in_order() -> None:
    store, containers = MemoryStore(), fake_containers()

    async def fail() -> None:
        async with running(store, containers) as runtime:
            await exposed(runtime)
            (await enter(runtime)).end()
            raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        await fail()
    last = (await store.read(NAME)).records[-1]
    assert last.name == "run_ended"


# Where things are.


class Places:
    """A factory of fakes that notes the folders it was given."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def __call__(self, context: ContainerContext, options: Mapping[str, object]) -> FakeContainer:
        self.folders.append(context.folder)
        return fake_containers()(context, options)


async def test_containers_have_their_places_beside_the_logs(tmp_path: Path) -> None:
    places = Places()
    async with open_runtime(FileStore(tmp_path / "data"), containers={"process": places}) as runtime:
        await runtime.get_sandbox(NAME)
    assert places.folders == [tmp_path / "data" / "containers" / NAME]


async def test_without_a_folder_of_the_store_containers_have_one_for_the_time_of_the_runtime() -> None:
    places = Places()
    async with open_runtime(MemoryStore(), containers={"process": places}) as runtime:
        await runtime.get_sandbox(NAME)
        (folder,) = places.folders
        assert folder.parent.is_dir()
    assert not (await trio.Path(folder.parent).exists())


async def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    async with running(FileStore(tmp_path / "data")):
        with pytest.raises(StoreLockedError):
            async with running(FileStore(tmp_path / "data")):
                raise AssertionError("both own it")


async def test_history_is_what_has_been_acknowledged() -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="process")
        await sandbox.expose_port(8080)
        moments = await runtime.history("MY-APP")
        assert [type(moment.event).__name__ for moment in moments] == ["SandboxCreated", "PortExposed"]
        with pytest.raises(SandboxNotFoundError):
            await runtime.history("another")


@pytest.mark.parametrize("sleep", ["stop", "freeze"])
async def test_a_keeper_that_is_killed_does_not_take_services_down_that_are_to_be_restarted(sleep: str) -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container=ContainerSpec("process", {"sleep": sleep}))
        process = await sandbox.start_process("exec sleep 1000000", id="web", restart="on-failure")
        stat = read_stat(process.pid)
        assert stat is not None
        os.kill(stat[1], signal.SIGKILL)
        with trio.fail_after(20):
            assert await process.wait() == -signal.SIGKILL
            found: list[tuple[str, ProcessStatus]] = []
            while found != [("web", ProcessStatus.RUNNING)]:
                await trio.lowlevel.checkpoint()
                found = [(one.id, one.status) for one in await sandbox.list_processes()]


FROZEN = ContainerSpec("process", {"sleep": "freeze"})


async def frozen(runtime: Runtime) -> tuple[Sandbox, Process]:
    """Return a sandbox that sleeps, and its service, which stands still."""
    sandbox = await runtime.get_sandbox("my-app", container=FROZEN)
    process = await sandbox.start_process("exec sleep 1000000", id="web")
    await sandbox.hibernate()
    return sandbox, process


async def test_what_is_frozen_is_listed_and_goes_on_after_its_actor_has_left_memory() -> None:
    async with open_runtime(MemoryStore(), limits=Limits(rest_after_s=0.01)) as runtime:
        sandbox, process = await frozen(runtime)
        with trio.fail_after(20):
            while runtime.statistics().actors:
                await runtime._all_gone.park()
            [found] = await sandbox.list_processes()
            assert (found.id, found.pid, found.status) == ("web", process.pid, ProcessStatus.FROZEN)
            assert (await sandbox.state()).slept
            await sandbox.wake()
            [found] = await sandbox.list_processes()
            assert (found.pid, found.status) == (process.pid, ProcessStatus.RUNNING)
            started = [moment.event for moment in await runtime.history("my-app")]
            runs = [event.run_id for event in started if isinstance(event, RunStarted)]
            assert len({*runs}) == 2, "it is another run"
            os.kill(process.pid, signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
            # The activation of now is told, not the one that began it.
            while not any(  # it is told by a message
                isinstance(moment.event, ServiceExited) for moment in await runtime.history("my-app")
            ):
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("ending", ["stop", "destroy"])
async def test_what_is_frozen_ends_with_its_sandbox(ending: str) -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox, process = await frozen(runtime)
        with trio.fail_after(20):
            await getattr(sandbox, ending)()
        assert process.status is ProcessStatus.EXITED
        assert read_stat(process.pid) is None


async def test_what_is_frozen_ends_with_the_runtime_and_is_started_by_the_next(tmp_path: Path) -> None:
    async with open_runtime(FileStore(tmp_path / "data")) as runtime:
        _, process = await frozen(runtime)
    assert read_stat(process.pid) is None
    async with open_runtime(FileStore(tmp_path / "data")) as runtime:
        sandbox = await runtime.get_sandbox("my-app")
        assert await sandbox.list_processes() == []
        await sandbox.wake()
        [found] = await sandbox.list_processes()
        assert (found.id, found.status) == ("web", ProcessStatus.RUNNING)
        assert found.pid != process.pid


async def test_many_wakes_of_what_is_frozen_are_one(tmp_path: Path) -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox, process = await frozen(runtime)
        await sandbox.expose_port(8080, token="secret")
        runs: set[str] = set()

        async def use() -> None:
            async with sandbox.running() as run:
                runs.add(run.run_id)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(use)
        assert len(runs) == 1
        assert process.status is ProcessStatus.RUNNING
