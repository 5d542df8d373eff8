"""The only function that changes a state: what follows what, and that a snapshot stands for all before it."""

import msgpack  # type: ignore[import-untyped]  # published without type information
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import UnknownRecordError
from actors.sandbox.events import (
    AsleepPolicy,
    ContainerSpec,
    Event,
    HostHeader,
    HostnameShared,
    PortExposed,
    PortUnexposed,
    PreviewAuthGraceEnded,
    PreviewAuthRotated,
    PreviewAuthSet,
    RunEnd,
    RunEnded,
    RunStarted,
    SandboxCreated,
    SandboxDestroyed,
    SandboxStopped,
    ShareCreated,
)
from actors.sandbox.ids import Port, PortToken, SandboxId, Seal, ShareId
from actors.sandbox.state import (
    SNAPSHOT_VERSION,
    Exposure,
    PreviewAuth,
    PreviousToken,
    SandboxState,
    Status,
    evolve,
    fold,
    next_alarm,
    port_of_token,
    restore,
    snapshot,
)
from actors.testing.strategies import histories, states

CREATED = SandboxCreated(SandboxId("my-app"), ContainerSpec())
WEB = PortExposed(Port(8080), PortToken("stable"))
API = PortExposed(Port(5173), PortToken("other"))
ONE, TWO, THREE = bytes([1] * 32), bytes([2] * 32), bytes([3] * 32)


def after(*events: Event) -> SandboxState:
    state = fold([CREATED, *events])
    assert state is not None
    return state


# What each event does.


def test_creation_begins_everything() -> None:
    spec = ContainerSpec("address", {"host": "127.0.0.1"})
    state = evolve(None, SandboxCreated(SandboxId("my-app"), spec, True, AsleepPolicy.STALE))
    assert state == SandboxState(SandboxId("my-app"), spec, True, AsleepPolicy.STALE)
    assert (state.status, state.ports, state.run_id, state.auth, state.generation) == (Status.ACTIVE, {}, None, None, 0)


def test_exposed_port_has_its_token_and_a_generation() -> None:
    assert after(WEB).ports == {Port(8080): Exposure(Port(8080), PortToken("stable"), 1)}


def test_another_token_is_another_generation() -> None:
    state = after(WEB, PortExposed(Port(8080), PortToken("fresh")))
    assert state.ports[Port(8080)].generation == 2


def test_another_name_or_host_header_is_the_same_generation() -> None:
    state = after(WEB, PortExposed(Port(8080), PortToken("stable"), "web", HostHeader.PRESERVE))
    assert state.ports == {Port(8080): Exposure(Port(8080), PortToken("stable"), 1, "web", HostHeader.PRESERVE)}


def test_port_exposed_again_with_its_old_token_is_another_generation() -> None:
    state = after(WEB, PortUnexposed(Port(8080)), WEB)
    assert state.ports[Port(8080)].generation == 2


def test_unexposed_port_leaves_the_others() -> None:
    assert after(WEB, API, PortUnexposed(Port(8080))).ports == {Port(5173): Exposure(Port(5173), PortToken("other"), 2)}


def test_generations_are_counted_for_ports_and_gates_together() -> None:
    state = after(WEB, PreviewAuthSet(ONE), API, PreviewAuthRotated(TWO, None))
    assert state.auth == PreviewAuth(TWO, 4)
    assert {exposure.generation for exposure in state.ports.values()} == {1, 3}


def test_run_begins_and_ends() -> None:
    assert after(RunStarted("run-1")).run_id == "run-1"
    assert after(RunStarted("run-1"), RunEnded("run-1", RunEnd.SLEPT)).run_id is None


def test_rotation_with_grace_keeps_the_token_before() -> None:
    state = after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 9.0))
    assert state.auth == PreviewAuth(TWO, 2, PreviousToken(ONE, 1, 9.0))
    assert next_alarm(state) == 9.0
    over = evolve(state, PreviewAuthGraceEnded())
    assert over.auth == PreviewAuth(TWO, 2)
    assert next_alarm(over) is None


