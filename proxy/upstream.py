"""Connections to services: dialled through the run that a visit was admitted to, and kept for the next request.

The pool's key is (run id, port). A run id is never used twice, so a kept connection can only ever carry requests
that were admitted to the very run it was dialled in.
"""

import socket
from collections import deque
from typing import Final, Protocol

import trio

from actors import NotListeningError, Visit
from proxy.pump import ENDED, READABLE, Pump
from proxy.transport import SocketTransport

IDLE_PER_PORT_MAX: Final = 1024
"""Idle connections kept to one port of one run: as many as have been in use at once, within reason (Envoy allows 1,024
in all). With fewer, what 1,000 clients of one preview do at once is half of it dialling anew: 251 us of CPU a request
instead of 117. They do not outlive the idle timeout, so a service has no more of them than it was just asked for."""

IDLE_MAX: Final = 4096
"""Idle connections in all: each costs a descriptor here and one in its service."""


class User(Protocol):
    """Who waits for a response on a connection that the pump watches."""

    def on_response(self, mask: int, /) -> None:
        """The service has sent something, or has ended. Must not wait."""

    def on_bug(self) -> None:
        """`on_response` has raised: close everything."""


class Upstream:
    """One connection to a service."""

    __slots__ = ("idle_since", "key", "pool", "stream", "user")

    def __init__(self, key: tuple[str, int], stream: trio.abc.HalfCloseableStream) -> None:
        self.key: Final = key
        """(run id, port)"""
        self.stream: Final = stream
        self.idle_since = 0.0
        self.user: User | None = None
        """Who is to be called, if a pump watches it; None while it is idle."""
        self.pool: Pool | None = None
        """Whose pump watches it; None: none does."""

    @property
    def socket(self) -> socket.socket:
        """The plain socket of one that a pump watches."""
        assert isinstance(self.stream, SocketTransport)
        return self.stream.socket

    def on_ready(self, mask: int) -> None:
        """See `pump.Handler`."""
        if self.user is not None:
            self.user.on_response(mask)
        elif self.pool is not None:
            # Anything to read on an idle connection is its end, or a response that nobody asked for.
            self.pool.discard(self)

    def on_bug(self) -> None:
        """See `pump.Handler`."""
        if self.user is not None:
            self.user.on_bug()
        self.close()

    def close(self) -> None:
        """Close it at once; for one that is a plain socket."""
        assert isinstance(self.stream, SocketTransport)
        if self.pool is not None:
            self.pool.unwatch(self)
        self.stream.close()

    async def aclose(self) -> None:
        """Close it at once."""
        if self.pool is not None:
            self.pool.unwatch(self)
        await close_now(self.stream)


