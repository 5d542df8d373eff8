"""Bodies: each whole, byte by byte and with more behind it; what breaks one; what a body may cost."""

from collections.abc import Callable

import pytest

from proxy.core.body import (
    CHUNKS_PER_FEED,
    EXTENSION_BYTES_MAX,
    OVERHEAD_BYTES_MAX,
    BadBodyError,
    Body,
    ChunkedBody,
    LengthBody,
    TruncatedBodyError,
    UntilCloseBody,
    allowed_trailers,
    body_reader,
    chunk,
    is_refused_trailer,
    last_chunk,
)
from proxy.core.http1 import CHUNKED, EMPTY, NO_BODY, UNTIL_CLOSE, Field, Framing, FramingKind, Limits

NEXT = b"GET /next HTTP/1.1\r\n\r\n"


def feed_all(body: Body, data: bytes, step: int) -> tuple[bytes, int]:
    """Feed in steps until done; give the content and how many bytes were taken in sum."""
    content, position = b"", 0
    while position < len(data) and not body.done:
        piece = data[position : position + step]
        got, taken = body.feed(piece)
        assert 0 <= taken <= len(piece)
        assert taken == len(piece) or body.done
        content += got
        position += taken
    return content, position


def field(name: bytes, value: bytes) -> Field:
    return (name.lower(), name, value)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("behind", [b"", NEXT])
