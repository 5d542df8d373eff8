"""What a hostile service can do to those who visit it, class by class.

The law: each request has one answer, of sound HTTP, or a cut-off that shows; nothing a service wrote in one answer is
ever taken for the answer to another request, on the same connection or on another.
"""

from collections.abc import Mapping
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proxy.security.stage import Outcome, Script, Service, honest, memory_stage, says, socket_stage
from tests.proxy.security.test_request_classes import joined, lines, some
from tests.proxy.security.wire import Message

law = settings(derandomize=True, max_examples=40, deadline=None)

SPLIT: Final = "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 3\r\n\r\nbad"
"""What a service would like others to take for their answer."""

status_line = joined(
    some("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2", "http/1.1", "ICY", "\r\nHTTP/1.1", " HTTP/1.1", ""),
    some(" ", "  ", "\t", ""),
    some("200", "204", "304", "205", "404", "99", "099", "1000", "20x", "2 00", "101", "100", "-1", ""),
    some(" OK", " ", "", " a\tb", " \xe9", " a\0b", " a\rb", "  OK"),
    some("\r\n", "\r\n", "\n", "\r"),
)
ok_line = some(
    "HTTP/1.1 200 OK\r\n", "HTTP/1.1 204 No Content\r\n", "HTTP/1.1 304 Not Modified\r\n", "HTTP/1.0 200 OK\r\n"
)
length_line = joined(
    some("Content-Length"),
    some(": ", ":", " : ", ":\t"),
    some("0", "2", "5", "05", "+5", "-5", "5,5", "5, 6", "0x5", "", "18446744073709551621", "5\0", "\xb2"),
    some("\r\n", "\r\n", "\n", "\r"),
)
coding_line = joined(
    some("Transfer-Encoding: ", "Transfer-Encoding : ", "Transfer_Encoding: ", " Transfer-Encoding: "),
    some("chunked", "Chunked", "gzip, chunked", "chunked, gzip", "identity", "", "xchunked", "\x0bchunked"),
    some("\r\n", "\r\n", "\n"),
)
field_line = joined(
    some("X-A", "X A", "X-A ", "", "X\0A", "X\x85", "\tX"),
    some(":", ": ", ""),
    some(
        "a",
        "a\r\n b",
        "a\r\n\tb",
        "a\0b",
        "a\rb",
        "a\nX-Smuggled: 1",
        "a\r\n\r\n" + SPLIT,
        "\x1b[2J",
        "\xff",
        "a" * 70_000,
    ),
    some("\r\n", "\n", "\r"),
)
interim = joined(
    some("HTTP/1.1 "),
    some("100 Continue", "102 Processing", "103 Early Hints", "101 Switching Protocols", "199 x"),
    some(
        "\r\n", "\r\nLink: </a>\r\n", "\r\nContent-Length: 5\r\n", "\r\nTransfer-Encoding: chunked\r\n", "\r\nX: \0\r\n"
    ),
    some("\r\n"),
)
chunks = joined(
    some(
        "5\r\nhello\r\n",
        "5\nhello\n",
        "5;a=b\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        "6\r\nhello\r\n",
        "5\r\nhello",
        "",
    ),
    some(
        "0\r\n\r\n",
        "0\n\n",
        "00\r\n\r\n",
        "0\r\nX-T: t\r\n\r\n",
        "0\r\nSet-Cookie: a=b; Domain=preview.test\r\n\r\n",
        "0\r\nbad\r\n\r\n",
        "0\r\n",
        "",
    ),
)
body = st.one_of(some("", "ok", "hello"), chunks)
extra = some("", "", SPLIT, "\r\n" + SPLIT, "\n", "\0", "garbage")
no_fields = some("")
ending = some("\r\n", "\r\n", "\n", "\r\n \r\n")

