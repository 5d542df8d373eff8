"""The log of one sandbox, as a file: recover, append, compact.

Everything here blocks; callers are in worker threads, one at a time per log.

The rules, and what would go wrong without each:

- A record counts once it is durable, and not before: whoever was told of it must find it after a power cut.
- An append is written into *room*: zeros that are there already, durably. One that makes the file longer must also
  wait for the file system's journal to take the new length, which costs half as much again (155 microseconds
  against 105, on ext4). So when the room does not suffice, the same write brings zeros up to the next multiple of
  `ROOM_BYTES`. A log at rest has none (see `finish`): to programs that read it, zeros are clutter.
- A log that failed is dead. After a failed sync the kernel may have marked pages clean that never reached the
  disk; asking again would be answered with a yes (LWN 752063, "PostgreSQL's fsync() surprise"). So the next
  `recover` goes back to the length that is *known* to be durable, cuts there, which makes the kernel write the
  last page once more, and syncs that. Only bytes of appends that were reported as failed are lost by it.
- The first `recover` in a process syncs what it finds before anybody acts on it: a process that was killed between
  write and sync leaves records that can be read today and be gone after a power cut.
- A torn tail, which is what a crash leaves of an append nobody was told about, is kept beside the log as
  ``<name>.torn-<offset>`` before it is cut off: what is appended next must find zeros behind it. Anything else that
  is wrong is corruption and stays as it is.
- Compacting writes a new file, syncs it, and renames it over the old one: whenever the crash comes, there is
  the old log or the new one.
"""

import contextlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from actors.core.record import SNAPSHOT, Scan, Tail, encode, genesis, scan
from actors.errors import LogCorruptError
from actors.files import Files, check_taken, replace_whole, successor, write_whole
from actors.sandbox.ids import SandboxId
from actors.store import Entry, Record

# The block of the usual file systems: room within it takes no more of the disk than the records did. More room
# measured no faster: with a few hundred bytes an append, one in about thirty makes the file longer.
ROOM_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Batch:
    """An append, made into bytes; it belongs at one place of one log."""

    data: bytes
    digest: bytes
    sequence: int
    """Of its last record."""
    count: int


@dataclass(frozen=True, slots=True)
class Found:
    """What `Log.recover` needs to know from before, within one process."""

    settled: bool = False
    """True if this process knows that all the file holds is durable."""
    durable_length: int | None = None
    """After a failed append: how many bytes were durable before it. None: not known."""
    recovery_failed: bool = False
    """True if a `recover` before this one raised OSError: a sync of what is there can no longer be believed."""


@dataclass(frozen=True, slots=True)
class LogReport:
    """What a log looks like on disk, for an operator."""

    sandbox: SandboxId
    path: str
    size: int
    """Of the file, in bytes."""
    scan: Scan

    @property
    def entries(self) -> Sequence[tuple[int, int, Record]]:
        """(offset, length, record) of each whole append's records in order, the snapshot first."""
        result = self.scan
        records = (*(() if result.snapshot is None else (result.snapshot,)), *result.records)
        ends = (*result.offsets, result.valid_length)[1:]
        return [
            (offset, end - offset, record) for offset, end, record in zip(result.offsets, ends, records, strict=True)
        ]

    @property
    def torn_bytes(self) -> int:
        """How many bytes at the end the next claim will put aside; 0 unless the tail is torn."""
        return self.scan.used_length - self.scan.valid_length if self.scan.tail is Tail.TORN else 0

    @property
    def room_bytes(self) -> int:
        """How many zeros at the end wait for appends to come."""
        return self.size - self.scan.used_length

    def check(self) -> None:
        """Do nothing, unless the log is corrupt.

        Raises:
            LogCorruptError: It is; a torn tail is not that.
        """
        if self.scan.tail is Tail.CORRUPT:
            raise LogCorruptError(
                f"the log of {self.sandbox} is damaged at byte {self.scan.offset}: {self.scan.reason}",
                offset=self.scan.offset,
            )


