"""An ASGI app behind our own front: what is for the base domain is answered by it, on the connection it came on.

The request has been read by the machine that reads all others, and the app's answer is written by the one that
writes all others, so its clients meet the same strictness, limits and framing as those of a preview. That is why
this is not a second HTTP server fed through a pipe (hypercorn was tried: it would read each head again, with its
own opinion of what one is, and carry each body over another pair of buffers); what is left of a server, once heads
and framing are done, is this file.

Nothing is buffered: a piece of a body is read when the app asks for it, and sent when the app sends it.
"""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import trio

from proxy.core.http1 import BadRequestError, Framing, FramingKind, RequestHead, ResponseHead
from proxy.core.serving import RequestContent, RequestEnded, RequestStarted, ServerConnection
from proxy.core.websocket import is_websocket_upgrade, websocket_fault
from proxy.passage import HALF_CLOSED_GRACE_S, read_ahead
from proxy.patience import Patience
from proxy.relay import taken
from proxy.transport import RECEIVE_BYTES

# Every framework has ASGI types of its own, which do not fit each other: what the specification says is all there is.
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 app. It is given no lifespan events: whoever opens the server opens what the app needs."""

CLIENT: Final = "portico.client"
"""Where a scope keeps who asks, as one client is counted, which ``client`` does not say of one that comes by a proxy:
an address, or the network of one subscriber. None: nobody can say, or many come from there."""

_ASGI: Final = {"version": "3.0", "spec_version": "2.5"}
_DISCONNECT: Final = {"type": "http.disconnect"}
_STATUSES: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_LENGTH_DIGITS_MAX: Final = 18


class ClientGoneError(OSError):
    """There is nobody left to send to; an `OSError`, as ASGI has it (specification, "Disconnected client")."""


class Delivery:
    """Sends to a client, and says whether it takes what it is sent."""

    __slots__ = ("_patience", "_sending", "_sends", "_stream", "stuck")

    def __init__(self, stream: trio.abc.Stream, stalled_timeout_s: float) -> None:
        """Prepare.

        Args:
            stream: The client's.
            stalled_timeout_s: See `Options.stalled_timeout_s`.
        """
        self._stream = stream
        self._patience = Patience(stalled_timeout_s)
        self._sending = False
        self._sends = 0
        self.stuck = False
        """`is_stuck` has said so: what the kernel keeps for the client is to be dropped."""

    async def send_all(self, data: bytes) -> None:
        """Send everything, waiting for room. One at a time. Raises: as the stream's `send_all`."""
        self._sending = True
        try:
            # In pieces, as of a stream that is no plain socket only whole sends show: TLS, for one.
            for begin in range(0, len(data), RECEIVE_BYTES):
                await self._stream.send_all(data[begin : begin + RECEIVE_BYTES])
                self._sends += 1
        finally:
            self._sending = False

    def is_stuck(self, now: float) -> bool:
        """Say whether the client has taken nothing for too long by `now`; to be asked every now and then."""
        mark = (self._sends, *taken(self._stream)) if self._sending else None
        # For good: who goes on sending all the same, to say goodbye, must not make it look as if something had moved.
        self.stuck = self.stuck or self._patience.is_out(mark, now)
        return self.stuck


