"""What a command leads to: events, or a refusal. The only place where rules about changes are written.

`decide` changes nothing and asks no clock and no source of randomness: the time and freshly drawn tokens come
in as arguments. So a decision can be repeated, property-tested, and taken inside a turn without waiting.
Deciding an idempotent command twice gives no events the second time.
"""

import hmac
import math
from enum import Enum
from typing import Final

import msgspec

from actors.errors import (
    DomainNotFoundError,
    InvalidNameError,
    PorticoError,
    SandboxMismatchError,
    SandboxNotFoundError,
    SandboxStoppedError,
    SecurityError,
    ShareNotFoundError,
    ShareSpentError,
)
from actors.sandbox.events import (
    AsleepPolicy,
    ContainerSpec,
    Digest,
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
from actors.sandbox.ids import EXPOSABLE_PORT_MIN, PORT_MAX, Port, PortToken, SandboxId, Seal, ShareId, shown_number
from actors.sandbox.state import PreviewAuth, SandboxState, Status, port_of_token

NAME_LENGTH_MAX: Final = 128
"""For the name of a port: a label for people, not a document."""

PORTS_MAX: Final = 256
"""Exposed ports of one sandbox. Bounds the state, its snapshot, and what one sandbox can make us remember."""


SHARES_MAX: Final = 256
"""Shares of one sandbox that stand at once."""

SHARE_SECONDS_MAX: Final = 366 * 24 * 3600.0
"""A link that is to open for longer than a year is no share but a preview URL."""
SLEEP_AFTER_S: Final = 600.0
"""Unless the owner says otherwise: ten minutes, as in the reference (``sleepAfter``)."""

SLEEP_AFTER_MIN_S: Final = 1.0
"""Less would have a sandbox wake and sleep between the requests of one page."""


class Rules(msgspec.Struct, frozen=True):
    """What a platform may decide for itself."""

    reserved_ports: frozenset[int] = frozenset({3000})
    """Never exposed: the reference keeps 3000 for its control plane, and so do its users' programs."""
    sleep_after: float | None = SLEEP_AFTER_S
    """For sandboxes whose owner does not say; None: never."""


DEFAULT_RULES: Final = Rules()


DIGEST_BYTES: Final = 32
"""Of a SHA-256."""


def _check_digest(digest: bytes) -> None:
    # Misuse by our own code. Unchecked, it would be stored, and the log could not be read again.
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")


class CreateSandbox(msgspec.Struct, frozen=True):
    """Make the sandbox, or agree that it is as asked for. None means: whatever it is, or the default."""

    sandbox: SandboxId
    container: ContainerSpec | None = None
    open_ports: bool | None = None
    when_asleep: AsleepPolicy | None = None
    preview_auth_digest: Digest | None = None
    """Sets the gate in the same step: a sandbox asked to be private is never open, not even for a moment."""
    seal: Seal | None = None
    """Freshly drawn, for a sandbox that is made; one that exists keeps its own."""
    sleep_after: float | msgspec.UnsetType | None = msgspec.UNSET
    """Seconds without use after which it goes to sleep; None: never. Unset: whatever it is, or the platform's."""

    def __post_init__(self) -> None:
        if self.preview_auth_digest is not None:
            _check_digest(self.preview_auth_digest)


class ExposePort(msgspec.Struct, frozen=True):
    """Give a port a preview URL."""

    port: int
    minted: PortToken
    """A fresh token, used if the port needs one and none is asked for."""
    token: PortToken | None = None
    name: str | None = None
    """None keeps the name it has."""
    host_header: HostHeader | None = None
    """None keeps the rule it has."""
    wake_on_websocket: bool | None = None
    """None keeps what it is."""
    any_port: bool = False
    """Of a sandbox whose ports are all open, take low and reserved ones too: they are reached anyway."""


class UnexposePort(msgspec.Struct, frozen=True):
    """Take the preview URL back. A port that has none is left as it is."""

    port: int


class SetPreviewAuth(msgspec.Struct, frozen=True):
    """Put a bearer gate in front of the whole sandbox, in place of any other, at once."""

    digest: Digest

    def __post_init__(self) -> None:
        _check_digest(self.digest)


class RotatePreviewAuth(msgspec.Struct, frozen=True):
    """Replace the bearer token; the old one opens for another `grace` seconds.

    At most two open at once: one whose own grace is not over yet when another rotation comes stops then.
    """

    digest: Digest
    grace: float = 0.0

    def __post_init__(self) -> None:
        _check_digest(self.digest)


class CreateShare(msgspec.Struct, frozen=True):
    """Make a link that opens one port, past any gate, for `expires_in` seconds."""

    port: int
    minted: ShareId
    digest: Digest
    """Of the secret in the link."""
    seal: Seal
    """Freshly drawn."""
    expires_in: float
    once: bool = False
    hostname: str | None = None
    """A custom hostname that leads to that port: the link is for it alone. None: for a name of its own."""
    binding: int | None = None
    """Of that hostname; see `HostnameShared`. Whether it stands is for the caller to know."""

    def __post_init__(self) -> None:
        _check_digest(self.digest)


class RedeemShare(msgspec.Struct, frozen=True):
    """Somebody shows the link's secret. One that opens one session is spent by that; else nothing changes."""

    share: str
    port: int
    digest: Digest
    """Of the secret that was shown."""
    binding: int | None = None
    """Of the custom hostname that it was shown at."""

    def __post_init__(self) -> None:
        _check_digest(self.digest)


class RevokeShare(msgspec.Struct, frozen=True):
    """Take a link back. One that is not there is left as it is."""

    share: str


class BeginRun(msgspec.Struct, frozen=True):
    """Name the run that is about to be brought up. With a run under way: nothing."""

    run_id: str
    """Never used before in this sandbox's life: visits lean on it."""
    by_policy: bool = False
    """Nobody asked for it; see `RunStarted`."""


class EndRun(msgspec.Struct, frozen=True):
    """Record that a run is over. One that is not the current run has ended already: nothing."""

    run_id: str
    reason: RunEnd


class NoteExit(msgspec.Struct, frozen=True):
    """Record that a process of the current run has exited by itself. One of another run is no news: nothing."""

    run_id: str
    process: str
    exit_code: int


class Hibernate(msgspec.Struct, frozen=True):
    """Put the sandbox to sleep: its run ends, and the next right request wakes it. With no run: nothing.

    Where the run has ended otherwise, `SandboxState.slept` stays false: sleep is the end of a run, and there is none.
    """


class SetSleepAfter(msgspec.Struct, frozen=True):
    """Have it go to sleep after so many seconds without use; None: never."""

    seconds: float | None


class FireAlarm(msgspec.Struct, frozen=True):
    """Do whatever has fallen due by now. With nothing due: nothing, so that firing early or twice is harmless."""


class StopSandbox(msgspec.Struct, frozen=True):
    """Stop it for good; its URLs say so from now on."""


class DestroySandbox(msgspec.Struct, frozen=True):
    """Forget ports, tokens and gate; the container goes afterwards."""


Command = (
    CreateSandbox
    | ExposePort
    | UnexposePort
    | SetPreviewAuth
    | RotatePreviewAuth
    | CreateShare
    | RedeemShare
    | RevokeShare
    | BeginRun
    | EndRun
    | NoteExit
    | Hibernate
    | SetSleepAfter
    | FireAlarm
    | StopSandbox
    | DestroySandbox
)

REVOCATIONS: Final[tuple[type[Command], ...]] = (
    UnexposePort,
    SetPreviewAuth,
    RotatePreviewAuth,
    RevokeShare,
    StopSandbox,
    DestroySandbox,
)
"""Commands that take something back. They have a lane of their own in a full mailbox."""


class RefusalReason(Enum):
    """Why a command was refused; the value is the error that a caller gets."""

    NOT_FOUND = SandboxNotFoundError
    STOPPED = SandboxStoppedError
    MISMATCH = SandboxMismatchError
    FORBIDDEN = SecurityError
    INVALID = InvalidNameError
    NO_SHARE = ShareNotFoundError
    SHARE_SPENT = ShareSpentError
    NO_DOMAIN = DomainNotFoundError


class Refusal(msgspec.Struct, frozen=True):
    """Nothing happened, and why."""

    reason: RefusalReason
    text: str
    """For people; never holds a token."""

    def to_error(self) -> PorticoError:
        """Return the exception that stands for this refusal."""
        error: PorticoError = self.reason.value(self.text)
        return error


def decide(
    state: SandboxState | None, command: Command, now: float, rules: Rules = DEFAULT_RULES
) -> tuple[Event, ...] | Refusal:
    """Return what `command` leads to in `state`.

    Args:
        state: None if the sandbox was never created.
        command: What is wanted.
        now: Seconds since 1970-01-01 UTC.
        rules: The platform's own.

    Returns:
        The events, in order, each of which `evolve` accepts after the ones before it; none if all is already
        as wanted. Or a `Refusal`.
    """
    if isinstance(command, CreateSandbox):
        return _create(state, command, now, rules)
    if state is None or state.status is Status.DESTROYED:
        return _without_sandbox(command)
    match command:
        case ExposePort():
            return _expose(state, command, rules)
        case UnexposePort():
            # Any number may be asked about: the port that is exposed is the one to name.
            exposure = state.ports.get(command.port)  # type: ignore[call-overload] # a Port equals its number
            return (PortUnexposed(exposure.port),) if exposure is not None else ()
        case SetPreviewAuth():
            return _stopped(state) or _set_gate(state, command.digest)
        case RotatePreviewAuth():
            return _rotate(state, command, now)
        case CreateShare():
            return _share(state, command, now, rules)
        case RedeemShare():
            return _redeem(state, command, now)
        case RevokeShare():
            sharing = state.shares.get(command.share)
            return (ShareRevoked(sharing.share),) if sharing is not None else ()
        case BeginRun():
            if state.run_id is not None:
                return ()
            return _stopped(state) or (RunStarted(command.run_id, command.by_policy),)
        case EndRun():
            return (RunEnded(command.run_id, command.reason),) if state.run_id == command.run_id else ()
        case NoteExit():
            # Not once per run and process: one that is started again may exit again.
            current = state.run_id == command.run_id
            return (ServiceExited(command.run_id, command.process, command.exit_code),) if current else ()
        case Hibernate():
            if state.run_id is None:
                return _stopped(state) or ()
            return (RunEnded(state.run_id, RunEnd.SLEPT),)
        case SetSleepAfter():
            refusal = _stopped(state) or _check_sleep_after(command.seconds)
            if refusal is not None:
                return refusal
            return (SleepAfterSet(command.seconds),) if state.sleep_after != command.seconds else ()
        case FireAlarm():
            return _fallen_due(state, now)
        case StopSandbox():
            return () if state.status is Status.STOPPED else (SandboxStopped(),)
        case DestroySandbox():
            return (SandboxDestroyed(),)


def check_exposable(port: int, rules: Rules) -> Refusal | None:
    """Say why a port may not be exposed, or None if it may."""
    # A bool is an int in Python; what came as JSON may be a float or text, whatever the annotation says.
    if isinstance(port, bool) or not isinstance(port, int):
        return Refusal(RefusalReason.FORBIDDEN, f"a port is a number, not {type(port).__name__}")
    if not EXPOSABLE_PORT_MIN <= port <= PORT_MAX:
        text = f"port {shown_number(port)} cannot be exposed: it must be {EXPOSABLE_PORT_MIN} to {PORT_MAX}"
        return Refusal(RefusalReason.FORBIDDEN, text)
    if port in rules.reserved_ports:
        return Refusal(RefusalReason.FORBIDDEN, f"port {port} cannot be exposed: it is reserved")
    return None


def _without_sandbox(command: Command) -> tuple[Event, ...] | Refusal:
    # Taking back what does not exist, and news of a run that outlived its sandbox, are not mistakes.
    if isinstance(command, RedeemShare):
        return _NO_SHARE
    if isinstance(command, UnexposePort | RevokeShare | DestroySandbox | EndRun | NoteExit | FireAlarm):
        return ()
    return Refusal(RefusalReason.NOT_FOUND, "there is no such sandbox")


def _create(
    state: SandboxState | None, command: CreateSandbox, now: float, rules: Rules
) -> tuple[Event, ...] | Refusal:
    if state is not None and state.status is Status.DESTROYED:
        return Refusal(RefusalReason.NOT_FOUND, f"sandbox {command.sandbox} is being destroyed; try again")
    if state is not None:
        return _agree(state, command)
    sleep_after = rules.sleep_after if command.sleep_after is msgspec.UNSET else command.sleep_after
    refusal = _check_sleep_after(sleep_after)
    if refusal is not None:
        return refusal
    created = SandboxCreated(
        command.sandbox,
        command.container or ContainerSpec(),
        bool(command.open_ports),
        command.when_asleep or AsleepPolicy.WAKE,
        command.seal,
        sleep_after,
        now,
    )
    if command.preview_auth_digest is None:
        return (created,)
    return created, PreviewAuthSet(command.preview_auth_digest)


def _agree(state: SandboxState, command: CreateSandbox) -> tuple[Event, ...] | Refusal:
    asked = (
        ("container", command.container, state.container),
        ("open_ports", command.open_ports, state.open_ports),
        ("when_asleep", command.when_asleep, state.when_asleep),
    )
    for what, wanted, actual in asked:
        if wanted is not None and wanted != actual:
            text = f"sandbox {state.sandbox} exists with {what}={actual!r}, not {wanted!r}"
            return Refusal(RefusalReason.MISMATCH, text)
    if command.sleep_after is not msgspec.UNSET and command.sleep_after != state.sleep_after:
        text = f"sandbox {state.sandbox} exists with sleep_after={state.sleep_after!r}, not {command.sleep_after!r}"
        return Refusal(RefusalReason.MISMATCH, text)
    wanted_digest = command.preview_auth_digest
    if wanted_digest is not None and (state.auth is None or not hmac.compare_digest(state.auth.digest, wanted_digest)):
        return Refusal(RefusalReason.MISMATCH, f"sandbox {state.sandbox} exists with another preview auth")
    return ()


def _stopped(state: SandboxState) -> Refusal | None:
    if state.status is Status.STOPPED:
        return Refusal(RefusalReason.STOPPED, f"sandbox {state.sandbox} has been stopped")
    return None


def _expose(state: SandboxState, command: ExposePort, rules: Rules) -> tuple[Event, ...] | Refusal:
    refusal = _stopped(state) or _check_name(command.name)
    if refusal is None and not (command.any_port and state.open_ports):
        refusal = check_exposable(command.port, rules)
    if refusal is not None:
        return refusal
    port = Port(command.port)
    current = state.ports.get(port)
    if current is None and len(state.ports) >= PORTS_MAX:
        return Refusal(RefusalReason.FORBIDDEN, f"port {port} cannot be exposed: {PORTS_MAX} others are already")
    token = command.token or (current.token if current is not None else command.minted)
    if token.reveal() in state.shares:
        return Refusal(RefusalReason.FORBIDDEN, "that token is already used by a share")
    holder = port_of_token(state, token)
    if holder is not None and holder != port:
        return Refusal(RefusalReason.FORBIDDEN, f"that token is already used by port {holder}")
    name = command.name if command.name is not None or current is None else current.name
    host_header = command.host_header or (current.host_header if current is not None else HostHeader.LOCALHOST)
    wakes = command.wake_on_websocket
    if wakes is None:
        wakes = current is not None and current.wake_on_websocket
    wanted = (token, name, host_header, wakes)
    if current is not None and wanted == (
        current.token,
        current.name,
        current.host_header,
        current.wake_on_websocket,
    ):
        return ()
    return (PortExposed(port, *wanted),)


def _check_sleep_after(seconds: float | None) -> Refusal | None:
    # Also keeps out what is not a number; a bool is one in Python.
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is None or (number and SLEEP_AFTER_MIN_S <= seconds < math.inf):
        return None
    text = f"sleep_after is a number of seconds, {SLEEP_AFTER_MIN_S:g} or more, or None"
    return Refusal(RefusalReason.INVALID, text)


def _check_name(name: str | None) -> Refusal | None:
    if name is None:
        return None
    if not 1 <= len(name) <= NAME_LENGTH_MAX or not name.isprintable():
        text = f"a port's name has 1 to {NAME_LENGTH_MAX} printable characters"
        return Refusal(RefusalReason.INVALID, text)
    return None


_NO_SHARE: Final = Refusal(RefusalReason.NO_SHARE, "there is no such share")


def _share(state: SandboxState, command: CreateShare, now: float, rules: Rules) -> tuple[Event, ...] | Refusal:
    refusal = _stopped(state) or (None if state.open_ports else check_exposable(command.port, rules))
    if refusal is not None:
        return refusal
    port = Port(command.port)
    if port not in state.ports and not state.open_ports:
        return Refusal(RefusalReason.INVALID, f"port {port} cannot be shared: it is not exposed")
    if command.hostname is not None and port not in state.ports:
        text = f"port {port} cannot be shared: {command.hostname} leads to it only while it is exposed"
        return Refusal(RefusalReason.INVALID, text)
    if command.hostname is not None and state.auth is None:
        text = f"{command.hostname} is open to everybody, a link adds nothing: set preview auth first"
        return Refusal(RefusalReason.INVALID, text)
    # Also keeps out what is not a number.
    if not 0 < command.expires_in <= SHARE_SECONDS_MAX:
        text = f"a share lasts for more than 0 and at most {SHARE_SECONDS_MAX:.0f} seconds"
        return Refusal(RefusalReason.INVALID, text)
    same = state.shares.get(command.minted)
    leads_alike = same is not None and (same.port, same.binding) == (port, command.binding)
    if same is not None and leads_alike and hmac.compare_digest(same.digest, command.digest):
        return ()
    over = _expired(state, now)
    if len(state.shares) - len(over) >= SHARES_MAX:
        return Refusal(RefusalReason.FORBIDDEN, f"port {port} cannot be shared: {SHARES_MAX} shares stand already")
    if command.minted in state.shares or port_of_token(state, PortToken(command.minted)) is not None:
        return Refusal(RefusalReason.INVALID, "the share's id is in use: draw another")
    expires_at = now + command.expires_in
    created = (command.minted, port, command.digest, command.seal, expires_at, command.once)
    if command.hostname is None or command.binding is None:
        return (*over, ShareCreated(*created))
    return (*over, HostnameShared(*created, hostname=command.hostname, binding=command.binding))


def _redeem(state: SandboxState, command: RedeemShare, now: float) -> tuple[Event, ...] | Refusal:
    sharing = state.shares.get(command.share)
    if sharing is None or sharing.port != command.port or now >= sharing.expires_at:
        return _NO_SHARE
    if sharing.binding != command.binding:
        return _NO_SHARE
    if not hmac.compare_digest(sharing.digest, command.digest):
        return _NO_SHARE
    if not sharing.once:
        return ()
    if sharing.redeemed:
        return Refusal(RefusalReason.SHARE_SPENT, "that link could be opened once, and has been")
    return (ShareRedeemed(sharing.share),)


def _expired(state: SandboxState, now: float) -> tuple[Event, ...]:
    return tuple(ShareExpired(sharing.share) for sharing in state.shares.values() if sharing.expires_at <= now)


def _fallen_due(state: SandboxState, now: float) -> tuple[Event, ...]:
    previous = state.auth.previous if state.auth is not None else None
    grace_ended = (PreviewAuthGraceEnded(),) if previous is not None and previous.until <= now else ()
    return (*grace_ended, *_expired(state, now))


def _rotate(state: SandboxState, command: RotatePreviewAuth, now: float) -> tuple[Event, ...] | Refusal:
    refusal = _stopped(state)
    if refusal is not None:
        return refusal
    if state.auth is None:
        return Refusal(RefusalReason.INVALID, f"sandbox {state.sandbox} has no preview auth to rotate")
    # Also keeps out what is not a number.
    if not 0 <= command.grace < math.inf:
        return Refusal(RefusalReason.INVALID, "grace is a number of seconds, zero or more")
    if hmac.compare_digest(state.auth.digest, command.digest):
        return _only_this_token(state.auth) if command.grace == 0 else ()
    until = now + command.grace if command.grace > 0 else None
    return (PreviewAuthRotated(command.digest, until),)


def _set_gate(state: SandboxState, digest: Digest) -> tuple[Event, ...]:
    if state.auth is not None and hmac.compare_digest(state.auth.digest, digest):
        return _only_this_token(state.auth)
    return (PreviewAuthSet(digest),)


def _only_this_token(auth: PreviewAuth) -> tuple[Event, ...]:
    """Keep the token that it is already, so that a call may be repeated; one before it stops."""
    return (PreviewAuthGraceEnded(),) if auth.previous is not None else ()
