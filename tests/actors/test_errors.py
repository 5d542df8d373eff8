"""The tree of errors: what catchers may rely on."""

import inspect
import re

import pytest

from actors import errors
from actors.errors import (
    InvalidNameError,
    LogCorruptError,
    NotListeningError,
    PorticoError,
    RetryableError,
    RevocationIncompleteError,
)

CLASSES: list[type[PorticoError]] = [
    thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, PorticoError)
]


def drawn() -> dict[str, str]:
    """Read {class: parent} off the tree in the module's docstring."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( +)(\w+Error) ", errors.__doc__, re.MULTILINE):
        above = [(depth, parent) for depth, parent in above if depth < len(indent)]
        parents[name] = above[-1][1] if above else "Exception"
        above.append((len(indent), name))
    return parents


def test_the_tree_that_is_drawn_is_the_tree() -> None:
    assert drawn() == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_stable_code_and_says_what_it_is(cls: type[PorticoError]) -> None:
    assert re.fullmatch(r"[A-Z_]+", cls.code)
    assert cls.__doc__


def test_only_overload_shares_a_code() -> None:
    codes = [cls.code for cls in CLASSES if cls.code != "OVERLOADED"]
    assert len(codes) == len(set(codes))


def test_a_bad_name_is_a_value_error() -> None:
    assert issubclass(InvalidNameError, ValueError)


def test_an_unfinished_revocation_is_not_retryable_and_says_how_many() -> None:
    error = RevocationIncompleteError("2 visits", remaining=2)
    assert error.remaining == 2
    assert not isinstance(error, RetryableError)


def test_not_listening_says_what_was_tried() -> None:
    error = NotListeningError(8080, [("127.0.0.1", "connection refused"), ("::1", "connection refused")])
    assert str(error) == "nothing answers on port 8080 (127.0.0.1: connection refused; ::1: connection refused)"
    assert error.tried == (("127.0.0.1", "connection refused"), ("::1", "connection refused"))


def test_a_corrupt_log_says_where() -> None:
    assert LogCorruptError("damaged", offset=29).offset == 29
