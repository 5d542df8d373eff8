"""What to do about an actor that broke: try again, ever more slowly, or leave it alone for a while.

Pure: breakages go in with their times, an answer comes out. The back-off keeps a failing disk from being
hammered; the quarantine keeps one bad sandbox from using up the node on its neighbours' account.
"""

from collections import deque
from typing import Final

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
"""Callers wait for the rebuilt actor meanwhile; longer than this and they had better be told to come back."""

BREAKAGES_MAX: Final = 5
WINDOW_S: Final = 30.0
"""More than `BREAKAGES_MAX` within this leads to quarantine, for as long again: then none of them counts any more."""


class Breakages:
    """The recent breakages of one actor."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def count(self, now: float) -> int:
        """Return how many happened within the window before `now`, in seconds of any one clock."""
        while self._times and self._times[0] <= now - WINDOW_S:
            self._times.popleft()
        return len(self._times)

    def note(self, now: float) -> float | None:
        """Take down a breakage; return the seconds to wait before the next try, or None for quarantine."""
        recent = self.count(now)
        self._times.append(now)
        if recent >= BREAKAGES_MAX:
            return None
        return min(BACKOFF_FIRST_S * 2.0**recent, BACKOFF_MAX_S)

    @property
    def remembered_until(self) -> float:
        """When the last one will have left the window; long ago if there was none."""
        return self._times[-1] + WINDOW_S if self._times else -float("inf")
