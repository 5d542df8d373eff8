"""How often visitors may wake: token buckets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core import budget
from actors.core.budget import MINUTE_S, Bucket, WakeBudget


def take_all(wakes: WakeBudget, sandbox: str, client: str | None, now: float) -> int:
    """Return how many wakes are given."""
    taken = 0
    while wakes.take(sandbox, client, now):
        taken += 1
    return taken


def test_each_sandbox_has_so_many_at_once_and_as_many_in_each_minute() -> None:
    wakes = WakeBudget(per_sandbox=6, per_client=1000)
    assert take_all(wakes, "one", None, 0.0) == 6
    assert take_all(wakes, "two", None, 0.0) == 6
    assert take_all(wakes, "one", None, 9.9) == 0
    assert take_all(wakes, "one", None, 10.0) == 1
    assert take_all(wakes, "one", None, 1000.0) == 6


def test_each_client_has_so_many_over_all_sandboxes() -> None:
    wakes = WakeBudget(per_sandbox=6, per_client=8)
    assert [take_all(wakes, name, "192.0.2.7", 0.0) for name in ("one", "two", "three")] == [6, 2, 0]
    assert take_all(wakes, "three", "192.0.2.8", 0.0) == 6


def test_a_client_that_may_not_takes_nothing_of_the_sandboxes() -> None:
    wakes = WakeBudget(per_sandbox=2, per_client=1)
    assert [take_all(wakes, name, "192.0.2.7", 0.0) for name in ("one", "two")] == [1, 0]
    assert take_all(wakes, "two", "192.0.2.8", 0.0) == 1
    assert take_all(wakes, "two", None, 0.0) == 1


def test_what_is_remembered_is_bounded_and_full_buckets_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "KEYS_MAX", 3)
    bucket = Bucket(1)
    for number in range(10):
        bucket.take(str(number), 0.0)
    assert len(bucket) == 3
    assert not bucket.allows("9", 1.0)
    bucket.take("new", MINUTE_S)
    assert len(bucket) == 1


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 5))
def test_never_more_in_a_minute_than_twice_the_size(pauses: list[float], size: int) -> None:
    bucket, now, taken = Bucket(size), 0.0, []
    for pause in pauses:
        now += pause
        if bucket.allows("key", now):
            bucket.take("key", now)
            taken.append(now)
    for first in taken:
        assert sum(first <= at < first + MINUTE_S for at in taken) <= 2 * size
