"""How long a stream may stand still although there is something to hand over.

A flowing stream has no time limit, however slowly it flows, and neither has one on which nobody has anything to say.
But a peer that takes nothing of what it is sent, or owes content and sends none, holds a visit, two sockets and what
the kernel has stored for it; without a limit it does so for ever, as its host goes on to acknowledge that it is there.

Nobody sets a clock for it: whoever waits says what has moved so far, as a *mark*, and the watchman compares the mark
with the one of his last round. So what is not stuck pays nothing.
"""

import fcntl
import socket
import struct
import termios
from typing import Final

Mark = tuple[int, ...]
"""Another one after anything has moved."""


class Patience:
    """Watches one stream, from round to round."""

    __slots__ = ("_limit_s", "_mark", "_since")

    def __init__(self, limit_s: float) -> None:
        """Begin with nothing to wait for; `limit_s` may be infinite."""
        self._limit_s: Final = limit_s
        self._mark: Mark | None = None
        self._since = 0.0

    def is_out(self, mark: Mark | None, now: float) -> bool:
        """Say whether the same mark has stood for the whole limit by `now`. None: nothing is waited for."""
        if mark is None or mark != self._mark:
            self._mark, self._since = mark, now
            return False
        return now - self._since >= self._limit_s


def untaken(sock: socket.socket) -> int:
    """Return how many bytes the kernel holds that the peer's has not acknowledged (tcp(7), unix(7): SIOCOUTQ).

    A socket is told to be writable again only when a third of its buffer is free, which takes a slow reader of
    some megabytes longer than any sane limit. This number shows that it reads.
    """
    try:
        answer = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        # Expected: it is closed, or of a kind that does not say. Then only whole sends count.
        return 0
    return int(struct.unpack("i", answer)[0])
