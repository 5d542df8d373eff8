"""Visits under way: what an actor knows of the traffic it has let in.

The bytes of a visit never pass through its actor. What the actor keeps of it is a cord: pulling it tells
whoever moves the bytes to stop, and the actor can then wait until they have. That is how a revocation is
acknowledged only after the last stream that leaned on it is closed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import trio

from actors.containers.base import Run
from actors.sandbox.admission import CutBecause, Grant, still_holds
from actors.sandbox.state import SandboxState

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
            self._on_cut(reason)

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


class VisitBook:
    """The visits of one actor that are under way."""

    __slots__ = ("_visits", "last_end")

    def __init__(self) -> None:
        self._visits: set[Visit] = set()
        self.last_end = -float("inf")
        """When the last visit ended, on trio's clock."""

    def open(self, grant: Grant, run: Run) -> Visit:
        """Enter a new visit."""
        visit = Visit(self, grant, run)
        self._visits.add(visit)
        return visit

    def strike(self, visit: Visit) -> None:
        """Remove a visit that has ended; `Visit.end` calls this."""
        self._visits.discard(visit)
        if not self._visits:
            self.last_end = trio.current_time()

    def groundless(self, state: SandboxState | None, now: float) -> list[tuple[Visit, CutBecause]]:
        """Return the visits whose grant no longer stands in `state`, with the reason."""
        found = []
        for visit in self._visits:
            reason = still_holds(state, visit.grant, now)
            if reason is not None:
                found.append((visit, reason))
        return found

    def __iter__(self) -> Iterator[Visit]:
        return iter(tuple(self._visits))

    def __len__(self) -> int:
        return len(self._visits)


async def wait_all_ended(visits: Iterable[Visit], timeout_s: float) -> int:
    """Wait until all have ended, at most `timeout_s`; return how many have not."""
    visits = tuple(visits)
    with trio.move_on_after(timeout_s):
        for visit in visits:
            await visit.wait_ended()
    return sum(visit.under_way for visit in visits)
