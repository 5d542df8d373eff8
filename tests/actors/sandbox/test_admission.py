"""Who may enter, who may stay, and what a wrong credential learns: nothing."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.sandbox.admission import (
    NEEDS_WAKE,
    CutBecause,
    Grant,
    RefusedBecause,
    VisitRequest,
    admit,
    sign_in,
    still_holds,
)
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
    ShareExpired,
    ShareRedeemed,
    ShareRevoked,
)
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId, Seal, ShareId
from actors.sandbox.sessions import naming_share, share_session
from actors.sandbox.state import SandboxState, Sharing, evolve, fold
from actors.testing.strategies import NOW, histories, states, visit_requests

WEB, API = Port(8080), Port(5173)
STABLE, OTHER = PortToken("stable"), PortToken("other_token")
FIRST, SECOND, THIRD = (PreviewToken(f"preview-token-number-{number}") for number in range(3))
UP = RunStarted("run-1")
EXPOSED = PortExposed(WEB, STABLE)
GATE = PreviewAuthSet(FIRST.digest())


def created(*, open_ports: bool = False, when_asleep: AsleepPolicy = AsleepPolicy.WAKE) -> SandboxCreated:
    return SandboxCreated(SandboxId("my-app"), ContainerSpec(), open_ports, when_asleep)


def after(*events: Event, first: SandboxCreated | None = None) -> SandboxState | None:
    return fold([first or created(), *events])


def knock(
    *, port: Port = WEB, token: PortToken | None = STABLE, bearer: PreviewToken | bytes | None = None
) -> VisitRequest:
    return VisitRequest(port, token, bearer.reveal().encode() if isinstance(bearer, PreviewToken) else bearer)


def by_bearer(generation: int) -> Grant:
    return Grant(WEB, "run-1", 1, generation, by_bearer=True)


# The table of answers to credentials (docs: preview traffic), the run being up.


@pytest.mark.parametrize(
    ("state", "request_", "answer"),
    [
        pytest.param(after(EXPOSED, UP), knock(), Grant(WEB, "run-1", 1, None), id="right token"),
        pytest.param(None, knock(), RefusedBecause.INVALID_TOKEN, id="no such sandbox"),
        pytest.param(after(UP), knock(), RefusedBecause.INVALID_TOKEN, id="port not exposed"),
        pytest.param(after(EXPOSED, UP), knock(token=OTHER), RefusedBecause.INVALID_TOKEN, id="wrong token"),
        pytest.param(
            after(EXPOSED, PortExposed(API, OTHER), UP),
            knock(token=OTHER),
            RefusedBecause.INVALID_TOKEN,
            id="token of another port",
        ),
        pytest.param(
            after(EXPOSED, PortUnexposed(WEB), UP), knock(), RefusedBecause.INVALID_TOKEN, id="after unexpose"
        ),
        pytest.param(
            after(EXPOSED, PortExposed(WEB, OTHER), UP), knock(), RefusedBecause.INVALID_TOKEN, id="old token"
        ),
        pytest.param(after(EXPOSED, SandboxDestroyed()), knock(), RefusedBecause.INVALID_TOKEN, id="after destroy"),
        pytest.param(None, knock(token=None), RefusedBecause.SANDBOX_NOT_FOUND, id="built-in form, no such sandbox"),
        pytest.param(
            after(SandboxDestroyed(), first=created(open_ports=True)),
            knock(token=None),
            RefusedBecause.SANDBOX_NOT_FOUND,
            id="built-in form, after destroy",
        ),
        pytest.param(
            after(EXPOSED, UP), knock(token=None), RefusedBecause.INVALID_TOKEN, id="built-in form, ports not open"
        ),
        pytest.param(
            after(UP, first=created(open_ports=True)),
            knock(token=None, port=Port(80)),
            Grant(Port(80), "run-1", None, None),
            id="built-in form, any port",
        ),
        pytest.param(
            after(UP, first=created(open_ports=True)),
            knock(),
            RefusedBecause.INVALID_TOKEN,
            id="open ports do not make a wrong token right",
        ),
        pytest.param(after(EXPOSED, GATE, UP), knock(), RefusedBecause.AUTH_REQUIRED, id="no bearer token"),
        pytest.param(
            after(EXPOSED, GATE, UP), knock(bearer=b""), RefusedBecause.AUTH_REQUIRED, id="empty bearer token"
        ),
        pytest.param(
            after(EXPOSED, GATE, UP), knock(bearer=SECOND), RefusedBecause.AUTH_INVALID, id="wrong bearer token"
        ),
        pytest.param(
            after(EXPOSED, GATE, UP),
            knock(bearer=b"\xff\xfe not even text"),
            RefusedBecause.AUTH_INVALID,
            id="bearer token that is no text",
        ),
        pytest.param(after(EXPOSED, GATE, UP), knock(bearer=FIRST), by_bearer(2), id="right bearer token"),
        pytest.param(
            after(EXPOSED, GATE, UP),
            knock(token=OTHER, bearer=FIRST),
            RefusedBecause.INVALID_TOKEN,
            id="right bearer token, wrong port token",
        ),
        pytest.param(
            after(GATE, UP, first=created(open_ports=True)),
            knock(token=None),
            RefusedBecause.AUTH_REQUIRED,
            id="built-in form passes the same gate",
        ),
        pytest.param(
            after(EXPOSED, UP), knock(bearer=SECOND), Grant(WEB, "run-1", 1, None), id="bearer token for nothing"
        ),
    ],
)
def test_credential_is_answered(
    state: SandboxState | None, request_: VisitRequest, answer: Grant | RefusedBecause
) -> None:
    assert admit(state, request_, NOW) == answer


def test_grant_says_which_host_the_service_is_to_see() -> None:
    granted = admit(after(PortExposed(WEB, STABLE, None, HostHeader.PRESERVE), UP), knock(), NOW)
    assert isinstance(granted, Grant)
    assert granted.host_header is HostHeader.PRESERVE


def test_preflight_needs_no_bearer_token_but_the_one_in_the_hostname() -> None:
    state = after(EXPOSED, GATE, UP)
    assert admit(state, VisitRequest(WEB, STABLE, preflight=True), NOW) == Grant(WEB, "run-1", 1, 2)
    assert admit(state, VisitRequest(WEB, OTHER, preflight=True), NOW) is RefusedBecause.INVALID_TOKEN


def test_preflight_that_bears_no_credential_at_all_does_not_pass_the_gate() -> None:
    state = after(GATE, UP, first=created(open_ports=True))
    assert admit(state, VisitRequest(WEB, None, preflight=True), NOW) is RefusedBecause.AUTH_REQUIRED


def test_preflight_that_the_gate_let_pass_wakes_nothing() -> None:
    state = after(EXPOSED, GATE)
    assert admit(state, VisitRequest(WEB, STABLE, preflight=True), NOW) is RefusedBecause.AUTH_REQUIRED
    bearing = VisitRequest(WEB, STABLE, FIRST.reveal().encode(), preflight=True)
    assert admit(state, bearing, NOW) is NEEDS_WAKE


# The run's state comes last.


@pytest.mark.parametrize(
    ("events", "when_asleep", "answer"),
    [
        ([], AsleepPolicy.WAKE, NEEDS_WAKE),
        ([], AsleepPolicy.STALE, RefusedBecause.STALE_PREVIEW_URL),
        ([UP, RunEnded("run-1", RunEnd.SLEPT)], AsleepPolicy.WAKE, NEEDS_WAKE),
        ([SandboxStopped()], AsleepPolicy.WAKE, RefusedBecause.SANDBOX_STOPPED),
        ([UP, SandboxStopped()], AsleepPolicy.STALE, RefusedBecause.SANDBOX_STOPPED),
    ],
)
def test_only_a_right_credential_learns_that_nothing_is_up(
    events: list[Event], when_asleep: AsleepPolicy, answer: object
) -> None:
    state = after(EXPOSED, GATE, *events, first=created(when_asleep=when_asleep))
    assert admit(state, knock(bearer=FIRST), NOW) == answer
    assert admit(state, knock(bearer=SECOND), NOW) is RefusedBecause.AUTH_INVALID
    assert admit(state, knock(), NOW) is RefusedBecause.AUTH_REQUIRED
    assert admit(state, knock(token=OTHER, bearer=FIRST), NOW) is RefusedBecause.INVALID_TOKEN


SLEPT = (UP, RunEnded("run-1", RunEnd.SLEPT))


def test_websocket_handshake_wakes_only_where_its_port_says_so() -> None:
    handshake = VisitRequest(WEB, STABLE, websocket=True)
    assert admit(after(EXPOSED, *SLEPT), handshake, NOW) is RefusedBecause.ASLEEP
    assert admit(after(PortExposed(WEB, STABLE, wake_on_websocket=True), *SLEPT), handshake, NOW) is NEEDS_WAKE
    assert admit(after(EXPOSED, UP), handshake, NOW) == Grant(WEB, "run-1", 1, None)
    stale = created(when_asleep=AsleepPolicy.STALE)
    assert admit(after(EXPOSED, first=stale), handshake, NOW) is RefusedBecause.STALE_PREVIEW_URL
    assert admit(after(EXPOSED), VisitRequest(WEB, OTHER, websocket=True), NOW) is RefusedBecause.INVALID_TOKEN


def test_websocket_handshake_by_the_built_in_form_wakes_nothing() -> None:
    handshake = VisitRequest(WEB, None, websocket=True)
    assert admit(after(*SLEPT, first=created(open_ports=True)), handshake, NOW) is RefusedBecause.ASLEEP


def test_websocket_handshake_wakes_what_nobody_has_put_to_sleep() -> None:
    handshake = VisitRequest(WEB, STABLE, websocket=True)
    assert admit(after(EXPOSED), handshake, NOW) is NEEDS_WAKE
    assert admit(after(EXPOSED, UP, RunEnded("run-1", RunEnd.STOPPED)), handshake, NOW) is NEEDS_WAKE
    assert admit(after(EXPOSED, *SLEPT, UP, RunEnded("run-1", RunEnd.LOST)), handshake, NOW) is NEEDS_WAKE


# Rotation and its grace.

ROTATED = (EXPOSED, GATE, UP, PreviewAuthRotated(SECOND.digest()))
IN_GRACE = (EXPOSED, GATE, UP, PreviewAuthRotated(SECOND.digest(), NOW + 60))


def test_rotated_token_stops_at_once_and_the_new_one_opens() -> None:
    assert admit(after(*ROTATED), knock(bearer=FIRST), NOW) is RefusedBecause.AUTH_INVALID
    assert admit(after(*ROTATED), knock(bearer=SECOND), NOW) == by_bearer(3)


@pytest.mark.parametrize(
    ("later", "answer"),
    [(0.0, by_bearer(2)), (59.999, by_bearer(2)), (60.0, RefusedBecause.AUTH_INVALID)],
)
def test_old_token_opens_until_its_grace_is_over_whether_or_not_an_alarm_has_run(later: float, answer: object) -> None:
    state = after(*IN_GRACE)
    assert admit(state, knock(bearer=FIRST), NOW + later) == answer
    assert admit(state, knock(bearer=SECOND), NOW + later) == by_bearer(3)
    assert (still_holds(state, Grant(WEB, "run-1", 1, 2), NOW + later) is None) == isinstance(answer, Grant)


def test_third_token_ends_the_first_ones_grace() -> None:
    state = after(*IN_GRACE, PreviewAuthRotated(THIRD.digest(), NOW + 60))
    answers = [admit(state, knock(bearer=token), NOW) for token in (FIRST, SECOND, THIRD)]
    assert answers == [RefusedBecause.AUTH_INVALID, by_bearer(3), by_bearer(4)]


def test_token_that_returns_is_another_generation() -> None:
    """Rotated away and back: whoever was cut in between stays cut."""
    state = after(*ROTATED, PreviewAuthRotated(FIRST.digest()))
    assert admit(state, knock(bearer=FIRST), NOW) == by_bearer(4)
    assert still_holds(state, Grant(WEB, "run-1", 1, 2), NOW) is CutBecause.ROTATED


# Who may stay.

VISIT = Grant(WEB, "run-1", 1, 2)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], None),
        ([PortExposed(WEB, STABLE, "renamed", HostHeader.PRESERVE)], None),
        ([PortExposed(API, OTHER)], None),
        ([PortUnexposed(WEB)], CutBecause.UNEXPOSED),
        ([PortUnexposed(WEB), EXPOSED], CutBecause.UNEXPOSED),
        ([PortExposed(WEB, OTHER)], CutBecause.UNEXPOSED),
        ([PortExposed(WEB, OTHER), EXPOSED], CutBecause.UNEXPOSED),
        ([PreviewAuthSet(SECOND.digest())], CutBecause.ROTATED),
        ([PreviewAuthSet(FIRST.digest())], CutBecause.ROTATED),
        ([PreviewAuthRotated(SECOND.digest())], CutBecause.ROTATED),
        ([PreviewAuthRotated(SECOND.digest(), NOW + 60)], None),
        ([PreviewAuthRotated(SECOND.digest(), NOW)], CutBecause.ROTATED),
        ([PreviewAuthRotated(SECOND.digest(), NOW + 60), PreviewAuthGraceEnded()], CutBecause.ROTATED),
        ([RunEnded("run-1", RunEnd.EXITED)], CutBecause.RUN_ENDED),
        ([RunEnded("run-1", RunEnd.EXITED), RunStarted("run-2")], CutBecause.RUN_ENDED),
        ([SandboxStopped()], CutBecause.STOPPED),
        ([SandboxDestroyed()], CutBecause.DESTROYED),
    ],
)
def test_visit_stays_as_long_as_all_that_it_leaned_on_stands(events: list[Event], reason: CutBecause | None) -> None:
    assert still_holds(after(EXPOSED, GATE, UP, *events), VISIT, NOW) is reason


def test_visit_to_a_sandbox_that_is_gone_is_cut() -> None:
    assert still_holds(None, VISIT, NOW) is CutBecause.DESTROYED


def test_gate_set_later_is_for_those_inside_as_well() -> None:
    inside = Grant(WEB, "run-1", 1, None)
    assert still_holds(after(EXPOSED, UP), inside, NOW) is None
    assert still_holds(after(EXPOSED, UP, GATE), inside, NOW) is CutBecause.ROTATED


def test_visit_in_the_built_in_form_leans_on_no_exposure() -> None:
    inside = Grant(WEB, "run-1", None, None)
    state = after(EXPOSED, UP, PortUnexposed(WEB), first=created(open_ports=True))
    assert still_holds(state, inside, NOW) is None


# Laws.


@given(st.data())
def test_what_is_admitted_holds(data: st.DataObject) -> None:
    state = data.draw(states())
    granted = admit(state, data.draw(visit_requests(state)), NOW)
    if isinstance(granted, Grant):
        assert still_holds(state, granted, NOW) is None


@given(st.data())
def test_what_is_cut_never_holds_again(data: st.DataObject) -> None:
    """All events of a history, one after another: a grant once groundless stays so."""
    events = data.draw(histories())
    state: SandboxState | None = None
    granted: list[Grant] = []
    cut: set[int] = set()
    for event in events:
        state = evolve(state, event)
        for number, grant in enumerate(granted):
            holds = still_holds(state, grant, NOW) is None
            assert not (holds and number in cut)
            if not holds:
                cut.add(number)
        answer = admit(state, data.draw(visit_requests(state)), NOW)
        if isinstance(answer, Grant):
            granted.append(answer)


def _shares_opened_by(state: SandboxState, request: VisitRequest) -> list[Sharing]:
    """Return the shares that are named in place of a port's token, and whose secret is shown: the right link."""
    named = [share for share in state.shares.values() if request.token == PortToken(share.share)]
    digest = hashlib.sha256(request.share_secret or b"").digest()
    return [share for share in named if not share.once and (share.port, share.digest) == (request.port, digest)]


