"""The stateless router: what all client connections share, and the care for those that wait long.

It holds nothing that is not in some actor's log: kept connections to services, which can be dialled again, and the
list of client connections, which clients can make again.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import structlog
import trio

from actors import Domain, Runtime
from proxy.application import Application
from proxy.connection import Connection
from proxy.core.addresses import Addresses, address_group
from proxy.core.lines import LineMemo
from proxy.core.served import Observer
from proxy.core.serving import ReadHead, ServerConnection
from proxy.door import Door
from proxy.gatehouse import Gatehouse
from proxy.lane import Lane
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.pump import Pump
from proxy.reception import Reception, Routes
from proxy.transport import SocketTransport
from proxy.tunnel import Tunnel
from proxy.upstream import Pool, close_now

log = structlog.get_logger("portico.router")

ROUND_S: Final = 1.0
"""How often the watchman walks by, and so how much later than said a connection or a request may expire. A clock
for each of them would cost every request some microseconds."""


class _Entry(NamedTuple):
    group: str | None
    on_ended: Callable[[], None] | None


_Holder = Connection | Lane | Tunnel
"""Who has a client connection."""


class Router:
    """Serves client connections. Made by `open_router`."""

    def __init__(
        self,
        runtime: Runtime,
        domains: Sequence[Domain],
        options: Options,
        nursery: trio.Nursery,
        app: Application | None = None,
        observe: Observer | None = None,
    ) -> None:
        self._observe: Final = observe
        self._door: Final = Door(runtime, domains, options.wake_timeout_s)
        self._gatehouse: Final = Gatehouse(runtime)
        # Whatever is bound later must not lie under them.
        runtime.domains.reserve(domains)
        self._options: Final = options
        self._app: Final = app
        self._pump: Final = Pump()
        self._pool: Final = Pool(options.upstream_idle_timeout_s, self._pump)
        self._routes: Final = Routes()
        self._lines: Final = LineMemo()
        self._nursery: Final = nursery
        # {connection: the share of whose address it takes, and whom to tell of its end}
        self._connections: dict[_Holder, _Entry] = {}
        # Made once: an idle connection should have no method of its own for each.
        self._trusts: Final[Callable[[str], bool]] = options.trusts
        self._read_request: Final[ReadHead] = self._lines.read_request
        self._on_closed: Final[Callable[[_Holder], None]] = self._forget
        self._on_switched: Final[Callable[[Lane, Tunnel], None]] = self._let_succeed
        self._last_entry = _Entry(None, None)
        self._addresses: Final = Addresses(options.connections_per_address_max)
        self._none_left = trio.lowlevel.ParkingLot()
        self._draining = False

    async def handle(self, stream: trio.abc.Stream, *, peer: str | None = None, scheme: str = "http") -> None:
        """Serve one accepted connection to its end; closes `stream`. Raises nothing but cancellation.

        Closed at once, without an answer, if its client address has its share of connections already.

        Args:
            stream: After any TLS handshake. A `trio.SocketStream` is taken over.
            peer: The client's IP address; None asks the socket.
            scheme: ``https`` if this stream is TLS.
        """
        if isinstance(stream, trio.SocketStream):
            stream = SocketTransport.take_over(stream)
        if isinstance(stream, SocketTransport):
            await self._see_to_its_end(stream, peer, scheme)
            return
        reception = self._receive(peer if peer is not None else "", scheme)
        if reception is None:
            await close_now(stream)
            return
        http = ServerConnection(self._options.http, self._read_request)
        connection = Connection(stream, reception[0], pool=self._pool, options=self._options, http=http)
        self._connections[connection] = _Entry(reception[1], None)
        try:
            await connection.run()
        finally:
            self._forget(connection)

    async def _see_to_its_end(self, stream: SocketTransport, peer: str | None, scheme: str) -> None:
        ended = trio.Event()
        lane = self.adopt(stream, peer=peer, scheme=scheme, on_ended=ended.set)
        if lane is None:
            return
        try:
            await ended.wait()
        finally:
            lane.abort()
            with trio.CancelScope(shield=True):
                await ended.wait()

    def adopt(
        self,
        stream: SocketTransport,
        *,
        peer: str | None = None,
        scheme: str = "http",
        on_ended: Callable[[], None] | None = None,
    ) -> Lane | None:
        """Serve one accepted connection over a plain socket, without a task; None if it was closed at once.

        Args:
            stream: Owned by the router from now on.
            peer: As for `handle`.
            scheme: As for `handle`.
            on_ended: Called once, when the connection is over.
        """
        reception = self._receive(stream.peer if peer is None else peer, scheme)
        if reception is None:
            stream.close()
            return None
        lane = Lane(
            stream,
            reception[0],
            ServerConnection(self._options.http, self._read_request),
            pump=self._pump,
            pool=self._pool,
            options=self._options,
            lines=self._lines,
            nursery=self._nursery,
            on_closed=self._on_closed,
            on_switched=self._on_switched,
        )
        self._connections[lane] = self._entry(reception[1], on_ended)
        return lane

    def _entry(self, group: str | None, on_ended: Callable[[], None] | None) -> _Entry:
        """Return an entry: the last one again if it says the same, as it does for clients behind one proxy."""
        if self._last_entry.group != group or self._last_entry.on_ended is not on_ended:
            self._last_entry = _Entry(group, on_ended)
        return self._last_entry

    def _receive(self, peer: str, scheme: str) -> tuple[Reception, str | None] | None:
        """Let a client in; None if it must not be."""
        if self._draining:
            return None
        trusted = self._options.trusts(peer)
        # A trusted proxy speaks for many.
        group = None if trusted else address_group(peer)
        if group is not None and not self._addresses.enter(group):
            return None
        reception = Reception(
            self._door,
            self._routes,
            peer=peer,
            scheme=scheme,
            trusted=trusted,
            trusts=self._trusts,
            app=self._app,
            gatehouse=self._gatehouse,
            observe=self._observe,
        )
        return reception, group

    def _let_succeed(self, lane: Lane, tunnel: Tunnel) -> None:
        self._connections[tunnel] = self._connections.pop(lane)

    def _forget(self, connection: _Holder) -> None:
        entry = self._connections.pop(connection)
        if entry.group is not None:
            self._addresses.leave(entry.group)
        if entry.on_ended is not None:
            entry.on_ended()
        if not self._connections:
            self._none_left.unpark_all()

    async def drain(self, timeout_s: float | None = None) -> int:
        """Let requests under way end, and every connection with them; return how many had to be cut.

        Idle connections end at once, and so does what `handle` is given from now on. What is still under way after
        `timeout_s` is cut, upgraded connections included.

        Args:
            timeout_s: None: ``drain_timeout_s`` of the options.
        """
        self._draining = True
        for connection in tuple(self._connections):
            connection.drain()
        with trio.move_on_after(self._options.drain_timeout_s if timeout_s is None else timeout_s):
            while self._connections:
                await self._none_left.park()
        cut = len(self._connections)
        for connection in tuple(self._connections):
            connection.cut()
        while self._connections:
            await self._none_left.park()
        return cut

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return len(self._connections)

    async def aclose(self) -> None:
        """Close the kept connections to services."""
        await self._pool.aclose()

    async def pump(self) -> None:
        """Wait on all sockets; a task's work. Whatever is still served without a task ends with it."""
        try:
            await self._pump.run()
        finally:
            # Nobody would wait for the sockets of a client that came now.
            self._draining = True
            for connection in tuple(self._connections):
                if not isinstance(connection, Connection):
                    connection.abort()
            self._pump.close()

    async def walk_rounds(self) -> None:
        """The watchman: end what takes too long, watch over clients that wait long."""
        while True:
            await trio.sleep(ROUND_S)
            await self._pool.sweep()
            now = trio.current_time()
            for connection in tuple(self._connections):
                if connection.patrol(now) and not isinstance(connection, Tunnel):
                    self._nursery.start_soon(connection.watch)
            turned_away = self._addresses.report(now)
            if turned_away is not None:
                log.warning(
                    "addresses beyond their share of connections were turned away; is one a proxy to be trusted?",
                    connections=turned_away.connections,
                    addresses=turned_away.addresses,
                    each_may_have=self._options.connections_per_address_max,
                )


