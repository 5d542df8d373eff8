"""What a server writes about itself: one line an event, for people or for programs."""

import logging
import sys
from contextlib import suppress
from typing import Final, Literal

import structlog

# The rich traceback that structlog would choose shows local variables, and a local variable may be a secret.
_plain_traceback: Final = structlog.dev.plain_traceback


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
        processors.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_plain_traceback))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_StderrLogger,
    )


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
