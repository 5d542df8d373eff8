"""What a server writes about itself: one line an event, for people or for programs."""

import logging
import sys
from typing import Literal

import structlog


def configure_logging(level: str, style: Literal["console", "json"]) -> None:
    """Send structlog's events to stderr from `level` up.

    Callers put no secrets into events: tokens are masked types, and request targets and header values are never
    among the fields.
    """
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_plain_traceback)
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if style == "json":
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


# The rich traceback that structlog would choose shows local variables, and a local variable may be a secret.
_plain_traceback = structlog.dev.plain_traceback
