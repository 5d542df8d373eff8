"""Two connected streams in this process's memory, with room for one piece each way.

So that a server which has parsed a request already can be a client of our router like any other, without a socket
in between: no descriptors are spent, and a reader who is slow holds up its writer as a socket would.
"""

from operator import index

import trio

PIECES_BUFFERED = 1
"""One side may prepare a piece while the other takes the one before it; more would only be memory."""


class PipeEnd(trio.abc.HalfCloseableStream):
    """One end. Made in pairs by `open_pipe`.

    Its peer's `close` ends it like a closed socket: what was sent before can still be received, then comes ``b""``,
    and sending raises `trio.BrokenResourceError`.
    """

    def __init__(self, sending: trio.MemorySendChannel[bytes], receiving: trio.MemoryReceiveChannel[bytes]) -> None:
        self._sending = sending
        self._receiving = receiving
        # The part of a piece that went beyond what its reader asked for.
        self._rest = b""
        self._eof_sent = False
        self._busy_sending = False
        self._busy_receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over `data` as one piece, once the peer has taken the piece before the last."""
        if self._busy_sending:
            raise trio.BusyResourceError("another task sends on this stream")
        if self._eof_sent:
            raise trio.ClosedResourceError("this direction was ended")
        self._busy_sending = True
        try:
            if data:
                await self._sending.send(bytes(data))
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self._busy_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: a piece that does not fit waits in `send_all`."""
        if self._eof_sent:
            raise trio.ClosedResourceError("this direction was ended")
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End our direction; the peer's goes on."""
        self._eof_sent = True
        self._sending.close()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return a piece, at most `max_bytes` of it; ``b""`` is the end."""
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("at least one byte is received")
        if self._busy_receiving:
            raise trio.BusyResourceError("another task receives from this stream")
        self._busy_receiving = True
        try:
            data = await self._next_piece()
        finally:
            self._busy_receiving = False
        if max_bytes is not None and len(data) > max_bytes:
            data, self._rest = data[:max_bytes], data[max_bytes:]
        return data

    async def _next_piece(self) -> bytes:
        if self._rest:
            await trio.lowlevel.checkpoint()
            data, self._rest = self._rest, b""
            return data
        try:
            return await self._receiving.receive()
        except trio.EndOfChannel:
            await trio.lowlevel.checkpoint()
            return b""

    def close(self) -> None:
        """Close both directions. Whoever waits in this object gets a `trio.ClosedResourceError`. Idempotent."""
        self._eof_sent = True
        self._rest = b""
        self._sending.close()
        self._receiving.close()

    async def aclose(self) -> None:
        """Close, and give others a turn."""
        self.close()
        await trio.lowlevel.checkpoint()


def open_pipe() -> tuple[PipeEnd, PipeEnd]:
    """Return the two ends of a new pipe."""
    there = trio.open_memory_channel[bytes](PIECES_BUFFERED)
    back = trio.open_memory_channel[bytes](PIECES_BUFFERED)
    return PipeEnd(there[0], back[1]), PipeEnd(back[0], there[1])
