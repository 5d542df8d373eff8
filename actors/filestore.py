"""Logs as files in one folder, owned by one process.

What a log's bytes mean is in `actors.core.record`, the rules of writing them are in `actors.log`, where which file
lies is in `actors.layout`. This module keeps order among the callers: one tenure per sandbox, one operation at a
time per log, blocking calls in worker threads.

Only an append opens a file for longer. A store of many sandboxes keeps no more than `OPEN_LOGS_MAX` open, the most
recently used ones: opening one for each append costs three more system calls, each a wait for the interpreter's
lock, and an unbounded number would meet the limit of descriptors that sockets need too.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from actors.core.record import Scan
from actors.errors import (
    AppendFailedError,
    FencedError,
    SandboxNotFoundError,
    StoreError,
)
from actors.files import Files, RealFiles, describe_failure
from actors.layout import Layout
from actors.log import Batch, Found, Log, LogReport, examine
from actors.sandbox.ids import SandboxId
from actors.store import Entry, History, Tenure
from actors.workers import Workers

# Leaves room for sockets under the usual soft limit of 1024 descriptors.
OPEN_LOGS_MAX: Final = 512


class FileStore:
    """A `Store` on a local file system. Use as an async context manager; may be opened again once it is closed."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        read_only: bool = False,
        files: Files | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Touch nothing yet.

        Args:
            folder: Made when the store is opened; its parent must exist.
            read_only: Take no lock and change nothing; only `read`, `exists`, `sandboxes`, `report` and `buried`
                work, beside whatever process owns the folder.
            files: None: the operating system's.
            clock: Names buried logs.
        """
        self.folder = Path(folder)
        """Where everything is kept; containers have their own folders in it."""
        self._read_only = read_only
        self._files = files if files is not None else RealFiles()
        self._layout = Layout(self._files, os.path.abspath(folder))
        self._clock = clock
        self._workers = Workers()
        self._opened = False
        self._lock_fd: int | None = None
        # {sandbox: its place}: claimed, being claimed, or in need of mending by the next claim.
        self._places: dict[SandboxId, _Place] = {}
        # {sandbox: last epoch given out}, of sandboxes that were left in good order: all that their logs hold is
        # durable, and a claim that wrote nothing must still not be given the same epoch twice.
        self._left: dict[SandboxId, int] = {}
        # {place: None}, least recently used first: those whose logs may hold a descriptor.
        self._open_logs: dict[_Place, None] = {}
        # True until the folder of buried logs has been synced after a failure.
        self._burial_failed = False

    async def __aenter__(self) -> Self:
        """Take the folder.

        Raises:
            StoreLockedError: Another store, in this process or another, has it open for writing.
            StoreError: The folder cannot be made or read.
            RuntimeError: It is open already.
        """
        if self._opened:
            raise RuntimeError("the store is open already")
        self._workers = Workers()
        self._workers.__enter__()
        try:
            if not self._read_only:
                self._lock_fd = await self._workers.run(self._layout.prepare)
        except BaseException as error:
            self._workers.__exit__(None, None, None)
            if isinstance(error, OSError):
                raise StoreError(
                    f"cannot open {self.folder}: {describe_failure(error)}; "
                    "a folder is wanted that this user may make, read and write"
                ) from error
            raise
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all tenures, wait for the appends under way, and let the folder go. Idempotent."""
        with trio.CancelScope(shield=True):
            for place in list(self._places.values()):
                async with place:
                    place.tenure = None
                    await self._finish(place)
                    self._forget_open(place)
        self._opened = False
        self._workers.__exit__(None, None, None)
        # Whoever owns the folder next may change any of it.
        self._places.clear()
        self._left.clear()
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            # The file stays: removing it would let two processes lock two files of one name.
            self._files.close(fd)

    async def claim(self, sandbox: SandboxId) -> Tenure:
        """See `Store.claim`."""
        self._check_writable()
        place = self._places.get(sandbox)
        if place is None:
            place = self._places[sandbox] = _Place(self._left.pop(sandbox, None))
        async with place:
            self._forget_open(place)
            # From here on the older tenure is over, whatever becomes of this claim.
            place.tenure = None
            log = Log(self._files, self._layout.path(sandbox), sandbox)
            try:
                result = await self._workers.run(self._recover, log, place.found)
            except OSError as error:
                place.found = Found(durable_length=place.found.durable_length, recovery_failed=True)
                raise StoreError(f"cannot read the log of {sandbox}: {describe_failure(error)}") from error
            history = result.history
            last = history.records[-1] if history.records else history.snapshot
            place.epoch = max(place.epoch, 0 if last is None else last.epoch) + 1
            place.found = Found(settled=True)
            place.log, place.failure = log, None
            place.tenure = Tenure(sandbox, place.epoch, history)
            return place.tenure

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        """See `Store.append`.

        Raises:
            ValueError: An entry cannot be stored; nothing was written and the tenure lives.
        """
        place = self._place(tenure)
        async with place:
            log = place.log_of(tenure)
            if entries:
                batch = log.encode(entries, tenure.epoch)
                self._keep_open(place)
                await self._write(place, tenure, log.append, batch)

    async def compact(self, tenure: Tenure, snapshot: Entry) -> None:
        """See `Store.compact`. The snapshot is recorded under the log's own reserved name, whatever its name is.

        Raises:
            ValueError: The log is empty, or the snapshot cannot be stored; nothing was written.
        """
        place = self._place(tenure)
        async with place:
            log = place.log_of(tenure)
            await self._write(place, tenure, log.compact, log.encode_snapshot(snapshot, tenure.epoch))

    async def release(self, tenure: Tenure) -> None:
        """See `Store.release`."""
        place = self._places.get(tenure.sandbox)
        if place is None or place.tenure is not tenure:
            return
        # Waits for no more than an append that is under way.
        with trio.CancelScope(shield=True):
            async with place:
                if place.tenure is tenure:
                    await self._finish(place)
                    self._leave(tenure.sandbox, place)

    async def bury(self, tenure: Tenure) -> None:
        """See `Store.bury`. For a sandbox without a log it only ends the tenure."""
        place = self._place(tenure)
        async with place:
            log = place.log_of(tenure)
            try:
                await self._workers.run(self._bury, log, tenure)
            except OSError as error:
                self._burial_failed = True
                failure = StoreError(f"cannot bury the log of {tenure.sandbox}: {describe_failure(error)}")
                place.fail(failure, durable_length=None)
                raise failure from error
            self._leave(tenure.sandbox, place)

    async def read(self, sandbox: SandboxId) -> History:
        """See `Store.read`."""
        report = await self.report(sandbox)
        report.check()
        if not report.scan.offsets:
            raise SandboxNotFoundError(f"there is no log of sandbox {sandbox}")
        return report.scan.history

    async def report(self, sandbox: SandboxId) -> LogReport:
        """Look at a log byte by byte, a damaged one too, without claiming it.

        Raises:
            SandboxNotFoundError: There is no log.
            StoreError: It cannot be read.
        """
        try:
            return await self._workers.run(examine, self._files, self._layout.path(sandbox), sandbox)
        except FileNotFoundError as error:
            raise SandboxNotFoundError(f"there is no log of sandbox {sandbox}") from error
        except OSError as error:
            raise StoreError(f"cannot read the log of {sandbox}: {describe_failure(error)}") from error

    async def buried(self, sandbox: SandboxId) -> Sequence[LogReport]:
        """Look at the logs of destroyed sandboxes of that id, the oldest first."""
        try:
            return await self._workers.run(self._layout.buried, sandbox)
        except OSError as error:
            raise StoreError(f"cannot read the buried logs of {sandbox}: {describe_failure(error)}") from error

    def exists(self, sandbox: SandboxId) -> bool:
        """See `Store.exists`. An empty file, which a failed first append may leave, is not a log."""
        return self._layout.exists(sandbox)

    async def sandboxes(self) -> Sequence[SandboxId]:
        """See `Store.sandboxes`."""
        try:
            return await self._workers.run(self._layout.sandboxes)
        except OSError as error:
            raise StoreError(f"cannot list {self.folder}: {describe_failure(error)}") from error

    def size_since_snapshot(self, tenure: Tenure) -> tuple[int, int]:
        """See `Store.size_since_snapshot`.

        Raises: as `append`, if the tenure is over.
        """
        log = self._place(tenure).log_of(tenure)
        return log.records_since_snapshot, log.bytes_since_snapshot

    # Order among callers; all of this runs in the trio thread.

    def _check_writable(self) -> None:
        if self._lock_fd is None:
            raise RuntimeError("the store is open for reading only" if self._read_only else "the store is not open")

    def _place(self, tenure: Tenure) -> "_Place":
        place = self._places.get(tenure.sandbox)
        if place is None:
            raise FencedError(f"epoch {tenure.epoch} of sandbox {tenure.sandbox} has ended")
        return place

    async def _write(self, place: "_Place", tenure: Tenure, write: Callable[[Batch], None], batch: Batch) -> None:
        log = place.log_of(tenure)
        try:
            await self._workers.run(write, batch)
        except trio.Cancelled:
            # Only ever raised before the write began: nothing has happened.
            raise
        except BaseException as error:
            text = describe_failure(error) if isinstance(error, OSError) else type(error).__name__
            failure = AppendFailedError(f"writing to the log of {tenure.sandbox} failed: {text}")
            self._forget_open(place)
            place.fail(failure, durable_length=log.durable_length)
            raise failure from error
        tenure.sequence = batch.sequence

    def _leave(self, sandbox: SandboxId, place: "_Place") -> None:
        """End the tenure, and forget the place unless something is known of it that the next claim must know."""
        self._forget_open(place)
        place.tenure = place.log = None
        if place.failure is None and not place.is_awaited:
            del self._places[sandbox]
            self._left[sandbox] = place.epoch

    async def _finish(self, place: "_Place") -> None:
        """Leave of the log nothing but its records."""
        if place.log is not None and place.log.has_room:
            await self._workers.run(place.log.finish)

    def _keep_open(self, place: "_Place") -> None:
        """Note that the log is about to be used; close the one that was not used for longest, if they are many."""
        self._open_logs.pop(place, None)
        self._open_logs[place] = None
        if len(self._open_logs) > OPEN_LOGS_MAX:
            idle = next((other for other in self._open_logs if not other.is_busy), None)
            if idle is not None:
                self._forget_open(idle)

    def _forget_open(self, place: "_Place") -> None:
        # Closing a file that has nothing left to write does not block.
        self._open_logs.pop(place, None)
        if place.log is not None:
            place.log.close()

    def _bury(self, log: Log, tenure: Tenure) -> None:
        # In a worker thread.
        log.finish()
        self._layout.bury(tenure.sandbox, tenure.sequence, self._clock())

    def _recover(self, log: Log, found: Found) -> Scan:
        # In a worker thread.
        if self._burial_failed:
            self._layout.sync_graves()
            self._burial_failed = False
        return log.recover(found)


