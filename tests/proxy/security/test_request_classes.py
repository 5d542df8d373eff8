"""What clients can do to a proxy, class by class: variants without end around the cases that somebody found once.

One law for all of them. What reaches a service is no more than an outside, strict reader makes of the client's bytes;
it is written anew from parsed values; and there are as many answers as requests (`Outcome.assert_in_step`).
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proxy.security.cases import expanded
from tests.proxy.security.stage import BASE, Outcome, Stage, memory_stage
from tests.proxy.security.wire import read_requests

law = settings(derandomize=True, max_examples=60, deadline=None)

Strings = st.SearchStrategy[str]

SECOND: Final = "GET /second HTTP/1.1\r\nHost: {{B}}\r\n\r\n"
"""What is to be smuggled: a whole request to somebody else's preview."""


def some(*choices: str) -> Strings:
    return st.sampled_from(choices)


def joined(*parts: Strings) -> Strings:
    return st.tuples(*parts).map("".join)


def lines(line: Strings, *, most: int = 3) -> Strings:
    return st.lists(line, min_size=1, max_size=most).map("".join)


odd_space = some("", " ", "\t", "\x0b", "\x0c", "\xa0", "\x85", "\0", "\r", "\n ", "\r\n ", "\r\n\t")
length_value = st.one_of(
    some("5", "0", "05", "+5", "-5", "5,5", "5, 6", "5 ", "5;5", "0x5", "5.0", "1e1", "1_0", "", " ", "\xb2", "5\0"),
    st.integers(0, 2**65).map(str),
)
coding = some(
    "chunked", "CHUNKED", "xchunked", "chunkedx", "identity", "gzip, chunked", "chunked, gzip", "chunked, chunked",
    "chunked;a=b", "\"chunked\"", ",chunked", "chunked,", "", "cow", "chun\x00ked", "chunKed", "chun\u212aed",
)  # fmt: skip
length_line = joined(
    some(
        "Content-Length", "content-length", "Content-Length ", " Content-Length", "Content_Length", "\0Content-Length"
    ),
    some(":", " :", ": ", ":\t"),
    odd_space,
    length_value,
    odd_space,
    some("\r\n", "\n", "\r", "\r\r\n", "\n\r\n"),
)
plain_length_line = joined(some("Content-Length: "), length_value, some("\r\n"))
coding_line = joined(
    some(
        "Transfer-Encoding", "transfer-encoding", "Transfer_Encoding", "Transfer-Encoding ", "X: x\nTransfer-Encoding"
    ),
    some(": ", ":", " : "),
    odd_space,
    coding,
    odd_space,
    some("\r\n", "\n", "\r"),
)
plain_coding_line = joined(some("Transfer-Encoding: "), coding, some("\r\n"))

size = st.one_of(
    some("5", "05", "0x5", "+5", "-5", " 5", "5 ", "5\t", "5\x0b", "5_0", "", "G", "5;a=b", '5;a="\n"', "5;\r", "5\0"),
    st.integers(0, 2**66).map("{:x}".format),
)
chunk = joined(
    size, some("\r\n", "\n", "\r", "\r\n\r\n", ""), some("hello", "hell", "hello!", ""), some("\r\n", "\n", "")
)
trailer = some(
    "X-T: t\r\n", "Content-Length: 50\r\n", "Host: {{B}}\r\n", "bad line\r\n", " folded\r\n", "X: a\n", "X\0: a\r\n"
)
chunked_body = st.one_of(
    some("5\r\nhello\r\n0\r\n\r\n"),
    joined(
        lines(chunk),
        some("0", "00", "0;a", "-0", "0 ", "000000000000000000"),
        some("\r\n", "\n"),
        some("\r\n", "\n", ""),
    ),
    joined(some("5\r\nhello\r\n0\r\n"), lines(trailer), some("\r\n", "\n", "\r\n\r\n")),
)
body = st.one_of(some("", "hello", "hello!"), chunked_body)