def test_second_rotation_drops_the_token_before_the_last() -> None:
    state = after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 9.0), PreviewAuthRotated(THREE, 5.0))
    assert state.auth == PreviewAuth(THREE, 3, PreviousToken(TWO, 2, 5.0))


def test_gate_set_anew_ends_every_grace() -> None:
    assert after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 9.0), PreviewAuthSet(THREE)).auth == PreviewAuth(THREE, 3)


def test_stop_ends_the_run_and_keeps_the_explanation() -> None:
    state = after(WEB, PreviewAuthSet(ONE), RunStarted("run-1"), SandboxStopped())
    assert (state.status, state.run_id) == (Status.STOPPED, None)
    assert Port(8080) in state.ports
    assert state.auth is not None
    assert evolve(state, PortUnexposed(Port(8080))).ports == {}


def test_destruction_forgets_ports_tokens_and_gate() -> None:
    state = after(WEB, PreviewAuthSet(ONE), RunStarted("run-1"), SandboxDestroyed())
    assert (state.status, state.ports, state.auth, state.run_id) == (Status.DESTROYED, {}, None, None)


def test_older_states_stay_as_they_were() -> None:
    before = after(WEB)
    for event in (API, PortUnexposed(Port(8080)), PreviewAuthSet(ONE), SandboxDestroyed()):
        evolve(before, event)
    assert before == after(WEB)


# What cannot have happened.


@pytest.mark.parametrize(
    "history",
    [
        [WEB],
        [SandboxDestroyed()],
        [CREATED, CREATED],
        [CREATED, SandboxDestroyed(), CREATED],
        [CREATED, SandboxDestroyed(), WEB],
        [CREATED, SandboxDestroyed(), SandboxDestroyed()],
        [CREATED, PortUnexposed(Port(8080))],
        [CREATED, WEB, PortUnexposed(Port(8080)), PortUnexposed(Port(8080))],
        [CREATED, WEB, PortExposed(Port(5173), PortToken("stable"))],
        [CREATED, SandboxStopped(), WEB],
        [CREATED, SandboxStopped(), SandboxStopped()],
        [CREATED, SandboxStopped(), RunStarted("run-1")],
        [CREATED, RunStarted("run-1"), RunStarted("run-2")],
        [CREATED, RunEnded("run-1", RunEnd.EXITED)],
        [CREATED, RunStarted("run-1"), RunEnded("run-2", RunEnd.EXITED)],
        [CREATED, PreviewAuthRotated(ONE)],
        [CREATED, PreviewAuthGraceEnded()],
        [CREATED, PreviewAuthSet(ONE), PreviewAuthGraceEnded()],
        [CREATED, PreviewAuthSet(ONE), PreviewAuthRotated(TWO), PreviewAuthGraceEnded()],
    ],
)
def test_history_that_cannot_have_happened_is_refused(history: list[Event]) -> None:
    with pytest.raises(UnknownRecordError):
        fold(history)


def test_refused_history_shows_no_token() -> None:
    with pytest.raises(UnknownRecordError, match="ports 8080 and 5173 share a token") as refused:
        fold([CREATED, WEB, PortExposed(Port(5173), PortToken("stable"))])
    assert "stable" not in str(refused.value)


# Alarms and tokens.


def test_no_alarm_without_a_grace() -> None:
    assert next_alarm(None) is None
    assert next_alarm(after()) is None
    assert next_alarm(after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO))) is None


def test_token_is_found_with_its_port() -> None:
    state = after(WEB, API)
    assert port_of_token(state, PortToken("other")) == 5173
    assert port_of_token(state, PortToken("stable_")) is None


# Snapshots.


@given(histories(), st.data())
def test_snapshot_anywhere_plus_tail_is_the_whole_history(events: list[Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(events)))
    middle = fold(events[:cut])
    if middle is None:
        return
    kept = msgpack.unpackb(msgpack.packb(snapshot(middle)))
    assert restore(SNAPSHOT_VERSION, kept) == middle
    assert fold(events[cut:], restore(SNAPSHOT_VERSION, kept)) == fold(events)


@given(states())
def test_equal_states_have_equal_snapshots(state: SandboxState | None) -> None:
    if state is not None:
        assert snapshot(state) == snapshot(restore(SNAPSHOT_VERSION, snapshot(state)))