@given(st.data())
def test_wrong_port_token_gets_one_answer_whatever_the_state(data: st.DataObject) -> None:
    state = data.draw(states())
    request = data.draw(visit_requests(state))
    exposed = state.ports.get(request.port) if state is not None else None
    if state is not None and request.token is not None and _shares_opened_by(state, request):
        return
    if request.token is not None and (exposed is None or exposed.token != request.token):
        assert admit(state, request, NOW) is RefusedBecause.INVALID_TOKEN


# What shows.


def test_request_shows_no_secret_to_anybody_who_prints_it() -> None:
    request = knock(bearer=FIRST)
    # msgspec gives every struct a `__rich_repr__`, which rich asks in preference to `__repr__`.
    shown = f"{request!r} {request} {[*request.__rich_repr__()]}"
    for secret in (STABLE.reveal(), FIRST.reveal()):
        assert secret not in shown


def test_every_reason_is_the_code_of_an_answer() -> None:
    assert all(reason == reason.name for reason in RefusedBecause)


def test_reasons_to_cut_are_different() -> None:
    assert all(one != other for one, other in itertools.combinations(CutBecause, 2))


# Sessions.

SEAL, OTHER_SEAL = Seal(b"1" * 32), Seal(b"2" * 32)
SEALED = SandboxCreated(SandboxId("my-app"), ContainerSpec(), seal=SEAL)


