"""A listening server: sockets in, connections to the router, and an orderly end.

::

    async with Server(runtime, domains=["localhost"], listen="127.0.0.1:8787") as server:
        await server.wait_closed()
"""

import errno
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import structlog
import trio

from actors import Domain, PublicAddress, Runtime
from proxy.application import Application
from proxy.config import HostPort
from proxy.core.addresses import share_of
from proxy.core.served import Observer
from proxy.descriptors import allow_connections
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.router import ROUND_S, Router, open_router
from proxy.transport import UNTAKEN_S, SocketTransport, tune

log = structlog.get_logger("portico.server")

BACKLOG: Final = 1024
"""Connections that the kernel queues for us; Linux caps it at net.core.somaxconn."""

ACCEPTED_MAX: Final = 64
"""Connections taken in one go, before the rest of the process gets a turn."""

# accept() failing with these says that something has run out, not that the listener is broken (accept(2)).
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE_S: Final = 0.1

# And with these, that the one connection it would have returned is gone already: Linux passes on its pending error,
# and a firewall may refuse it (accept(2), "Error handling").
_GONE: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.EPERM,
    }
)


class Server:
    """Serves previews on a listening address, within an ``async with`` block."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        domains: Sequence[str] = ("localhost",),
        listen: str = "127.0.0.1:8787",
        options: Options = DEFAULT_OPTIONS,
        app: Application | None = None,
        observe: Observer | None = None,
    ) -> None:
        """Check the settings; nothing listens yet.

        Args:
            runtime: Whose sandboxes to serve.
            domains: Base domains; URLs that name none are built on the first.
            listen: ``HOST:PORT``; port 0 lets the kernel choose.
            options: Times and limits.
            app: An ASGI app that answers what is for a base domain itself, for ``localhost`` or for an IP address.
            observe: Is told of each request when it is over: metrics, or an access log.

        Raises:
            InvalidNameError, CustomDomainRequiredError: A domain that cannot carry preview URLs.
            ValueError: `listen` is not an address, or there is no domain.
        """
        if not domains:
            raise ValueError("a server needs at least one domain")
        self.domains: Final = tuple(Domain(domain) for domain in domains)
        self._runtime = runtime
        self._listen = HostPort.parse(listen)
        self._options = options
        self._app = app
        self._observe = observe
        self._open: AbstractAsyncContextManager[None] | None = None
        self._port = self._listen.port
        self._router: Router | None = None
        self._closing = trio.Event()
        self._closed = trio.Event()

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: The address cannot be listened on.
        """
        if self._open is not None:
            raise RuntimeError("a server is opened once")
        self._open = self._serve()
        await self._open.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, let requests under way end within ``drain_timeout_s``, cut the others.

        When an exception leaves the block they are cut at once.
        """
        assert self._open is not None
        await self._open.__aexit__(kind, error, trace)

    @property
    def port(self) -> int:
        """The port it listens on; before it does, the one it was told."""
        return self._port

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return 0 if self._router is None else self._router.connections

    def close(self) -> None:
        """Begin the orderly end; `wait_closed` returns when it is over."""
        self._closing.set()

    async def wait_closed(self) -> None:
        """Block until the server has been closed, by `close` or by leaving the block, and drained."""
        await self._closed.wait()

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[None]:
        listeners = await _listen(self._listen, self._options.stalled_timeout_s)
        self._port = int(listeners[0].getsockname()[1])
        previous = self._runtime.public_address
        self._runtime.public_address = PublicAddress(self.domains[0], self._port)
        try:
            places = allow_connections(self._options.connections_max)
            share = share_of(places, self._options.connections_per_address_max)
            options = replace(self._options, connections_per_address_max=share)
            async with open_router(
                self._runtime, self.domains, options, app=self._app, observe=self._observe
            ) as router:
                self._router = router
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run, router, listeners, trio.Semaphore(places, max_value=places))
                    address = str(HostPort(self._listen.host, self._port))
                    log.info("listening", address=address, domains=[str(domain) for domain in self.domains])
                    try:
                        yield
                    finally:
                        self._closing.set()
        except BaseExceptionGroup as group:
            # The nursery is an affair of ours: what was raised in the block is raised as it was.
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__
        finally:
            self._runtime.public_address = previous
            _close(listeners)
            self._closed.set()

    async def _run(self, router: Router, listeners: Sequence[socket.socket], places: trio.Semaphore) -> None:
        """Accept until told to stop, then drain."""
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(_accept, listener, router, places)
            await self._closing.wait()
            accepting.cancel_scope.cancel()
        _close(listeners)
        under_way = router.connections
        cut = await router.drain()
        log.info("closed", connections=under_way, cut=cut)
        self._closed.set()


async def _listen(address: HostPort, stalled_timeout_s: float) -> list[socket.socket]:
    """Listen on every address that the host has; where the kernel is to choose the port, on the first of them."""
    opened = await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)
    listeners = []
    for listener in opened:
        plain = socket.socket(fileno=listener.socket.detach())
        plain.setblocking(False)
        # The kernel must not be the less patient one.
        tune(plain, untaken_s=max(UNTAKEN_S, stalled_timeout_s + ROUND_S))
        listeners.append(plain)
    if address.port == 0:
        # Each would get a port of its own, and URLs can name one.
        _close(listeners[1:])
        del listeners[1:]
    return listeners


def _close(listeners: Sequence[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


async def _accept(listener: socket.socket, router: Router, places: trio.Semaphore) -> None:
    give_up_place = places.release
    while True:
        await trio.lowlevel.wait_readable(listener)
        # Not one by one: a wait costs more than an accept.
        for _ in range(ACCEPTED_MAX):
            accepted = await _accept_one(listener)
            if accepted is None:
                break
            await _let_in(accepted, router, places, give_up_place)


async def _let_in(
    stream: SocketTransport, router: Router, places: trio.Semaphore, give_up_place: Callable[[], None]
) -> None:
    # Full house: further clients wait in the kernel's queue, and the ones inside are unharmed. The place is taken by
    # the connection itself, not by waiting for one, or listeners would take places from one another.
    try:
        places.acquire_nowait()
    except trio.WouldBlock:
        try:
            await places.acquire()
        except trio.Cancelled:
            stream.close()
            raise
    # Places are alike: who has which is written down nowhere, and nothing is made here that an idle connection keeps.
    if router.adopt(stream, on_ended=give_up_place) is None:
        give_up_place()


async def _accept_one(listener: socket.socket) -> SocketTransport | None:
    """Accept a connection; None if there is none just now."""
    while True:
        try:
            accepted, address = listener.accept()
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _GONE:
                continue
            # Expected under a flood: others will end and free what ran out. Anything else is a bug or a lost listener.
            if error.errno not in _EXHAUSTED:
                raise
            log.warning("cannot accept", error=error.strerror)
            await trio.sleep(_EXHAUSTED_PAUSE_S)
            continue
        # Interned: many connections of one client, or of one proxy, have one address among them.
        return SocketTransport(accepted, peer=sys.intern(str(address[0])), tuned=True)
