"""The actor: turns, gates, rest, the limits of its mailbox, alarms, and what becomes of it when it breaks."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import activation
from actors.actor import Actor
from actors.core.lifecycle import Phase
from actors.core.supervision import BREAKAGES_MAX, WINDOW_S
from actors.errors import (
    ActorBrokenError,
    FencedError,
    LogCorruptError,
    MailboxFullError,
    PorticoError,
    QuarantinedError,
    RetryableError,
    ShuttingDownError,
    UnknownRecordError,
)
from actors.handle import Sandbox
from actors.memorystore import MemoryStore
from actors.messages import ActorGoneError
from actors.runtime import Runtime, RuntimeStatistics, open_runtime
from actors.sandbox.admission import CutBecause, Grant, RefusedBecause, VisitRequest, admit, still_holds
from actors.sandbox.decide import (
    Command,
    CreateSandbox,
    ExposePort,
    Refusal,
    RotatePreviewAuth,
    SetPreviewAuth,
    UnexposePort,
    decide,
)
from actors.sandbox.events import Event, decode
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId
from actors.sandbox.state import evolve, fold
from actors.store import Entry
from actors.surroundings import Limits
from actors.testing.containers import FakeContainers, FakeRun, fake_containers
from actors.testing.storage import FaultyStore
from actors.visits import Visit

NAME = SandboxId("my-app")
EPOCH = 1_000_000_000.0
"""The wall clock when a test begins; it runs with trio's."""


@asynccontextmanager
async def running(
    store: FaultyStore | None = None, limits: Limits | None = None, containers: FakeContainers | None = None
) -> AsyncIterator[Runtime]:
    start = trio.current_time()
    async with open_runtime(
        store or FaultyStore(MemoryStore()),
        containers={"process": containers or fake_containers()},
        limits=limits or Limits(),
        clock=lambda: EPOCH + trio.current_time() - start,
    ) as runtime:
        yield runtime


def at_the_door(port: int = 8080, token: str = "secret", bearer: PreviewToken | None = None) -> VisitRequest:
    return VisitRequest(Port(port), PortToken(token), bearer.reveal().encode() if bearer is not None else None)


async def enter(runtime: Runtime, request: VisitRequest | None = None) -> Visit:
    """Be admitted, and end when cut, as a well-behaved holder does."""
    visit = await runtime.admit(NAME, request or at_the_door())
    assert isinstance(visit, Visit)
    visit.on_cut(lambda _: visit.end())
    return visit


async def exposed(runtime: Runtime, port: int = 8080, token: str = "secret") -> Sandbox:
    sandbox = await runtime.get_sandbox(NAME)
    await sandbox.expose_port(port, token=token)
    return sandbox


