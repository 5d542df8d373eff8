"""From samples to medians, ratios, goals, tables and charts. Pure.

Ratios are taken round by round and then their median: the samples of one round stand close together in time, and a
machine that was slow was slow for both.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from bench._chart import Bar, Panel
from bench.peers.proxies import DIRECT
from bench.peers.workloads import Case, Cost, Goal

PORTICO: Final = "portico"
OURS: Final = (PORTICO, "portico-c")
"""As it is written, and compiled."""
YARDSTICK: Final = "nginx"


class Sample(msgspec.Struct, frozen=True):
    """What one run of the load against one proxy gave."""

    cost: float | None
    """In the unit of its case; None where there is no proxy."""
    rate: float | None = None
    """Requests, messages or connections a second; of bodies, MB a second."""
    p50_us: float | None = None
    p99_us: float | None = None
    slowness: float = 1.0
    """How slow the machine was around it, at worst."""


class Spread(msgspec.Struct, frozen=True):
    """Median, least and most of some values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Take it from the values themselves."""
        return cls(*(_rounded(value) for value in (statistics.median(values), min(values), max(values))))


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One proxy in one case."""

    proxy: str
    samples: int
    noisy: int
    """Samples that were kept although the machine was slow, because it always was."""
    cost: Spread | None = None
    ratio: Spread | None = None
    """To nginx's cost."""
    rate: Spread | None = None
    p50_us: Spread | None = None
    p99_us: Spread | None = None
    added_p50_us: float | None = None
    added_p99_us: float | None = None
    """Over going to the service directly."""


class Verdict(msgspec.Struct, frozen=True):
    """How Portico stands to a goal; None where what it is compared with was not measured."""

    proxy: str
    """Which of `OURS`."""
    goal: str
    found: str
    reached: bool | None


