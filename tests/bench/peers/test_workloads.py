"""What is counted, and what Portico is to reach."""

import pytest

from bench.peers.workloads import BODY_BYTES, IDLE_MAX, Cost, workloads


def test_cost_is_of_one_in_its_unit() -> None:
    assert Cost.REQUEST.of(2_000_000, 100) == 20.0
    # 64 MiB in a tenth of a second: 1.6 s for a GiB.
    assert Cost.GIB.of(1e8, 1) == pytest.approx(1.6)


def test_every_workload_and_case_has_a_name_of_its_own() -> None:
    found = workloads()
    assert len({workload.name for workload in found}) == len(found)
    cases = [case.name for workload in found for case in workload.cases]
    assert len(set(cases)) == len(cases)


def test_cases_of_a_workload_share_their_sandboxes() -> None:
    for workload in workloads():
        assert len({case.sandboxes for case in workload.cases}) == 1


def test_idle_sockets_are_as_many_as_asked_and_fit_the_descriptors() -> None:
    (idle,) = [workload for workload in workloads(7) if workload.fresh]
    assert idle.cases[0].connections == 7
    assert 2 * IDLE_MAX < 20_000


def test_upload_sends_what_its_head_announces() -> None:
    (up,) = [case for workload in workloads() for case in workload.cases if case.mode == "upload"]
    assert up.number == BODY_BYTES
