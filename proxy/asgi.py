"""Previews inside an ASGI app: requests for preview hosts go to their sandboxes, all else to the app.

::

    async with open_runtime(FileStore("portico-data")) as runtime:
        await hypercorn.trio.serve(PreviewURLs(app, runtime, ["preview.example.com"]), config)

For servers that run ASGI apps on trio, which is what the runtime runs on: Hypercorn with its trio worker. Nothing
is buffered: each piece of a body is passed on as it comes, in both directions at once.

A response that is cut off, because its preview was revoked or its service died, is left without its last event, which
is how ASGI says so. Over HTTP/1.1 Hypercorn then closes the connection; over HTTP/2 (0.18) it resets no stream, so such
a client has received its last byte but learns of it only by its own timeout.

A WebSocket has been taken apart into messages by its server when it gets here, and is put together again for the
service: text, binary and close codes pass both ways, pings are answered on each side. The service's extensions are
not offered, as they are between it and whoever speaks frames with it, which is us.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import structlog
import trio
from wsproto.utilities import generate_accept_token, generate_nonce

from actors import Runtime
from proxy.bridge import Bridge
from proxy.core.pages import Code, refusal
from proxy.embedding import Gateway, open_gateway, proxy_to_sandbox
from proxy.messages import Request, Response, ResponseCutError, own_response
from proxy.options import DEFAULT_OPTIONS, Options

log = structlog.get_logger("portico.asgi")

# Every framework has ASGI types of its own, which do not fit each other: what the specification says is all there is.
Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

# What goes wrong in our own task is carried past the nursery beside it, which would wrap it in a group. Hypercorn logs
# groups and goes on, so that a Ctrl-C inside one would be lost.
_CARRIED: Final = (Exception, KeyboardInterrupt, SystemExit)

# Of the client's handshake with its own server. Ours with the service is another.
_HANDSHAKE_FIELDS: Final = frozenset(
    (
        b"connection",
        b"upgrade",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"sec-websocket-accept",
        b"content-length",
        b"transfer-encoding",
    )
)


class PreviewURLs:
    """ASGI 3 middleware. It is ready between the server's lifespan events, which it passes on to the app."""

    def __init__(
        self,
        app: ASGIApp,
        runtime: Runtime,
        domains: Sequence[str] = ("localhost",),
        options: Options = DEFAULT_OPTIONS,
        *,
        listener_port: int | None = None,
    ) -> None:
        """Prepare; see `open_gateway` for the arguments.

        Args:
            app: Gets whatever is not for a preview, untouched.
            runtime: Open for as long as this serves.
            domains: Base domains.
            options: Times and limits.
            listener_port: Where the server listens: shown in URLs on local domains.
        """
        self._app = app
        self._runtime = runtime
        self._domains = tuple(domains)
        self._options = options
        self._listener_port = listener_port
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, one WebSocket, or the server's lifespan.

        Raises:
            RuntimeError: A request came outside the lifespan: the server sends no lifespan events.
        """
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            gateway = self._gateway
            if gateway is None:
                raise RuntimeError("PreviewURLs serves between lifespan.startup and lifespan.shutdown only")
            if not gateway.claims(_request(scope)):
                await self._app(scope, receive, send)
            elif scope["type"] == "http":
                await _Exchange(scope, receive, send, gateway).run()
            else:
                await _WebSocket(scope, receive, send, gateway).run()
        else:
            await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        lifespan = _Lifespan(receive, send)
        failure: Exception | None = None
        async with open_gateway(
            self._runtime, self._domains, self._options, listener_port=self._listener_port
        ) as self._gateway:
            try:
                await self._app(scope, lifespan.receive, lifespan.send)
            except Exception as error:  # noqa: BLE001  # an app that knows no lifespan raises whatever it likes
                # ASGI, "Lifespan Protocol": if it has not taken part, the server is to go on without.
                failure = error if lifespan.sent else None
            # The app may be through with its lifespan; the previews are not until the server says so.
            await lifespan.live_on()
        self._gateway = None
        if failure is not None:
            raise failure


class _Lifespan:
    """The lifespan's events between server and app, and what is missing of them when the app is through."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._received: set[str] = set()
        self.sent: set[str] = set()
        """What the app has said."""

    async def receive(self) -> Mapping[str, Any]:
        event: Mapping[str, Any] = await self._receive()
        self._received.add(event["type"])
        return event

    async def send(self, event: Mapping[str, Any]) -> None:
        self.sent.add(event["type"])
        await self._send(event)

    async def live_on(self) -> None:
        """Take part in the app's place until the shutdown."""
        for phase in ("lifespan.startup", "lifespan.shutdown"):
            if phase not in self._received:
                await self.receive()
            if f"{phase}.failed" in self.sent:
                return
            if f"{phase}.complete" not in self.sent:
                await self.send({"type": f"{phase}.complete"})


