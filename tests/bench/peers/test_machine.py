"""What the kernel knows, and when a machine counts as slow."""

import os
from collections.abc import Iterator

import pytest

from bench.peers import machine
from bench.peers.machine import Calibration


class Work:
    """Work that takes as long as a test says."""

    def __init__(self, *seconds: float) -> None:
        self._seconds: Iterator[float] = iter(seconds)
        self._last = 1.0

    def __call__(self) -> float:
        self._last = next(self._seconds, self._last)
        return self._last


def core() -> tuple[int, ...]:
    return (min(os.sched_getaffinity(0)),)


def test_slowness_is_a_multiple_of_the_quickest_time_ever_seen() -> None:
    # Five looks at the start, three times each.
    calibration = Calibration(core(), Work(*[2.0] * 14, 1.0, *[3.0] * 3))
    assert calibration.slowness() == 3.0


def test_one_slow_run_of_three_is_the_schedulers_mood() -> None:
    calibration = Calibration(core(), Work(*[1.0] * 15, 5.0, 1.0, 5.0))
    assert calibration.slowness() == 1.0


def test_calibration_leaves_the_process_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    Calibration(core(), Work(1.0)).slowness()
    assert os.sched_getaffinity(0) == before


def test_time_and_memory_of_our_own_group_are_counted() -> None:
    group = os.getpgrp()
    before = machine.group_cpu_ns(group)
    machine.fixed_work()
    assert machine.group_cpu_ns(group) > before
    assert machine.group_memory_bytes(group) > 1_000_000
    assert os.getpid() in machine.group_members(group)


def test_group_that_nobody_is_in_has_used_nothing() -> None:
    assert machine.group_cpu_ns(2**30) == machine.group_memory_bytes(2**30) == 0


def test_one_core_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(RuntimeError, match="two cores"):
        machine.cores()
