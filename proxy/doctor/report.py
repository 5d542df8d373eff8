"""A diagnosis, printed for people or for programs. Both go through `Target.scrub`: no token leaves here."""

import json
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.text import Text

from proxy.core.diagnosis import Diagnosis, Finding, Outcome, Step, Target

_STYLES: Final = {Outcome.OK: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}

_STEP_WIDTH: Final = max(map(len, Step)) + 1
_OUTCOME_WIDTH: Final = max(map(len, Outcome)) + 1


def finding_printer(target: Target, console: Console) -> Callable[[Finding], None]:
    """Return what prints one finding on a line."""

    def print_finding(found: Finding) -> None:
        line = Text(f"{found.step:<{_STEP_WIDTH}}")
        line.append(f"{found.outcome:<{_OUTCOME_WIDTH}}", style=_STYLES[found.outcome])
        line.append(target.scrub(found.text))
        console.print(line)

    return print_finding


def print_verdict(diagnosis: Diagnosis, target: Target, console: Console) -> None:
    """Print the one thing to mend, below the findings."""
    mend = diagnosis.mend
    if mend is None:
        console.print(Text("Nothing to mend.", style="bold green"))
    else:
        console.print(Text("Mend this: ", style="bold").append(target.scrub(mend), style="not bold"))


def print_json(diagnosis: Diagnosis, target: Target, console: Console) -> None:
    """Print everything as one JSON object on one line."""
    mend = diagnosis.mend
    said = {
        "url": target.at(target.path),
        "sound": mend is None,
        "mend": None if mend is None else target.scrub(mend),
        "steps": [
            {"step": found.step.value, "outcome": found.outcome.value, "text": target.scrub(found.text)}
            for found in diagnosis.findings
        ],
    }
    console.out(json.dumps(said), highlight=False)
