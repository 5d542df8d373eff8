"""A few wrong secrets in a row, then a wait; nobody waits for somebody else."""

from proxy.core.tries import KEYS_MAX, TRIES_MAX, WINDOW_S, Tries

ME, OTHERS = ("my-app", "192.0.2.7"), [("my-app", "192.0.2.8"), ("other", "192.0.2.7")]


def exhausted(now: float = 0.0) -> Tries:
    tries = Tries()
    for _ in range(TRIES_MAX):
        assert tries.wait_s(ME, now) == 0
        tries.note_wrong(ME, now)
    return tries


def test_who_has_had_all_tries_waits_until_the_window_is_over() -> None:
    tries = exhausted()
    assert tries.wait_s(ME, 0.0) == WINDOW_S
    assert tries.wait_s(ME, WINDOW_S - 1) == 1
    assert tries.wait_s(ME, WINDOW_S) == 0


def test_nobody_else_waits() -> None:
    tries = exhausted()
    assert [tries.wait_s(other, 1.0) for other in OTHERS] == [0, 0]


def test_window_begins_anew_with_the_first_wrong_one_after_it() -> None:
    tries = exhausted()
    tries.note_wrong(ME, WINDOW_S)
    assert tries.wait_s(ME, WINDOW_S) == 0
    for _ in range(TRIES_MAX - 1):
        tries.note_wrong(ME, WINDOW_S + 1)
    assert tries.wait_s(ME, WINDOW_S + 1) == WINDOW_S - 1


def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten() -> None:
    tries = exhausted()
    for number in range(KEYS_MAX):
        tries.note_wrong(("my-app", str(number)), 1.0)
    assert len(tries) == KEYS_MAX
    assert tries.wait_s(ME, 1.0) == 0


def test_try_that_turned_out_right_is_not_counted() -> None:
    tries = exhausted()
    tries.take_back(ME)
    assert tries.wait_s(ME, 1.0) == 0
    for _ in range(TRIES_MAX):
        tries.take_back(ME)
    assert len(tries) == 0
