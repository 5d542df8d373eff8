"""Messages that wait for the container to come up, in order of arrival.

Whoever waits costs memory here and a connection in front, so there are bounds: by count, by bytes that are kept for
the requests, and by count for each client address, lest one client take the places of all.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from actors.errors import PorticoError, TooManyVisitsError
from actors.messages import Admit, NeedRun
from actors.surroundings import Limits

Waiting = Admit | NeedRun


class Held:
    """The waiting messages of one activation."""

    __slots__ = ("_clients", "_limits", "_size", "_waiting")

    def __init__(self, limits: Limits) -> None:
        self._limits: Final = limits
        self._waiting: deque[Waiting] = deque()
        # Of all that wait. Counted anew whenever some leave, so that nothing can drift.
        self._size = 0
        self._clients: Counter[str] = Counter()

    def hold(self, message: Waiting) -> None:
        """Let a message wait behind the others.

        Raises:
            TooManyVisitsError: There is no room for it.
        """
        if self._lacks_room(message):
            # Before anybody is turned away: those who have gone take no room.
            self._keep(deque(other for other in self._waiting if not other.reply.abandoned))
            if what := self._lacks_room(message):
                raise TooManyVisitsError(f"too many requests wait for a sandbox to wake: {what}")
        self._waiting.append(message)
        self._count(message)

    def _lacks_room(self, message: Waiting) -> str:
        """Say of what there is too much; empty if there is room."""
        limits = self._limits
        if len(self._waiting) >= limits.held_max:
            return f"{len(self._waiting)} of them"
        # The owner's own, which come without bytes and address, are bounded by the count alone.
        if isinstance(message, NeedRun):
            return ""
        if self._size + message.size > limits.held_bytes_max:
            return "they are too large together"
        if message.client is not None and self._clients[message.client] >= limits.held_per_client_max:
            return f"{limits.held_per_client_max} of one client"
        return ""

    def _keep(self, waiting: deque[Waiting]) -> None:
        self._waiting = waiting
        self._size = 0
        self._clients.clear()
        for message in waiting:
            self._count(message)

    def _count(self, message: Waiting) -> None:
        if isinstance(message, Admit):
            self._size += message.size
            if message.client is not None:
                self._clients[message.client] += 1

    def answer(self, answered: Callable[[Waiting], bool]) -> None:
        """Go through all of them, in order, and keep those for which `answered` is False."""
        if self._waiting:
            self._keep(deque(message for message in self._waiting if not answered(message)))

    def refuse(self, error: Callable[[], PorticoError]) -> None:
        """Fail all of them, each with an error of its own."""
        waiting = self._waiting
        self._keep(deque())
        for message in waiting:
            message.reply.fail(error())

    def __len__(self) -> int:
        return len(self._waiting)
