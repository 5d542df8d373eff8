"""Visits and their book: cords that are pulled once, drains, and who waits for whose end."""

import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from actors.sandbox.admission import CutBecause, Grant, VisitRequest, admit
from actors.sandbox.decide import (
    Command,
    CreateSandbox,
    ExposePort,
    FireAlarm,
    RotatePreviewAuth,
    SetPreviewAuth,
    StopSandbox,
    UnexposePort,
    decide,
)
from actors.sandbox.events import RunEnd, RunEnded, RunStarted
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId
from actors.sandbox.state import SandboxState, evolve
from actors.testing.containers import FakeContainer, FakeRun
from actors.visits import Ending, Visit, VisitBook, pull, wait_all_ended, wait_cut

RUN = FakeRun("run-1", FakeContainer({}))
SECRET = PreviewToken("0123456789abcdef")
OTHER_SECRET = PreviewToken("fedcba9876543210")


class Scene:
    """A state that commands change, and the book of its visits."""

    def __init__(self) -> None:
        self.book = VisitBook()
        self.now = 100.0
        self.state: SandboxState | None = None
        self.do(CreateSandbox(SandboxId("my-app")))
        for port in (8080, 9090):
            self.do(ExposePort(port, minted=PortToken(f"token{port}")))
        self.state = evolve(self.state, RunStarted("run-1"))

    def do(self, command: Command) -> list[Ending]:
        events = decide(self.state, command, self.now)
        assert isinstance(events, tuple)
        for event in events:
            self.state = evolve(self.state, event)
        return self.book.losing(command, self.state, self.now)

    def visit(self, port: int = 8080, secret: PreviewToken | None = None) -> Visit:
        bearer = secret.reveal().encode() if secret is not None else None
        grant = admit(self.state, VisitRequest(Port(port), PortToken(f"token{port}"), bearer), self.now)
        assert isinstance(grant, Grant)
        return self.book.open(grant, RUN)


async def test_a_visit_is_under_way_until_its_end_which_may_be_told_twice() -> None:
    scene = Scene()
    visit, other = scene.visit(), scene.visit()
    visit.end()
    visit.end()
    assert [visit.under_way, other.under_way] == [False, True]
    assert list(scene.book) == [other]


