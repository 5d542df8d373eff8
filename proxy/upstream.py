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

    key: tuple[str, int]
    stream: trio.abc.HalfCloseableStream
    reused: bool = False
    """It has carried a request before, so its service may be about to close it."""
    idle_since: float = 0.0

    async def aclose(self) -> None:
        """Close it at once."""
        await close_now(self.stream)


class Pool:
    """Idle connections, the most recently used first."""

    def __init__(self, idle_timeout_s: float) -> None:
        self._idle_timeout_s = idle_timeout_s
        # {(run id, port): idle connections, oldest first}; no empty ones.
        self._idle: dict[tuple[str, int], deque[Upstream]] = {}
        self._count = 0

    async def take(self, run_id: str, port: int) -> Upstream | None:
        """Return a kept connection that looks alive, or None."""
        key = (run_id, port)
        idle = self._idle.get(key)
        while idle:
            upstream = idle.pop()
            self._count -= 1
            if not idle:
                del self._idle[key]
            stream = upstream.stream
            # Anything to read on an idle connection is its end, or a response that nobody asked for.
            if isinstance(stream, SocketTransport) and not stream.is_quiet():
                await upstream.aclose()
                continue
            upstream.reused = True
            return upstream
        return None

    async def put(self, upstream: Upstream) -> None:
        """Keep a connection whose exchange has left it clean, unless there are enough."""
        idle = self._idle.get(upstream.key)
        if self._count >= IDLE_MAX or (idle is not None and len(idle) >= IDLE_PER_PORT_MAX):
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
        for key, idle in list(self._idle.items()):
            stale = []
            while idle and idle[0].idle_since <= cutoff:
                stale.append(idle.popleft())
            self._count -= len(stale)
            if not idle:
                del self._idle[key]
            for upstream in stale:
                await upstream.aclose()

    async def aclose(self) -> None:
        """Close everything that is kept."""
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
    return Upstream((grant.run_id, int(grant.port)), stream)


async def close_now(stream: trio.abc.AsyncResource) -> None:
    """Close without ceremony: nothing is flushed or awaited from the peer."""
    if isinstance(stream, SocketTransport):
        stream.close()
    else:
        await trio.aclose_forcefully(stream)
