"""A client's socket in the pump: what is waited for of it, and what it has not had room for yet."""

import socket
from typing import Final

from proxy.pump import READABLE, WRITABLE, Handler, Pump


class Outlet:
    """Writes to one plain socket that the pump watches. Must not wait, so what finds no room is kept here.

    Invariant: while there is something `unsent` nobody gives it more; whoever feeds it is held up instead.
    """

    __slots__ = ("_handler", "_pump", "_socket", "mask", "unsent")

    def __init__(self, pump: Pump, sock: socket.socket, handler: Handler) -> None:
        """Prepare; `join` begins.

        Args:
            pump: Waits.
            sock: Non-blocking; somebody else's, to close.
            handler: Whom the pump calls for it.
        """
        self._pump: Final = pump
        self._socket: Final = sock
        self._handler: Final = handler
        self.mask = READABLE
        """What is waited for."""
        self.unsent: memoryview | None = None

    def join(self) -> None:
        """Have the pump wait for something to read."""
        self.mask = READABLE
        self._pump.add(self._socket, self._handler, READABLE)

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
        self.unsent = memoryview(data)[sent:]
        self.want(WRITABLE)
        return False

    def flush(self) -> bool:
        """Send what waits, as far as there is room; True if nothing waits any more.

        Raises:
            OSError: The peer has gone.
        """
        if self.unsent is not None:
            try:
                rest = self.unsent[self._socket.send(self.unsent) :]
            except BlockingIOError:
                return False
            self.unsent = rest or None
        return self.unsent is None