@pytest.mark.parametrize(
    ("make", "wire", "content", "trailers"),
    [
        (lambda: LengthBody(5), b"hello", b"hello", []),
        (ChunkedBody, b"0\r\n\r\n", b"", []),
        (ChunkedBody, b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world", []),
        (ChunkedBody, b"0005\r\nhello\r\n000\r\n\r\n", b"hello", []),
        (ChunkedBody, b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, []),
        (ChunkedBody, b'5; some;x="a b"\r\nhello\r\n0;end\r\n\r\n', b"hello", []),
        (ChunkedBody, b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n", []),
        (
            ChunkedBody,
            b"1\r\na\r\n0\r\nVary: *\r\nX-Sum:  9 \r\n\r\n",
            b"a",
            [field(b"Vary", b"*"), field(b"X-Sum", b"9")],
        ),
    ],
)
def test_body_gives_its_content_and_takes_nothing_of_what_follows(
    make: Callable[[], Body], wire: bytes, content: bytes, trailers: list[Field], behind: bytes, step: int
) -> None:
    body = make()
    assert feed_all(body, wire + behind, step) == (content, len(wire))
    assert body.done
    assert list(body.trailers) == trailers
    body.eof()


@pytest.mark.parametrize("step", [1, 10_000])
@pytest.mark.parametrize(
    "wire",
    [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\n;\r\nhello\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFF1\r\nhello",
        b"0" * 30 + b"5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"6_0\r\nhello\r\n0\r\n\r\n",
        b"G\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5 ;a\r\nhello\r\n0\r\n\r\n",
        b"5 \x0b\r\nhello\r\n0\r\n\r\n",
        b" ;foo=bar\r\nhello\r\n0\r\n\r\n",
        b"5\r;x\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\rc\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\nc\r\nhello\r\n0\r\n\r\n",
        b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
        # Extensions have a grammar (RFC 9112 section 7.1.1): a name, and a value that is a token or quoted.
        b"5;\r\nhello\r\n0\r\n\r\n",
        b"5;a;\r\nhello\r\n0\r\n\r\n",
        b"5;a b\r\nhello\r\n0\r\n\r\n",
        b"5;a=\r\nhello\r\n0\r\n\r\n",
        b'5;a="b\r\nhello\r\n0\r\n\r\n',
        b'5;a="b"c\r\nhello\r\n0\r\n\r\n',
        b"5;a \r\nhello\r\n0\r\n\r\n",
        b"5;" + b"x" * EXTENSION_BYTES_MAX + b"\r\nhello\r\n0\r\n\r\n",
        b"\xef\xbc\x95\r\nhello\r\n0\r\n\r\n",
        b"0\r\nbad line\r\n\r\n",
        b"0\r\nX-A : a\r\n\r\n",
        b"0\r\nX-A: a\r\n b\r\n\r\n",
        b"0\r\n: a\r\n\r\n",
        b"0\r\nX-A: a\x00\r\n\r\n",
        b"0\r\nX-A: a\n\r\n\r\n",
        b"0\r\n\n",
        b"0\r\n\rX",
    ],
)
def test_broken_chunks_are_refused_without_waiting_for_more(wire: bytes, step: int) -> None:
    with pytest.raises(BadBodyError):
        feed_all(ChunkedBody(), wire, step)


@pytest.mark.parametrize("cut", range(len(b"5\r\nhello\r\n0\r\nX-A: a\r\n\r\n")))
def test_chunked_body_cut_anywhere_is_incomplete_and_never_malformed(cut: int) -> None:
    body = ChunkedBody()
    feed_all(body, b"5\r\nhello\r\n0\r\nX-A: a\r\n\r\n"[:cut], 10_000)
    assert not body.done
    with pytest.raises(TruncatedBodyError):
        body.eof()


@pytest.mark.parametrize("step", [1, 10_000])
def test_longest_trailer_section_is_taken_however_it_is_cut(step: int) -> None:
    limits = Limits(trailer_bytes_max=20)
    body = ChunkedBody(limits)
    feed_all(body, b"0\r\nX-A: " + b"a" * 15 + b"\r\n\r\n", step)
    assert body.done
    with pytest.raises(BadBodyError):
        feed_all(ChunkedBody(limits), b"0\r\nX-A: " + b"a" * 16 + b"\r\n\r\n", step)


@pytest.mark.parametrize("extension", [b";a", b"; a = b ; c", b';a="b;\\"c";d=e', b";a=" + b"x" * 200, b";a;b;c;d"])
def test_extensions_that_keep_to_their_grammar_are_read_over(extension: bytes) -> None:
    body = ChunkedBody()
    assert feed_all(body, b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n", 1)[0] == b"hello"
    assert body.done


def test_extension_that_nearly_keeps_to_its_grammar_is_refused_at_once() -> None:
    # A thousand times what EXTENSION_BYTES_MAX allows would take a backtracking reader for ever.
    near = b";a" * (EXTENSION_BYTES_MAX // 2 - 1) + b"="
    for _ in range(1000):
        with pytest.raises(BadBodyError):
            feed_all(ChunkedBody(), b"5" + near + b"\r\n", 10_000)


def test_short_length_body_is_incomplete() -> None:
    body = LengthBody(5)
    assert body.feed(b"hell") == (b"hell", 4)
    with pytest.raises(TruncatedBodyError):
        body.eof()


def test_until_close_body_is_complete_at_eof_only() -> None:
    body = UntilCloseBody()
    assert body.feed(b"hello") == (b"hello", 5)
    assert not body.done
    body.eof()
    assert body.done


def test_content_is_given_as_it_comes_and_not_copied_when_it_is_the_whole_read() -> None:
    body, data = LengthBody(10), b"hello"
    assert body.feed(data)[0] is data
    assert body.feed(data)[0] is data
    chunked = ChunkedBody()
    assert chunked.feed(b"ffff\r\nhel") == (b"hel", 9)
    assert chunked.feed(b"lo") == (b"lo", 2)


def test_a_million_one_byte_chunks_cost_no_memory_and_are_fine() -> None:
    body = ChunkedBody()
    for _ in range(100):
        assert body.feed(b"1\r\na\r\n" * 100) == (b"a" * 100, 600)


def test_endless_extensions_are_refused_even_when_each_is_small() -> None:
    """As in CVE-2023-39326: much framing for little content."""
    line = b"1;" + b"x" * 200 + b"\r\na\r\n"
    body = ChunkedBody()
    for _ in range(OVERHEAD_BYTES_MAX // len(line)):
        body.feed(line)
    with pytest.raises(BadBodyError):
        body.feed(line * 20)


def test_content_earns_no_credit_for_later_extensions() -> None:
    body = ChunkedBody()
    body.feed(b"100000\r\n" + b"a" * 2**20)
    with pytest.raises(BadBodyError):
        body.feed((b"\r\n1;" + b"x" * 200 + b"\r\na") * 100)


def test_extensions_on_large_chunks_are_fine() -> None:
    body = ChunkedBody()
    line = b"400;chunk-signature=" + b"0" * 64 + b"\r\n" + b"a" * 1024 + b"\r\n"
    assert feed_all(body, line * 1000 + b"0\r\n\r\n", 5000)[0] == b"a" * 1024 * 1000
    assert body.done


@pytest.mark.parametrize("step", [1, 10_000])
def test_trailer_section_is_bounded_in_bytes_and_in_fields(step: int) -> None:
    limits = Limits(trailer_bytes_max=100, fields_max=3)
    with pytest.raises(BadBodyError):
        feed_all(ChunkedBody(limits), b"0\r\nX-A: " + b"a" * 100 + b"\r\n\r\n", step)
    with pytest.raises(BadBodyError):
        feed_all(ChunkedBody(limits), b"0\r\n" + b"A: a\r\n" * 4 + b"\r\n", step)
    body = ChunkedBody(limits)
    feed_all(body, b"0\r\n" + b"A: a\r\n" * 3 + b"\r\n", step)
    assert len(body.trailers) == 3


@pytest.mark.parametrize(
    ("framing", "kind", "done"),
    [
        (NO_BODY, LengthBody, True),
        (EMPTY, LengthBody, True),
        (Framing(FramingKind.LENGTH, 3), LengthBody, False),
        (CHUNKED, ChunkedBody, False),
        (UNTIL_CLOSE, UntilCloseBody, False),
    ],
)
def test_each_framing_has_its_reader(framing: Framing, kind: type, done: bool) -> None:
    body = body_reader(framing)
    assert type(body) is kind
    assert body.done is done


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"host", b"authorization", b"cookie"])
def test_trailers_that_frame_route_or_authenticate_are_refused_and_never_passed(name: bytes) -> None:
    """RFC 9110 section 6.5.1."""
    assert is_refused_trailer(name)
    assert allowed_trailers([field(name, b"x")]) == []


@pytest.mark.parametrize(
    "name",
    [
        *(b"Set-Cookie", b"Content-Type", b"Location", b"X-Accel-Redirect", b"X-Sendfile", b"Alt-Svc"),
        *(b"X-Forwarded-For", b"X_Forwarded_For", b"X-Forwarded_For", b"Content_Length", b"True-Client-IP", b"Origin"),
        *(
            b"X-Envoy-External-Address",
            b"X_Auth_Request_User",
            b"X-Portico-Anything",
            b"X_Sandbox_Name",
            b"Sec_Fetch_Site",
        ),
    ],
)
def test_trailers_judged_in_the_head_are_dropped(name: bytes) -> None:
    kept = field(b"Grpc-Status", b"0")
    assert not is_refused_trailer(name.lower())
    assert allowed_trailers([field(name, b"x"), kept]) == [kept]


def test_chunks_are_written_as_they_are_read() -> None:
    assert chunk(b"hello world!!!!!") == b"10\r\nhello world!!!!!\r\n"
    assert chunk(b"") == b""
    assert last_chunk() == b"0\r\n\r\n"
    assert last_chunk([field(b"X-A", b"1")]) == b"0\r\nX-A: 1\r\n\r\n"


def test_trailer_cannot_end_its_line() -> None:
    with pytest.raises(ValueError, match="line end"):
        last_chunk([field(b"X-A", b"1\r\nX-B: 2")])


def test_read_full_of_tiny_chunks_is_taken_a_part_at_a_time() -> None:
    body = ChunkedBody()
    wire = b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    calls = 0
    content = b""
    while not body.done:
        piece, taken = body.feed(wire)
        assert len(piece) <= CHUNKS_PER_FEED
        content += piece
        wire = wire[taken:]
        calls += 1
    assert (content, wire, calls) == (b"x" * 1000, b"", 4)
