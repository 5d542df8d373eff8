"""What may be said of an exception that should not have happened: to a caller, and in a log line.

In a log line: where it was raised, never with what: local variables, which structlog's own traceback shows where rich
is installed, hold tokens and environments, and an exception's text may quote them.
"""

import traceback
from collections.abc import Iterator

from actors.errors import ContainerError, PorticoError


def where_raised(error: BaseException) -> dict[str, str]:
    """Return the fields of a log event: the type of each error, and the frames that it came through."""
    leaves = list(_leaves(error))
    return {
        "error": ", ".join(type(leaf).__name__ for leaf in leaves),
        "frames": "\n".join("".join(traceback.format_tb(leaf.__traceback__)) for leaf in leaves),
    }


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def as_container_error(error: Exception) -> PorticoError:
    """Return an error of ours for whatever a container has raised."""
    return error if isinstance(error, PorticoError) else ContainerError(f"{type(error).__name__}: {error}")
