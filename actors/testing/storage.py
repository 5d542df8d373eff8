"""Storage that fails on cue: disks that report errors, and stores that wait or refuse when told to.

`FaultyFiles` wraps any `Files` and makes one chosen operation go wrong, so that a test can go through a scenario's
operations one by one. `FaultyStore` wraps any `Store` and holds back or fails appends, for tests above the store.
`as_logged` is what any storage does to an event, without one.
"""

import errno
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

import msgpack  # type: ignore[import-untyped]  # published without type information
import trio

from actors.errors import AppendFailedError, StoreError
from actors.files import Files
from actors.sandbox.events import Event, decode, encode
from actors.sandbox.ids import SandboxId
from actors.store import Entry, History, Store, Tenure
from actors.testing.memoryfiles import MemoryFiles

T = TypeVar("T")


class Fault(StrEnum):
    """How an operation goes wrong."""

    DISK_ERROR = "disk error"
    """EIO, nothing done. For a sync: the data is clean and not on the disk."""
    DISK_FULL = "disk full"
    """ENOSPC, nothing done."""
    SHORT = "short"
    """A write takes only the first half of its bytes and says so; like DISK_ERROR for anything else."""
    HALF_THEN_ERROR = "half, then error"
    """A write takes the first half of its bytes and fails; a rename, a creation or a removal is done and fails."""
    DEAD = "dead"
    """It is done but not synced, and every later one fails: a power cut comes (see `MemoryFiles.crash`)."""


_SYNCS: Final = frozenset({"sync", "sync_folder"})


class Operation(NamedTuple):
    """One operation that was asked for."""

    kind: str
    """The name of the method of `Files`."""
    subject: str
    """The path, or that of the descriptor."""


