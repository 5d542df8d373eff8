"""Asking as a visitor would: one connection for each question, HTTP/1.1 by h11, frames of WebSockets by wsproto.

Every question has its own deadline, and no answer is an answer too (`NoReply`): only cancellation is raised, and
`TLSError` where a handshake that went well before does not any more.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import h11
import trio
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionType
from wsproto.events import CloseConnection, Ping, Pong
from wsproto.utilities import LocalProtocolError, RemoteProtocolError, generate_accept_token, generate_nonce

from proxy.core.diagnosis import NoReply, Reply, Silence
from proxy.core.flow import BadAccept, Stream, Upgraded
from proxy.core.symptoms import BODY_LOOKED_AT
from proxy.doctor.reach import Route, dialled

PONG_TIMEOUT_S: Final = 5.0
BODY_TIMEOUT_S: Final = 2.0
"""For what is looked at of a body; a body may be a stream that never ends."""

HEAD_BYTES_MAX: Final = 256 * 1024
"""Of a response; Portico itself passes 64 KiB."""
RECEIVE_BYTES: Final = 64 * 1024
PIECES_MAX: Final = 20
"""Enough of an event stream to tell whether it flows."""

PING: Final = b"portico doctor"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """A GET. Its host may hold a token."""

    host: str
    """With a port, if it is not the default one."""
    path: str
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The host without the port, for TLS."""
        return self.host.partition(":")[0]


async def ask(route: Route, question: Question, timeout_s: float) -> Reply | NoReply:
    """Ask, and read what `BODY_LOOKED_AT` allows of the body.

    Raises:
        TLSError: The handshake failed.
    """

    async def read(talk: _Talk, _limit: trio.CancelScope) -> Reply:
        return await talk.read_reply()

    return await _talk(route, _last(question), timeout_s, read)


async def watch_events(route: Route, question: Question, timeout_s: float, watch_s: float) -> Stream | Reply | NoReply:
    """Ask for an event stream, and watch it for `watch_s`, or until it has ended or shown `PIECES_MAX` pieces.

    Args:
        route: Where.
        question: For what.
        timeout_s: For the response head.
        watch_s: From then on.

    Raises:
        TLSError: The handshake failed.
    """

    async def read(talk: _Talk, limit: trio.CancelScope) -> Stream | Reply:
        head = await talk.read_head()
        if head.status != 200 or not head.header("content-type").lower().startswith("text/event-stream"):
            return await talk.read_reply(head)
        limit.deadline = float("inf")
        pieces: list[tuple[float, int]] = []
        ended = False
        with trio.move_on_after(watch_s):
            while not ended and len(pieces) < PIECES_MAX:
                piece = await talk.read_some()
                if piece:
                    pieces.append((talk.elapsed_s, events_in(piece)))
                else:
                    ended = True
        return Stream(head, tuple(pieces), ended, watch_s)

    return await _talk(route, _last(question), timeout_s, read)


def _last(question: Question) -> Question:
    """Say that there will be no other one on its connection."""
    return Question(question.host, question.path, (*question.fields, ("Connection", "close")))


def events_in(piece: bytes) -> int:
    """Count the events that a piece completes; lines may end in CRLF, LF or CR (HTML standard, section 9.2.5)."""
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n\n")


async def open_websocket(route: Route, question: Question, timeout_s: float) -> Upgraded | BadAccept | Reply | NoReply:
    """Shake hands for a WebSocket, and see whether a ping comes back.

    A ping, and not a message: any service must answer it (RFC 6455 section 5.5.2), and none mistakes it for a command.

    Raises:
        TLSError: The handshake failed.
    """
    key = generate_nonce()
    handshake = (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key.decode("ascii")),
    )

    async def read(talk: _Talk, _limit: trio.CancelScope) -> Upgraded | BadAccept | Reply:
        head = await talk.read_head()
        if head.status != 101:
            return await talk.read_reply(head)
        if head.header("sec-websocket-accept") != generate_accept_token(key).decode("ascii"):
            return BadAccept()
        return await _ping(talk.stream, talk.unread)

    asked = Question(question.host, question.path, (*question.fields, *handshake))
    return await _talk(route, asked, timeout_s, read)


