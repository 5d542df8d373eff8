"""Waiting for services that a wake has brought back until they listen, so that nobody gets a 502 for being first.

Only ports that have answered before are waited for, each by one task that knocks, however many wait; and only while
something that was brought back runs, and for as long as a wake may take. The pauses between knocks grow with the time
that has passed, so that what knocking adds is a twentieth of what the service needs by itself.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

WARM_UP_S: Final = 90.0
"""From the beginning of the run; the wake deadline that requests have as well."""

KNOCK_MIN_S: Final = 0.005
KNOCK_MAX_S: Final = 0.25
KNOCK_SHARE: Final = 1 / 20
"""Of the time that has passed already: the pause before the next knock."""


class Warmth:
    """Of one run: which ports may still be on their way."""

    __slots__ = ("_answered", "_began", "_expected", "_knocking")

    def __init__(self, expected: Iterable[int]) -> None:
        """Begin with the ports that have answered in runs before."""
        self._expected: Final = frozenset(expected)
        self._answered: set[int] = set()
        self._began: Final = trio.current_time()
        # {port: set when whoever knocks is done}
        self._knocking: dict[int, trio.Event] = {}

    def note(self, port: int) -> bool:
        """Note that a port has answered; True if that is news to the record."""
        if port in self._answered:
            return False
        self._answered.add(port)
        return port not in self._expected

    async def wait(
        self, port: int, is_listening: Callable[[], Awaitable[bool]], is_warming: Callable[[], bool]
    ) -> None:
        """Block until a port that was expected answers, or nothing more is to be expected.

        Args:
            port: Which.
            is_listening: Knocks.
            is_warming: Whether anything runs that may come to listen.
        """
        while port in self._expected and port not in self._answered:
            others = self._knocking.get(port)
            if others is None:
                break
            # Whoever knocks may have been cancelled: then it is somebody else's turn.
            await others.wait()
        if port not in self._expected or port in self._answered:
            await trio.lowlevel.checkpoint()
            return
        done = self._knocking[port] = trio.Event()
        try:
            while is_warming() and (passed := trio.current_time() - self._began) < WARM_UP_S:
                if await is_listening():
                    break
                await trio.sleep(min(max(passed * KNOCK_SHARE, KNOCK_MIN_S), KNOCK_MAX_S))
            # Also in vain: nobody is to wait for it a second time.
            self._answered.add(port)
        finally:
            del self._knocking[port]
            done.set()
