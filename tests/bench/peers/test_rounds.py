"""The whole way, with Portico alone: service, smoke test, load, samples. Needs a C compiler and two cores."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peers import install, machine, smoke
from bench.peers.children import child, read_line
from bench.peers.proxies import ALL, DIRECT
from bench.peers.rounds import Setting, measure
from bench.peers.scene import previews
from bench.peers.workloads import Case, Workload, workloads

WAIT_S = 20.0

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    # What a machine may rightly lack: it only measures.
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core here"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]) -> dict[str, Path]:
    require_program("cc")
    return install.compile_programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def setting(programs: dict[str, Path], tmp_path: Path) -> Setting:
    proxy_core, load_core = machine.cores()
    return Setting(
        install.Peers(),
        programs,
        tmp_path,
        proxy_core,
        load_core,
        machine.Calibration((proxy_core, load_core), lambda: 1.0),
        seconds=0.1,
        rounds=2,
        attempts=1,
        say=lambda _: None,
    )


def workload(name: str) -> Workload:
    (found,) = [item for item in workloads(20) if item.name == name]
    return found


@contextmanager
def service(setting: Setting) -> Iterator[list[int]]:
    log = setting.folder / "service.log"
    with child([setting.programs["service"], "0", "0"], core=setting.load_core, log=log) as process:
        yield [int(port) for port in read_line(process, WAIT_S, log).split()]


PORTICO = [proxy for proxy in ALL if proxy.name == "portico"]


@pytest.mark.parametrize("name", ["vary", "echo", "connect", "latency"])
def test_portico_is_measured_beside_going_direct(name: str, setting: Setting) -> None:
    (result,) = measure(workload(name), PORTICO, setting)
    assert result.skipped == {}
    direct, ours = result.rows
    assert (direct.proxy, ours.proxy, ours.samples) == (DIRECT, "portico", 2)
    assert ours.cost is not None
    assert 1 < ours.cost.median < 100_000
    assert ours.rate is not None
    assert ours.rate.median > 1


def test_idle_websockets_are_measured_in_a_fresh_process_each(setting: Setting) -> None:
    (result,) = measure(workload("idle-ws"), PORTICO, setting)
    assert result.skipped == {}
    assert [(row.proxy, row.samples) for row in result.rows] == [("portico", 2)]


def test_proxy_that_cannot_take_part_is_left_out_with_the_reason(setting: Setting) -> None:
    nginx = [proxy for proxy in ALL if proxy.name.startswith("nginx")]
    (result,) = measure(workload("get"), nginx, setting)
    assert result.skipped == {
        "nginx": "nginx was not asked for",
        "nginx-64k": "differs from nginx in its buffers for bodies alone",
    }
    assert [row.proxy for row in result.rows] == [DIRECT]


def test_proxy_that_lets_everybody_in_fails_its_smoke_test(setting: Setting) -> None:
    # The service itself: right in all but one respect.
    with service(setting) as ports:
        with pytest.raises(smoke.SmokeError, match="a wrong token: answered with 200"):
            smoke.check(ports[0], previews([ports[0]], 2))
        with pytest.raises(smoke.SmokeError, match="the first preview"):
            smoke.check(ports[0], previews([ports[1]], 2))


def test_load_with_errors_is_no_sample(setting: Setting) -> None:
    lost = Workload("get", "of nobody", tuple(_to_nobody(case) for case in workload("get").cases))
    (result,) = measure(lost, PORTICO, setting)
    assert "errors" in result.skipped["portico"] or "too many errors" in result.skipped["portico"]


def _to_nobody(case: Case) -> Case:
    return dataclasses.replace(case, heads=lambda served: [next(iter(case.heads(served))).replace(b"app-", b"bad-")])
