"""Logs as files in one folder, owned by one process.

::

    <folder>/LOCK                                  held with flock(2) while a store is open; says the owner's pid
    <folder>/sandboxes/<xx>/<id>.log               xx: two hex digits of a hash of the id, so that folders stay small
    <folder>/sandboxes/<xx>/<id>.log.torn-<offset> what a crash left of an append nobody was told about
    <folder>/destroyed/<id>.<time>-<sequence>.log  logs of destroyed sandboxes

Folders are 0700 and files 0600: logs hold port tokens. What a log's bytes mean is in `actors.core.record`; the
rules of writing them are in `actors.log`. This module keeps order among the callers: one tenure per sandbox, one
operation at a time per log, blocking calls in worker threads.

Only an append opens a file for longer. A store of many sandboxes keeps no more than `OPEN_LOGS_MAX` open, the most
recently used ones: opening one for each append costs three more system calls, each a wait for the interpreter's
lock, and an unbounded number would meet the limit of descriptors that sockets need too.
"""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from actors.core.record import Scan, Tail, scan
from actors.errors import (
    AppendFailedError,
    FencedError,
    InvalidNameError,
    LogCorruptError,
    SandboxNotFoundError,
    StoreError,
    StoreLockedError,
)
from actors.files import Files, RealFiles, describe_failure
from actors.log import Found, Log
from actors.sandbox.ids import SandboxId
from actors.store import Entry, History, Record, Tenure
from actors.workers import Workers

# Leaves room for sockets under the usual soft limit of 1024 descriptors.
OPEN_LOGS_MAX: Final = 512

_SUFFIX: Final = ".log"
_SHELVES: Final = tuple(f"{number:02x}" for number in range(256))


class FileStore:
    """A `Store` on a local file system. Use as an async context manager; not reusable."""

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
        self._clock = clock
        self._workers = Workers()
        self._lock_fd: int | None = None
        # {sandbox: its place}: claimed, being claimed, or in need of mending by the next claim.
        self._places: dict[SandboxId, _Place] = {}
        # {sandbox: last epoch given out}, of sandboxes that were left in good order: all that their logs hold is
        # durable, and a claim that wrote nothing must still not be given the same epoch twice.
        self._left: dict[SandboxId, int] = {}
        # {place: None}, least recently used first: those whose logs may hold a descriptor.
        self._open_logs: dict[_Place, None] = {}

    async def __aenter__(self) -> Self:
        """Take the folder.

        Raises:
            StoreLockedError: Another store, in this process or another, has it open for writing.
            StoreError: The folder cannot be made or read.
        """
        self._workers.__enter__()
        try:
            if not self._read_only:
                with _explained(StoreError, f"cannot open {self.folder}"):
                    self._lock_fd = await self._workers.run(self._prepare)
        except BaseException:
            self._workers.__exit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all tenures, wait for the appends under way, and let the folder go. Idempotent."""
        with trio.CancelScope(shield=True):
            for place in list(self._places.values()):
                async with place.lock:
                    place.tenure = None
                    place.close()
            self._open_logs.clear()
        self._workers.__exit__(None, None, None)
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            # The file stays: removing it would let two processes lock two files of one name.
            self._files.close(fd)

    async def claim(self, sandbox: SandboxId) -> Tenure:
        """See `Store.claim`."""
        self._check_writable()
        place = self._places.get(sandbox)
        if place is None:
            place = self._places[sandbox] = _Place(self._left.get(sandbox))
            self._left.pop(sandbox, None)
        async with self._turn(place):
            place.close()
            self._open_logs.pop(place, None)
            # From here on the older tenure is over, whatever becomes of this claim.
            place.tenure = None
            log = Log(self._files, self._path(sandbox), sandbox)
            try:
                with _explained(StoreError, f"cannot read the log of {sandbox}"):
                    result = await self._workers.run(self._recover, log, place.found)
            except StoreError as error:
                if not isinstance(error, LogCorruptError):
                    place.found = Found(recovery_failed=True)
                raise
            history = result.history
            last = history.records[-1] if history.records else history.snapshot
            place.epoch = max(place.epoch, 0 if last is None else last.epoch) + 1
            place.found = Found(settled=True)
            place.log = log
            place.tenure = Tenure(sandbox, place.epoch, history)
            return place.tenure

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        """See `Store.append`.

        Raises:
            ValueError: An entry cannot be stored; nothing was written and the tenure lives.
        """
        place = self._place(tenure)
        if not entries:
            return
        async with self._turn(place):
            log = place.log_of(tenure)
            batch = log.encode(entries, tenure.epoch)
            self._keep_open(place)
            with place.failing_as_append(log, tenure):
                await self._workers.run(log.append, batch)
            tenure.sequence = batch.sequence

    async def compact(self, tenure: Tenure, snapshot: Entry) -> None:
        """See `Store.compact`.

        Raises:
            ValueError: The log is empty, or the snapshot cannot be stored; nothing was written.
        """
        place = self._place(tenure)
        async with self._turn(place):
            log = place.log_of(tenure)
            batch = log.encode_snapshot(snapshot, tenure.epoch)
            with place.failing_as_append(log, tenure):
                await self._workers.run(log.compact, batch)

    async def release(self, tenure: Tenure) -> None:
        """See `Store.release`."""
        place = self._places.get(tenure.sandbox)
        if place is None or place.tenure is not tenure:
            return
        with trio.CancelScope(shield=True):
            async with self._turn(place):
                if place.tenure is tenure:
                    self._leave(tenure.sandbox, place)

    async def bury(self, tenure: Tenure) -> None:
        """See `Store.bury`. Burying a sandbox without a log ends the tenure and does nothing else."""
        place = self._place(tenure)
        async with self._turn(place):
            log = place.log_of(tenure)
            log.close()
            try:
                with _explained(StoreError, f"cannot bury the log of {tenure.sandbox}"):
                    await self._workers.run(self._bury, tenure.sandbox, tenure.sequence)
            except StoreError as error:
                place.fail(error)
                raise
            self._leave(tenure.sandbox, place)

    async def read(self, sandbox: SandboxId) -> History:
        """See `Store.read`."""
        result = (await self.report(sandbox))[0].scan
        if result.tail is Tail.CORRUPT:
            raise _corrupt(sandbox, result)
        history = result.history
        if history.sequence == 0:
            raise SandboxNotFoundError(f"there is no log of sandbox {sandbox}")
        return history
