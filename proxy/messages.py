"""HTTP messages as other servers hold them: parsed, and of any version.

A server that embeds us has read its request by rules of its own, which may be laxer than ours: a space in a header
name, two lengths, a line end in a value. So whatever it hands us is written out as an HTTP/1.1 head and read back by
`proxy.core.http1`, the same two readers that judge what comes from the network. What they refuse is refused here.
"""

import re
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from actors import PorticoError
from proxy.core.exchange import (
    Exchange,
    ExchangeEvent,
    ResponseContent,
    ResponseEnded,
    ResponseStarted,
    SwitchedProtocols,
    UpstreamClosedError,
)
from proxy.core.http1 import (
    TOKEN,
    BadRequestError,
    BadResponseError,
    Field,
    Limits,
    RequestHead,
    read_request_head,
    values,
    write_request_head,
)
from proxy.core.pages import Answer, render, wants_html
from proxy.transport import RECEIVE_BYTES

Headers = Sequence[tuple[bytes, bytes]]

_NAME: Final = re.compile(TOKEN)

# RFC 9113 section 8.3.1, RFC 8441: what HTTP/2 and 3 say besides the authority, and a `Request` says by itself.
_PSEUDO_FIELDS: Final = frozenset((b":method", b":path", b":scheme", b":protocol"))

# About one connection of HTTP/1.1, so of no meaning to the embedding server's client.
_CONNECTION_FIELDS: Final = frozenset((b"connection", b"transfer-encoding", b"keep-alive"))


class ResponseCutError(PorticoError):
    """The response will not be completed: its preview was revoked, or its service went away in the middle.

    The client must be made to see a cut-off response: close its connection, or reset its stream.
    """

    code = "RESPONSE_CUT"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its server has parsed it. Nothing in it is believed."""

    method: bytes
    target: bytes = field(repr=False)
    """Path and query as received: not decoded, not normalised."""
    headers: Headers = field(repr=False)
    """In order. The host is ``Host`` or ``:authority``."""
    body: AsyncIterable[bytes] | None = field(default=None, repr=False)
    """The content, without any transfer coding. None: there is none.

    It is iterated once, in a task of its own, while the response is under way already, and closed (`aclose`, where it
    has one) when no more is wanted. It must raise if the client goes away in the middle: an iterator that just ends
    would pass off half a body as a whole one.
    """
    scheme: str = "http"
    """``http`` or ``https``: how the peer speaks to the embedding server."""
    client_address: str = ""
    """The peer's IP address; ``""`` if it has none."""
    http_version: str = "1.1"
    """``1.0``, ``1.1``, ``2`` or ``3``: only 2 and 3 can have a body without saying so in a field."""
    accepts_upgrade: bool = False
    """The caller can hand on raw bytes after a 101: see `Response.stream`."""

    def fields(self) -> list[Field]:
        """Return the header fields as an HTTP/1.1 head has them. Nothing is checked."""
        found: list[Field] = []
        authorities = []
        for name, value in self.headers:
            lower = name.lower()
            if lower == b":authority":
                authorities.append(value)
            elif lower not in _PSEUDO_FIELDS:
                found.append((lower, name, value))
        hosts = values(found, b"host")
        # A server may have made Host out of `:authority` and kept both; if they differ, two Hosts get the 400.
        found += [
            (b"host", b"Host", said) for said in authorities if [said.lower()] != [host.lower() for host in hosts]
        ]
        if not self.http_version.startswith("1"):
            _rejoin_cookies(found)
        return found


def _rejoin_cookies(fields: list[Field]) -> None:
    """Undo what HTTP/2 does to ``Cookie`` for the sake of compression (RFC 9113 section 8.2.3)."""
    cookies = values(fields, b"cookie")
    if len(cookies) > 1:
        fields[:] = [entry for entry in fields if entry[0] != b"cookie"]
        fields.append((b"cookie", b"Cookie", b"; ".join(cookies)))


