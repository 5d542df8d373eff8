"""`portico log`, `portico doctor` and `portico bench`: looking at sandboxes and previews from outside the server."""

import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from cyclopts import Parameter

from actors import SandboxId
from proxy.cli.base import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, app, console, fail, run
from proxy.cli.remote import HERE, Where, named_server, open_client
from proxy.cli.settings import DataFolder, SettingsFlags, resolve_settings
from proxy.cli.waiting import Sign, waiting
from proxy.client import ServerUnreachableError
from proxy.config import HostPort
from proxy.core.diagnosis import Diagnosis, Finding, Target, check_path
from proxy.doctor.record import read_record
from proxy.doctor.report import finding_printer, print_json, print_verdict
from proxy.doctor.walk import ANSWER_TIMEOUT_S, Errand, examine
from proxy.history import parse_time, print_history, print_state_at, print_verification
from proxy.loadtest.drive import Plan
from proxy.loadtest.screen import Outcome, TargetRefusedError, load, print_report
from proxy.loadtest.screen import print_json as print_load_json
from proxy.loadtest.target import Word, parse_headers, read_target, resolve
from proxy.logging import configure_logging

BENCH_S: Final = 10.0
"""How long `portico bench` lasts unless it is told."""


@app.command
def log(
    sandbox: str,
    /,
    *,
    json: bool = False,
    verify: bool = False,
    at: str | None = None,
    data_folder: DataFolder = None,
) -> None:
    """Print the history of a sandbox, from its log.

    Works beside a running server, and without one. Tokens are masked.

    Example: portico log my-app --at 2026-11-22T15:30:00Z

    Parameters
    ----------
    sandbox
        Its id; of destroyed ones, the last of that name.
    json
        Print JSON, for programs: an object a line.
    verify
        Check every record against the chain of digests; exit code 1 if one is damaged.
    at
        Show the state at that time instead (2026-11-22T15:30:00Z, or seconds since 1970). Default: all that happened.
    """
    folder = resolve_settings(SettingsFlags(data_folder=data_folder)).settings.data_folder
    if verify and at is not None:
        fail("--verify and --at are two questions: ask one at a time", EXIT_USAGE)
    try:
        name = SandboxId(sandbox)
        time = None if at is None else parse_time(at)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    screen = console()

    async def main() -> bool:
        if verify:
            return await print_verification(folder, name, as_json=json, console=screen)
        if time is not None:
            await print_state_at(folder, name, time, as_json=json, console=screen)
        else:
            await print_history(folder, name, as_json=json, console=screen)
        return True

    if not run(main):
        sys.exit(EXIT_FAILED)


@app.command
def doctor(
    url: str,
    /,
    *,
    via: Annotated[str | None, Parameter(name=("--via", "--resolve"))] = None,
    websocket: str | None = None,
    events: str | None = None,
    data_folder: Annotated[Path | None, Parameter(name=("--data", "--data-folder"))] = None,
    timeout_s: float = ANSWER_TIMEOUT_S,
    json: bool = False,
) -> None:
    """Find out what is wrong with a preview URL, and what to mend.

    It asks as a visitor would: a sandbox that is asleep wakes. The preview token of a sandbox that has preview auth
    is taken from PORTICO_PREVIEW_TOKEN. Tokens are masked. Exit code 0: nothing to mend; 1: something; 2: that is no
    URL.

    Example: portico doctor http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:8787/ --websocket /ws

    Parameters
    ----------
    url
        As expose_port() returned it.
    via
        Connect to this HOST:PORT. Default: what the DNS says.
    websocket
        The path of a WebSocket. Default: the URL's own is tried.
    events
        The path of an event stream. Default: the URL's own is tried.
    data_folder
        The server's data folder, to add what the sandbox's log knows. Default: it is not read.
    timeout_s
        Seconds for the preview to answer, waking included. Default 100.
    json
        Print JSON, for programs: one object.
    """
    try:
        target = Target.read(url)
        where = None if via is None else HostPort.parse(via)
        for path in (websocket, events):
            check_path(path)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    if not timeout_s > 0:
        fail("--timeout-s: a time is more than 0", EXIT_USAGE)
    screen = console()

    async def main() -> Diagnosis:
        errand = Errand(
            target=target,
            via=where,
            preview_token=os.environ.get("PORTICO_PREVIEW_TOKEN") or None,
            websocket_path=websocket,
            events_path=events,
            record=None if data_folder is None else await read_record(data_folder, target),
            timeout_s=timeout_s,
        )
        say = (lambda _: None) if json else finding_printer(target, screen)
        async with waiting("waiting for an answer") as sign:

            def tell(found: Finding) -> None:
                sign.heard()
                say(found)

            return await examine(errand, tell)

    diagnosis = run(main)
    (print_json if json else print_verdict)(diagnosis, target, screen)
    if diagnosis.mend is not None:
        sys.exit(EXIT_FAILED)


