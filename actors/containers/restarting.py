"""When a service that has exited by itself is started again. Pure.

The pauses are Docker's: a tenth of a second at first, twice as long each time, at most a minute; and a service that has
run for ten seconds begins anew. So nothing is ever started in a hot loop, and nothing is given up for good.
"""

from typing import Final

from actors.containers.base import RestartPolicy

FIRST_PAUSE_S: Final = 0.1
PAUSE_MAX_S: Final = 60.0
STABLE_S: Final = 10.0
"""Docker documentation, "Start containers automatically": a restart counts as successful after ten seconds."""


def is_wanted(policy: RestartPolicy, exit_code: int) -> bool:
    """Say whether a service that has exited by itself is to be started again."""
    return policy is RestartPolicy.ALWAYS or (policy is RestartPolicy.ON_FAILURE and exit_code != 0)


def next_pause(before_s: float, ran_s: float) -> float:
    """Return how long to wait before the next start, in seconds.

    Args:
        before_s: How long it was the last time; 0: there was none.
        ran_s: How long the service has run since.
    """
    if before_s <= 0 or ran_s >= STABLE_S:
        return FIRST_PAUSE_S
    return min(before_s * 2, PAUSE_MAX_S)
