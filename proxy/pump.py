"""One wait on many sockets.

A trio task that waits for its socket costs some 9 microseconds a wait and several KiB while it does; a browser's idle
connection deserves neither. Here one task waits for all sockets at once, through an epoll set of its own inside the
one that trio waits on, and calls whoever is concerned. What they do then must not wait: they are state machines
(`proxy.lane`, `proxy.tunnel`), and whatever takes a wait of another kind goes on in a task of its own.

Level-triggered: what one call leaves unread brings the next, so nobody has to empty a socket, and nobody can keep
the others waiting by filling one.
"""

import os
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol, TypeVarTuple

import structlog
import trio

from actors import where_raised

log = structlog.get_logger("portico.pump")

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
ENDED: Final = select.EPOLLRDHUP
"""The peer has ended its direction, whether or not what it sent before has been read (epoll_ctl(2))."""
FAILED: Final = select.EPOLLERR
"""The peer has broken off, by a reset; told always, asked for or not."""
BROKEN: Final = select.EPOLLHUP | FAILED
"""Both directions are over, in whatever way; told always, asked for or not."""

BATCH_MAX: Final = 128
"""How many sockets are dealt with before the rest of the process gets a turn."""

Ts = TypeVarTuple("Ts")


class Handler(Protocol):
    """Owns a socket in the pump."""

    def on_ready(self, mask: int) -> None:
        """Do what can be done without waiting; called again as long as the socket is ready for what was asked."""

    def on_bug(self) -> None:
        """`on_ready`, or what it had called `soon`, has raised: have done with everything, whatever state it is in."""


class Pump:
    """The sockets that are waited on together, and whom to call. `run` is its task; the rest are plain calls."""

    def __init__(self) -> None:
        self._epoll: Final = select.epoll()
        # By descriptor: whom to call. The kernel gives the lowest number that is free, so this is as long as there have
        # been sockets at once, and takes a tenth of what a table would.
        self._handlers: list[Handler | None] = []
        self._count = 0
        # Taken out in this round: what the round still says of that number is of a socket that is gone.
        self._removed: set[int] = set()
        self._soon: list[tuple[Handler, Callable[[], None]]] = []
        # Wakes the task for what is due soon; True while it has been rung and not heard.
        self._bell: Final = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False
        self._waiting = False
        self._epoll.register(self._bell, READABLE)
        self._handlers += [None] * (self._bell + 1)

    def add(self, sock: socket.socket, handler: Handler, mask: int) -> None:
        """Call `handler` when `sock` is ready for what `mask` says."""
        number = sock.fileno()
        self._epoll.register(number, mask)
        handlers = self._handlers
        if number >= len(handlers):
            handlers += [None] * (number + 1 - len(handlers))
        if handlers[number] is None:
            self._count += 1
        handlers[number] = handler

    def change(self, sock: socket.socket, mask: int) -> None:
        """Wait for something else."""
        self._epoll.modify(sock.fileno(), mask)

    def remove(self, sock: socket.socket) -> None:
        """Wait no more. To be called before `sock` is closed: its number may be another's right after."""
        number = sock.fileno()
        # -1 if it is closed already.
        if not 0 <= number < len(self._handlers) or self._handlers[number] is None:
            return
        self._handlers[number] = None
        self._count -= 1
        if not self._epoll.closed:
            self._epoll.unregister(number)
            self._removed.add(number)

    def soon(self, handler: Handler, call: Callable[[], None]) -> None:
        """Call `call` from the task, after those who are being called now. It is `handler` who is told of its bugs."""
        self._soon.append((handler, call))
        if self._waiting and not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    async def run(self) -> None:
        """Call those whose sockets are ready, until cancelled."""
        while True:
            ready = self._epoll.poll(0, BATCH_MAX)
            if not ready and not self._soon:
                self._waiting = True
                try:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                finally:
                    self._waiting = False
                continue
            self._removed.clear()
            for number, mask in ready:
                handler = self._handlers[number]
                if handler is None:
                    if number == self._bell:
                        os.eventfd_read(self._bell)
                        self._rung = False
                elif number not in self._removed:
                    _call(handler, handler.on_ready, mask)
            if self._soon:
                due, self._soon = self._soon, []
                for handler, call in due:
                    _call(handler, call)
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Let go of the epoll set, once `run` has ended."""
        self._epoll.close()
        os.close(self._bell)

    def __len__(self) -> int:
        return self._count


def _call(handler: Handler, call: Callable[[*Ts], None], *args: *Ts) -> None:
    try:
        call(*args)
    except Exception as bug:  # noqa: BLE001  # logged, and the others go on
        # A safety net: one connection's bug must not take the others down.
        log.error("connection failed", **where_raised(bug))
        try:
            handler.on_bug()
        except Exception as second:  # noqa: BLE001  # logged, and the others go on
            log.error("connection failed", **where_raised(second))
