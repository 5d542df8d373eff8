"""`portico`: the command line. It reads arguments and prints; what it does is elsewhere.

Exit codes: 0 done; 1 it could not be done, or what was checked is damaged (a line on stderr says why); 2 the
arguments or settings make no sense.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar

import trio

try:
    import cyclopts
    from cyclopts import Parameter
    from rich.console import Console
    from rich.table import Table

    from proxy.demo.run import demo_settings, run_demo
    from proxy.doctor.record import read_record
    from proxy.doctor.report import finding_printer, print_json, print_verdict
    from proxy.doctor.walk import ANSWER_TIMEOUT_S, Errand, examine
    from proxy.history import parse_time, print_history, print_state_at, print_verification
    from proxy.loadtest.drive import Plan
    from proxy.loadtest.screen import Outcome, TargetRefusedError, load, print_report
    from proxy.loadtest.screen import print_json as print_load_json
    from proxy.loadtest.target import parse_headers, read_target
except ModuleNotFoundError as error:
    # The engine is often embedded without the command.
    package = str(error.name).partition(".")[0]
    sys.exit(f"portico: the command needs more packages ({package} is missing): pip install 'portico[cli]'")

from actors import CustomDomainRequiredError, Domain, InvalidNameError, PorticoError, SandboxId
from proxy.config import ConfigError, HostPort, Resolved, Settings, resolve
from proxy.core.diagnosis import Diagnosis, Target, check_path
from proxy.host import ListenError, open_host, serve_until_told
from proxy.logging import configure_logging

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""As a shell counts: 128 and the number of SIGINT."""

BENCH_S: Final = 10.0
"""How long `portico bench` lasts unless it is told."""

PIPE_WIDTH: Final = 10_000
"""Columns; more than any line has."""

T = TypeVar("T")

app = cyclopts.App(
    name="portico",
    help="Stable, private, revocable preview URLs for sandboxes.",
    version=lambda: version("portico"),
    version_flags=["--version"],
    # A flag that is not given is off; that need not be said at each, and there is no --no-json.
    default_parameter=Parameter(negative="", show_default=False),
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SettingsFlags:
    """Settings of a server. Each can also be an environment variable (``PORTICO_LISTEN``) or a line of TOML."""

    listen: Annotated[str | None, Parameter(help="Where to listen, HOST:PORT. Default 127.0.0.1:8787.")] = None
    domains: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name=("--domain", "--domains"),
            help="A base domain of preview URLs; give it again for more. Default localhost.",
        ),
    ] = None
    data_folder: Annotated[
        Path | None, Parameter(name=("--data", "--data-folder"), help="The data folder. Default portico-data.")
    ] = None
    config: Annotated[Path | None, Parameter(help="A TOML file with settings; or PORTICO_CONFIG.")] = None
    log_level: Annotated[str | None, Parameter(help="debug, info, warning or error.")] = None
    log_format: Annotated[str | None, Parameter(help="console or json.")] = None
    head_bytes_max: Annotated[int | None, Parameter(help="Bytes in a request or response head.")] = None
    fields_max: Annotated[int | None, Parameter(help="Fields in a head.")] = None
    head_timeout_s: Annotated[float | None, Parameter(help="For a whole request head.")] = None
    keep_alive_timeout_s: Annotated[float | None, Parameter(help="For an idle client connection.")] = None
    upstream_idle_timeout_s: Annotated[float | None, Parameter(help="For an idle connection to a service.")] = None
    connect_timeout_s: Annotated[float | None, Parameter(help="For a service to accept.")] = None
    response_timeout_s: Annotated[float | None, Parameter(help="For a service to begin its response.")] = None
    wake_timeout_s: Annotated[float | None, Parameter(help="For a sandbox to wake.")] = None
    connections_max: Annotated[int | None, Parameter(help="Client connections at once.")] = None
    connections_per_address_max: Annotated[
        int | None, Parameter(help="Of these, for one client address; 0: no limit.")
    ] = None
    visits_per_sandbox_max: Annotated[int | None, Parameter(help="Requests and WebSockets of one sandbox.")] = None
    drain_timeout_s: Annotated[float | None, Parameter(help="For requests under way when the server stops.")] = None
    reserved_ports: Annotated[str | None, Parameter(help="Ports never exposed, with commas. Default 3000.")] = None
    trusted_proxies: Annotated[str | None, Parameter(help="Networks whose X-Forwarded fields count.")] = None

    def resolve(self, environ: Mapping[str, str]) -> Resolved:
        """Put flags, environment and file together; ConfigError with every problem."""
        flags: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        del flags["config"]
        return resolve(flags, environ, self.config)


NO_FLAGS: Final = SettingsFlags()

DataFolder = Annotated[
    Path | None,
    Parameter(name=("--data", "--data-folder"), help="The data folder. Default PORTICO_DATA_FOLDER or portico-data."),
]


@app.command
def serve(flags: SettingsFlags = NO_FLAGS, *, show_config: bool = False) -> None:
    """Serve preview URLs until told to stop (Ctrl-C or SIGTERM).

    Flags win over the environment, the environment over the file of --config, that over the defaults.

    Parameters
    ----------
    show_config
        Print every setting and where it came from, and exit.
    """
    resolved = _resolve(flags)
    if show_config:
        _print_settings(resolved)
        return
    settings = resolved.settings
    configure_logging(settings.log_level, settings.log_format)

    async def main() -> None:
        async with open_host(settings) as host:
            await serve_until_told(host)

    _run(main)


