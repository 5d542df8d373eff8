"""Answers become the exceptions that the embedding API raises."""

import ast
import inspect
import textwrap

import pytest

import actors
from actors import (
    ContainerStartError,
    LogCorruptError,
    MailboxFullError,
    NotListeningError,
    PorticoError,
    ProcessNotFoundError,
    QuarantinedError,
    RetryableError,
    RevocationIncompleteError,
    SandboxNotFoundError,
    TooManyVisitsError,
)
from proxy.client.errors import (
    ERROR_LENGTH_MAX,
    ERRORS,
    APIError,
    InvalidRequestError,
    KeyRefusedError,
    Problem,
    TooSlowError,
    error_of,
    read_problem,
)


def of(code: str, status: int = 400) -> PorticoError:
    return error_of(status, Problem("what went wrong", code))


@pytest.mark.parametrize(
    "expected",
    [SandboxNotFoundError, ContainerStartError, ProcessNotFoundError, QuarantinedError, LogCorruptError],
)
def test_code_is_the_class_of_the_embedding_api(expected: type[PorticoError]) -> None:
    error = of(expected.code)
    assert type(error) is expected
    assert (error.code, "what went wrong" in str(error)) == (expected.code, True)


def test_every_class_that_is_exported_can_come_back() -> None:
    exported = [found for found in vars(actors).values() if isinstance(found, type) and issubclass(found, PorticoError)]
    for found in exported:
        error = of(found.code)
        assert isinstance(error, found) or issubclass(found, type(error)), found
        assert error.code == found.code


def test_code_of_several_classes_is_what_they_have_in_common() -> None:
    assert MailboxFullError.code == TooManyVisitsError.code == "OVERLOADED"
    error = of("OVERLOADED", 503)
    assert type(error) is RetryableError
    assert error.code == "OVERLOADED"
    assert RetryableError.code == "TRY_AGAIN"


def test_what_an_error_carries_is_taken_over() -> None:
    error = error_of(502, Problem("nothing answers on port 8080", "NOT_LISTENING", port=8080))
    assert isinstance(error, NotListeningError)
    assert (str(error), error.port, error.tried) == ("nothing answers on port 8080", 8080, ())
    incomplete = error_of(500, Problem("some remain", "REVOCATION_INCOMPLETE", remaining=3))
    assert isinstance(incomplete, RevocationIncompleteError)
    assert (incomplete.remaining, incomplete.token) == (3, None)


def test_token_that_is_in_force_is_not_lost_with_the_error() -> None:
    problem = Problem("some remain", "REVOCATION_INCOMPLETE", remaining=3, token="the-token-in-force")
    error = error_of(504, problem)
    assert isinstance(error, RevocationIncompleteError)
    assert error.token is not None
    assert error.token.reveal() == "the-token-in-force"
    assert "in-force" not in f"{error!r} {error} {vars(error)} {problem}"


def test_token_that_can_be_none_is_none() -> None:
    error = error_of(504, Problem("some remain", "REVOCATION_INCOMPLETE", remaining=3, token="short"))
    assert isinstance(error, RevocationIncompleteError)
    assert error.token is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidRequestError),
        (422, InvalidRequestError),
        (401, KeyRefusedError),
        (403, KeyRefusedError),
        (504, TooSlowError),
        (500, APIError),
    ],
)
def test_unknown_code_is_told_by_its_status(status: int, expected: type[APIError]) -> None:
    error = of("NEW_IN_A_LATER_VERSION", status)
    assert type(error) is expected
    assert isinstance(error, APIError)
    assert (error.status, error.code) == (status, "NEW_IN_A_LATER_VERSION")
    assert APIError.code == "API_ERROR"


def test_usual_exceptions_catch_their_kin() -> None:
    assert issubclass(InvalidRequestError, ValueError)
    assert issubclass(TooSlowError, TimeoutError)


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"error": 1}', b"\xff", b'{"code": "X"}'])
def test_what_is_no_problem_of_ours_is_none(content: bytes) -> None:
    assert read_problem(content) is None
    error = error_of(502, None)
    assert isinstance(error, APIError)
    assert "502" in str(error)


def test_words_of_a_server_are_bounded() -> None:
    assert len(str(error_of(500, Problem("x" * 10_000, None)))) == ERROR_LENGTH_MAX


def test_table_holds_nothing_but_embedding_errors() -> None:
    assert all(found.__module__.startswith("actors.") for found in ERRORS.values())


def test_what_a_class_carries_is_there_whatever_the_answer_tells() -> None:
    """An error that comes over HTTP has the attributes of one that was raised here."""
    for found in ERRORS.values():
        own = [
            node.attr
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(found))))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        ]
        error = of(found.code)
        assert all(hasattr(error, name) for name in own), found