def shows(*sessions: bytes, port: Port = WEB, token: PortToken = STABLE, bearer: bytes | None = None) -> VisitRequest:
    return VisitRequest(port, token, bearer, sessions=sessions)


def signed_in(state: SandboxState | None, bearer: PreviewToken = FIRST, *, now: float = NOW) -> bytes:
    session = sign_in(state, knock(bearer=bearer), now)
    assert isinstance(session, bytes)
    return session


def test_session_opens_what_its_token_opened_and_leaves_a_bearer_token_to_the_service() -> None:
    state = after(EXPOSED, GATE, UP, first=SEALED)
    session = signed_in(state)
    inside = Grant(WEB, "run-1", 1, 2)
    assert admit(state, shows(session), NOW) == inside
    assert admit(state, shows(b"tossed", session, session), NOW) == inside, "whatever else is shown"
    assert admit(state, shows(session, bearer=b"the app's own"), NOW) == inside
    assert admit(state, shows(session, bearer=FIRST.reveal().encode()), NOW) == by_bearer(2)


def test_session_is_given_to_nobody_without_the_token() -> None:
    state = after(EXPOSED, GATE, UP, first=SEALED)
    assert sign_in(state, knock(bearer=SECOND), NOW) is RefusedBecause.AUTH_INVALID
    assert sign_in(state, knock(), NOW) is RefusedBecause.AUTH_REQUIRED
    assert sign_in(state, knock(token=OTHER, bearer=FIRST), NOW) is RefusedBecause.INVALID_TOKEN
    assert sign_in(None, knock(bearer=FIRST), NOW) is RefusedBecause.INVALID_TOKEN
    assert sign_in(after(EXPOSED, UP), knock(bearer=FIRST), NOW) is None, "no gate asks for one"


