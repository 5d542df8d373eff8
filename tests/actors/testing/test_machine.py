"""The state machine lives whole lives, and finds each law broken that a change of the model could plausibly break."""

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from actors.errors import UnknownRecordError
from actors.sandbox.admission import NEEDS_WAKE, Admission, CutBecause, Grant, RefusedBecause, VisitRequest
from actors.sandbox.decide import (
    BeginRun,
    Command,
    CreateSandbox,
    DestroySandbox,
    ExposePort,
    Refusal,
    RefusalReason,
    RotatePreviewAuth,
    Rules,
    StopSandbox,
    UnexposePort,
)
from actors.sandbox.events import (
    Event,
    PortExposed,
    PortUnexposed,
    PreviewAuthGraceEnded,
    PreviewAuthRotated,
    SandboxDestroyed,
    SandboxStopped,
)
from actors.sandbox.ids import Port, PortToken
from actors.sandbox.state import SandboxState, Status
from actors.testing.machine import SandboxMachine
from actors.testing.strategies import PORTS, SANDBOX

SEARCH = settings(
    max_examples=1000,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    deadline=None,
    report_multiple_bugs=False,
)
"""Finds what is broken; how small the example could be made does not matter here."""


# Changes of the model, each wrong in one way.


class ForgetsToRefuseAnotherPortsToken(SandboxMachine):
    """Two ports end up behind one URL's secret."""

    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        decided = super().decide(command)
        if isinstance(decided, Refusal) and isinstance(command, ExposePort) and "already used" in decided.text:
            assert command.token is not None
            return (PortExposed(Port(command.port), command.token),)
        return decided


class RepeatsItself(SandboxMachine):
    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        decided = super().decide(command)
        return (SandboxStopped(),) if isinstance(command, StopSandbox) and decided == () else decided


class SaysTheToken(SandboxMachine):
    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        decided = super().decide(command)
        if isinstance(decided, Refusal) and isinstance(command, ExposePort) and command.token is not None:
            return Refusal(decided.reason, f"{decided.text} (it was {command.token.reveal()})")
        return decided


class DecidesWhatCannotHappen(SandboxMachine):
    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        decided = super().decide(command)
        if isinstance(command, BeginRun) and not isinstance(decided, Refusal):
            return (*decided, PortUnexposed(PORTS[0]))
        return decided


class RefusesToTakeBackFromTheStopped(SandboxMachine):
    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        if isinstance(command, UnexposePort) and self.state is not None and self.state.status is Status.STOPPED:
            return Refusal(RefusalReason.STOPPED, "it has been stopped")
        return super().decide(command)


class RotatesWithoutEndingTheOldToken(SandboxMachine):
    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        if isinstance(command, RotatePreviewAuth) and command.grace == 0:
            command = replace(command, grace=3600.0)
        return super().decide(command)


class EndsGracesEarly(SandboxMachine):
    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        graceful = self.state is not None and self.state.auth is not None and self.state.auth.previous is not None
        if isinstance(command, BeginRun) and graceful and self.lives and self.state and self.state.run_id is None:
            begun = super().decide(command)
            return begun if isinstance(begun, Refusal) else (*begun, PreviewAuthGraceEnded())
        return super().decide(command)


class ReusesGenerations(SandboxMachine):
    def evolve(self, state: SandboxState | None, event: Event) -> SandboxState:
        after = super().evolve(state, event)
        if isinstance(event, PortUnexposed):
            return replace(after, generation=max((item.generation for item in after.ports.values()), default=0))
        return after


class EvolvesByTheClock(SandboxMachine):
    """A state that depends on when it was folded is another one after a restart."""

    def evolve(self, state: SandboxState | None, event: Event) -> SandboxState:
        after = super().evolve(state, event)
        if isinstance(event, PreviewAuthRotated) and event.previous_until is not None and after.auth is not None:
            over = event.previous_until <= self.now
            return replace(after, auth=replace(after.auth, previous=None)) if over else after
        return after


class ForgetsTheGateWhenStopped(SandboxMachine):
    def evolve(self, state: SandboxState | None, event: Event) -> SandboxState:
        after = super().evolve(state, event)
        return replace(after, auth=None) if isinstance(event, SandboxStopped) else after


class KeepsPortsAfterDestruction(SandboxMachine):
    def evolve(self, state: SandboxState | None, event: Event) -> SandboxState:
        after = super().evolve(state, event)
        return replace(after, ports=state.ports) if isinstance(event, SandboxDestroyed) and state is not None else after


class NewNameNewGeneration(SandboxMachine):
    """Naming a port must not cut its visits."""

    def evolve(self, state: SandboxState | None, event: Event) -> SandboxState:
        after = super().evolve(state, event)
        if isinstance(event, PortExposed):
            renewed = replace(after.ports[event.port], generation=after.generation + 1)
            return replace(after, ports={**after.ports, event.port: renewed}, generation=after.generation + 1)
        return after


