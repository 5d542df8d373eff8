"""How commands reach a server, wait for it, and show what it says.

Which server: ``--server``, else ``PORTICO_SERVER``, else the one that serves the data folder on this machine, which a
file there names together with a key (see `proxy.local`). With which key: ``--api-key``, else, for a server that was
named, ``PORTICO_API_KEY``. What a server or a sandbox says is printed without control characters, which could do things
to a terminal; the output of commands and services alone is passed on as it is.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec
from cyclopts import Group, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors import SandboxNotFoundError
from proxy.cli.base import EXIT_FAILED, EXIT_USAGE, console, fail, plain, run, wide_console
from proxy.cli.settings import SettingsFlags, resolve_settings
from proxy.cli.waiting import waiting
from proxy.client import AsyncClient, KeyRefusedError, ServerUnreachableError
from proxy.client.common import KEY_VARIABLE, SERVER_VARIABLE, is_this_machine
from proxy.local import LocalServer, LocalServerError, find_local

T = TypeVar("T")


_WHICH: Final = Group("Server", sort_key=1)
"""Where the help shows the flags below: after those of the command itself."""

Sandbox = Annotated[str, Parameter(name="SANDBOX", help="Its id, as portico sandbox list shows it.")]
PortNumber = Annotated[
    int, Parameter(name="PORT", help="A port of the sandbox, 1 to 65535.", validator=Number(gte=1, lte=65535))
]
# Refused here and not by the server: in its words, and after half of the work is done.
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
Grace = Annotated[float, Parameter(validator=Number(gte=0))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """The server that is asked."""

    server: Annotated[
        str | None,
        Parameter(help="Its URL. Default PORTICO_SERVER, or the server of the data folder.", group=_WHICH),
    ] = None
    api_key: Annotated[
        str | None,
        Parameter(help="Better PORTICO_API_KEY: arguments show in the list of processes.", group=_WHICH),
    ] = None
    data_folder: Annotated[
        Path | None,
        Parameter(
            name=("--data", "--data-folder"),
            help="The data folder of a server on this machine. Default PORTICO_DATA_FOLDER or portico-data.",
            group=_WHICH,
        ),
    ] = None
    json: Annotated[bool, Parameter(help="Print JSON, for programs.")] = False


HERE: Final = Where()

WAITING: Final = "waiting for the server's answer"
"""What to show of a question that hardly ever lasts."""


def named_server(where: Where) -> str | None:
    """Return the server that was named, by flag or environment; None if it is the data folder's."""
    return where.server or os.environ.get(SERVER_VARIABLE) or None


def data_folder(where: Where) -> Path:
    """Return the data folder, or end the command if the settings make no sense."""
    return resolve_settings(SettingsFlags(data_folder=where.data_folder)).settings.data_folder


def local_server(folder: Path) -> LocalServer | None:
    """Return the server of a data folder, or end the command if its file cannot be trusted."""
    try:
        return find_local(folder)
    except LocalServerError as error:
        fail(str(error), EXIT_FAILED)


def open_client(where: Where) -> AsyncClient:
    """Return a client of the server that is asked, or end the command with why there is none."""
    server, key = named_server(where), where.api_key
    if server is not None:
        key = key or os.environ.get(KEY_VARIABLE)
        if not key:
            fail(f"an API key is wanted: set {KEY_VARIABLE}", EXIT_USAGE)
    else:
        folder = data_folder(where)
        local = local_server(folder)
        if local is None:
            fail(f"no server serves {folder}: start one (portico serve), or name one (--server URL)", EXIT_FAILED)
        server, key = local.url, key or local.key
    if where.api_key is not None:
        _warn(f"--api-key shows in the list of processes; {KEY_VARIABLE} does not")
    if server.startswith("http:") and not is_this_machine(server):
        _warn("the API key goes over the network in clear: use https")
    try:
        return AsyncClient(server, api_key=key)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)


def ask(where: Where, question: Callable[[AsyncClient], Awaitable[T]], doing: str | None = WAITING) -> T:
    """Put a question to the server and return the answer, or end the command with why there is none.

    Args:
        where: The server.
        question: What to do with a client.
        doing: What to show while it lasts, on a terminal only; None: nothing, as it prints meanwhile.
    """
    client = open_client(where)

    async def main() -> T:
        async with nullcontext() if doing is None else waiting(doing), client:
            try:
                return await question(client)
            except ValueError as error:
                # A name of no form, a value that is none of those there are, or the server takes no such request.
                why, code = str(error), EXIT_USAGE
            except KeyRefusedError as error:
                why, code = f"{error}; portico key create makes one, on the server's machine", EXIT_FAILED
            except SandboxNotFoundError as error:
                why, code = f"{error}; portico sandbox list names those there are", EXIT_FAILED
            except ServerUnreachableError as error:
                hint = "; is that where it listens?" if named_server(where) else "; is portico serve still running?"
                why, code = f"{error}{hint}", EXIT_FAILED
        # Not before what is waited for is off the screen: it would stand in front of it, on the same line.
        return fail(why, code)

    return run(main)


def print_json(value: object) -> None:
    """Print one JSON document."""
    console().out(msgspec.json.encode(value).decode(), highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str, *, folded: bool = True) -> None:
    """Print a table for people; where there are no rows, say so on stderr.

    Args:
        columns: Their names.
        rows: A value for each column.
        empty: What to say of no rows.
        folded: Whether a cell that does not fit the terminal is folded; not if something in it is to be copied.
    """
    if not rows:
        print(empty, file=sys.stderr)
        return
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(_shown(cell))) for cell in row))
    _print_padded(table, console() if folded else wide_console())


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one a line; those without a value are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, value in facts:
        if value is not None:
            table.add_row(name, Text(plain(_shown(value))))
    _print_padded(table, wide_console())


def _print_padded(table: Table, screen: Console) -> None:
    # A column ends where its longest value does; nobody who copies or greps a line wants the blanks up to there.
    with screen.capture() as captured:
        screen.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def print_line(text: str) -> None:
    """Print a line as it is, but for control characters: never folded, so that a URL can be copied."""
    console().out(plain(text), highlight=False)


def say(text: str) -> None:
    """Tell a person something, on stderr: what programs read is on stdout."""
    print(f"portico: {plain(text)}", file=sys.stderr)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _warn(text: str) -> None:
    say(f"warning: {text}")