@pytest.mark.parametrize(
    ("state", "port", "token"),
    [
        pytest.param(after(EXPOSED, PortExposed(API, OTHER), GATE, UP, first=SEALED), API, OTHER, id="another port"),
        pytest.param(
            after(EXPOSED, GATE, PreviewAuthRotated(SECOND.digest()), UP, first=SEALED), WEB, STABLE, id="rotated"
        ),
        pytest.param(
            after(
                EXPOSED,
                GATE,
                PreviewAuthRotated(SECOND.digest()),
                PreviewAuthRotated(FIRST.digest()),
                UP,
                first=SEALED,
            ),
            WEB,
            STABLE,
            id="rotated and back",
        ),
        pytest.param(
            after(EXPOSED, GATE, UP, first=SandboxCreated(SandboxId("my-app"), ContainerSpec(), seal=OTHER_SEAL)),
            WEB,
            STABLE,
            id="another life, the same token",
        ),
    ],
)
def test_session_opens_nothing_else(state: SandboxState, port: Port, token: PortToken) -> None:
    session = signed_in(after(EXPOSED, GATE, UP, first=SEALED))
    assert admit(state, shows(session, port=port, token=token), NOW) is RefusedBecause.AUTH_INVALID


def test_session_of_an_old_token_lasts_as_long_as_its_grace() -> None:
    session = signed_in(after(EXPOSED, GATE, UP, first=SEALED))
    state = after(EXPOSED, GATE, PreviewAuthRotated(SECOND.digest(), NOW + 60), UP, first=SEALED)
    admitted = admit(state, shows(session), NOW + 59)
    assert admitted == Grant(WEB, "run-1", 1, 2)
    assert still_holds(state, admitted, NOW + 60) is CutBecause.ROTATED
    assert admit(state, shows(session), NOW + 60) is RefusedBecause.AUTH_INVALID


