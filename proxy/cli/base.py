"""What every command of `portico` has in common: the app, where it prints, how it ends.

Exit codes: 0 done; 1 it could not be done, or what was checked is damaged (a line on stderr says why); 2 the
arguments or settings make no sense; 130 Ctrl-C; 141 nobody reads the output. `portico exec` ends as the command it ran
did, or with 125 if that was not run.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Final, NoReturn, TypeVar

import cyclopts
import trio
from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    Token,
    UnusedCliTokensError,
    ValidationError,
)
from rich.console import Console

from actors import PorticoError
from proxy.host import ListenError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
"""As a shell counts: 128 and the number of SIGINT."""

PIPE_WIDTH: Final = 10_000
"""Columns; more than any line has."""

T = TypeVar("T")


def _refuse(error: CycloptsError) -> NoReturn:
    """End the command with what is wrong with its arguments, in one line as all errors are."""
    command = " ".join(("portico", *(error.command_chain or ())))
    fail(f"{_misuse(error)} ({command} --help says more)", EXIT_USAGE)


def _misuse(error: CycloptsError) -> str:
    name = "" if error.argument is None else error.argument.name
    match error:
        case MissingArgumentError(keyword=None) if not error.tokens_so_far:
            return f"{name} is wanted"
        case MissingArgumentError():
            return f"{error.keyword or name} takes a value"
        case UnusedCliTokensError():
            return f"too many arguments: {' '.join(error.unused_tokens or ())}"
        case CoercionError(target_type=target, token=Token(value=value)) if target in _KINDS:
            return f"{name}: {value!r} is not {_KINDS[target]}"
        case ValidationError() if name and error.exception_message:
            return f"{name}: {error.exception_message.lower().removesuffix('.')}"
    return str(error).removesuffix(".")


_KINDS: Final[Mapping[object, str]] = {int: "a whole number", float: "a number"}

app = cyclopts.App(
    name="portico",
    help="Stable, private, revocable preview URLs for sandboxes.",
    version=lambda: version("portico"),
    version_flags=["--version"],
    # A flag that is not given is off; that need not be said at each, and there is no --no-json.
    default_parameter=Parameter(negative="", show_default=False),
    # Its own way is a box, folded to the terminal, which no program could read a line of.
    error_formatter=_refuse,
)


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `main` what becomes of a reader that has gone: rich itself would exit, with 1."""
        raise BrokenPipeError


def console() -> Console:
    """Return the console for stdout."""
    # Nothing is folded for a file or a pipe: programs look for whole lines there.
    return _Output() if sys.stdout.isatty() else wide_console()


def wide_console() -> Console:
    """Return a console for stdout that folds nothing: what a terminal wraps by itself can be copied whole."""
    return _Output(width=PIPE_WIDTH)


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` under trio, and turn what people can mend into a line on stderr."""
    try:
        return trio.run(main)
    except BaseException as error:
        # A nursery wraps what its tasks raise; one plain cause is as good as the error itself.
        cause = _only_cause(error)
        if isinstance(cause, KeyboardInterrupt):
            # Before it served, or while it was ending already.
            sys.exit(EXIT_INTERRUPTED)
        if isinstance(cause, BrokenPipeError | SystemExit):
            # For `main`; and an end by `fail`, out of some task.
            raise cause from None
        if isinstance(cause, PorticoError | ListenError):
            fail(str(cause), EXIT_FAILED)
        raise


def _only_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error


def fail(text: str, code: int) -> NoReturn:
    """Say on stderr why it could not be done, and exit."""
    for line in text.splitlines() or [""]:
        print(f"portico: {plain(line)}", file=sys.stderr)
    sys.exit(code)


def plain(text: str) -> str:
    """Return text without what could steer a terminal: some of it is others' words."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
