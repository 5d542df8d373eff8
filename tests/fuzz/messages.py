"""Laws of the readers of HTTP: cuts change nothing, refusals are the only errors, and others read the same.

"Others" are h11 and `tests.corpora.strict_reader`. What a target reads it also passes on, as the proxy would, and
whoever reads that must see the same message and nothing behind it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import h11

from actors import Domain, Port, PortToken, SandboxId
from proxy.core.body import BadBodyError, ChunkedBody
from proxy.core.exchange import (
    Exchange,
    ExchangeEvent,
    Informational,
    ReadResponseHead,
    ResponseContent,
    ResponseEnded,
    ResponseStarted,
    SwitchedProtocols,
    UpstreamClosedError,
)
from proxy.core.headers import Forwarding
from proxy.core.hostname import Host, HostKind, TokenHost
from proxy.core.http1 import (
    EMPTY,
    NO_BODY,
    BadRequestError,
    BadResponseError,
    Field,
    Limits,
    RequestHead,
    ResponseHead,
    keeps_alive,
    read_request_head,
    read_response_head,
    response_framing,
)
from proxy.core.lines import LineMemo
from proxy.core.serving import ReadHead, RequestContent, RequestEnded, RequestStarted, ServerConnection, Signal
from tests.corpora.strict_reader import Stop, read_requests, read_responses
from tests.fuzz.cutting import cuttings

# So small that inputs of a few hundred bytes reach them.
LIMITS: Final = Limits(head_bytes_max=700, fields_max=12, target_bytes_max=200, trailer_bytes_max=100)

PREVIEW: Final = TokenHost(SandboxId("my-app"), Port(8080), PortToken("k3v9x0q2m7t1z8aa"), Domain("example.com"))
PUBLIC: Final = Host(HostKind.NAME, "8080-my-app-k3v9x0q2m7t1z8aa.example.com", None)
_FORWARDING: Final = Forwarding(PREVIEW, PUBLIC, scheme="https", client_address="192.0.2.7")
_OK: Final = ResponseHead(200, b"OK", [])


# Requests.


class _Asked(NamedTuple):
    """A request as our reader gave it."""

    started: RequestStarted
    content: bytes
    trailers: Sequence[Field]
    taken: int
    """Where it ends in what was sent."""


class _Conversation(NamedTuple):
    """What became of a client's bytes."""

    asked: tuple[_Asked, ...]
    begun: object
    """The head of a request that did not end; None if there is none."""
    refused: bool


def request_head(data: bytes) -> None:
    """Check a client's whole stream: heads, bodies, pipelining, its end."""
    whole, *others = [_converse(pieces) for pieces in cuttings(data)]
    # What is remembered of the first time, and of heads that came before in the same stream, changes nothing.
    memo = LineMemo()
    others += [_converse((data,), memo.read_request) for _ in range(2)]
    for other in others:
        assert [_shown(asked) for asked in other.asked] == [_shown(asked) for asked in whole.asked]
        assert (other.begun, other.refused) == (whole.begun, whole.refused)
    start = 0
    for asked in whole.asked:
        raw = data[start : asked.taken]
        _h11_reads_the_same(raw.removeprefix(b"\r\n"), asked)
        start = asked.taken
        _is_forwarded_as_one_request(asked)


def _converse(pieces: Sequence[bytes], read_head: ReadHead = read_request_head) -> _Conversation:
    connection = ServerConnection(LIMITS, read_head)
    asked: list[_Asked] = []
    started: RequestStarted | None = None
    content = b""
    received = 0
    rest = iter(pieces)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, RequestStarted):
                started, content = event, b""
            elif isinstance(event, RequestContent):
                assert event.data, "content that is none"
                content += event.data
            elif isinstance(event, RequestEnded):
                assert started is not None
                asked.append(_Asked(started, content, event.trailers, received - connection.buffered))
            elif event is Signal.PAUSED:
                connection.respond(_OK, EMPTY)
                connection.end()
                if not connection.keep_alive:
                    return _Conversation(tuple(asked), None, refused=False)
                connection.start_next()
                started = None
            elif event is Signal.CONNECTION_ENDED:
                return _Conversation(tuple(asked), None, refused=False)
            elif (piece := next(rest, None)) is None:
                connection.receive_eof()
            else:
                received += len(piece)
                connection.receive(piece)
    except BadRequestError as error:
        if not 400 <= error.status < 600:
            raise AssertionError("a refusal with another status") from error
        begun = None if started is None else (started.head.method, started.head.target, started.head.fields)
        return _Conversation(tuple(asked), begun, refused=True)


def _shown(asked: _Asked) -> object:
    head = asked.started.head
    return head.method, head.target, head.fields, head.authority, asked.content, list(asked.trailers), asked.taken


