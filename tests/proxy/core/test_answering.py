"""From the events of a service's answer to the bytes of the client's."""

import pytest

from actors import Domain, Port, PortToken, SandboxId
from proxy.core.answering import write_events
from proxy.core.body import NO_TRAILERS
from proxy.core.exchange import (
    ExchangeEvent,
    Informational,
    ResponseContent,
    ResponseEnded,
    ResponseStarted,
    SwitchedProtocols,
)
from proxy.core.headers import Forwarding
from proxy.core.hostname import TokenHost, parse_host
from proxy.core.http1 import CHUNKED, BadResponseError, Framing, FramingKind, ResponseHead
from proxy.core.serving import ServerConnection

HOST = b"8080-my-app-k3v9x0q2m7t1z8aa.example.com"
FORWARDING = Forwarding(
    TokenHost(SandboxId("my-app"), Port(8080), PortToken("k3v9x0q2m7t1z8aa"), Domain("example.com")),
    parse_host(HOST),
    scheme="https",
    client_address="192.0.2.7",
)
OURS = (b"location", b"Location", b"http://localhost:8080/next")


def client(extra: bytes = b"") -> ServerConnection:
    http = ServerConnection()
    http.receive(b"GET / HTTP/1.1\r\nHost: " + HOST + b"\r\n" + extra + b"\r\n")
    http.next_event()
    http.next_event()
    return http


def written(events: list[ExchangeEvent], extra: bytes = b"") -> bytes:
    return write_events(client(extra), FORWARDING, events)


def test_a_whole_answer_is_one_piece_with_its_fields_passed_on() -> None:
    events: list[ExchangeEvent] = [
        Informational(ResponseHead(103, b"Early Hints", [])),
        ResponseStarted(ResponseHead(302, b"Found", [OURS]), Framing(FramingKind.LENGTH, 2)),
        ResponseContent(b"ok"),
        ResponseEnded(NO_TRAILERS),
    ]
    location = b"Location: https://" + HOST + b"/next\r\n"
    assert written(events) == (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 302 Found\r\n" + location + b"Content-Length: 2\r\n\r\nok"
    )


def test_pieces_of_unknown_length_are_chunked() -> None:
    events: list[ExchangeEvent] = [
        ResponseStarted(ResponseHead(200, b"OK", []), CHUNKED),
        ResponseContent(b"piece"),
        ResponseEnded([(b"x-sum", b"X-Sum", b"1")]),
    ]
    assert written(events).endswith(b"\r\n\r\n5\r\npiece\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_a_switch_of_protocols_is_written_anew() -> None:
    head = ResponseHead(101, b"Switching Protocols", [(b"upgrade", b"Upgrade", b"chat")])
    out = written([SwitchedProtocols(head, b"leftover")], b"Connection: Upgrade\r\nUpgrade: chat\r\n")
    assert out == b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"


def test_nothing_is_written_for_nothing() -> None:
    assert written([]) == b""


def test_content_beyond_its_length_is_an_error() -> None:
    started = ResponseStarted(ResponseHead(200, b"OK", []), Framing(FramingKind.LENGTH, 1))
    with pytest.raises(BadResponseError):
        written([started, ResponseContent(b"too much")])