@app.command
def demo(flags: SettingsFlags = NO_FLAGS) -> None:
    """See it work: a sandbox, a web app in it, a preview URL to open.

    The URL is the same next time: it is kept in the data folder.
    """
    settings = demo_settings(_resolve(flags))
    configure_logging(settings.log_level, settings.log_format)
    _run(lambda: run_demo(settings, Console()))


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
    """Print the history of a sandbox, from its log. Works beside a running server. Tokens are masked.

    Parameters
    ----------
    sandbox
        Its id; of a destroyed one, the last of that name.
    json
        For programs: one JSON object a line.
    verify
        Check every record against the chain of digests; exit code 1 if one is damaged.
    at
        Show the state at that time instead (2026-11-22T15:30:00Z, or seconds since 1970).
    """
    folder = _resolve(SettingsFlags(data_folder=data_folder)).settings.data_folder
    if verify and at is not None:
        _fail("--verify and --at are two questions: ask one at a time", EXIT_USAGE)
    try:
        name = SandboxId(sandbox)
        time = None if at is None else parse_time(at)
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)
    console = _console()

    async def main() -> bool:
        if verify:
            return await print_verification(folder, name, as_json=json, console=console)
        if time is not None:
            await print_state_at(folder, name, time, as_json=json, console=console)
        else:
            await print_history(folder, name, as_json=json, console=console)
        return True

    if not _run(main):
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
    """Find out what is wrong with a preview URL, and name the one thing to mend. Tokens are masked.

    It asks as a visitor would: a sandbox that is asleep wakes. The preview token of a sandbox that has preview auth
    is taken from PORTICO_PREVIEW_TOKEN. Exit code 0: nothing to mend; 1: something; 2: that is no URL.

    Parameters
    ----------
    url
        As expose_port() returned it.
    via
        Connect to HOST:PORT, whatever the DNS says.
    websocket
        The path of a WebSocket. Without it the URL's own path is tried.
    events
        The path of an event stream, likewise.
    data_folder
        The server's data folder, to add what the sandbox's log knows.
    timeout_s
        For the preview to answer, waking included. Default 100.
    json
        For programs: one JSON object.
    """
    try:
        target = Target.read(url)
        where = None if via is None else HostPort.parse(via)
        for path in (websocket, events):
            check_path(path)
    except ValueError as error:
        _fail(str(error), EXIT_USAGE)
    if not timeout_s > 0:
        _fail("--timeout-s: a time is more than 0", EXIT_USAGE)
    console = _console()

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
        return await examine(errand, (lambda _: None) if json else finding_printer(target, console))

    diagnosis = _run(main)
    (print_json if json else print_verdict)(diagnosis, target, console)
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
    json: bool = False,
) -> None:
    """Load a preview URL of one's own with GETs, and report rate, percentiles and errors. Ctrl-C ends it early.

    Only a server on this machine can be loaded. The preview token of a sandbox that has preview auth is taken from
    PORTICO_PREVIEW_TOKEN. Exit code 0: all answered, below status 400; 1: not all, or not this target; 2: the
    arguments make no sense; 130: Ctrl-C.

    Parameters
    ----------
    url
        As expose_port() returned it, with any path.
    connections
        Kept alive, with one request at a time on each. Default 16.
    duration_s
        Seconds. Default 10, unless --requests says when to end.
    requests
        End after so many.
    rate
        Requests a second, of all together; latencies count from when each is due. Without it: as fast as they go.
    header
        NAME: VALUE, to be sent with each; give it again for more.
    timeout_s
        For a complete answer. Default 30.
    json
        For programs: one JSON object.
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
        _fail(str(error), EXIT_USAGE)
    console = _console()
    configure_logging("warning", "console")

    async def main() -> Outcome:
        try:
            return await load(target, headers, plan, console, live=console.is_terminal and not json)
        except TargetRefusedError as error:
            _fail(str(error), EXIT_FAILED)
        except ValueError as error:
            _fail(str(error), EXIT_USAGE)

    outcome = _run(main)
    if json:
        print_load_json(outcome, console)
    else:
        print_report(outcome, target, plan, console)
    if outcome.interrupted:
        sys.exit(EXIT_INTERRUPTED)
    if not outcome.clean:
        sys.exit(EXIT_FAILED)


def _resolve(flags: SettingsFlags) -> Resolved:
    try:
        resolved = flags.resolve(os.environ)
        for domain in resolved.settings.domains:
            Domain(domain)
    except (ConfigError, InvalidNameError, CustomDomainRequiredError) as error:
        _fail(str(error), EXIT_USAGE)
    return resolved


def _print_settings(resolved: Resolved) -> None:
    table = Table("setting", "value", "from", box=None, header_style="bold", pad_edge=False)
    for name in Settings.__struct_fields__:
        value = getattr(resolved.settings, name)
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        table.add_row(name, shown, resolved.origins[name])
    _console().print(table)


def _console() -> Console:
    # Nothing is folded for a file or a pipe: programs look for whole lines there.
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _run(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` under trio, and turn what people can mend into a line on stderr."""
    try:
        return trio.run(main)
    except BaseException as error:
        # A nursery wraps what its tasks raise; one plain cause is as good as the error itself.
        cause = _only_cause(error)
        if isinstance(cause, KeyboardInterrupt):
            # Before it served, or while it was ending already.
            sys.exit(EXIT_INTERRUPTED)
        if isinstance(cause, PorticoError | ListenError):
            _fail(str(cause), EXIT_FAILED)
        raise


def _only_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error


def _fail(text: str, code: int) -> NoReturn:
    for line in text.splitlines() or [""]:
        print(f"portico: {line}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """Run the command."""
    app()