def _h11_reads_the_same(raw: bytes, asked: _Asked) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(raw) + 1)
    connection.receive_data(raw)
    request = connection.next_event()
    head = asked.started.head
    assert isinstance(request, h11.Request)
    assert (request.method, request.http_version) == (head.method, head.http_version)
    if head.authority is None:
        assert request.target == head.target
    assert request.headers.raw_items() == [(received, value) for _, received, value in head.fields]
    content = b""
    while isinstance(event := connection.next_event(), h11.Data):
        content += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert content == asked.content
    theirs = [(name, value) for name, _, value in asked.trailers]
    assert all(trailer in list(event.headers) for trailer in theirs)
    assert connection.trailing_data == (b"", False)


def _is_forwarded_as_one_request(asked: _Asked) -> None:
    started = asked.started
    fields = _FORWARDING.forward_request(started.head.fields, started.head.target)
    head = RequestHead(started.head.method, started.head.target, b"1.1", fields)
    exchange = Exchange(head, started.framing, upgrade=started.upgrade)
    written = exchange.start() + (exchange.request_content(asked.content) if asked.content else b"")
    written += exchange.request_end(asked.trailers)
    reading = read_requests(written, rewritten=True)
    assert reading.stop is Stop.END, reading.why
    (seen,) = reading.whole
    assert (seen.method, seen.target, seen.body) == (head.method, head.target, asked.content)
    assert [value for name, value in seen.fields if name == b"host"] == [b"localhost:8080"]
    assert seen.trailers == tuple((name, value) for name, _, value in asked.trailers)


# Responses.


class _Answered(NamedTuple):
    """What became of a service's bytes."""

    events: list[ExchangeEvent]
    """Content in one piece."""
    failure: str
    """The name of the error; empty if there was none."""
    reusable: bool
    leftover: bytes
    """After a switch of protocols."""


def response_head(data: bytes) -> None:
    """Check a service's whole stream, as the answer to GET, to HEAD, and to an offer to switch protocols."""
    for method, upgrade in ((b"GET", None), (b"HEAD", None), (b"GET", b"websocket")):
        whole, *others = [_answer(pieces, method, upgrade) for pieces in cuttings(data)]
        memo = LineMemo()
        others += [_answer((data,), method, upgrade, memo.read_response) for _ in range(2)]
        for other in others:
            assert (other.failure, other.reusable, other.leftover) == (whole.failure, whole.reusable, whole.leftover)
            # A read that brings a fault tells nothing else, so smaller pieces tell more before it.
            told = other.events if not whole.failure else other.events[: len(whole.events)]
            assert _without_content(told) == _without_content(whole.events)
            if not whole.failure:
                assert told == whole.events
        if not whole.failure and not any(isinstance(event, SwitchedProtocols) for event in whole.events):
            _strict_reader_reads_the_same(data, method, whole)
        _is_relayed_as_one_answer(method, upgrade, whole)
    end = data.find(b"\r\n\r\n")
    if end >= 0:
        _h11_reads_the_same_head(data[: end + 4])
        for method in (b"GET", b"HEAD"):
            _plainly_relayed_the_same(data[: end + 4], method)


def _answer(
    pieces: Sequence[bytes], method: bytes, upgrade: bytes | None, read_head: ReadResponseHead = read_response_head
) -> _Answered:
    head = RequestHead(method, b"/", b"1.1", [])
    exchange = Exchange(head, NO_BODY, upgrade=upgrade, limits=LIMITS, read_head=read_head)
    exchange.start()
    events: list[ExchangeEvent] = []
    leftover = b""
    reusable = False
    failure = ""
    try:
        for piece in pieces:
            if exchange.switched:
                leftover += piece
                continue
            events += exchange.receive(piece)
            while exchange.pending:
                events += exchange.receive(b"")
        reusable = exchange.reusable
        events += exchange.receive_eof()
    except (BadResponseError, UpstreamClosedError) as error:
        failure = type(error).__name__
        assert not exchange.reusable
    for event in events:
        if isinstance(event, SwitchedProtocols):
            leftover = event.leftover + leftover
    return _Answered(_merged(events), failure, reusable, leftover)


def _merged(events: Sequence[ExchangeEvent]) -> list[ExchangeEvent]:
    merged: list[ExchangeEvent] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, ResponseContent) and isinstance(last, ResponseContent):
            merged[-1] = ResponseContent(last.data + event.data)
        elif isinstance(event, SwitchedProtocols):
            merged.append(SwitchedProtocols(event.head, b""))
        else:
            merged.append(event)
    return merged


def _without_content(events: Sequence[ExchangeEvent]) -> list[ExchangeEvent]:
    return [event for event in events if not isinstance(event, ResponseContent)]