class FaultyFiles:
    """A file system of which one operation goes wrong, all others passing to `MemoryFiles` or another.

    Only what changes something is counted and can fail; reading is not. Operations are counted from 0 from when
    the object was made or `break_at` was called.
    """

    def __init__(self, files: Files) -> None:
        """Pass everything to `files`, until `break_at` is called."""
        self.files = files
        self.operations: list[Operation] = []
        """What was asked for since the counting began."""
        self._index: int | None = None
        self._kind: str | None = None
        self._fault = Fault.DISK_ERROR
        self._dead = False
        self._paths: dict[int, str] = {}

    def break_at(self, index: int, fault: Fault, *, kind: str | None = None) -> None:
        """Let an operation go wrong, and begin to count anew.

        Args:
            index: Which one, counted from 0.
            fault: What happens to it.
            kind: Count only operations of this kind; None: all.
        """
        self.operations.clear()
        self._index, self._kind, self._fault, self._dead = index, kind, fault, False

    def mend(self) -> None:
        """Let everything pass again."""
        self.operations.clear()
        self._index, self._dead = None, False

    def read(self, path: str) -> bytes:
        return self.files.read(path)

    def size(self, path: str) -> int | None:
        return self.files.size(path)

    def length(self, fd: int) -> int:
        return self.files.length(fd)

    def names(self, path: str) -> Sequence[str]:
        return self.files.names(path)

    def close(self, fd: int) -> None:
        self.files.close(fd)

    def open_durable(self, path: str) -> int:
        fd = self._do("open_durable", path, lambda: self.files.open_durable(path), abandon=self.files.close)
        self._paths[fd] = path
        return fd

    def create(self, path: str) -> int:
        fd = self._do("create", path, lambda: self.files.create(path), abandon=self.files.close)
        self._paths[fd] = path
        return fd

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        half = data[: len(data) // 2]
        return self._do(
            "write_at",
            self._paths[fd],
            lambda: self.files.write_at(fd, data, offset),
            half=lambda: self.files.write_at(fd, half, offset),
            unsynced=lambda: self._write_unsynced_at(fd, data, offset),
            failed=lambda: self._fail_write_at(fd, data, offset),
        )

    def write(self, fd: int, data: bytes) -> int:
        half = data[: len(data) // 2]
        return self._do(
            "write",
            self._paths[fd],
            lambda: self.files.write(fd, data),
            half=lambda: self.files.write(fd, half),
        )

    def sync(self, fd: int) -> None:
        self._do("sync", self._paths[fd], lambda: self.files.sync(fd), failed=lambda: self._fail_sync(fd))

    def truncate(self, fd: int, length: int) -> None:
        self._do("truncate", self._paths[fd], lambda: self.files.truncate(fd, length))

    def replace(self, source: str, target: str) -> None:
        self._do("replace", target, lambda: self.files.replace(source, target))

    def remove(self, path: str) -> None:
        self._do("remove", path, lambda: self.files.remove(path))

    def make_folder(self, path: str) -> None:
        self._do("make_folder", path, lambda: self.files.make_folder(path))

    def sync_folder(self, path: str) -> None:
        self._do("sync_folder", path, lambda: self.files.sync_folder(path))

    def lock(self, path: str, text: str) -> int:
        return self._do("lock", path, lambda: self.files.lock(path, text), abandon=self.files.close)

    def _do(
        self,
        kind: str,
        subject: str,
        whole: Callable[[], T],
        *,
        half: Callable[[], T] | None = None,
        failed: Callable[[], None] | None = None,
        unsynced: Callable[[], T] | None = None,
        abandon: Callable[[T], None] | None = None,
    ) -> T:
        """Count an operation, and do it unless its turn to fail has come.

        Args:
            kind: Of `Operation`.
            subject: Of `Operation`.
            whole: Does it.
            half: Does half of it; None where there are no halves.
            failed: What is done nevertheless when the disk reports an error; None: nothing.
            unsynced: Does it without making anything durable; None where `whole` does not make anything durable.
            abandon: Frees what was returned by an operation that is done and reported as failed.
        """
        if self._dead:
            raise OSError(errno.EIO, "the disk is gone")
        number = sum(1 for operation in self.operations if self._kind in (None, operation.kind))
        self.operations.append(Operation(kind, subject))
        if number != self._index or self._kind not in (None, kind):
            return whole()
        match self._fault:
            case Fault.SHORT if half is not None:
                return half()
            case Fault.HALF_THEN_ERROR:
                result = (half or whole)()
                if abandon is not None:
                    abandon(result)
            case Fault.DISK_FULL:
                raise OSError(errno.ENOSPC, "No space left on device")
            case Fault.DEAD:
                self._dead = True
                if kind not in _SYNCS:
                    result = (unsynced or whole)()
                    if abandon is not None:
                        abandon(result)
            case _ if failed is not None:
                failed()
        raise OSError(errno.EIO, "Input/output error")

    def _write_unsynced_at(self, fd: int, data: bytes, offset: int) -> int:
        if isinstance(self.files, MemoryFiles):
            return self.files.write_unsynced_at(fd, data, offset)
        return self.files.write_at(fd, data, offset)

    def _fail_write_at(self, fd: int, data: bytes, offset: int) -> None:
        self._write_unsynced_at(fd, data, offset)
        self._fail_sync(fd)

    def _fail_sync(self, fd: int) -> None:
        if isinstance(self.files, MemoryFiles):
            self.files.fail_sync(fd)


class FaultyStore:
    """A `Store` whose appends a test can hold back or fail; everything else passes to the one it wraps."""

    def __init__(self, store: Store) -> None:
        """Pass everything to `store`, which is opened and closed with this one."""
        self.store = store
        self.appends_waiting = 0
        """How many appends are held back now."""
        self._errors: list[tuple[StoreError, bool]] = []
        self._gate: trio.Event | None = None
        self._arrived = trio.Event()

    def fail_next_append(self, error: StoreError | None = None, *, written: bool = False) -> None:
        """Let the next append, or compaction, fail. Called again, the one after it fails too.

        Args:
            error: What is raised; None: an AppendFailedError. The tenure is over, as the contract says.
            written: True if the records get to the log nevertheless, as may happen.
        """
        self._errors.append((error or AppendFailedError("the disk failed (on cue)"), written))

    @contextmanager
    def hold_appends(self) -> Iterator[None]:
        """Hold back all appends and compactions for the length of the ``with`` block."""
        gate = self._gate = trio.Event()
        self._arrived = trio.Event()
        try:
            yield
        finally:
            self._gate = None
            gate.set()

    async def wait_append_held(self) -> None:
        """Block until an append has been held back, since `hold_appends` began."""
        await self._arrived.wait()

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.store.__aexit__(kind, error, trace)

    async def claim(self, sandbox: SandboxId) -> Tenure:
        return await self.store.claim(sandbox)

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        async def write() -> None:
            await self.store.append(tenure, entries)

        await self._pass_gate(tenure, write)

    async def compact(self, tenure: Tenure, snapshot: Entry) -> None:
        async def write() -> None:
            await self.store.compact(tenure, snapshot)

        await self._pass_gate(tenure, write)

    async def release(self, tenure: Tenure) -> None:
        await self.store.release(tenure)

    async def bury(self, tenure: Tenure) -> None:
        await self.store.bury(tenure)

    async def read(self, sandbox: SandboxId) -> History:
        return await self.store.read(sandbox)

    def exists(self, sandbox: SandboxId) -> bool:
        return self.store.exists(sandbox)

    async def sandboxes(self) -> Sequence[SandboxId]:
        return await self.store.sandboxes()

    def size_since_snapshot(self, tenure: Tenure) -> tuple[int, int]:
        return self.store.size_since_snapshot(tenure)

    async def _pass_gate(self, tenure: Tenure, write: Callable[[], Awaitable[None]]) -> None:
        # An append under way is not cancelled: its outcome is waited for, as the contract says.
        with trio.CancelScope(shield=True):
            if self._gate is not None:
                self.appends_waiting += 1
                self._arrived.set()
                await self._gate.wait()
                self.appends_waiting -= 1
            if not self._errors:
                await write()
                return
            error, written = self._errors.pop(0)
            if written:
                await write()
            await self.store.release(tenure)
        raise error


def as_logged(event: Event) -> Event:
    """Return the event as it comes out of a log."""
    name, version, fields = encode(event)
    return decode(name, version, through_msgpack(fields))


def through_msgpack(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return the fields of a record as they come out of a log."""
    kept: Mapping[str, object] = msgpack.unpackb(msgpack.packb(fields))
    return kept
