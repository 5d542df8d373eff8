"""The end of a client's connection after the last that it is told: our direction first, then what it still sends.

Closing a socket with bytes unread makes the kernel send a reset, which may overtake what was sent last (RFC 9112
section 9.6). So our direction is ended alone, and what comes is read and thrown away, up to bounds of time and size.
"""

import socket
from collections.abc import Callable
from typing import Final

import trio

from proxy.pump import READABLE, Pump
from proxy.transport import RECEIVE_BYTES

LINGER_S: Final = 2.0
LINGER_BYTES_MAX: Final = 256 * 1024
"""After a last answer, how long and how much is still read from the client."""


class Farewell:
    """Reads on from one plain socket, in the pump, until it has ended or sent too much."""

    __slots__ = ("_due", "_on_over", "_pump", "_socket", "_unread")

    def __init__(self, sock: socket.socket, pump: Pump, on_over: Callable[[], None]) -> None:
        """Prepare; `start` begins.

        Args:
            sock: Not in the pump; somebody else's, to close.
            pump: Waits.
            on_over: Called when there is nothing more to wait for, perhaps more than once.
        """
        self._socket: Final = sock
        self._pump: Final = pump
        self._on_over: Final = on_over
        self._unread = 0
        self._due = trio.current_time() + LINGER_S

    def start(self) -> None:
        """End our direction, and read on."""
        self._pump.add(self._socket, self, READABLE)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            # Expected: it has left already.
            self._on_over()

    def on_ready(self, _mask: int) -> None:
        """See `pump.Handler`."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # Expected: clients leave when they like.
            data = b""
        self._unread += len(data)
        if not data or self._unread >= LINGER_BYTES_MAX:
            self._on_over()

    def on_bug(self) -> None:
        """See `pump.Handler`."""
        self._on_over()

    def patrol(self, now: float) -> None:
        """Have it be over if its time is."""
        if now >= self._due:
            self._on_over()