def post(*field_lines: Strings, content: Strings = body) -> Strings:
    head = joined(some("POST", "GET", "PUT", "OPTIONS"), some(" /first HTTP/1.1\r\nHost: {{A}}\r\n"), *field_lines)
    return joined(head, some("\r\n", "\r\n", "\r\n", "\n", "\r\n \r\n"), content, some("", SECOND))


expectation = some(
    "Expect: 100-continue\r\n", "Expect: 100-Continue\r\n", "Expect: x\r\n", "Expect: 100-continue, x\r\n"
)
upgrade = joined(
    some("Connection: Upgrade\r\n", "Connection: upgrade, HTTP2-Settings\r\n", "Connection: x\r\n", ""),
    some("Upgrade: "),
    some("websocket", "h2c", "h2", "TLS/1.2", "HTTP/2.0", "websocket, h2c", "h2c/1", "HTTP/1.1", "", ",", "x\0", "foo"),
    some("\r\n"),
    some("", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "HTTP2-Settings: AA\r\n"),
)
field_line = joined(
    some("X-A", "X A", "X-A ", " X-A", "", "X\0A", "X\x85", "(X)", "X-A:X-B", "\tX"),
    some(":", ": ", "", " : "),
    st.text(st.characters(max_codepoint=255), max_size=6),
    some("\r\n", "\n", "\r", "\r\n ", "\r\n\t"),
)
request_line = joined(
    some("GET", "get", "G\0T", "GET ", "", "G(T", "\r\nGET", "\nGET", " GET"),
    some(" ", "  ", "\t", "\x0b", ""),
    some(
        "/first",
        "*",
        "first",
        "/a b",
        "/\0",
        "/a\rb",
        "/é",
        "//",
        "?",
        "/first#x",
        "http://{{B}}/",
        "http://{{A}}/first",
    ),
    some(" ", "  ", "\t", ""),
    some("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/01.1", "HTTP/1.1x", ""),
    some("\r\n", "\n", "\r"),
)

CLASSES: Final[Mapping[str, Strings]] = {
    "one length": post(length_line),
    "several lengths": post(lines(plain_length_line)),
    "one coding": post(coding_line),
    "several codings": post(lines(plain_coding_line)),
    "length and coding": post(lines(st.one_of(plain_length_line, plain_coding_line))),
    "length and coding, oddly written": post(lines(st.one_of(length_line, coding_line))),
    "chunks": post(some("Transfer-Encoding: chunked\r\n"), content=chunked_body),
    "expectations": post(lines(expectation), st.one_of(plain_length_line, plain_coding_line)),
    "upgrades": post(upgrade, st.one_of(some(""), plain_length_line, plain_coding_line)),
    "field lines": post(lines(field_line), plain_length_line),
    "request lines": joined(request_line, some("Host: {{A}}\r\n\r\n"), some("", SECOND)),
}  # fmt: skip


def play(raw: str, *, cuts: Sequence[int] = ()) -> tuple[Outcome, bytes]:
    """Send `raw`, in pieces that end at `cuts`; return what came of it and the bytes that were sent."""

    async def main() -> tuple[Outcome, bytes]:
        async with memory_stage() as stage:
            data = sendable(raw, stage)
            read = read_requests(data, extensions=True)
            methods = [message.method for message in read.messages]
            edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
            pieces = [data[start:end] for start, end in pairwise(edges) if end > start]
            return await stage.play(*pieces, methods=methods), data

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def sendable(raw: str, stage: Stage) -> bytes:
    # What is beyond Latin-1 goes as UTF-8, as from a client that knows no better.
    return expanded(raw.encode("utf-8").decode("latin-1") if max(raw) > "\xff" else raw, stage.hosts)


def assert_nothing_smuggled(outcome: Outcome, sent: bytes) -> None:
    outcome.assert_in_step()
    # RFC 9112 section 2.2 has one empty line before a request ignored; ours are read as if it were not there.
    plain = read_requests(sent.removeprefix(b"\r\n"), extensions=True)
    understood = [(message.method, _path(message.target), message.body) for message in plain.complete]
    for message in outcome.requests:
        seen = (message.method, message.target, message.body)
        assert seen in understood, f"a service was sent {seen}, which nobody had asked for"
        understood.remove(seen)