@app.command
def bench(
    url: str,
    /,
    *,
    connections: int = 16,
    duration_s: Annotated[float | None, Parameter(name=("--duration", "--duration-s"))] = None,
    requests: int | None = None,
    rate: float | None = None,
    header: tuple[str, ...] = (),
    timeout_s: Annotated[float, Parameter(name=("--timeout", "--timeout-s"))] = 30.0,
    where: Where = HERE,
) -> None:
    """Load a preview URL with GETs, and report rates and latencies.

    Ctrl-C ends it early. A server on this machine can be loaded by anybody; one elsewhere (--server, or PORTICO_SERVER)
    by who holds a key of it, and only where the URL's name leads to that server's own addresses. The preview token of a
    sandbox that has preview auth is taken from PORTICO_PREVIEW_TOKEN. Exit code 0: all answered, below status 400; 1:
    not all, or not this target; 2: the arguments make no sense; 130: Ctrl-C.

    Example: portico bench http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:8787/ --duration 5

    Parameters
    ----------
    url
        As expose_port() returned it, with any path.
    connections
        A count; kept alive, with one request at a time on each. Default 16.
    duration_s
        Seconds that it lasts. Default 10, unless --requests says when to end.
    requests
        A count, to end after. Default: --duration says when to end.
    rate
        Requests a second, of all together; latencies count from when each is due. Default: as fast as they go.
    header
        NAME: VALUE, to be sent with each; give it again for more. Default: none.
    timeout_s
        Seconds for a complete answer. Default 30.
    """
    try:
        target = read_target(url)
        headers = parse_headers(header, os.environ.get("PORTICO_PREVIEW_TOKEN") or None)
        plan = Plan(
            connections=connections,
            duration_s=BENCH_S if duration_s is None and requests is None else duration_s,
            requests=requests,
            rate=rate,
            timeout_s=timeout_s,
        )
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    screen = console()
    configure_logging("warning", "console")

    async def main() -> Outcome:
        live = screen.is_terminal and not where.json
        async with nullcontext() if live else waiting(f"loading port {target.port}") as sign:
            vouch = None if named_server(where) is None else partial(_vouch, where, url, sign)
            try:
                return await load(target, headers, plan, screen, live=live, vouch=vouch)
            except (TargetRefusedError, ServerUnreachableError) as error:
                why, code = str(error), EXIT_FAILED
            except ValueError as error:
                why, code = str(error), EXIT_USAGE
        # Not before what is waited for is off the screen: it would stand in front of it, on the same line.
        return fail(why, code)

    outcome = run(main)
    if where.json:
        print_load_json(outcome, screen)
    else:
        print_report(outcome, target, plan, screen)
    if outcome.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if not outcome.clean:
        sys.exit(EXIT_FAILED)


async def _vouch(where: Where, url: str, sign: Sign | None) -> Word:
    """Ask the server that was named what it says of a URL."""
    if sign is not None:
        # Something may have to be said of the server's name, or of the key.
        sign.heard()
    async with open_client(where) as client:
        explained = await client.explain(url)
    server = urlsplit(named_server(where) or "")
    host = server.hostname or ""
    return Word(host, await resolve(host, server.port or 0), explained.outcome.code)