class _Place:
    """What the store knows of one sandbox that is claimed, or whose log is in doubt. Entered by one task at a time."""

    __slots__ = ("_lock", "epoch", "failure", "found", "log", "tenure")

    def __init__(self, left: int | None) -> None:
        """Begin with what is known.

        Args:
            left: The last epoch given out, if the log was left in good order; None if it was not seen before.
        """
        self._lock = trio.Lock()
        self.epoch = left or 0
        """The last one given out."""
        self.found = Found(settled=left is not None)
        """What the next claim must know."""
        self.log: Log | None = None
        self.tenure: Tenure | None = None
        """The only one that may write. Invariant: while it is set, `log` or `failure` is."""
        self.failure: StoreError | None = None
        """Why the tenure is dead, until the next claim."""

    async def __aenter__(self) -> None:
        # `acquire` alone would yield to all other tasks even when nobody holds the lock, which is nearly always.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def is_busy(self) -> bool:
        return self._lock.locked()

    @property
    def is_awaited(self) -> bool:
        return self._lock.statistics().tasks_waiting > 0

    def log_of(self, tenure: Tenure) -> Log:
        """Return the log that `tenure` may write to.

        Raises:
            FencedError: It is not the current tenure.
            AppendFailedError: It died of an earlier failure, which is the cause.
        """
        if self.tenure is not tenure:
            raise FencedError(f"epoch {tenure.epoch} of sandbox {tenure.sandbox} has ended")
        if self.log is None:
            raise AppendFailedError(f"the log of {tenure.sandbox} failed before: claim it anew") from self.failure
        return self.log

    def fail(self, failure: StoreError, *, durable_length: int | None) -> None:
        """Let the tenure die, and note what the next claim must know."""
        self.log = None
        self.failure = failure
        self.found = Found(durable_length=durable_length)
