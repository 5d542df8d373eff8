"""A state out of a log, and a log made short again: the two sides of a snapshot."""

import structlog

from actors.sandbox.events import dated, decode
from actors.sandbox.state import SNAPSHOT_VERSION, SandboxState, Status, fold, restore, snapshot
from actors.store import Entry, History, Store, Tenure
from actors.surroundings import Limits

log = structlog.get_logger("portico.recovery")


def recover(history: History | None) -> SandboxState | None:
    """Fold a history.

    Raises:
        UnknownRecordError: It holds something that this version does not know, or that cannot have happened.
    """
    assert history is not None
    state = None
    if history.snapshot is not None:
        state = restore(history.snapshot.version, history.snapshot.fields)
    events = (dated(decode(record.name, record.version, record.fields), record.time) for record in history.records)
    return fold(events, state)


def has_grown(store: Store, tenure: Tenure | None, state: SandboxState | None, limits: Limits) -> bool:
    """Say whether the log has grown so long since its last snapshot that it is worth another."""
    if state is None or state.status is Status.DESTROYED:
        return False
    assert tenure is not None
    records, size = store.size_since_snapshot(tenure)
    return records >= limits.compact_records and size >= limits.compact_bytes


async def compact(store: Store, tenure: Tenure, state: SandboxState, now: float) -> None:
    """Replace a log by a snapshot.

    Raises:
        StoreError: It could not be stored.
    """
    try:
        await store.compact(tenure, Entry(now, "snapshot", SNAPSHOT_VERSION, snapshot(state)))
    except ValueError:
        # Too large for a snapshot, as the sum of events that were not: a long log is slower, but not wrong.
        log.warning("log not compacted", sandbox=state.sandbox, exc_info=True)
