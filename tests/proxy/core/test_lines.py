"""Remembered lines: what the short way accepts the long way accepts, and reads the same; secrets are not kept."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.http1 import (
    NO_BODY,
    BadRequestError,
    Limits,
    RequestHead,
    expects_continue,
    keeps_alive,
    read_request_head,
    request_framing,
    requested_upgrade,
)
from proxy.core.lines import LINE_BYTES_MAX, REMEMBERED_MAX, LineMemo

KEY = b"k" * 32
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


heads = st.builds(head_of, st.sampled_from(START_LINES), st.lists(st.sampled_from(LINES), max_size=10))
likely_heads = st.builds(
    lambda start, before, after: head_of(start, [*before, HOST, *after]),
    st.sampled_from(START_LINES[:3]),
    st.lists(st.sampled_from(LINES), max_size=3),
    st.lists(st.sampled_from(LINES), max_size=3),
)


@law
@given(st.lists(heads | likely_heads, min_size=1, max_size=6))
def test_what_is_remembered_changes_no_answer(several: list[bytes]) -> None:
    memo = LineMemo(KEY)
    for head in several * 2:
        assert outcome(memo.read, head) == outcome(read_request_head, head)


@law
@given(st.lists(heads | likely_heads, min_size=1, max_size=4), st.binary(max_size=6), st.integers(0, 400))
def test_a_head_that_differs_by_some_bytes_from_one_remembered_is_judged_anew(
    several: list[bytes], junk: bytes, place: int
) -> None:
    memo = LineMemo(KEY)
    for head in several:
        outcome(memo.read, head)
        changed = head[:place] + junk + head[place:]
        assert outcome(memo.read, changed) == outcome(read_request_head, changed)


@law
@given(st.lists(heads | likely_heads, min_size=1, max_size=4))
def test_what_is_called_plain_is(several: list[bytes]) -> None:
    memo = LineMemo(KEY)
    for head in several * 2:
        try:
            found = memo.read(head, LIMITS)
        except BadRequestError:
            continue
        if found.plain:
            assert request_framing(found) == NO_BODY
            assert keeps_alive(found.http_version, found.fields) is not found.closes
            assert requested_upgrade(found) is None
            assert not expects_continue(found)


def test_a_head_of_known_lines_and_one_of_new_ones_are_both_read_short() -> None:
    memo = LineMemo(KEY)
    assert memo.read(head_of(GET, [HOST, b"Accept: */*"])).plain
    assert memo.read(head_of(b"GET /other HTTP/1.1", [b"Accept: */*", HOST])).plain
    assert memo.read(head_of(GET, [HOST, b"Traceparent: 00-1"])).plain


@pytest.mark.parametrize(
    "line", [b"Cookie: session=s3cret", b"authorization: Bearer s3cret", b"X-OC-Preview-Token: s3cret"]
)
def test_lines_with_secrets_are_recognised_and_not_kept(line: bytes) -> None:
    memo = LineMemo(KEY)
    head = head_of(GET, [HOST, line])
    first, again = memo.read(head), memo.read(head)
    assert first.plain
    assert again.fields == first.fields == read_request_head(head).fields
    kept = repr([getattr(memo, name) for name in LineMemo.__slots__ if name != "_key"])
    assert "s3cret" not in kept
    assert "Host" in kept


def test_what_is_remembered_is_bounded_and_what_is_used_stays() -> None:
    memo = LineMemo(KEY)
    for number in range(3 * REMEMBERED_MAX):
        lines = [HOST, b"X-Request: %d" % number, b"Cookie: %d" % number]
        assert memo.read(head_of(GET, lines)).plain
        assert len(memo) <= 4 * REMEMBERED_MAX
    assert HOST in memo._young or HOST in memo._old


def test_a_line_too_long_to_be_remembered_is_read_all_the_same() -> None:
    memo = LineMemo(KEY)
    head = head_of(GET, [HOST, b"X-Long: " + b"l" * LINE_BYTES_MAX])
    assert memo.read(head).fields == read_request_head(head).fields
    assert len(memo) == 0
