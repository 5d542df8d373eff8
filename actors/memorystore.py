"""Logs in memory, for tests and for programs that want nothing kept.

The same bytes as in a file, made and read by the same code, so that what works here is what a file would hold.
What differs is that nothing survives the object, and that nothing ever blocks: every method still yields to other
tasks once, as a store on a disk would.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import trio

from actors.core.record import SNAPSHOT, Tail, encode, genesis, scan
from actors.errors import FencedError, LogCorruptError, SandboxNotFoundError
from actors.sandbox.ids import SYSTEM, SandboxId
from actors.store import Entry, History, Record, Tenure


class _Memory:
    """One sandbox's log, and who may append to it."""

    __slots__ = ("bytes_since_snapshot", "data", "digest", "epoch", "records_since_snapshot", "tenure")

    def __init__(self, sandbox: SandboxId) -> None:
        self.data = b""
        self.digest = genesis(sandbox)
        self.epoch = 0
        self.records_since_snapshot = 0
        self.bytes_since_snapshot = 0
        self.tenure: Tenure | None = None
        """The only one that may append."""


class MemoryStore:
    """A `Store` without a disk. May be used as an async context manager, like `FileStore`; need not."""

    def __init__(self) -> None:
        """Begin empty."""
        self._logs: dict[SandboxId, _Memory] = {}
        # {sandbox: its buried logs, oldest first}
        self._buried: dict[SandboxId, list[bytes]] = {}

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all tenures; the logs stay, for whoever enters again."""
        for memory in self._logs.values():
            memory.tenure = None
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def claim(self, sandbox: SandboxId) -> Tenure:
        """See `Store.claim`."""
        await trio.lowlevel.checkpoint()
        memory = self._logs.setdefault(sandbox, _Memory(sandbox))
        memory.tenure = None
        memory.epoch += 1
        memory.tenure = Tenure(sandbox, memory.epoch, self._history(sandbox, memory.data))
        return memory.tenure

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        """See `Store.append`. Raises ValueError, the log unchanged, if an entry cannot be stored."""
        await trio.lowlevel.checkpoint()
        memory = self._memory(tenure)
        digest, sequence = memory.digest, tenure.sequence
        added = b""
        for number, entry in enumerate(entries, 1):
            if entry.name == SNAPSHOT:
                raise ValueError(f"the name {SNAPSHOT!r} is reserved")
            sequence += 1
            record = Record(sequence, tenure.epoch, entry.time, entry.name, entry.version, entry.fields)
            encoded, digest = encode(record, digest, more=number < len(entries), continues=number > 1)
            added += encoded
        memory.data += added
        memory.digest = digest
        memory.records_since_snapshot += len(entries)
        memory.bytes_since_snapshot += len(added)
        tenure.sequence = sequence

    async def compact(self, tenure: Tenure, snapshot: Entry) -> None:
        """See `Store.compact`. Raises ValueError, the log unchanged, if it is empty or cannot store the snapshot."""
        await trio.lowlevel.checkpoint()
        memory = self._memory(tenure)
        if tenure.sequence == 0:
            raise ValueError("an empty log has no snapshot")
        record = Record(tenure.sequence, tenure.epoch, snapshot.time, SNAPSHOT, snapshot.version, snapshot.fields)
        memory.data, memory.digest = encode(record, genesis(tenure.sandbox))
        memory.records_since_snapshot = memory.bytes_since_snapshot = 0

    async def release(self, tenure: Tenure) -> None:
        """See `Store.release`."""
        memory = self._logs.get(tenure.sandbox)
        if memory is not None and memory.tenure is tenure:
            memory.tenure = None
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def bury(self, tenure: Tenure) -> None:
        """See `Store.bury`."""
        await trio.lowlevel.checkpoint()
        memory = self._memory(tenure)
        memory.tenure = None
        if memory.data:
            self._buried.setdefault(tenure.sandbox, []).append(memory.data)
        # The epoch goes on counting: a tenure of the old log must not look like one of the new.
        memory.data, memory.digest = b"", genesis(tenure.sandbox)
        memory.records_since_snapshot = memory.bytes_since_snapshot = 0

    async def read(self, sandbox: SandboxId) -> History:
        """See `Store.read`."""
        await trio.lowlevel.checkpoint()
        if not self.exists(sandbox):
            raise SandboxNotFoundError(f"there is no log of sandbox {sandbox}")
        return self._history(sandbox, self._logs[sandbox].data)

    async def buried(self, sandbox: SandboxId) -> Sequence[History]:
        """Return what the logs of destroyed sandboxes of that id held, the oldest first."""
        await trio.lowlevel.checkpoint()
        return [self._history(sandbox, data) for data in self._buried.get(sandbox, ())]

    def exists(self, sandbox: SandboxId) -> bool:
        """See `Store.exists`."""
        memory = self._logs.get(sandbox)
        return memory is not None and bool(memory.data)

    async def sandboxes(self) -> Sequence[SandboxId]:
        """See `Store.sandboxes`."""
        await trio.lowlevel.checkpoint()
        return sorted(sandbox for sandbox, memory in self._logs.items() if memory.data and sandbox != SYSTEM)

    def size_since_snapshot(self, tenure: Tenure) -> tuple[int, int]:
        """See `Store.size_since_snapshot`. Raises FencedError if the tenure is over."""
        memory = self._memory(tenure)
        return memory.records_since_snapshot, memory.bytes_since_snapshot

    def tamper(self, sandbox: SandboxId, change: Callable[[bytes], bytes]) -> None:
        """Replace the bytes of a log, as a failing disk would: for tests of what becomes of damage."""
        self._logs[sandbox].data = change(self._logs[sandbox].data)

    def _memory(self, tenure: Tenure) -> _Memory:
        memory = self._logs.get(tenure.sandbox)
        if memory is None or memory.tenure is not tenure:
            raise FencedError(f"epoch {tenure.epoch} of sandbox {tenure.sandbox} has ended")
        return memory

    def _history(self, sandbox: SandboxId, data: bytes) -> History:
        result = scan(data, sandbox)
        if result.tail is not Tail.CLEAN:
            raise LogCorruptError(
                f"the log of {sandbox} is damaged at byte {result.offset}: {result.reason}",
                offset=result.offset,
            )
        return result.history
