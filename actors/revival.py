"""When a run that has ended by itself is brought back without anybody asking for it, and when it no longer is. Pure.

The pauses are those of services (`containers/restarting.py`). Unlike a service, a run is given up after so many times
in a row: each try is on the record, and what cannot be up for ten seconds is no use to a visitor, who has to wait for
it in any case. The next visitor, or its owner, brings it back all the same.
"""

from typing import Final

from actors.containers.restarting import STABLE_S, next_pause

REVIVALS_MAX: Final = 12
"""In a row, without ten seconds of being up in between; the pauses come to three or four minutes then."""


class Revivals:
    """How often in a row one sandbox's run was brought back."""

    __slots__ = ("_in_a_row", "_pause_s")

    def __init__(self) -> None:
        """Begin with none."""
        self._in_a_row = 0
        self._pause_s = 0.0

    def next_pause(self, ran_s: float) -> float | None:
        """Return how long to wait before the run is brought back, in seconds; None: it is not.

        Args:
            ran_s: How long it was up; 0: it did not come up.
        """
        if ran_s >= STABLE_S:
            self._in_a_row = 0
        if self._in_a_row >= REVIVALS_MAX:
            return None
        self._in_a_row += 1
        self._pause_s = next_pause(self._pause_s, ran_s)
        return self._pause_s
