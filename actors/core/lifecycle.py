"""The life of an actor in memory, as one table.

The sandbox itself outlives all of this; what lives and dies here is its activation.

============  ==============================================================================
DORMANT       Only the log exists. A message leads to LOADING.
LOADING       The log is claimed and folded. Messages wait.
ACTIVE        Turns are taken, visits admitted.
DRAINING      Memory is being given up. Messages wait for the next activation.
BROKEN        Memory may be ahead of the log. It is discarded; nothing from it is told to anybody.
QUARANTINED   It broke too often. Messages are refused until the window has passed.
============  ==============================================================================
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """Where an actor is in its life."""

    DORMANT = "dormant"
    LOADING = "loading"
    ACTIVE = "active"
    DRAINING = "draining"
    BROKEN = "broken"
    QUARANTINED = "quarantined"


class Happening(Enum):
    """What moves it on."""

    CALLED = "called"
    """A message arrived for a sandbox without an activation."""
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    RESTED = "rested"
    """Nothing to do for a while, or the runtime is closing."""
    APPEND_FAILED = "append failed"
    """Also: fenced by another activation."""
    RELEASED = "released"
    """The log is let go."""
    BROKE_TOO_OFTEN = "broke too often"
    SERVED_TIME = "served time"


TRANSITIONS: Final[Mapping[tuple[Phase, Happening], Phase]] = {
    (Phase.DORMANT, Happening.CALLED): Phase.LOADING,
    (Phase.LOADING, Happening.LOADED): Phase.ACTIVE,
    (Phase.LOADING, Happening.LOAD_FAILED): Phase.BROKEN,
    (Phase.ACTIVE, Happening.RESTED): Phase.DRAINING,
    (Phase.ACTIVE, Happening.APPEND_FAILED): Phase.BROKEN,
    (Phase.DRAINING, Happening.RELEASED): Phase.DORMANT,
    (Phase.BROKEN, Happening.RELEASED): Phase.DORMANT,
    (Phase.BROKEN, Happening.BROKE_TOO_OFTEN): Phase.QUARANTINED,
    (Phase.QUARANTINED, Happening.SERVED_TIME): Phase.DORMANT,
}


def after(phase: Phase, happening: Happening) -> Phase:
    """Return the next phase; RuntimeError for a step that is not in the table."""
    try:
        return TRANSITIONS[phase, happening]
    except KeyError:
        raise RuntimeError(f"an actor that is {phase.value} cannot have {happening.value}") from None