@asynccontextmanager
async def open_router(
    runtime: Runtime,
    domains: Sequence[str],
    options: Options = DEFAULT_OPTIONS,
    *,
    app: Application | None = None,
    observe: Observer | None = None,
) -> AsyncIterator[Router]:
    """Route to the sandboxes of `runtime` for the length of the ``async with`` block.

    For those who accept connections themselves: give each to `Router.handle`. Connections that are still open at
    the end of the block are drained by `Router.drain` if the caller wants that; here their kept upstreams close.

    Args:
        runtime: Whose sandboxes.
        domains: Base domains.
        options: Times and limits.
        app: An ASGI app that answers what is for a base domain itself, for ``localhost`` or for an IP address.
        observe: Is told of each request when it is over: see `proxy.core.served`.

    Raises:
        InvalidNameError, CustomDomainRequiredError: A domain that cannot carry preview URLs.
    """
    checked = [Domain(domain) for domain in domains]
    try:
        async with trio.open_nursery() as nursery:
            router = Router(runtime, checked, options, nursery, app, observe)
            nursery.start_soon(router.walk_rounds)
            nursery.start_soon(router.pump)
            try:
                yield router
            finally:
                await router.aclose()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is an affair of ours: what was raised in the block is raised as it was.
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from group.exceptions[0].__cause__