def _path(target: bytes) -> bytes:
    """Return the origin-form of a target in absolute-form (RFC 9112 section 3.2.2)."""
    return re.sub(rb"^http://[^/]+", b"", target)


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_is_smuggled(name: str) -> None:
    @law
    @given(CLASSES[name])
    def holds(raw: str) -> None:
        assert_nothing_smuggled(*play(raw))

    holds()


@law
@given(st.sampled_from(list(CLASSES)).flatmap(CLASSES.__getitem__), st.lists(st.integers(0, 300), max_size=4))
def test_nothing_is_smuggled_however_it_is_cut(raw: str, cuts: list[int]) -> None:
    assert_nothing_smuggled(*play(raw, cuts=cuts))


@pytest.mark.parametrize(
    "odd",
    ["+5", "-5", " 5", "5 ", "\t5", "5\t", "0x5", "0X5", "5_0", "5.", "5h", "\xb2", "5\0", "5\x0b", "5,5", "5;\r"],
)
def test_chunk_size_that_some_reader_would_understand_is_refused(odd: str) -> None:
    outcome, sent = play(
        f"POST /first HTTP/1.1\r\nHost: {{{{A}}}}\r\nTransfer-Encoding: chunked\r\n\r\n{odd}\r\nhello\r\n0\r\n\r\n"
    )
    assert_nothing_smuggled(outcome, sent)
    assert not outcome.requests
    assert outcome.closed


# Hosts.

host_piece = some(
    "{{A}}", "{{B}}", "{{A:upper}}", "{{BASE}}", "@", "/", ",", ";", "#", "?", "\t", " ", ".", ":", "80", ":80", "%2e",
    "%00", "x", "[", "]", "\\", "\0", "\xa0", "*", "_", "-", "\u3002", "\uff0e", "0", "localhost", "127.0.0.1",
)  # fmt: skip


@settings(law, max_examples=150)
@given(st.lists(host_piece, min_size=1, max_size=4).map("".join))
def test_host_routes_only_if_it_is_that_of_a_preview(host: str) -> None:
    outcome, sent = play(f"GET /first HTTP/1.1\r\nHost: {host}\r\n\r\n")
    outcome.assert_in_step()
    value = sent.partition(b"Host: ")[2].removesuffix(b"\r\n\r\n").strip(b" \t").lower()
    for name, service in outcome.services.items():
        spelt = re.escape(outcome.hosts[name].encode("ascii")) + rb"\.?(:([1-9][0-9]{0,4})?)?"
        assert bool(service.dialled) == bool(re.fullmatch(spelt, value))


overrides = st.lists(
    joined(
        some(
            "Forwarded: host=", "X-Forwarded-Host: ", "X-Host: ", "X-HTTP-Host-Override: ", "X-Original-Host: ",
            "X-Forwarded-Server: ", "X-Original-URL: http://", "X-Rewrite-URL: http://", "Portico-Preview: ",
            "X_Forwarded_Host: ", "X-Forwarded_Host: ", "Proxy: http://", "X-Sandbox-Name: ", "x_sandbox_id: ",
        ),
        some("{{B}}\r\n"),
    ),
    min_size=1,
    max_size=4,
).map("".join)  # fmt: skip


@law
@given(overrides)
def test_only_host_routes_and_no_override_reaches_a_service(override: str) -> None:
    outcome, _ = play("GET /first HTTP/1.1\r\nHost: {{A}}\r\n" + override + "\r\n")
    outcome.assert_in_step()
    assert [len(service.requests) for service in outcome.services.values()] == [1, 0]
    assert outcome.hosts["B"].encode("ascii") not in outcome.services["A"].received


# What `Connection` names.

