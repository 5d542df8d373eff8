"""`preview_engine`: everything between a client's bytes and a service's, inside one trio test.

What is real: the router, the actors, their log, the order of judgement, every time limit. What is not: streams are
in memory unless pairs of sockets are asked for (which the router carries in another way, that of a listening server),
and containers are fakes whose services are handlers in this process. Time is trio's, so with the `autojump_clock` of
pytest-trio an hour passes at once; the actors' wall clock follows it.
"""

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import trio
import trio.testing
import trio_websocket

from actors import Limits, MemoryStore, Runtime, Sandbox, Store, open_runtime
from actors.testing.containers import FakeContainer, FakeContainers, Handler, fake_containers, socket_stream_pair
from proxy.application import Application
from proxy.core.served import Observer
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.router import Router, open_router
from proxy.testing.client import Client, Headers, Response
from proxy.transport import SocketTransport

EPOCH: Final = 1_760_000_000.0
"""What the actors' wall clock shows when trio's shows 0: a day in October 2025."""
CONTAINER_KIND: Final = "fake"
CLIENT_ADDRESS: Final = "192.0.2.7"
"""From the block for documentation (RFC 5737)."""


class PreviewEngine:
    """Made by `preview_engine`."""

    def __init__(
        self,
        runtime: Runtime,
        router: Router,
        containers: FakeContainers,
        domain: str,
        nursery: trio.Nursery,
        *,
        sockets: bool,
    ) -> None:
        self.runtime: Final = runtime
        self.router: Final = router
        self.containers: Final = containers
        self.domain: Final = domain
        self.sockets: Final = sockets
        """Whether clients and services are connected over sockets of the kernel."""
        self._nursery = nursery
        self._clients: list[Client] = []

    async def sandbox(self, name: str = "my-app", **settings: object) -> Sandbox:
        """Return the sandbox of that name, made first if there is none; settings as of `Runtime.get_sandbox`."""
        return await self.runtime.get_sandbox(name, container=CONTAINER_KIND, **settings)  # type: ignore[arg-type] # passed on

    async def expose(
        self,
        handler: Handler | None = None,
        *,
        port: int = 8080,
        sandbox: str = "my-app",
        host_header: str | None = None,
        wake_on_websocket: bool = True,
    ) -> str:
        """Let `handler` listen on a port of a sandbox, which is made if need be, and return the preview URL.

        Without a handler nothing new listens there. A WebSocket handshake wakes by this port, other than by default:
        a test of WebSockets need load no page first.
        """
        owned = await self.sandbox(sandbox)
        exposed = await owned.expose_port(
            port, hostname=self.domain, host_header=host_header, wake_on_websocket=wake_on_websocket
        )
        if handler is not None:
            self.container(sandbox).handlers[port] = handler
        return exposed.url

    def container(self, sandbox: str = "my-app") -> FakeContainer:
        """Return the newest container of a sandbox: its starts, its dials, its services."""
        return next(found for name, found in self.containers.made.items() if name == sandbox)

    def connect(self, *, scheme: str = "https", peer: str = CLIENT_ADDRESS, unbuffered: bool = False) -> Client:
        """Return a new client connection, which the router is serving.

        Args:
            scheme: What the router is told that the client speaks. There is no TLS either way.
            peer: The client's address.
            unbuffered: Let every send wait until the other side has received it, as with a full socket. Over
                sockets there is a buffer all the same, of the smallest size that the kernel knows (some KiB).
        """
        routers: trio.abc.Stream
        if self.sockets:
            near, far = socket_stream_pair()
            if unbuffered:
                for end in (near, far):
                    end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            client, routers = Client(near), SocketTransport.take_over(far)
        else:
            make = trio.testing.lockstep_stream_pair if unbuffered else trio.testing.memory_stream_pair
            ours, routers = make()
            client = Client(ours)
        self._clients.append(client)
        self._nursery.start_soon(self._handle, routers, peer, scheme)
        return client

    async def _handle(self, stream: trio.abc.Stream, peer: str, scheme: str) -> None:
        await self.router.handle(stream, peer=peer, scheme=scheme)

    async def request(self, method: str, url: str, *, headers: Headers = (), body: bytes | None = None) -> Response:
        """Send one request on a connection of its own, and return the response."""
        async with self.open(method, url, headers=headers, body=body) as client:
            return await client.read_response(method)

    async def get(self, url: str, *, headers: Headers = ()) -> Response:
        """GET `url` on a connection of its own."""
        return await self.request("GET", url, headers=headers)

    @asynccontextmanager
    async def open(
        self, method: str, url: str, *, headers: Headers = (), body: bytes | None = None
    ) -> AsyncIterator[Client]:
        """Send one request on a connection of its own, to be read as the block likes; closed after it."""
        scheme, host, target = split_url(url)
        client = self.connect(scheme=scheme)
        try:
            await client.send_request(method, target, host, headers=headers, body=body)
            yield client
        finally:
            await client.aclose()

    @asynccontextmanager
    async def websocket(
        self, url: str, *, headers: Headers = (), subprotocols: Iterable[str] = ()
    ) -> AsyncIterator[trio_websocket.WebSocketConnection]:
        """Open a WebSocket; of trio-websocket, so its exceptions and close reasons are those.

        Raises:
            trio_websocket.ConnectionRejected: It was answered by an ordinary response.
        """
        scheme, host, target = split_url(url)
        client = self.connect(scheme=scheme)
        extra = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                connection = await trio_websocket.wrap_client_stream(
                    nursery,
                    client.stream,  # type: ignore[arg-type]  # any stream will do
                    host,
                    target,
                    subprotocols=list(subprotocols),
                    extra_headers=extra,
                )
                try:
                    yield connection
                except Exception as error:  # noqa: BLE001  # raised again below, without the nursery's group
                    failure = error
                nursery.cancel_scope.cancel()
        except* trio_websocket.ConnectionRejected as rejected:
            failure = next(iter(rejected.exceptions))
        finally:
            await client.aclose()
        if failure is not None:
            raise failure

    async def settle(self) -> None:
        """Wait until everybody else waits."""
        await trio.testing.wait_all_tasks_blocked()

    async def aclose(self) -> None:
        """Close all clients, and cut what they have left under way."""
        for client in self._clients:
            await client.aclose()
        await self.router.drain(0)

    def assert_at_rest(self) -> None:
        """Check that nothing is under way: no visit, no client connection."""
        visits, connections = self.runtime.statistics().visits, self.router.connections
        assert not visits, f"{visits} visits have not ended"
        assert not connections, f"{connections} client connections have not ended"


