"""The life of an actor: the table is closed, connected, and says no to everything else."""

import itertools

import pytest

from actors.core import lifecycle
from actors.core.lifecycle import TRANSITIONS, Happening, Phase, after


def reachable(start: Phase) -> set[Phase]:
    found = {start}
    while more := {to for (phase, _), to in TRANSITIONS.items() if phase in found} - found:
        found |= more
    return found


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_is_reached_from_every_other(phase: Phase) -> None:
    assert reachable(phase) == set(Phase)


def test_every_happening_means_something() -> None:
    assert {happening for _, happening in TRANSITIONS} == set(Happening)


@pytest.mark.parametrize(("phase", "happening"), list(itertools.product(Phase, Happening)))
def test_a_step_is_in_the_table_or_an_error(phase: Phase, happening: Happening) -> None:
    if (phase, happening) in TRANSITIONS:
        assert after(phase, happening) is TRANSITIONS[phase, happening]
    else:
        with pytest.raises(RuntimeError, match=phase.value):
            after(phase, happening)


def test_what_is_broken_never_becomes_active_without_reading_the_log() -> None:
    assert {to for (phase, _), to in TRANSITIONS.items() if phase is Phase.BROKEN} == {Phase.DORMANT, Phase.QUARANTINED}
    assert {phase for (phase, _), to in TRANSITIONS.items() if to is Phase.ACTIVE} == {Phase.LOADING}


def test_every_phase_has_its_line_in_the_module() -> None:
    assert lifecycle.__doc__ is not None
    for phase in Phase:
        assert f"\n{phase.name} " in lifecycle.__doc__
