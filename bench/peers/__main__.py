"""Measure Portico beside its peers: ``make bench-peers``, or ``python -m bench.peers``.

Fetches what is missing into .bench/ (nothing is installed on the machine), starts every proxy with the same
previews, checks that each does what it should, and measures in turns: the proxy on one core, load and service on
another. Prints a table for each workload, writes them as JSON and as one chart.
"""

import argparse
import datetime
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench import _chart
from bench.peers import install, machine, summary
from bench.peers.proxies import ALL, Proxy
from bench.peers.rounds import Setting, measure
from bench.peers.summary import OURS, Report
from bench.peers.workloads import IDLE, IDLE_MAX, Workload, workloads

OUT: Final = install.HERE.parent / "results"
ROUNDS: Final = 5
ROUNDS_MAX: Final = 50
SECONDS: Final = 3.0
SECONDS_MAX: Final = 60.0
ATTEMPTS: Final = 3
PIPE_WIDTH: Final = 160
INTERRUPTED: Final = 130
"""As a shell counts: 128 and the number of SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [proxy.name for proxy in ALL]
    known = [workload.name for workload in workloads()]
    parser.add_argument("--proxies", default=",".join(names), metavar="NAMES", help=f"of {', '.join(names)}")
    parser.add_argument("--workloads", default=",".join(known), metavar="NAMES", help=f"of {', '.join(known)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"1 to {ROUNDS_MAX}; default {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each sample; default {SECONDS:g}")
    parser.add_argument("--idle", type=int, default=IDLE, help=f"idle WebSockets, up to {IDLE_MAX:,}; default {IDLE:,}")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="default bench/results")
    options = parser.parse_args(arguments)
    proxies = [proxy for proxy in ALL if proxy.name in _names(parser, options.proxies, names)]
    chosen = [item for item in workloads(options.idle) if item.name in _names(parser, options.workloads, known)]
    for name, value, least, most in (
        ("--rounds", options.rounds, 1, ROUNDS_MAX),
        ("--seconds", options.seconds, 0.1, SECONDS_MAX),
        ("--idle", options.idle, 1, IDLE_MAX),
    ):
        if not least <= value <= most:
            parser.error(f"{name} goes from {least} to {most}")

    # A file or a pipe is as wide as it has to be.
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    try:
        proxy_core, load_core = machine.cores()
        programs = install.compile_programs()
    except (RuntimeError, install.MissingError) as error:
        print(f"bench-peers: {error}", file=sys.stderr)
        return 1
    try:
        with (
            Console(stderr=True).status("fetching the peers ...") as status,
            tempfile.TemporaryDirectory(prefix="run-", dir=install.CACHE) as folder,
        ):
            peers = install.install({need for proxy in proxies for need in proxy.needs})
            for name, version in sorted(peers.versions.items()):
                console.print(f"{name}: {version}", highlight=False)
            setting = Setting(
                peers,
                programs,
                Path(folder),
                proxy_core,
                load_core,
                machine.Calibration((proxy_core, load_core)),
                options.seconds,
                options.rounds,
                ATTEMPTS,
                status.update,
            )
            for workload in chosen:
                report = _measure(workload, proxies, setting)
                _print(console, report)
                _write(report, options.out)
    except KeyboardInterrupt:
        # Everything that was started has ended by now, and whole workloads are written.
        print("bench-peers: interrupted", file=sys.stderr)
        return INTERRUPTED
    console.print(f"written to {options.out}")
    return 0


def _names(parser: argparse.ArgumentParser, text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"no such name: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _measure(workload: Workload, proxies: Sequence[Proxy], setting: Setting) -> Report:
    subjects = [proxy for proxy in proxies if proxy.name in OURS or not workload.only_portico]
    return Report(
        workload.name,
        workload.about,
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine.description(),
        setting.peers.versions,
        setting.rounds,
        setting.seconds,
        measure(workload, subjects, setting),
    )


def _print(console: Console, report: Report) -> None:
    for result in report.cases:
        console.print(f"[bold]{result.case}[/bold]: {report.about}; {result.unit}", highlight=False)
        table = Table(box=None, pad_edge=False)
        lines = [summary.cells(row, result.unit) for row in result.rows]
        # A column in which nothing stands is left out.
        shown = [number for number in range(len(summary.COLUMNS)) if {line[number] for line in lines} - {"-", ""}]
        for number in shown:
            table.add_column(summary.COLUMNS[number], justify="right" if number else "left", no_wrap=True)
        for line in lines:
            table.add_row(*(line[number] for number in shown), style="bold" if line[0] in OURS else "")
        console.print(table)
        for name, reason in result.skipped.items():
            console.print(f"  no {name}: {reason}", highlight=False, markup=False)
        for verdict in result.verdicts:
            word = {True: "reached", False: "missed", None: "not judged"}[verdict.reached]
            console.print(f"  {verdict.proxy}: {verdict.goal}: {verdict.found}, {word}", highlight=False)
        console.print()


def _write(report: Report, folder: Path) -> None:
    """Write the report, and draw anew the chart of all reports of its day."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.format(msgspec.json.encode(report), indent=1)
    (folder / f"{report.date}-{report.workload}.json").write_bytes(data + b"\n")
    order = [workload.name for workload in workloads()]
    reports = [
        msgspec.json.decode((folder / f"{report.date}-{name}.json").read_bytes(), type=Report)
        for name in order
        if (folder / f"{report.date}-{name}.json").exists()
    ]
    if panels := summary.panels(reports):
        (folder / f"{report.date}.svg").write_text(_chart.svg(panels), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
