"""What a server writes about itself: one line an event, for people or for programs.

A line must not be able to pass for two, or to speak to a terminal: texts of services and containers get into events.
JSON has escapes for that. For people, what is not printable is written as Python would write it.
"""

import io
import logging
import sys
from contextlib import suppress
from typing import Literal, TextIO

import structlog


def configure_logging(level: str, style: Literal["console", "json"]) -> None:
    """Send structlog's events to stderr from `level` up.

    Callers put no secrets into events: tokens are masked types, and request targets and header values are never
    among the fields.
    """
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if style == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty()
        processors.append(_printable_event)
        processors.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_indented_traceback))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_StderrLogger,
    )


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Written:
    """A value that is written as it would be in Python, quotes and escapes included."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return repr(self._text)


def _printable_event(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leave nothing in an event that is not printable; structlog itself looks for line ends only."""
    shown: dict[str, object] = {}
    for name, value in event.items():
        plain = not isinstance(value, str) or value.isprintable()
        # The stack is our own code, one line under another.
        shown[_printable(name)] = value if plain or name == "stack" else _Written(value)
    shown["event"] = _printable(str(event.get("event", "")))
    return shown


def _indented_traceback(file: TextIO, exception: structlog.typing.ExcInfo) -> None:
    """Write a traceback none of whose lines begins like an event's, whatever the text of the exception is."""
    text = io.StringIO()
    # The rich one that structlog would choose shows local variables, and a local variable may be a secret.
    structlog.dev.plain_traceback(text, exception)
    file.write("\n".join(f"    {_printable(line)}" for line in text.getvalue().splitlines()))


class _StderrLogger:
    """Writes lines to stderr for as long as that works: a full disk, or a reader that left, ends no sandbox."""

    def __init__(self, *_names: object) -> None:
        """Take what `structlog.get_logger` was given; the lines do not show it."""

    def msg(self, message: str) -> None:
        # ValueError is what a closed file raises. There is nobody left to tell.
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()

    # structlog calls the method that is named like the level.
    debug = info = warning = error = critical = msg
