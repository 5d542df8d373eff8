"""What a log says about the past, and that no secret is told with it."""

import pytest

from actors.errors import UnknownRecordError
from actors.history import MASK, describe_event, describe_state, read_history, state_at, unfold
from actors.memorystore import MemoryStore
from actors.sandbox.events import (
    AsleepPolicy,
    ContainerSpec,
    Event,
    HostHeader,
    PortExposed,
    PortUnexposed,
    PreviewAuthSet,
    SandboxCreated,
    encode,
)
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.state import SNAPSHOT_VERSION, evolve, snapshot
from actors.store import Entry, History, Record

NAME = SandboxId("my-app")
TOKEN = "k3v9x0q2m7t1z8aa"
CREATED = SandboxCreated(NAME, ContainerSpec("process"), False, AsleepPolicy.WAKE, created_at=100.0)
EXPOSED = PortExposed(Port(8080), PortToken(TOKEN), "web", HostHeader.LOCALHOST)
GATED = PreviewAuthSet(b"\x01" * 32)
UNEXPOSED = PortUnexposed(Port(8080))


def record(sequence: int, event: Event, *, time: float) -> Record:
    return Record(sequence, 1, time, *encode(event))


def history(*events: Event) -> History:
    """Return a log in which event number n happened at 100 n."""
    return History(None, tuple(record(number, event, time=100 * number) for number, event in enumerate(events, 1)))


def test_each_record_comes_with_the_state_after_it() -> None:
    created, exposed, unexposed = unfold(history(CREATED, EXPOSED, UNEXPOSED))
    assert [moment.event for moment in (created, exposed, unexposed)] == [CREATED, EXPOSED, UNEXPOSED]
    assert created.state.ports == {}
    assert exposed.state.ports.keys() == {8080}
    assert unexposed.state.ports == {}
    assert (exposed.sequence, exposed.epoch, exposed.time) == (2, 1, 200)


def test_compacted_log_begins_with_the_state_that_it_left() -> None:
    state = evolve(evolve(None, CREATED), EXPOSED)
    kept = Record(2, 1, 200, "snapshot", SNAPSHOT_VERSION, snapshot(state))
    first, second = unfold(History(kept, (record(3, UNEXPOSED, time=300),)))
    assert (first.event, first.state, first.sequence) == (None, state, 2)
    assert second.state.ports == {}


def test_empty_log_has_no_moments() -> None:
    assert unfold(History(None, ())) == []


def test_event_of_a_newer_version_is_not_skipped() -> None:
    unknown = Record(2, 1, 200, "port_painted", 1, {})
    with pytest.raises(UnknownRecordError, match="port_painted"):
        unfold(History(None, (record(1, CREATED, time=100), unknown)))


async def test_history_is_read_beside_the_tenure_that_writes_it() -> None:
    async with MemoryStore() as store:
        tenure = await store.claim(NAME)
        await store.append(tenure, [Entry(100.0, *encode(CREATED))])
        (moment,) = await read_history(store, NAME)
        assert moment.event == CREATED
        await store.append(tenure, [Entry(200.0, *encode(EXPOSED))])
        assert len(await read_history(store, NAME)) == 2


# The state at some time.


def test_state_at_a_time_is_the_one_after_the_last_record_until_then() -> None:
    moments = unfold(history(CREATED, EXPOSED, UNEXPOSED))
    assert state_at(moments, 99) is None
    assert state_at(moments, 100) == moments[0].state
    assert state_at(moments, 299) == moments[1].state
    assert state_at(moments, 1e12) == moments[2].state
    assert state_at([], 100) is None


# Secrets.


def test_token_of_an_event_is_masked_and_the_rest_is_plain() -> None:
    name, fields = describe_event(EXPOSED)
    assert name == "port_exposed"
    assert fields == {
        "port": 8080,
        "token": MASK,
        "name": "web",
        "host_header": "localhost",
        "wake_on_websocket": False,
    }


def test_digest_of_a_gate_is_masked() -> None:
    _, fields = describe_event(GATED)
    assert fields["digest"] == MASK


def test_no_secret_is_left_anywhere_in_a_state() -> None:
    state = evolve(evolve(evolve(None, CREATED), EXPOSED), GATED)
    described = describe_state(state)
    assert TOKEN not in repr(described)
    assert GATED.digest.hex() not in repr(described)
    assert repr(GATED.digest) not in repr(described)
    assert described["ports"] == [
        {
            "port": 8080,
            "token": MASK,
            "generation": 1,
            "name": "web",
            "host_header": "localhost",
            "wake_on_websocket": False,
        }
    ]
