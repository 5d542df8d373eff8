"""Preview traffic inside somebody else's server, which has parsed the request already.

::

    async with open_gateway(runtime, ["preview.example.com"]) as gateway:
        ...
        async with proxy_to_sandbox(request, gateway) as response:
            if response is None:
                ...  # not a preview's host: answer it yourself
            else:
                ...  # pass on response.status, response.headers, and each piece of response.body

A request that is for a preview becomes a client of the router: it travels over a pipe in memory to the very code
that serves clients from the network. So there is one order of judgement, one way of being cut and one set of
limits, whatever server stands in front; what is here is only the client's side of that pipe.

It is a context manager because a response under way holds a visit, which must end whatever becomes of its server.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from actors import Domain, PublicAddress, Runtime
from proxy.core.exchange import Exchange, UpstreamClosedError
from proxy.core.headers import public_scheme
from proxy.core.http1 import (
    CHUNKED,
    NO_BODY,
    TOKEN,
    BadRequestError,
    RequestHead,
    connection_options,
    request_framing,
    requested_upgrade,
)
from proxy.core.pages import Answer, Code, refusal
from proxy.core.websocket import is_websocket_upgrade
from proxy.door import Door, Elsewhere
from proxy.messages import Request, Response, ResponseCutError, ResponseReader, checked_head, own_response
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.pipe import PipeEnd, open_pipe
from proxy.router import Router, open_router

_OPTION: Final = re.compile(TOKEN)
_USUAL_OPTIONS: Final = frozenset((b"", b"close", b"keep-alive", b"upgrade"))

# Methods that rarely have a body. In HTTP/2 and 3 no field needs to say whether there is one; waiting for its first
# piece, or its end, keeps an ordinary GET from reaching the service as one with an (empty) body.
_SELDOM_WITH_BODY: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE"))


class Gateway:
    """Where requests of an embedding server enter. Made by `open_gateway`."""

    def __init__(self, router: Router, door: Door, nursery: trio.Nursery, options: Options) -> None:
        self.router: Final = router
        """Also serves connections that are accepted but not parsed: `Router.handle`."""
        self.options: Final = options
        self._door = door
        self._nursery = nursery

    def claims(self, request: Request) -> bool:
        """Say whether `proxy_to_sandbox` will answer the request: it names a preview, or makes no sense as a host.

        Cheap, and reads nothing but the host: for servers whose own traffic is more than that of the previews.
        A request without any host, which HTTP/1.0 allows, is the embedding server's.
        """
        fields = request.fields()
        if not any(name == b"host" for name, _, _ in fields):
            return False
        head = RequestHead(request.method, request.target, b"1.1", fields)
        return not isinstance(self._door.locate(head, request.scheme), Elsewhere)

    def judge(self, request: Request) -> RequestHead | Answer:
        """Return the head to pass on, read by our own readers; or the answer that the request gets instead."""
        try:
            head = checked_head(request, self.options.http)
        except BadRequestError as error:
            return refusal(Code(error.code), detail=error.text)
        scheme = public_scheme(head.fields, request.scheme, trusted=self.options.trusts(request.client_address))
        place = self._door.locate(head, scheme)
        if isinstance(place, Answer):
            return place
        if isinstance(place, Elsewhere):
            # The target named another host than the field that `claims` went by.
            return refusal(Code.MISDIRECTED_REQUEST)
        if is_websocket_upgrade(head) and not request.accepts_upgrade:
            return refusal(Code.BAD_REQUEST, detail="this server does not pass on WebSockets")
        return head

    def start(self, visitor: "_Visitor") -> None:
        """Have the visitor's tasks run, in the context of whoever calls."""
        self._nursery.start_soon(visitor.run)


@asynccontextmanager
async def open_gateway(
    runtime: Runtime,
    domains: Sequence[str] = ("localhost",),
    options: Options = DEFAULT_OPTIONS,
    *,
    listener_port: int | None = None,
) -> AsyncIterator[Gateway]:
    """Let an embedding server pass requests to the sandboxes of `runtime` for the length of the block.

    Requests under way when the block ends are cut.

    Args:
        runtime: Whose sandboxes to serve.
        domains: Base domains. URLs that name none are built on the first, unless a `Server` has said otherwise.
        options: Times and limits. ``connections_max`` and the drain are the embedding server's own affair.
        listener_port: Where the embedding server listens: shown in URLs on local domains.

    Raises:
        InvalidNameError, CustomDomainRequiredError: A domain that cannot carry preview URLs.
    """
    if not domains:
        raise ValueError("a gateway needs at least one domain")
    checked = [Domain(domain) for domain in domains]
    previous = runtime.public_address
    if previous is None:
        runtime.public_address = PublicAddress(checked[0], listener_port)
    try:
        async with open_router(runtime, checked, options) as router, trio.open_nursery() as nursery:
            try:
                yield Gateway(router, Door(runtime, checked, options.wake_timeout_s), nursery, options)
            finally:
                nursery.cancel_scope.cancel()
    finally:
        runtime.public_address = previous