class AppExchange:
    """One HTTP request on its way to the app, and the answer on its way back."""

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
        """Prepare; the app is called by `run`.

        Args:
            stream: The client's.
            http: Has read the head, and nothing more.
            started: The head.
            scheme: As the client speaks it, ``http`` or ``https``.
            peer: The address that the connection comes from.
            client: Who asks, see `CLIENT`.
            stalled_timeout_s: See `Options.stalled_timeout_s`.
        """
        self.delivery: Final = Delivery(stream, stalled_timeout_s)
        """What goes to the client."""
        self._stream = stream
        self._http = http
        self._started = started
        self._scope: Final = http_scope(started.head, scheme, peer, client)
        self._request_ended = False
        self._gone = False
        self._bad_request: BadRequestError | None = None
        # A head whose content will follow at once, kept so that both leave together.
        self._held: ResponseHead | None = None
        self._length: int | None = None
        self._complete = False

    async def run(self, app: Application) -> bool:
        """Have the app answer. True if the client has a whole answer; False: close the connection.

        Raises:
            BadRequestError: The request's content broke the protocol, and nothing has been answered yet.
            RuntimeError: The app gave no answer.
            Exception: What the app raised.
        """
        try:
            await app(self._scope, self._receive, self._send)
        except ClientGoneError:
            # Expected: clients leave when they like.
            return False
        except Exception:
            if self._bad_request is None and not self._gone:
                raise
        if self._bad_request is not None and not self._http.response_started:
            raise self._bad_request
        if self._gone:
            return False
        if not self._http.response_started:
            raise RuntimeError("the app gave no answer")
        if self._complete and not self._request_ended:
            # Of an answer that came in pieces.
            self._read_rest()
        return self._complete

    def _read_rest(self) -> None:
        """If all of the request is here, the connection can go on to the next one."""
        try:
            while isinstance(event := self._http.next_event(), RequestContent | RequestEnded):
                if isinstance(event, RequestEnded):
                    self._request_ended = True
                    return
        except BadRequestError:
            # The machine will not go on after this one; its answer stands.
            return

    async def _receive(self) -> Mapping[str, Any]:
        """Give the next piece of the request; after the last, wait for the client to leave."""
        if self._gone or self._bad_request is not None:
            await trio.lowlevel.checkpoint()
            return _DISCONNECT
        try:
            if not self._request_ended:
                return await self._next_piece()
            await self._wait_gone()
        except BadRequestError as error:
            self._bad_request = error
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Expected: it has left.
            self._gone = True
        return _DISCONNECT

    async def _next_piece(self) -> Mapping[str, Any]:
        http = self._http
        while True:
            event = http.next_event()
            if isinstance(event, RequestContent):
                return {"type": "http.request", "body": event.data, "more_body": True}
            if isinstance(event, RequestEnded):
                self._request_ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if self._started.expect_continue and not http.response_started:
                # RFC 9110 section 10.1.1: it is wanted now, and not before.
                await self.delivery.send_all(http.informational(ResponseHead(100, b"Continue", [])))
                self._started = self._started._replace(expect_continue=False)
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if data:
                http.receive(bytes(data))
            else:
                http.receive_eof()

    async def _wait_gone(self) -> None:
        if not await read_ahead(self._stream, self._http):
            await trio.sleep_forever()
        await trio.sleep(HALF_CLOSED_GRACE_S)
        self._gone = True

    async def _send(self, event: Mapping[str, Any]) -> None:
        if self._gone:
            raise ClientGoneError("the client has left")
        if event["type"] == "http.response.start":
            await self._send_start(int(event["status"]), event.get("headers", ()))
        elif event["type"] == "http.response.body":
            await self._send_body(event.get("body", b""), more=event.get("more_body", False))
        else:
            raise RuntimeError(f"an app sends no {event['type']} in answer to a request")

    async def _send_start(self, status: int, headers: Any) -> None:
        if self._held is not None or self._http.response_started:
            raise RuntimeError("the app has begun its answer already")
        head = response_head(status, headers)
        self._length = _stated_length(head)
        if self._length is not None:
            self._held = head
            return
        await self._send_all(self._http.respond(head, Framing(FramingKind.CHUNKED)))

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        http = self._http
        out = b""
        if self._held is not None:
            assert self._length is not None
            if not more and not self._request_ended:
                # The answer is whole, and the app has not asked for all of the request: it will not be waited for.
                self._read_rest()
                if not self._request_ended:
                    http.make_last()
            out = http.respond(self._held, Framing(FramingKind.LENGTH, self._length))
            self._held = None
        elif not http.response_started:
            raise RuntimeError("the app sends content before it has begun its answer")
        if self._complete:
            return
        if data:
            out += http.content(bytes(data))
        if not more:
            out += http.end()
        if out:
            await self._send_all(out)
        self._complete = not more

    async def _send_all(self, data: bytes) -> None:
        try:
            await self.delivery.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._gone = True
            raise ClientGoneError("the client has left") from None


def wants_websocket(started: RequestStarted) -> bool:
    """Say whether a request is the handshake of a WebSocket, and in order."""
    head = started.head
    return started.upgrade is not None and is_websocket_upgrade(head) and websocket_fault(head) is None


def http_scope(head: RequestHead, scheme: str, peer: str, client: str | None) -> Scope:
    """Return the connection scope of an HTTP request (ASGI, "HTTP Connection Scope")."""
    path, _, query = head.target.partition(b"?")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": head.http_version.decode("ascii"),
        "method": head.method.decode("ascii"),
        "scheme": scheme,
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name, value) for name, _, value in head.fields],
        "client": (peer, 0) if peer else None,
        CLIENT: client,
        "server": None,
        "extensions": {},
    }


def response_head(status: int, headers: Any) -> ResponseHead:
    """Return the head that an app describes."""
    fields = [(bytes(name).lower(), bytes(name), bytes(value)) for name, value in headers]
    return ResponseHead(status, _STATUSES.get(status, b""), fields)


def _stated_length(head: ResponseHead) -> int | None:
    for name, _, value in head.fields:
        if name == b"content-length" and value.isdigit() and len(value) <= _LENGTH_DIGITS_MAX:
            return int(value)
    return 0 if head.status in (204, 304) else None
