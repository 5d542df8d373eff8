"""A WebSocket for an ASGI app behind our own front: messages for the app, frames for the client.

The frames are wsproto's. Messages are bounded, pings are answered here, and a message is read only when the app asks
for it, so that an app which is slow slows its client and stores nothing up.
"""

from collections.abc import Mapping
from typing import Any, Final

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError, generate_accept_token

from proxy.application import Application, ClientGoneError, Delivery, Scope, http_scope, response_head
from proxy.core.http1 import Framing, FramingKind, ResponseHead, values
from proxy.core.serving import RequestContent, RequestStarted, ServerConnection
from proxy.transport import RECEIVE_BYTES

MESSAGE_BYTES_MAX: Final = 1024 * 1024
"""Of one message from a client, which ASGI makes us hold whole. What the API is sent this way is typed by people, or
is a file piped into a command, which clients cut into pieces of 64 KiB and less."""

GOODBYE_S: Final = 2.0
"""For a client to take our close frame and to answer it."""

GOING_AWAY: Final = 1001
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
ABNORMAL: Final = 1006


class AppSocket:
    """One WebSocket between a client and the app."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        http: ServerConnection,
        started: RequestStarted,
        *,
        scheme: str,
        peer: str,
        client: str | None,
        stalled_timeout_s: float,
    ) -> None:
        """Prepare; as `AppExchange`, and the handshake is in order."""
        self.delivery: Final = Delivery(stream, stalled_timeout_s)
        """What goes to the client."""
        self._stream = stream
        self._http = http
        self._head = started.head
        self._scheme = scheme
        self._peer = peer
        self._client = client
        self._frames = Connection(ConnectionType.SERVER)
        # A ping is answered by whoever reads, while another task of the app's may be sending.
        self._sending = trio.Lock()
        self._told_connect = False
        self._accepted = False
        self._refusing: ResponseHead | None = None
        self._refused = False
        self._gone = False
        self._code = ABNORMAL
        # Of the message that is arriving.
        self._pieces: list[TextMessage | BytesMessage] = []
        self._size = 0
        # Messages that came with the newest read.
        self._arrived: list[Mapping[str, Any]] = []

    async def run(self, app: Application) -> bool:
        """Have the app talk with the client. True if it was refused with a whole answer; False: close.

        Raises:
            RuntimeError: The app neither accepted nor refused it.
            Exception: What the app raised before it accepted.
        """
        while isinstance(self._http.next_event(), RequestContent):
            pass
        try:
            await app(self._scope(), self._receive, self._send)
        except ClientGoneError:
            # Expected: clients leave when they like.
            return False
        except Exception:
            if not self._accepted:
                raise
            await self._part(INTERNAL_ERROR, "")
            raise
        except trio.Cancelled:
            if self._accepted:
                with trio.CancelScope(shield=True):
                    await self._part(GOING_AWAY, "server closing")
            raise
        if self._refused:
            return True
        if not self._accepted:
            raise RuntimeError("the app neither accepted nor refused the WebSocket")
        await self._part(1000, "")
        return False

    def _scope(self) -> Scope:
        offered = b",".join(values(self._head.fields, b"sec-websocket-protocol")).decode("ascii", "replace")
        return {
            **http_scope(self._head, {"https": "wss"}.get(self._scheme, "ws"), self._peer, self._client),
            "type": "websocket",
            "subprotocols": [word.strip() for word in offered.split(",") if word.strip()],
            "extensions": {"websocket.http.response": {}},
        }

    # What the app receives.

    async def _receive(self) -> Mapping[str, Any]:
        if not self._told_connect:
            self._told_connect = True
            await trio.lowlevel.checkpoint()
            return {"type": "websocket.connect"}
        while not self._arrived and not self._gone:
            await self._read()
        if self._arrived:
            return self._arrived.pop(0)
        return {"type": "websocket.disconnect", "code": self._code, "reason": ""}

    async def _read(self) -> None:
        try:
            data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        if not data:
            self._gone = True
            return
        if not self._accepted:
            # A client that speaks before it was accepted: it is kept for then, within bounds.
            self._http.receive(data)
            if self._http.buffered > MESSAGE_BYTES_MAX:
                self._gone = True
            return
        await self._take(data)

    async def _take(self, data: bytes) -> None:
        self._frames.receive_data(data)
        for event in self._frames.events():
            await self._pass(event)

    async def _pass(self, event: Event) -> None:
        if isinstance(event, TextMessage | BytesMessage):
            # Frames may be empty, and their size bounds nothing then; the last one tells what kind of message it is.
            if event.data or event.message_finished:
                self._pieces.append(event)
            self._size += len(event.data)
            if self._size > MESSAGE_BYTES_MAX:
                self._code = TOO_BIG
                await self._send_frame(CloseConnection(code=TOO_BIG))
                self._gone = True
            elif event.message_finished:
                self._arrived.append({"type": "websocket.receive", **_content(self._pieces)})
                self._pieces, self._size = [], 0
        elif isinstance(event, Ping):
            await self._send_frame(event.response())
        elif isinstance(event, CloseConnection):
            self._code = int(event.code)
            self._gone = True
            # In the open state wsproto says so of bytes that are no frames; the client is told why.
            if self._frames.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.OPEN):
                await self._send_frame(event.response())

    # What the app sends.

    async def _send(self, event: Mapping[str, Any]) -> None:
        match event["type"]:
            case "websocket.accept":
                await self._accept(event.get("subprotocol"), event.get("headers", ()))
            case "websocket.send":
                if self._gone:
                    raise ClientGoneError("the client has left")
                text = event.get("text")
                await self._send_frame(
                    TextMessage(data=text) if text is not None else BytesMessage(data=bytes(event["bytes"]))
                )
                if self._gone:
                    raise ClientGoneError("the client has left")
            case "websocket.close" if self._accepted:
                await self._part(int(event.get("code", 1000)), event.get("reason") or "")
            case "websocket.close":
                await self._refuse(ResponseHead(403, b"Forbidden", []), b"")
            case "websocket.http.response.start":
                self._refusing = response_head(int(event["status"]), event.get("headers", ()))
            case "websocket.http.response.body" if self._refusing is not None and not event.get("more_body", False):
                await self._refuse(self._refusing, bytes(event.get("body", b"")))
            case kind:
                raise RuntimeError(f"an app sends no {kind} on a WebSocket now")

    async def _accept(self, subprotocol: str | None, headers: Any) -> None:
        [key] = values(self._head.fields, b"sec-websocket-key")
        fields = [
            (b"upgrade", b"Upgrade", b"websocket"),
            (b"sec-websocket-accept", b"Sec-WebSocket-Accept", generate_accept_token(key)),
        ]
        if subprotocol is not None:
            fields.append((b"sec-websocket-protocol", b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        fields += response_head(101, headers).fields
        written = self._http.switch_protocols(ResponseHead(101, b"Switching Protocols", fields))
        self._accepted = True
        await self._send_bytes(written)
        early = self._http.take_buffer()
        if early:
            await self._take(early)

    async def _refuse(self, head: ResponseHead, body: bytes) -> None:
        http = self._http
        framing = Framing(FramingKind.LENGTH, len(body))
        await self._send_bytes(http.respond(head, framing) + http.content(body) + http.end())
        self._refused = True

    async def _send_frame(self, event: Event) -> None:
        async with self._sending:
            try:
                await self.delivery.send_all(self._frames.send(event))
            except LocalProtocolError:
                # A message that crossed a close has nowhere to go.
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # Expected: the client has left.
                self._gone = True

    async def _send_bytes(self, data: bytes) -> None:
        try:
            await self.delivery.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._gone = True
            raise ClientGoneError("the client has left") from None

    async def _part(self, code: int, reason: str) -> None:
        """Close, and wait for the client's own close frame, for a while (RFC 6455 section 7.1.1)."""
        if self.delivery.stuck:
            # It would not take the frame either, and is to be reset.
            return
        with trio.move_on_after(GOODBYE_S):
            if not self._gone:
                await self._send_frame(CloseConnection(code=code, reason=reason or None))
            while not self._gone:
                await self._read()
                self._arrived.clear()


def _content(pieces: list[TextMessage | BytesMessage]) -> dict[str, str | bytes]:
    if isinstance(pieces[0], TextMessage):
        return {"text": "".join(str(piece.data) for piece in pieces)}
    return {"bytes": b"".join(bytes(piece.data) for piece in pieces if isinstance(piece, BytesMessage))}
