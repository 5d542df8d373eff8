"""Replies: one answer, for one task, lost to nobody."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.messages import Leases, Reply
from actors.testing.containers import FakeContainer, FakeRun


async def test_an_answer_given_before_the_wait_is_kept() -> None:
    reply: Reply[int] = Reply()
    reply.resolve(7)
    assert await reply.wait() == 7


async def test_an_answer_wakes_the_one_who_waits(nursery: trio.Nursery) -> None:
    reply: Reply[int] = Reply()
    nursery.start_soon(_answer_when_waited_for, reply)
    assert await reply.wait() == 7


async def _answer_when_waited_for(reply: Reply[int]) -> None:
    await wait_all_tasks_blocked()
    reply.resolve(7)


async def test_an_error_is_raised_where_the_answer_is_waited_for() -> None:
    reply: Reply[int] = Reply()
    reply.fail(KeyError("no"))
    with pytest.raises(KeyError):
        await reply.wait()


async def test_only_the_first_answer_counts() -> None:
    reply: Reply[int] = Reply()
    reply.resolve(1)
    reply.resolve(2)
    reply.fail(KeyError("late"))
    assert await reply.wait() == 1


async def test_a_cancelled_wait_abandons_the_message_and_later_answers_are_ignored() -> None:
    reply: Reply[int] = Reply()
    with trio.CancelScope() as scope:
        scope.cancel()
        await reply.wait()
    assert scope.cancelled_caught
    assert reply.abandoned
    reply.resolve(7)
    reply.fail(KeyError("late"))


async def test_an_answer_that_was_given_is_not_lost_to_a_cancellation_after_it(nursery: trio.Nursery) -> None:
    reply: Reply[int] = Reply()
    got: list[int] = []
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            got.append(await reply.wait())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    reply.resolve(7)
    scope.cancel()
    await wait_all_tasks_blocked()
    assert got == [7]
    assert not reply.abandoned


async def test_a_lease_is_held_until_it_is_released_and_may_be_released_twice(autojump_clock: MockClock) -> None:
    leases = Leases()
    run = FakeRun("run-1", FakeContainer({}))
    lease, other = leases.grant(run), leases.grant(run)
    assert len(leases) == 2
    await trio.sleep(5)
    lease.release()
    await trio.sleep(5)
    lease.release()
    assert len(leases) == 1
    assert leases.last_end == trio.current_time() - 5, "giving back what was given back is nothing"
    other.release()
    assert len(leases) == 0
