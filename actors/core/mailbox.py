"""A queue that says no.

A mailbox without a limit turns overload into memory growth and ever longer waits; this one refuses at once,
while the caller can still try elsewhere. One order for all messages: lanes decide who is let in, never who
goes first, so that "expose, then unexpose" cannot be turned round.

Revocations have room of their own behind the ordinary limit: a flood of visits must not keep an owner from
ending it. Internal messages (a child of the actor reports back) are always let in; there are no more of them
than children.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar

M = TypeVar("M")


class Lane(Enum):
    """Who is knocking."""

    ORDINARY = 1
    REVOCATION = 2
    INTERNAL = 3


class Mailbox(Generic[M]):
    """Messages in order of arrival, bounded by lane."""

    __slots__ = ("_messages", "_reserve", "_room")

    def __init__(self, room: int, reserve: int) -> None:
        """Make an empty one.

        Args:
            room: How many messages may wait before ordinary ones are refused.
            reserve: How many more revocations may wait beyond that.
        """
        if room < 1 or reserve < 1:
            raise ValueError("a mailbox holds at least one message, and one revocation more")
        self._messages: deque[M] = deque()
        self._room = room
        self._reserve = reserve

    def offer(self, message: M, lane: Lane) -> bool:
        """Append the message and return True, or return False if its lane is full."""
        waiting = len(self._messages)
        if lane is Lane.ORDINARY and waiting >= self._room:
            return False
        if lane is Lane.REVOCATION and waiting >= self._room + self._reserve:
            return False
        self._messages.append(message)
        return True

    def take(self) -> M:
        """Remove and return the oldest message; IndexError if there is none."""
        return self._messages.popleft()

    def put_back(self, messages: list[M]) -> None:
        """Put messages that were taken, and could not be dealt with yet, back in front, in their order."""
        self._messages.extendleft(reversed(messages))

    def withdraw(self, unwanted: Callable[[M], bool]) -> list[M]:
        """Remove and return the unwanted messages, in their order."""
        found = [message for message in self._messages if unwanted(message)]
        if found:
            self._messages = deque(message for message in self._messages if not unwanted(message))
        return found

    def __len__(self) -> int:
        return len(self._messages)