def _strict_reader_reads_the_same(data: bytes, method: bytes, answered: _Answered) -> None:
    reading = read_responses(data, [method], rewritten=False)
    started = next(event for event in answered.events if isinstance(event, ResponseStarted))
    assert reading.whole, reading.why
    seen = reading.whole[0]
    content = b"".join(event.data for event in answered.events if isinstance(event, ResponseContent))
    assert (seen.status, seen.body) == (started.head.status, content)
    assert seen.fields == tuple((name, value) for name, _, value in started.head.fields)
    statuses = [event.head.status for event in answered.events if isinstance(event, Informational)]
    assert statuses == list(reading.interim)[: len(statuses)]


def _h11_reads_the_same_head(data: bytes) -> None:
    try:
        ours = read_response_head(data)
    except BadResponseError:
        return
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a"), ("Connection", "a"), ("Upgrade", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    theirs = client.next_event()
    assert isinstance(theirs, h11.Response | h11.InformationalResponse)
    assert (theirs.status_code, theirs.reason, theirs.http_version) == (ours.status, ours.reason, ours.http_version)
    shown = [(raw, value.lower() if name == b"transfer-encoding" else value) for name, raw, value in ours.fields]
    assert theirs.headers.raw_items() == shown


def _is_relayed_as_one_answer(method: bytes, upgrade: bytes | None, answered: _Answered) -> None:
    """Pass it on to a client of 1.1, and to one of 1.0, and let them read strictly."""
    for version in (b"1.1", b"1.0"):
        connection = ServerConnection()
        offer = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade if upgrade else b""
        connection.receive(b"%b / HTTP/%b\r\nHost: a\r\n%b\r\n" % (method, version, offer))
        assert isinstance(connection.next_event(), RequestStarted)
        connection.next_event()
        written, ended = _relay(connection, answered.events, switches=version == b"1.1")
        reading = read_responses(written, [method], ended=ended, rewritten=True)
        assert reading.stop is not Stop.VIOLATION, reading.why
        if ended:
            assert len(reading.whole) == (101 not in reading.interim)
        else:
            assert not any(answer.status for answer in reading.whole) or connection.keep_alive is False


def _relay(connection: ServerConnection, events: Sequence[ExchangeEvent], *, switches: bool) -> tuple[bytes, bool]:
    """Write what a client is sent, and say whether it was all."""
    written = b""
    try:
        for event in events:
            match event:
                case Informational(head):
                    written += connection.informational(_passed_on(head))
                case ResponseStarted(head, framing):
                    written += connection.respond(_passed_on(head), framing)
                case ResponseContent(content):
                    written += connection.content(content)
                case ResponseEnded(trailers):
                    written += connection.end(trailers)
                    return written, True
                case SwitchedProtocols(head):
                    if switches:
                        written += connection.switch_protocols(_passed_on(head))
                    return written, switches
    except BadResponseError:
        # The content is not as long as was announced: the client sees a cut.
        pass
    return written, False


def _passed_on(head: ResponseHead) -> ResponseHead:
    return ResponseHead(head.status, head.reason, _FORWARDING.forward_response(head.fields))


def _plainly_relayed_the_same(data: bytes, method: bytes) -> None:
    """Write an answer by way of its lines, and by way of its fields."""
    try:
        found = LineMemo().read_response(data)
    except BadResponseError:
        return
    if found.lines is None:
        return
    framing = response_framing(found, method)
    assert keeps_alive(found.http_version, found.fields) is not found.closes
    connections = [ServerConnection() for _ in range(2)]
    for connection in connections:
        connection.receive(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method)
        connection.next_event()
    by_fields = connections[0].respond(_passed_on(found), framing)
    found.wires = _FORWARDING.write_plain_response(found.lines)
    assert connections[1].respond(found, framing) == by_fields


# Bodies.


def chunked_body(data: bytes) -> None:
    """Check the reader of chunked bodies alone."""
    whole, *others = [_chunks(pieces) for pieces in cuttings(data)]
    for other in others:
        assert other[1:] == whole[1:]
        if whole[1] == "refused":
            continue
        assert other == whole
    content, state, taken, trailers = whole
    if state == "done":
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        reading = read_responses(head + data[:taken], [], rewritten=False)
        assert reading.stop is Stop.END, reading.why
        (seen,) = reading.whole
        assert (seen.body, seen.trailers) == (content, tuple((name, value) for name, _, value in trailers))


def _chunks(pieces: Sequence[bytes]) -> tuple[bytes, str, int, Sequence[Field]]:
    body = ChunkedBody(LIMITS)
    content = b""
    taken = 0
    try:
        for piece in pieces:
            rest = piece
            while rest and not body.done:
                got, count = body.feed(rest)
                content += got
                taken += count
                rest = rest[count:]
    except BadBodyError:
        return content, "refused", -1, ()
    return content, "done" if body.done else "unfinished", taken, body.trailers