class CaseResult(msgspec.Struct, frozen=True):
    """All rows of a case, the cheapest first."""

    case: str
    unit: str
    rows: tuple[Row, ...]
    skipped: dict[str, str]
    """Why there is no row, by proxy."""
    verdicts: tuple[Verdict, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """A workload's results: what is written to a file."""

    workload: str
    about: str
    date: str
    machine: str
    versions: dict[str, str]
    rounds: int
    seconds: float
    cases: tuple[CaseResult, ...]


def _rounded(value: float) -> float:
    # Four digits are more than any of this means, and files of results stay small.
    return float(f"{value:.4g}")


def rows(samples: Mapping[str, Sequence[Sample]], slow: float, *, over_direct: bool = False) -> tuple[Row, ...]:
    """Summarise a case; ``{proxy: [sample of the first round, …]}``, with as many of each as there were rounds.

    Args:
        samples: What was taken.
        slow: The slowness beyond which a sample counts as noisy.
        over_direct: Whether the latency added to that of going direct says something: not where 32 clients wait in a
            queue of their own making.
    """
    direct = samples.get(DIRECT, ()) if over_direct else ()
    direct_p50 = _spread([sample.p50_us for sample in direct])
    direct_p99 = _spread([sample.p99_us for sample in direct])
    found = []
    for proxy, taken in samples.items():
        p50, p99 = _spread([sample.p50_us for sample in taken]), _spread([sample.p99_us for sample in taken])
        found.append(
            Row(
                proxy,
                len(taken),
                sum(sample.slowness > slow for sample in taken),
                _spread([sample.cost for sample in taken]),
                _ratio(taken, samples.get(YARDSTICK, ())),
                _spread([sample.rate for sample in taken]),
                p50,
                p99,
                _rounded(p50.median - direct_p50.median) if p50 and direct_p50 and proxy != DIRECT else None,
                _rounded(p99.median - direct_p99.median) if p99 and direct_p99 and proxy != DIRECT else None,
            )
        )
    return tuple(sorted(found, key=lambda row: row.cost.median if row.cost else -1.0))


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _ratio(taken: Sequence[Sample], yardstick: Sequence[Sample]) -> Spread | None:
    pairs = zip(taken, yardstick, strict=False)
    ratios = [one.cost / other.cost for one, other in pairs if one.cost is not None and other.cost]
    return Spread.of(ratios) if ratios else None


def judge(goal: Goal, found: Sequence[Row], first: Sequence[Row] = (), name: str = PORTICO) -> Verdict:
    """Hold the row of `name` against a goal; `first` are the rows of the workload's first case."""
    by_name = {row.proxy: row for row in found}
    ours = by_name.get(name)
    if ours is None or ours.cost is None:
        return Verdict(name, goal.text, "not measured", None)
    # (what was found, and whether it is enough; None where what it is compared with was not measured)
    checks: list[tuple[str, bool | None]] = []
    if goal.times_nginx is not None:
        ratio = ours.ratio
        checks.append(
            (f"{ratio.median:.2f} times", ratio.median <= goal.times_nginx) if ratio else (f"no {YARDSTICK}", None)
        )
    if goal.cost is not None:
        checks.append((f"{ours.cost.median:.2f}", ours.cost.median <= goal.cost))
    if goal.below is not None:
        other = by_name.get(goal.below)
        if other is None or other.cost is None:
            checks.append((f"no {goal.below}", None))
        else:
            text = f"{ours.cost.median:.1f} beside {goal.below}'s {other.cost.median:.1f}"
            checks.append((text, ours.cost.median < other.cost.median))
    for bound, added, which in (
        (goal.added_p50_us, ours.added_p50_us, "p50"),
        (goal.added_p99_us, ours.added_p99_us, "p99"),
    ):
        if bound is not None:
            checks.append(
                (f"{which} no {DIRECT}", None) if added is None else (f"{which} +{added:.0f} us", added <= bound)
            )
    if goal.times_other is not None:
        other = next((row for row in first if row.proxy == name), None)
        if other is None or other.cost is None:
            checks.append(("no other case", None))
        else:
            ratio_to_other = ours.cost.median / other.cost.median
            checks.append((f"{ratio_to_other:.2f} times", ratio_to_other <= goal.times_other))
    answers = [answer for _, answer in checks]
    reached = False if False in answers else None if None in answers else True
    return Verdict(name, goal.text, ", ".join(text for text, _ in checks), reached)


def conclude(
    cases: Sequence[Case],
    taken: Mapping[str, Mapping[str, Sequence[Sample]]],
    skipped: Mapping[str, dict[str, str]],
    slow: float,
) -> tuple[CaseResult, ...]:
    """Summarise and judge all cases of a workload; samples and reasons are by case, then by proxy."""
    all_rows = {case.name: rows(taken[case.name], slow, over_direct=case.mode == "latency") for case in cases}
    first = all_rows[cases[0].name]
    return tuple(
        CaseResult(
            case.name,
            case.cost.value,
            all_rows[case.name],
            dict(skipped[case.name]),
            () if case.goal is None else _verdicts(case.goal, all_rows[case.name], first),
        )
        for case in cases
    )


def _verdicts(goal: Goal, found: Sequence[Row], first: Sequence[Row]) -> tuple[Verdict, ...]:
    measured = [row.proxy for row in found if row.proxy in OURS]
    return tuple(judge(goal, found, first, name) for name in OURS if name in measured) or (judge(goal, found, first),)


COLUMNS: Final = ("proxy", "cost", "range", "x nginx", "per s", "p50 us", "p99 us", "added p50", "added p99", "noisy")


def cells(row: Row, unit: str) -> tuple[str, ...]:
    """Give a row's texts, one for each of `COLUMNS`."""
    return (
        row.proxy,
        _number(row.cost.median) if row.cost else "-",
        f"{_number(row.cost.low)} .. {_number(row.cost.high)}" if row.cost else "-",
        f"{row.ratio.median:.2f}" if row.ratio else "-",
        (f"{row.rate.median:,.0f}" + (" MB" if unit == Cost.GIB.value else "")) if row.rate else "-",
        f"{row.p50_us.median:,.0f}" if row.p50_us else "-",
        f"{row.p99_us.median:,.0f}" if row.p99_us else "-",
        f"{row.added_p50_us:+,.0f}" if row.added_p50_us is not None else "-",
        f"{row.added_p99_us:+,.0f}" if row.added_p99_us is not None else "-",
        f"{row.noisy} of {row.samples}" if row.noisy else "",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def panels(reports: Sequence[Report]) -> list[Panel]:
    """Give a panel for each case that compares proxies: of added latency where that was asked, of cost elsewhere."""
    drawn = []
    for report in reports:
        for result in report.cases:
            added = [_added_bar(row) for row in result.rows if row.added_p50_us is not None]
            bars = sorted(added, key=lambda bar: bar.value) or [_cost_bar(row) for row in result.rows if row.cost]
            if len(bars) < 2:
                continue
            unit = "us added to going direct, p50" if added else result.unit
            note = f"{unit}; less is better; median of rounds: {report.rounds}"
            drawn.append(Panel(f"{result.case}: {report.about}", note, bars))
    return drawn


def _added_bar(row: Row) -> Bar:
    assert row.added_p50_us is not None
    text = f"{row.added_p50_us:+,.0f}" + (f"  (p99 {row.added_p99_us:+,.0f})" if row.added_p99_us is not None else "")
    return Bar(row.proxy, max(row.added_p50_us, 0.0), text, ours=row.proxy in OURS)


def _cost_bar(row: Row) -> Bar:
    assert row.cost is not None
    text = _number(row.cost.median) + (f"  ({row.ratio.median:.1f} x nginx)" if row.ratio else "")
    return Bar(row.proxy, row.cost.median, text, row.cost.low, row.cost.high, row.proxy in OURS)
