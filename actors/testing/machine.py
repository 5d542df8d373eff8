"""A state machine for hypothesis that lives the life of a sandbox and knows the laws of the state model.

Run it as it is with ``TestSandbox = SandboxMachine.TestCase``, or extend it::

    class MyMachine(SandboxMachine):
        @rule(port=st.sampled_from(PORTS))
        def expose_under_our_policy(self, port):
            self.do(my_policy(self.state, port))       # decides, checks every law of a decision, applies

        @invariant()
        def admin_port_is_never_exposed(self):
            assert self.state is None or 9000 not in self.state.ports

    TestMine = MyMachine.TestCase

Whoever changes the model itself, or has another one, overrides `decide`, `evolve`, `admit` or `still_holds`; the
laws stay. Each step is also told to a `PlainSandbox`, which must come to the same opinion.

Rules are what can happen; laws are invariants, whose names are the sentences they hold.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

import msgpack  # type: ignore[import-untyped]  # published without type information
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from actors.sandbox.admission import (
    NEEDS_WAKE,
    Admission,
    CutBecause,
    Grant,
    RefusedBecause,
    VisitRequest,
    admit,
    sign_in,
    still_holds,
)
from actors.sandbox.decide import (
    BeginRun,
    Command,
    CreateSandbox,
    CreateShare,
    DestroySandbox,
    EndRun,
    ExposePort,
    FireAlarm,
    Hibernate,
    NoteExit,
    RedeemShare,
    Refusal,
    RevokeShare,
    RotatePreviewAuth,
    Rules,
    SetPreviewAuth,
    SetSleepAfter,
    StopSandbox,
    UnexposePort,
    decide,
)
from actors.sandbox.events import Event, HostHeader, RunEnd
from actors.sandbox.ids import SEAL_BYTES, Port, PortToken, PreviewToken, Seal
from actors.sandbox.sessions import naming_share, share_session
from actors.sandbox.state import SNAPSHOT_VERSION, SandboxState, Status, evolve, next_alarm, restore, snapshot
from actors.testing.plain import IN, WAKE, Leaning, PlainSandbox
from actors.testing.storage import as_logged, through_msgpack
from actors.testing.strategies import (
    NOW,
    PORT_TOKENS,
    PORTS,
    PREVIEW_TOKENS,
    SHARE_SECRETS,
    SHARES,
    creations,
    graces,
    hostile_commands,
    hostname_share_creations,
    minted_tokens,
    names,
    share_creations,
    share_redemptions,
    sleeps,
    visit_requests,
)

VISITS_MAX: Final = 40
"""Visits that a machine follows at once; enough to have some of every kind, few enough to look at after each step."""

SESSIONS_TRIED: Final = 12
"""The newest that browsers were given: tried at every door after each step."""

YOUTH: Final = 12
"""Events before a sandbox may be stopped or destroyed: a life that ends at once shows little."""

SPOKEN_LENGTH_MIN: Final = 6
"""Shorter tokens may stand in a text by chance."""


class HeldVisit:
    """A visit that was let in, and what both models say it leans on."""

    def __init__(self, request: VisitRequest, grant: Grant, leaning: Leaning) -> None:
        self.request: Final = request
        self.grant: Final = grant
        self.leaning: Final = leaning

    def __repr__(self) -> str:
        return f"HeldVisit({self.grant!r})"


class SandboxMachine(RuleBasedStateMachine):
    """One sandbox after another under one name: rules of what can happen to it, and the laws that hold throughout."""

    policy = Rules()
    """The platform's own rules; a subclass may set others."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        """Seconds since 1970; only `pass_time` moves it, and never back."""
        self.state: SandboxState | None = None
        self.log: list[Event] = []
        """Of the sandbox that there is; a destroyed one takes its log along."""
        self.plain = PlainSandbox(self.policy)
        self.held: list[HeldVisit] = []
        """Visits under way."""
        self.gone: list[HeldVisit] = []
        """Visits whose grant has once been revoked."""
        self.sessions: list[bytes] = []
        """All that browsers were ever given, in every life of the sandbox."""
        self.lives_begun = 0
        self.runs = 0
        """Run ids given out, over all lives."""
        # {(port, token): the generations that were ended}
        self._retired: dict[tuple[Port, str], set[int]] = {}
        # {generation: what it was given to}
        self._generations: dict[int, object] = {}
        # (how much of the log it stands for, version, fields)
        self._snapshot: tuple[int, int, Mapping[str, object]] | None = None

    # The model under test. Override these to test a changed one.

    def decide(self, command: Command) -> tuple[Event, ...] | Refusal:
        """Return what `command` leads to now."""
        return decide(self.state, command, self.now, self.policy)

    def evolve(self, state: SandboxState | None, event: Event) -> SandboxState:
        """Return the state after `event`."""
        return evolve(state, event)

    def admit(self, request: VisitRequest) -> Admission:
        """Judge a visit now."""
        return admit(self.state, request, self.now)

    def still_holds(self, grant: Grant) -> CutBecause | None:
        """Say whether a visit may stay."""
        return still_holds(self.state, grant, self.now)

    def fold(self, events: Iterable[Event], state: SandboxState | None = None) -> SandboxState | None:
        """Return the state after all of `events`."""
        for event in events:
            state = self.evolve(state, event)
        return state

    # Steps.

    def do(self, command: Command) -> tuple[Event, ...] | Refusal:
        """Decide a command, apply what it leads to, and check every law of a decision; the step of most rules."""
        before = _plain_copy(self.state)
        decided = self.decide(command)
        assert _plain_copy(self.state) == before, "deciding changes nothing"
        self.assert_no_secret_in(command, decided)
        obeyed = self.plain.obey(command, self.now)
        refused = isinstance(decided, Refusal)
        assert obeyed != refused, f"the plain model {'obeys' if obeyed else 'refuses'} {command!r}: {decided!r}"
        if isinstance(decided, Refusal):
            assert str(decided.to_error()) == decided.text
            return decided
        for event in decided:
            assert as_logged(event) == event, "an event comes out of the log as it went in"
            self.state = self.evolve(self.state, event)
            self.log.append(event)
        self._note_generations()
        repeatable = not isinstance(command, CreateSandbox | DestroySandbox | RedeemShare | NoteExit)
        assert not repeatable or self.decide(command) == (), f"deciding {command!r} twice does nothing"
        self._part_with_revoked()
        return decided

    def visit(self, request: VisitRequest) -> Admission:
        """Judge a visit, check every law of admission, and keep it under way if it was let in."""
        admitted = self.admit(request)
        self.assert_no_secret_in(request, admitted)
        expected = self.plain.judge(request, self.now)
        if isinstance(admitted, Grant):
            assert expected == IN, f"the plain model answers {expected}"
            assert self.still_holds(admitted) is None, "what is admitted holds"
            if len(self.held) < VISITS_MAX:
                self.held.append(HeldVisit(request, admitted, self.plain.leaning(request, self.now)))
        else:
            answer = WAKE if admitted == NEEDS_WAKE else str(admitted)
            assert answer == expected, f"the plain model answers {expected}, not {answer}"
        return admitted

    def new_run_id(self) -> str:
        """Return a run id that was never used before."""
        self.runs += 1
        return f"run-{self.runs}"

    def assert_no_secret_in(self, *shown: object) -> None:
        """Fail if the text of any of these holds a secret that this sandbox knows."""
        tokens = {port.token for port in self.plain.ports.values()} | {token.reveal() for token in PORT_TOKENS}
        secrets = {token.reveal() for token in (*PREVIEW_TOKENS, *SHARE_SECRETS)}
        secrets |= {session.decode("ascii") for session in self.sessions[-VISITS_MAX:]}
        for thing in shown:
            text = f"{thing!r} {thing}"
            for secret in tokens | secrets:
                assert len(secret) < SPOKEN_LENGTH_MIN or secret not in text, f"{type(thing).__name__} shows a secret"

    def _note_generations(self) -> None:
        if self.state is None:
            return
        given: list[tuple[int, object]] = [
            (exposure.generation, (exposure.port, exposure.token)) for exposure in self.state.ports.values()
        ]
        given += [(sharing.generation, sharing.share) for sharing in self.state.shares.values()]
        if self.state.auth is not None:
            given.append((self.state.auth.generation, self.state.auth.digest))
        for generation, holder in given:
            assert generation <= self.state.generation
            assert self._generations.setdefault(generation, holder) == holder, f"generation {generation} came twice"
        current = {exposure.generation for exposure in self.state.ports.values()}
        for generation, holder in self._generations.items():
            if generation not in current and isinstance(holder, tuple):
                port, token = holder
                self._retired.setdefault((port, token.reveal()), set()).add(generation)

    def _part_with_revoked(self) -> None:
        staying = [visit for visit in self.held if self.still_holds(visit.grant) is None]
        self.gone = [*self.gone, *(visit for visit in self.held if visit not in staying)][-VISITS_MAX:]
        self.held = staying

    @property
    def lives(self) -> bool:
        """Whether there is a sandbox that is neither stopped nor destroyed."""
        return self.state is not None and self.state.status is Status.ACTIVE

    # What can happen.

    @initialize(command=creations())
    def is_created(self, command: CreateSandbox) -> None:
        self.do(self._of_this_life(command))

    def _of_this_life(self, command: CreateSandbox) -> CreateSandbox:
        """Let no two lives have the same seal, as in the real world."""
        self.lives_begun += 1
        return replace(command, seal=Seal(self.lives_begun.to_bytes(SEAL_BYTES, "big")))

    @rule(
        port=st.sampled_from(PORTS),
        minted=minted_tokens(),
        token=st.none() | st.sampled_from(PORT_TOKENS),
        name=st.none() | names(),
        host_header=st.none() | st.sampled_from(HostHeader),
        wakes=st.none() | st.booleans(),
    )
    def expose(
        self,
        port: Port,
        minted: PortToken,
        token: PortToken | None,
        name: str | None,
        host_header: HostHeader | None,
        wakes: bool | None,
    ) -> None:
        self.do(
            ExposePort(port, minted=minted, token=token, name=name, host_header=host_header, wake_on_websocket=wakes)
        )

    @precondition(lambda self: self.state is not None and self.state.ports)
    @rule(data=st.data(), minted=minted_tokens(), name=st.none() | names(), own_token=st.booleans())
    def expose_again(self, data: st.DataObject, minted: PortToken, name: str | None, own_token: bool) -> None:
        """Without a token, or with the one that it has: its URL stays, and so do its visits."""
        assert self.state is not None
        port = data.draw(st.sampled_from(sorted(self.state.ports)))
        held = list(self.held)
        self.do(ExposePort(port, minted=minted, token=self.state.ports[port].token if own_token else None, name=name))
        assert self.held == held, "exposing again cuts nobody"

    @rule(port=st.sampled_from(PORTS))
    def unexpose(self, port: Port) -> None:
        assert not isinstance(self.do(UnexposePort(port)), Refusal), "taking back is never refused"

    @precondition(lambda self: any(visit.grant.exposure_generation is not None for visit in self.held))
    @rule(data=st.data())
    def unexpose_under_its_visitors(self, data: st.DataObject) -> None:
        ports = {visit.grant.port for visit in self.held if visit.grant.exposure_generation is not None}
        port = data.draw(st.sampled_from(sorted(ports)))
        self.unexpose(port)
        left = [visit for visit in self.held if visit.grant.exposure_generation is not None]
        assert all(visit.grant.port != port for visit in left), "nobody stays on a port that was taken back"

    @rule(token=st.sampled_from(PREVIEW_TOKENS))
    def set_preview_auth(self, token: PreviewToken) -> None:
        self.do(SetPreviewAuth(token.digest()))

    @rule(token=st.sampled_from(PREVIEW_TOKENS), grace=graces())
    def rotate_preview_auth(self, token: PreviewToken, grace: float) -> None:
        self.do(RotatePreviewAuth(token.digest(), grace))

    @rule(command=share_creations() | hostname_share_creations())
    def share(self, command: CreateShare) -> None:
        self.do(command)

    @rule(share=st.sampled_from(SHARES))
    def revoke_share(self, share: str) -> None:
        assert not isinstance(self.do(RevokeShare(share)), Refusal), "taking back is never refused"
        assert all(visit.grant.share != share for visit in self.held), "nobody stays who came by that share"

    @precondition(lambda self: self.state is not None and self.state.shares)
    @rule(data=st.data())
    def the_right_one_redeems_a_link(self, data: st.DataObject) -> None:
        assert self.state is not None
        sharing = self.state.shares[data.draw(st.sampled_from(sorted(self.state.shares)))]
        self.somebody_redeems_a_link(RedeemShare(sharing.share, sharing.port, sharing.digest, sharing.binding))

    @rule(command=share_redemptions())
    def somebody_redeems_a_link(self, command: RedeemShare) -> None:
        decided = self.do(command)
        if isinstance(decided, Refusal):
            return
        assert self.state is not None
        sharing = self.state.shares[command.share]
        if sharing.once:
            assert isinstance(self.decide(command), Refusal), "a link that opens one session opens no other"
        named = sharing.binding is not None
        session = naming_share(sharing.share, share_session(sharing)) if named else share_session(sharing)
        self.sessions.append(session)
        self.plain.note_share_session(session, command.share)
        if self.state.run_id is not None:
            token = None if named else PortToken(command.share)
            request = VisitRequest(sharing.port, token, sessions=(session,), binding=sharing.binding)
            assert isinstance(self.visit(request), Grant), "who has redeemed a link may enter"

    @precondition(lambda self: self.state is not None and self.state.auth is not None and self.state.ports)
    @rule(data=st.data())
    def a_browser_signs_in(self, data: st.DataObject) -> None:
        assert self.state is not None
        exposure = data.draw(st.sampled_from(sorted(self.state.ports.values(), key=lambda item: item.port)))
        secret = data.draw(st.sampled_from(self._secrets(self.state)))
        request = VisitRequest(exposure.port, exposure.token, secret)
        session = sign_in(self.state, request, self.now)
        # Short of the run, which signing in does not look at.
        opens = self.plain.judge(request, self.now) not in ("AUTH_INVALID", "AUTH_REQUIRED")
        assert isinstance(session, bytes) == opens
        if isinstance(session, bytes):
            self.sessions.append(session)
            self.plain.note_session(session, request, self.now)

    @rule(data=st.data())
    def hostile_command_is_refused(self, data: st.DataObject) -> None:
        assert isinstance(self.do(data.draw(hostile_commands(self.policy), label="command")), Refusal)

    @rule(command=creations())
    def create_again(self, command: CreateSandbox) -> None:
        """Agrees with a sandbox that is as asked for, refuses one that is not, and makes one where none is left."""
        if self.state is not None and self.state.status is Status.DESTROYED:
            assert isinstance(self.do(command), Refusal), "the old sandbox is still being cleared away"
            self.forget()
        self.do(self._of_this_life(command))

    def forget(self) -> None:
        """Let nothing be left of a destroyed sandbox: its log is put aside, its name is free."""
        self.state = None
        self.log = []
        self.plain = PlainSandbox(self.policy)
        self._retired.clear()
        self._generations.clear()
        self._snapshot = None

    @rule()
    def begin_run(self) -> None:
        self.do(BeginRun(self.new_run_id()))

    @precondition(lambda self: self.state is not None and self.state.run_id is not None)
    @rule(reason=st.sampled_from(RunEnd))
    def end_run(self, reason: RunEnd) -> None:
        assert self.state is not None
        assert self.state.run_id is not None
        self.do(EndRun(self.state.run_id, reason))

    @rule(reason=st.sampled_from(RunEnd))
    def stale_news_of_a_run(self, reason: RunEnd) -> None:
        assert self.do(EndRun("run-0", reason)) == (), "the end of another run is no news"

    @precondition(lambda self: self.state is not None and self.state.run_id is not None)
    @rule(process=st.sampled_from(["web", "worker"]), exit_code=st.integers(-64, 255))
    def service_exits(self, process: str, exit_code: int) -> None:
        """Recorded, as often as it happens; nobody's visit ends by it."""
        assert self.state is not None
        assert self.state.run_id is not None
        held = list(self.held)
        self.do(NoteExit(self.state.run_id, process, exit_code))
        assert self.held == held

    @rule()
    def hibernate(self) -> None:
        self.do(Hibernate())
        assert not self.held or not self.lives, "nobody stays while it sleeps"

    @rule(seconds=sleeps())
    def set_sleep_after(self, seconds: float | None) -> None:
        held = list(self.held)
        self.do(SetSleepAfter(seconds))
        assert self.held == held, "how long it stays up without use is nothing to those who use it"

    @rule(seconds=st.sampled_from([0.25, 1.0, 30.0, 4000.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._part_with_revoked()

    @precondition(lambda self: next_alarm(self.state) is not None)
    @rule()
    def the_old_token_comes_as_its_grace_ends(self) -> None:
        state, due = self.state, next_alarm(self.state)
        assert state is not None
        assert due is not None
        old = self._secrets(state)[-1]
        self.pass_time(max(due - self.now, 0.0))
        for port in sorted(state.ports):
            self.visit(VisitRequest(port, state.ports[port].token, old))

    @rule()
    def fire_alarm(self) -> None:
        """May come at any time, and a second time; what it changes was over already."""
        open_before = [visit for visit in self.held if self.still_holds(visit.grant) is None]
        self.do(FireAlarm())
        assert self.held == open_before, "an alarm ends only what time has ended"

    @precondition(lambda self: self.lives and len(self.log) >= YOUTH)
    @rule()
    def stop(self) -> None:
        self.do(StopSandbox())

    @precondition(lambda self: self.state is not None and len(self.log) >= YOUTH)
    @rule()
    def destroy(self) -> None:
        self.do(DestroySandbox())
        assert not self.held, "destruction leaves no visit"

    @rule(data=st.data())
    def somebody_visits(self, data: st.DataObject) -> None:
        self.visit(data.draw(visit_requests(self.state, self.sessions[-VISITS_MAX:]), label="request"))

    @precondition(lambda self: self.state is not None and self.state.ports)
    @rule(data=st.data())
    def an_invited_visitor_comes(self, data: st.DataObject) -> None:
        """With the right token of a port and a bearer secret that opens or did a moment ago; wakes what it may."""
        assert self.state is not None
        exposure = data.draw(st.sampled_from(sorted(self.state.ports.values(), key=lambda item: item.port)))
        request = VisitRequest(exposure.port, exposure.token, data.draw(st.sampled_from(self._secrets(self.state))))
        if self.visit(request) == NEEDS_WAKE:
            self.begin_run()
            assert isinstance(self.visit(request), Grant), "who may wake a sandbox may enter it then"

    def _secrets(self, state: SandboxState) -> list[bytes | None]:
        if state.auth is None:
            return [None]
        previous = state.auth.previous
        known = {token.digest(): token.reveal().encode() for token in PREVIEW_TOKENS}
        digests = [state.auth.digest, *([previous.digest] if previous is not None else [])]
        return [known[digest] for digest in digests if digest in known] or [None]

    @precondition(lambda self: self.log)
    @rule()
    def restart(self) -> None:
        """Come back from the log alone."""
        self.state = self.fold(as_logged(event) for event in self.log)

    @precondition(lambda self: self.state is not None)
    @rule()
    def take_snapshot(self) -> None:
        assert self.state is not None
        self._snapshot = len(self.log), SNAPSHOT_VERSION, through_msgpack(snapshot(self.state))

    # Laws.

    @invariant()
    def the_state_is_the_fold_of_the_log(self) -> None:
        assert self.fold(self.log) == self.state

    @invariant()
    def snapshot_plus_tail_equals_full_replay(self) -> None:
        if self._snapshot is not None:
            length, version, fields = self._snapshot
            assert self.fold(self.log[length:], restore(version, fields)) == self.state

    @invariant()
    def the_plain_model_agrees(self) -> None:
        state, plain = self.state, self.plain
        if state is None:
            assert not plain.exists
            return
        told = {
            int(port): (
                exposure.token.reveal(),
                exposure.name,
                str(exposure.host_header),
                exposure.wake_on_websocket,
            )
            for port, exposure in state.ports.items()
        }
        assert told == {
            port: (item.token, item.name, item.host_header, item.wakes) for port, item in plain.ports.items()
        }
        assert (state.status is Status.DESTROYED, state.status is Status.STOPPED) == (
            plain.destroyed,
            plain.stopped and not plain.destroyed,
        )
        assert (state.run_id, state.slept, state.open_ports, state.when_asleep, state.sleep_after) == (
            plain.run_id,
            plain.slept,
            plain.open_ports,
            plain.when_asleep,
            plain.sleep_after,
        )
        opening = [(secret.digest, secret.until) for secret in plain.secrets if self.now < secret.until]
        assert self._open_digests(state) == opening
        standing = {
            str(share): (int(sharing.port), sharing.expires_at, sharing.redeemed)
            for share, sharing in state.shares.items()
        }
        assert standing == {key: (share.port, share.until, share.redeemed) for key, share in plain.shares.items()}

    def _open_digests(self, state: SandboxState) -> list[tuple[bytes, float]]:
        if state.auth is None:
            return []
        previous = state.auth.previous
        in_grace = [(previous.digest, previous.until)] if previous is not None and self.now < previous.until else []
        return [(state.auth.digest, math.inf), *in_grace]

    @invariant()
    def what_was_admitted_and_not_revoked_still_holds(self) -> None:
        for visit in self.held:
            carried = self.plain.carries(visit.leaning, self.now)
            assert carried == (self.still_holds(visit.grant) is None), f"{visit} should {'' if carried else 'not '}hold"
            assert isinstance(self.admit(visit.request), Grant), f"{visit} may stay but could not enter"

    @invariant()
    def what_was_revoked_never_holds_again(self) -> None:
        for visit in self.gone:
            assert self.still_holds(visit.grant) is not None
            assert not self.plain.carries(visit.leaning, self.now)
            assert self.admit(visit.request) != visit.grant, f"{visit} was revoked, and admitted as the same"

    @invariant()
    def an_unexposed_port_never_admits_its_old_token_but_as_another_generation(self) -> None:
        for (port, text), generations in self._retired.items():
            exposure = self.state.ports.get(port) if self.state is not None else None
            if exposure is not None and exposure.token.reveal() == text:
                assert exposure.generation not in generations
            else:
                assert self.admit(VisitRequest(port, PortToken(text))) is RefusedBecause.INVALID_TOKEN

    @invariant()
    def what_browsers_and_links_hold_opens_what_it_stands_for_and_nothing_else(self) -> None:
        if self.state is None:
            return
        doors = [(port, exposure.token) for port, exposure in self.state.ports.items()]
        doors += [(sharing.port, PortToken(share)) for share, sharing in self.state.shares.items()]
        for port, token in doors:
            for session in self.sessions[-SESSIONS_TRIED:]:
                self._assert_agreed(VisitRequest(port, token, sessions=(session,)))
            for secret in SHARE_SECRETS:
                self._assert_agreed(VisitRequest(port, token, share_secret=secret.reveal().encode()))

    def _assert_agreed(self, request: VisitRequest) -> None:
        admitted, expected = self.admit(request), self.plain.judge(request, self.now)
        answer = IN if isinstance(admitted, Grant) else WAKE if admitted == NEEDS_WAKE else str(admitted)
        assert answer == expected, f"the plain model answers {expected}, not {answer}"

    @invariant()
    def tokens_of_one_sandbox_are_unique(self) -> None:
        if self.state is not None:
            tokens = {exposure.token for exposure in self.state.ports.values()}
            assert len(tokens) == len(self.state.ports)

    @invariant()
    def a_run_is_up_only_while_the_sandbox_lives(self) -> None:
        assert self.lives or self.state is None or self.state.run_id is None

    @invariant()
    def nothing_that_can_be_printed_holds_a_secret(self) -> None:
        self.assert_no_secret_in(self.state, self.log, self.held)


def _plain_copy(state: SandboxState | None) -> bytes:
    return b"" if state is None else bytes(msgpack.packb(snapshot(state)))
