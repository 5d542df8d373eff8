"""Waiting for what a wake has brought back, on a clock that jumps."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.containers.warmth import WARM_UP_S, Warmth

PORT = 8080


class Place:
    """Something that comes to listen, or not."""

    def __init__(self) -> None:
        self.listens_at = float("inf")
        self.runs = True
        self.knocks = 0

    async def is_listening(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.knocks += 1
        return trio.current_time() >= self.listens_at

    def is_warming(self) -> bool:
        return self.runs


async def wait(warmth: Warmth, place: Place, port: int = PORT) -> float:
    """Return how long it took."""
    began = trio.current_time()
    await warmth.wait(port, place.is_listening, place.is_warming)
    return trio.current_time() - began


async def test_a_port_that_never_answered_is_not_waited_for(autojump_clock: MockClock) -> None:
    place = Place()
    assert await wait(Warmth([PORT]), place, PORT + 1) == 0
    assert place.knocks == 0


async def test_a_port_is_waited_for_until_it_answers_and_hardly_longer(autojump_clock: MockClock) -> None:
    for needs in (0.05, 1.0, 30.0):
        warmth, place = Warmth([PORT]), Place()
        place.listens_at = trio.current_time() + needs
        took = await wait(warmth, place)
        assert needs <= took <= needs * 1.06 + 0.005
        assert await wait(warmth, place) == 0, "once it has answered nobody waits"


async def test_many_wait_and_one_knocks(autojump_clock: MockClock) -> None:
    warmth, place = Warmth([PORT]), Place()
    place.listens_at = trio.current_time() + 10
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(wait, warmth, place)
    assert place.knocks < 200


async def test_whoever_knocks_may_leave_and_the_next_goes_on(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    warmth, place = Warmth([PORT]), Place()
    place.listens_at = trio.current_time() + 10
    first = trio.CancelScope()

    async def knock_first() -> None:
        with first:
            await wait(warmth, place)

    nursery.start_soon(knock_first)
    await wait_all_tasks_blocked()
    took: list[float] = []

    async def wait_second() -> None:
        took.append(await wait(warmth, place))

    nursery.start_soon(wait_second)
    await trio.sleep(1)
    first.cancel()
    await trio.sleep(20)
    assert 9 <= took[0] <= 12


async def test_waiting_ends_with_what_was_brought_back_and_with_the_deadline(autojump_clock: MockClock) -> None:
    place = Place()
    place.runs = False
    assert await wait(Warmth([PORT]), place) == 0
    place.runs = True
    warmth = Warmth([PORT])
    assert WARM_UP_S <= await wait(warmth, place) <= WARM_UP_S + 1
    assert await wait(warmth, place) == 0, "it has been waited for in vain"


async def test_a_port_is_news_once(autojump_clock: MockClock) -> None:
    warmth = Warmth([PORT])
    assert not warmth.note(PORT)
    assert warmth.note(PORT + 1)
    assert not warmth.note(PORT + 1)