def test_sandbox_from_before_there_were_seals_has_sessions_too() -> None:
    state = after(EXPOSED, GATE, UP)
    assert admit(state, shows(signed_in(state)), NOW) == Grant(WEB, "run-1", 1, 2)


def test_wrong_session_wakes_nothing() -> None:
    assert admit(after(EXPOSED, GATE, first=SEALED), shows(b"forged"), NOW) is RefusedBecause.AUTH_INVALID
    asleep = after(EXPOSED, GATE, first=SEALED)
    assert admit(asleep, shows(signed_in(asleep)), NOW) == NEEDS_WAKE


# Shares.

LINK, LINKS_NAME = THIRD, ShareId("k3v9x0q2m7t1z8aa")
SHARED = ShareCreated(LINKS_NAME, WEB, LINK.digest(), SEAL, NOW + 60)
ONCE = ShareCreated(LINKS_NAME, WEB, LINK.digest(), SEAL, NOW + 60, once=True)


def by_link(
    secret: PreviewToken | None = LINK, *, session: bytes | None = None, port: Port = WEB, name: str = LINKS_NAME
) -> VisitRequest:
    sessions = (session,) if session is not None else ()
    shown = secret.reveal().encode() if secret is not None else None
    return VisitRequest(port, PortToken(name), sessions=sessions, share_secret=shown)