def examine(files: Files, path: str, sandbox: SandboxId) -> LogReport:
    """Read a log without changing anything, be somebody writing to it or not.

    Raises:
        OSError: It cannot be read; FileNotFoundError if there is none.
    """
    data = files.read(path)
    result = scan(data, sandbox)
    # Reading does not exclude writing: half of what is just being written into the room looks like damage. Damage
    # stays as it is, and nobody appends to it.
    while result.tail is not Tail.CLEAN and (again := files.read(path)) != data:
        data, result = again, scan(again, sandbox)
    return LogReport(sandbox, path, len(data), result)


class Log:
    """One sandbox's log, from its recovery to its failure or end."""

    def __init__(self, files: Files, path: str, sandbox: SandboxId) -> None:
        """Do nothing yet; call `recover` first."""
        self._files = files
        self._path = path
        self._sandbox = sandbox
        self._fd: int | None = None
        self._digest = genesis(sandbox)
        self._sequence = 0
        self._exists = False
        # Of the file, room included. Invariant: what lies beyond `durable_length` are zeros, unless the log is dead.
        self._file_length = 0
        self.durable_length: int | None = 0
        """How many bytes of records are known to be durable; None after a failed `compact` (old log or new one, both
        whole)."""
        self.records_since_snapshot = 0
        self.bytes_since_snapshot = 0
        self.failure: BaseException | None = None
        """The first thing that went wrong; once set, the log is dead."""

    def recover(self, found: Found) -> Scan:
        """Read the log, and mend what a crash or a failure has left of it.

        Writes nothing if there is no file.

        Raises:
            LogCorruptError: Nothing was changed.
            OSError: It may be tried again on a new `Log`, with `recovery_failed` set.
        """
        files, path = self._files, self._path
        if not found.settled:
            # No sandbox has a log of this name: an id holds no dot.
            files.remove(successor(path))
        try:
            data = files.read(path)
            self._exists = True
        except FileNotFoundError:
            data = b""
        cut: int | None = None
        if found.durable_length is not None and len(data) > found.durable_length:
            # Not kept aside: these bytes are of an append that this process reported as failed.
            cut = found.durable_length
            data = data[:cut]
        result = scan(data, self._sandbox)
        LogReport(self._sandbox, path, len(data), result).check()
        if result.tail is Tail.TORN:
            cut = result.valid_length
            _keep_aside(files, path, data[cut : result.used_length], cut)
        self._file_length = len(data) if cut is None else cut
        if self._exists and found.recovery_failed:
            self._rewrite(data[: result.valid_length])
            self._file_length = result.valid_length
        elif self._exists and (cut is not None or not found.settled):
            self._settle(cut)
        if not found.settled:
            files.sync_folder(os.path.dirname(path))
        self._digest = result.digest
        self._sequence = result.history.sequence
        self.durable_length = result.valid_length
        self.records_since_snapshot = len(result.records)
        first = 1 if result.snapshot is not None else 0
        after_snapshot = result.offsets[first] if result.records else result.valid_length
        self.bytes_since_snapshot = result.valid_length - after_snapshot
        return result

    def encode(self, entries: Sequence[Entry], epoch: int) -> Batch:
        """Make an append into bytes, for the place behind the last one. Pure.

        Raises:
            ValueError: An entry cannot be stored; the log is as it was.
        """
        data = bytearray()
        digest = self._digest
        sequence = self._sequence
        for entry in entries:
            if entry.name == SNAPSHOT:
                raise ValueError(f"the name {SNAPSHOT!r} is reserved")
            sequence += 1
            more, continues = sequence - self._sequence < len(entries), bool(data)
            encoded, digest = encode(_placed(entry, sequence, epoch), digest, more=more, continues=continues)
            data += encoded
        return Batch(bytes(data), digest, sequence, len(entries))

    def append(self, batch: Batch) -> None:
        """Write what `encode` made, and return once it is durable.

        Raises:
            OSError: Whether it is in the file is unknown, and the log is dead.
        """
        start, data = self.durable_length, batch.data
        assert start is not None, "a live log knows its length"
        end = start + len(data)
        file_length = self._file_length
        if end > file_length:
            file_length = -(-end // ROOM_BYTES) * ROOM_BYTES
            data += bytes(file_length - end)
        try:
            if self._fd is None:
                self._fd = self._open()
            check_taken(self._files.write_at(self._fd, data, start), data)
        except BaseException as failure:
            self._die(failure)
            raise
        self.durable_length, self._file_length = end, file_length
        self.bytes_since_snapshot += len(batch.data)
        self.records_since_snapshot += batch.count
        self._digest, self._sequence = batch.digest, batch.sequence

    def encode_snapshot(self, snapshot: Entry, epoch: int) -> Batch:
        """Make a snapshot into bytes, for the beginning of a new log. Pure; `snapshot.name` does not matter.

        Raises:
            ValueError: It cannot be stored, or there is nothing yet that it could stand for.
        """
        if self._sequence == 0:
            raise ValueError("an empty log has no snapshot")
        record = Record(self._sequence, epoch, snapshot.time, SNAPSHOT, snapshot.version, snapshot.fields)
        data, digest = encode(record, genesis(self._sandbox))
        return Batch(data, digest, self._sequence, 1)

    def compact(self, batch: Batch) -> None:
        """Replace the log by what `encode_snapshot` made.

        Raises:
            OSError: The log is the old one or the new one, and this object is dead.
        """
        try:
            self._rewrite(batch.data)
        except BaseException as failure:
            # Both files were whole and synced before they could take the name, so nothing is to be cut.
            self.durable_length = None
            self._die(failure)
            raise
        self.close()
        self.durable_length = self._file_length = len(batch.data)
        self.records_since_snapshot = self.bytes_since_snapshot = 0
        self._digest = batch.digest

    def close(self) -> None:
        """Let go of the file descriptor; the next `append` opens the file anew."""
        fd, self._fd = self._fd, None
        if fd is not None:
            # Everything that counts was synced: what close(2) could still complain about is of no account.
            with contextlib.suppress(OSError):
                self._files.close(fd)

    @property
    def has_room(self) -> bool:
        """True if the file is longer than its records, and `finish` would mend that."""
        return self.failure is None and self.durable_length is not None and self._file_length > self.durable_length

    def finish(self) -> None:
        """Cut the room off, and close. Never raises OSError: a file that keeps its room is as good.

        Nothing is synced for the same reason; the next append syncs the length that it needs.
        """
        if self.has_room:
            assert self.durable_length is not None, "otherwise there is no room to know of"
            with contextlib.suppress(OSError):
                if self._fd is None:
                    self._fd = self._open()
                self._files.truncate(self._fd, self.durable_length)
                self._file_length = self.durable_length
        self.close()

    def _open(self) -> int:
        if not self._exists:
            self._files.close(self._files.create(self._path))
            # Before the first record is acknowledged, the name it is found under must be durable.
            self._files.sync_folder(os.path.dirname(self._path))
            self._exists = True
        fd = self._files.open_durable(self._path)
        if self._files.length(fd) != self._file_length:
            self._files.close(fd)
            raise OSError(f"{self._path} was changed by somebody else")
        return fd

    def _rewrite(self, data: bytes) -> None:
        replace_whole(self._files, self._path, data)

    def _settle(self, cut: int | None) -> None:
        fd = self._files.open_durable(self._path)
        try:
            if cut is not None:
                self._files.truncate(fd, cut)
            self._files.sync(fd)
        finally:
            self._files.close(fd)

    def _die(self, failure: BaseException) -> None:
        self.failure = failure
        self.close()


def _placed(entry: Entry, sequence: int, epoch: int) -> Record:
    return Record(sequence, epoch, entry.time, entry.name, entry.version, entry.fields)


def _keep_aside(files: Files, path: str, torn: bytes, offset: int) -> None:
    base = f"{path}.torn-{offset}"
    for number in itertools.count():
        aside = base if number == 0 else f"{base}.{number}"
        try:
            write_whole(files, aside, torn)
        except FileExistsError:
            if files.read(aside) == torn:
                # Kept by an earlier recovery that got no further.
                break
        except OSError:
            # Half a copy would stop the next attempt from making a whole one under this name.
            files.remove(aside)
            raise
        else:
            break
    files.sync_folder(os.path.dirname(path))
