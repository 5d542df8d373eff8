"""The same change asked for twice: made once, answered alike, within bounds."""

from functools import partial

import pytest
import trio
import trio.testing

from proxy.api.idempotency import Answers, KeyReusedError, Written


class Change:
    """Counts how often it was made."""

    def __init__(self, status: int = 200, body: bytes = b"") -> None:
        self.made = 0
        self.status = status
        self.body = body
        self.gate = trio.Event()

    async def at_once(self) -> Written:
        self.made += 1
        await trio.lowlevel.checkpoint()
        return Written(self.status, self.body or b"%d" % self.made)

    async def slowly(self) -> Written:
        self.made += 1
        await self.gate.wait()
        return Written(self.status, b"%d" % self.made)


async def test_second_request_is_answered_like_the_first() -> None:
    answers, change = Answers(), Change()
    first, repeated = await answers.once("me", "k", b"f", change.at_once)
    again, repeated_again = await answers.once("me", "k", b"f", change.at_once)
    assert (first, repeated, repeated_again, change.made) == (again, False, True, 1)


async def test_key_belongs_to_who_sent_it() -> None:
    answers, change = Answers(), Change()
    await answers.once("me", "k", b"f", change.at_once)
    assert (await answers.once("you", "k", b"f", change.at_once))[0].body == b"2"


async def test_other_request_with_the_same_key_is_refused() -> None:
    answers, change = Answers(), Change()
    await answers.once("me", "k", b"f", change.at_once)
    with pytest.raises(KeyReusedError):
        await answers.once("me", "k", b"g", change.at_once)
    assert change.made == 1


@pytest.mark.parametrize(("first", "then"), [(b"1", None), (None, b"1"), (None, None), (b"1", b"1")])
async def test_life_that_nobody_knows_is_no_other(first: bytes | None, then: bytes | None) -> None:
    answers, change = Answers(), Change()
    await answers.once("me", "k", b"f", change.at_once, life=first)
    assert (await answers.once("me", "k", b"f", change.at_once, life=then))[1]


async def test_request_for_another_life_of_a_sandbox_is_another() -> None:
    answers, change = Answers(), Change()
    await answers.once("me", "k", b"f", change.at_once, life=b"1")
    with pytest.raises(KeyReusedError, match="before this one"):
        await answers.once("me", "k", b"f", change.at_once, life=b"2")
    assert change.made == 1


async def test_requests_at_once_wait_for_the_first() -> None:
    answers, change, got = Answers(), Change(), []

    async def ask() -> None:
        got.append(await answers.once("me", "k", b"f", change.slowly))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(KeyReusedError):
            await answers.once("me", "k", b"g", change.at_once)
        change.gate.set()
    assert change.made == 1
    assert sorted(repeated for _, repeated in got) == [False, True, True, True, True]


async def test_failure_of_ours_is_not_kept() -> None:
    answers, change = Answers(), Change(503)
    for _ in range(2):
        await answers.once("me", "k", b"f", change.at_once)
    assert (change.made, len(answers)) == (2, 0)


async def test_refusal_of_the_clients_is_kept() -> None:
    answers, change = Answers(), Change(404)
    for _ in range(2):
        await answers.once("me", "k", b"f", change.at_once)
    assert change.made == 1


async def test_next_in_line_takes_over_from_one_that_was_cancelled() -> None:
    answers, first, second, got = Answers(), Change(), Change(), []

    async def wait_in_line() -> None:
        got.append(await answers.once("me", "k", b"f", second.at_once))

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(wait_in_line)
            nursery.start_soon(_cancel_soon, scope)
            # Whoever comes first carries it out; here that is the one to be cancelled.
            await answers.once("me", "k", b"f", first.slowly)
    assert (first.made, second.made, [repeated for _, repeated in got]) == (1, 1, [False])


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_answers_are_kept_for_a_time_and_within_bounds(autojump_clock: trio.testing.MockClock) -> None:
    change = Change(body=b"x" * 100)
    answers = Answers(entries_max=3, bytes_max=350, kept_s=60)
    for number in range(5):
        await answers.once("me", str(number), b"f", change.at_once)
    assert len(answers) == 3
    large = Change(body=b"x" * 300)
    await answers.once("me", "large", b"f", large.at_once)
    assert len(answers) == 1
    await trio.sleep(61)
    await answers.once("me", "large", b"f", large.at_once)
    assert large.made == 2


async def test_answer_too_large_to_keep_is_given_all_the_same() -> None:
    answers, change = Answers(bytes_max=10), Change(body=b"x" * 11)
    ask = partial(answers.once, "me", "k", b"f", change.at_once)
    assert (await ask())[0].body == change.body
    assert len(answers) == 0
