"""Visits under way: what an actor knows of the traffic it has let in.

The bytes of a visit never pass through its actor. What the actor keeps of it is a cord: pulling it tells
whoever moves the bytes to stop, and the actor can then wait until they have. That is how a revocation is
acknowledged only after the last stream that leaned on it is closed.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final

import structlog
import trio
from msgspec.structs import replace

from actors.containers.base import Run
from actors.failures import where_raised
from actors.sandbox.admission import CutBecause, Grant, still_holds
from actors.sandbox.decide import REVOCATIONS, Command, UnexposePort
from actors.sandbox.state import SandboxState

log = structlog.get_logger("portico.visits")

CutCallback = Callable[[CutBecause], None]


class Visit:
    """One admitted request, WebSocket or other stream, from admission until `end`.

    Whoever holds it must: dial only through `run`; set `on_cut` before moving bytes, or check `cut_because`
    after each wait; call `end` exactly when nothing of it is left, whatever happened (calling it again is
    harmless).
    """

    __slots__ = ("_book", "_ended", "_on_cut", "cut_because", "grant", "run")

    def __init__(self, book: "VisitBook", grant: Grant, run: Run) -> None:
        self._book: VisitBook | None = book
        self._on_cut: CutCallback | None = None
        self._ended: trio.Event | None = None
        self.grant: Final = grant
        """What it leans on."""
        self.run: Final = run
        """Where it leads; the run that it was admitted to, and no other."""
        self.cut_because: CutBecause | None = None
        """Why the cord was pulled; None while it was not."""

    def on_cut(self, callback: CutCallback) -> None:
        """Have `callback` called, once and at once, when the cord is pulled.

        It runs inside a turn of the actor: it must not wait and must not raise. If the cord has been pulled
        already it is called now.
        """
        self._on_cut = callback
        if self.cut_because is not None:
            callback(self.cut_because)

    def end(self) -> None:
        """Report that nothing of the visit is left. Idempotent."""
        book, self._book = self._book, None
        if book is not None:
            book.strike(self)
            self._on_cut = None
            if self._ended is not None:
                self._ended.set()

    def pull(self, reason: CutBecause) -> None:
        """Tell the holder to stop; the first reason stands. For the actor alone."""
        if self._book is None or self.cut_because is not None:
            return
        self.cut_because = reason
        if self._on_cut is not None:
            try:
                self._on_cut(reason)
            except Exception as error:  # noqa: BLE001  # logged, and the work goes on
                # A bug of one holder's. The cords behind it must be pulled all the same; that this visit does
                # not end is told to whoever waits for its end.
                log.error("a visit did not take its cut", reason=reason, **where_raised(error))

    async def wait_ended(self) -> None:
        """Block until the holder has called `end`."""
        if self._book is None:
            return
        if self._ended is None:
            self._ended = trio.Event()
        await self._ended.wait()

    @property
    def under_way(self) -> bool:
        """False once `end` was called."""
        return self._book is not None


Ending = tuple[Visit, CutBecause]
"""A visit that has to end, and why."""


class VisitBook:
    """The visits of one actor that are under way."""

    __slots__ = ("_drains", "_visits", "last_end")

    def __init__(self) -> None:
        # {visit: what it is judged by}: its own grant, or less of it once it lingers.
        self._visits: dict[Visit, Grant] = {}
        self._drains: set[trio.CancelScope] = set()
        self.last_end = -float("inf")
        """When the last visit ended, on trio's clock."""

    def open(self, grant: Grant, run: Run) -> Visit:
        """Enter a new visit."""
        visit = Visit(self, grant, run)
        self._visits[visit] = grant
        return visit

    def strike(self, visit: Visit) -> None:
        """Remove a visit that has ended; `Visit.end` calls this."""
        del self._visits[visit]
        if not self._visits:
            self.last_end = trio.current_time()

    def groundless(self, state: SandboxState | None, now: float) -> list[Ending]:
        """Return the visits whose grant no longer stands in `state`, with the reason."""
        found = []
        for visit, grant in self._visits.items():
            reason = still_holds(state, grant, now)
            if reason is not None:
                found.append((visit, reason))
        return found

    def losing(self, command: Command, state: SandboxState | None, now: float) -> list[Ending]:
        """Return the visits whose end the sender of `command`, which has led to `state`, waits for.

        Those that have lost their ground only now; and for whoever takes something back also those that had lost
        it before and are still under way: a revocation that finds its work done already waits for its end.
        """
        groundless = self.groundless(state, now)
        if isinstance(command, UnexposePort):
            lingering = [
                (visit, CutBecause.UNEXPOSED)
                for visit, grant in self._visits.items()
                if visit.grant.port == command.port and grant is not visit.grant
            ]
            return lingering + [
                (visit, reason)
                for visit, reason in groundless
                if visit.cut_because is None or visit.grant.port == command.port
            ]
        if isinstance(command, REVOCATIONS):
            return groundless
        return [(visit, reason) for visit, reason in groundless if visit.cut_because is None]

    def come_by(self, bindings: Container[int]) -> list[Ending]:
        """Return the visits that came by custom hostnames of these bindings, which are over."""
        return [(visit, CutBecause.UNBOUND) for visit in self._visits if visit.grant.binding in bindings]

    def let_linger(self, losing: Iterable[Ending]) -> None:
        """Let visits go on for a while whose port was taken back; the others are cut.

        What else a lingering visit leans on must still stand: its run, its sandbox, its bearer token.
        """
        for visit, reason in losing:
            if reason is CutBecause.UNEXPOSED:
                # Its share, if it came by one, went with the port.
                self._visits[visit] = replace(visit.grant, exposure_generation=None, share_generation=0)
            else:
                visit.pull(reason)

    async def drain(self, lingering: Sequence[Ending], drain_s: float) -> None:
        """Let visits go on for `drain_s` seconds, or until `pull_all`; then cut them."""
        with trio.move_on_after(drain_s) as scope:
            self._drains.add(scope)
            await wait_all_ended((visit for visit, _ in lingering), math.inf)
        self._drains.discard(scope)
        pull(lingering)

    def pull_all(self, reason: CutBecause) -> None:
        """Tell all of them to stop; no drain lasts any longer."""
        for scope in self._drains:
            scope.cancel()
        for visit in self:
            visit.pull(reason)

    def __iter__(self) -> Iterator[Visit]:
        return iter(tuple(self._visits))

    def __len__(self) -> int:
        return len(self._visits)


async def wait_all_ended(visits: Iterable[Visit], timeout_s: float) -> int:
    """Wait until all have ended, at most `timeout_s` seconds; return how many have not."""
    visits = tuple(visits)
    with trio.move_on_after(timeout_s):
        for visit in visits:
            await visit.wait_ended()
    return sum(visit.under_way for visit in visits)


async def wait_cut(ended: Sequence[Ending], timeout_s: float) -> tuple[int, int]:
    """Wait for the end of visits, at most `timeout_s`; return how many had to be told, and how many have not ended."""
    visits = [visit for visit, _ in ended]
    remaining = await wait_all_ended(visits, timeout_s)
    return sum(visit.cut_because is not None for visit in visits), remaining


def pull(ended: Iterable[Ending]) -> None:
    """Tell visits to stop."""
    for visit, reason in ended:
        visit.pull(reason)
