"""How many clients the limit on open files is enough for, and that some files are kept from them."""

import resource

import pytest
from structlog.testing import capture_logs

from proxy.descriptors import KEPT, PER_CONNECTION, allow_connections


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was set; the first entry is what the kernel had."""
    had = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: had[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: had.append(limit))
    return had


@pytest.mark.parametrize(
    ("wanted", "had", "raised_to", "allowed"),
    [
        (100, (1024, 4096), None, 100),
        (1000, (1024, 4096), 1000 * PER_CONNECTION + KEPT, 1000),
        (10_000, (1024, 4096), 4096, (4096 - KEPT) // PER_CONNECTION),
        (10_000, (1024, resource.RLIM_INFINITY), 10_000 * PER_CONNECTION + KEPT, 10_000),
        (10_000, (resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 10_000),
        (10, (64, 64), None, 1),
    ],
)
def test_soft_limit_is_raised_and_clients_are_held_to_what_it_is_enough_for(
    wanted: int, had: tuple[int, int], raised_to: int | None, allowed: int, limits: list[tuple[int, int]]
) -> None:
    limits[0] = had
    with capture_logs() as logged:
        assert allow_connections(wanted) == allowed
    assert limits[1:] == ([] if raised_to is None else [(raised_to, had[1])])
    assert bool(logged) == (allowed < wanted)