def checked_head(request: Request, limits: Limits) -> RequestHead:
    """Return the head of `request` as our own readers read it.

    Raises:
        BadRequestError: They refuse it, or it could be read in more than one way.
    """
    fields = request.fields()
    # `b"x: y"` as a name would be read back as another name. What values, method and target must not hold is found
    # by the writer and the readers.
    if not all(_NAME.fullmatch(name) for _, name, _ in fields):
        raise BadRequestError(400, "BAD_REQUEST", "A header name is malformed.")
    try:
        wire = write_request_head(request.method, request.target, fields)
    except ValueError as error:
        raise BadRequestError(400, "BAD_REQUEST", "The request head is malformed.") from error
    return read_request_head(wire, limits)


class Response:
    """A response under way. Its content comes out of `body`, piece by piece, as the service sends it."""

    def __init__(
        self,
        status: int,
        headers: Headers,
        body: AsyncIterator[bytes],
        *,
        stream: trio.abc.HalfCloseableStream | None = None,
    ) -> None:
        self.status: Final = status
        self.headers: Final = headers
        """Names in lower case. How the body is framed is up to the embedding server; ``content-length`` is among
        them if it is known."""
        self.body: Final = body
        """Ends when the response is complete; raises `ResponseCutError` if it never will be."""
        self.stream: Final = stream
        """After a 101: the raw bytes both ways, for as long as the block lasts. None otherwise."""
        self.trailers: Headers = ()
        """Known once `body` has ended."""


class _Pieces:
    """An iterator over pieces that are here already."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def own_response(answer: Answer, request: Request) -> Response:
    """Return an answer of ours, in the format that suits the client."""
    fields, body = render(answer, as_html=wants_html(request.fields()))
    headers = [(name, value) for name, _, value in fields]
    headers.append((b"content-length", b"%d" % len(body)))
    return Response(answer.status, headers, _Pieces() if request.method == b"HEAD" else _Pieces(body))


class ResponseReader:
    """Reads one response off a stream; the iterator that a `Response` has as its body."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, exchange: Exchange) -> None:
        """Prepare to read.

        Args:
            stream: Where it comes from; it stays the caller's to close.
            exchange: Started, and its start sent.
        """
        self._stream = stream
        self._exchange = exchange
        self._events: list[ExchangeEvent] = []
        self._response: Response | None = None

    async def start(self) -> Response:
        """Read up to the final head; interim responses are dropped.

        Raises:
            UpstreamClosedError: The stream ended first.
            BadResponseError: What came is no response.
        """
        while True:
            event = await self._next()
            if isinstance(event, ResponseStarted | SwitchedProtocols):
                stream = None
                if isinstance(event, SwitchedProtocols):
                    stream = _WithLeftover(self._stream, event.leftover)
                kept = [(name, value) for name, _, value in event.head.fields if name not in _CONNECTION_FIELDS]
                body = _Pieces() if stream is not None else self
                self._response = Response(event.head.status, kept, body, stream=stream)
                return self._response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        assert self._response is not None
        while True:
            if self._exchange.response_ended and not self._events:
                raise StopAsyncIteration
            try:
                event = await self._next()
            except (UpstreamClosedError, BadResponseError) as error:
                raise ResponseCutError("the response was cut off") from error
            if isinstance(event, ResponseContent):
                return event.data
            if isinstance(event, ResponseEnded):
                self._response.trailers = [(name, value) for name, _, value in event.trailers]

    async def _next(self) -> ExchangeEvent:
        while not self._events:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._events = self._exchange.receive(bytes(data)) if data else self._exchange.receive_eof()
        return self._events.pop(0)


class _WithLeftover(trio.abc.HalfCloseableStream):
    """A stream some of whose bytes have been read already."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, leftover: bytes) -> None:
        self._stream = stream
        self._leftover = leftover

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._leftover:
            await trio.lowlevel.checkpoint()
            size = len(self._leftover) if max_bytes is None else max_bytes
            data, self._leftover = self._leftover[:size], self._leftover[size:]
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()
