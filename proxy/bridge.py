"""A WebSocket that its server has taken apart into messages, put together again for a service.

On one side ASGI events, on the other the raw bytes of an upgraded connection; the frames between them are
wsproto's. A close passes in either direction with its code, and each side gets to see it before anything is cut.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from wsproto import ConnectionType
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from proxy.transport import RECEIVE_BYTES

MESSAGE_BYTES_MAX: Final = 16 * 2**20
"""Of one message from a service, which ASGI makes us hold whole. Hypercorn's limit for the other direction is the
same by default."""

CLOSE_S: Final = 5.0
"""For a service to answer a close frame, or to end a connection after one."""

# Codes that stand for the lack of one (RFC 6455 section 7.4.1): they cannot be sent.
_NOT_SENT: Final = frozenset((1004, 1005, 1006, 1015))


class Bridge:
    """Passes messages between one ASGI client and one service."""

    def __init__(
        self, receive: Callable[[], Awaitable[Mapping[str, Any]]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._receive = receive
        self._send = send
        self._stream: trio.abc.HalfCloseableStream | None = None
        self._frames = Connection(ConnectionType.CLIENT)
        # The message under way, and its size.
        self._pieces: list[TextMessage | BytesMessage] = []
        self._size = 0
        self._client_closed = False

    async def read_client(self, both: trio.CancelScope) -> None:
        """Take events from the ASGI server until the client leaves; before the handshake that cancels `both`."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                self._client_closed = True
                if self._stream is None:
                    both.cancel()
                    return
                both.deadline = trio.current_time() + CLOSE_S
                code = _sendable(event.get("code", CloseReason.NO_STATUS_RCVD), if_none=CloseReason.NO_STATUS_RCVD)
                await self._send_frame(CloseConnection(code=code, reason=event.get("reason") or None))
                return
            text = event.get("text")
            await self._send_frame(TextMessage(data=text) if text is not None else BytesMessage(data=event["bytes"]))

    async def pass_messages(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Pass on what the service sends, until either side has closed; the server has accepted the handshake."""
        self._stream = stream
        while (data := await self._read(stream)) and self._frames.state is not ConnectionState.CLOSED:
            self._frames.receive_data(data)
            for event in self._frames.events():
                if await self._pass(event):
                    await self._part(stream)
                    return
        # It ended without a word: revoked in the middle of a message, or its service is gone.
        await self._close_client(CloseReason.GOING_AWAY, "")

    async def _pass(self, event: Event) -> bool:
        """Pass on one event of the service's; True if it was the last."""
        if isinstance(event, TextMessage | BytesMessage):
            self._pieces.append(event)
            self._size += len(event.data)
            if self._size > MESSAGE_BYTES_MAX:
                await self._send_frame(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
                await self._close_client(CloseReason.MESSAGE_TOO_BIG, "")
                return True
            if event.message_finished and not self._client_closed:
                await self._send({"type": "websocket.send", **_content(self._pieces)})
            if event.message_finished:
                self._pieces, self._size = [], 0
        elif isinstance(event, Ping):
            await self._send_frame(event.response())
        elif isinstance(event, CloseConnection):
            # In the open state wsproto says so of bytes that are no frames; the service is told why.
            if self._frames.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.OPEN):
                await self._send_frame(event.response())
            await self._close_client(_sendable(event.code, if_none=CloseReason.NORMAL_CLOSURE), event.reason or "")
            return True
        return False

    async def _send_frame(self, event: Event) -> None:
        if self._stream is None or self._frames.state not in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            # A message that crossed a close has nowhere to go.
            return
        if self._frames.state is ConnectionState.REMOTE_CLOSING and not isinstance(event, CloseConnection):
            return
        try:
            await self._stream.send_all(self._frames.send(event))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Expected: the service, or the way to it, has gone; `pass_messages` sees its end.
            return

    async def _close_client(self, code: int, reason: str) -> None:
        if not self._client_closed:
            self._client_closed = True
            await self._send({"type": "websocket.close", "code": int(code), "reason": reason})

    async def _part(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Let our close frame reach the service: it is the one to end the connection (RFC 6455 section 7.1.1)."""
        with trio.move_on_after(CLOSE_S):
            try:
                await stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            while await self._read(stream):
                pass

    async def _read(self, stream: trio.abc.HalfCloseableStream) -> bytes:
        try:
            return bytes(await stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""


def _sendable(code: int, *, if_none: CloseReason) -> int:
    """Return a code that can be sent for one that was received; `if_none` for "there was none"."""
    if code == CloseReason.NO_STATUS_RCVD:
        return if_none
    return CloseReason.GOING_AWAY if code in _NOT_SENT else code


def _content(pieces: list[TextMessage | BytesMessage]) -> dict[str, str | bytes]:
    if isinstance(pieces[0], TextMessage):
        return {"text": "".join(str(piece.data) for piece in pieces)}
    return {"bytes": b"".join(bytes(piece.data) for piece in pieces if isinstance(piece, BytesMessage))}
