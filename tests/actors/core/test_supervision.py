"""Back-off and quarantine, as a script of times and answers."""

import math

from hypothesis import given
from hypothesis import strategies as st

from actors.core.supervision import BACKOFF_FIRST_S, BACKOFF_MAX_S, BREAKAGES_MAX, WINDOW_S, Breakages


def test_each_breakage_is_waited_out_longer_until_the_quarantine() -> None:
    breakages = Breakages()
    delays = [breakages.note(float(second)) for second in range(BREAKAGES_MAX + 1)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, None]


def test_breakages_outside_the_window_do_not_count() -> None:
    breakages = Breakages()
    for number in range(10):
        assert breakages.note(number * (WINDOW_S + 1)) == BACKOFF_FIRST_S
    assert breakages.count(9 * (WINDOW_S + 1)) == 1
    assert breakages.count(11 * (WINDOW_S + 1)) == 0


def test_a_breakage_counts_up_to_the_end_of_the_window_and_is_remembered_as_long() -> None:
    breakages = Breakages()
    assert breakages.remembered_until == -math.inf
    breakages.note(100.0)
    assert breakages.remembered_until == 100.0 + WINDOW_S
    assert breakages.count(100.0 + WINDOW_S - 0.001) == 1
    assert breakages.count(100.0 + WINDOW_S) == 0


def test_after_a_quarantine_of_a_window_everything_begins_anew() -> None:
    breakages = Breakages()
    now = 0.0
    while breakages.note(now) is not None:
        now += 1.0
    assert breakages.note(now + WINDOW_S) == BACKOFF_FIRST_S


@given(st.lists(st.floats(0, 3 * WINDOW_S), max_size=20))
def test_delays_are_bounded_and_quarantine_comes_with_the_count_alone(gaps: list[float]) -> None:
    breakages = Breakages()
    now = 0.0
    for gap in gaps:
        now += gap
        before = breakages.count(now)
        delay = breakages.note(now)
        assert (delay is None) == (before >= BREAKAGES_MAX)
        assert delay is None or BACKOFF_FIRST_S <= delay <= BACKOFF_MAX_S
