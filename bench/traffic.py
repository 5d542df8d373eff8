"""What does traffic of several kinds cost Portico, sent as a client in C can send it? ``python -m bench.traffic``

The same loads as `bench.peers`, on Portico alone: that program says how others fare. Needs a C compiler and two
cores; without them there are no figures, and a line that says why.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench._figure import Figure
from bench.peers import install, machine
from bench.peers.proxies import ALL
from bench.peers.rounds import Setting, measure
from bench.peers.summary import PORTICO
from bench.peers.workloads import workloads

ROUNDS: Final = 3
SECONDS: Final = 1.0
IDLE: Final = 2_000
"""With fewer, what is made once for all weighs too much in the figure of each."""


def run(quick: bool = False) -> list[Figure]:
    """Measure Portico under each workload."""
    try:
        proxy_core, load_core = machine.cores()
        programs = install.compile_programs()
    except (RuntimeError, install.MissingError) as error:
        print(f"no figures of traffic: {error}", file=sys.stderr)
        return []
    portico = [proxy for proxy in ALL if proxy.name == PORTICO]
    with tempfile.TemporaryDirectory(prefix="run-", dir=install.CACHE) as folder:
        setting = Setting(
            install.Peers(),
            programs,
            Path(folder),
            proxy_core,
            load_core,
            machine.Calibration((proxy_core, load_core)),
            SECONDS / 4 if quick else SECONDS,
            1 if quick else ROUNDS,
            attempts=1,
            say=lambda _: None,
        )
        figures = []
        for workload in workloads(IDLE):
            alone = dataclasses.replace(workload, only_portico=True)
            goals = {case.name: case.goal.cost for case in workload.cases if case.goal is not None}
            for result in measure(alone, portico, setting):
                # A proxy of ours that cannot do it is a finding too.
                for name, reason in result.skipped.items():
                    print(f"{result.case}: no figure of {name}: {reason}", file=sys.stderr)
                goal = goals.get(result.case)
                figures += [
                    Figure(result.case, row.cost.median, result.unit, "" if goal is None else f"<= {goal:g}")
                    for row in result.rows
                    if row.cost is not None
                ]
    return figures


def main() -> None:
    """Print the figures."""
    for figure in run():
        print(f"{figure.name:12} {figure.value:8.1f} {figure.unit}")


if __name__ == "__main__":
    main()
