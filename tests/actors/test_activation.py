"""One activation: recovery, the container coming up and going down, revocations, the end of the sandbox."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.containers.base import ContainerContext
from actors.containers.restarting import FIRST_PAUSE_S
from actors.errors import (
    ContainerError,
    ContainerStartError,
    PorticoError,
    QuarantinedError,
    RevocationIncompleteError,
    SandboxNotFoundError,
    SandboxStoppedError,
    StoreError,
    TooManyVisitsError,
    UnknownRecordError,
)
from actors.handle import Sandbox
from actors.memorystore import MemoryStore
from actors.revival import REVIVALS_MAX
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import CutBecause, RefusedBecause, VisitRequest
from actors.sandbox.decide import DestroySandbox
from actors.sandbox.events import AsleepPolicy, ContainerSpec, Event, RunEnd, RunEnded, RunStarted, decode
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.state import fold, restore
from actors.store import Entry
from actors.surroundings import Limits
from actors.testing.containers import FakeContainer, FakeContainers, FakeRun, fake_containers
from actors.testing.storage import FaultyStore
from actors.visits import Visit

NAME = SandboxId("my-app")
KNOCK = VisitRequest(Port(8080), PortToken("secret"))


@asynccontextmanager
async def running(
    store: FaultyStore | None = None, limits: Limits | None = None, containers: FakeContainers | None = None
) -> AsyncIterator[Runtime]:
    async with open_runtime(
        store or FaultyStore(MemoryStore()),
        containers={"process": containers or fake_containers()},
        limits=limits or Limits(),
        clock=trio.current_time,
    ) as runtime:
        yield runtime


async def exposed(runtime: Runtime) -> Sandbox:
    sandbox = await runtime.get_sandbox(NAME)
    await sandbox.expose_port(8080, token="secret")
    return sandbox


async def enter(runtime: Runtime, *, stubborn: bool = False) -> Visit:
    """Be admitted, and end when cut, unless `stubborn`."""
    visit = await runtime.admit(NAME, KNOCK)
    assert isinstance(visit, Visit)
    if not stubborn:
        visit.on_cut(lambda _: visit.end())
    return visit


async def events(store: FaultyStore, sandbox: SandboxId = NAME) -> list[Event]:
    return [decode(record.name, record.version, record.fields) for record in (await store.read(sandbox)).records]


class Answers:
    """What calls have come to that were begun without waiting for them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.got: dict[str, object] = {}

    async def begin(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        """Begin a call, and return once it waits (or has its answer)."""
        self._nursery.start_soon(self._note, name, call)
        await wait_all_tasks_blocked()

    async def _note(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            self.got[name] = await call()
        except PorticoError as error:
            self.got[name] = error


# Recovery.


async def test_the_state_is_what_the_log_folds_to() -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        for port in range(2000, 2010):
            await sandbox.expose_port(port)
        await sandbox.unexpose_port(2003)
        await sandbox.set_preview_auth()
        state = await sandbox.state()
        assert fold(await events(store)) == state
    async with running(store) as runtime:
        assert await (await runtime.find_sandbox(NAME)).state() == state


async def test_a_grown_log_is_replaced_by_a_snapshot_that_means_the_same(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    limits = Limits(compact_records=10, compact_bytes=1)
    async with running(store, limits) as runtime:
        sandbox = await exposed(runtime)
        for port in range(2000, 2020):
            await sandbox.expose_port(port, name=f"port {port}")
        await wait_all_tasks_blocked()
        state = await sandbox.state()
        history = await store.read(NAME)
        assert history.snapshot is not None
        assert len(history.records) < 10
        kept = restore(history.snapshot.version, history.snapshot.fields)
        assert fold(await events(store), kept) == state
    async with running(store) as runtime:
        assert await (await runtime.find_sandbox(NAME)).state() == state


async def test_a_log_that_could_not_be_compacted_is_rebuilt_and_loses_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store, Limits(compact_records=2, compact_bytes=1)) as runtime:
        sandbox = await runtime.get_sandbox(NAME)
        with store.hold_appends():
            nursery.start_soon(sandbox.set_preview_auth)
            await wait_all_tasks_blocked()
        with store.hold_appends():
            # The change is durable; what is held now is the compaction that it led to.
            await store.wait_append_held()
            store.fail_next_append()
        await trio.sleep(1)
        assert len((await store.read(NAME)).records) == 2
        await sandbox.set_preview_auth()
        await trio.sleep(1)
        assert (await store.read(NAME)).snapshot is not None
        assert (await sandbox.state()).auth is not None


async def test_a_state_too_large_for_a_snapshot_keeps_its_long_log(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FaultyStore(MemoryStore())

    async def refuse(*_: object) -> None:
        raise ValueError("too large")

    monkeypatch.setattr(store, "compact", refuse)
    async with running(store, Limits(compact_records=2, compact_bytes=1)) as runtime:
        with capture_logs() as lines:
            sandbox = await exposed(runtime)
            await wait_all_tasks_blocked()
        assert "log not compacted" in [line["event"] for line in lines]
        assert "actor broken" not in [line["event"] for line in lines]
        assert (await sandbox.state()).ports.keys() == {8080}


async def test_a_container_of_a_kind_that_is_not_there_stops_only_its_sandbox(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with open_runtime(store, containers={"other": fake_containers(), "process": fake_containers()}) as runtime:
        await runtime.get_sandbox(NAME, container="other")
        await runtime.get_sandbox("neighbour")
    async with running(store) as runtime:
        with pytest.raises(UnknownRecordError, match="other"):
            await runtime.find_sandbox(NAME)
        await runtime.find_sandbox("neighbour")


async def test_a_container_that_cannot_be_made_is_refused_before_anything_is_stored() -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        with pytest.raises(ValueError, match="no containers of kind 'vm'"):
            await runtime.get_sandbox(NAME, container="vm")
        with pytest.raises(ValueError, match="no option"):
            await runtime.get_sandbox(NAME, container=ContainerSpec("process", {"colour": "red"}))
        assert not store.exists(NAME)


# Waking.


async def test_many_visits_wake_once_and_are_served_in_order_of_arrival(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        await exposed(runtime)
        container = containers.made[NAME]
        container.hold_starts()
        answers = Answers(nursery)
        for number in range(20):
            await answers.begin(str(number), lambda: enter(runtime))
        assert answers.got == {}
        container.release_starts()
        await wait_all_tasks_blocked()
        assert len(container.starts) == 1
        assert len(answers.got) == 20
        (actor,) = runtime._actors.values()
        assert actor._activation is not None
        assert list(actor._activation.book) == [answers.got[str(number)] for number in range(20)]


async def test_a_wake_that_fails_tells_every_one_who_waited_with_an_error_of_its_own(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    store = FaultyStore(MemoryStore())
    async with running(store, containers=containers) as runtime:
        sandbox = await exposed(runtime)
        container = containers.made[NAME]
        container.hold_starts()
        container.start_error = "no more memory"
        answers = Answers(nursery)
        for number in range(3):
            await answers.begin(f"visit {number}", lambda: enter(runtime))
        await answers.begin("exec", lambda: sandbox.exec("true"))
        container.release_starts()
        await wait_all_tasks_blocked()
        assert {str(error) for error in answers.got.values()} == {"no more memory"}
        assert {type(error) for error in answers.got.values()} == {ContainerStartError}
        assert len({id(error) for error in answers.got.values()}) == 4
        assert isinstance((await events(store))[-1], RunEnded)
        container.start_error = None
        (await enter(runtime)).end()
        assert len(container.starts) == len(set(container.starts)) == 2


async def test_a_wake_that_takes_too_long_is_given_up(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers=containers, limits=Limits(wake_timeout_s=90)) as runtime:
        await exposed(runtime)
        containers.made[NAME].hold_starts()
        with pytest.raises(ContainerStartError, match="90 seconds"):
            await enter(runtime)
        assert trio.current_time() == 90


async def test_who_has_gone_while_held_is_not_admitted(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers, limits=Limits(held_max=2)) as runtime:
        await exposed(runtime)
        containers.made[NAME].hold_starts()
        answers = Answers(nursery)
        scope = trio.CancelScope()

        async def visit() -> None:
            with scope:
                await enter(runtime)

        await answers.begin("goes", visit)
        await answers.begin("stays", lambda: enter(runtime))
        with pytest.raises(TooManyVisitsError):
            await enter(runtime)
        scope.cancel()
        await wait_all_tasks_blocked()
        # The place of one who has gone is free.
        await answers.begin("comes", lambda: enter(runtime))
        containers.made[NAME].release_starts()
        await wait_all_tasks_blocked()
        assert runtime.statistics().visits == 2
        assert answers.got.keys() == {"goes", "stays", "comes"}


async def test_a_stop_during_a_wake_calls_it_off_and_refuses_who_waits(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        container = containers.made[NAME]
        container.hold_starts()
        answers = Answers(nursery)
        await answers.begin("visit", lambda: runtime.admit(NAME, KNOCK))
        await answers.begin("exec", lambda: sandbox.exec("true"))
        assert await sandbox.stop() == 0
        await wait_all_tasks_blocked()
        assert answers.got["visit"] is RefusedBecause.SANDBOX_STOPPED
        assert isinstance(answers.got["exec"], SandboxStoppedError)
        assert container.run is None
        container.release_starts()
        await wait_all_tasks_blocked()
        assert container.run is None


class Lingering(FakeContainer):
    """Takes its time to clean up after a start that is called off."""

    clean: trio.Event

    async def start(self, run_id: str, nursery: trio.Nursery) -> FakeRun:
        try:
            return await super().start(run_id, nursery)
        finally:
            with trio.CancelScope(shield=True):
                await self.clean.wait()


@pytest.mark.parametrize("what", ["stop", "destroy"])
async def test_the_end_waits_until_nothing_is_left_of_a_start(nursery: trio.Nursery, what: str) -> None:
    container = Lingering({})
    container.clean = trio.Event()
    container.hold_starts()
    async with open_runtime(MemoryStore(), containers={"process": lambda *_: container}) as runtime:
        sandbox = await exposed(runtime)
        answers = Answers(nursery)
        await answers.begin("visit", lambda: runtime.admit(NAME, KNOCK))
        await answers.begin("end", sandbox.stop if what == "stop" else sandbox.destroy)
        assert answers.got.keys() == {"visit"}
        assert not container.removed
        container.clean.set()
        await wait_all_tasks_blocked()
        assert answers.got["end"] == 0


async def test_a_destruction_during_a_wake_calls_it_off_and_refuses_who_waits(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        container = containers.made[NAME]
        container.hold_starts()
        answers = Answers(nursery)
        await answers.begin("visit", lambda: runtime.admit(NAME, KNOCK))
        await answers.begin("exec", lambda: sandbox.exec("true"))
        assert await sandbox.destroy() == 0
        await wait_all_tasks_blocked()
        assert answers.got["visit"] is RefusedBecause.INVALID_TOKEN
        assert isinstance(answers.got["exec"], SandboxNotFoundError)
        assert container.run is None
        assert container.removed
        assert not runtime.exists(NAME)


async def test_a_stale_policy_wakes_for_nobody_but_the_owner() -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await runtime.get_sandbox(NAME, when_asleep=AsleepPolicy.STALE)
        await sandbox.expose_port(8080, token="secret")
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.STALE_PREVIEW_URL
        assert containers.made[NAME].starts == []
        async with sandbox.running():
            (await enter(runtime)).end()


# Runs.


async def test_a_run_that_dies_by_itself_is_recorded_its_visits_cut_and_the_next_one_wakes_another() -> None:
    containers = fake_containers()
    store = FaultyStore(MemoryStore())
    async with running(store, containers=containers) as runtime:
        await exposed(runtime)
        first = await enter(runtime)
        run = containers.made[NAME].run
        assert run is not None
        run.end("out of memory")
        await wait_all_tasks_blocked()
        assert [first.cut_because] == [CutBecause.RUN_ENDED]
        assert (await events(store))[-1] == RunEnded(run.run_id, RunEnd.EXITED)
        second = await enter(runtime)
        assert second.run is containers.made[NAME].run
        assert (first.run.run_id, first.grant.run_id) == (run.run_id, run.run_id)
        assert second.run.run_id == second.grant.run_id != run.run_id
        second.end()


async def test_a_visit_of_one_run_never_gets_the_next(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        await exposed(runtime)
        container = containers.made[NAME]
        visits = []
        for _ in range(5):
            visit = await enter(runtime)
            visits.append(visit)
            assert container.run is not None
            container.run.end()
            # Knock before the actor has heard of it, as well as after.
            for judged in (runtime.admit_nowait(NAME, KNOCK), await runtime.admit(NAME, KNOCK)):
                if isinstance(judged, Visit):
                    judged.on_cut(lambda _, judged=judged: judged.end())  # type: ignore[misc]  # bound now
                    visits.append(judged)
        for visit in visits:
            assert visit.run.run_id == visit.grant.run_id
            assert visit.cut_because is CutBecause.RUN_ENDED or visit.run is container.run
            visit.end()


async def test_a_run_that_an_earlier_process_had_is_looked_for_and_recorded_lost(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    memory = store.store
    async with running(store) as runtime:
        await exposed(runtime)
    # As a crash would leave it.
    await memory.append(await memory.claim(NAME), [Entry(0.0, "run_started", 1, {"run_id": "run-0"})])
    async with running(store) as runtime:
        visit = await enter(runtime)
        new = visit.run.run_id
        visit.end()
        assert (await events(store))[-2:] == [RunEnded("run-0", RunEnd.LOST), RunStarted(new)]


async def test_the_run_is_on_record_before_the_container_is_started() -> None:
    store = FaultyStore(MemoryStore())
    seen: list[Event] = []

    class Looking(FakeContainer):
        async def start(self, run_id: str, nursery: trio.Nursery) -> FakeRun:
            seen.extend(await events(store))
            return await super().start(run_id, nursery)

    async with open_runtime(store, containers={"process": lambda *_: Looking({})}) as runtime:
        await exposed(runtime)
        visit = await enter(runtime)
        assert seen[-1] == RunStarted(visit.run.run_id)
        visit.end()


async def test_more_visits_than_allowed_are_refused_and_an_end_makes_room() -> None:
    async with running(limits=Limits(visits_max=2)) as runtime:
        await exposed(runtime)
        first, second = await enter(runtime), await enter(runtime)
        with pytest.raises(TooManyVisitsError):
            await enter(runtime)
        with pytest.raises(TooManyVisitsError):
            runtime.admit_nowait(NAME, KNOCK)
        first.end()
        (await enter(runtime)).end()
        second.end()


# Revocations.


async def test_a_revocation_returns_when_the_last_visit_has_ended(nursery: trio.Nursery) -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        visits = [await enter(runtime, stubborn=True) for _ in range(3)]
        answers = Answers(nursery)
        await answers.begin("unexpose", lambda: sandbox.unexpose_port(8080))
        for visit in visits:
            assert visit.cut_because is CutBecause.UNEXPOSED
            assert answers.got == {}
            visit.end()
            await wait_all_tasks_blocked()
        assert answers.got == {"unexpose": 3}


async def test_a_second_revocation_while_the_first_waits_also_waits(nursery: trio.Nursery) -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        answers = Answers(nursery)
        await answers.begin("first", lambda: sandbox.unexpose_port(8080))
        await answers.begin("second", lambda: sandbox.unexpose_port(8080))
        assert answers.got == {}
        visit.end()
        await wait_all_tasks_blocked()
        assert answers.got == {"first": 1, "second": 1}
        assert await sandbox.unexpose_port(8080) == 0


async def test_a_visit_that_does_not_end_is_counted_and_does_not_burden_other_commands(
    autojump_clock: MockClock,
) -> None:
    async with running(limits=Limits(cut_timeout_s=10)) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        for _ in range(2):
            before = trio.current_time()
            with pytest.raises(RevocationIncompleteError) as caught:
                await sandbox.unexpose_port(8080)
            assert caught.value.remaining == 1
            assert trio.current_time() == before + 10
        before = trio.current_time()
        await sandbox.expose_port(9090)
        assert await sandbox.unexpose_port(9090) == 0
        assert trio.current_time() == before
        visit.end()


async def test_a_drain_refuses_at_once_and_cuts_later(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        short, long = await enter(runtime), await enter(runtime)
        answers = Answers(nursery)
        await answers.begin("unexpose", lambda: sandbox.unexpose_port(8080, drain=60))
        assert runtime.admit_nowait(NAME, KNOCK) is RefusedBecause.INVALID_TOKEN
        await trio.sleep(30)
        short.end()
        await trio.sleep(29)
        assert long.cut_because is None
        await trio.sleep(2)
        assert [long.cut_because] == [CutBecause.UNEXPOSED]
        assert answers.got == {"unexpose": 1}


async def test_a_drain_is_not_cut_short_by_other_commands(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)
        answers = Answers(nursery)
        await answers.begin("unexpose", lambda: sandbox.unexpose_port(8080, drain=60))
        await sandbox.expose_port(9090)
        await sandbox.expose_port(8080)
        assert await sandbox.unexpose_port(9090) == 0
        assert trio.current_time() == 0
        assert visit.cut_because is None
        assert await sandbox.unexpose_port(8080) == 1, "without a drain, what still drains is cut"
        await wait_all_tasks_blocked()
        assert answers.got == {"unexpose": 1}
        assert trio.current_time() == 0


async def test_a_changed_token_cuts_who_came_with_the_old_one_before_the_call_returns() -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)
        await sandbox.expose_port(8080, token="another")
        assert not visit.under_way
        assert visit.cut_because is CutBecause.UNEXPOSED


async def test_the_answer_to_an_exposure_holds_its_own_moment(nursery: trio.Nursery) -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        answers = Answers(nursery)
        await answers.begin("expose", lambda: sandbox.expose_port(8080, token="another"))
        await answers.begin("unexpose", lambda: sandbox.unexpose_port(8080))
        visit.end()
        await wait_all_tasks_blocked()
        assert getattr(answers.got["expose"], "token", None) == "another"


async def test_a_stop_ends_visits_and_run_before_it_returns() -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)
        run = containers.made[NAME].run
        assert await sandbox.stop() == 1
        assert visit.cut_because is CutBecause.STOPPED
        assert run is not None
        assert run._ended.is_set()
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.SANDBOX_STOPPED
        assert await sandbox.stop() == 0


async def test_a_run_that_cannot_be_stopped_is_told_to_whoever_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_run: FakeRun) -> None:
        raise OSError("no such process")

    async with running() as runtime:
        sandbox = await exposed(runtime)
        (await enter(runtime)).end()
        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(FakeRun, "stop", fail)
            with pytest.raises(ContainerError, match="no such process"):
                await sandbox.stop()
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.SANDBOX_STOPPED


# Destruction.


async def test_destruction_forgets_the_tokens_before_it_touches_the_container(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    containers = fake_containers()
    async with running(store, containers=containers) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        container = containers.made[NAME]
        answers = Answers(nursery)
        with store.hold_appends():
            await answers.begin("destroy", sandbox.destroy)
            assert visit.cut_because is None
        await wait_all_tasks_blocked()
        assert [visit.cut_because] == [CutBecause.DESTROYED]
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.INVALID_TOKEN
        with pytest.raises(SandboxNotFoundError):
            await sandbox.state()
        assert [container.removed, answers.got] == [False, {}]
        visit.end()
        await wait_all_tasks_blocked()
        assert [container.removed, answers.got] == [True, {"destroy": 1}]
        assert not store.exists(NAME)


async def test_a_destroyed_id_can_be_used_anew_and_has_nothing_of_the_old() -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        assert await sandbox.destroy() == 0
        assert await sandbox.destroy() == 0
        assert await (await runtime.get_sandbox(NAME)).get_exposed_ports() == []
        assert await runtime.admit(NAME, KNOCK) is RefusedBecause.INVALID_TOKEN


async def test_a_creation_during_the_clearing_waits_for_its_end(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        old = containers.made[NAME]
        answers = Answers(nursery)
        await answers.begin("destroy", sandbox.destroy)
        await answers.begin("create", lambda: runtime.get_sandbox(NAME))
        await answers.begin("create again", lambda: runtime.get_sandbox(NAME))
        assert answers.got == {}
        visit.end()
        await wait_all_tasks_blocked()
        assert answers.got.keys() == {"destroy", "create", "create again"}
        assert old.removed
        assert not containers.made[NAME].removed
        assert await sandbox.get_exposed_ports() == []


async def test_several_destructions_at_once_are_one_and_spare_what_is_created_after_them(
    nursery: trio.Nursery,
) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        answers = Answers(nursery)
        for number in range(3):
            await answers.begin(f"destroy {number}", sandbox.destroy)
        await answers.begin("create", lambda: runtime.get_sandbox(NAME))
        visit.end()
        await wait_all_tasks_blocked()
        assert [answers.got[f"destroy {number}"] for number in range(3)] == [1, 1, 1]
        assert isinstance(answers.got["create"], Sandbox)
        assert runtime.exists(NAME)
        await sandbox.expose_port(9090)


async def test_a_destruction_that_a_crash_interrupted_is_finished_at_the_next_activation() -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        await exposed(runtime)
    await store.append(await store.claim(NAME), [Entry(0.0, "sandbox_destroyed", 1, {})])
    containers = fake_containers()
    async with running(store, containers=containers) as runtime:
        with pytest.raises(SandboxNotFoundError):
            await runtime.find_sandbox(NAME)
        assert containers.made[NAME].removed
        assert not store.exists(NAME)
        await runtime.get_sandbox(NAME)


async def test_a_container_that_cannot_be_removed_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def fail(_container: FakeContainer) -> None:
        raise OSError("device busy")

    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        with monkeypatch.context() as patch, capture_logs():
            patch.setattr(FakeContainer, "remove", fail)
            with pytest.raises(ContainerError, match="device busy"):
                await sandbox.destroy()
            with pytest.raises(QuarantinedError):
                await runtime.get_sandbox(NAME)
        assert store.exists(NAME)
        await trio.sleep(60)
        assert await sandbox.destroy() == 0
        assert not store.exists(NAME)


async def test_a_log_that_cannot_be_put_aside_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)

        async def fail(_tenure: object) -> None:
            raise StoreError("read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(store, "bury", fail)
            with pytest.raises(ContainerError, match="read-only"):
                await sandbox.destroy()
        assert await sandbox.destroy() == 0
        assert not store.exists(NAME)


async def test_visits_that_outlast_a_destruction_are_told_once_it_is_done(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime, stubborn=True)
        with pytest.raises(RevocationIncompleteError) as caught:
            await sandbox.destroy()
        assert caught.value.remaining == 1
        assert not store.exists(NAME)
        visit.end()


async def test_a_sandbox_that_was_never_made_can_be_destroyed() -> None:
    async with running() as runtime:
        assert (await runtime._actor(NAME).call(DestroySandbox())).state is None


async def test_the_place_of_a_sandbox_is_its_own() -> None:
    places: list[ContainerContext] = []

    def make(context: ContainerContext, _options: object) -> FakeContainer:
        places.append(context)
        return FakeContainer({})

    async with open_runtime(MemoryStore(), containers={"process": make}) as runtime:
        for name in ("one", "two"):
            await runtime.get_sandbox(name)
    assert [place.sandbox for place in places] == ["one", "two"]
    assert len({place.folder for place in places}) == 2


# Runs that end by themselves, and services in them that are to be started again.


async def dying(runtime: Runtime, containers: FakeContainers) -> tuple[Sandbox, FakeContainer]:
    """Return a sandbox that is up, and whose runs come back."""
    sandbox = await exposed(runtime)
    container = containers.made[NAME]
    container.comes_back = True
    await sandbox.wake()
    return sandbox, container


async def die(container: FakeContainer) -> None:
    assert container.run is not None
    container.run.end()
    await wait_all_tasks_blocked()


async def test_a_run_that_dies_comes_back_by_itself_after_growing_pauses(autojump_clock: MockClock) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    async with running(store, containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        for pause in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S):
            await die(container)
            assert (await sandbox.state()).run_id is None
            await trio.sleep(pause * 0.9)
            assert (await sandbox.state()).run_id is None
            await trio.sleep(pause * 0.2)
            assert (await sandbox.state()).run_id == container.starts[-1]
        recorded = [event for event in await events(store) if isinstance(event, RunStarted | RunEnded)]
        assert [type(event) for event in recorded] == [RunStarted, RunEnded] * 3 + [RunStarted]
        assert [event.by_policy for event in recorded if isinstance(event, RunStarted)] == [False, True, True, True]
        assert len({*container.starts}) == 4


async def test_a_run_that_nothing_is_to_be_started_again_in_stays_down(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        _, container = await dying(runtime, containers)
        container.comes_back = False
        await die(container)
        await trio.sleep(100)
        assert len(container.starts) == 1


async def test_a_run_that_does_not_come_back_up_is_tried_so_often_and_no_more(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        container.start_error = "no room"
        with capture_logs() as logs:
            await die(container)
            await trio.sleep(3600)
        assert len(container.starts) == 1 + REVIVALS_MAX
        assert [line["event"] for line in logs].count("run is not brought back any more") == 1
        container.start_error = None
        await sandbox.wake()
        assert (await sandbox.state()).run_id is not None


@pytest.mark.parametrize("ending", ["hibernate", "stop", "destroy"])
async def test_a_run_stays_down_once_its_owner_wants_no_run(autojump_clock: MockClock, ending: str) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        await die(container)
        await getattr(sandbox, ending)()
        await trio.sleep(100)
        assert len(container.starts) == 1
        if ending == "hibernate":
            # Its actor has left memory: another container.
            _, container = await dying(runtime, containers)
            await die(container)
            await trio.sleep(1)
            assert len(container.starts) == 2, "it comes back again after a wake"


async def test_a_run_that_died_was_not_put_to_sleep_and_a_websocket_wakes_it(autojump_clock: MockClock) -> None:
    """As `Sandbox.hibernate` says; one that sleeps is woken by none."""
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        await die(container)
        await sandbox.hibernate()
        handshake = replace(KNOCK, websocket=True)
        visit = await runtime.admit(NAME, handshake)
        assert isinstance(visit, Visit)
        visit.on_cut(lambda _: visit.end())
        await sandbox.hibernate()
        assert await runtime.admit(NAME, handshake) is RefusedBecause.ASLEEP


async def test_a_visitor_does_not_wait_for_the_pause_and_makes_no_second_run(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        _, container = await dying(runtime, containers)
        await die(container)
        before = trio.current_time()
        visit = await enter(runtime)
        assert trio.current_time() == before
        await trio.sleep(100)
        assert len(container.starts) == 2
        visit.end()


async def test_a_visitor_whose_wake_fails_does_not_end_the_coming_back(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        await die(container)
        container.start_error = "no room"
        with pytest.raises(ContainerStartError):
            await runtime.admit(NAME, KNOCK)
        container.start_error = None
        await trio.sleep(100)
        assert len(container.starts) == 3
        assert (await sandbox.state()).run_id == container.starts[-1]


@pytest.mark.parametrize("ending", [None, "hibernate"])
async def test_a_visitor_whose_wake_fails_makes_nothing_come_back_that_is_not_to(
    autojump_clock: MockClock, ending: str | None
) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        container.comes_back = ending is not None
        await die(container)
        if ending is not None:
            await getattr(sandbox, ending)()
            container = containers.made[NAME]
        container.start_error = "no room"
        starts = len(container.starts)
        with pytest.raises(ContainerStartError):
            await runtime.admit(NAME, KNOCK)
        container.start_error = None
        await trio.sleep(100)
        assert len(container.starts) == starts + 1


async def test_coming_back_is_no_use_that_keeps_a_sandbox_awake(autojump_clock: MockClock) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    async with running(store, containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        await sandbox.set_sleep_after(100.0)
        for _ in range(3):
            await trio.sleep(30)
            await die(container)
        await trio.sleep(15)
        assert (await sandbox.state()).slept
        assert len(container.starts) == 4
        await trio.sleep(1000)
        assert len(container.starts) == 4


async def test_a_pause_does_not_hold_up_the_end_of_the_runtime(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox, container = await dying(runtime, containers)
        for _ in range(8):
            await die(container)
            await sandbox.hibernate()
            await sandbox.wake()
        # The pause has become a long one.
        await die(container)
        before = trio.current_time()
    assert trio.current_time() - before < FIRST_PAUSE_S
