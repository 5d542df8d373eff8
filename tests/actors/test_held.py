"""Messages that wait for a wake: in order, and bounded."""

import pytest

from actors.errors import TooManyVisitsError
from actors.held import Held, Waiting
from actors.messages import Admit, NeedRun, Reply
from actors.sandbox.admission import VisitRequest
from actors.sandbox.ids import Port
from actors.surroundings import Limits

LIMITS = Limits(held_max=5, held_bytes_max=1000, held_per_client_max=2)
REQUEST = VisitRequest(Port(8080))


def visitor(client: str | None = None, size: int = 0) -> Admit:
    return Admit(REQUEST, Reply(), client, size)


def test_they_are_gone_through_in_order_and_those_that_cannot_be_answered_stay() -> None:
    held = Held(LIMITS)
    messages: list[Waiting] = [visitor(), NeedRun(Reply()), visitor()]
    for message in messages:
        held.hold(message)
    seen: list[Waiting] = []

    def answered(message: Waiting) -> bool:
        seen.append(message)
        return message is messages[1]

    held.answer(answered)
    held.answer(answered)
    assert seen == [*messages, messages[0], messages[2]]
    assert len(held) == 2


def test_their_number_is_bounded_and_those_who_have_gone_take_no_room() -> None:
    held = Held(LIMITS)
    messages = [visitor() for _ in range(5)]
    for message in messages:
        held.hold(message)
    with pytest.raises(TooManyVisitsError, match="5 of them"):
        held.hold(NeedRun(Reply()))
    messages[2].reply.abandoned = True
    held.hold(visitor())
    assert len(held) == 5


def test_their_bytes_are_bounded_together() -> None:
    held = Held(LIMITS)
    held.hold(visitor(size=600))
    with pytest.raises(TooManyVisitsError, match="too large"):
        held.hold(visitor(size=401))
    held.hold(visitor(size=400))
    held.answer(lambda _: True)
    held.hold(visitor(size=1000))


def test_one_client_has_its_share_and_who_is_not_counted_has_none() -> None:
    held = Held(LIMITS)
    first = visitor("192.0.2.7")
    held.hold(first)
    held.hold(visitor("192.0.2.7"))
    with pytest.raises(TooManyVisitsError, match="2 of one client"):
        held.hold(visitor("192.0.2.7"))
    held.hold(visitor("192.0.2.8"))
    held.hold(visitor())
    first.reply.abandoned = True
    held.hold(visitor("192.0.2.7"))


def test_refused_each_gets_an_error_of_its_own() -> None:
    held = Held(LIMITS)
    errors: list[TooManyVisitsError] = []

    def error() -> TooManyVisitsError:
        errors.append(TooManyVisitsError("no"))
        return errors[-1]

    for _ in range(3):
        held.hold(visitor())
    held.refuse(error)
    assert len(held) == 0
    assert len(set(map(id, errors))) == 3
