"""A state out of a history, and when a log is worth a snapshot."""

import pytest

from actors.errors import UnknownRecordError
from actors.history import unfold
from actors.memorystore import MemoryStore
from actors.recovery import compact, has_grown, recover
from actors.sandbox.events import ContainerSpec, Event, PortExposed, SandboxCreated, dated, encode
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.state import SandboxState, fold
from actors.store import Entry
from actors.surroundings import Limits

NAME = SandboxId("my-app")
EVENTS: list[Event] = [SandboxCreated(NAME, ContainerSpec()), PortExposed(Port(8080), PortToken("stable"))]
GROWN = Limits(compact_records=2, compact_bytes=10)


async def test_a_state_is_the_fold_of_its_records_with_and_without_a_snapshot() -> None:
    store = MemoryStore()
    async with store:
        tenure = await store.claim(NAME)
        await store.append(tenure, [Entry(1.0, *encode(event)) for event in EVENTS])
        state = fold([dated(event, 1.0) for event in EVENTS])
        assert state is not None
        assert recover(await store.read(NAME)) == state
        assert has_grown(store, tenure, state, GROWN)
        await compact(store, tenure, state, 2.0)
        assert not has_grown(store, tenure, state, GROWN)
        history = await store.read(NAME)
        assert history.snapshot is not None
        assert recover(history) == state


async def test_a_log_from_before_events_were_dated_still_tells_when_the_sandbox_was_made() -> None:
    store = MemoryStore()
    async with store:
        tenure = await store.claim(NAME)
        name, version, fields = encode(EVENTS[0])
        assert fields.pop("created_at") is None
        await store.append(tenure, [Entry(1.5, name, version, fields), Entry(2.5, *encode(EVENTS[1]))])
        state = recover(await store.read(NAME))
        assert state is not None
        assert state.created_at == 1.5
        assert [moment.state.created_at for moment in unfold(await store.read(NAME))] == [1.5, 1.5]
        # From here on it is in the state, and outlives the beginning of the log.
        await compact(store, tenure, state, 3.0)
        assert recover(await store.read(NAME)) == state


async def test_an_event_that_is_not_known_is_never_skipped() -> None:
    store = MemoryStore()
    async with store:
        tenure = await store.claim(NAME)
        await store.append(tenure, [Entry(1.0, "sandbox_teleported", 1, {})])
        history = await store.read(NAME)
        with pytest.raises(UnknownRecordError):
            recover(history)


def test_what_does_not_exist_has_not_grown() -> None:
    store = MemoryStore()
    gone: SandboxState | None = None
    assert not has_grown(store, None, gone, GROWN)
