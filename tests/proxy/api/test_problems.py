"""Which status an error has, and what clients are told of it."""

import inspect

import pytest

import actors
from actors import (
    ActorBrokenError,
    FencedError,
    LogCorruptError,
    PorticoError,
    PreviewToken,
    RevocationIncompleteError,
    SandboxNotFoundError,
)
from proxy.api.keys import KeyFileError
from proxy.api.problems import STATUSES, problem_of


def test_every_error_of_ours_has_a_status() -> None:
    kinds = [kind for kind in vars(actors).values() if inspect.isclass(kind) and issubclass(kind, PorticoError)]
    assert len(kinds) > 20
    for code in STATUSES:
        assert code in {kind.code for kind in kinds}


def test_what_may_pass_by_itself_says_so() -> None:
    problem = problem_of(ActorBrokenError("an append failed"))
    assert problem is not None
    assert (problem.status, problem.code, problem.headers) == (503, "ACTOR_BROKEN", {"Retry-After": "1"})


def test_what_was_asked_for_wrongly_is_told_in_the_state_models_words() -> None:
    problem = problem_of(SandboxNotFoundError("there is no sandbox x"))
    assert problem is not None
    assert (problem.status, problem.code, problem.error) == (404, "SANDBOX_NOT_FOUND", "there is no sandbox x")


@pytest.mark.parametrize(
    "error", [LogCorruptError("in /var/lib/x", offset=3), FencedError("of /var/lib/x"), KeyFileError("/var/lib/x")]
)
def test_what_only_an_operator_can_mend_is_not_told_in_detail(error: Exception) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert problem.status == 503
    assert "/var" not in problem.error


def test_token_of_an_incomplete_revocation_is_carried_and_not_shown() -> None:
    error = RevocationIncompleteError("2 visits have not ended", remaining=2)
    error.token = PreviewToken("the-token-in-force")
    problem = problem_of(error)
    assert problem is not None
    assert problem.remaining == 2
    assert problem.token == error.token
    assert "in-force" not in f"{problem!r} {problem} {vars(problem)}"


def test_bug_of_ours_is_no_problem_of_the_clients() -> None:
    assert problem_of(KeyError("x")) is None
    assert problem_of(ValueError("x")) is None
