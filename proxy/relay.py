"""An upgraded connection: raw bytes both ways, half-closes kept, and a polite end when the cord is pulled.

After a 101 the bytes are the client's and the service's own affair. All that is done with them here is to hand them
on, piece by piece, so that a slow reader slows the other side's writer and nothing is stored up. Of a WebSocket the
frames towards the client are counted, so that a close frame can be put between two of them.
"""

from typing import Final

import trio

from proxy.core.websocket import FrameTracker, close_frame
from proxy.patience import Mark
from proxy.transport import RECEIVE_BYTES, SocketTransport

GOODBYE_S: Final = 1.0
"""How long a client may take to accept a close frame; whoever revokes waits for it."""


class Relay:
    """Carries the bytes of one upgraded connection. Whoever makes it closes both streams afterwards."""

    __slots__ = ("_client", "_ended", "_in_send", "_in_send_up", "_pieces", "_service", "_tracker")

    def __init__(self, client: trio.abc.Stream, service: trio.abc.HalfCloseableStream, *, websocket: bool) -> None:
        """Prepare, the head of the 101 having been sent.

        Args:
            client: Nobody else may use it until `run` has returned.
            service: The same.
            websocket: Whether what was switched to is WebSocket, so that it can be ended by a close frame.
        """
        self._client = client
        self._service = service
        self._tracker = FrameTracker(masked=False) if websocket else None
        self._in_send = False
        """A send to the client is under way: if it is cancelled, nobody knows how much of it has arrived."""
        self._in_send_up = False
        """The same towards the service."""
        self._pieces = 0
        """How many sends there have been, either way."""
        self._ended = False
        """Our direction towards the client has ended."""

    async def run(self, from_client: bytes, from_service: bytes) -> None:
        """Carry bytes until both directions have ended, or either side has gone.

        Args:
            from_client: What came behind the request that switched.
            from_service: What came behind the 101.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_up, from_client, nursery.cancel_scope)
            try:
                if not await self._carry_down(from_service):
                    # Its stream ends as a whole or not at all.
                    nursery.cancel_scope.cancel()
            except trio.BrokenResourceError:
                # Expected: one of the two has gone. The other is let go with it.
                nursery.cancel_scope.cancel()

    @property
    def held_up(self) -> Mark | None:
        """A mark of what has moved, if either side has not taken all that it was sent; None if both have."""
        if not (self._in_send or self._in_send_up):
            return None
        return (self._pieces, *taken(self._client), *taken(self._service))

    async def say_goodbye(self, code: int, reason: str) -> None:
        """Close a WebSocket with a reason, if the client can still read a frame where its stream stands.

        To be called after `run` was cancelled.
        """
        tracker = self._tracker
        if tracker is None or self._in_send or self._ended or not tracker.at_boundary or tracker.close_sent:
            return
        with trio.move_on_after(GOODBYE_S):
            try:
                await self._client.send_all(close_frame(code, reason))
                await end_sending(self._client)
            except trio.BrokenResourceError:
                # Expected: it has left already.
                return

    async def _carry_down(self, data: bytes | bytearray) -> bool:
        """Carry to the end; False if the client's stream cannot end in one direction alone."""
        client, service, tracker = self._client, self._service, self._tracker
        if not data:
            data = await service.receive_some(RECEIVE_BYTES)
        while data:
            self._in_send = True
            self._pieces += 1
            await client.send_all(data)
            self._in_send = False
            if tracker is not None:
                tracker.feed(data)
            data = await service.receive_some(RECEIVE_BYTES)
        self._ended = True
        return await end_sending(client)

    async def _carry_up(self, data: bytes | bytearray, both: trio.CancelScope) -> None:
        client, service = self._client, self._service
        try:
            if not data:
                data = await client.receive_some(RECEIVE_BYTES)
            while data:
                self._in_send_up = True
                self._pieces += 1
                await service.send_all(data)
                self._in_send_up = False
                data = await client.receive_some(RECEIVE_BYTES)
            await end_sending(service)
        except trio.BrokenResourceError:
            both.cancel()


def taken(stream: trio.abc.AsyncResource) -> Mark:
    """Return a mark of what the peer of a stream has taken; of one that is no plain socket, only whole sends show."""
    return stream.taken if isinstance(stream, SocketTransport) else ()


async def end_sending(stream: trio.abc.AsyncResource) -> bool:
    """End our direction; False if the stream, as TLS ones, cannot end one alone."""
    if not isinstance(stream, trio.abc.HalfCloseableStream):
        return False
    await stream.send_eof()
    return True