def session_of(state: SandboxState | None) -> bytes:
    assert state is not None
    return share_session(state.shares[LINKS_NAME])


@pytest.mark.parametrize("gate", [(), (GATE,)], ids=["no gate", "gate"])
def test_share_opens_its_port_past_any_gate_until_its_time_is_over(gate: tuple[Event, ...]) -> None:
    state = after(EXPOSED, *gate, SHARED, UP)
    for request in (by_link(), by_link(None, session=session_of(state))):
        admitted = admit(state, request, NOW + 59)
        assert isinstance(admitted, Grant)
        assert (admitted.share, admitted.auth_generation) == (LINKS_NAME, None)
        assert still_holds(state, admitted, NOW + 59.9) is None
        assert still_holds(state, admitted, NOW + 60) is CutBecause.UNSHARED
        assert admit(state, request, NOW + 60) is RefusedBecause.INVALID_TOKEN


@pytest.mark.parametrize(
    "request_",
    [
        by_link(None),
        by_link(FIRST),
        by_link(port=API),
        by_link(name="0000000000000000"),
        by_link(None, session=b"forged"),
        VisitRequest(WEB, PortToken(LINKS_NAME), FIRST.reveal().encode()),
        VisitRequest(WEB, PortToken(LINKS_NAME), preflight=True),
    ],
)
def test_share_opens_by_its_own_credentials_alone(request_: VisitRequest) -> None:
    state = after(EXPOSED, PortExposed(API, OTHER), GATE, SHARED, UP)
    assert admit(state, request_, NOW) is RefusedBecause.INVALID_TOKEN


