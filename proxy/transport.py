"""A stream over a plain non-blocking socket, in the fewest steps.

`trio.SocketStream` costs some 23 us for a send and a receive that are both ready; this costs 8, by trying first and
waiting only when the kernel says so, and by not taking a checkpoint on each side of every call. What that would
cost in fairness, and in being cancelled in time, is bought back by a checkpoint now and then: a stream that always
finds both its sockets ready must still hear that its cord was pulled.
"""

import errno
import socket
import struct
from typing import Final

import trio

from proxy.patience import Mark, untaken

RECEIVE_BYTES: Final = 64 * 1024
"""One read. Bigger ones save system calls on bodies, and cost an allocation on every small response."""

READY_RUN_MAX: Final = 16
"""How many calls in a row may find their socket ready before others get a turn, and a cancellation its chance."""

KEEPALIVE_S: Final = 60
"""After so long without a byte either way, the kernel begins to ask whether the peer is still there."""

UNTAKEN_S: Final = 300
"""How long what was sent may go unacknowledged before the kernel gives the connection up (tcp(7), TCP_USER_TIMEOUT):
for a peer that is gone without a word. One that has only stopped reading is for `proxy.patience`."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class SocketTransport(trio.abc.HalfCloseableStream):
    """One connected TCP or Unix socket, owned by this object.

    One task may send while another receives. Cancelling a receive loses nothing; cancelling a send leaves it
    unknown how much was sent, so the connection must then be closed.
    """

    __slots__ = ("_parts", "_ready_run", "_sent", "_waited", "peer", "socket")

    def __init__(self, sock: socket.socket, *, peer: str | None = None, tuned: bool = False) -> None:
        """Take a connected socket.

        Args:
            sock: Owned by this object from now on.
            peer: The other side's IP address; None asks the socket.
            tuned: Whether it was accepted from a socket that `tune` has seen.
        """
        sock.setblocking(False)
        if not tuned:
            tune(sock)
        self.socket: Final = sock
        """For those who wait for it by other means, while nobody waits in here."""
        self._ready_run = 0
        # How often a part of something has found room, where not all of it did at once.
        self._parts = 0
        # Something was sent since the last receive. What comes next is most likely the answer to that, and it takes a
        # while: asking for it at once is a system call and an exception for nothing.
        self._sent = False
        # Whether anybody has ever waited by way of trio, which must then be told of the end.
        self._waited = False
        self.peer: Final = _peer_address(sock) if peer is None else peer
        """The other side's IP address; ``""`` if it has none, or has gone already."""

    @classmethod
    def take_over(cls, stream: trio.SocketStream) -> "SocketTransport":
        """Make one out of trio's stream, which must not be used any more."""
        trio_socket = stream.socket
        family, kind, protocol = trio_socket.family, trio_socket.type, trio_socket.proto
        return cls(socket.socket(family, kind, protocol, fileno=trio_socket.detach()))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has arrived, at most `max_bytes`; wait if nothing has. ``b""`` is the end.

        Raises:
            trio.BrokenResourceError: The peer reset the connection.
            trio.ClosedResourceError: `close` was called.
        """
        if self._sent:
            self._sent = False
            self._ready_run = 0
            await self._wait_readable()
        self._ready_run += 1
        if self._ready_run > READY_RUN_MAX:
            # Before the call, so that a cancellation loses nothing.
            self._ready_run = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.socket.recv(max_bytes or RECEIVE_BYTES)
            except BlockingIOError:
                self._ready_run = 0
                await self._wait_readable()
            except OSError as error:
                raise self._translated(error) from error

    async def _wait_readable(self) -> None:
        self._waited = True
        await trio.lowlevel.wait_readable(self.socket)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, waiting for room.

        Raises: as `receive_some`.
        """
        self._ready_run += 1
        if self._ready_run > READY_RUN_MAX:
            self._ready_run = 0
            await trio.lowlevel.checkpoint()
        self._sent = True
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._translated(error) from error
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, rest: memoryview) -> None:
        self._ready_run = 0
        while rest:
            self._waited = True
            await trio.lowlevel.wait_writable(self.socket)
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._translated(error) from error
            self._parts += 1

    @property
    def taken(self) -> Mark:
        """While a send waits: a mark of what its peer has taken so far."""
        return self._parts, untaken(self.socket)

    async def wait_send_all_might_not_block(self) -> None:
        """Block until there is room to send."""
        if self.socket.fileno() == -1:
            raise trio.ClosedResourceError("this connection was closed")
        self._waited = True
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """End our direction; the peer's goes on."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise self._translated(error) from error

    def close(self) -> None:
        """Close at once. Whoever waits in this object gets a `trio.ClosedResourceError`. Idempotent."""
        if self.socket.fileno() != -1:
            if self._waited:
                trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
            # There is nothing left to wait for; the next receive says so.
            self._sent = False

    def abort(self) -> None:
        """Close so that the peer sees an error, not an end: for a body that only its end would delimit."""
        self.reset_on_close()
        self.close()

    def reset_on_close(self) -> None:
        """Have whoever closes it abort it: so the kernel lets go of what its peer has not taken."""
        if self.socket.fileno() != -1:
            reset_on_close(self.socket)

    async def aclose(self) -> None:
        """Close, and give others a turn."""
        self.close()
        await trio.lowlevel.checkpoint()

    def is_quiet(self) -> bool:
        """Say whether the peer has neither closed nor sent anything: what an idle connection must be."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            # Reset while idle; the caller discards the connection, there is nothing else to tell.
            return False
        return False

    def _translated(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self.socket.fileno() == -1:
            return trio.ClosedResourceError("this connection was closed")
        return trio.BrokenResourceError(f"connection broken: {error.strerror}")


def tune(sock: socket.socket, *, untaken_s: float = UNTAKEN_S) -> None:
    """Set what a connection needs; what is accepted from a listening socket has its options (tcp(7)).

    Args:
        sock: To set it on.
        untaken_s: As `UNTAKEN_S`, where a peer may be waited for longer than that. Infinite is the kernel's own
            patience, which for a silent peer is about a quarter of an hour.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # A head and its body may leave in two sends; Nagle would hold the second back until the first is
        # acknowledged.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A stream may be silent for as long as it likes, so only the kernel can tell a peer that is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _milliseconds(untaken_s))


def reset_on_close(sock: socket.socket) -> None:
    """Have whoever closes it abort it; see `SocketTransport.reset_on_close`."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _milliseconds(seconds: float) -> int:
    """Return what the kernel takes: 0 is its own default, and it reads no more than 32 bits."""
    return 0 if seconds * 1000 >= 2**31 else int(seconds * 1000)


def _peer_address(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        # It has gone already; the first receive will say so.
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""
