"""How a diagnosis is printed, and that no token is."""

import io
import json

from rich.console import Console

from proxy.core.diagnosis import Step, Target, diagnose, failed, ok
from proxy.doctor.report import finding_printer, print_json, print_verdict

TOKEN = "k3v9x0q2m7t1z8aa"
TARGET = Target.read(f"https://8080-my-app-{TOKEN}.example.com/some?key=secret")
# Careless on purpose.
CARELESS = failed(Step.TOKEN, f"no {TOKEN}\nhere [bold]", f"take 8080-my-app-{TOKEN}.example.com")


def console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=1000), out


def test_finding_is_one_line_without_the_token() -> None:
    screen, out = console()
    say = finding_printer(TARGET, screen)
    say(ok(Step.NAME, "a preview"))
    say(CARELESS)
    assert out.getvalue() == "name      ok      a preview\ntoken     failed  no **** here [bold]\n"


def test_verdict_names_the_one_thing() -> None:
    screen, out = console()
    print_verdict(diagnose([CARELESS]), TARGET, screen)
    print_verdict(diagnose([ok(Step.NAME, "a preview")]), TARGET, screen)
    assert out.getvalue() == "Mend this: take 8080-my-app-****.example.com\nNothing to mend.\n"


def test_json_has_every_step_and_no_secret() -> None:
    screen, out = console()
    print_json(diagnose([ok(Step.NAME, "a preview"), CARELESS]), TARGET, screen)
    assert TOKEN not in out.getvalue()
    assert "secret" not in out.getvalue()
    said = json.loads(out.getvalue())
    assert (said["url"], said["sound"]) == ("https://8080-my-app-****.example.com/some", False)
    assert said["mend"] == "take 8080-my-app-****.example.com"
    assert [step["step"] for step in said["steps"]] == list(Step)
    assert said["steps"][0] == {"step": "name", "outcome": "ok", "text": "a preview"}