@asynccontextmanager
async def proxy_to_sandbox(request: Request, gateway: Gateway) -> AsyncIterator[Response | None]:
    """Pass a request to the sandbox that its host names, and yield the response; None if it names no preview.

    Refusals are responses too. The request's body is read while the response is under way, so both may stream at
    once. When the block ends, or is cancelled, the visit has ended and its service's connection is closed or kept
    for the next request.

    Raises:
        ResponseCutError: Out of `Response.body`: see there. Or right away, if the gateway was closed.
        Exception: What ``request.body`` raised, at the same places.
    """
    if not gateway.claims(request):
        yield None
        return
    judged = gateway.judge(request)
    if isinstance(judged, Answer):
        yield own_response(judged, request)
        return
    visitor = _Visitor(request, judged, gateway)
    try:
        yield await visitor.start()
    finally:
        await visitor.leave()


class _Visitor:
    """One request as a client of the router."""

    def __init__(self, request: Request, head: RequestHead, gateway: Gateway) -> None:
        self._request = request
        self._head = head
        self._gateway = gateway
        self._stream, self._router_side = open_pipe()
        self._framing = request_framing(head)
        self._body = aiter(request.body) if request.body is not None else None
        self._first = b""
        self._exchange: Exchange | None = None
        self._scope = trio.CancelScope()
        self._left: trio.Event | None = None
        self._body_error: Exception | None = None

    async def start(self) -> Response:
        if self._framing.has_body and self._body is None:
            raise ValueError("the fields of the request announce a body, and it has none")
        if self._framing == NO_BODY and self._body is not None and not self._request.http_version.startswith("1"):
            await self._find_framing(self._body)
        upgrade = requested_upgrade(self._head) if self._request.accepts_upgrade else None
        self._exchange = Exchange(self._head, self._framing, upgrade=upgrade, limits=self._gateway.options.http)
        self._left = trio.Event()
        self._gateway.start(self)
        reader = _Reader(self._stream, self._exchange, self)
        try:
            return await reader.start()
        except (UpstreamClosedError, trio.BrokenResourceError) as error:
            if self._body_error is not None:
                raise self._body_error from None
            raise ResponseCutError("the gateway was closed") from error

    async def _find_framing(self, body: AsyncIterator[bytes]) -> None:
        """Say of a request of HTTP/2 or 3 without Content-Length whether it has a body."""
        if self._head.method not in _SELDOM_WITH_BODY:
            self._framing = CHUNKED
            return
        async for piece in body:
            if piece:
                self._first = piece
                self._framing = CHUNKED
                return

    async def run(self) -> None:
        """The tasks of the visitor, in the gateway's nursery: the router's side of the pipe, and the request."""
        assert self._left is not None
        request = self._request
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_request)
                    await self._gateway.router.handle(
                        self._router_side, peer=request.client_address, scheme=request.scheme
                    )
        finally:
            self._router_side.close()
            self._left.set()

    async def _send_request(self) -> None:
        try:
            try:
                await self._send_all()
            finally:
                await self._let_go_of_body()
        except Exception as error:  # noqa: BLE001  # somebody else's iterator: carried to who reads the response
            self._body_error = error
            self._scope.cancel()

    async def _send_all(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        going = await self._send(_with_options(exchange.start(), self._head))
        if not going or not self._framing.has_body or self._body is None:
            return
        if self._first:
            going = await self._send(exchange.request_content(self._first))
        while going:
            try:
                piece = await anext(self._body)
            except StopAsyncIteration:
                await self._send(exchange.request_end())
                return
            going = await self._send(exchange.request_content(piece))

    async def _send(self, data: bytes) -> bool:
        """Send to the router; False if it has answered without wanting the whole request: the answer decides."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def _let_go_of_body(self) -> None:
        close = getattr(self._body, "aclose", None)
        if close is not None:
            await close()

    async def leave(self) -> None:
        """End the visit, whatever it is doing; return when nothing of it is left."""
        self._scope.cancel()
        self._stream.close()
        if self._left is not None:
            with trio.CancelScope(shield=True):
                await self._left.wait()

    @property
    def body_error(self) -> Exception | None:
        """What the request's body raised, if it did."""
        return self._body_error


class _Reader(ResponseReader):
    """Reads the response; if it was cut because the request's body failed, that is what is raised."""

    def __init__(self, stream: PipeEnd, exchange: Exchange, visitor: _Visitor) -> None:
        super().__init__(stream, exchange)
        self._visitor = visitor

    async def __anext__(self) -> bytes:
        try:
            return await super().__anext__()
        except ResponseCutError:
            if self._visitor.body_error is not None:
                raise self._visitor.body_error from None
            raise


def _with_options(written: bytes, head: RequestHead) -> bytes:
    """Put back what ``Connection`` named, which the exchange leaves out: the router drops those fields, as it must.

    Only the unusual: the rest is about the client's connection, and this one is another.
    """
    named = sorted(name for name in connection_options(head.fields) - _USUAL_OPTIONS if _OPTION.fullmatch(name))
    return written[:-2] + b"Connection: %b\r\n\r\n" % b", ".join(named) if named else written
