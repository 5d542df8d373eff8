"""What has happened to a sandbox: the vocabulary of its log.

Events are past tense, frozen, and complete when made. They are the only thing that changes a `SandboxState`,
so what is not an event did not happen. `encode` and `decode` are the one place where events meet plain values.

A name together with a version fixes the fields for ever. A new field with a default keeps the version, a
changed meaning takes a new one, and `decode` refuses what it does not know: skipping an event that an older
Portico cannot read would rebuild a state that never was.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from actors.errors import InvalidNameError, UnknownRecordError
from actors.sandbox.ids import Port, PortToken, SandboxId, Seal, ShareId

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""A SHA-256. The token that it is of is stored nowhere."""


class AsleepPolicy(StrEnum):
    """What a right credential meets while the container is not up."""

    WAKE = "wake"
    """The request is held until the container is ready."""
    STALE = "stale"
    """410: the owner wakes it, nobody else."""


class HostHeader(StrEnum):
    """Which Host a service sees."""

    LOCALHOST = "localhost"
    """``localhost:{port}``: what development servers accept without configuration."""
    PRESERVE = "preserve"
    """The public one, for services that build absolute URLs or route by name."""


class RunEnd(StrEnum):
    """Why a run is over."""

    SLEPT = "slept"
    EXITED = "exited"
    """The container went down by itself."""
    FAILED = "failed"
    """It never came up."""
    LOST = "lost"
    """An earlier activation had it; this one found it gone."""
    STOPPED = "stopped"


class ContainerSpec(msgspec.Struct, frozen=True):
    """Which kind of place a sandbox's services run in."""

    kind: str = "process"
    options: Mapping[str, str | int | bool] = {}
    """What the kind's factory is given. Kept in the log in clear: no secrets."""

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what could be stored but not be read back."""
        # Callers write options by hand: the annotation is a wish.
        options: Iterable[tuple[object, object]] = self.options.items()
        for name, value in options:
            # Numbers that msgpack has a form for.
            fits = isinstance(value, str | bool) or (isinstance(value, int) and -(2**63) <= value < 2**64)
            if not isinstance(name, str) or not fits:
                raise ValueError(f"container option {name!r} is not a text, a bool or an integer of 64 bits")


class SandboxCreated(msgspec.Struct, frozen=True):
    """The first event of every log."""

    sandbox: SandboxId
    container: ContainerSpec
    open_ports: bool = False
    """Whether the built-in hostname form reaches every port without a token. With a container that shares the host's
    network, that is every port of the host's loopback, whoever listens there."""
    when_asleep: AsleepPolicy = AsleepPolicy.WAKE
    seal: Seal | None = None
    """Of this life of the sandbox: what is signed with it is worth nothing to another of the same name. None: written
    before there were seals."""
    sleep_after: float | None = None
    """Seconds without use after which it goes to sleep; None: never, as those that were made before there was this."""
    created_at: float | None = None
    """When, in seconds since 1970; None: written before there was this, and the record's own time says it."""


class PortExposed(msgspec.Struct, frozen=True):
    """A port has a preview URL, or its URL, name or Host rule has changed."""

    port: Port
    token: PortToken
    name: str | None = None
    host_header: HostHeader = HostHeader.LOCALHOST
    wake_on_websocket: bool = False
    """Whether a WebSocket handshake wakes the sandbox too. Pages that were left open reconnect for ever."""


class PortUnexposed(msgspec.Struct, frozen=True):
    """The port's preview URL is dead for good: exposing it again draws another token."""

    port: Port


class RunStarted(msgspec.Struct, frozen=True):
    """The container is about to be brought up. Recorded first, so that no run is ever without a name."""

    run_id: str
    by_policy: bool = False
    """Nobody asked for it: the run before it ended by itself, and a service in it is to be started again."""


class RunEnded(msgspec.Struct, frozen=True):
    """That run is over; nothing admitted to it may go on."""

    run_id: str
    reason: RunEnd


class ServiceExited(msgspec.Struct, frozen=True):
    """A process of that run has exited by itself: nobody had asked it to. History only: the state is as it was."""

    run_id: str
    process: str
    exit_code: int
    """0 to 255, or minus the signal number that ended it."""


class SleepAfterSet(msgspec.Struct, frozen=True):
    """The sandbox goes to sleep after another time without use."""

    seconds: float | None
    """None: never."""


class PreviewAuthSet(msgspec.Struct, frozen=True):
    """Every visit needs the bearer token of this digest, besides any token in its hostname."""

    digest: Digest


class PreviewAuthRotated(msgspec.Struct, frozen=True):
    """Another bearer token replaces the old one."""

    digest: Digest
    previous_until: float | None = None
    """Until when the old one still opens, in seconds since 1970; None: it stopped at once."""


class PreviewAuthGraceEnded(msgspec.Struct, frozen=True):
    """The old bearer token's grace is over, by time or by its owner, and with it the visits that leaned on it."""


class ShareCreated(msgspec.Struct, frozen=True):
    """A link opens one port until it expires or is revoked, past any gate."""

    share: ShareId
    port: Port
    digest: Digest
    """Of the secret in the link."""
    seal: Seal
    """What the sessions that it opens are signed with."""
    expires_at: float
    """Seconds since 1970."""
    once: bool = False
    """Whether the link opens one session and no more."""


