"""How long to wait before a run is brought back, and when no more."""

from actors.containers.restarting import FIRST_PAUSE_S, PAUSE_MAX_S, STABLE_S
from actors.revival import REVIVALS_MAX, Revivals


def test_pauses_grow_and_come_to_an_end() -> None:
    revivals = Revivals()
    pauses = [revivals.next_pause(STABLE_S / 2) for _ in range(REVIVALS_MAX)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == PAUSE_MAX_S
    assert [revivals.next_pause(0.0) for _ in range(2)] == [None, None]


def test_one_that_was_up_for_long_begins_anew() -> None:
    revivals = Revivals()
    for _ in range(REVIVALS_MAX):
        revivals.next_pause(0.0)
    assert revivals.next_pause(STABLE_S) == FIRST_PAUSE_S
    assert revivals.next_pause(0.0) == 2 * FIRST_PAUSE_S
