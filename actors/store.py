"""What the runtime needs from storage, and nothing more.

A store keeps one log per sandbox. Whoever wants to append must first `claim` the sandbox, which yields a
`Tenure`: the epoch of this activation and everything recorded so far. Appending is a compare on
(epoch, next sequence number): once another activation has claimed the sandbox, the older tenure gets
`FencedError` for ever. Safety rests on that compare alone, never on a lease or a clock, so the same Protocol
fits files on one host and a replicated log on many.

A store knows nothing of ports or tokens: a `Record` is a name, a version and plain values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from actors.sandbox.ids import SandboxId

Fields = Mapping[str, object]
"""Plain values only: what msgpack stores without extension types (None, bool, int, float, str, bytes, list, dict)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of a log, decoded."""

    sequence: int
    """1 for a sandbox's first record; without gaps."""
    epoch: int
    """Of the activation that wrote it; never decreasing along a log."""
    time: float
    """Seconds since 1970-01-01 UTC, by the writer's clock."""
    name: str
    version: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be appended: a record before the store has given it its place."""

    time: float
    name: str
    version: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class History:
    """Everything a log holds."""

    snapshot: Record | None
    """The state at `snapshot.sequence`, replacing what came before; its fields mean whatever the writer meant."""
    records: tuple[Record, ...]
    """What came after the snapshot, in order."""

    @property
    def sequence(self) -> int:
        """The last sequence number given out; 0 for an empty log."""
        if self.records:
            return self.records[-1].sequence
        return self.snapshot.sequence if self.snapshot is not None else 0


class Tenure:
    """The right to append to one sandbox's log, until somebody else claims it.

    Stores subclass it to keep what they need; `sequence` is advanced only by the store, after a durable append.
    """

    __slots__ = ("epoch", "history", "sandbox", "sequence")

    def __init__(self, sandbox: SandboxId, epoch: int, history: History) -> None:
        self.sandbox = sandbox
        self.epoch = epoch
        self.history: History | None = history
        """What was recorded before this tenure. Whoever folds it sets it to None, to free the memory."""
        self.sequence = history.sequence
        """The last durable sequence number."""


class Store(Protocol):
    """Logs of many sandboxes, open within an ``async with`` block.

    All methods but `exists` may wait for storage; none blocks the trio thread.
    """

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            StoreLockedError: Another process has it.
        """

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close it; every tenure has ended."""

    async def claim(self, sandbox: SandboxId) -> Tenure:
        """Begin a tenure, ending any other on the same sandbox. Writes nothing for a sandbox without a log.

        Raises:
            LogCorruptError: The log is damaged; only this sandbox is affected.
            StoreError: The storage failed.
        """

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        """Append all of `entries` or none, and return once they are durable.

        Cancellation waits for the outcome: an append is never left half known.

        Raises:
            FencedError: Another tenure has begun since; nothing was written.
            AppendFailedError: Whether they are on disk is unknown. The tenure is dead: claim anew.
        """

    async def compact(self, tenure: Tenure, snapshot: Entry) -> None:
        """Replace all records up to `tenure.sequence` by one snapshot at that same sequence, atomically.

        A crash at any point leaves the old log or the new one.

        Raises: as `append`; the tenure is dead after either error.
        """

    async def release(self, tenure: Tenure) -> None:
        """End the tenure and free what it holds. Idempotent; never raises for a tenure that is fenced or dead."""

    async def bury(self, tenure: Tenure) -> None:
        """Put the log of a destroyed sandbox aside, so that `exists` says no and the id can be used again.

        The tenure ends. Raises StoreError if that failed; burying may be tried again after a new claim.
        """

    async def read(self, sandbox: SandboxId) -> History:
        """Return the history without claiming it. Safe beside a running writer, of which it may miss the tail.

        Raises:
            SandboxNotFoundError: There is no log.
            LogCorruptError: As `claim`.
        """

    def exists(self, sandbox: SandboxId) -> bool:
        """Say whether there is a log. Plain and quick (microseconds): it is asked for every unknown hostname."""

    async def sandboxes(self) -> Sequence[SandboxId]:
        """Return the ids of all sandboxes with a log, sorted; `SYSTEM` is none."""

    def size_since_snapshot(self, tenure: Tenure) -> tuple[int, int]:
        """Return (records, bytes) that a `compact` would replace; the runtime decides by it."""
