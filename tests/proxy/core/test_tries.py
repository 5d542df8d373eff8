"""A few wrong secrets in a row, then a wait; nobody waits for somebody else."""

from proxy.core.tries import KEYS_MAX, TRIES_MAX, UNTOLD_TRIES_MAX, WINDOW_S, Key, Tries

ME: Key = ("my-app", "192.0.2.7")
UNTOLD: Key = ("my-app", None)
OTHERS: list[Key] = [("my-app", "192.0.2.8"), ("other", "192.0.2.7"), UNTOLD]


def exhausted(now: float = 0.0, *, key: Key = ME, most: int = TRIES_MAX) -> Tries:
    tries = Tries()
    for _ in range(most):
        assert tries.wait_s(key, now) == 0
        tries.note_wrong(key, now)
    return tries


def test_who_has_had_all_tries_waits_until_the_window_is_over() -> None:
    tries = exhausted()
    assert tries.wait_s(ME, 0.0) == WINDOW_S
    assert tries.wait_s(ME, WINDOW_S - 1) == 1
    assert tries.wait_s(ME, WINDOW_S) == 0


def test_nobody_else_waits() -> None:
    tries = exhausted()
    assert [tries.wait_s(other, 1.0) for other in OTHERS] == [0, 0, 0]


def test_those_who_cannot_be_told_apart_have_more_together_and_not_without_end() -> None:
    assert UNTOLD_TRIES_MAX > TRIES_MAX
    tries = exhausted(key=UNTOLD, most=UNTOLD_TRIES_MAX)
    assert tries.wait_s(UNTOLD, 0.0) == WINDOW_S
    assert tries.wait_s(UNTOLD, WINDOW_S) == 0
    # Neither who is told by an address nor who comes to another sandbox waits for them.
    assert [tries.wait_s(key, 1.0) for key in (ME, ("other", None))] == [0, 0]


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
