"""The account agrees with the judgement, names the step that decided, and holds no token."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors import (
    AsleepPolicy,
    ContainerSpec,
    Domain,
    Grant,
    NeedsWake,
    Port,
    PortToken,
    PreviewToken,
    RefusedBecause,
    SandboxId,
    SandboxState,
    ShareId,
    Sharing,
    Status,
    VisitRequest,
    admit,
)
from actors.sandbox.ids import Seal
from actors.sandbox.sessions import naming_share, share_session
from actors.sandbox.state import Exposure, PreviewAuth, PreviousToken
from actors.testing.strategies import NOW, states, visit_requests
from proxy.core.diagnosis import Target
from proxy.core.explain import (
    _DECIDES,
    ADMITTED,
    NOT_A_PREVIEW,
    WAKES,
    Explanation,
    Question,
    explain_elsewhere,
    explain_failure,
    explain_own_page,
    explain_service,
    explain_visit,
)
from proxy.core.hostname import BaseHost, BuiltInHost, CustomHost, Matcher, NotOurs, PreviewHost, TokenHost
from proxy.core.pages import Code, refusal

DOMAIN = Domain("example.com")
APP = SandboxId("my-app")
PORT = Port(8080)
TOKEN = PortToken("k3v9x0q2m7t1z8aa")
OTHER = PortToken("another_token")
SECRET = PreviewToken("preview-token-of-the-owner")

URL = f"https://8080-my-app-{TOKEN.reveal()}.example.com/a?b={TOKEN.reveal()}"
BUILT_IN = "https://sb-1a2b3c4d-p8080.example.com/"

UP = SandboxState(
    APP, ContainerSpec("process"), ports={PORT: Exposure(PORT, TOKEN, 1, "web")}, run_id="run-1", generation=1
)
ASLEEP = replace(UP, run_id=None)
GATED = replace(UP, auth=PreviewAuth(SECRET.digest(), 2))


def explain(state: SandboxState | None, url: str = URL, preview_token: bytes | None = None) -> Explanation:
    target = Target.read(url)
    place = Matcher([DOMAIN]).match_host(target.host)
    if isinstance(place, BaseHost | NotOurs):
        return explain_elsewhere(target, place)
    request = VisitRequest(place.port, place.token if isinstance(place, TokenHost) else None, preview_token)
    return explain_visit(target, place, request, state, NOW)


def answers(explanation: Explanation) -> list[tuple[str, str]]:
    return [(step.question.value, step.answer) for step in explanation.steps]


HOST = ("host", "port 8080 of my-app")
KNOWN = ("sandbox", "known")
RIGHT = ("credential", "right")


def test_visit_that_enters_passes_every_step() -> None:
    explained = explain(UP)
    assert answers(explained) == [HOST, KNOWN, RIGHT, ("gate", "none"), ("run", "up")]
    assert (explained.status, explained.code, explained.sandbox) == (None, ADMITTED, APP)


@pytest.mark.parametrize(
    ("state", "because"),
    [(None, "none of that name is known"), (replace(UP, status=Status.DESTROYED, run_id=None, ports={}), "destroyed")],
)
def test_unknown_sandbox_is_told_from_a_wrong_token_and_answered_alike(
    state: SandboxState | None, because: str
) -> None:
    explained = explain(state)
    assert answers(explained) == [HOST, ("sandbox", "unknown")]
    assert because in explained.steps[-1].because
    assert (explained.status, explained.code) == (404, "INVALID_TOKEN")


@pytest.mark.parametrize(
    ("ports", "because"),
    [
        ({}, "port 8080 is not exposed"),
        ({PORT: Exposure(PORT, OTHER, 1)}, "port 8080 is exposed, but under another token"),
    ],
)
def test_wrong_token_is_told_from_a_port_that_is_not_exposed(ports: dict[Port, Exposure], because: str) -> None:
    explained = explain(replace(UP, ports=ports))
    assert answers(explained) == [HOST, KNOWN, ("credential", "refused")]
    assert explained.steps[-1].because == because
    assert (explained.status, explained.code) == (404, "INVALID_TOKEN")


@pytest.mark.parametrize(("open_ports", "answer"), [(True, "none needed"), (False, "refused")])
def test_built_in_form_hangs_on_open_ports(open_ports: bool, answer: str) -> None:
    explained = explain(replace(UP, sandbox=SandboxId("sb-1a2b3c4d"), open_ports=open_ports), BUILT_IN)
    assert answers(explained)[2] == ("credential", answer)
    assert explained.code == (ADMITTED if open_ports else "INVALID_TOKEN")
    assert explain(None, BUILT_IN).code == "SANDBOX_NOT_FOUND"


def test_gate_is_closed_without_a_token_and_with_a_wrong_one() -> None:
    for token, code in ((None, "AUTH_REQUIRED"), (b"wrong-token-of-somebody", "AUTH_INVALID")):
        explained = explain(replace(GATED, run_id=None), preview_token=token)
        assert answers(explained) == [HOST, KNOWN, RIGHT, ("gate", "closed")]
        assert (explained.status, explained.code) == (401, code)


def test_gate_opens_to_its_token_and_in_its_grace_to_the_one_before() -> None:
    because = explain(GATED, preview_token=SECRET.reveal().encode()).steps[3].because
    assert because == "the preview token, or the session's, is the one in force"
    assert GATED.auth is not None
    rotated = replace(GATED, auth=PreviewAuth(bytes(32), 3, PreviousToken(SECRET.digest(), 2, NOW + 1)))
    assert explain(rotated, preview_token=SECRET.reveal().encode()).code == ADMITTED


def test_sleep_is_explained_by_its_policy() -> None:
    woken = explain(ASLEEP)
    assert answers(woken)[-2:] == [("run", "asleep"), ("wake", "wakes")]
    assert (woken.status, woken.code) == (None, WAKES)
    stale = explain(replace(ASLEEP, when_asleep=AsleepPolicy.STALE))
    assert answers(stale)[-2:] == [("run", "asleep"), ("wake", "stays asleep")]
    assert (stale.status, stale.code) == (410, "STALE_PREVIEW_URL")


def test_stopped_sandbox_is_answered_410_to_who_holds_a_right_url() -> None:
    explained = explain(replace(ASLEEP, status=Status.STOPPED))
    assert answers(explained)[-1] == ("run", "stopped")
    assert (explained.status, explained.code) == (410, "SANDBOX_STOPPED")


def test_service_that_was_not_asked_is_not_said_to_answer() -> None:
    for state in (UP, ASLEEP):
        assert "has not been asked (portico doctor URL asks)" in explain(state).outcome
    assert (explain(UP).enters, explain(ASLEEP).enters, explain(None).enters) == (PORT, None, None)


def test_what_came_of_knocking_is_the_last_step() -> None:
    heard = explain_service(explain(UP), None)
    assert answers(heard)[-2:] == [("run", "up"), ("service", "listens")]
    assert (heard.status, heard.code, heard.outcome) == (None, ADMITTED, explain(UP).outcome)
    silent = explain_service(explain(UP), refusal(Code.NOT_LISTENING, port=PORT))
    assert answers(silent)[-1] == ("service", "does not listen")
    assert (silent.status, silent.code, silent.outcome) == (502, "NOT_LISTENING", "nothing answers on port 8080")


def test_host_of_no_preview_has_one_step() -> None:
    for url, status, code in (
        ("https://example.com/v1/sandboxes", None, NOT_A_PREVIEW),
        ("https://elsewhere.org/", 421, "MISDIRECTED_REQUEST"),
        ("https://nothing.example.com/", 421, "MISDIRECTED_REQUEST"),
    ):
        explained = explain(None, url)
        assert [step.question for step in explained.steps] == [Question.HOST]
        assert (explained.status, explained.code, explained.sandbox) == (status, code, None)


def test_state_that_is_not_to_be_had_is_the_routers_answer() -> None:
    target = Target.read(URL)
    preview = Matcher([DOMAIN]).match_host(target.host)
    assert isinstance(preview, TokenHost)
    explained = explain_failure(target, preview, refusal(Code.QUARANTINED))
    assert answers(explained) == [HOST, ("sandbox", "cannot be judged")]
    assert (explained.status, explained.code) == (503, "QUARANTINED")


SHARE = Sharing(ShareId("share00000000001"), PORT, 3, SECRET.digest(), Seal(bytes(32)), NOW + 60)
SHARE_URL = f"https://8080-my-app-share00000000001.example.com/.portico/share/{SECRET.reveal()}"


def explain_share(state: SandboxState, secret: bytes | None) -> Explanation:
    target = Target.read(SHARE_URL)
    preview = Matcher([DOMAIN]).match_host(target.host)
    assert isinstance(preview, TokenHost)
    request = VisitRequest(PORT, preview.token, share_secret=secret)
    return explain_visit(target, preview, request, state, NOW)


def test_share_opens_past_the_gate() -> None:
    explained = explain_share(replace(GATED, shares={SHARE.share: SHARE}), SECRET.reveal().encode())
    assert answers(explained)[2:4] == [("credential", "right"), ("gate", "not asked")]
    assert explained.code == ADMITTED


@pytest.mark.parametrize(
    ("share", "secret", "because"),
    [
        (SHARE, None, "bears no right credential"),
        (SHARE, b"wrong-secret-of-a-share", "bears no right credential"),
        (replace(SHARE, expires_at=NOW), SECRET.reveal().encode(), "has expired"),
        (replace(SHARE, port=Port(5173)), SECRET.reveal().encode(), "under another token"),
    ],
)
def test_share_that_does_not_open_says_why(share: Sharing, secret: bytes | None, because: str) -> None:
    explained = explain_share(replace(UP, shares={share.share: share}), secret)
    assert answers(explained)[-1] == ("credential", "refused")
    assert because in explained.steps[-1].because
    assert explained.code == "INVALID_TOKEN"
    assert SECRET.reveal() not in repr(explained)


NAMED = replace(SHARE, hostname="preview.my-app.com", binding=7)


def test_share_for_a_custom_hostname_is_said_to_open_no_other() -> None:
    explained = explain_share(replace(GATED, shares={SHARE.share: NAMED}), SECRET.reveal().encode())
    assert answers(explained)[-1] == ("credential", "refused")
    assert explained.steps[-1].because == f"share {SHARE.share}, which the host names, is for preview.my-app.com alone"


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(
    ("shown", "because"),
    [
        ({"share_secret": f"{SHARE.share}.{SECRET.reveal()}".encode()}, "a credential of a share for this hostname"),
        ({"sessions": (naming_share(SHARE.share, share_session(NAMED)),)}, "a credential of a share for this hostname"),
        ({"preview_token": SECRET.reveal().encode()}, "the preview token, or the session's, is the one in force"),
    ],
)
def test_gate_at_a_custom_hostname_says_what_opened_it(shown: dict[str, Any], because: str, up: bool) -> None:
    target = Target.read("https://preview.my-app.com/")
    state = replace(GATED, shares={SHARE.share: NAMED}, run_id="run-1" if up else None)
    host = CustomHost(APP, PORT, "preview.my-app.com", 7)
    explained = explain_visit(target, host, VisitRequest(PORT, binding=7, **shown), state, NOW)
    assert answers(explained)[:4] == [HOST, ("sandbox", "known"), ("credential", "none needed"), ("gate", "open")]
    assert explained.steps[3].because.startswith(because)
    assert explained.code == (ADMITTED if up else WAKES)


def explain_link(state: SandboxState | None, url: str = SHARE_URL) -> Explanation:
    target = Target.read(url)
    preview = Matcher([DOMAIN]).match_host(target.host)
    assert isinstance(preview, TokenHost)
    return explain_own_page(target, preview, state, NOW)


def test_link_of_a_share_is_judged_and_not_used_up() -> None:
    for share in (SHARE, replace(SHARE, once=True)):
        explained = explain_link(replace(GATED, shares={share.share: share}))
        assert answers(explained) == [HOST, ("page", "share"), ("credential", "right")]
        assert (explained.status, explained.code) == (None, "SHARE_OPENS")
        assert SECRET.reveal() not in repr(explained)


@pytest.mark.parametrize(
    ("share", "status", "code"),
    [
        (replace(SHARE, expires_at=NOW), 404, "INVALID_TOKEN"),
        (replace(SHARE, digest=bytes(32)), 404, "INVALID_TOKEN"),
        (replace(SHARE, once=True, redeemed=True), 410, "SHARE_SPENT"),
    ],
)
def test_link_that_does_not_open_gets_the_routers_answer(share: Sharing, status: int, code: str) -> None:
    explained = explain_link(replace(UP, shares={share.share: share}))
    assert answers(explained)[-1] == ("credential", "refused")
    assert (explained.status, explained.code) == (status, code)
    assert explain_link(None).code == "INVALID_TOKEN"


def test_other_pages_of_the_host_are_nobodys_service() -> None:
    explained = explain_link(UP, URL.replace("/a?b", "/.portico/sign-in?b"))
    assert answers(explained) == [HOST, ("page", "own")]
    assert (explained.status, explained.code) == (None, "OWN_PAGE")


def test_websocket_that_wakes_nothing_says_so() -> None:
    target = Target.read(URL)
    preview = Matcher([DOMAIN]).match_host(target.host)
    assert isinstance(preview, TokenHost)
    explained = explain_visit(
        target, preview, VisitRequest(PORT, TOKEN, websocket=True), replace(ASLEEP, slept=True), NOW
    )
    assert answers(explained)[-1] == ("wake", "stays asleep")
    assert explained.code == "ASLEEP"
    assert "WebSocket" in explained.steps[-1].because


def test_every_reason_to_refuse_has_its_step() -> None:
    assert set(_DECIDES) == set(RefusedBecause)


def test_no_text_holds_a_token() -> None:
    for state in (None, UP, ASLEEP, replace(UP, ports={PORT: Exposure(PORT, OTHER, 1)}), GATED):
        for preview_token in (None, SECRET.reveal().encode()):
            said = repr(explain(state, preview_token=preview_token))
            for secret in (TOKEN, OTHER, SECRET):
                assert secret.reveal() not in said


@given(st.data(), st.floats(NOW - 1000, NOW + 1000))
def test_account_agrees_with_the_judgement(data: st.DataObject, now: float) -> None:
    """Law: whatever the state and the visit, the code is what `admit` says, and only the last step refuses."""
    state = data.draw(states())
    request = data.draw(visit_requests(state))
    preview: PreviewHost
    if request.token is None:
        preview = BuiltInHost(SandboxId("sb-1a2b3c4d"), request.port, DOMAIN)
    else:
        preview = TokenHost(APP, request.port, request.token, DOMAIN)
    judged = admit(state, request, now)
    explained = explain_visit(Target.read(URL), preview, request, state, now)

    closed = {"unknown", "refused", "closed", "stopped", "stays asleep"}
    told = [step.answer in closed for step in explained.steps]
    if isinstance(judged, Grant | NeedsWake):
        assert (explained.status, explained.code) == (None, ADMITTED if isinstance(judged, Grant) else WAKES)
        assert not any(told)
        assert (explained.steps[-1].question is Question.WAKE) == isinstance(judged, NeedsWake)
    else:
        answer = refusal(judged.value, sandbox=preview.sandbox)
        assert (explained.status, explained.code) == (answer.status, judged.value)
        assert told == [False] * (len(told) - 1) + [True]