def test_share_session_is_of_no_use_at_the_ports_own_name() -> None:
    state = after(EXPOSED, GATE, SHARED, UP)
    assert admit(state, shows(session_of(state)), NOW) is RefusedBecause.AUTH_INVALID


def test_link_that_opens_one_session_opens_by_that_session_alone() -> None:
    state = after(EXPOSED, ONCE, UP)
    assert admit(state, by_link(), NOW) is RefusedBecause.INVALID_TOKEN, "it is redeemed, not shown"
    spent = after(EXPOSED, ONCE, ShareRedeemed(LINKS_NAME), UP)
    assert admit(spent, by_link(), NOW) is RefusedBecause.INVALID_TOKEN
    assert isinstance(admit(spent, by_link(None, session=session_of(spent)), NOW), Grant)


@pytest.mark.parametrize("end", [ShareRevoked(LINKS_NAME), ShareExpired(LINKS_NAME), PortUnexposed(WEB)])
def test_whoever_came_by_a_share_leaves_with_it(end: Event) -> None:
    before, state = after(EXPOSED, SHARED, UP), after(EXPOSED, SHARED, UP, end)
    admitted = admit(before, by_link(), NOW)
    assert isinstance(admitted, Grant)
    assert still_holds(state, admitted, NOW) in (CutBecause.UNSHARED, CutBecause.UNEXPOSED)
    assert admit(state, by_link(None, session=session_of(before)), NOW) is RefusedBecause.INVALID_TOKEN


def test_share_of_the_same_name_is_another_share() -> None:
    admitted = admit(after(EXPOSED, SHARED, UP), by_link(), NOW)
    assert isinstance(admitted, Grant)
    assert still_holds(after(EXPOSED, SHARED, ShareRevoked(LINKS_NAME), SHARED, UP), admitted, NOW) is (
        CutBecause.UNSHARED
    )


def test_share_stands_when_the_gate_is_changed() -> None:
    state = after(EXPOSED, GATE, SHARED, UP, PreviewAuthRotated(SECOND.digest()))
    admitted = admit(after(EXPOSED, GATE, SHARED, UP), by_link(), NOW)
    assert isinstance(admitted, Grant)
    assert still_holds(state, admitted, NOW) is None


def test_share_of_a_sleeping_sandbox_wakes_it() -> None:
    assert admit(after(EXPOSED, SHARED), by_link(), NOW) == NEEDS_WAKE
    assert admit(after(EXPOSED, SHARED), by_link(FIRST), NOW) is RefusedBecause.INVALID_TOKEN


# Shares for custom hostnames.

BOUND, ELSEWHERE = 7, 8
NAMED = HostnameShared(LINKS_NAME, WEB, LINK.digest(), SEAL, NOW + 60, hostname="preview.my-app.com", binding=BOUND)


def at_name(
    secret: PreviewToken | None = None,
    *,
    session: bytes | None = None,
    binding: int = BOUND,
    port: Port = WEB,
    share: str = LINKS_NAME,
) -> VisitRequest:
    """Somebody at a custom hostname, with a credential that names its share."""
    sessions = () if session is None else (naming_share(share, session),)
    shown = None if secret is None else naming_share(share, secret.reveal().encode())
    return VisitRequest(port, sessions=sessions, share_secret=shown, binding=binding)


def test_share_opens_its_custom_hostname_past_the_gate_and_the_visit_leans_on_both() -> None:
    state = after(EXPOSED, GATE, NAMED, UP)
    for request in (at_name(LINK), at_name(session=session_of(state))):
        admitted = admit(state, request, NOW + 59)
        assert isinstance(admitted, Grant)
        assert (admitted.share, admitted.binding, admitted.auth_generation) == (LINKS_NAME, BOUND, None)
        assert still_holds(state, admitted, NOW + 59.9) is None
        assert still_holds(state, admitted, NOW + 60) is CutBecause.UNSHARED
        assert admit(state, request, NOW + 60) is RefusedBecause.AUTH_INVALID
    assert admit(after(EXPOSED, GATE, NAMED), at_name(LINK), NOW) == NEEDS_WAKE


