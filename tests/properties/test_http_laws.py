"""Laws of the HTTP engine: it agrees with h11 on what it accepts, cuts change nothing, garbage never crashes."""

from collections.abc import Sequence
from itertools import pairwise

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.body import BadBodyError, ChunkedBody, chunk, last_chunk
from proxy.core.exchange import Exchange, ExchangeEvent, ResponseContent, UpstreamClosedError
from proxy.core.http1 import (
    EMPTY,
    NO_BODY,
    BadRequestError,
    BadResponseError,
    Field,
    RequestHead,
    ResponseHead,
    read_request_head,
    read_response_head,
    request_framing,
    write_request_head,
    write_response_head,
)
from proxy.core.serving import RequestContent, RequestStarted, ServerConnection, Signal

law = settings(derandomize=True, max_examples=400, deadline=None)

# Pieces that readers of HTTP have disagreed about, and ordinary ones, so that about half of all heads are legal.
REQUEST_LINES = [
    b"GET / HTTP/1.1",
    b"POST /a%2Fb?c HTTP/1.1",
    b"HEAD /x HTTP/1.0",
    b"OPTIONS * HTTP/1.1",
    b"GET http://a.example/b HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1",
    b"get  / HTTP/1.1",
]
STATUS_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.0 404 Not Found",
    b"HTTP/1.1 204",
    b"HTTP/1.1 101 ",
    b"HTTP/1.1 103 Early \xe9",
    b"HTTP/1.1 999 x\ty",
    b"HTTP/1.1 099 x",
    b"HTTP/1.1  200 OK",
]
FIELD_LINES = [
    b"X-A: a",
    b"x-a:\t a  b \t",
    b"X-Empty:",
    b"Set-Cookie: a=b; c",
    b"X-Obs: \xff\x80",
    b"Connection: close",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Content-Length: 5",
    b"Content-Length: 05",
    b"Content-Length: 5, 5",
    b"content-length: +5",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: Chunked",
    b"Transfer-Encoding: identity",
    b"Transfer_Encoding: chunked",
    b"Expect: 100-continue",
    b"X A: a",
    b"X-A : a",
    b" folded",
    b"nocolon",
    b": empty",
]
HARMFUL = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\x00",
    b"\x0b",
    b"\x7f",
    b" ",
    b"\t",
    b":",
    b",",
    b"\x85",
    b"\xa0",
    b"_",
    b"0",
    b"\x1c",
]


@st.composite
def mutated(draw: st.DrawFn, wholes: st.SearchStrategy[bytes]) -> bytes:
    """A message with up to two bytes inserted, replaced or removed."""
    data = draw(wholes)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        position = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 2))
        data = data[:position] + draw(st.sampled_from([b"", *HARMFUL])) + data[position + removed :]
    return data


