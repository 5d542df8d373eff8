"""Sleep and its end: a run that is put to sleep, by its owner or for want of use, and what waits for that."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.errors import (
    ContainerError,
    RevocationIncompleteError,
    SandboxStoppedError,
    TooManyVisitsError,
    TooManyWakesError,
)
from actors.handle import PortStatus, Sandbox
from actors.history import read_history
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import CutBecause, RefusedBecause, VisitRequest
from actors.sandbox.events import Event, RunEnd, RunEnded, RunStarted
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.surroundings import Limits
from actors.testing.containers import FakeContainer, FakeContainers, FakeRun, fake_containers
from actors.visits import Visit

NAME = SandboxId("my-app")
LIMITS = Limits(rest_after_s=30, wakes_per_minute=3, wakes_per_client_per_minute=2, cut_timeout_s=10)


class Scene:
    def __init__(self, runtime: Runtime, store: MemoryStore, containers: FakeContainers, sandbox: Sandbox) -> None:
        self.runtime = runtime
        self.store = store
        self.containers = containers
        self.sandbox = sandbox

    @property
    def container(self) -> FakeContainer:
        return self.containers.made[NAME]

    @property
    def starts(self) -> int:
        return len(self.container.starts)

    async def admit(self, *, token: str = "secret", client: str | None = None, websocket: bool = False) -> object:
        request = VisitRequest(Port(8080), PortToken(token), websocket=websocket)
        admitted = await self.runtime.admit(NAME, request, client=client)
        if isinstance(admitted, Visit):
            # A well-behaved holder.
            visit = admitted
            visit.on_cut(lambda _: visit.end())
        return admitted

    async def visit(self) -> Visit:
        visit = await self.admit()
        assert isinstance(visit, Visit)
        return visit

    async def ended_by(self) -> list[Event]:
        moments = await read_history(self.store, NAME)
        return [moment.event for moment in moments if isinstance(moment.event, RunEnded)]


@asynccontextmanager
async def scene(*, sleep_after: float | None = None, limits: Limits = LIMITS) -> AsyncIterator[Scene]:
    store, containers = MemoryStore(), fake_containers()
    async with open_runtime(store, containers={"process": containers}, limits=limits) as runtime:
        sandbox = await runtime.get_sandbox(NAME, sleep_after=sleep_after)
        await sandbox.expose_port(8080, token="secret")
        yield Scene(runtime, store, containers, sandbox)


# By its owner.


async def test_hibernate_cuts_what_streams_ends_the_run_as_slept_and_is_idempotent() -> None:
    async with scene() as s:
        visit = await s.visit()
        assert await s.sandbox.hibernate() == 1
        assert visit.cut_because is CutBecause.RUN_ENDED
        assert s.container.slept == [visit.grant.run_id]
        assert await s.ended_by() == [RunEnded(visit.grant.run_id, RunEnd.SLEPT)]
        assert await s.sandbox.hibernate() == 0
        assert len(await s.ended_by()) == 1
        assert [port.status for port in await s.sandbox.get_exposed_ports()] == [PortStatus.ASLEEP]


async def test_the_next_right_request_wakes_another_run_and_a_wrong_one_does_not() -> None:
    async with scene() as s:
        old = await s.visit()
        await s.sandbox.hibernate()
        assert await s.admit(token="guess") is RefusedBecause.INVALID_TOKEN
        assert s.starts == 1
        new = await s.visit()
        assert new.grant.run_id != old.grant.run_id
        assert s.starts == 2


async def test_wake_is_idempotent_and_keeps_the_owners_policy() -> None:
    async with scene() as s:
        before = await s.sandbox.state()
        await s.sandbox.wake()
        await s.sandbox.wake()
        assert s.starts == 1
        await s.sandbox.hibernate()
        assert await s.sandbox.state() == replace(before, slept=True)


async def test_a_stale_sandbox_is_woken_by_its_owner_alone_and_stays_stale() -> None:
    containers = fake_containers()
    async with open_runtime(MemoryStore(), containers={"process": containers}) as runtime:
        sandbox = await runtime.get_sandbox(NAME, when_asleep="stale")
        await sandbox.expose_port(8080, token="secret")
        request = VisitRequest(Port(8080), PortToken("secret"))
        assert await runtime.admit(NAME, request) is RefusedBecause.STALE_PREVIEW_URL
        await sandbox.wake()
        visit = await runtime.admit(NAME, request)
        assert isinstance(visit, Visit)
        visit.end()
        await sandbox.hibernate()
        assert await runtime.admit(NAME, request) is RefusedBecause.STALE_PREVIEW_URL


async def test_many_at_once_wake_once_and_are_served_in_order(nursery: trio.Nursery) -> None:
    async with scene() as s:
        await s.sandbox.wake()
        await s.sandbox.hibernate()
        s.container.hold_starts()
        order: list[int] = []

        async def come(number: int) -> None:
            await s.visit()
            order.append(number)

        for number in range(100):
            nursery.start_soon(come, number)
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        s.container.release_starts()
        await wait_all_tasks_blocked()
        assert sorted(order) == list(range(100))
        assert s.starts == 2


async def test_a_wake_waits_until_the_run_before_is_asleep(nursery: trio.Nursery) -> None:
    async with scene() as s:
        await s.sandbox.wake()
        s.container.falling = trio.Event()
        nursery.start_soon(s.sandbox.hibernate)
        await wait_all_tasks_blocked()
        nursery.start_soon(s.sandbox.wake)
        await wait_all_tasks_blocked()
        assert s.starts == 1, "two runs of one sandbox would want the same ports"
        s.container.falling.set()
        await wait_all_tasks_blocked()
        assert s.starts == 2


async def test_hibernate_while_it_wakes_calls_that_off_and_who_waits_wakes_it_anew(nursery: trio.Nursery) -> None:
    async with scene() as s:
        await s.sandbox.wake()
        await s.sandbox.hibernate()
        s.container.hold_starts()
        visits: list[Visit] = []

        async def come() -> None:
            visits.append(await s.visit())

        nursery.start_soon(come)
        await wait_all_tasks_blocked()
        await s.sandbox.hibernate()
        s.container.release_starts()
        await wait_all_tasks_blocked()
        assert len(visits) == 1
        assert visits[0].grant.run_id == s.container.starts[-1]
        assert s.starts == 3


async def test_what_goes_wrong_on_the_way_to_sleep_is_told_and_it_sleeps_all_the_same() -> None:
    async with scene() as s:
        visit = await s.visit()
        s.container.sleep_error = "nobody answered"
        with pytest.raises(ContainerError, match="nobody answered"):
            await s.sandbox.hibernate()
        assert (await s.sandbox.state()).run_id is None
        assert visit.cut_because is CutBecause.RUN_ENDED


async def test_visits_that_do_not_end_are_told_of(autojump_clock: MockClock) -> None:
    async with scene() as s:
        await s.sandbox.wake()
        stubborn = await s.runtime.admit(NAME, VisitRequest(Port(8080), PortToken("secret")))
        assert isinstance(stubborn, Visit)
        with pytest.raises(RevocationIncompleteError):
            await s.sandbox.hibernate()
        stubborn.end()


async def test_stopping_one_that_sleeps_lets_its_container_forget_what_sleeps() -> None:
    async with scene() as s:
        await s.sandbox.wake()
        await s.sandbox.hibernate()
        await s.sandbox.stop()
        assert s.container.retired
        with pytest.raises(SandboxStoppedError):
            await s.sandbox.hibernate()


async def test_a_run_that_an_earlier_activation_left_is_found_and_put_to_sleep(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reattach(self: FakeContainer, run_id: str, nursery: trio.Nursery) -> FakeRun | None:
        return self.run

    monkeypatch.setattr(FakeRun, "detachable", True)
    async with scene() as s:
        await s.sandbox.wake()
        run = s.container.run
        await trio.sleep(100)
        assert s.runtime.statistics().actors == 0
        await s.sandbox.get_exposed_ports()
        s.container.run = run
        monkeypatch.setattr(FakeContainer, "reattach", reattach)
        await s.sandbox.hibernate()
        assert run is not None
        # The fake notes it where the run began.
        assert run._container.slept == [run.run_id]


# For want of use.


async def test_it_sleeps_after_its_time_without_use_and_not_before(autojump_clock: MockClock) -> None:
    async with scene(sleep_after=100) as s:
        visit = await s.visit()
        await trio.sleep(1000)
        assert s.container.slept == [], "never under a live stream"
        visit.end()
        await trio.sleep(99)
        assert s.container.slept == []
        await trio.sleep(2)
        assert s.container.slept == s.container.starts
        assert await s.ended_by() == [RunEnded(visit.grant.run_id, RunEnd.SLEPT)]


async def test_what_its_owner_does_inside_keeps_it_up(autojump_clock: MockClock) -> None:
    async with scene(sleep_after=100) as s:
        async with s.sandbox.running():
            await trio.sleep(1000)
            assert s.container.slept == []
        await trio.sleep(99)
        assert s.container.slept == []
        await trio.sleep(2)
        assert s.container.slept == s.container.starts


async def test_a_service_that_nobody_visits_does_not_keep_it_up(autojump_clock: MockClock) -> None:
    async with scene(sleep_after=100) as s:
        await s.sandbox.start_process("serve")
        await trio.sleep(101)
        assert len(s.container.slept) == 1


async def test_one_that_is_never_to_sleep_stays_up_until_told_otherwise(autojump_clock: MockClock) -> None:
    async with scene(sleep_after=None) as s:
        await s.sandbox.wake()
        await trio.sleep(80_000)
        assert s.container.slept == []
        await s.sandbox.set_sleep_after(60)
        await trio.sleep(61)
        assert len(s.container.slept) == 1


async def test_its_time_without_use_survives_a_restart(autojump_clock: MockClock) -> None:
    store, containers = MemoryStore(), fake_containers()
    async with open_runtime(store, containers={"process": containers}) as runtime:
        await runtime.get_sandbox(NAME, sleep_after=60)
    async with open_runtime(store, containers={"process": containers}) as runtime:
        sandbox = await runtime.find_sandbox(NAME)
        await sandbox.wake()
        await trio.sleep(61)
        assert len(containers.made[NAME].slept) == 1


# WebSockets.


async def test_a_websocket_handshake_wakes_only_by_a_port_that_says_so() -> None:
    async with scene() as s:
        await s.sandbox.wake()
        await s.sandbox.hibernate()
        assert await s.admit(websocket=True) is RefusedBecause.ASLEEP
        assert (await s.sandbox.state()).run_id is None
        await s.sandbox.expose_port(8080, wake_on_websocket=True)
        assert isinstance(await s.admit(websocket=True), Visit)


# Budgets.


async def test_visitors_have_a_sandbox_woken_only_so_often_and_its_owner_as_often_as_it_likes() -> None:
    async with scene() as s:
        for _ in range(3):
            await s.visit()
            await s.sandbox.hibernate()
        with pytest.raises(TooManyWakesError):
            await s.admit()
        await s.sandbox.wake()
        await s.visit()
        assert s.starts == 4


async def test_a_client_has_sandboxes_woken_only_so_often_and_may_enter_what_is_up() -> None:
    async with scene() as s:
        for _ in range(2):
            assert isinstance(await s.admit(client="192.0.2.7"), Visit)
            await s.sandbox.hibernate()
        with pytest.raises(TooManyWakesError):
            await s.admit(client="192.0.2.7")
        assert isinstance(await s.admit(client="192.0.2.8"), Visit)
        assert isinstance(await s.admit(client="192.0.2.7"), Visit)


async def test_the_budget_outlives_the_actors_stay_in_memory(autojump_clock: MockClock) -> None:
    async with scene(limits=Limits(rest_after_s=1, wakes_per_minute=3)) as s:
        for _ in range(3):
            await s.visit()
            await s.sandbox.hibernate()
        await trio.sleep(3)
        assert s.runtime.statistics().actors == 0
        with pytest.raises(TooManyWakesError):
            await s.admit()
        await trio.sleep(60)
        await s.visit()


async def test_one_client_may_not_hold_all_the_places_of_those_who_wait(nursery: trio.Nursery) -> None:
    async with scene(limits=Limits(held_per_client_max=2)) as s:
        await s.sandbox.wake()
        await s.sandbox.hibernate()
        s.container.hold_starts()
        for client in ("192.0.2.7", "192.0.2.7", "192.0.2.8"):

            async def come(client: str = client) -> None:
                await s.admit(client=client)

            nursery.start_soon(come)
        await wait_all_tasks_blocked()
        with pytest.raises(TooManyVisitsError):
            await s.admit(client="192.0.2.7")
        s.container.release_starts()
        await wait_all_tasks_blocked()


async def test_a_failed_start_is_told_and_counts_as_a_wake() -> None:
    async with scene() as s:
        await s.sandbox.get_exposed_ports()
        s.container.start_error = "no room"
        for _ in range(3):
            with pytest.raises(ContainerError, match="no room"):
                await s.admit()
        with pytest.raises(TooManyWakesError):
            await s.admit()
        moments = await read_history(s.store, NAME)
        assert sum(isinstance(moment.event, RunStarted) for moment in moments) == 3


async def test_a_short_time_to_sleep_after_is_kept_although_no_turn_ends_the_use(autojump_clock: MockClock) -> None:
    async with scene(sleep_after=1) as s:
        visit = await s.visit()
        await trio.sleep(2)
        visit.end()
        await trio.sleep(2.5)
        assert s.container.slept == [visit.grant.run_id]


async def test_a_run_that_does_not_stop_properly_leaves_no_environments_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = FakeRun.stop

    async def untidy(run: FakeRun) -> None:
        await stop(run)
        raise OSError("the disk is on fire")

    async with scene() as s:
        await s.visit()
        monkeypatch.setattr(FakeRun, "stop", untidy)
        with pytest.raises(ContainerError):
            await s.sandbox.stop()
        assert s.container.retired


async def test_who_puts_it_to_sleep_does_not_wait_for_the_run_after_it(nursery: trio.Nursery) -> None:
    async with scene() as s:
        s.container.hold_starts()
        nursery.start_soon(s.admit)
        await wait_all_tasks_blocked()
        # The visitor still waits, so the sandbox is woken again at once, and that takes its time.
        with trio.fail_after(5):
            assert await s.sandbox.hibernate() == 0
        await wait_all_tasks_blocked()
        assert s.starts == 2
        s.container.release_starts()
        await wait_all_tasks_blocked()