async def _ping(stream: trio.abc.Stream, unread: bytes) -> Upgraded:
    frames = FrameConnection(ConnectionType.CLIENT, trailing_data=unread)
    with trio.move_on_after(PONG_TIMEOUT_S):
        try:
            await stream.send_all(frames.send(Ping(payload=PING)))
            while True:
                for event in frames.events():
                    if isinstance(event, Pong) and bytes(event.payload) == PING:
                        # A service that has gone meanwhile needs no goodbye.
                        with suppress(trio.BrokenResourceError):
                            await stream.send_all(frames.send(CloseConnection(code=1000)))
                        return Upgraded(pong=True)
                    if isinstance(event, CloseConnection):
                        return Upgraded(pong=False, closed=True)
                    if isinstance(event, Ping):
                        await stream.send_all(frames.send(event.response()))
                data = await stream.receive_some(RECEIVE_BYTES)
                if not data:
                    return Upgraded(pong=False, closed=True)
                frames.receive_data(bytes(data))
        except (trio.BrokenResourceError, RemoteProtocolError, LocalProtocolError):
            # The other side has gone, in whichever way.
            return Upgraded(pong=False, closed=True)
    return Upgraded(pong=False)


async def _talk(
    route: Route, question: Question, timeout_s: float, read: Callable[["_Talk", trio.CancelScope], Awaitable[T]]
) -> T | NoReply:
    """Send a question, and return what `read` makes of the answer within `timeout_s`; it may move that deadline."""
    began = trio.current_time()
    why = Silence.TIMEOUT
    with trio.move_on_after(timeout_s) as limit:
        try:
            async with dialled(route, question.name, timeout_s) as stream:
                talk = _Talk(stream)
                await talk.send(question)
                return await read(talk, limit)
        except _NotHTTPError:
            why = Silence.NOT_HTTP
        except (_EndedError, trio.BrokenResourceError):
            why = Silence.CLOSED
    return NoReply(why, trio.current_time() - began)


class _NotHTTPError(Exception):
    """What came is no response."""


class _EndedError(Exception):
    """The connection ended before the response did."""


class _Talk:
    """One request under way."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream: Final = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._asked_at = trio.current_time()
        self._ended = False

    @property
    def elapsed_s(self) -> float:
        """Since the request was sent."""
        return trio.current_time() - self._asked_at

    @property
    def unread(self) -> bytes:
        """What came behind a 101."""
        return bytes(self._http.trailing_data[0])

    async def send(self, question: Question) -> None:
        fields = [("Host", question.host), *question.fields]
        data = self._http.send(h11.Request(method="GET", target=question.path, headers=fields)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._asked_at = trio.current_time()
        await self.stream.send_all(data)

    async def read_head(self) -> Reply:
        """Return the final head, or a 101."""
        while True:
            event = await self._next()
            if not isinstance(event, h11.InformationalResponse | h11.Response):
                raise _EndedError
            if isinstance(event, h11.Response) or event.status_code == 101:
                fields = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
                return Reply(event.status_code, fields, b"", self.elapsed_s)

    async def read_reply(self, head: Reply | None = None) -> Reply:
        """Return the final head, unless it is given, with the beginning of its body."""
        if head is None:
            head = await self.read_head()
        body = b""
        with trio.move_on_after(BODY_TIMEOUT_S):
            while len(body) < BODY_LOOKED_AT and (piece := await self.read_some()):
                body += piece
        return Reply(head.status, head.fields, body, head.elapsed_s)

    async def read_some(self) -> bytes:
        """Return content as it comes; ``b""`` at its end, or where it breaks off."""
        try:
            event = await self._next()
        except (_EndedError, _NotHTTPError, trio.BrokenResourceError):
            # What there is of a body says enough.
            return b""
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next(self) -> object:
        while True:
            try:
                event: object = self._http.next_event()
            except h11.RemoteProtocolError as error:
                # To h11 an end in the middle is as much against the protocol as bytes that make no sense.
                raise _EndedError if self._ended else _NotHTTPError from error
            if event is not h11.NEED_DATA:
                return event
            data = bytes(await self.stream.receive_some(RECEIVE_BYTES))
            self._ended = not data
            self._http.receive_data(data)
