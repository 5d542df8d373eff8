"""What a log line may say of an exception that should not have happened.

Where it was raised, never with what: local variables, which structlog's own traceback shows where rich is installed,
hold tokens and environments, and an exception's text may quote them.
"""

import traceback
from collections.abc import Iterator


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
