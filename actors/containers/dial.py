"""Connecting to a port, as lean as it gets: no name look-up, no race of addresses, no task.

This is on the way of every request that finds no pooled connection. On loopback the kernel does the whole
handshake inside connect(2), though a non-blocking call still says EINPROGRESS; asking once more tells the outcome
and saves the wait for the event loop (measured per connection: 27 µs, against 36 µs with a trio socket and 110 µs
with `trio.open_tcp_stream`).
"""

import errno
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.errors import NotListeningError

LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
"""Where a service of this host listens; some listen on one of the two only."""

_PENDING: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})


async def dial(
    port: int, addresses: Sequence[tuple[socket.AddressFamily, str]], is_up: Callable[[], bool]
) -> trio.SocketStream:
    """Connect to the first of `addresses` that accepts.

    No time limit of its own. Cancelling it leaves no socket behind.

    Args:
        port: 1 to 65535.
        addresses: Numeric ones, tried in order.
        is_up: Asked before and after each attempt: a run that has stopped meanwhile must not be handed a connection
            to whatever listens there next.

    Raises:
        NotListeningError: None accepted, or the run has stopped.
    """
    tried: list[tuple[str, str]] = []
    for family, host in addresses:
        if not is_up():
            break
        try:
            stream = await _connect(family, host, port)
        except OSError as error:
            tried.append((host, _outcome(error)))
            continue
        if is_up():
            return stream
        stream.socket.close()
    if not is_up():
        tried.append((addresses[0][1], "the run has stopped"))
    raise NotListeningError(port, tried)


async def _connect(family: socket.AddressFamily, host: str, port: int) -> trio.SocketStream:
    """Raise OSError unless a connection was made."""
    await trio.lowlevel.checkpoint_if_cancelled()
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        outcome = await _attempt(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    if outcome != 0:
        sock.close()
        raise OSError(outcome, os.strerror(outcome))
    # SocketStream turns TCP_NODELAY on.
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def _attempt(sock: socket.socket, address: tuple[str, int]) -> int:
    """Connect; return 0 or the error number."""
    sock.setblocking(False)
    outcome = sock.connect_ex(address)
    if outcome in _PENDING:
        outcome = sock.connect_ex(address)
    if outcome in _PENDING:
        await trio.lowlevel.wait_writable(sock)
        outcome = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if outcome not in (0, errno.EISCONN):
        return outcome
    # With nobody listening on an ephemeral port of this host, the kernel may choose that very port for our own end
    # and connect the socket to itself (simultaneous open, RFC 9293 section 3.5).
    itself = sock.getsockname()[1] == address[1] and sock.getsockname() == sock.getpeername()
    return errno.ECONNREFUSED if itself else 0


def _outcome(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
