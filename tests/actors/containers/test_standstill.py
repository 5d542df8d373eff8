"""Standing still, as the server talks about it with a keeper that answers, or not."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.containers.standstill import ANSWER_S, Standstill


class Keeper:
    """Answers as it is told to."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers = [*answers]
        self.asked: list[bytes] = []
        self.standstill = Standstill(self.ask)

    async def ask(self, *fields: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(fields[0])
        answer = self.answers.pop(0)
        if answer is not None:
            self.standstill.heard(answer)


async def test_who_waits_goes_on_when_they_do(nursery: trio.Nursery) -> None:
    keeper = Keeper(True, True)
    went_on: list[bool] = []

    async def wait() -> None:
        await keeper.standstill.wait_going()
        went_on.append(True)

    assert await keeper.standstill.begin()
    assert keeper.standstill.asked_for
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert went_on == []
    assert await keeper.standstill.end()
    await wait_all_tasks_blocked()
    assert (went_on, keeper.standstill.asked_for, keeper.asked) == ([True], False, [b"freeze", b"thaw"])


async def test_those_who_cannot_be_brought_to_it_go_on() -> None:
    keeper = Keeper(False)
    assert not await keeper.standstill.begin()
    assert not keeper.standstill.asked_for
    await keeper.standstill.wait_going()


async def test_a_keeper_that_does_not_answer_is_waited_for_so_long_and_no_longer(autojump_clock: MockClock) -> None:
    keeper = Keeper(None, True, None)
    assert not await keeper.standstill.begin()
    assert trio.current_time() == ANSWER_S
    assert await keeper.standstill.begin()
    assert not await keeper.standstill.end(), "an answer of before is none"
    assert trio.current_time() == 2 * ANSWER_S
    await keeper.standstill.wait_going()


async def test_a_keeper_that_is_known_to_be_gone_is_not_waited_for(autojump_clock: MockClock) -> None:
    keeper = Keeper(True, None)
    assert await keeper.standstill.begin()
    keeper.standstill.over()
    assert not await keeper.standstill.end()
    assert trio.current_time() == 0
    await keeper.standstill.wait_going()


async def test_who_waits_for_an_answer_hears_that_the_keeper_is_gone(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    keeper = Keeper(None)
    said: list[bool] = []

    async def begin() -> None:
        said.append(await keeper.standstill.begin())

    nursery.start_soon(begin)
    await wait_all_tasks_blocked()
    keeper.standstill.over()
    await wait_all_tasks_blocked()
    assert (said, trio.current_time()) == ([False], 0)
