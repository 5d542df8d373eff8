"""All benchmarks, a table for each and a picture at the end: ``python -m bench``, or ``make bench``.

``--quick`` takes fewer samples; ``--smoke`` is for seeing that every program runs: its figures mean nothing.
``--json FILE`` writes the rows for programs, ``--svg FILE`` says where the picture goes. The exit code does not depend
on the figures: machines differ, and a figure that misses its goal is marked.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import _chart, _picture
from bench._figure import Figure, reached

PROGRAMS: Final = ("durability", "actors", "engine", "proxy_get", "preview_auth", "traffic", "wake", "api")
"""Each answers one question, and runs by itself as ``python -m bench.NAME``."""

PICTURE: Final = Path(".bench/bench.svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the programs named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PROGRAMS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--smoke", action="store_true", help="only see that everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--svg", type=Path, metavar="FILE", default=PICTURE, help=f"the picture; default {PICTURE}")
    options = parser.parse_args(arguments)
    unknown = set(options.programs) - set(PROGRAMS)
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}")

    console = Console(soft_wrap=True)
    rows: list[tuple[str, Figure]] = []
    for name in options.programs or PROGRAMS:
        with Console(stderr=True).status(f"{name} ..."):
            figures = importlib.import_module(f"bench.{name}").run(quick=options.quick or options.smoke)
        rows += [(name, figure) for figure in figures]
        # Printed as they come: a long run shows its progress, and an interrupted one its results.
        console.print(_table(name, figures))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        plain = [{"program": name, **figure._asdict(), "reached": reached(figure)} for name, figure in rows]
        options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    if panels := _picture.panels(rows):
        for line in _picture.lines(panels, console.width):
            console.print(line, highlight=False, markup=False)
        options.svg.parent.mkdir(parents=True, exist_ok=True)
        options.svg.write_text(_chart.svg(panels), encoding="utf-8")
        console.print(f"the same as a picture: {options.svg}", highlight=False)
    missed = [figure.name for _, figure in rows if reached(figure) is False]
    if missed and not options.smoke:
        console.print(f"{len(missed)} of {len(rows)} figures miss their goal")
    sys.stdout.flush()


def _table(name: str, figures: Sequence[Figure]) -> Table:
    table = Table(title=name, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("what", min_width=60)
    table.add_column("figure", justify="right", min_width=10)
    table.add_column("unit", min_width=8)
    table.add_column("goal", min_width=8)
    table.add_column("")
    marks = {True: "[green]reached[/green]", False: "[red]missed[/red]", None: ""}
    for figure in figures:
        table.add_row(figure.name, f"{figure.value:,.4g}", figure.unit, figure.goal, marks[reached(figure)])
    return table


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description."""


if __name__ == "__main__":
    main()