ADDED = {"seal", "shares", "sleep_after", "slept", "created_at"}
"""Fields that snapshots of version 1 did not have."""


def test_snapshot_is_kept_as_ever() -> None:
    state = after(WEB, PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 9.0), RunStarted("run-1"))
    assert snapshot(state) == {
        "sandbox": "my-app",
        "container": {"kind": "process", "options": {}},
        "open_ports": False,
        "when_asleep": "wake",
        "status": "active",
        "ports": [
            {
                "port": 8080,
                "token": "stable",
                "generation": 1,
                "name": None,
                "host_header": "localhost",
                "wake_on_websocket": False,
            }
        ],
        "run_id": "run-1",
        "auth": {
            "digest": TWO,
            "generation": 3,
            "previous": {"digest": ONE, "generation": 2, "until": 9.0},
        },
        "generation": 3,
        "seal": None,
        "shares": [],
        "sleep_after": None,
        "slept": False,
        "created_at": None,
    }


def test_snapshot_of_version_1_is_read() -> None:
    state = after(WEB, PreviewAuthSet(ONE), RunStarted("run-1"))
    fields = {name: value for name, value in snapshot(state).items() if name not in ADDED}
    assert restore(1, fields) == state


def test_snapshot_of_before_there_was_sleep_is_of_a_sandbox_that_does_not_sleep() -> None:
    old = {
        "sandbox": "my-app",
        "container": {"kind": "process", "options": {}},
        "open_ports": False,
        "when_asleep": "wake",
        "status": "active",
        "ports": [{"port": 8080, "token": "stable", "generation": 1, "name": None, "host_header": "localhost"}],
        "run_id": "run-1",
        "auth": None,
        "generation": 1,
    }
    assert restore(1, old) == after(WEB, RunStarted("run-1"))


def test_snapshot_of_version_2_is_of_shares_below_base_domains_and_later_ones_keep_their_hostname() -> None:
    share = (ShareId("k3v9x0q2m7t1z8aa"), Port(8080), ONE, Seal(bytes(32)), 60.0)
    old = after(WEB, ShareCreated(*share))
    fields = snapshot(old)
    (kept,) = fields["shares"] if isinstance(fields["shares"], list) else []
    shares = [{name: value for name, value in kept.items() if name not in ("hostname", "binding")}]
    assert restore(2, {**fields, "shares": shares}) == old
    bound = after(WEB, HostnameShared(*share, hostname="preview.my-app.com", binding=7))
    assert restore(SNAPSHOT_VERSION, snapshot(bound)) == bound
    assert bound != old
    # One that does not know of it would let the link open below the base domain.
    assert SNAPSHOT_VERSION == 3


@pytest.mark.parametrize("version", [0, 4, 1000])
def test_snapshot_of_another_version_is_refused(version: int) -> None:
    with pytest.raises(UnknownRecordError, match=f"version {version}"):
        restore(version, snapshot(after(WEB)))


@pytest.mark.parametrize(
    "damage",
    [
        {"generation": "many"},
        {"sandbox": "-"},
        {"status": "asleep"},
        {"ports": {"8080": {}}},
        {"ports": [{"port": 0, "token": "stable", "generation": 1}]},
        {"ports": [{"port": 8080, "token": "Not-A-Token", "generation": 1}]},
        {"auth": {"digest": b"short", "generation": 1}},
        {"run_id": 7},
    ],
)
def test_snapshot_that_does_not_fit_is_refused_without_its_values(damage: dict[str, object]) -> None:
    with pytest.raises(UnknownRecordError, match="does not have its fields") as refused:
        restore(SNAPSHOT_VERSION, {**snapshot(after(WEB)), **damage})
    assert "Not-A-Token" not in str(refused.value)


def test_snapshot_with_a_field_missing_is_refused() -> None:
    fields = snapshot(after(WEB))
    for name in set(fields) - ADDED:
        with pytest.raises(UnknownRecordError):
            restore(SNAPSHOT_VERSION, {key: value for key, value in fields.items() if key != name})
