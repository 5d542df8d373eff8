"""When a call is sent again, and when its answer stands."""

import json

import pytest

from actors import QuarantinedError, RetryableError, SandboxNotFoundError
from proxy.api import schemas
from proxy.client import calls
from proxy.client.dialogue import (
    PAUSE_FIRST_S,
    RETRY_AFTER_MAX_S,
    TRIES_MAX,
    AskAgain,
    Dialogue,
    Done,
    check_key,
    check_server,
)
from proxy.client.errors import APIError, ServerUnreachableError

HEALTHY = b'{"status": "ok"}'


def problem(code: str) -> bytes:
    return json.dumps({"error": "words", "code": code}).encode()


def reading() -> Dialogue[schemas.Health]:
    return Dialogue(calls.health(), lambda: 0.0)


def changing() -> Dialogue[schemas.Closed]:
    return Dialogue(calls.destroy("my-app"), lambda: 0.0)


def test_answer_is_decoded_and_fields_of_later_versions_are_passed_over() -> None:
    assert reading().answered(200, None, b'{"status": "ok", "new": 1}') == Done(schemas.Health(status="ok"))


def test_refusal_is_raised_at_once() -> None:
    with pytest.raises(SandboxNotFoundError, match="words"):
        changing().answered(404, None, problem("SANDBOX_NOT_FOUND"))


def test_not_now_is_asked_again_with_growing_pauses_and_an_end() -> None:
    dialogue = reading()
    pauses = []
    for _ in range(TRIES_MAX - 1):
        again = dialogue.answered(503, None, problem("OVERLOADED"))
        assert isinstance(again, AskAgain)
        pauses.append(again.pause_s)
    assert pauses == [PAUSE_FIRST_S, PAUSE_FIRST_S * 2, PAUSE_FIRST_S * 4]
    with pytest.raises(RetryableError):
        dialogue.answered(503, None, problem("OVERLOADED"))


def test_pause_is_spread_by_up_to_a_half() -> None:
    again = Dialogue(calls.health(), lambda: 0.999).answered(503, None, problem("OVERLOADED"))
    assert isinstance(again, AskAgain)
    assert PAUSE_FIRST_S / 2 <= again.pause_s < PAUSE_FIRST_S


def test_retry_after_is_honoured_up_to_what_anybody_waits() -> None:
    assert reading().answered(429, "3", problem("TOO_MANY_REQUESTS")) == AskAgain(3.0)
    with pytest.raises(QuarantinedError):
        reading().answered(503, str(int(RETRY_AFTER_MAX_S) + 1), problem("QUARANTINED"))


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_retry_after_of_another_form_counts_as_none(value: str) -> None:
    assert reading().answered(503, value, problem("OVERLOADED")) == AskAgain(PAUSE_FIRST_S)


def test_proxy_in_between_that_could_not_reach_the_server_is_asked_again() -> None:
    for status in (502, 503, 504):
        assert isinstance(reading().answered(status, None, b"<html>bad gateway</html>"), AskAgain)
    with pytest.raises(APIError):
        reading().answered(500, None, b"<html>")


@pytest.mark.parametrize(("status", "code"), [(502, "NOT_LISTENING"), (504, "TIMEOUT"), (503, "CONTAINER_START")])
def test_portico_has_tried_what_it_says_that_it_has_tried(status: int, code: str) -> None:
    with pytest.raises(Exception, match="words"):
        reading().answered(status, None, problem(code))


def test_broken_connection_is_tried_again_to_an_end() -> None:
    dialogue = changing()
    for _ in range(TRIES_MAX - 1):
        assert isinstance(dialogue.failed("refused", timed_out=False), AskAgain)
    with pytest.raises(ServerUnreachableError, match="refused"):
        dialogue.failed("refused", timed_out=False)


def test_own_timeout_is_the_end() -> None:
    with pytest.raises(ServerUnreachableError, match="within 30 s"):
        reading().failed("", timed_out=True)


def test_change_carries_a_key_of_its_own_and_reading_none() -> None:
    first, second = changing(), changing()
    assert "Idempotency-Key" not in reading().headers
    assert len(first.headers["Idempotency-Key"]) >= 32
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


def test_query_is_encoded() -> None:
    assert (
        Dialogue(calls.explain("https://x/?a=b&c", 1.5)).target
        == "/v1/explain?url=https%3A%2F%2Fx%2F%3Fa%3Db%26c&at=1.5"
    )


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"closed": "many"}', b"\xff"])
def test_answer_of_another_form_is_an_error_that_quotes_nothing(content: bytes) -> None:
    with pytest.raises(APIError) as raised:
        changing().answered(200, None, content)
    assert raised.value.code == "BAD_ANSWER"
    assert "many" not in str(raised.value)


@pytest.mark.parametrize("server", ["http://localhost:8787", "https://portico.example.com", "http://[::1]:8787/"])
def test_server_is_an_origin(server: str) -> None:
    assert check_server(server) == server.rstrip("/")


@pytest.mark.parametrize(
    "server",
    [
        "localhost:8787",
        "ftp://x",
        "http://",
        "http://x/v1",
        "http://a:b@x",
        "http://x?a",
        "http://x:99999",
        "http://[",
        "",
    ],
)
def test_what_is_no_origin_is_refused_without_being_quoted(server: str) -> None:
    with pytest.raises(ValueError, match="a URL such as") as raised:
        check_server(server)
    assert "a:b" not in str(raised.value)


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "schlüssel"])
def test_key_of_no_form_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as raised:
        check_key(key)
    assert not key or key not in str(raised.value)
