"""The stateless router: what all client connections share, and the care for those that wait long.

It holds nothing that is not in some actor's log: kept connections to services, which can be dialled again, and the
list of client connections, which clients can make again.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from actors import Domain, Runtime
from proxy.connection import Connection
from proxy.core.addresses import Addresses, address_group
from proxy.door import Door
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.transport import SocketTransport
from proxy.upstream import Pool, close_now

log = structlog.get_logger("portico.router")

ROUND_S: Final = 1.0
"""How often the watchman walks by, and so how much later than said a connection or a request may expire. A clock
for each of them would cost every request some microseconds."""


class Router:
    """Serves client connections. Made by `open_router`."""

    def __init__(self, runtime: Runtime, domains: Sequence[Domain], options: Options, nursery: trio.Nursery) -> None:
        self._door: Final = Door(runtime, domains, options.wake_timeout_s)
        self._options: Final = options
        self._pool: Final = Pool(options.upstream_idle_timeout_s)
        self._nursery: Final = nursery
        self._connections: set[Connection] = set()
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
        if self._draining:
            await close_now(stream)
            return
        if isinstance(stream, trio.SocketStream):
            stream = SocketTransport.take_over(stream)
        if peer is None:
            peer = stream.peer if isinstance(stream, SocketTransport) else ""
        # A trusted proxy speaks for many.
        group = None if self._options.trusts(peer) else address_group(peer)
        if group is not None and not self._addresses.enter(group):
            await close_now(stream)
            return
        connection = Connection(
            stream, door=self._door, pool=self._pool, options=self._options, peer=peer, scheme=scheme
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if group is not None:
                self._addresses.leave(group)
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

    async def walk_rounds(self) -> None:
        """The watchman: end what takes too long, watch over clients that wait long."""
        while True:
            await trio.sleep(ROUND_S)
            await self._pool.sweep()
            now = trio.current_time()
            for connection in tuple(self._connections):
                if connection.patrol(now):
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
    runtime: Runtime, domains: Sequence[str], options: Options = DEFAULT_OPTIONS
) -> AsyncIterator[Router]:
    """Route to the sandboxes of `runtime` for the length of the ``async with`` block.

    For those who accept connections themselves: give each to `Router.handle`. Connections that are still open at
    the end of the block are drained by `Router.drain` if the caller wants that; here their kept upstreams close.

    Raises:
        InvalidNameError, CustomDomainRequiredError: A domain that cannot carry preview URLs.
    """
    checked = [Domain(domain) for domain in domains]
    try:
        async with trio.open_nursery() as nursery:
            router = Router(runtime, checked, options, nursery)
            nursery.start_soon(router.walk_rounds)
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
