"""From samples to rows, ratios and verdicts."""

import pytest

from bench.peers.proxies import DIRECT
from bench.peers.scene import same_heads
from bench.peers.summary import (
    COLUMNS,
    CaseResult,
    Report,
    Row,
    Sample,
    Spread,
    cells,
    conclude,
    judge,
    panels,
    rows,
)
from bench.peers.workloads import Case, Cost, Goal

SLOW = 1.5


def samples(*costs: float, **more: float) -> list[Sample]:
    return [Sample(cost, **more) for cost in costs]


def row(name: str, cost: float, ratio: float | None = None, **more: float) -> Row:
    return Row(name, 1, 0, Spread(cost, cost, cost), Spread(ratio, ratio, ratio) if ratio else None, **more)  # type: ignore[arg-type]  # floats are what tests give


def test_spread_is_median_least_and_most_in_four_digits() -> None:
    assert Spread.of([3.0, 1.0, 2.00009]) == Spread(2.0, 1.0, 3.0)


def test_ratio_is_the_median_of_the_ratios_of_rounds() -> None:
    # The second round was slow for both: as a ratio of medians it would be 2.0 / 1.0, or worse.
    found = {
        row.proxy: row
        for row in rows({"nginx": samples(10.0, 100.0, 10.0), "portico": samples(20.0, 150.0, 25.0)}, SLOW)
    }
    assert found["portico"].ratio == Spread(2.0, 1.5, 2.5)
    assert found["nginx"].ratio == Spread(1.0, 1.0, 1.0)
    assert found["portico"].cost == Spread(25.0, 20.0, 150.0)


def test_rows_stand_by_cost_with_direct_first() -> None:
    found = rows({"b": samples(2.0), DIRECT: [Sample(None, 9.0)], "a": samples(1.0)}, SLOW)
    assert [row.proxy for row in found] == [DIRECT, "a", "b"]
    assert (found[0].cost, found[0].ratio) == (None, None)


def test_latency_is_compared_with_direct_only_where_it_says_something() -> None:
    taken = {
        DIRECT: [Sample(None, p50_us=20.0, p99_us=100.0)],
        "portico": samples(1.0, p50_us=220.0, p99_us=900.0),
    }
    ours = rows(taken, SLOW, over_direct=True)[-1]
    assert (ours.added_p50_us, ours.added_p99_us) == (200.0, 800.0)
    assert rows(taken, SLOW)[-1].added_p50_us is None
    assert rows(taken, SLOW, over_direct=True)[0].added_p50_us is None


def test_samples_kept_on_a_slow_machine_are_counted_as_noisy() -> None:
    (found,) = rows({"a": [*samples(1.0, slowness=1.6), *samples(1.0, slowness=1.5)]}, SLOW)
    assert (found.noisy, found.samples) == (1, 2)


@pytest.mark.parametrize(
    ("goal", "found", "reached"),
    [
        (Goal("g", times_nginx=2.0), [row("portico", 40.0, 2.0)], True),
        (Goal("g", times_nginx=2.0), [row("portico", 40.0, 2.1)], False),
        (Goal("g", times_nginx=2.0), [row("portico", 40.0)], None),
        (Goal("g", cost=0.7), [row("portico", 0.7)], True),
        (Goal("g", cost=0.7), [row("portico", 0.71)], False),
        (Goal("g", times_nginx=5.0, below="caddy"), [row("portico", 40.0, 2.0), row("caddy", 41.0)], True),
        (Goal("g", times_nginx=5.0, below="caddy"), [row("portico", 40.0, 2.0), row("caddy", 39.0)], False),
        (Goal("g", times_nginx=5.0, below="caddy"), [row("portico", 40.0, 2.0)], None),
        (Goal("g", times_nginx=1.0, below="caddy"), [row("portico", 40.0, 2.0)], False),
        (Goal("g", added_p50_us=250.0), [row("portico", 1.0, added_p50_us=250.0)], True),
        (Goal("g", added_p50_us=250.0), [row("portico", 1.0, added_p50_us=251.0)], False),
        (Goal("g", added_p50_us=250.0), [row("portico", 1.0)], None),
        (Goal("g", cost=0.7), [row("nginx", 0.1)], None),
    ],
)
def test_goal_is_reached_missed_or_not_judged(goal: Goal, found: list[Row], reached: bool | None) -> None:
    assert judge(goal, found).reached is reached


@pytest.mark.parametrize(("cost", "reached"), [(110.0, True), (111.0, False)])
def test_case_is_compared_with_the_first_of_its_workload(cost: float, reached: bool) -> None:
    cases = [
        Case("one", "requests", same_heads),
        Case("all", "requests", same_heads, goal=Goal("g", times_other=1.1)),
    ]
    taken = {"one": {"portico": samples(100.0)}, "all": {"portico": samples(cost)}}
    skipped: dict[str, dict[str, str]] = {"one": {}, "all": {"caddy": "why"}}
    first, second = conclude(cases, taken, skipped, SLOW)
    assert not first.verdicts
    (verdict,) = second.verdicts
    assert verdict.reached is reached
    assert second.skipped == {"caddy": "why"}


def test_cells_have_a_text_for_each_column() -> None:
    full = rows({"nginx": samples(3.0), "portico": samples(0.75, rate=1234.0, p50_us=5.0, p99_us=60.0)}, SLOW)[0]
    assert cells(full, Cost.GIB.value) == (
        "portico",
        "0.75",
        "0.75 .. 0.75",
        "0.25",
        "1,234 MB",
        "5",
        "60",
        "-",
        "-",
        "",
    )
    (bare,) = rows({DIRECT: [Sample(None)]}, SLOW)
    assert len(cells(bare, Cost.REQUEST.value)) == len(COLUMNS)


def report(*found: Row) -> Report:
    result = CaseResult("get", Cost.REQUEST.value, found, {})
    return Report("get", "about", "2026-01-01", "a machine", {}, 5, 3.0, (result,))


def test_chart_shows_costs_and_what_is_ours() -> None:
    (panel,) = panels([report(row(DIRECT, 0.0), row("nginx", 20.0, 1.0), row("portico", 40.0, 2.0))])
    assert [(bar.label, bar.ours) for bar in panel.bars][-2:] == [("nginx", False), ("portico", True)]
    assert panel.bars[-1].text == "40.0  (2.0 x nginx)"


def test_chart_shows_added_latency_where_that_was_asked() -> None:
    late = row("b", 1.0, added_p50_us=90.0, added_p99_us=900.0)
    (panel,) = panels([report(late, row("a", 2.0, added_p50_us=-3.0))])
    # A bar does not go below zero; its text says what was found.
    assert [(bar.label, bar.value, bar.text) for bar in panel.bars] == [
        ("a", 0.0, "-3"),
        ("b", 90.0, "+90  (p99 +900)"),
    ]


def test_case_with_nobody_to_compare_is_not_drawn() -> None:
    assert panels([report(row("portico", 1.0))]) == []
