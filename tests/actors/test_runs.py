"""The keeper of runs, against a fake container: what it reports, and that no run is left behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from actors.children import Children
from actors.messages import Report, RunDue, RunFailed, RunGone, RunReady
from actors.runs import RunKeeper, stop
from actors.sandbox.events import RunEnd
from actors.sandbox.ids import SandboxId
from actors.testing.containers import FakeContainer, FakeRun

START_TIMEOUT_S = 90.0


@dataclass
class Scene:
    keeper: RunKeeper
    children: Children
    container: FakeContainer
    reports: list[Report] = field(default_factory=list)

    async def up(self, run_id: str = "run-1") -> FakeRun:
        """Bring a run up and welcome it."""
        self.keeper.bring_up(self.container, run_id, reattach=False)
        await self.children.wait_none()
        report = self.reports.pop()
        assert isinstance(report, RunReady)
        assert isinstance(report.run, FakeRun)
        self.keeper.came_up()
        self.keeper.welcome(report.run)
        await wait_all_tasks_blocked()
        return report.run


class StubbornContainer(FakeContainer):
    """Comes up although it was cancelled meanwhile, and finds runs again when told to."""

    detachable = False

    async def start(self, run_id: str, nursery: trio.Nursery) -> FakeRun:
        with trio.CancelScope(shield=True):
            self.run = await super().start(run_id, nursery)
        assert self.run is not None
        return self.run

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> FakeRun:  # type: ignore[override]  # finds one
        run = await self.start(run_id, nursery)
        type(run).detachable = self.detachable
        return run


@asynccontextmanager
async def scene(make: type[FakeContainer] = FakeContainer) -> AsyncIterator[Scene]:
    container = make({})
    reports: list[Report] = []
    async with trio.open_nursery() as nursery:
        children = Children(nursery)
        keeper = RunKeeper(SandboxId("my-app"), children, nursery, reports.append, START_TIMEOUT_S)
        yield Scene(keeper, children, container, reports)
        nursery.cancel_scope.cancel()


def ended(run: FakeRun | None) -> bool:
    return run is not None and run._ended.is_set()


async def test_a_started_run_is_reported_ready() -> None:
    async with scene() as s:
        s.keeper.bring_up(s.container, "run-1", reattach=False)
        assert s.keeper.coming_up is not None
        await s.children.wait_none()
        assert s.reports == [RunReady(s.container.run)]  # type: ignore[arg-type]  # it is not None
        assert s.keeper.run is None


async def test_a_failed_start_is_reported_with_its_reason() -> None:
    async with scene() as s:
        s.container.start_error = "no more memory"
        s.keeper.bring_up(s.container, "run-1", reattach=False)
        await s.children.wait_none()
        assert s.reports == [RunFailed("run-1", "no more memory")]


async def test_a_start_that_raises_what_it_must_not_is_reported_without_its_text() -> None:
    class Buggy(FakeContainer):
        async def start(self, run_id: str, nursery: trio.Nursery) -> FakeRun:
            raise KeyError("secret")

    async with scene(Buggy) as s:
        with capture_logs() as lines:
            s.keeper.bring_up(s.container, "run-1", reattach=False)
            await s.children.wait_none()
        assert s.reports == [RunFailed("run-1", "the container did not start (KeyError)")]
        assert [line["event"] for line in lines] == ["container did not start"]


async def test_a_start_that_takes_too_long_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with scene() as s:
        s.container.hold_starts()
        s.keeper.bring_up(s.container, "run-1", reattach=False)
        await s.children.wait_none()
        assert trio.current_time() == START_TIMEOUT_S
        assert s.reports == [RunFailed("run-1", "the container was not up within 90 seconds")]


async def test_a_start_that_is_called_off_is_reported_failed() -> None:
    async with scene() as s:
        s.container.hold_starts()
        s.keeper.bring_up(s.container, "run-1", reattach=False)
        await wait_all_tasks_blocked()
        s.keeper.call_off(stop)
        await s.keeper.wait_quiet()
        assert s.reports == [RunFailed("run-1", "it was stopped while it came up")]
        assert s.container.run is None


async def test_a_run_that_comes_up_in_the_moment_it_is_called_off_is_stopped() -> None:
    async with scene(StubbornContainer) as s:
        s.keeper.bring_up(s.container, "run-1", reattach=False)
        s.keeper.call_off(stop)
        await s.keeper.wait_quiet()
        assert s.reports == [RunFailed("run-1", "it was stopped while it came up")]
        assert ended(s.container.run)


async def test_a_run_that_is_not_found_again_is_reported_lost() -> None:
    async with scene() as s:
        s.keeper.bring_up(s.container, "run-1", reattach=True)
        await s.children.wait_none()
        assert s.reports == [RunGone("run-1", RunEnd.LOST)]


async def test_a_run_that_is_not_wanted_any_more_is_found_and_stopped() -> None:
    async with scene(StubbornContainer) as s:
        s.container.hold_starts()
        s.keeper.bring_up(s.container, "run-1", reattach=True)
        await wait_all_tasks_blocked()
        s.keeper.call_off(stop)
        s.container.release_starts()
        await s.keeper.wait_quiet()
        assert s.reports == [RunFailed("run-1", "it was stopped while it came up")]
        assert ended(s.container.run)


async def test_a_detachable_run_outlives_that_its_finding_was_given_up() -> None:
    async with scene(StubbornContainer) as s:
        s.container.detachable = True  # type: ignore[attr-defined]  # of the stubborn one
        try:
            s.keeper.bring_up(s.container, "run-1", reattach=True)
            await wait_all_tasks_blocked(0.0)
            s.keeper.give_up()
            await s.children.wait_none()
            assert [type(report) for report in s.reports] == [RunReady]
            assert not ended(s.container.run)
        finally:
            FakeRun.detachable = False


async def test_a_run_that_ends_by_itself_is_reported() -> None:
    async with scene() as s:
        run = await s.up()
        assert not s.children, "watching must not keep the actor in memory"
        run.end("out of memory")
        await wait_all_tasks_blocked()
        assert s.reports == [RunGone("run-1", RunEnd.EXITED)]


async def test_a_run_that_cannot_be_watched_counts_as_ended() -> None:
    async with scene() as s:
        run = FakeRun("run-1", s.container)

        async def fail() -> str:
            raise OSError("no such thing")

        run.wait_stopped = fail  # type: ignore[method-assign]  # a container with a bug
        with capture_logs():
            s.keeper.welcome(run)
            await wait_all_tasks_blocked()
        assert s.reports == [RunGone("run-1", RunEnd.EXITED)]


async def test_the_current_run_is_kept_and_any_other_parted_with() -> None:
    async with scene() as s:
        run = await s.up()
        assert s.keeper.part_with("run-1") is None
        assert s.keeper.run is run
        assert s.keeper.part_with("run-2") is run
        assert not s.keeper.must_end
        run.end()
        await wait_all_tasks_blocked()
        assert s.reports == [], "a run that was parted with is not watched any more"


async def test_parting_with_every_run_calls_off_the_one_that_comes_up() -> None:
    async with scene() as s:
        s.container.hold_starts()
        s.keeper.bring_up(s.container, "run-1", reattach=False)
        await wait_all_tasks_blocked()
        assert s.keeper.part_with(None) is None
        await s.children.wait_none()
        assert s.reports == [RunFailed("run-1", "it was stopped while it came up")]


async def test_a_start_waits_until_the_run_before_has_been_ended() -> None:
    async with scene() as s:
        run = await s.up()
        release = trio.Event()

        async def stop_slowly() -> None:
            await release.wait()
            run.end()

        run.stop = stop_slowly  # type: ignore[method-assign]  # a polite one
        parted = s.keeper.part_with(None)
        assert parted is run
        s.keeper.stop_soon(parted)
        s.keeper.bring_up(s.container, "run-2", reattach=False)
        await wait_all_tasks_blocked()
        assert s.container.starts == ["run-1"]
        release.set()
        await s.keeper.wait_quiet()
        assert s.container.starts == ["run-1", "run-2"]


async def test_a_run_that_does_not_stop_properly_is_logged() -> None:
    async with scene() as s:
        run = await s.up()

        async def fail() -> None:
            raise OSError("no such thing")

        run.stop = fail  # type: ignore[method-assign]  # a container with a bug
        with capture_logs() as lines:
            s.keeper.let_go()
            s.keeper.stop_soon(run)
            await s.children.wait_none()
        assert [line["event"] for line in lines] == ["run did not stop"]


async def test_news_of_another_run_leaves_the_one_that_is_due(autojump_clock: trio.testing.MockClock) -> None:
    async with scene() as s:
        s.keeper.come_back("run-1", ran=True)
        assert not s.keeper.take_due("run-0")
        await s.children.wait_none()
        assert s.reports == [RunDue("run-1")]
        assert s.keeper.take_due("run-1")
        assert not s.keeper.take_due("run-1")
