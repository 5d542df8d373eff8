"""What commands lead to, rule by rule."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.errors import (
    InvalidNameError,
    PorticoError,
    SandboxMismatchError,
    SandboxNotFoundError,
    SandboxStoppedError,
    SecurityError,
    ShareNotFoundError,
    ShareSpentError,
)
from actors.sandbox.decide import (
    DEFAULT_RULES,
    NAME_LENGTH_MAX,
    PORTS_MAX,
    REVOCATIONS,
    SHARE_SECONDS_MAX,
    SHARES_MAX,
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
    RefusalReason,
    RevokeShare,
    RotatePreviewAuth,
    Rules,
    SetPreviewAuth,
    SetSleepAfter,
    StopSandbox,
    UnexposePort,
    check_exposable,
    decide,
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
    ServiceExited,
    ShareCreated,
    ShareExpired,
    ShareRedeemed,
    ShareRevoked,
    SleepAfterSet,
)
from actors.sandbox.ids import Port, PortToken, SandboxId, Seal, ShareId
from actors.sandbox.state import SandboxState, evolve, fold
from actors.testing.strategies import commands, hostile_commands, states

APP = SandboxId("my-app")
MINTED = PortToken("k3v9x0q2m7t1z8aa")
STABLE = PortToken("stable")
OTHER = PortToken("other_token")
ONE, TWO, THREE = bytes([1] * 32), bytes([2] * 32), bytes([3] * 32)

CREATED = SandboxCreated(APP, ContainerSpec(), sleep_after=600.0, created_at=0.0)
WEB = PortExposed(Port(8080), STABLE)
STOPPED = SandboxStopped()
GONE = SandboxDestroyed()


def after(*events: Event) -> SandboxState | None:
    return fold([CREATED, *events])


def created(decided: tuple[Event, ...] | Refusal) -> list[SandboxCreated]:
    assert not isinstance(decided, Refusal)
    return [event for event in decided if isinstance(event, SandboxCreated)]


def assert_refused(
    state: SandboxState | None,
    command: Command,
    error: type[PorticoError],
    text: str,
    rules: Rules = DEFAULT_RULES,
) -> None:
    decided = decide(state, command, 0.0, rules)
    assert isinstance(decided, Refusal), decided
    with pytest.raises(error, match=text):
        raise decided.to_error()


# Creation.


def test_creation_takes_its_defaults() -> None:
    assert decide(None, CreateSandbox(APP), 0.0) == (CREATED,)


def test_creation_with_a_gate_is_never_without_it() -> None:
    spec = ContainerSpec("address", {"host": "127.0.0.1"})
    command = CreateSandbox(APP, spec, True, AsleepPolicy.STALE, ONE)
    assert decide(None, command, 9.0) == (
        SandboxCreated(APP, spec, True, AsleepPolicy.STALE, sleep_after=600.0, created_at=9.0),
        PreviewAuthSet(ONE),
    )


@pytest.mark.parametrize("seconds", [None, 1.0, 86_400.0])
def test_creation_says_after_what_time_without_use_it_sleeps(seconds: float | None) -> None:
    (event,) = created(decide(None, CreateSandbox(APP, sleep_after=seconds), 0.0, Rules(sleep_after=5.0)))
    assert event.sleep_after == seconds
    (event,) = created(decide(None, CreateSandbox(APP), 0.0, Rules(sleep_after=seconds)))
    assert event.sleep_after == seconds


@pytest.mark.parametrize("seconds", [0.0, 0.9, -1.0, math.inf, math.nan, True])
def test_time_without_use_that_is_none_is_refused(seconds: float) -> None:
    assert_refused(None, CreateSandbox(APP, sleep_after=seconds), InvalidNameError, "sleep_after")
    assert_refused(after(), SetSleepAfter(seconds), InvalidNameError, "sleep_after")


@pytest.mark.parametrize(
    "command",
    [
        CreateSandbox(APP),
        CreateSandbox(APP, ContainerSpec()),
        CreateSandbox(APP, open_ports=False),
        CreateSandbox(APP, when_asleep=AsleepPolicy.WAKE),
        CreateSandbox(APP, sleep_after=600),
        CreateSandbox(APP, preview_auth_digest=ONE),
    ],
)
@pytest.mark.parametrize("more", [(), (WEB,), (STOPPED,)])
def test_creating_again_agrees_with_what_is_there(command: CreateSandbox, more: tuple[Event, ...]) -> None:
    assert decide(after(PreviewAuthSet(ONE), *more), command, 0.0) == ()


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (CreateSandbox(APP, ContainerSpec("address", {"host": "::1"})), "container"),
        (CreateSandbox(APP, ContainerSpec("process", {"a": 1})), "container"),
        (CreateSandbox(APP, open_ports=True), "open_ports"),
        (CreateSandbox(APP, when_asleep=AsleepPolicy.STALE), "when_asleep"),
        (CreateSandbox(APP, sleep_after=None), "sleep_after"),
        (CreateSandbox(APP, preview_auth_digest=ONE), "preview auth"),
    ],
)
def test_creating_otherwise_is_a_mismatch(command: CreateSandbox, what: str) -> None:
    assert_refused(after(PreviewAuthSet(TWO)), command, SandboxMismatchError, what)


def test_gate_asked_for_where_there_is_none_is_a_mismatch() -> None:
    # Agreeing would leave a sandbox open that its owner believes to be private.
    assert_refused(after(), CreateSandbox(APP, preview_auth_digest=ONE), SandboxMismatchError, "preview auth")


def test_sandbox_being_destroyed_is_not_created() -> None:
    assert_refused(after(GONE), CreateSandbox(APP), SandboxNotFoundError, "being destroyed")


# Ports.


def test_port_takes_the_minted_token() -> None:
    assert decide(after(), ExposePort(8080, minted=MINTED), 0.0) == (PortExposed(Port(8080), MINTED),)


def test_port_takes_the_token_asked_for() -> None:
    command = ExposePort(8080, minted=MINTED, token=STABLE, name="web", host_header=HostHeader.PRESERVE)
    assert decide(after(), command, 0.0) == (PortExposed(Port(8080), STABLE, "web", HostHeader.PRESERVE),)


@pytest.mark.parametrize("token", [None, STABLE])
def test_same_port_again_changes_nothing(token: PortToken | None) -> None:
    assert decide(after(WEB), ExposePort(8080, minted=MINTED, token=token), 0.0) == ()


def test_same_port_again_with_another_token_changes_its_url() -> None:
    assert decide(after(WEB), ExposePort(8080, minted=MINTED, token=OTHER), 0.0) == (PortExposed(Port(8080), OTHER),)


def test_same_port_again_keeps_what_is_not_named() -> None:
    state = after(PortExposed(Port(8080), STABLE, "web", HostHeader.PRESERVE))
    renamed = PortExposed(Port(8080), STABLE, "api", HostHeader.PRESERVE)
    assert decide(state, ExposePort(8080, minted=MINTED, name="api"), 0.0) == (renamed,)
    plain = PortExposed(Port(8080), STABLE, "web", HostHeader.LOCALHOST)
    assert decide(state, ExposePort(8080, minted=MINTED, host_header=HostHeader.LOCALHOST), 0.0) == (plain,)


def test_unexposed_port_gets_a_new_token() -> None:
    state = after(WEB, PortUnexposed(Port(8080)))
    assert decide(state, ExposePort(8080, minted=MINTED), 0.0) == (PortExposed(Port(8080), MINTED),)


def test_token_of_another_port_is_refused_with_that_port() -> None:
    assert_refused(after(WEB), ExposePort(5173, minted=MINTED, token=STABLE), SecurityError, "used by port 8080")


def test_minted_token_that_is_taken_is_refused_too() -> None:
    assert_refused(after(WEB), ExposePort(5173, minted=STABLE), SecurityError, "used by port 8080")


def test_token_of_an_unexposed_port_is_free() -> None:
    state = after(WEB, PortUnexposed(Port(8080)))
    assert decide(state, ExposePort(5173, minted=MINTED, token=STABLE), 0.0) == (PortExposed(Port(5173), STABLE),)


@pytest.mark.parametrize("port", [1024, 2999, 3001, 65535])
def test_port_may_be_exposed(port: int) -> None:
    assert check_exposable(port, DEFAULT_RULES) is None


@pytest.mark.parametrize(
    "port", [0, 80, 1023, -1, 65536, 2**64, True, False, 3000.5, 1024.5, math.inf, math.nan, "8080", None]
)
def test_port_may_not_be_exposed(port: int) -> None:
    # What came as JSON is of any type, whatever the annotation says: it is refused, and breaks nothing.
    assert_refused(after(), ExposePort(port, minted=MINTED), SecurityError, "port")


def test_port_that_python_does_not_print_is_refused_like_any_other() -> None:
    assert_refused(after(), ExposePort(10**5000, minted=MINTED), SecurityError, "of many digits cannot be exposed")


def test_reserved_port_is_refused_and_the_platform_says_which() -> None:
    assert_refused(after(), ExposePort(3000, minted=MINTED), SecurityError, "reserved")
    rules = Rules(frozenset({8080, 9000}))
    assert_refused(after(), ExposePort(9000, minted=MINTED), SecurityError, "reserved", rules)
    assert not isinstance(decide(after(), ExposePort(3000, minted=MINTED), 0.0, rules), Refusal)


@pytest.mark.parametrize("name", ["", "x" * (NAME_LENGTH_MAX + 1), "a\nb", "\x1b[2J", "\ud800", "\u202e"])
def test_unprintable_name_is_refused(name: str) -> None:
    assert_refused(after(), ExposePort(8080, minted=MINTED, name=name), InvalidNameError, "printable characters")


@pytest.mark.parametrize("name", ["x", "x" * NAME_LENGTH_MAX, "日本語", "Vite dev server"])
def test_printable_name_is_kept(name: str) -> None:
    assert decide(after(), ExposePort(8080, minted=MINTED, name=name), 0.0) == (PortExposed(Port(8080), MINTED, name),)


def test_ports_of_one_sandbox_are_bounded() -> None:
    full = after(*(PortExposed(Port(10_000 + number), PortToken(f"t{number}")) for number in range(PORTS_MAX)))
    assert_refused(full, ExposePort(8080, minted=MINTED), SecurityError, "256 others")
    changed = decide(full, ExposePort(10_000, minted=MINTED, token=MINTED), 0.0)
    assert changed == (PortExposed(Port(10_000), MINTED),), "one that is exposed may still be changed"


@pytest.mark.parametrize("port", [5173, 0, -1, 65536, True])
def test_unexposing_what_is_not_exposed_is_nothing(port: int) -> None:
    assert decide(after(WEB), UnexposePort(port), 0.0) == ()


@pytest.mark.parametrize("more", [(), (STOPPED,)])
def test_exposed_port_is_unexposed_even_when_stopped(more: tuple[Event, ...]) -> None:
    assert decide(after(WEB, *more), UnexposePort(8080), 0.0) == (PortUnexposed(Port(8080)),)


# The gate.


def test_gate_is_set_and_set_anew() -> None:
    assert decide(after(), SetPreviewAuth(ONE), 0.0) == (PreviewAuthSet(ONE),)
    assert decide(after(PreviewAuthSet(ONE)), SetPreviewAuth(TWO), 0.0) == (PreviewAuthSet(TWO),)


def test_setting_the_same_token_again_changes_nothing() -> None:
    assert decide(after(PreviewAuthSet(ONE)), SetPreviewAuth(ONE), 0.0) == ()


def test_setting_the_same_token_again_ends_a_grace() -> None:
    in_grace = after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 60.0))
    assert decide(in_grace, SetPreviewAuth(TWO), 0.0) == (PreviewAuthGraceEnded(),)


def test_rotation_without_grace_ends_the_old_token_at_once() -> None:
    assert decide(after(PreviewAuthSet(ONE)), RotatePreviewAuth(TWO), 100.0) == (PreviewAuthRotated(TWO, None),)


def test_rotation_with_grace_says_until_when() -> None:
    command = RotatePreviewAuth(TWO, grace=30.0)
    assert decide(after(PreviewAuthSet(ONE)), command, 100.0) == (PreviewAuthRotated(TWO, 130.0),)


def test_rotation_repeated_after_a_lost_answer_does_not_prolong_the_grace() -> None:
    state = after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 130.0))
    assert decide(state, RotatePreviewAuth(TWO, grace=30.0), 110.0) == ()


def test_rotation_to_the_same_token_without_grace_ends_the_one_before() -> None:
    state = after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 130.0))
    assert decide(state, RotatePreviewAuth(TWO), 110.0) == (PreviewAuthGraceEnded(),)
    assert decide(after(PreviewAuthSet(ONE)), RotatePreviewAuth(ONE), 110.0) == ()


@pytest.mark.parametrize("grace", [-1.0, -math.inf, math.inf, math.nan])
def test_grace_that_is_no_time_is_refused(grace: float) -> None:
    # An endless grace would be a second token for ever; one that is not a number compares with nothing.
    assert_refused(after(PreviewAuthSet(ONE)), RotatePreviewAuth(TWO, grace), InvalidNameError, "number of seconds")


def test_rotation_without_a_gate_is_refused() -> None:
    assert_refused(after(), RotatePreviewAuth(ONE), InvalidNameError, "no preview auth")


@pytest.mark.parametrize("digest", [b"", b"x" * 31, b"x" * 33])
def test_digest_that_is_none_is_a_bug_of_the_caller(digest: bytes) -> None:
    # Stored, it would make the log unreadable.
    for make in (SetPreviewAuth, RotatePreviewAuth, lambda d: CreateSandbox(APP, preview_auth_digest=d)):
        with pytest.raises(ValueError, match="32 bytes"):
            make(digest)


def test_alarm_ends_a_grace_when_it_is_over_and_not_before() -> None:
    state = after(PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 130.0))
    assert decide(state, FireAlarm(), 129.999) == ()
    assert decide(state, FireAlarm(), 130.0) == (PreviewAuthGraceEnded(),)
    assert decide(after(), FireAlarm(), 130.0) == ()


# Runs.


def test_run_begins_unless_one_is_under_way() -> None:
    assert decide(after(), BeginRun("run-1"), 0.0) == (RunStarted("run-1"),)
    assert decide(after(RunStarted("run-1")), BeginRun("run-2"), 0.0) == ()


def test_only_the_current_run_ends() -> None:
    state = after(RunStarted("run-2"))
    assert decide(state, EndRun("run-2", RunEnd.EXITED), 0.0) == (RunEnded("run-2", RunEnd.EXITED),)
    assert decide(state, EndRun("run-1", RunEnd.EXITED), 0.0) == ()
    assert decide(after(), EndRun("run-1", RunEnd.EXITED), 0.0) == ()


def test_sandbox_is_put_to_sleep_once() -> None:
    assert decide(after(RunStarted("run-1")), Hibernate(), 0.0) == (RunEnded("run-1", RunEnd.SLEPT),)
    assert decide(after(), Hibernate(), 0.0) == ()


def test_exit_of_a_process_is_recorded_each_time_but_of_the_current_run_only() -> None:
    state = after(RunStarted("run-1"))
    assert decide(state, NoteExit("run-1", "web", -9), 0.0) == (ServiceExited("run-1", "web", -9),)
    assert decide(state, NoteExit("run-0", "web", -9), 0.0) == ()


def test_time_without_use_is_set_once() -> None:
    assert decide(after(), SetSleepAfter(None), 0.0) == (SleepAfterSet(None),)
    assert decide(after(SleepAfterSet(None)), SetSleepAfter(None), 0.0) == ()
    assert decide(after(), SetSleepAfter(600.0), 0.0) == ()


def test_port_keeps_whether_websockets_wake_until_told_otherwise() -> None:
    wakes = PortExposed(Port(8080), STABLE, wake_on_websocket=True)
    assert decide(after(WEB), ExposePort(8080, minted=MINTED, wake_on_websocket=True), 0.0) == (wakes,)
    assert decide(after(wakes), ExposePort(8080, minted=MINTED), 0.0) == ()
    assert decide(after(wakes), ExposePort(8080, minted=MINTED, wake_on_websocket=False), 0.0) == (WEB,)


# The end.


def test_sandbox_is_stopped_once() -> None:
    assert decide(after(), StopSandbox(), 0.0) == (SandboxStopped(),)
    assert decide(after(STOPPED), StopSandbox(), 0.0) == ()


@pytest.mark.parametrize("more", [(), (STOPPED,)])
def test_sandbox_is_destroyed_stopped_or_not(more: tuple[Event, ...]) -> None:
    assert decide(after(*more), DestroySandbox(), 0.0) == (SandboxDestroyed(),)


@pytest.mark.parametrize(
    "command",
    [
        ExposePort(8080, minted=MINTED),
        ExposePort(8080, minted=MINTED, token=OTHER),
        SetPreviewAuth(ONE),
        RotatePreviewAuth(ONE),
        BeginRun("run-1"),
        Hibernate(),
        SetSleepAfter(None),
    ],
)
def test_stopped_sandbox_says_so(command: Command) -> None:
    assert_refused(after(PreviewAuthSet(TWO), STOPPED), command, SandboxStoppedError, "has been stopped")


@pytest.mark.parametrize("state", [None, after(GONE)])
@pytest.mark.parametrize(
    "command",
    [
        ExposePort(8080, minted=MINTED),
        SetPreviewAuth(ONE),
        RotatePreviewAuth(ONE),
        BeginRun("run-1"),
        Hibernate(),
        SetSleepAfter(None),
        StopSandbox(),
    ],
)
def test_there_is_nothing_to_change_without_a_sandbox(state: SandboxState | None, command: Command) -> None:
    assert_refused(state, command, SandboxNotFoundError, "no such sandbox")


@pytest.mark.parametrize("state", [None, after(GONE)])
@pytest.mark.parametrize(
    "command",
    [UnexposePort(8080), DestroySandbox(), EndRun("run-1", RunEnd.EXITED), NoteExit("run-1", "web", 1), FireAlarm()],
)
def test_taking_back_what_does_not_exist_is_no_mistake(state: SandboxState | None, command: Command) -> None:
    assert decide(state, command, 0.0) == ()


# Laws.


@given(states(), commands(), st.sampled_from([0.0, 1_700_000_000.0, 4e9]))
def test_what_is_decided_can_happen_and_happens_once(state: SandboxState | None, command: Command, now: float) -> None:
    decided = decide(state, command, now)
    if isinstance(decided, Refusal):
        return
    for event in decided:
        state = evolve(state, event)
    # What has exited may have been started again, and exit again.
    if not isinstance(command, CreateSandbox | NoteExit):
        assert decide(state, command, now) == ()


@given(states(), hostile_commands())
def test_hostile_command_is_refused_in_every_state(state: SandboxState | None, command: Command) -> None:
    assert isinstance(decide(state, command, 0.0), Refusal)


@given(states(), commands())
def test_revocation_is_never_refused_to_a_sandbox_that_lives(state: SandboxState | None, command: Command) -> None:
    if isinstance(command, UnexposePort | DestroySandbox):
        assert not isinstance(decide(state, command, 0.0), Refusal)


def test_revocations_are_the_commands_that_take_something_back() -> None:
    assert set(REVOCATIONS) == {
        UnexposePort,
        SetPreviewAuth,
        RotatePreviewAuth,
        RevokeShare,
        StopSandbox,
        DestroySandbox,
    }


def test_every_reason_of_a_refusal_becomes_its_error() -> None:
    for reason in RefusalReason:
        error = Refusal(reason, "why").to_error()
        assert type(error) is reason.value
        assert str(error) == "why"


def test_commands_show_no_token() -> None:
    shown = repr(ExposePort(8080, minted=MINTED, token=STABLE))
    assert MINTED.reveal() not in shown
    assert STABLE.reveal() not in shown


# Shares.

SEAL = Seal(b"s" * 32)
SHARE = ShareId("k3v9x0q2m7t1z8aa")
SHARED = ShareCreated(SHARE, Port(8080), ONE, SEAL, 60.0)
ONCE = ShareCreated(SHARE, Port(8080), ONE, SEAL, 60.0, once=True)


def share(port: int = 8080, *, expires_in: float = 60.0, minted: ShareId = SHARE, digest: bytes = ONE) -> CreateShare:
    return CreateShare(port, minted, digest, SEAL, expires_in)


def test_exposed_port_is_shared_for_a_while_and_repeating_that_changes_nothing() -> None:
    assert decide(after(WEB), share(), 0.0) == (SHARED,)
    assert decide(after(WEB, SHARED), share(), 5.0) == ()


def test_port_that_is_not_exposed_is_not_shared_unless_ports_are_open() -> None:
    assert_refused(after(), share(), InvalidNameError, "not exposed")
    assert_refused(after(WEB), share(8081), InvalidNameError, "not exposed")
    assert_refused(after(WEB), share(3000), SecurityError, "reserved")
    open_ports = fold([SandboxCreated(APP, ContainerSpec(), open_ports=True)])
    assert decide(open_ports, share(80), 0.0) == (ShareCreated(SHARE, Port(80), ONE, SEAL, 60.0),)
    assert_refused(after(WEB, STOPPED), share(), SandboxStoppedError, "stopped")
    assert_refused(None, share(), SandboxNotFoundError, "no such")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan, SHARE_SECONDS_MAX + 1])
def test_share_lasts_for_a_bounded_time(seconds: float) -> None:
    assert_refused(after(WEB), share(expires_in=seconds), InvalidNameError, "at most")


def test_number_of_shares_is_bounded_and_expired_ones_make_room() -> None:
    def named(number: int) -> ShareId:
        return ShareId(f"share{number:011d}")

    shares = [ShareCreated(named(number), Port(8080), ONE, SEAL, 60.0) for number in range(SHARES_MAX)]
    full = after(WEB, *shares)
    assert_refused(full, share(), SecurityError, f"{SHARES_MAX} shares")
    decided = decide(full, share(), 60.0)
    assert isinstance(decided, tuple)
    assert len(decided) == SHARES_MAX + 1
    assert fold(decided, full) == fold([decided[-1]], fold(decided[:-1], full))


def test_share_and_port_never_have_one_name() -> None:
    minted = PortToken(SHARE)
    assert_refused(after(WEB, SHARED), ExposePort(8081, minted=minted), SecurityError, "by a share")
    assert_refused(after(PortExposed(Port(8080), minted)), share(), InvalidNameError, "in use")
    assert_refused(after(WEB, SHARED), share(digest=TWO), InvalidNameError, "in use")


def test_link_is_redeemed_by_its_secret_before_its_time_is_over() -> None:
    state = after(WEB, SHARED)
    assert decide(state, RedeemShare(SHARE, 8080, ONE), 59.0) == ()
    for command in (
        RedeemShare(SHARE, 8080, TWO),
        RedeemShare(SHARE, 8081, ONE),
        RedeemShare("0000000000000000", 8080, ONE),
    ):
        assert_refused(state, command, ShareNotFoundError, "no such share")
    assert_refused(None, RedeemShare(SHARE, 8080, ONE), ShareNotFoundError, "no such share")
    decided = decide(state, RedeemShare(SHARE, 8080, ONE), 60.0)
    assert isinstance(decided, Refusal)


def test_link_that_opens_one_session_is_redeemed_once() -> None:
    redeem = RedeemShare(SHARE, 8080, ONE)
    assert decide(after(WEB, ONCE), redeem, 0.0) == (ShareRedeemed(SHARE),)
    assert_refused(after(WEB, ONCE, ShareRedeemed(SHARE)), redeem, ShareSpentError, "once")


def test_custom_hostname_is_shared_while_its_port_is_exposed_and_a_gate_makes_it_private() -> None:
    command = CreateShare(8080, SHARE, ONE, SEAL, 60.0, hostname="preview.my-app.com", binding=7)
    shared = HostnameShared(SHARE, Port(8080), ONE, SEAL, 60.0, hostname="preview.my-app.com", binding=7)
    gate = PreviewAuthSet(TWO)
    assert decide(after(WEB, gate), command, 0.0) == (shared,)
    assert decide(after(WEB, gate, shared), command, 5.0) == ()
    for other in (share(), replace(command, hostname="other.my-app.com", binding=8)):
        assert_refused(after(WEB, gate, shared), other, InvalidNameError, "in use: draw another")
    assert_refused(after(WEB), command, InvalidNameError, "open to everybody.*set preview auth")
    open_ports = fold([SandboxCreated(APP, ContainerSpec(), open_ports=True), gate])
    assert_refused(open_ports, command, InvalidNameError, "only while it is exposed")


def test_link_of_a_custom_hostname_is_redeemed_there_alone() -> None:
    shared = HostnameShared(SHARE, Port(8080), ONE, SEAL, 60.0, hostname="preview.my-app.com", binding=7)
    state = after(WEB, PreviewAuthSet(TWO), shared)
    assert decide(state, RedeemShare(SHARE, 8080, ONE, 7), 0.0) == ()
    for binding in (None, 6, 8):
        assert_refused(state, RedeemShare(SHARE, 8080, ONE, binding), ShareNotFoundError, "no such share")
    assert_refused(after(WEB, SHARED), RedeemShare(SHARE, 8080, ONE, 7), ShareNotFoundError, "no such share")


def test_share_is_revoked_and_one_that_is_not_there_left_alone() -> None:
    assert decide(after(WEB, SHARED), RevokeShare(SHARE), 0.0) == (ShareRevoked(SHARE),)
    assert decide(after(WEB), RevokeShare(SHARE), 0.0) == ()
    assert decide(None, RevokeShare(SHARE), 0.0) == ()


def test_alarm_ends_what_has_fallen_due_and_nothing_else() -> None:
    other = ShareCreated(ShareId("other00000000000"), Port(8080), TWO, SEAL, 90.0)
    gate = (PreviewAuthSet(ONE), PreviewAuthRotated(TWO, 60.0))
    state = after(WEB, SHARED, other, *gate)
    assert decide(state, FireAlarm(), 59.0) == ()
    assert decide(state, FireAlarm(), 60.0) == (PreviewAuthGraceEnded(), ShareExpired(SHARE))
