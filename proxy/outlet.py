"""A client's socket in the pump: what is waited for of it, and what it has not had room for yet."""

import socket
from typing import Final

from proxy.patience import Patience, untaken
from proxy.pump import READABLE, WRITABLE, Handler, Pump


class Outlet:
    """Writes to one plain socket that the pump watches. Must not wait, so what finds no room is kept here.

    Invariant: while there is something `unsent` nobody gives it more; whoever feeds it is held up instead.
    """

    __slots__ = ("_parts", "_patience", "_pump", "_socket", "mask", "unsent")

    def __init__(self, pump: Pump, sock: socket.socket) -> None:
        """Prepare; `join` begins.

        Args:
            pump: Waits.
            sock: Non-blocking; somebody else's, to close.
        """
        self._pump: Final = pump
        self._socket: Final = sock
        self.mask = READABLE
        """What is waited for."""
        self.unsent: memoryview | None = None
        # How often a part of something has found room, where not all of it did at once.
        self._parts = 0
        # Made when the watchman first sees something unsent: most connections never need it.
        self._patience: Patience | None = None

    def join(self, handler: Handler) -> None:
        """Have the pump call `handler` when there is something to read."""
        self.mask = READABLE
        self._pump.add(self._socket, handler, READABLE)

    def leave(self) -> None:
        """Have the pump leave the socket alone. Idempotent."""
        self._pump.remove(self._socket)

    def want(self, mask: int) -> None:
        """Have the pump wait for this instead."""
        if mask != self.mask:
            self.mask = mask
            self._pump.change(self._socket, mask)

    def send(self, data: bytes) -> bool:
        """Send; False if some of it waits for room.

        Raises:
            OSError: The peer has gone.
        """
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._parts += 1
        self.unsent = memoryview(data)[sent:]
        self.want(WRITABLE)
        return False

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """Say whether the peer has taken nothing of what it is sent for `limit_s`; to be asked every now and then."""
        if self.unsent is None:
            return False
        if self._patience is None:
            self._patience = Patience(limit_s)
        return self._patience.is_out((self._parts, untaken(self._socket)), now)

    def flush(self) -> bool:
        """Send what waits, as far as there is room; True if nothing waits any more.

        Raises:
            OSError: The peer has gone.
        """
        if self.unsent is not None:
            try:
                sent = self._socket.send(self.unsent)
            except BlockingIOError:
                return False
            self._parts += 1
            self.unsent = self.unsent[sent:] or None
        return self.unsent is None
