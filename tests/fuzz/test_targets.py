"""Every fuzz target, briefly: its seeds, and some inputs made of them. `make fuzz` goes on for longer."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.cutting import cuttings
from tests.fuzz.inputs import inputs
from tests.fuzz.targets import TARGETS

# One look is enough to see that a target works; the profiles of tests/conftest.py do not reach below this.
EXAMPLES = 150


@pytest.mark.parametrize("name", TARGETS)
def test_laws_hold_for_every_seed(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for seed in seeds:
        target.check(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_laws_hold_for_what_is_made_of_the_seeds(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=max(EXAMPLES, settings().max_examples), suppress_health_check=[HealthCheck.too_slow])
    @given(inputs(target.seeds()))
    def check(data: bytes) -> None:
        target.check(data)

    check()


@given(st.binary(max_size=50))
def test_cuttings_lose_nothing_and_do_not_depend_on_chance(data: bytes) -> None:
    ways = list(cuttings(data))
    assert all(b"".join(pieces) == data for pieces in ways)
    assert ways == list(cuttings(data))
    assert all(len(piece) == 1 for piece in ways[-1])
