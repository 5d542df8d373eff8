"""The slow things an actor has under way, outside its turns."""

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple

import structlog
import trio

from actors.failures import where_raised

log = structlog.get_logger("portico.children")

Ts = TypeVarTuple("Ts")


class Children:
    """Tasks started by one actor in a nursery that outlives it.

    A nursery of its own would cost each idle actor some 3 KiB; most never have a child.
    """

    __slots__ = ("_minded", "_nursery", "_unminded", "_waiters")

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        # {cancel scope: what it runs}
        self._minded: dict[trio.CancelScope, object] = {}
        self._unminded: set[trio.CancelScope] = set()
        self._waiters = trio.lowlevel.ParkingLot()

    def start(self, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Start a child that counts: its actor stays in memory until it has ended."""
        scope = trio.CancelScope()
        self._minded[scope] = task
        self._nursery.start_soon(self._live, scope, task, *args)

    def start_unminded(self, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Start a child that only watches: it does not keep the actor in memory."""
        scope = trio.CancelScope()
        self._unminded.add(scope)
        self._nursery.start_soon(self._live, scope, task, *args)

    async def _live(self, scope: trio.CancelScope, task: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        try:
            with scope:
                await task(*args)
        except Exception as error:  # noqa: BLE001  # logged, and the work goes on
            # A safety net: the nursery is everybody's, and one sandbox must not take the others down.
            log.error("child failed", task=getattr(task, "__qualname__", repr(task)), **where_raised(error))
        finally:
            self._minded.pop(scope, None)
            self._unminded.discard(scope)
            self._waiters.unpark_all()

    def cancel(self) -> None:
        """Cancel all of them."""
        for scope in (*self._minded, *self._unminded):
            scope.cancel()

    async def wait_none(self) -> None:
        """Block until none that counts is left."""
        while self._minded:
            await self._waiters.park()

    async def wait_only(self, *tasks: object) -> None:
        """Block until no child that runs one of `tasks` is left."""
        while any(task in tasks for task in self._minded.values()):
            await self._waiters.park()

    def __len__(self) -> int:
        return len(self._minded)
