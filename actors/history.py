"""A sandbox's past, read from its log: what happened when, and what the state was then.

Read beside a running server, without claiming anything. What a compaction has replaced is gone: the history then
begins with the state that it left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from actors.sandbox.events import Event, dated, decode, encode
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SandboxState, evolve, restore, snapshot
from actors.store import History, Store

MASK: Final = "****"
# A digest is no secret, but nobody reads one, and it is bytes.
_SECRET_FIELDS: Final = frozenset({"token", "digest"})
_LEFT_OUT: Final = frozenset({"seal", "created_at"})
"""Of no interest to anybody who reads a history: secret the one, and the other is the time of the first moment."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One record, understood."""

    sequence: int
    epoch: int
    time: float
    """Seconds since 1970-01-01 UTC, by the clock of whoever wrote it."""
    event: Event | None
    """None for the snapshot that stands for everything before it."""
    state: SandboxState
    """After it."""


async def read_history(store: Store, sandbox: SandboxId) -> list[Moment]:
    """Return everything that the log of `sandbox` holds, oldest first.

    Raises:
        SandboxNotFoundError: There is no log.
        LogCorruptError: It is damaged; the error says at which byte.
        UnknownRecordError: A newer Portico wrote it.
    """
    return unfold(await store.read(sandbox))


def unfold(history: History) -> list[Moment]:
    """Return what a history says, record by record.

    Raises:
        UnknownRecordError: A newer Portico wrote it.
    """
    moments: list[Moment] = []
    state: SandboxState | None = None
    if history.snapshot is not None:
        kept = history.snapshot
        state = restore(kept.version, kept.fields)
        moments.append(Moment(kept.sequence, kept.epoch, kept.time, None, state))
    for record in history.records:
        event = dated(decode(record.name, record.version, record.fields), record.time)
        state = evolve(state, event)
        moments.append(Moment(record.sequence, record.epoch, record.time, event, state))
    return moments


def describe_event(event: Event) -> tuple[str, dict[str, object]]:
    """Return an event's name and fields as plain values, secrets masked."""
    name, _, fields = encode(event)
    return name, _masked_fields(fields)


def describe_state(state: SandboxState) -> dict[str, object]:
    """Return a state as plain values, secrets masked."""
    return _masked_fields(snapshot(state))


def state_at(moments: list[Moment], time: float) -> SandboxState | None:
    """Return the state at `time`; None if the sandbox did not exist yet, or what the log holds begins later."""
    state = None
    for moment in moments:
        if moment.time > time:
            break
        state = moment.state
    return state


def _masked_fields(fields: Mapping[str, object]) -> dict[str, object]:
    return {
        name: MASK if name in _SECRET_FIELDS else _masked(value)
        for name, value in fields.items()
        if name not in _LEFT_OUT
    }


def _masked(value: object) -> object:
    if isinstance(value, dict):
        return _masked_fields(value)
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return value
