"""When what has exited is started again: never at once, never given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.containers.base import RestartPolicy
from actors.containers.restarting import FIRST_PAUSE_S, PAUSE_MAX_S, STABLE_S, is_wanted, next_pause


@pytest.mark.parametrize(
    ("policy", "exit_code", "wanted"),
    [
        (RestartPolicy.NEVER, 0, False),
        (RestartPolicy.NEVER, 1, False),
        (RestartPolicy.ON_FAILURE, 0, False),
        (RestartPolicy.ON_FAILURE, 1, True),
        (RestartPolicy.ON_FAILURE, -9, True),
        (RestartPolicy.ALWAYS, 0, True),
        (RestartPolicy.ALWAYS, -9, True),
    ],
)
def test_the_policy_and_the_exit_code_say_whether(policy: RestartPolicy, exit_code: int, wanted: bool) -> None:
    assert is_wanted(policy, exit_code) is wanted


def test_pauses_grow_to_a_minute_and_begin_anew_after_it_has_run_for_a_while() -> None:
    pauses = [next_pause(0.0, 0.0)]
    while pauses[-1] < PAUSE_MAX_S:
        pauses.append(next_pause(pauses[-1], STABLE_S / 2))
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert next_pause(PAUSE_MAX_S, 0.0) == PAUSE_MAX_S
    assert next_pause(PAUSE_MAX_S, STABLE_S) == FIRST_PAUSE_S


@given(st.lists(st.floats(0, 2 * STABLE_S), max_size=50))
def test_there_is_always_a_pause_and_never_more_than_a_minute(lives: list[float]) -> None:
    pause = 0.0
    for ran in lives:
        pause = next_pause(pause, ran)
        assert FIRST_PAUSE_S <= pause <= PAUSE_MAX_S
