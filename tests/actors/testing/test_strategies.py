"""The strategies draw what they say, and reach what matters."""

from collections.abc import Callable

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from actors.sandbox.admission import NEEDS_WAKE, Grant, RefusedBecause, VisitRequest, admit
from actors.sandbox.decide import DEFAULT_RULES, Command, CreateSandbox, Refusal, Rules, check_exposable, decide
from actors.sandbox.events import EVENT_NAMES, Event, SandboxCreated, SandboxDestroyed
from actors.sandbox.ids import Port, SandboxId
from actors.sandbox.state import SandboxState, Status, evolve
from actors.testing.strategies import (
    NOW,
    changes,
    commands,
    container_specs,
    creations,
    exposable_ports,
    histories,
    hostile_commands,
    minted_tokens,
    port_tokens,
    ports,
    preview_tokens,
    sandbox_ids,
    states,
    visit_requests,
)

SEARCH = settings(max_examples=5000, database=None, derandomize=True, deadline=None, phases=[Phase.generate])
"""That it can be drawn is the question, not how small."""


@given(
    st.one_of(
        sandbox_ids(),
        ports(),
        port_tokens(),
        minted_tokens(),
        preview_tokens(),
        container_specs(),
        commands(),
        changes(),
    )
)
def test_everything_can_be_drawn(drawn: object) -> None:
    # Whatever is no legal name has raised by now.
    assert drawn is not None


@given(exposable_ports(), exposable_ports(Rules(frozenset({8080}))))
def test_exposable_ports_may_be_exposed(port: Port, other: Port) -> None:
    assert check_exposable(port, DEFAULT_RULES) is None
    assert other != 8080


@given(creations())
def test_creation_is_obeyed_where_there_is_no_sandbox(command: CreateSandbox) -> None:
    assert isinstance(decide(None, command, NOW), tuple)


@given(hostile_commands(Rules(frozenset({9999}))), states())
def test_hostile_command_is_refused(command: Command, state: SandboxState | None) -> None:
    assert isinstance(decide(state, command, NOW, Rules(frozenset({9999}))), Refusal)


@given(histories())
def test_history_folds_from_creation_to_destruction(events: list[Event]) -> None:
    state: SandboxState | None = None
    for number, event in enumerate(events):
        assert isinstance(event, SandboxCreated) == (number == 0)
        assert not isinstance(event, SandboxDestroyed) or event is events[-1]
        state = evolve(state, event)


@given(histories(max_size=3))
def test_length_of_a_history_is_bounded(events: list[Event]) -> None:
    # A creation with a gate is two events, an ending at most two more.
    assert len(events) <= 3 + 4


@pytest.mark.parametrize("kind", EVENT_NAMES)
def test_every_event_is_drawn(kind: type[Event]) -> None:
    find(histories(), lambda events: any(isinstance(event, kind) for event in events), settings=SEARCH)


def _has(status: Status) -> Callable[[SandboxState | None], bool]:
    return lambda state: state is not None and state.status is status


@pytest.mark.parametrize("status", Status)
def test_every_status_is_drawn(status: Status) -> None:
    find(states(), _has(status), settings=SEARCH)


def test_sandbox_that_was_never_created_is_drawn() -> None:
    assert find(states(), lambda state: state is None, settings=SEARCH) is None


@st.composite
def doors(draw: st.DrawFn) -> tuple[SandboxState | None, VisitRequest]:
    state = draw(states())
    return state, draw(visit_requests(state))


@pytest.mark.parametrize("answer", [*RefusedBecause, NEEDS_WAKE])
def test_every_answer_to_a_visit_is_drawn(answer: object) -> None:
    find(doors(), lambda door: admit(door[0], door[1], NOW) == answer, settings=SEARCH)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("built_in", [False, True])
def test_every_kind_of_grant_is_drawn(gated: bool, built_in: bool) -> None:
    def is_wanted(door: tuple[SandboxState | None, VisitRequest]) -> bool:
        granted = admit(door[0], door[1], NOW)
        if not isinstance(granted, Grant):
            return False
        return (granted.auth_generation is not None, granted.exposure_generation is None) == (gated, built_in)

    find(doors(), is_wanted, settings=SEARCH)


@given(visit_requests())
def test_visit_may_be_drawn_without_a_state(request: VisitRequest) -> None:
    assert admit(None, request, NOW) in (RefusedBecause.INVALID_TOKEN, RefusedBecause.SANDBOX_NOT_FOUND)


@given(sandbox_ids())
def test_ids_are_not_of_the_small_world_only(sandbox: SandboxId) -> None:
    assert 1 <= len(sandbox) <= 40
