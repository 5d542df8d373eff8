"""The mailbox: who is let in, and that nobody overtakes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.mailbox import Lane, Mailbox


def filled(room: int, reserve: int, messages: int) -> Mailbox[int]:
    mailbox: Mailbox[int] = Mailbox(room, reserve)
    for number in range(messages):
        assert mailbox.offer(number, Lane.INTERNAL)
    return mailbox


def take_all(mailbox: Mailbox[int]) -> list[int]:
    return [mailbox.take() for _ in range(len(mailbox))]


@pytest.mark.parametrize(
    ("waiting", "admitted"),
    [
        (0, {Lane.ORDINARY, Lane.REVOCATION, Lane.INTERNAL}),
        (1, {Lane.ORDINARY, Lane.REVOCATION, Lane.INTERNAL}),
        (2, {Lane.REVOCATION, Lane.INTERNAL}),
        (4, {Lane.REVOCATION, Lane.INTERNAL}),
        (5, {Lane.INTERNAL}),
        (50, {Lane.INTERNAL}),
    ],
)
def test_a_lane_is_refused_once_its_room_is_taken(waiting: int, admitted: set[Lane]) -> None:
    assert {lane for lane in Lane if filled(2, 3, waiting).offer(99, lane)} == admitted


def test_a_refused_message_is_not_kept() -> None:
    mailbox = filled(1, 1, 2)
    assert not mailbox.offer(99, Lane.ORDINARY)
    assert take_all(mailbox) == [0, 1]


@given(st.lists(st.sampled_from(Lane), max_size=30))
def test_lanes_do_not_change_the_order(lanes: list[Lane]) -> None:
    mailbox: Mailbox[int] = Mailbox(5, 5)
    taken = [number for number, lane in enumerate(lanes) if mailbox.offer(number, lane)]
    assert take_all(mailbox) == taken


def test_messages_put_back_come_first_in_their_order() -> None:
    mailbox = filled(5, 5, 2)
    mailbox.put_back([7, 8])
    assert take_all(mailbox) == [7, 8, 0, 1]


def test_withdrawn_messages_are_gone_and_the_others_keep_their_order() -> None:
    mailbox = filled(10, 1, 6)
    assert mailbox.withdraw(lambda number: number % 2 == 1) == [1, 3, 5]
    assert take_all(mailbox) == [0, 2, 4]


def test_an_empty_mailbox_has_nothing_to_take() -> None:
    with pytest.raises(IndexError):
        filled(1, 1, 0).take()


@pytest.mark.parametrize(("room", "reserve"), [(0, 1), (1, 0), (-1, 5)])
def test_a_mailbox_without_room_is_a_mistake(room: int, reserve: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Mailbox(room, reserve)
