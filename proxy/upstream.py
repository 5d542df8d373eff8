"""Connections to services: dialled through the run that a visit was admitted to, and kept for the next request.

The pool's key is (run id, port). A run id is never used twice, so a kept connection can only ever carry requests
that were admitted to the very run it was dialled in.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from actors import Visit
from proxy.transport import SocketTransport

IDLE_PER_PORT_MAX: Final = 64
"""Idle connections kept to one port of one run; a browser opens six, a load generator some dozens."""

IDLE_MAX: Final = 4096
"""Idle connections in all: each costs a descriptor here and one in its service."""


@dataclass(slots=True, eq=False)
class Upstream:
    """One connection to a service."""

    # (run id, port)
    key: tuple[str, int]
    stream: trio.abc.HalfCloseableStream
    idle_since: float = 0.0

    async def aclose(self) -> None:
        """Close it at once."""
        await close_now(self.stream)


class Pool:
    """Idle connections, the most recently used first."""

    def __init__(self, idle_timeout_s: float) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._closed = False
        # {(run id, port): idle connections, oldest first}; no empty ones.
        self._idle: dict[tuple[str, int], deque[Upstream]] = {}
        self._count = 0

    async def take(self, run_id: str, port: int) -> Upstream | None:
        """Return a kept connection that looks alive, or None."""
        key = (run_id, port)
        while idle := self._idle.get(key):
            upstream = idle.pop()
            self._count -= 1
            if not idle:
                del self._idle[key]
            if self._looks_alive(upstream):
                return upstream
            await upstream.aclose()
        return None

    def _looks_alive(self, upstream: Upstream) -> bool:
        # Not left to `sweep`, which comes by now and then: a service's own timeout may end between two of its rounds.
        if upstream.idle_since <= trio.current_time() - self._idle_timeout_s:
            return False
        # Anything to read on an idle connection is its end, or a response that nobody asked for.
        return not isinstance(upstream.stream, SocketTransport) or upstream.stream.is_quiet()

    async def put(self, upstream: Upstream) -> None:
        """Keep a connection whose exchange has left it clean, unless there are enough."""
        idle = self._idle.get(upstream.key)
        if self._closed or self._count >= IDLE_MAX or (idle is not None and len(idle) >= IDLE_PER_PORT_MAX):
            await upstream.aclose()
            return
        upstream.idle_since = trio.current_time()
        if idle is None:
            idle = self._idle[upstream.key] = deque()
        idle.append(upstream)
        self._count += 1

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
    """Dial the service of a visit.

    Raises:
        NotListeningError: Nothing accepts on that port.
        trio.TooSlowError: Nothing did in time.
    """
    grant = visit.grant
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
