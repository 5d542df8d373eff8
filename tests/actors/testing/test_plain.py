"""The plain model by itself: a life told step by step, in its own words."""

import math

from actors.sandbox.admission import VisitRequest
from actors.sandbox.decide import (
    BeginRun,
    CreateSandbox,
    CreateShare,
    DestroySandbox,
    EndRun,
    ExposePort,
    FireAlarm,
    RedeemShare,
    RotatePreviewAuth,
    SetPreviewAuth,
    StopSandbox,
    UnexposePort,
)
from actors.sandbox.events import RunEnd
from actors.sandbox.ids import SEAL_BYTES, Port, PortToken, PreviewToken, SandboxId, Seal, ShareId
from actors.testing.plain import IN, WAKE, PlainSandbox

WEB = Port(8080)
STABLE, MINTED = PortToken("stable"), PortToken("k3v9x0q2m7t1z8aa")
FIRST, SECOND = PreviewToken("preview-token-1!"), PreviewToken("preview-token-2!")
NOW = 1000.0


def living() -> PlainSandbox:
    plain = PlainSandbox()
    assert plain.obey(CreateSandbox(SandboxId("my-app")), NOW)
    assert plain.obey(ExposePort(WEB, minted=MINTED, token=STABLE), NOW)
    assert plain.obey(BeginRun("run-1"), NOW)
    return plain


def bearing(token: PreviewToken) -> VisitRequest:
    return VisitRequest(WEB, STABLE, token.reveal().encode())


def test_visit_enters_and_stays_until_its_port_is_taken_back() -> None:
    plain = living()
    request = VisitRequest(WEB, STABLE)
    assert plain.judge(request, NOW) == IN
    leaning = plain.leaning(request, NOW)
    assert plain.carries(leaning, NOW)
    assert plain.obey(ExposePort(WEB, minted=MINTED, name="web"), NOW)
    assert plain.carries(leaning, NOW), "a name is not what a visit leans on"
    assert plain.obey(UnexposePort(WEB), NOW)
    assert not plain.carries(leaning, NOW)
    assert plain.judge(request, NOW) == "INVALID_TOKEN"
    assert plain.obey(ExposePort(WEB, minted=MINTED, token=STABLE), NOW)
    assert not plain.carries(leaning, NOW), "the same token again is another exposure"


def test_rotated_secret_opens_while_its_grace_lasts() -> None:
    plain = living()
    assert plain.obey(SetPreviewAuth(FIRST.digest()), NOW)
    leaning = plain.leaning(bearing(FIRST), NOW)
    assert plain.obey(RotatePreviewAuth(SECOND.digest(), grace=30.0), NOW)
    for moment, answer in [(NOW, IN), (NOW + 29, IN), (NOW + 30, "AUTH_INVALID")]:
        assert plain.judge(bearing(FIRST), moment) == answer
        assert plain.carries(leaning, moment) == (answer == IN)
    assert plain.judge(bearing(SECOND), NOW + 30) == IN
    assert plain.obey(FireAlarm(), NOW + 30)
    assert [secret.until for secret in plain.secrets] == [math.inf]


def test_link_to_a_custom_hostname_opens_that_one_only() -> None:
    plain, secret = living(), FIRST.digest()
    share = ShareId("share00000000001")
    command = CreateShare(WEB, share, secret, Seal(bytes(SEAL_BYTES)), 60.0, hostname="n1.my-app.com", binding=1)
    assert not plain.obey(command, NOW), "without a gate a link adds nothing"
    assert plain.obey(SetPreviewAuth(SECOND.digest()), NOW)
    assert plain.obey(command, NOW)
    assert not plain.obey(RedeemShare(share, WEB, secret), NOW)
    assert not plain.obey(RedeemShare(share, WEB, secret, 2), NOW)
    assert plain.obey(RedeemShare(share, WEB, secret, 1), NOW)
    plain.note_share_session(b"session", share)
    request = VisitRequest(WEB, sessions=(b"session",), binding=1)
    assert plain.judge(request, NOW) == IN
    assert plain.leaning(request, NOW).share_serial is not None
    assert plain.judge(VisitRequest(WEB, sessions=(b"session",), binding=2), NOW) == "AUTH_INVALID"
    assert (
        plain.judge(VisitRequest(WEB, PortToken(share), share_secret=FIRST.reveal().encode()), NOW) == "INVALID_TOKEN"
    )


def test_sleeping_sandbox_wakes_for_the_right_credential_only() -> None:
    plain = living()
    assert plain.obey(EndRun("run-1", RunEnd.SLEPT), NOW)
    assert plain.judge(VisitRequest(WEB, STABLE), NOW) == WAKE
    assert plain.judge(VisitRequest(WEB, MINTED), NOW) == "INVALID_TOKEN"


def test_what_has_ended_obeys_no_more() -> None:
    plain = living()
    assert plain.obey(StopSandbox(), NOW)
    assert not plain.obey(ExposePort(5173, minted=MINTED), NOW)
    assert plain.judge(VisitRequest(WEB, STABLE), NOW) == "SANDBOX_STOPPED"
    assert plain.obey(DestroySandbox(), NOW)
    assert not plain.obey(StopSandbox(), NOW)
    assert plain.obey(UnexposePort(WEB), NOW)
    assert plain.judge(VisitRequest(WEB), NOW) == "SANDBOX_NOT_FOUND"