@asynccontextmanager
async def preview_engine(
    *,
    store: Store | None = None,
    options: Options = DEFAULT_OPTIONS,
    limits: Limits | None = None,
    domains: Sequence[str] = ("example.com",),
    sockets: bool = False,
    app: Application | None = None,
    observe: Observer | None = None,
) -> AsyncIterator[PreviewEngine]:
    """Run an engine for the length of the ``async with`` block; at its end, check that nothing is left under way.

    Args:
        store: None: one in memory. A `FileStore` works in threads, and `autojump_clock` does not wait for threads:
            take a plain `MockClock` with it, or real time.
        options: Of the router.
        limits: Of each sandbox.
        domains: Base domains; URLs are built on the first.
        sockets: Connect clients and services over pairs of sockets instead of streams in memory.
        app: An ASGI app for the base domain itself.
        observe: Is told of each request when it is over.
    """
    containers = fake_containers(sockets=sockets)
    failure: Exception | None = None
    async with (
        open_runtime(
            store if store is not None else MemoryStore(),
            containers={CONTAINER_KIND: containers},
            limits=limits if limits is not None else Limits(),
            clock=lambda: EPOCH + trio.current_time(),
        ) as runtime,
        open_router(runtime, domains, options, app=app, observe=observe) as router,
        trio.open_nursery() as nursery,
    ):
        engine = PreviewEngine(runtime, router, containers, domains[0], nursery, sockets=sockets)
        try:
            yield engine
            await engine.aclose()
            engine.assert_at_rest()
        except Exception as error:  # noqa: BLE001  # raised again below, where no nursery wraps it in a group
            failure = error
            await engine.aclose()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def split_url(url: str) -> tuple[str, str, str]:
    """Return scheme, host with its port, and request target; ws and wss become http and https."""
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return scheme, parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