NEEDED: Final = {
    "host": "localhost:3000",
    "content-length": "5",
    "authorization": "Basic eA==",
    "cookie": "a=b",
    "origin": "https://elsewhere.example",
    "sec-fetch-site": "cross-site",
    "content-type": "text/plain",
}
SET: Final = (
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-for",
    "forwarded",
    "x-original-url",
    "x-sandbox-name",
)


@law
@given(st.lists(st.sampled_from([*NEEDED, *SET, "close", "x-a", "", "transfer-encoding", "keep-alive"]), max_size=6))
def test_connection_removes_nothing_that_matters(named: list[str]) -> None:
    sent = "".join(f"{name}: {value}\r\n" for name, value in NEEDED.items() if name != "host")
    connection = f"Connection: {', '.join(named)}\r\nX-A: a\r\n"
    outcome, _ = play("POST /first HTTP/1.1\r\nHost: {{A}}\r\n" + sent + connection + "\r\nhello")
    outcome.assert_in_step()
    (request,) = outcome.requests
    assert {name: request.all(name) for name in NEEDED} == {name: [text.encode()] for name, text in NEEDED.items()}
    assert all(len(request.all(name)) == 1 for name in SET)
    assert request.all("x-a") == ([] if "x-a" in named else [b"a"])
    assert request.body == b"hello"


# Names that some front proxy would vouch for.

VOUCHED_FOR: Final = (
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Real-IP", "X-Client-IP",
    "True-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "X-Cluster-Client-IP", "X-Envoy-External-Address",
    "X-Auth-Request-User", "Remote-User", "X-Remote-User", "X-Authenticated-User", "X-Original-URL", "X-Rewrite-URL",
    "X-Host", "X-HTTP-Host-Override", "X-Sandbox-Name", "X-Portico-Anything", "Proxy", "Proxy-Authorization",
    "X-Sendfile-Type", "X-Accel-Mapping", "X-Accel-Redirect",
)  # fmt: skip


REFUSED_LATE: Final = "Proxy-Authorization"
"""As a trailer, its mere presence is an attack."""


@pytest.mark.parametrize("underscores", [0, 1, 9])
@pytest.mark.parametrize("place", ["head", "trailers"])
def test_client_can_speak_for_no_proxy(place: str, underscores: int) -> None:
    """Neither before the body nor after it: some servers put trailers among the fields of the head."""
    names = [name.replace("-", "_", underscores) for name in VOUCHED_FOR if place == "head" or name != REFUSED_LATE]
    claims = "".join(f"{name}: forged\r\n" for name in names)
    before, after = (claims, "") if place == "head" else ("", claims)
    head = "POST /first HTTP/1.1\r\nHost: {{A}}\r\nTransfer-Encoding: chunked\r\n" + before
    outcome, _ = play(f"{head}\r\n5\r\nhello\r\n0\r\n{after}\r\n")
    outcome.assert_in_step()
    assert [request.body for request in outcome.requests] == [b"hello"]
    assert b"forged" not in outcome.services["A"].received


# A service that answers before it has read.


@law
@given(
    st.integers(0, 60),
    st.booleans(),
    some("", "Expect: 100-continue\r\n"),
)
def test_what_is_left_of_an_unread_body_is_no_request(sent: int, chunked: bool, expect: str) -> None:
    content = SECOND.replace("{{B}}", "x." + BASE) * 2
    framing = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(content)}\r\n"
    head = "POST /first HTTP/1.1\r\nHost: {{A}}\r\n" + framing + expect + "\r\n"

    async def main() -> Outcome:
        async with memory_stage(on_head=True) as stage:
            begun = f"{len(content):x}\r\n{content}" if chunked else content
            late = f"GET /second HTTP/1.1\r\nHost: {stage.hosts['B']}\r\n\r\n"
            parts = [expanded(part, stage.hosts) for part in (head + begun[:sent], late)]
            return await stage.play(*parts)

    outcome = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    outcome.assert_services_read_plainly()
    assert [len(message.all("x-answer")) for message in outcome.finals] == [1]
    assert outcome.closed
    assert not outcome.services["B"].dialled
