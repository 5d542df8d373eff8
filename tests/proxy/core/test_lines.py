"""Remembered lines: what the short way accepts the long way accepts, and reads the same; secrets are not kept."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.http1 import (
    NO_BODY,
    BadRequestError,
    BadResponseError,
    Limits,
    RequestHead,
    ResponseHead,
    expects_continue,
    keeps_alive,
    read_request_head,
    read_response_head,
    request_framing,
    requested_upgrade,
    response_framing,
)
from proxy.core.lines import LINE_BYTES_MAX, REMEMBERED_MAX, LineMemo

GET = b"GET /a?b HTTP/1.1"
HOST = b"Host: a.example"

law = settings(derandomize=True, max_examples=600, deadline=None)

LINES = [
    HOST,
    b"host:b.example ",
    b"Host: a, b",
    b"Accept: */*",
    b"accept:\t text/html \t",
    b"X-Empty:",
    b"X-High: \xff\x80",
    b"Cookie: a=b; c=d",
    b"COOKIE:  a=b \t",
    b"Authorization: Bearer abc",
    b"X-OC-Preview-Token: abc",
    b"Connection: keep-alive",
    b"Connection:Keep-Alive ",
    b"Connection: close",
    b"Connection: keep-alive, X-A",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: +5",
    b"Content_Length: 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"transfer_encoding: chunked",
    b"Content-Type: text/plain",
    b"Expect: 100-continue",
    b"Expect: x",
    b"TE: trailers",
    b"X-A : b",
    b" folded",
    b"\tfolded",
    b"NoColon",
    b": no name",
    b"X-Nul: \0",
    b"X-Bare: a\rb",
    b"X-Bare: a\nb",
    b"X-Del: \x7f",
    b"",
    b"X-Long: " + b"l" * LINE_BYTES_MAX,
]
START_LINES = [
    GET,
    b"HEAD / HTTP/1.1",
    b"POST / HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"TRACE / HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"get / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET / HTTP/2.0",
    b"GET /# HTTP/1.1",
    b"GET //b HTTP/1.1",
    b"GET http://a.example/ HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1",
    b"GET /" + b"p" * 300 + b" HTTP/1.1",
]
LIMITS = Limits(head_bytes_max=4096, fields_max=8, target_bytes_max=256)


def head_of(start: bytes, lines: Sequence[bytes]) -> bytes:
    return b"\r\n".join((start, *lines, b"", b""))


def outcome(read: object, head: bytes) -> tuple[object, ...]:
    assert callable(read)
    try:
        found = read(head, LIMITS)
    except BadRequestError as error:
        return error.status, error.code
    assert isinstance(found, RequestHead)
    return found.method, found.target, found.http_version, found.fields, found.authority


ANSWER_LINES = [
    b"Server: x",
    b"Date: Sun, 22 Nov 2026 20:37:01 GMT",
    b"Content-Type: text/html; charset=utf-8",
    b"Content-Length: 5",
    b"content-length:5",
    b"Content-Length: 05",
    b"Content-Length: 5, 5",
    b"Content-Length: -1",
    b"Content-Length:",
    b"Content-Length: 1234567890123456789",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: close, X-A",
    b"Connection: Upgrade",
    b"Upgrade: h2c",
    b"Set-Cookie: a=b; Path=/",
    b"Location: http://localhost:8080/a",
    b"X-Accel-Redirect: /etc/passwd",
    b"X_Under: a",
    b"X-High: \xff",
    b"X-Tab: a\tb",
    b"X-Empty:",
    b"X-A : b",
    b" folded",
    b"X-Nul: \0",
    b"X-Bare: a\rb",
    b"NoColon",
    b"",
]
STATUS_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200 ",
    b"HTTP/1.1 200",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 404 Not\tFound",
    b"HTTP/1.1 500 \xe9",
    b"HTTP/1.1 999 x",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 101 Switching Protocols",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 2000 OK",
    b"HTTP/2.0 200 OK",
    b"ICY 200 OK",
]

heads = st.builds(head_of, st.sampled_from(START_LINES), st.lists(st.sampled_from(LINES), max_size=10))
likely_heads = st.builds(
    lambda start, before, after: head_of(start, [*before, HOST, *after]),
    st.sampled_from(START_LINES[:3]),
    st.lists(st.sampled_from(LINES), max_size=3),
    st.lists(st.sampled_from(LINES), max_size=3),
)


answers = st.builds(head_of, st.sampled_from(STATUS_LINES), st.lists(st.sampled_from(ANSWER_LINES), max_size=5))


@law
@given(st.lists(heads | likely_heads, min_size=1, max_size=6))
def test_what_is_remembered_changes_no_answer(several: list[bytes]) -> None:
    memo = LineMemo()
    for head in several * 2:
        assert outcome(memo.read_request, head) == outcome(read_request_head, head)


@law
@given(st.lists(heads | likely_heads, min_size=1, max_size=4), st.binary(max_size=6), st.integers(0, 400))
def test_a_head_that_differs_by_some_bytes_from_one_remembered_is_judged_anew(
    several: list[bytes], junk: bytes, place: int
) -> None:
    memo = LineMemo()
    for head in several:
        outcome(memo.read_request, head)
        changed = head[:place] + junk + head[place:]
        assert outcome(memo.read_request, changed) == outcome(read_request_head, changed)


@law
@given(st.lists(heads | likely_heads, min_size=1, max_size=4))
def test_what_is_called_plain_is(several: list[bytes]) -> None:
    memo = LineMemo()
    for head in several * 2:
        try:
            found = memo.read_request(head, LIMITS)
        except BadRequestError:
            continue
        if found.lines is not None:
            assert request_framing(found) == NO_BODY
            assert keeps_alive(found.http_version, found.fields) is not found.closes
            assert requested_upgrade(found) is None
            assert not expects_continue(found)


def test_a_head_of_known_lines_and_one_of_new_ones_are_both_read_short() -> None:
    memo = LineMemo()
    assert memo.read_request(head_of(GET, [HOST, b"Accept: */*"])).lines is not None
    assert memo.read_request(head_of(b"GET /other HTTP/1.1", [b"Accept: */*", HOST])).lines is not None
    assert memo.read_request(head_of(GET, [HOST, b"Traceparent: 00-1"])).lines is not None


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: session=s3cret",
        b"authorization: Bearer s3cret",
        b"Proxy-Authorization: Basic s3cret",
        b"X-API-Key: s3cret",
        b"X-OC-Preview-Token: s3cret",
        b"Portico-Share: s3cret",
        b"portico-preview: 8080-my-app-s3cret",
        b"Referer: https://a.example/.portico/share/s3cret",
        b"Origin: https://8080-my-app-s3cret.example",
        b"X-Forwarded-Host: 8080-my-app-s3cret.example",
        b"Forwarded: host=8080-my-app-s3cret.example",
        b"X-Auth-Token: s3cret",
        b"X-CSRFToken: s3cret",
        b"Api-Key: s3cret",
    ],
)
def test_lines_with_secrets_are_recognised_and_not_kept(line: bytes) -> None:
    memo = LineMemo()
    head = head_of(GET, [HOST, line])
    first, again = memo.read_request(head), memo.read_request(head)
    assert first.lines is not None
    assert again.fields == first.fields == read_request_head(head).fields
    kept = repr([memo._of_requests._young, memo._of_requests._old])
    assert "s3cret" not in kept
    assert "Host" in kept


def test_what_is_remembered_is_bounded_and_what_is_used_stays() -> None:
    memo = LineMemo()
    for number in range(3 * REMEMBERED_MAX):
        lines = [HOST, b"X-Request: %d" % number, b"Cookie: %d" % number]
        assert memo.read_request(head_of(GET, lines)).lines is not None
        assert len(memo) <= 2 * REMEMBERED_MAX
    assert HOST in memo._of_requests._young or HOST in memo._of_requests._old


def test_a_line_too_long_to_be_remembered_is_read_all_the_same() -> None:
    memo = LineMemo()
    head = head_of(GET, [HOST, b"X-Long: " + b"l" * LINE_BYTES_MAX])
    assert memo.read_request(head).fields == read_request_head(head).fields
    assert len(memo) == 1  # the Host


# Response heads.


def answer_outcome(read: object, head: bytes) -> tuple[object, ...] | None:
    assert callable(read)
    try:
        found = read(head, LIMITS)
    except BadResponseError:
        return None
    assert isinstance(found, ResponseHead)
    framings = [response_framing(found, method) for method in (b"GET", b"HEAD")]
    keeps = not found.closes if found.lines is not None else keeps_alive(found.http_version, found.fields)
    return found.status, found.reason, found.http_version, found.fields, framings, keeps


@law
@given(st.lists(answers, min_size=1, max_size=6))
def test_response_heads_are_read_as_by_the_long_way(several: list[bytes]) -> None:
    memo = LineMemo()
    for head in several * 2:
        assert answer_outcome(memo.read_response, head) == answer_outcome(read_response_head, head)


@law
@given(st.lists(answers, min_size=1, max_size=4), st.binary(max_size=6), st.integers(0, 200))
def test_a_response_head_that_differs_by_some_bytes_is_judged_anew(
    several: list[bytes], junk: bytes, place: int
) -> None:
    memo = LineMemo()
    for head in several:
        answer_outcome(memo.read_response, head)
        changed = head[:place] + junk + head[place:]
        assert answer_outcome(memo.read_response, changed) == answer_outcome(read_response_head, changed)


def test_an_ordinary_response_head_is_read_short_and_its_cookies_are_not_kept() -> None:
    memo = LineMemo()
    head = head_of(b"HTTP/1.1 200 OK", [b"Server: x", b"Set-Cookie: s=s3cret", b"Content-Length: 5"])
    assert memo.read_response(head).lines is not None
    assert b"s3cret" not in b"".join(memo._of_responses._young)
    assert b"Server: x" in memo._of_responses._young