async def test_the_time_is_noted_when_the_last_visit_ends(mock_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    first, second = scene.visit(), scene.visit()
    mock_clock.jump(5)
    first.end()
    assert scene.book.last_end == -float("inf")
    mock_clock.jump(5)
    second.end()
    assert scene.book.last_end == trio.current_time()


async def test_a_pulled_cord_is_told_once_with_the_first_reason() -> None:
    visit = Scene().visit()
    told: list[CutBecause] = []
    visit.on_cut(told.append)
    visit.pull(CutBecause.UNEXPOSED)
    visit.pull(CutBecause.STOPPED)
    assert told == [CutBecause.UNEXPOSED]
    assert visit.cut_because is CutBecause.UNEXPOSED


async def test_a_cord_that_was_pulled_before_anybody_listened_is_told_at_once() -> None:
    visit = Scene().visit()
    visit.pull(CutBecause.ROTATED)
    told: list[CutBecause] = []
    visit.on_cut(told.append)
    assert told == [CutBecause.ROTATED]


async def test_an_ended_visit_is_not_cut_any_more() -> None:
    visit = Scene().visit()
    told: list[CutBecause] = []
    visit.on_cut(told.append)
    visit.end()
    visit.pull(CutBecause.STOPPED)
    assert told == []
    assert visit.cut_because is None


async def test_a_holder_that_raises_does_not_save_the_visits_behind_it() -> None:
    scene = Scene()
    visits = [scene.visit() for _ in range(3)]
    told: list[CutBecause] = []

    def raise_instead(_reason: CutBecause) -> None:
        raise RuntimeError("a bug of the holder's")

    visits[0].on_cut(raise_instead)
    visits[1].on_cut(told.append)
    visits[2].on_cut(lambda _: visits[2].end())
    with capture_logs() as lines:
        scene.book.pull_all(CutBecause.STOPPED)
    assert told == [CutBecause.STOPPED]
    assert not visits[2].under_way
    assert [line["event"] for line in lines] == ["a visit did not take its cut"]


async def test_the_wait_for_the_end_is_over_when_the_last_visit_has_ended(nursery: trio.Nursery) -> None:
    scene = Scene()
    visits = [scene.visit() for _ in range(3)]
    done: list[int] = []

    async def wait() -> None:
        done.append(await wait_all_ended(visits, 10))

    nursery.start_soon(wait)
    nursery.start_soon(wait)
    for visit in reversed(visits):
        await wait_all_tasks_blocked()
        assert done == []
        visit.end()
    await wait_all_tasks_blocked()
    assert done == [0, 0]


async def test_the_wait_for_the_end_gives_up_and_counts(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    visits = [scene.visit() for _ in range(3)]
    visits[1].end()
    assert await wait_all_ended(visits, 10) == 2
    assert trio.current_time() == 10


async def test_a_visit_that_had_ended_by_itself_was_not_cut(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    ended, cut, stuck = (scene.visit() for _ in range(3))
    cut.on_cut(lambda _: cut.end())
    losing = scene.do(UnexposePort(8080))
    ended.end()
    pull(losing)
    assert await wait_cut(losing, 5) == (2, 1)
    assert stuck.under_way


async def test_a_command_loses_the_visits_that_leaned_on_what_it_took() -> None:
    scene = Scene()
    mine, other = scene.visit(8080), scene.visit(9090)
    assert scene.do(UnexposePort(8080)) == [(mine, CutBecause.UNEXPOSED)]
    assert scene.do(StopSandbox()) == [(mine, CutBecause.STOPPED), (other, CutBecause.STOPPED)]


async def test_a_second_revocation_of_the_same_waits_for_the_same_visits() -> None:
    scene = Scene()
    mine = scene.visit(8080)
    pull(scene.do(UnexposePort(8080)))
    assert scene.do(UnexposePort(8080)) == [(mine, CutBecause.UNEXPOSED)]


async def test_other_commands_do_not_wait_for_visits_that_were_cut_before() -> None:
    scene = Scene()
    scene.visit(8080)
    pull(scene.do(UnexposePort(8080)))
    assert scene.do(UnexposePort(9090)) == []
    assert scene.do(ExposePort(7070, minted=PortToken("token7070"))) == []
    assert scene.do(FireAlarm()) == []


async def test_a_lingering_visit_is_left_alone_by_what_does_not_concern_it() -> None:
    scene = Scene()
    scene.book.let_linger([(scene.visit(8080), CutBecause.UNEXPOSED)])
    scene.do(UnexposePort(8080))
    assert scene.do(UnexposePort(9090)) == []
    assert scene.do(ExposePort(8080, minted=PortToken("another"))) == []
    assert scene.book.groundless(scene.state, scene.now) == []


async def test_a_lingering_visit_is_lost_to_a_second_unexposing_to_the_gate_and_to_the_end() -> None:
    for command, reason in (
        (UnexposePort(8080), CutBecause.UNEXPOSED),
        (SetPreviewAuth(SECRET.digest()), CutBecause.ROTATED),
        (StopSandbox(), CutBecause.STOPPED),
    ):
        scene = Scene()
        visit = scene.visit(8080)
        scene.book.let_linger(scene.do(UnexposePort(8080)))
        assert visit.cut_because is None
        assert scene.do(command) == [(visit, reason)]


async def test_a_lingering_visit_is_lost_with_its_run() -> None:
    scene = Scene()
    visit = scene.visit(8080)
    scene.book.let_linger(scene.do(UnexposePort(8080)))
    assert scene.state is not None
    ended = evolve(scene.state, RunEnded("run-1", RunEnd.EXITED))
    assert scene.book.groundless(ended, scene.now) == [(visit, CutBecause.RUN_ENDED)]


async def test_what_lost_more_than_its_port_does_not_linger() -> None:
    visit = Scene().visit(8080)
    VisitBook().let_linger([(visit, CutBecause.ROTATED)])
    assert visit.cut_because is CutBecause.ROTATED


async def test_visits_of_the_old_bearer_token_are_lost_when_its_grace_ends() -> None:
    scene = Scene()
    scene.do(SetPreviewAuth(SECRET.digest()))
    old = scene.visit(8080, SECRET)
    assert scene.do(RotatePreviewAuth(OTHER_SECRET.digest(), grace=10)) == []
    new = scene.visit(8080, OTHER_SECRET)
    scene.now += 10
    assert scene.do(FireAlarm()) == [(old, CutBecause.ROTATED)]
    assert new.cut_because is None


async def test_a_drain_ends_with_its_time_and_cuts_what_is_left(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    short, long = scene.visit(), scene.visit()
    lingering = scene.do(UnexposePort(8080))
    scene.book.let_linger(lingering)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.book.drain, lingering, 60)
        await trio.sleep(30)
        short.end()
        await trio.sleep(29)
        assert long.cut_because is None
    assert trio.current_time() == 60
    assert short.cut_because is None
    assert [long.cut_because] == [CutBecause.UNEXPOSED]


async def test_a_drain_ends_when_its_last_visit_does(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    visit = scene.visit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.book.drain, scene.do(UnexposePort(8080)), 60)
        await trio.sleep(30)
        visit.end()
    assert trio.current_time() == 30


async def test_a_drain_ends_at_once_when_everything_does(autojump_clock: trio.testing.MockClock) -> None:
    scene = Scene()
    visit = scene.visit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.book.drain, scene.do(UnexposePort(8080)), 60)
        await wait_all_tasks_blocked()
        scene.book.pull_all(CutBecause.STOPPED)
    assert trio.current_time() == 0
    assert visit.cut_because is CutBecause.STOPPED