class WakesBeforeItLooksAtTheSecret(SandboxMachine):
    def admit(self, request: VisitRequest) -> Admission:
        admitted = super().admit(request)
        wrong = admitted in (RefusedBecause.AUTH_INVALID, RefusedBecause.AUTH_REQUIRED)
        return NEEDS_WAKE if wrong and self.state is not None and self.state.run_id is None else admitted


class TakesAnyPortsToken(SandboxMachine):
    def admit(self, request: VisitRequest) -> Admission:
        if self.state is not None and request.token in {item.token for item in self.state.ports.values()}:
            right = next(item for item in self.state.ports.values() if item.token == request.token)
            return super().admit(replace(request, port=right.port))
        return super().admit(request)


class AdmitsOnTheLastSecondOfGrace(SandboxMachine):
    """Admission and `still_holds` must agree to the instant."""

    def admit(self, request: VisitRequest) -> Admission:
        moment, self.now = self.now, self.now - 0.001
        try:
            return super().admit(request)
        finally:
            self.now = moment


class NeverCutsAfterRotation(SandboxMachine):
    def still_holds(self, grant: Grant) -> CutBecause | None:
        cut = super().still_holds(grant)
        return None if cut is CutBecause.ROTATED else cut


class NeverCutsAfterUnexpose(SandboxMachine):
    def still_holds(self, grant: Grant) -> CutBecause | None:
        cut = super().still_holds(grant)
        return None if cut is CutBecause.UNEXPOSED else cut


class RunsAreAlike(SandboxMachine):
    def still_holds(self, grant: Grant) -> CutBecause | None:
        cut = super().still_holds(grant)
        return None if cut is CutBecause.RUN_ENDED else cut


class CutsWhatNobodyRevoked(SandboxMachine):
    def still_holds(self, grant: Grant) -> CutBecause | None:
        crowded = self.state is not None and len(self.state.ports) > 1
        return CutBecause.UNEXPOSED if crowded else super().still_holds(grant)


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [
        ForgetsToRefuseAnotherPortsToken,
        RepeatsItself,
        SaysTheToken,
        DecidesWhatCannotHappen,
        RefusesToTakeBackFromTheStopped,
        RotatesWithoutEndingTheOldToken,
        EndsGracesEarly,
        ReusesGenerations,
        EvolvesByTheClock,
        ForgetsTheGateWhenStopped,
        KeepsPortsAfterDestruction,
        NewNameNewGeneration,
        WakesBeforeItLooksAtTheSecret,
        TakesAnyPortsToken,
        AdmitsOnTheLastSecondOfGrace,
        NeverCutsAfterRotation,
        NeverCutsAfterUnexpose,
        RunsAreAlike,
        CutsWhatNobodyRevoked,
    ],
)
def test_broken_model_is_found_out(broken: type[SandboxMachine]) -> None:
    # An impossible event is refused by `evolve` with an error of its own.
    with pytest.raises((AssertionError, UnknownRecordError)):
        run_state_machine_as_test(broken, settings=SEARCH)


# How it is extended.


class WithAPolicyOfItsOwn(SandboxMachine):
    policy = Rules(reserved_ports=frozenset({5173}))
    offered = 0

    @rule(port=st.sampled_from(PORTS))
    def offer(self, port: Port) -> None:
        type(self).offered += 1
        decided = self.do(ExposePort(port, minted=PortToken("offered_by_us")))
        assert port != 5173 or isinstance(decided, Refusal)

    @invariant()
    def reserved_port_is_never_exposed(self) -> None:
        assert self.state is None or 5173 not in self.state.ports


def test_machine_is_extended_with_a_policy_a_rule_and_a_law() -> None:
    run_state_machine_as_test(WithAPolicyOfItsOwn, settings=settings(SEARCH, max_examples=30))
    assert WithAPolicyOfItsOwn.offered > 0


class WithAnImpossibleLaw(SandboxMachine):
    @invariant()
    def nothing_is_ever_exposed(self) -> None:
        assert self.state is None or not self.state.ports


def test_own_law_that_does_not_hold_is_found_broken() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(WithAnImpossibleLaw, settings=SEARCH)


# What its lives are like.


def test_visits_are_followed_from_admission_to_revocation() -> None:
    machine = SandboxMachine()
    machine.do(CreateSandbox(SANDBOX))
    machine.do(ExposePort(PORTS[0], minted=PortToken("stable")))
    request = VisitRequest(PORTS[0], PortToken("stable"))
    assert machine.visit(request) == NEEDS_WAKE
    machine.begin_run()
    assert isinstance(machine.visit(request), Grant)
    assert [visit.request for visit in machine.held] == [request]
    machine.unexpose(PORTS[0])
    assert not machine.held
    assert [visit.request for visit in machine.gone] == [request]


def test_sandbox_may_be_created_again_under_its_old_name() -> None:
    machine = SandboxMachine()
    machine.do(CreateSandbox(SANDBOX, open_ports=True))
    machine.do(DestroySandbox())
    machine.create_again(CreateSandbox(SANDBOX, open_ports=False))
    assert machine.lives
    assert len(machine.log) == 1
