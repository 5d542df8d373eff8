"""An upgraded connection between two plain sockets, carried by the pump: `proxy.relay` without its two tasks.

After a 101 the bytes are the client's and the service's own affair. What one side sends is handed to the other piece
by piece: while it has no room nothing more is read, so a slow reader slows the other side's writer and nothing is
stored up. Half-closes are kept. Of a WebSocket the frames towards the client are counted, so that a close frame can
be put between two of them when the cord is pulled.
"""

import contextlib
import socket
from collections.abc import Callable
from typing import Final

from actors import CutBecause
from proxy.core.websocket import GOING_AWAY, FrameTracker, close_frame
from proxy.passage import RESTARTED, Switched
from proxy.patience import Mark, Patience, untaken
from proxy.pump import BROKEN, FAILED, READABLE, WRITABLE, Pump
from proxy.transport import RECEIVE_BYTES, SocketTransport


class Tunnel:
    """The bytes of one upgraded connection, both ways, until both ways have ended or either side has gone."""

    __slots__ = ("_client", "_on_ended", "_over", "_patience", "_pump", "_service", "_switched", "_tracker")

    def __init__(self, client: SocketTransport, switched: Switched, pump: Pump, on_ended: Callable[[], None]) -> None:
        """Prepare; `start` begins.

        Args:
            client: Whose owner gets it back, by `on_ended`.
            switched: The other side, and the visit; both end with the tunnel.
            pump: Calls this object's two sides.
            on_ended: Called once, last.
        """
        self._switched: Final = switched
        self._pump: Final = pump
        self._on_ended: Final = on_ended
        self._tracker = FrameTracker(masked=False) if switched.websocket else None
        self._over = False
        # Made when the watchman first sees something unsent: most connections never need it.
        self._patience: Patience | None = None
        self._client: Final = _Side(self, client.socket)
        self._service: Final = _Side(self, switched.upstream.socket)
        self._client.other, self._service.other = self._service, self._client

    def start(self) -> None:
        """Begin to carry."""
        switched = self._switched
        self._client.join(self._pump)
        self._service.join(self._pump)
        if switched.from_client:
            self._service.send(switched.from_client)
        if switched.from_service and not self._over:
            self._client.send(switched.from_service)
        if not self._over:
            switched.visit.on_cut(self._on_cut)

    def carried(self, side: "_Side", data: bytes) -> None:
        """Take note that `data` is on its way to a side."""
        if self._tracker is not None and side is self._client:
            self._tracker.feed(data)

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """Say whether whoever is sent something has taken none of it for `limit_s`; to be asked every now and then."""
        mark: Mark = ()
        for side in (self._client, self._service):
            if side.unsent is not None:
                mark += side.taken
        if not mark:
            return False
        if self._patience is None:
            self._patience = Patience(limit_s)
        return self._patience.is_out(mark, now)

    def end_if_done(self) -> None:
        """End if both directions have."""
        if self._client.finished and self._service.finished:
            self.end()

    def end(self) -> None:
        """Let go of both sides, whatever is under way. Idempotent."""
        if self._over:
            return
        self._over = True
        self._client.leave(self._pump)
        self._service.leave(self._pump)
        self._switched.upstream.close()
        self._switched.visit.end()
        self._on_ended()

    def cut(self, code: int, reason: str) -> None:
        """End it with a close frame, if the client can read one where its stream stands."""
        tracker, client = self._tracker, self._client
        if (
            not self._over
            and tracker is not None
            and tracker.at_boundary
            and not tracker.close_sent
            and not client.finished
            and client.unsent is None
        ):
            # It may have left, or not be reading.
            with contextlib.suppress(OSError):
                client.socket.send(close_frame(code, reason))
        self.end()

    def _on_cut(self, _reason: CutBecause) -> None:
        # Inside a turn of the actor, which is no place to end the visit in.
        self._pump.soon(self._client, self._take_cut)

    def _take_cut(self) -> None:
        reason = self._switched.visit.cut_because
        if reason is not None:
            self.cut(RESTARTED if reason is CutBecause.RUN_ENDED else GOING_AWAY, reason.value)


class _Side:
    """One of the two sockets: what comes from it, and what goes to it."""

    __slots__ = ("_mask", "_parts", "_pump", "_tunnel", "ended", "finished", "other", "socket", "unsent")

    def __init__(self, tunnel: Tunnel, sock: socket.socket) -> None:
        self._tunnel = tunnel
        self._pump: Pump | None = None
        self.socket = sock
        self.other: _Side = self
        self.ended = False
        """It will send no more."""
        self.finished = False
        """It will be sent no more."""
        self.unsent: memoryview | None = None
        """What it has not had room for. While there is some, nothing is read from the other side."""
        self._mask = READABLE
        # How often a part of something has found room, where not all of it did at once.
        self._parts = 0

    @property
    def taken(self) -> Mark:
        """A mark of what it has taken so far, for as long as something is `unsent`."""
        return self._parts, untaken(self.socket)

    def join(self, pump: Pump) -> None:
        """Begin to be called."""
        self._pump = pump
        pump.add(self.socket, self, READABLE)

    def leave(self, pump: Pump) -> None:
        """Be called no more."""
        self._pump = None
        self.unsent = None
        pump.remove(self.socket)

    def on_ready(self, mask: int) -> None:
        """See `pump.Handler`."""
        if mask & WRITABLE and self.unsent is not None:
            self._send_rest(self.unsent)
        if self._pump is None:
            return
        if self._mask & READABLE and mask & (READABLE | BROKEN):
            self._carry()
        elif mask & BROKEN:
            if mask & FAILED or self.unsent is not None:
                # It has broken off: nothing can reach it any more, and what it sent last it does not count on.
                self._tunnel.end()
            else:
                # Both directions have ended, which is told asked for or not. What it has sent is read when the other
                # side has room.
                self._mask = 0
                self._pump.remove(self.socket)

    def on_bug(self) -> None:
        """See `pump.Handler`."""
        self._tunnel.end()

    def _carry(self) -> None:
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # Expected: it has gone. The other is let go with it.
            self._tunnel.end()
            return
        if data:
            self.other.send(data)
        else:
            self.ended = True
            self.wait()
            self.other.finish()

    def send(self, data: bytes) -> None:
        """Hand `data` to this side; what it has no room for is kept, and holds the other side up."""
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._tunnel.end()
            return
        self._tunnel.carried(self, data)
        if sent < len(data):
            self._parts += 1
            self.unsent = memoryview(data)[sent:]
            self.wait()
            self.other.wait()

    def _send_rest(self, rest: memoryview) -> None:
        try:
            rest = rest[self.socket.send(rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._tunnel.end()
            return
        self._parts += 1
        if rest:
            self.unsent = rest
            return
        self.unsent = None
        self.wait()
        self.other.wait()
        if self.other.ended:
            self.finish()

    def finish(self) -> None:
        """Tell this side that it will be sent no more, once it has been sent everything."""
        if self.unsent is not None or self.finished:
            return
        self.finished = True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            # Expected: it has gone.
            self._tunnel.end()
            return
        self._tunnel.end_if_done()

    def wait(self) -> None:
        """Wait for what can be used now."""
        if self._pump is None:
            return
        mask = 0
        if not self.ended and self.other.unsent is None:
            mask = READABLE
        if self.unsent is not None:
            mask |= WRITABLE
        if mask == self._mask:
            return
        self._mask = mask
        # It may have been taken out altogether; see `on_ready`. With nothing to wait for it is kept in all the same:
        # so it is told when it breaks off, with which the other side's wait is over too.
        self._pump.remove(self.socket)
        self._pump.add(self.socket, self, mask)