def heads(lines: list[bytes], always: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    ordinary = FIELD_LINES[:10] + FIELD_LINES[12:14]
    fields = st.lists(st.sampled_from(ordinary), max_size=4) | st.lists(st.sampled_from(FIELD_LINES), max_size=4)
    return st.builds(lambda line, rest: b"\r\n".join([line, *always, *rest, b"", b""]), st.sampled_from(lines), fields)


request_heads = mutated(heads(REQUEST_LINES, [b"Host: a.example"]))
response_heads = mutated(heads(STATUS_LINES))
tokens = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
field_values = st.binary(max_size=12).map(
    lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip(b" ")
)
ordinary_fields = st.lists(st.tuples(tokens.map(lambda name: b"x-" + name), field_values), max_size=6).map(
    lambda pairs: [(name.lower(), name, value) for name, value in pairs]
)
contents = st.lists(st.binary(max_size=40), max_size=6)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def framing_lowered(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    """As h11 gives them: it lowers the value of Transfer-Encoding."""
    return [(raw, value.lower() if name == b"transfer-encoding" else value) for name, raw, value in fields]


@law
@given(response_heads)
def test_response_head_that_we_accept_h11_accepts_and_reads_the_same(head: bytes) -> None:
    try:
        ours = read_response_head(head)
    except BadResponseError:
        return
    client = h11.Connection(h11.CLIENT)
    offer = [("Host", "a"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
    client.send(h11.Request(method="GET", target="/", headers=offer))
    client.send(h11.EndOfMessage())
    client.receive_data(head)
    theirs = client.next_event()
    assert isinstance(theirs, h11.Response | h11.InformationalResponse)
    assert (theirs.status_code, theirs.reason, theirs.http_version) == (ours.status, ours.reason, ours.http_version)
    assert theirs.headers.raw_items() == framing_lowered(ours.fields)


@law
@given(request_heads)
def test_request_head_that_we_accept_h11_accepts_and_it_reads_back_the_same(head: bytes) -> None:
    try:
        ours = read_request_head(head)
    except BadRequestError:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    theirs = server.next_event()
    assert isinstance(theirs, h11.Request)
    assert theirs.headers.raw_items() == framing_lowered(ours.fields)
    if ours.http_version == b"1.1":
        again = read_request_head(write_request_head(ours.method, ours.target, ours.fields))
        ours.authority = None
        assert again == ours
        assert request_framing(again) == request_framing(ours)


@law
@given(st.sampled_from([b"GET", b"POST", b"X-Y"]), ordinary_fields)
def test_any_ordinary_head_is_accepted_and_reads_back_the_same(method: bytes, fields: list[Field]) -> None:
    fields = [(b"host", b"Host", b"a"), *fields]
    request = read_request_head(write_request_head(method, b"/", fields))
    assert (request.method, request.fields) == (method, fields)
    assert read_response_head(write_response_head(200, b"OK", fields)) == ResponseHead(200, b"OK", fields)


@law
@given(
    st.sampled_from([b"X: ", b"X", b"GET /", b"200"]),
    st.binary(max_size=6),
    st.integers(0, 3),
)
def test_what_is_written_is_one_head_or_an_error(prefix: bytes, raw: bytes, place: int) -> None:
    parts = [b"GET", b"/", b"X-A", b"a"]
    parts[place] = prefix + raw
    try:
        head = write_request_head(parts[0], parts[1], [(parts[2].lower(), parts[2], parts[3])])
    except ValueError:
        return
    assert head.find(b"\r\n\r\n") == len(head) - 4
    assert head.count(b"\n") == head.count(b"\r") == 3


@law
@given(contents, ordinary_fields, st.lists(st.integers(0, 2**16), max_size=8), st.binary(max_size=8))
def test_chunked_body_round_trips_through_any_cuts(
    parts: list[bytes], trailers: list[Field], cuts: list[int], behind: bytes
) -> None:
    wire = b"".join(map(chunk, parts)) + last_chunk(trailers)
    body, content, taken = ChunkedBody(), b"", 0
    for piece in pieces_of(wire + behind, cuts):
        if not body.done:
            got, count = body.feed(piece)
            content += got
            taken += count
    assert (content, taken, list(body.trailers)) == (b"".join(parts), len(wire), trailers)


chunked_wires = mutated(
    st.builds(
        lambda parts, extension, trailers: (
            b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part)
            + b"0\r\n"
            + b"".join(line + b"\r\n" for line in trailers)
            + b"\r\n"
        ),
        contents,
        st.sampled_from([b"", b"", b";a=b", b' ;a="b"', b" "]),
        st.lists(st.sampled_from(FIELD_LINES), max_size=2),
    )
)


@law
@given(chunked_wires, st.lists(st.integers(0, 2**16), max_size=4))
def test_chunked_body_that_we_accept_h11_reads_the_same(wire: bytes, cuts: list[int]) -> None:
    body, content, taken = ChunkedBody(), b"", 0
    try:
        for piece in pieces_of(wire, cuts):
            if not body.done:
                got, count = body.feed(piece)
                content += got
                taken += count
    except BadBodyError:
        return
    if any(name in (b"content-length", b"transfer-encoding") for name, _, _ in body.trailers):
        return  # h11 refuses some of these here; we refuse or drop them all, one layer up.
    server = h11.Connection(h11.SERVER)
    server.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    assert isinstance(server.next_event(), h11.Request)
    theirs = b""
    while isinstance(event := server.next_event(), h11.Data):
        theirs += event.data
    assert theirs == content
    if body.done:
        assert isinstance(event, h11.EndOfMessage)
        assert server.trailing_data[0] == wire[taken:]


def serve(pieces: list[bytes]) -> tuple[list[object], int | None]:
    """Everything that a connection tells, content joined, and the status of its error."""
    connection, told = ServerConnection(), list[object]()
    try:
        for piece in pieces:
            connection.receive(piece)
            for event in iter(connection.next_event, Signal.NEED_DATA):
                if event is Signal.PAUSED:
                    connection.respond(ResponseHead(200, b"OK", []), EMPTY)
                    connection.end()
                    if not connection.keep_alive:
                        return told, None
                    connection.start_next()
                elif isinstance(event, RequestContent) and told and isinstance(told[-1], bytes):
                    told[-1] += event.data
                else:
                    told.append(event.data if isinstance(event, RequestContent) else event)
    except BadRequestError as error:
        return told, error.status
    return told, None


request_streams = st.lists(
    st.tuples(request_heads, st.just(b"") | st.just(b"hello") | chunked_wires).map(b"".join), max_size=3
).map(b"".join)


@law
@given(request_streams | st.binary(max_size=60), st.lists(st.integers(0, 2**16), max_size=8))
def test_requests_are_read_the_same_however_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    whole, whole_status = serve([stream])
    cut, cut_status = serve(pieces_of(stream, cuts))
    assert cut_status == whole_status
    # Before an error a whole read may tell less content: the fault stood in the same read.
    if whole_status is None:
        assert cut == whole
    else:
        starts = [each for each in whole if isinstance(each, RequestStarted)]
        assert [each for each in cut if isinstance(each, RequestStarted)] == starts


def exchange_all(method: bytes, pieces: list[bytes]) -> tuple[list[ExchangeEvent], bytes, str, bool]:
    """Events but content, the content, how it ended, and whether the connection could be used again."""
    exchange = Exchange(RequestHead(method, b"/", b"1.1", []), NO_BODY, upgrade=b"websocket")
    exchange.start()
    events: list[ExchangeEvent] = []
    outcome = "open"
    try:
        for piece in pieces:
            if not exchange.switched:
                events += exchange.receive(piece)
        reusable = exchange.reusable
        events += exchange.receive_eof()
        outcome = "ended"
    except BadResponseError:
        return [], b"", "bad", False
    except UpstreamClosedError as error:
        outcome = f"closed, mid response: {error.mid_response}"
    content = b"".join(event.data for event in events if isinstance(event, ResponseContent))
    return [event for event in events if not isinstance(event, ResponseContent)], content, outcome, reusable


response_streams = st.lists(
    st.tuples(response_heads, st.just(b"") | st.just(b"hello") | chunked_wires).map(b"".join), max_size=2
).map(b"".join)


@law
@given(
    st.sampled_from([b"GET", b"HEAD"]),
    response_streams | st.binary(max_size=60),
    st.lists(st.integers(0, 2**16), max_size=8),
)
def test_response_is_read_the_same_however_it_is_cut(method: bytes, stream: bytes, cuts: list[int]) -> None:
    whole = exchange_all(method, [stream])
    cut = exchange_all(method, pieces_of(stream, cuts))
    assert cut[2:] == whole[2:]
    if b" 101 " not in stream:
        # After a switch of protocols the rest of a read is the leftover, and later reads are not ours.
        assert cut == whole