class Outcomes:
    """What came of calls that were made one after the other, without waiting for any."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.order: list[str] = []
        """Names, as they were answered."""
        self.errors: dict[str, BaseException] = {}

    async def start(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        """Begin a call, and return once it waits (or has its answer)."""
        self._nursery.start_soon(self._note, name, call)
        await wait_all_tasks_blocked()

    async def _note(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except PorticoError as error:
            self.errors[name] = error
        self.order.append(name)


# Turns and the gates.


async def test_nothing_is_judged_while_an_append_is_under_way(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        (await enter(runtime)).end()
        outcomes = Outcomes(nursery)
        answers: list[object] = []

        async def visit() -> None:
            answers.append(await runtime.admit(NAME, at_the_door()))

        with store.hold_appends():
            await outcomes.start("unexpose", lambda: sandbox.unexpose_port(8080))
            assert runtime.admit_nowait(NAME, at_the_door()) is None
            await outcomes.start("visit", visit)
            assert outcomes.order == []
        await wait_all_tasks_blocked()
        assert sorted(outcomes.order) == ["unexpose", "visit"]
        assert answers == [RefusedBecause.INVALID_TOKEN]


async def test_a_visit_before_the_unexposing_is_admitted_and_then_cut() -> None:
    async with running() as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)
        assert await sandbox.unexpose_port(8080) == 1
        assert visit.cut_because is CutBecause.UNEXPOSED
        assert runtime.admit_nowait(NAME, at_the_door()) is RefusedBecause.INVALID_TOKEN


async def test_an_idle_actor_judges_as_a_plain_call() -> None:
    async with running() as runtime:
        await exposed(runtime)
        (await enter(runtime)).end()
        visit = runtime.admit_nowait(NAME, at_the_door())
        assert isinstance(visit, Visit)
        assert runtime.admit_nowait(NAME, at_the_door(token="wrong")) is RefusedBecause.INVALID_TOKEN
        visit.end()


async def test_no_reply_leaves_before_the_append_and_no_cord_is_pulled(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)
        outcomes = Outcomes(nursery)
        with store.hold_appends():
            await outcomes.start("unexpose", lambda: sandbox.unexpose_port(8080))
            assert visit.cut_because is None
            assert outcomes.order == []
        await wait_all_tasks_blocked()
        assert [visit.cut_because] == [CutBecause.UNEXPOSED]
        assert outcomes.order == ["unexpose"]


async def test_commands_are_answered_in_the_order_they_came(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        outcomes = Outcomes(nursery)
        with store.hold_appends():
            for port in (2001, 2002, 2003, 2004):
                await outcomes.start(f"expose {port}", lambda port=port: sandbox.expose_port(port))  # type: ignore[misc]
                await outcomes.start(f"unexpose {port}", lambda port=port: sandbox.unexpose_port(port))  # type: ignore[misc]
        await wait_all_tasks_blocked()
        assert outcomes.order == [f"{what} {port}" for port in range(2001, 2005) for what in ("expose", "unexpose")]
        assert [port.port for port in await sandbox.get_exposed_ports()] == [8080]


async def test_a_revocation_does_not_queue_behind_a_wake(nursery: trio.Nursery) -> None:
    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        await sandbox.expose_port(9090, token="other")
        container = containers.made[NAME]
        container.hold_starts()
        outcomes = Outcomes(nursery)
        answers: list[object] = []

        async def visit() -> None:
            answers.append(await runtime.admit(NAME, at_the_door()))

        await outcomes.start("visit", visit)
        assert container.starts
        await outcomes.start("unexpose other", lambda: sandbox.unexpose_port(9090))
        assert outcomes.order == ["unexpose other"]
        await outcomes.start("unexpose", lambda: sandbox.unexpose_port(8080))
        assert sorted(outcomes.order) == ["unexpose", "unexpose other", "visit"]
        assert answers == [RefusedBecause.INVALID_TOKEN], "a held visit learns at once that it may not enter"
        container.release_starts()


async def test_a_failed_append_leaves_nothing_behind_and_tells_the_caller() -> None:
    store = FaultyStore(MemoryStore())
    containers = fake_containers()
    async with running(store, containers=containers) as runtime:
        sandbox = await exposed(runtime)
        before = await sandbox.state()
        store.fail_next_append()
        with pytest.raises(ActorBrokenError):
            await runtime.admit(NAME, at_the_door())
        assert containers.made[NAME].starts == [], "the container was called before the run was on record"
        assert await sandbox.state() == before
        (await enter(runtime)).end()


async def test_a_command_whose_sender_has_gone_before_its_turn_is_dropped(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        with store.hold_appends():
            outcomes = Outcomes(nursery)
            scope = trio.CancelScope()

            async def go() -> None:
                with scope:
                    await sandbox.expose_port(2002)

            await outcomes.start("stays", lambda: sandbox.expose_port(2001))
            await outcomes.start("goes", go)
            scope.cancel()
            await wait_all_tasks_blocked()
            assert outcomes.order == ["goes"]
        await wait_all_tasks_blocked()
        assert (await sandbox.state()).ports.keys() == {8080, 2001}


async def test_cancelling_a_command_whose_append_is_under_way_waits_for_the_outcome(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        outcomes = Outcomes(nursery)
        scope = trio.CancelScope()

        async def go() -> None:
            with scope:
                await sandbox.expose_port(2001)

        with store.hold_appends():
            await outcomes.start("goes", go)
            scope.cancel()
            await wait_all_tasks_blocked()
            assert outcomes.order == [], "its caller must not go on while nobody knows what became of it"
        await wait_all_tasks_blocked()
        assert outcomes.order == ["goes"]
        assert await sandbox.is_port_exposed(2001)


async def test_a_turn_that_a_signal_interrupts_breaks_the_activation_and_the_next_one_lives(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)

        async def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(store, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await sandbox.expose_port(2001)
        assert {port.port for port in await sandbox.get_exposed_ports()} == {8080}
        assert visit.cut_because is CutBecause.RUN_ENDED
        await sandbox.expose_port(2001)
        assert await sandbox.is_port_exposed(2001)


async def test_after_a_failed_append_no_run_goes_on_that_nobody_knows(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        visit = await enter(runtime)
        store.fail_next_append()
        with pytest.raises(ActorBrokenError):
            await sandbox.expose_port(2001)
        await sandbox.state()
        with trio.fail_after(1):
            assert await visit.run.wait_stopped() == "stopped"
        second = await enter(runtime)
        assert second.run is not visit.run
        second.end()


async def test_a_run_that_comes_up_while_its_actor_breaks_is_ended(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store, containers = FaultyStore(MemoryStore()), fake_containers()
    async with running(store, containers=containers) as runtime:
        sandbox = await exposed(runtime)
        container = containers.made[NAME]
        container.hold_starts()
        outcomes = Outcomes(nursery)
        await outcomes.start("visit", lambda: enter(runtime))
        store.fail_next_append()
        with store.hold_appends():
            await outcomes.start("fails", lambda: sandbox.expose_port(2001))
            container.release_starts()
            await wait_all_tasks_blocked()
        await trio.sleep(1)
        assert {name: type(error) for name, error in outcomes.errors.items()} == dict.fromkeys(
            ["visit", "fails"], ActorBrokenError
        )
        assert container.run is not None
        assert container.run._ended.is_set()
        assert runtime.statistics() == RuntimeStatistics(actors=1, visits=0, runs=0)
        (await enter(runtime)).end()


async def test_after_a_failed_append_state_is_what_the_log_says(autojump_clock: MockClock) -> None:
    for written in (False, True):
        store = FaultyStore(MemoryStore())
        async with running(store) as runtime:
            sandbox = await exposed(runtime)
            visit = await enter(runtime)
            store.fail_next_append(written=written)
            with pytest.raises(ActorBrokenError):
                await sandbox.unexpose_port(8080)
            assert await sandbox.is_port_exposed(8080) == (not written)
            assert [visit.cut_because] == [CutBecause.RUN_ENDED], "nobody may stay on what is not known"


async def test_whoever_waits_behind_a_failed_append_is_served_by_the_rebuilt_actor(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        outcomes = Outcomes(nursery)
        store.fail_next_append()
        with store.hold_appends():
            await outcomes.start("fails", lambda: sandbox.expose_port(2001))
            await outcomes.start("first", lambda: sandbox.expose_port(2002))
            await outcomes.start("second", lambda: sandbox.unexpose_port(2002))
        await trio.sleep(1)
        assert outcomes.order == ["fails", "first", "second"]
        assert isinstance(outcomes.errors.pop("fails"), ActorBrokenError)
        assert outcomes.errors == {}


async def test_a_turn_that_fails_changes_nothing_and_tells_only_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with running() as runtime:
        sandbox = await exposed(runtime)
        before = await sandbox.state()
        with monkeypatch.context() as patch, capture_logs() as lines:
            patch.setattr(activation, "decide", fail)
            with pytest.raises(ZeroDivisionError):
                await sandbox.expose_port(2001)
        assert [line["event"] for line in lines] == ["turn failed"]
        assert await sandbox.state() == before
        await sandbox.expose_port(2001)


# A second activation of the same sandbox.


async def test_a_superseded_activation_learns_it_at_its_next_append_and_stops_answering(
    autojump_clock: MockClock,
) -> None:
    memory = MemoryStore()
    async with running(FaultyStore(memory)) as first:
        sandbox = await exposed(first)
        visit = await enter(first)
        rival = await memory.claim(NAME)
        with pytest.raises(ActorBrokenError) as caught:
            await sandbox.expose_port(2001)
        assert isinstance(caught.value, RetryableError)
        assert [visit.cut_because] == [CutBecause.RUN_ENDED]
        await memory.append(rival, [Entry(EPOCH, "port_unexposed", 1, {"port": 8080})])
        # Asked again, it claims the log for itself, finds what the other has done, and fences it in its turn.
        assert not await sandbox.is_port_exposed(8080)
        with pytest.raises(FencedError):
            await memory.append(rival, [Entry(EPOCH, "sandbox_stopped", 1, {})])


# Rest.


async def test_an_idle_actor_leaves_memory_and_comes_back_as_it_was(autojump_clock: MockClock) -> None:
    async with running(limits=Limits(rest_after_s=30)) as runtime:
        sandbox = await exposed(runtime)
        before = await sandbox.state()
        await trio.sleep(29)
        assert runtime.statistics().actors == 1
        await trio.sleep(2)
        assert runtime.statistics().actors == 0
        assert await sandbox.state() == before


async def test_an_actor_with_a_visit_a_lease_or_a_run_stays(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(limits=Limits(rest_after_s=30), containers=containers) as runtime:
        sandbox = await exposed(runtime)
        async with sandbox.running():
            await trio.sleep(100)
            assert runtime.statistics().actors == 1
        visit = await enter(runtime)
        await trio.sleep(100)
        visit.end()
        await trio.sleep(100)
        assert runtime.statistics().runs == 1, "a run that would be lost keeps its actor"
        run = containers.made[NAME].run
        assert run is not None
        run.end()
        await trio.sleep(61)
        assert runtime.statistics().actors == 0


async def test_an_actor_leaves_a_run_that_can_be_found_again_but_not_its_visits_and_leases(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRun, "detachable", True)
    async with running(limits=Limits(rest_after_s=30)) as runtime:
        sandbox = await exposed(runtime)
        # Else it would stay to put the run to sleep.
        await sandbox.set_sleep_after(None)
        async with sandbox.running():
            await trio.sleep(100)
            assert runtime.statistics().actors == 1
        visit = await enter(runtime)
        await trio.sleep(100)
        assert runtime.statistics() == RuntimeStatistics(actors=1, visits=1, runs=1)
        visit.end()
        await trio.sleep(61)
        assert runtime.statistics().actors == 0


async def test_messages_that_arrive_while_an_actor_leaves_reach_the_next_in_order(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class SlowToRelease(FaultyStore):
        releasing = trio.Event()
        may_release = trio.Event()

        async def release(self, tenure):  # type: ignore[no-untyped-def]  # as FaultyStore
            self.releasing.set()
            await self.may_release.wait()
            await super().release(tenure)

    store = SlowToRelease(MemoryStore())
    async with running(store, Limits(rest_after_s=1)) as runtime:
        sandbox = await exposed(runtime)
        await store.releasing.wait()
        assert runtime.actor(NAME).phase is Phase.DRAINING
        outcomes = Outcomes(nursery)
        for number in range(2001, 2006):
            await outcomes.start(f"expose {number}", lambda number=number: sandbox.expose_port(number))  # type: ignore[misc]
            await outcomes.start(f"unexpose {number}", lambda number=number: sandbox.unexpose_port(number))  # type: ignore[misc]
        assert outcomes.order == []
        store.may_release.set()
        await wait_all_tasks_blocked()
        assert outcomes.order == [f"{what} {n}" for n in range(2001, 2006) for what in ("expose", "unexpose")]
        assert outcomes.errors == {}


async def test_a_message_in_the_very_step_in_which_an_actor_would_rest_is_answered(autojump_clock: MockClock) -> None:
    names = [f"sandbox-{number}" for number in range(20)]
    async with running(limits=Limits(rest_after_s=30)) as runtime:
        sandboxes = [await runtime.get_sandbox(name) for name in names]
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for sandbox in sandboxes:
                    nursery.start_soon(sandbox.expose_port, 8080)
            # Actors and callers are woken by the same tick of the clock, in any order.
            async with trio.open_nursery() as nursery:
                for sandbox in sandboxes:
                    nursery.start_soon(_ask_after, 30.0, sandbox)


async def _ask_after(seconds: float, sandbox: Sandbox) -> None:
    await trio.sleep(seconds)
    assert (await sandbox.expose_port(8080)).port == 8080


# A bounded mailbox.


async def test_a_full_mailbox_refuses_at_once_but_not_a_revocation(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store, Limits(mailbox_room=3, mailbox_reserve=2)) as runtime:
        sandbox = await exposed(runtime)
        outcomes = Outcomes(nursery)
        with store.hold_appends():
            await outcomes.start("expose", lambda: sandbox.expose_port(2000))
            for number in range(3):
                await outcomes.start(f"waits {number}", sandbox.get_exposed_ports)
            for call in (sandbox.get_exposed_ports, lambda: runtime.admit(NAME, at_the_door())):
                with pytest.raises(MailboxFullError):
                    await call()
            # Two find room in the reserve; the third waits for room, and is served all the same.
            for number in range(3):
                await outcomes.start(f"revokes {number}", lambda: sandbox.unexpose_port(8080))
            assert outcomes.order == []
        await wait_all_tasks_blocked()
        assert outcomes.errors == {}
        assert {*outcomes.order} == {"expose", *(f"{what} {n}" for what in ("waits", "revokes") for n in range(3))}


async def test_a_revocation_that_waits_for_room_is_let_in_with_the_next_message_taken(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store, Limits(mailbox_room=1, mailbox_reserve=1)) as runtime:
        sandbox = await exposed(runtime)
        actor = runtime.actor(NAME)
        outcomes = Outcomes(nursery)
        with store.hold_appends():
            await outcomes.start("taken", lambda: sandbox.expose_port(2000))
            await outcomes.start("waits", lambda: sandbox.expose_port(2001))
            for number in range(3):
                await outcomes.start(f"revokes {number}", lambda: sandbox.unexpose_port(8080))
            assert actor._room_lot.statistics().tasks_waiting == 2
        with store.hold_appends():
            await store.wait_append_held()
            await wait_all_tasks_blocked()
            assert outcomes.order == ["taken"]
            assert actor._room_lot.statistics().tasks_waiting == 1, "it need not wait until all others are done"
        await wait_all_tasks_blocked()
        assert outcomes.errors == {}
        assert len(outcomes.order) == 5


async def test_a_revocation_that_waits_for_room_may_be_cancelled_without_harm_to_the_others(
    nursery: trio.Nursery,
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store, Limits(mailbox_room=1, mailbox_reserve=1)) as runtime:
        sandbox = await exposed(runtime)
        outcomes = Outcomes(nursery)
        scopes = [trio.CancelScope() for _ in range(4)]

        async def revoke(scope: trio.CancelScope) -> None:
            with scope:
                await sandbox.unexpose_port(8080)

        with store.hold_appends():
            await outcomes.start("expose", lambda: sandbox.expose_port(2000))
            await outcomes.start("waits", sandbox.get_exposed_ports)
            for number, scope in enumerate(scopes):
                await outcomes.start(f"revokes {number}", lambda scope=scope: revoke(scope))  # type: ignore[misc]
            scopes[1].cancel()
            await wait_all_tasks_blocked()
            assert outcomes.order == ["revokes 1"]
        # Cancelled in the very step in which room is made for it.
        scopes[2].cancel()
        await wait_all_tasks_blocked()
        assert {"revokes 0", "revokes 2", "revokes 3"} <= {*outcomes.order}
        assert outcomes.errors == {}


async def test_a_revocation_that_waits_for_room_while_the_runtime_closes_is_refused(nursery: trio.Nursery) -> None:
    store = FaultyStore(MemoryStore())
    outcomes = Outcomes(nursery)
    async with running(store, Limits(mailbox_room=1, mailbox_reserve=1)) as runtime:
        sandbox = await exposed(runtime)
        with store.hold_appends():
            await outcomes.start("expose", lambda: sandbox.expose_port(2000))
            await outcomes.start("waits", sandbox.get_exposed_ports)
            for number in range(3):
                await outcomes.start(f"revokes {number}", lambda: sandbox.unexpose_port(8080))
            nursery.start_soon(runtime.aclose)
            await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()
    assert {name: type(error) for name, error in outcomes.errors.items()} == dict.fromkeys(
        ["revokes 1", "revokes 2"], ShuttingDownError
    )
    assert {*outcomes.order} == {"expose", "waits", "revokes 0", "revokes 1", "revokes 2"}


# Alarms.

OLD, NEW = PreviewToken("the-old-token-of-it"), PreviewToken("the-new-token-of-it")


async def rotated(runtime: Runtime, grace: float) -> Sandbox:
    sandbox = await exposed(runtime)
    await sandbox.set_preview_auth(OLD.reveal())
    await sandbox.rotate_preview_auth(grace=grace, token=NEW.reveal())
    return sandbox


async def test_the_end_of_a_grace_is_never_early_and_cuts_who_leaned_on_the_old_token(
    autojump_clock: MockClock,
) -> None:
    async with running() as runtime:
        sandbox = await rotated(runtime, grace=60)
        old, new = await enter(runtime, at_the_door(bearer=OLD)), await enter(runtime, at_the_door(bearer=NEW))
        await trio.sleep(59.9)
        assert old.cut_because is None
        assert (await sandbox.state()).auth.previous is not None  # type: ignore[union-attr]  # there is a gate
        await trio.sleep(0.2)
        assert [old.cut_because, new.cut_because] == [CutBecause.ROTATED, None]
        assert (await sandbox.state()).auth.previous is None  # type: ignore[union-attr]  # there is a gate
        assert await runtime.admit(NAME, at_the_door(bearer=OLD)) is RefusedBecause.AUTH_INVALID
        new.end()


async def test_an_alarm_keeps_its_actor_in_memory_until_it_has_fired(autojump_clock: MockClock) -> None:
    async with running(limits=Limits(rest_after_s=10)) as runtime:
        await rotated(runtime, grace=100)
        await trio.sleep(99)
        assert runtime.statistics().actors == 1
        await trio.sleep(12)
        assert runtime.statistics().actors == 0


async def test_an_overdue_alarm_fires_on_activation_and_expiry_does_not_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        await rotated(runtime, grace=100)
    late = EPOCH + 1000
    async with open_runtime(store, containers={"process": fake_containers()}, clock=lambda: late) as runtime:
        assert await runtime.admit(NAME, at_the_door(bearer=OLD)) is RefusedBecause.AUTH_INVALID
        await trio.sleep(0.1)
        state = await (await runtime.find_sandbox(NAME)).state()
        assert state.auth is not None
        assert state.auth.previous is None
    names = [record.name for record in (await store.read(NAME)).records]
    assert names.count("preview_auth_grace_ended") == 1


async def test_an_alarm_whose_append_fails_fires_again(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await rotated(runtime, grace=60)
        store.fail_next_append()
        await trio.sleep(61)
        state = await sandbox.state()
        await trio.sleep(1)
        state = await sandbox.state()
        assert state.auth is not None
        assert state.auth.previous is None


async def test_a_wall_clock_that_lags_does_not_make_an_alarm_early(autojump_clock: MockClock) -> None:
    wall = [EPOCH]
    store = FaultyStore(MemoryStore())
    containers = {"process": fake_containers()}
    async with open_runtime(store, containers=containers, clock=lambda: wall[0]) as runtime:
        sandbox = await rotated(runtime, grace=1)
        wall[0] = EPOCH + 0.9999
        await trio.sleep(5)
        state = await sandbox.state()
        assert state.auth is not None
        assert state.auth.previous is not None
        wall[0] = EPOCH + 1
        await trio.sleep(5)
        assert (await sandbox.state()).auth.previous is None  # type: ignore[union-attr]  # there is a gate


# Supervision.


async def break_once(store: FaultyStore, sandbox: Sandbox) -> None:
    store.fail_next_append()
    with pytest.raises(ActorBrokenError):
        await sandbox.expose_port(2001)


async def test_a_broken_actor_is_rebuilt_ever_more_slowly(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        waits = []
        for _ in range(BREAKAGES_MAX):
            await break_once(store, sandbox)
            before = trio.current_time()
            await sandbox.state()
            waits.append(round(trio.current_time() - before, 3))
        assert waits == [0.05, 0.1, 0.2, 0.4, 0.8]


async def test_one_that_breaks_too_often_is_quarantined_and_its_neighbour_is_not(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store) as runtime:
        sandbox = await exposed(runtime)
        neighbour = await runtime.get_sandbox("neighbour")
        for _ in range(BREAKAGES_MAX + 1):
            await break_once(store, sandbox)
            await trio.sleep(1)
        began = trio.current_time()
        for call in (sandbox.state, lambda: sandbox.unexpose_port(8080), lambda: runtime.admit(NAME, at_the_door())):
            with pytest.raises(QuarantinedError):
                await call()
        assert trio.current_time() == began, "a refusal is immediate"
        await neighbour.expose_port(8080)
        await trio.sleep(WINDOW_S)
        assert (await sandbox.state()).ports.keys() == {8080}, "the time is served"
        await sandbox.expose_port(2001)


async def test_breakages_are_remembered_while_nobody_asks(autojump_clock: MockClock) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store, Limits(rest_after_s=0.5)) as runtime:
        sandbox = await exposed(runtime)
        for _ in range(BREAKAGES_MAX + 1):
            await break_once(store, sandbox)
            await trio.sleep(2)
        with pytest.raises(QuarantinedError):
            await sandbox.state()
        await trio.sleep(WINDOW_S * 2)
        assert runtime.statistics().actors == 0


async def test_who_waits_when_the_quarantine_begins_is_refused(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store = FaultyStore(MemoryStore())
    async with running(store, Limits(mailbox_room=1, mailbox_reserve=1)) as runtime:
        sandbox = await exposed(runtime)
        for _ in range(BREAKAGES_MAX):
            await break_once(store, sandbox)
            await trio.sleep(1)
        outcomes = Outcomes(nursery)
        store.fail_next_append()
        with store.hold_appends():
            await outcomes.start("fails", lambda: sandbox.expose_port(2001))
            await outcomes.start("waits", sandbox.get_exposed_ports)
            for number in range(3):
                await outcomes.start(f"revokes {number}", lambda: sandbox.unexpose_port(8080))
        await trio.sleep(1)
        assert isinstance(outcomes.errors.pop("fails"), ActorBrokenError)
        assert {name: type(error) for name, error in outcomes.errors.items()} == dict.fromkeys(
            ["waits", "revokes 0", "revokes 1", "revokes 2"], QuarantinedError
        )


async def test_a_bug_that_no_caller_can_be_told_of_breaks_its_own_actor_only(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    containers = fake_containers()
    async with running(containers=containers) as runtime:
        sandbox = await exposed(runtime)
        neighbour = await runtime.get_sandbox("neighbour")
        visit = await enter(runtime)
        run = containers.made[NAME].run
        assert run is not None
        with monkeypatch.context() as patch, capture_logs() as lines:
            patch.setattr(activation, "decide", fail)
            run.end()
            await wait_all_tasks_blocked()
        assert [line["event"] for line in lines] == ["run ended", "actor failed", "actor broken"]
        assert visit.cut_because is CutBecause.RUN_ENDED
        await neighbour.expose_port(8080)
        assert await sandbox.is_port_exposed(8080)
        (await enter(runtime)).end()


async def test_a_corrupt_log_refuses_its_own_sandbox_only_and_says_where(autojump_clock: MockClock) -> None:
    memory = MemoryStore()
    async with running(FaultyStore(memory)) as runtime:
        await exposed(runtime)
        await runtime.get_sandbox("neighbour")
    memory.tamper(NAME, lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:])
    async with running(FaultyStore(memory)) as runtime:
        for _ in range(3):
            with pytest.raises(LogCorruptError) as caught:
                await runtime.admit(NAME, at_the_door())
            assert caught.value.offset == 0
        with pytest.raises(LogCorruptError):
            await runtime.find_sandbox(NAME)
        assert await (await runtime.find_sandbox("neighbour")).get_exposed_ports() == []


@pytest.mark.parametrize(("name", "version"), [("port_exposed", 2), ("port_blessed", 1)])
async def test_an_unknown_record_stops_the_sandbox_and_is_not_skipped(
    name: str, version: int, autojump_clock: MockClock
) -> None:
    memory = MemoryStore()
    async with running(FaultyStore(memory)) as runtime:
        await exposed(runtime)
    await memory.append(await memory.claim(NAME), [Entry(EPOCH, name, version, {"port": 8080})])
    async with running(FaultyStore(memory)) as runtime:
        with pytest.raises(UnknownRecordError, match=name):
            await runtime.find_sandbox(NAME)
        with pytest.raises(UnknownRecordError, match=name):
            await runtime.admit(NAME, at_the_door())
        with pytest.raises(UnknownRecordError, match=name):
            await runtime.get_sandbox(NAME)
    assert (await memory.read(NAME)).records[-1].name == name


async def test_closing_does_not_wait_for_a_back_off_or_a_quarantine(autojump_clock: MockClock) -> None:
    for breakages in (1, BREAKAGES_MAX + 1):
        store = FaultyStore(MemoryStore())
        async with running(store) as runtime:
            sandbox = await exposed(runtime)
            for _ in range(breakages):
                await break_once(store, sandbox)
            began = trio.current_time()
        assert trio.current_time() == began


# A plain call and a turn are the same.

Op = tuple[str, int, int]
"""What, a port's last digit, a token's number."""
KINDS = st.sampled_from(["visit", "expose", "unexpose", "gate", "rotate"])
OPS = st.tuples(KINDS, st.integers(0, 1), st.integers(0, 2))
SECRETS = [PreviewToken(f"the-preview-token-{number}") for number in range(3)]


def command_of(op: Op) -> Command:
    what, port, token = op
    match what:
        case "expose":
            return ExposePort(8080 + port, minted=PortToken("unused"), token=PortToken(f"token{token}"))
        case "unexpose":
            return UnexposePort(8080 + port)
        case "gate":
            return SetPreviewAuth(SECRETS[token].digest())
    return RotatePreviewAuth(SECRETS[token].digest(), 1000.0 * port)


class Model:
    """What the same operations come to, one after the other."""

    def __init__(self) -> None:
        self.state = evolve(None, decide(None, CreateSandbox(NAME), 0.0)[0])  # type: ignore[index]  # no refusal
        self.grants: dict[int, Grant] = {}
        self.cut: dict[int, CutBecause] = {}

    def visit(self, number: int, request: VisitRequest) -> object:
        assert self.state.run_id is not None
        judged = admit(self.state, request, EPOCH)
        if isinstance(judged, Grant):
            self.grants[number] = judged
        return judged

    def command(self, command: Command) -> object:
        decided = decide(self.state, command, EPOCH)
        if isinstance(decided, Refusal):
            return type(decided.to_error())
        for event in decided:
            self.state = evolve(self.state, event)
        for number, grant in self.grants.items():
            reason = still_holds(self.state, grant, EPOCH)
            if reason is not None:
                self.cut.setdefault(number, reason)
        return None


@settings(max_examples=60)
@given(ops=st.lists(st.tuples(OPS, st.integers(0, 4)), max_size=25), held=st.booleans())
def test_plain_calls_and_turns_come_to_what_one_after_the_other_comes_to(ops: list[tuple[Op, int]], held: bool) -> None:
    """Calls overlap as they like; what they come to must be what they come to in the order of their arrival."""

    async def check() -> None:
        store = FaultyStore(MemoryStore())
        async with open_runtime(store, containers={"process": fake_containers()}, clock=lambda: EPOCH) as runtime:
            sandbox = await runtime.get_sandbox(NAME)
            async with sandbox.running() as run:
                pass
            model = Model()
            model.state = fold(await _events(store))  # type: ignore[assignment]  # there is a sandbox
            assert model.state.run_id == run.run_id
            arrived: list[tuple[int, Op]] = []
            results: dict[int, object] = {}
            visits: dict[int, Visit] = {}

            async def perform(number: int, op: Op) -> None:
                what, port, token = op
                # From here to where the message is in the mailbox, or is judged, nothing else runs.
                arrived.append((number, op))
                try:
                    if what == "visit":
                        judged = await runtime.admit(NAME, at_the_door(8080 + port, f"token{token}", SECRETS[token]))
                        results[number] = judged.grant if isinstance(judged, Visit) else judged
                        if isinstance(judged, Visit):
                            visits[number] = judged
                            judged.on_cut(lambda _: judged.end())
                    else:
                        await runtime.call(NAME, command_of(op))
                        results[number] = None
                except PorticoError as error:
                    results[number] = type(error)

            async with trio.open_nursery() as nursery:
                if held:
                    nursery.start_soon(_hold_for_a_while, store)
                for number, (op, pause) in enumerate(ops):
                    nursery.start_soon(perform, number, op)
                    for _ in range(pause):
                        await trio.lowlevel.checkpoint()

            expected: dict[int, object] = {}
            for number, (what, port, token) in arrived:
                if what == "visit":
                    request = at_the_door(8080 + port, f"token{token}", SECRETS[token])
                    expected[number] = model.visit(number, request)
                else:
                    expected[number] = model.command(command_of((what, port, token)))
            assert results == expected
            cut = {number: visit.cut_because for number, visit in visits.items() if visit.cut_because is not None}
            assert cut == model.cut
            assert await sandbox.state() == model.state
            for visit in visits.values():
                visit.end()

    trio.run(check)


async def _hold_for_a_while(store: FaultyStore) -> None:
    with store.hold_appends():
        for _ in range(10):
            await trio.lowlevel.checkpoint()


async def _events(store: FaultyStore) -> list[Event]:
    return [decode(record.name, record.version, record.fields) for record in (await store.read(NAME)).records]


# The end.


async def test_an_actor_that_has_ended_refuses_rather_than_keeping_a_message() -> None:
    async with running() as runtime:
        await exposed(runtime)
        (actor,) = runtime._actors.values()
    assert isinstance(actor, Actor)
    for call in (actor.look, lambda: actor.call(UnexposePort(8080)), actor.lease_run):
        with pytest.raises((ActorGoneError, ShuttingDownError)):
            await call()
    assert actor.phase is Phase.DORMANT