def _request(scope: Mapping[str, Any], body: AsyncIterator[bytes] | None = None) -> Request:
    raw_path = scope.get("raw_path")
    # `raw_path` is optional in ASGI; without it, how the client had escaped its path is lost.
    target = bytes(raw_path) if raw_path is not None else quote(scope["path"]).encode("ascii")
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    client = scope.get("client")
    return Request(
        scope.get("method", "GET").encode("latin-1"),
        target,
        [(bytes(name), bytes(value)) for name, value in scope["headers"]],
        body,
        scheme="https" if scope.get("scheme") in ("https", "wss") else "http",
        client_address=client[0] if client else "",
        http_version=scope.get("http_version", "1.1"),
    )


async def _send_pieces(send: Send, kind: str, response: Response) -> None:
    """Send head and content of a response; `kind` is ``http.response`` or ``websocket.http.response``."""
    await send({"type": f"{kind}.start", "status": response.status, "headers": list(response.headers)})
    async for piece in response.body:
        await send({"type": f"{kind}.body", "body": piece, "more_body": True})
    await send({"type": f"{kind}.body", "body": b"", "more_body": False})


class _Exchange:
    """One HTTP request; and, as an iterator, its body."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, gateway: Gateway) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._gateway = gateway
        # No room: a piece is taken from the server when the service takes the one before it.
        self._arriving, self._arrived = trio.open_memory_channel[bytes](0)
        self._whole = False

    async def run(self) -> None:
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, nursery.cancel_scope)
            try:
                async with proxy_to_sandbox(_request(self._scope, self), self._gateway) as response:
                    assert response is not None
                    await _send_pieces(self._send, "http.response", response)
            except ResponseCutError:
                # Returning without the last event is how an ASGI app says that its response is cut off.
                log.info("response cut off")
            except OSError:
                # Expected: nobody is left to answer. ASGI lets `send` raise OSError then.
                pass
            except _CARRIED as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read(self, both: trio.CancelScope) -> None:
        """Take events from the server: the body, then the client's leaving."""
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                both.cancel()
                return
            if self._whole:
                continue
            try:
                if event.get("body"):
                    await self._arriving.send(event["body"])
            except trio.BrokenResourceError:
                # Expected: the service wants no more of it. We go on reading to see the client leave.
                continue
            if not event.get("more_body", False):
                self._whole = True
                self._arriving.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._arrived.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Take note that no more is wanted."""
        self._arrived.close()
        await trio.lowlevel.checkpoint()


class _WebSocket:
    """The handshake of one WebSocket; `proxy.bridge` does the rest."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, gateway: Gateway) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._gateway = gateway
        self._nonce = generate_nonce()

    async def run(self) -> None:
        await self._receive()  # websocket.connect, always the first
        bridge = Bridge(self._receive, self._send)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            # From the first moment on: the client may leave while its sandbox is waking up.
            nursery.start_soon(bridge.read_client, nursery.cancel_scope)
            try:
                async with proxy_to_sandbox(self._handshake(), self._gateway) as response:
                    assert response is not None
                    await self._answer(response, bridge)
            except ResponseCutError:
                log.info("handshake cut off")
            except OSError:
                # Expected: the client has gone. ASGI lets `send` raise OSError then.
                pass
            except _CARRIED as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _handshake(self) -> Request:
        request = _request(self._scope)
        headers = [field for field in request.headers if field[0].lower() not in _HANDSHAKE_FIELDS]
        headers += [
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Key", self._nonce),
            (b"Sec-WebSocket-Version", b"13"),
        ]
        offered = self._scope.get("subprotocols") or ()
        if offered:
            headers.append((b"Sec-WebSocket-Protocol", ", ".join(offered).encode("latin-1")))
        return replace(request, method=b"GET", headers=headers, accepts_upgrade=True)

    async def _answer(self, response: Response, bridge: Bridge) -> None:
        if response.stream is None:
            await self._refuse(response)
            return
        said = dict(response.headers)
        chosen = said.get(b"sec-websocket-protocol", b"").decode("latin-1") or None
        if (
            said.get(b"sec-websocket-accept") != generate_accept_token(self._nonce)
            or (chosen is not None and chosen not in (self._scope.get("subprotocols") or ()))
            # None was offered (RFC 6455 section 4.1).
            or b"sec-websocket-extensions" in said
        ):
            await self._refuse(own_response(refusal(Code.BAD_RESPONSE), _request(self._scope)))
            return
        kept = [field for field in response.headers if field[0] not in _HANDSHAKE_FIELDS]
        await self._send({"type": "websocket.accept", "subprotocol": chosen, "headers": kept})
        await bridge.pass_messages(response.stream)

    async def _refuse(self, response: Response) -> None:
        if "websocket.http.response" in (self._scope.get("extensions") or ()):
            await _send_pieces(self._send, "websocket.http.response", response)
        else:
            # All that ASGI has without that extension: the server makes a 403 of it.
            await self._send({"type": "websocket.close"})
