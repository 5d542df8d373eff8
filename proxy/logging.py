"""What a server writes about itself: one line an event, for people or for programs."""

import logging
import sys
from contextlib import suppress
from typing import Final, Literal, TextIO

import structlog


class _BestEffort:
    """stderr as it is now, for as long as somebody reads it: a full disk or a reader that left ends no sandbox."""

    def write(self, text: str) -> int:
        # There is nobody left to tell. ValueError is what a closed file raises.
        with suppress(OSError, ValueError):
            return _stderr().write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            _stderr().flush()


def _stderr() -> TextIO:
    return sys.stderr


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
        logger_factory=structlog.PrintLoggerFactory(_BestEffort()),
    )