@pytest.mark.parametrize(
    "request_",
    [
        at_name(FIRST),
        at_name(LINK, binding=ELSEWHERE),
        at_name(LINK, share="0000000000000000"),
        at_name(session=b"forged"),
        VisitRequest(WEB, share_secret=LINK.reveal().encode(), binding=BOUND),
        VisitRequest(WEB, sessions=(session_of(after(EXPOSED, GATE, NAMED)),), binding=BOUND),
        at_name(session=session_of(after(EXPOSED, GATE, NAMED)), binding=ELSEWHERE),
    ],
)
def test_share_of_a_custom_hostname_opens_there_by_its_own_credentials_alone(request_: VisitRequest) -> None:
    assert admit(after(EXPOSED, GATE, NAMED), request_, NOW) is RefusedBecause.AUTH_INVALID


def test_share_of_a_custom_hostname_opens_no_name_below_the_base_domain_and_the_other_way_round() -> None:
    state = after(EXPOSED, GATE, NAMED, UP)
    assert admit(state, by_link(), NOW) is RefusedBecause.INVALID_TOKEN
    assert admit(state, by_link(None, session=session_of(state)), NOW) is RefusedBecause.INVALID_TOKEN
    plain = after(EXPOSED, GATE, SHARED, UP)
    assert admit(plain, at_name(LINK), NOW) is RefusedBecause.AUTH_INVALID
    assert admit(plain, at_name(session=session_of(plain)), NOW) is RefusedBecause.AUTH_INVALID


def test_share_of_another_port_opens_no_custom_hostname() -> None:
    state = after(EXPOSED, PortExposed(API, OTHER), GATE, NAMED, UP)
    assert admit(state, at_name(LINK, port=API), NOW) is RefusedBecause.AUTH_INVALID


def test_link_for_a_custom_hostname_that_opens_one_session_opens_by_that_session_alone() -> None:
    once = HostnameShared(
        LINKS_NAME, WEB, LINK.digest(), SEAL, NOW + 60, once=True, hostname="preview.my-app.com", binding=BOUND
    )
    state = after(EXPOSED, GATE, once, ShareRedeemed(LINKS_NAME), UP)
    assert admit(state, at_name(LINK), NOW) is RefusedBecause.AUTH_INVALID
    assert isinstance(admit(state, at_name(session=session_of(state)), NOW), Grant)


@pytest.mark.parametrize("end", [ShareRevoked(LINKS_NAME), ShareExpired(LINKS_NAME), PortUnexposed(WEB)])
def test_whoever_came_by_a_share_to_a_custom_hostname_leaves_with_it(end: Event) -> None:
    before, state = after(EXPOSED, GATE, NAMED, UP), after(EXPOSED, GATE, NAMED, UP, end)
    admitted = admit(before, at_name(LINK), NOW)
    assert isinstance(admitted, Grant)
    assert still_holds(state, admitted, NOW) in (CutBecause.UNSHARED, CutBecause.UNEXPOSED)
    assert isinstance(admit(state, at_name(session=session_of(before)), NOW), RefusedBecause)


def test_gate_opens_a_custom_hostname_beside_its_shares_and_is_asked_first() -> None:
    state = after(EXPOSED, GATE, NAMED, UP, first=SEALED)
    request = VisitRequest(
        WEB,
        sessions=(naming_share(LINKS_NAME, session_of(state)), signed_in(state)),
        binding=BOUND,
    )
    admitted = admit(state, request, NOW)
    assert isinstance(admitted, Grant)
    assert (admitted.share, admitted.auth_generation) == (None, 2)
    # When that session is over, the share's is there.
    rotated = after(EXPOSED, GATE, NAMED, UP, PreviewAuthRotated(SECOND.digest()), first=SEALED)
    admitted = admit(rotated, request, NOW)
    assert isinstance(admitted, Grant)
    assert admitted.share == LINKS_NAME