class Pool:
    """Idle connections, the most recently used first."""

    def __init__(self, idle_timeout_s: float, pump: Pump | None = None) -> None:
        """Begin with none.

        Args:
            idle_timeout_s: How long one is kept.
            pump: Watches those that are plain sockets, so that their end is noticed when it comes.
        """
        self._idle_timeout_s = idle_timeout_s
        self._pump = pump
        self._closed = False
        # {(run id, port): idle connections, oldest first}; no empty ones.
        self._idle: dict[tuple[str, int], deque[Upstream]] = {}
        self._count = 0

    def take_nowait(self, run_id: str, port: int) -> Upstream | None:
        """Return a kept connection that looks alive, or None. Still watched by the pump: the taker sets `user`."""
        key = (run_id, port)
        while idle := self._idle.get(key):
            upstream = idle[-1]
            if upstream.pool is None:
                return None
            idle.pop()
            self._count -= 1
            if not idle:
                del self._idle[key]
            if self._looks_alive(upstream):
                return upstream
            upstream.close()
        return None

    async def take(self, run_id: str, port: int) -> Upstream | None:
        """Return a kept connection that looks alive, or None."""
        key = (run_id, port)
        while idle := self._idle.get(key):
            upstream = idle.pop()
            self._count -= 1
            if not idle:
                del self._idle[key]
            if self._looks_alive(upstream):
                if upstream.pool is not None:
                    self.unwatch(upstream)
                return upstream
            await upstream.aclose()
        return None

    def _looks_alive(self, upstream: Upstream) -> bool:
        # Not left to `sweep`, which comes by now and then: a service's own timeout may end between two of its rounds.
        if upstream.idle_since <= trio.current_time() - self._idle_timeout_s:
            return False
        # Not left to the pump alone: what came in this very round it may not have told yet.
        return not isinstance(upstream.stream, SocketTransport) or upstream.stream.is_quiet()

    async def put(self, upstream: Upstream) -> None:
        """Keep a connection whose exchange has left it clean, unless there are enough."""
        if isinstance(upstream.stream, SocketTransport):
            self.put_nowait(upstream)
        elif not self._keep(upstream):
            await upstream.aclose()

    def put_nowait(self, upstream: Upstream) -> None:
        """Keep a plain socket whose exchange has left it clean, unless there are enough."""
        if not self._keep(upstream):
            upstream.close()
            return
        upstream.user = None
        if upstream.pool is None and self._pump is not None:
            self.watch(upstream)

    def _keep(self, upstream: Upstream) -> bool:
        idle = self._idle.get(upstream.key)
        if self._closed or self._count >= IDLE_MAX or (idle is not None and len(idle) >= IDLE_PER_PORT_MAX):
            return False
        upstream.idle_since = trio.current_time()
        if idle is None:
            idle = self._idle[upstream.key] = deque()
        idle.append(upstream)
        self._count += 1
        return True

    def watch(self, upstream: Upstream) -> None:
        """Have the pump watch a plain socket."""
        assert self._pump is not None
        upstream.pool = self
        self._pump.add(upstream.socket, upstream, READABLE | ENDED)

    def unwatch(self, upstream: Upstream) -> None:
        """Have the pump leave it alone."""
        assert self._pump is not None
        upstream.pool = upstream.user = None
        self._pump.remove(upstream.socket)

    def discard(self, upstream: Upstream) -> None:
        """Close an idle connection that the pump watches."""
        idle = self._idle.get(upstream.key)
        if idle is not None and upstream in idle:
            idle.remove(upstream)
            self._count -= 1
            if not idle:
                del self._idle[upstream.key]
        upstream.close()

    async def sweep(self) -> None:
        """Close what has been idle for too long."""
        cutoff = trio.current_time() - self._idle_timeout_s
        stale: list[Upstream] = []
        # All are taken out before the first is closed: closing may wait, and the table may change meanwhile.
        for key, idle in list(self._idle.items()):
            while idle and idle[0].idle_since <= cutoff:
                stale.append(idle.popleft())
            if not idle:
                del self._idle[key]
        self._count -= len(stale)
        for upstream in stale:
            await upstream.aclose()

    async def aclose(self) -> None:
        """Close everything that is kept, and keep nothing more."""
        self._closed = True
        idle, self._idle, self._count = self._idle, {}, 0
        for upstreams in idle.values():
            for upstream in upstreams:
                await upstream.aclose()

    def __len__(self) -> int:
        return self._count


async def connect(visit: Visit, connect_timeout_s: float) -> Upstream:
    """Dial the service of a visit; one that a wake has just brought back is waited for until it listens.

    Raises:
        NotListeningError: Nothing accepts on that port.
        trio.TooSlowError: Nothing did in time.
    """
    grant = visit.grant
    try:
        with trio.fail_after(connect_timeout_s):
            stream = await visit.run.dial(grant.port)
    except NotListeningError:
        # Bounded by the run, by the wake deadline: not a matter of how long a connection takes.
        await visit.run.wait_listening(grant.port)
        with trio.fail_after(connect_timeout_s):
            stream = await visit.run.dial(grant.port)
    if isinstance(stream, trio.SocketStream):
        stream = SocketTransport.take_over(stream)
    return Upstream((grant.run_id, grant.port), stream)


async def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close without ceremony: nothing is flushed or awaited from the peer. Not interrupted by a cancellation."""
    if isinstance(stream, SocketTransport):
        stream.close()
    else:
        # The shield keeps a cancellation from ending a series of these after the first.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
