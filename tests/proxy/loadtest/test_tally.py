"""Counting: percentiles, rates, errors by kind."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.loadtest.tally import Failure, Tally


def tally_of(*latencies_s: float) -> Tally:
    tally = Tally()
    for latency_s in latencies_s:
        tally.answered(200, latency_s, 10)
    return tally


def test_report_of_nothing_has_no_latencies() -> None:
    report = Tally().report(0.0)
    assert (report.requests, report.rate, report.p50_ms, report.max_ms, report.mean_ms) == (0, 0.0, None, None, None)


def test_percentiles_are_those_of_the_answers() -> None:
    report = tally_of(*(number / 1000 for number in range(1, 101))).report(2.0)
    assert (report.requests, report.rate, report.bytes) == (100, 50.0, 1000)
    assert report.p50_ms == pytest.approx(50, rel=0.02)
    assert report.p90_ms == pytest.approx(90, rel=0.02)
    assert report.p99_ms == pytest.approx(99, rel=0.02)
    assert report.max_ms == 100.0
    assert report.mean_ms == pytest.approx(50.5)


@given(st.lists(st.floats(min_value=0, max_value=1e5), min_size=1), st.floats(min_value=0, max_value=1))
def test_percentile_is_within_two_percent_of_the_answer_at_that_place(latencies_s: list[float], share: float) -> None:
    found = tally_of(*latencies_s).percentile_s(share)
    exact = sorted(latencies_s)[max(math.ceil(share * len(latencies_s)) - 1, 0)]
    # Microseconds are the grain.
    assert found == pytest.approx(exact, rel=0.02, abs=1e-6)
    assert found is not None
    assert found <= max(latencies_s)


def test_errors_are_failures_and_statuses_from_400_by_kind() -> None:
    tally = tally_of(0.001, 0.002)
    tally.answered(302, 0.001, 0)
    tally.answered(404, 0.001, 0)
    tally.answered(503, 0.001, 0)
    tally.answered(503, 0.001, 0)
    tally.failed(Failure.CLOSED)
    tally.failed(Failure.TIMEOUT)
    tally.failed(Failure.TIMEOUT)
    tally.under_way = 3
    report = tally.report(1.0, 500.0)
    assert report.requests == 6
    assert report.statuses == {"200": 2, "302": 1, "404": 1, "503": 2}
    assert report.errors == {
        "closed before the answer was complete": 1,
        "no complete answer in time": 2,
        "status 404": 1,
        "status 503": 2,
    }
    assert tally.errors == 6
    assert (report.unfinished, report.asked_rate) == (3, 500.0)