class HostnameShared(ShareCreated, frozen=True, kw_only=True):
    """A link opens one port on a custom hostname, while that leads to it.

    No field more of `ShareCreated`: whoever does not know of it would let the link open elsewhere, and for longer.
    """

    hostname: str
    binding: int
    """The number of its `DomainBinding`, which is never used again: bound anew, the hostname has other links."""


class ShareRedeemed(msgspec.Struct, frozen=True):
    """A link that opens one session has opened it; that session goes on until the share ends."""

    share: ShareId


class ShareRevoked(msgspec.Struct, frozen=True):
    """The owner took the link back, and with it the visits that leaned on it."""

    share: ShareId


class ShareExpired(msgspec.Struct, frozen=True):
    """The link's time is over, and with it the visits that leaned on it."""

    share: ShareId


class SandboxStopped(msgspec.Struct, frozen=True):
    """Stopped for good: its URLs answer 410 to those who hold them."""


class SandboxDestroyed(msgspec.Struct, frozen=True):
    """Ports, tokens and gate are forgotten; the id may be used anew."""


Event = (
    SandboxCreated
    | PortExposed
    | PortUnexposed
    | RunStarted
    | RunEnded
    | ServiceExited
    | SleepAfterSet
    | PreviewAuthSet
    | PreviewAuthRotated
    | PreviewAuthGraceEnded
    | ShareCreated
    | HostnameShared
    | ShareRedeemed
    | ShareRevoked
    | ShareExpired
    | SandboxStopped
    | SandboxDestroyed
)

# {event class: (name in the log, newest version)}. Names are written out so that renaming a class cannot
# change what old logs mean.
EVENT_NAMES: Final[Mapping[type[Event], tuple[str, int]]] = {
    SandboxCreated: ("sandbox_created", 1),
    PortExposed: ("port_exposed", 1),
    PortUnexposed: ("port_unexposed", 1),
    RunStarted: ("run_started", 1),
    RunEnded: ("run_ended", 1),
    ServiceExited: ("service_exited", 1),
    SleepAfterSet: ("sleep_after_set", 1),
    PreviewAuthSet: ("preview_auth_set", 1),
    PreviewAuthRotated: ("preview_auth_rotated", 1),
    PreviewAuthGraceEnded: ("preview_auth_grace_ended", 1),
    ShareCreated: ("share_created", 1),
    HostnameShared: ("hostname_shared", 1),
    ShareRedeemed: ("share_redeemed", 1),
    ShareRevoked: ("share_revoked", 1),
    ShareExpired: ("share_expired", 1),
    SandboxStopped: ("sandbox_stopped", 1),
    SandboxDestroyed: ("sandbox_destroyed", 1),
}

_EVENTS: Final = {key: cls for cls, key in EVENT_NAMES.items()}

T = TypeVar("T")


def encode(event: Event) -> tuple[str, int, dict[str, object]]:
    """Return an event's name, version and fields as plain values (a port token in clear: the log shows URLs)."""
    name, version = EVENT_NAMES[type(event)]
    return name, version, to_plain(event)


def decode(name: str, version: int, fields: Mapping[str, object]) -> Event:
    """Rebuild an event.

    Raises:
        UnknownRecordError: The name or version is not known, or the fields do not fit it.
    """
    return decode_among(_EVENTS, name, version, fields)


def dated(event: Event, time: float) -> Event:
    """Return what a record of that time says, knowing when it happened also if it was written before it did."""
    if isinstance(event, SandboxCreated) and event.created_at is None:
        return replace(event, created_at=time)
    return event


def decode_among(known: Mapping[tuple[str, int], type[T]], name: str, version: int, fields: Mapping[str, object]) -> T:
    """Rebuild an event of a log's vocabulary, ``{(name, version): class}``. Raises: as `decode`."""
    cls = known.get((name, version))
    if cls is None:
        raise UnknownRecordError(f"event {name!r} version {version} is not known to this version of Portico")
    try:
        return from_plain(fields, cls)
    except (msgspec.ValidationError, InvalidNameError) as error:
        raise UnknownRecordError(f"event {name!r} version {version} does not have its fields: {error}") from error


def to_plain(value: msgspec.Struct) -> dict[str, object]:
    """Turn a struct of the domain into plain values."""
    plain: dict[str, object] = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_plain_leaf)
    return plain


def from_plain(value: object, cls: type[T]) -> T:
    """Read plain values as `cls`, strictly.

    Raises:
        msgspec.ValidationError, InvalidNameError: They do not fit.
    """
    return msgspec.convert(value, cls, builtin_types=(bytes,), dec_hook=_typed_leaf)


def _plain_leaf(value: object) -> object:
    if isinstance(value, PortToken):
        return value.reveal()
    if isinstance(value, Port):
        return int(value)
    if isinstance(value, SandboxId | ShareId):
        return str(value)
    if isinstance(value, Seal):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} has no plain form")


# msgspec types the first argument as a class; Any is what its hook protocol asks for.
def _typed_leaf(cls: type[Any], value: object) -> object:
    if cls in (Port, SandboxId, PortToken, Seal, ShareId):
        return cls(value)
    raise TypeError(f"{cls.__name__} is not read from a log")