CLASSES: Final[Mapping[str, st.SearchStrategy[str]]] = {
    "status lines": joined(status_line, some("Content-Length: 2\r\n"), some("\r\n"), some("ok"), extra),
    "lengths": joined(ok_line, lines(length_line), ending, body, extra),
    "codings": joined(ok_line, lines(coding_line), ending, chunks, extra),
    "lengths and codings": joined(ok_line, lines(st.one_of(length_line, coding_line)), ending, body, extra),
    "field lines": joined(ok_line, lines(field_line), some("Content-Length: 2\r\n\r\n"), some("ok"), extra),
    "chunks": joined(some("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), chunks, extra),
    "interim": joined(
        lines(interim, most=20),
        ok_line,
        some("Content-Length: 2\r\n", "", "Transfer-Encoding: chunked\r\n"),
        ending,
        body,
        extra,
    ),
    "more than was asked for": joined(ok_line, some("Content-Length: 2\r\n\r\n"), some("ok", "okSMUGGLED", ""), extra),
}  # fmt: skip


def in_pieces(raw: bytes, cut: int, *, closes: bool) -> Script:
    """Answer the first request with `raw` in two pieces; later ones honestly."""
    said = False

    async def script(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal said
        if said:
            await honest(service, request, stream)
            return
        said = True
        for piece in (raw[:cut], raw[cut:]):
            await stream.send_all(piece)
            await trio.sleep(0.01)
        if closes:
            raise trio.ClosedResourceError("that was all")

    return script


def visit(raw: str, cut: int, *, closes: bool, method: str) -> tuple[Outcome, Outcome]:
    """Let a client ask twice and another once after it, the first request being answered with `raw`."""

    async def main() -> tuple[Outcome, Outcome]:
        data = raw.encode("latin-1")
        # In the head: what comes after a whole answer, and later, has a test of its own below.
        place = cut % (max(data.find(b"\r\n\r\n"), 0) + 1)
        async with memory_stage(in_pieces(data, place, closes=closes)) as stage:
            line = f" /p HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n"
            first = f"{method}{line}Content-Length: 0\r\n\r\n".encode()
            second = f"GET{line}\r\n".encode()
            attacked = await stage.play(first, second, methods=[method.encode()])
            return attacked, await stage.play(second)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def assert_kept_apart(attacked: Outcome, after: Outcome) -> None:
    attacked.assert_services_read_plainly()
    reading = attacked.reading
    assert reading.fault is None, f"the client was sent no HTTP: {reading.fault}"
    finals = attacked.finals
    assert len(finals) <= 2
    assert not any(message.status == 101 for message in reading.messages)
    # An answer that was cut off is the last, and ends with the connection.
    assert all(message.complete for message in finals[:-1])
    # Or it is still owed, by a service that waits.
    assert len(finals) == 2 or attacked.closed or not (finals and finals[-1].complete)
    if len(finals) == 2:
        assert finals[1].all("x-answer")
    # Only what comes first can be what the service wrote.
    assert not any(message.all("x-smuggled") for message in reading.messages[1:] if message.status >= 200)
    assert [bool(message.all("x-answer")) for message in after.finals] == [True]
    assert after.finals[0].body == b"ok"


@pytest.mark.parametrize("name", CLASSES)
def test_each_request_has_its_own_answer(name: str) -> None:
    @law
    @given(CLASSES[name], st.integers(0, 500), st.booleans(), some("GET", "HEAD", "POST"))
    def holds(raw: str, cut: int, closes: bool, method: str) -> None:
        assert_kept_apart(*visit(raw, cut, closes=closes, method=method))

    holds()


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 7",
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ],
)
async def test_answer_framed_more_than_once_is_none(framing: str, autojump_clock: trio.testing.MockClock) -> None:
    raw = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with memory_stage(says(raw.encode("ascii"), closes=False)) as stage:
        outcome = await stage.play(f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode())
    assert [message.status for message in outcome.finals] == [502]


async def test_connection_on_which_more_came_than_was_asked_for_is_not_used_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + SPLIT.encode("ascii")
    async with memory_stage(says(raw, closes=False)) as stage:
        request = f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode()
        outcome = await stage.play(request, request)
        assert len(outcome.finals) == len(stage.services["A"].dialled) == 2


async def test_interim_responses_have_an_end(autojump_clock: trio.testing.MockClock) -> None:
    async def interim_for_ever(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        while True:
            await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await trio.sleep(1)

    async with memory_stage(interim_for_ever) as stage:
        outcome = await stage.play(f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode())
    (answer,) = outcome.finals
    assert answer.status == 502
    assert len(outcome.reading.messages) <= 20


@pytest.mark.parametrize("piece", [b"X-A: a\r\n", b"X-A: " + b"a" * 1000, b"\r\n"])
async def test_head_has_an_end(piece: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async def head_for_ever(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nX-First: 1")
        for _ in range(10_000 // len(piece)):
            await stream.send_all(piece * 10)

    async with memory_stage(head_for_ever) as stage:
        outcome = await stage.play(f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode())
    assert [message.status for message in outcome.finals] == [200 if piece == b"\r\n" else 502]


@pytest.mark.parametrize("late", [SPLIT.encode(), b"\r\n", b"\0"])
async def test_answer_that_nobody_asked_for_answers_nobody(late: bytes) -> None:
    """Over sockets: it comes while the connection to the service is kept idle."""
    now = trio.Event()

    async def and_another(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        await honest(service, request, stream)
        await now.wait()
        await stream.send_all(late)

    async with socket_stage(and_another) as stage:
        request = f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode()
        first = await stage.play(request)
        now.set()
        await stage.settle()
        second = await stage.play(request)
        for outcome in (first, second):
            assert [bool(message.all("x-answer")) for message in outcome.finals] == [True]
        assert len(stage.services["A"].dialled) == 2


# Orders to front proxies, and cookies for others.

ORDERS: Final = (
    "X-Accel-Redirect", "X-Accel-Expires", "X-Accel-Limit-Rate", "X-Accel-Charset", "X-Sendfile",
    "X-Lighttpd-Send-File", "X-LIGHTTPD-send-tempfile", "X-Reproxy-URL", "X-LiteSpeed-Location", "Alt-Svc",
    "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Connection", "Keep-Alive",
)  # fmt: skip


@pytest.mark.parametrize("place", ["head", "interim", "trailers"])
async def test_orders_of_a_service_reach_no_front_proxy(place: str, autojump_clock: trio.testing.MockClock) -> None:
    orders = "".join(f"{name}: ordered\r\n" for name in ORDERS)
    head, early, late = (orders if place == here else "" for here in ("head", "interim", "trailers"))
    raw = (
        f"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n{early}\r\n"
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{head}\r\n2\r\nok\r\n0\r\nX-T: t\r\n{late}\r\n"
    )
    async with memory_stage(says(raw.encode("ascii"), closes=False)) as stage:
        outcome = await stage.play(f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode())
    assert [(message.status, message.body, message.trailers) for message in outcome.finals] == [
        (200, b"ok", ((b"x-t", b"t"),))
    ]
    assert b"ordered" not in outcome.received


BASE_SPELT: Final = some(
    "preview.test", ".preview.test", "PREVIEW.test", "preview.test.", "..preview.test", "test", ".test",
    " preview.test ", '"preview.test"', "preview%2etest", "%70review.test", "preview\u3002test", "\uff50review.test",
    "preview.test:80",
)  # fmt: skip
attribute = joined(
    some(";", "; ", ";\t", ";;", " ; "),
    some("Domain", "domain", "DOMAIN", "Domain ", "\tDomain"),
    some("=", " = "),
    BASE_SPELT,
)
other_attribute = some(
    "; Path=/", "; Secure", "; Domain", "; Domain=", "; SameSite=None", "; Partitioned", "; Domain=; x"
)
cookie = joined(
    some("a=1", "__Host-a=1", "__Secure-a=1", "a", "=a", "", "=__Host-portico-x=1", "__host-PORTICO-x=1", "a=1,b=2"),
    st.lists(st.one_of(attribute, other_attribute), max_size=4).map("".join),
)  # fmt: skip


@settings(law, max_examples=100)
@given(st.lists(cookie, min_size=1, max_size=3))
def test_no_cookie_of_a_service_is_for_its_siblings(cookies: list[str]) -> None:
    async def main() -> Outcome:
        fields = "".join(f"Set-Cookie: {cookie}\r\n" for cookie in cookies)
        raw = f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode()
        async with memory_stage(says(raw)) as stage:
            return await stage.play(f"GET / HTTP/1.1\r\nHost: {stage.hosts['A']}\r\n\r\n".encode())

    outcome = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    for value in outcome.finals[0].all("set-cookie"):
        pair, *attributes = value.decode("utf-8").split(";")
        # As browsers read one (RFC 6265 section 5.2), and as more careless ones might.
        for text in attributes:
            name, _, domain = text.partition("=")
            assert name.strip().lower() != "domain" or not domain.strip(' \t".'), f"a cookie for others: {value!r}"
        assert "portico" not in pair.lower()
