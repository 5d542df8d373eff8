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
from proxy.farewell import Farewell
from proxy.ledger import Account
from proxy.passage import RESTARTED, Switched
from proxy.patience import Mark, Patience, untaken
from proxy.pump import BROKEN, FAILED, READABLE, WRITABLE, Pump
from proxy.transport import RECEIVE_BYTES, reset_on_close


class Tunnel:
    """The bytes of one upgraded connection, both ways, until both ways have ended or either side has gone.

    It takes the place of whoever had the connection before and is all that there is of it, perhaps for days: two
    sockets, the visit, what the observer will be told, and nothing of the request that it began with.
    """

    __slots__ = (
        "_account", "_client", "_closed", "_farewell", "_on_closed", "_patience", "_service", "_stalled_timeout_s",
        "_tracker", "_visit", "over", "pump",
    )  # fmt: skip

    def __init__(
        self,
        client: socket.socket,
        switched: Switched,
        *,
        pump: Pump,
        stalled_timeout_s: float,
        account: Account | None,
        on_closed: Callable[["Tunnel"], None],
    ) -> None:
        """Prepare; `start` begins.

        Args:
            client: Non-blocking, and this object's from now on.
            switched: The service's socket and the visit are this object's too.
            pump: Calls this object's two sides.
            stalled_timeout_s: How long a side may take none of what it is sent.
            account: What is told when nothing more is carried.
            on_closed: Called once, when the client's connection is over.
        """
        self._visit: Final = switched.visit
        self.pump: Final = pump
        """Calls the two sides."""
        self._on_closed: Final = on_closed
        self._stalled_timeout_s: Final = stalled_timeout_s
        self._account: Final = account
        self._tracker = FrameTracker(masked=False) if switched.websocket else None
        self.over = False
        """Nothing is carried any more."""
        self._closed = False
        # Made when the watchman first sees something unsent: most connections never need it.
        self._patience: Patience | None = None
        # Between the end of the tunnel and that of the client's connection.
        self._farewell: Farewell | None = None
        self._client: Final = _Side(self, client)
        self._service: Final = _Side(self, switched.upstream.socket)
        self._client.other, self._service.other = self._service, self._client

    def start(self, from_client: bytes = b"", from_service: bytes = b"") -> None:
        """Begin to carry, first what has come already."""
        self._client.join()
        self._service.join()
        if from_client:
            self._service.send(from_client)
        if from_service and not self.over:
            self._client.send(from_service)
        if not self.over:
            self._visit.on_cut(self._on_cut)

    # What its sides call.

    def carried(self, side: "_Side", data: bytes) -> None:
        """Take note that `data` is on its way to a side."""
        if self._tracker is not None and side is self._client:
            self._tracker.feed(data)

    def end_if_done(self) -> None:
        """End if both directions have."""
        if self._client.finished and self._service.finished:
            self.end()

    def end(self) -> None:
        """Let go of the service, whatever is under way, and take leave of the client. Idempotent."""
        if self.over:
            return
        self._let_go()
        self._farewell = Farewell(self._client.socket, self.pump, self._close)
        self._farewell.start()

    def _let_go(self) -> None:
        self.over = True
        for side in (self._client, self._service):
            side.unsent = None
            self.pump.remove(side.socket)
        self._service.socket.close()
        self._visit.end()
        if self._account is not None:
            self._account.end()

    def _close(self) -> None:
        """End the client's connection, whatever is under way. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.over:
                self._let_go()
        finally:
            # Also if whoever is told of the end has a bug: nobody would come here a second time.
            self.pump.remove(self._client.socket)
            self._client.socket.close()
            self._on_closed(self)

    def _on_cut(self, _reason: CutBecause) -> None:
        # Inside a turn of the actor, which is no place to end the visit in.
        self.pump.soon(self._client, self._take_cut)

    def _take_cut(self) -> None:
        reason = self._visit.cut_because
        if reason is not None:
            self._say_goodbye(RESTARTED if reason is CutBecause.RUN_ENDED else GOING_AWAY, reason.value)

    def _say_goodbye(self, code: int, reason: str) -> None:
        """End it with a close frame, if the client can read one where its stream stands."""
        tracker, client = self._tracker, self._client
        if (
            not self.over
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

    # What the router calls.

    def drain(self) -> None:
        """Do nothing: it may go on for as long as the drain lasts, and is no request that others could follow."""

    def cut(self) -> None:
        """End it now; a client that can still be told why is told."""
        if self.over:
            self._close()
        else:
            self._say_goodbye(GOING_AWAY, "server closing")

    def abort(self) -> None:
        """End it at once, without a word."""
        self._close()

    def patrol(self, now: float) -> bool:
        """End what has taken too long by `now`; False, as nobody need `watch` over it."""
        if self._farewell is not None:
            self._farewell.patrol(now)
        elif self._is_stuck(now):
            reset_on_close(self._client.socket)
            self._close()
        return False

    def _is_stuck(self, now: float) -> bool:
        """Say whether whoever is sent something has taken none of it for too long."""
        mark: Mark = ()
        for side in (self._client, self._service):
            if side.unsent is not None:
                mark += side.taken
        if not mark:
            return False
        if self._patience is None:
            self._patience = Patience(self._stalled_timeout_s)
        return self._patience.is_out(mark, now)


class _Side:
    """One of the two sockets: what comes from it, and what goes to it."""

    __slots__ = ("_mask", "_parts", "_tunnel", "ended", "finished", "other", "socket", "unsent")

    def __init__(self, tunnel: Tunnel, sock: socket.socket) -> None:
        self._tunnel = tunnel
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

    def join(self) -> None:
        """Begin to be called."""
        self._tunnel.pump.add(self.socket, self, READABLE)

    def on_ready(self, mask: int) -> None:
        """See `pump.Handler`."""
        if mask & WRITABLE and self.unsent is not None:
            self._send_rest(self.unsent)
            if self._tunnel.over:
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
                self._tunnel.pump.remove(self.socket)

    def on_bug(self) -> None:
        """See `pump.Handler`."""
        # Not `end`: that may be where the bug is.
        self._tunnel.abort()

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
        if self._tunnel.over:
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
        pump = self._tunnel.pump
        pump.remove(self.socket)
        pump.add(self.socket, self, mask)
