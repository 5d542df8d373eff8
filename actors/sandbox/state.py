"""A sandbox's state, and the only function that changes it.

`evolve` is total over the events that `decide` can produce from that state, and refuses every other: a log
that does not fold is damaged or was written by something else, and guessing would forge a history.
State is never edited: `evolve` returns another one, and the mappings inside are not written to once made.
"""

import hmac
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from actors.errors import SandboxNotFoundError, SandboxStoppedError, UnknownRecordError
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
    from_plain,
    to_plain,
)
from actors.sandbox.ids import Port, PortToken, SandboxId, Seal, ShareId

SNAPSHOT_VERSION: Final = 3

_VERSIONS_READ: Final = (1, 2, SNAPSHOT_VERSION)
"""What a newer version has beyond an older one has a default, so one reader does for all."""


class Status(StrEnum):
    """The three ages of a sandbox."""

    ACTIVE = "active"
    STOPPED = "stopped"
    """For good. What is left is an explanation (410) for those who hold a URL."""
    DESTROYED = "destroyed"
    """As if it had never been, but for its log."""


class Exposure(msgspec.Struct, frozen=True):
    """One exposed port."""

    port: Port
    token: PortToken
    generation: int
    """Unique in the sandbox's life and never reused, so that a port exposed again, even with the same token,
    is another exposure. Changes with the token, not with the name."""
    name: str | None = None
    host_header: HostHeader = HostHeader.LOCALHOST
    wake_on_websocket: bool = False
    """Whether a WebSocket handshake wakes the sandbox too."""


class PreviousToken(msgspec.Struct, frozen=True):
    """The bearer token before the current one, while its grace lasts."""

    digest: Digest
    generation: int
    until: float
    """When the grace is over, in seconds since 1970; judged at each use."""


class PreviewAuth(msgspec.Struct, frozen=True):
    """The bearer gate of the whole sandbox."""

    digest: Digest
    generation: int
    """Of the token; from the same counter as an exposure's."""
    previous: PreviousToken | None = None


class Sharing(msgspec.Struct, frozen=True):
    """A share that was made and neither revoked nor found expired; whether its time is over is judged at each use."""

    share: ShareId
    port: Port
    generation: int
    """From the same counter as an exposure's, so that no two shares are ever the same."""
    digest: Digest
    seal: Seal
    expires_at: float
    once: bool = False
    redeemed: bool = False
    """Of one that opens one session: it has."""
    # Not in snapshots before version 3.
    hostname: str | None = None
    """The custom hostname that it is for; None: it has a name of its own below the base domain."""
    binding: int | None = None
    """See `HostnameShared`. Invariant: None exactly if there is no hostname."""


class SandboxState(msgspec.Struct, frozen=True):
    """Everything that must survive. Equal states behave alike for ever."""

    sandbox: SandboxId
    container: ContainerSpec
    open_ports: bool = False
    when_asleep: AsleepPolicy = AsleepPolicy.WAKE
    status: Status = Status.ACTIVE
    ports: Mapping[Port, Exposure] = {}
    run_id: str | None = None
    """The run that visits are admitted to; None while asleep. Invariant: None unless ACTIVE."""
    auth: PreviewAuth | None = None
    generation: int = 0
    """The last generation given to an exposure or a gate."""
    seal: Seal | None = None
    """Of this life of the sandbox; see `SandboxCreated`."""
    shares: Mapping[str, Sharing] = {}
    """By id, oldest first. Invariant: none of their ids is a port's token."""

    sleep_after: float | None = None
    """Seconds without use after which it goes to sleep; None: never."""
    slept: bool = False
    """It was put to sleep, by its owner or for want of visitors, and has not been up since. Not so before its first
    run, or after a run that ended for another reason."""
    created_at: float | None = None
    """Seconds since 1970; None: its log was made short before there was this, and nobody knows any more."""

    @property
    def in_grace(self) -> bool:
        """Whether an old bearer token still opens, or is still to be noted as ended."""
        return self.auth is not None and self.auth.previous is not None


class _Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A state as plain values. The ports are a list: not every msgpack reader takes numbers as map keys."""

    sandbox: SandboxId
    container: ContainerSpec
    open_ports: bool
    when_asleep: AsleepPolicy
    status: Status
    ports: list[Exposure]
    run_id: str | None
    auth: PreviewAuth | None
    generation: int
    # Not in version 1.
    seal: Seal | None = None
    shares: list[Sharing] = []
    sleep_after: float | None = None
    slept: bool = False
    created_at: float | None = None


def evolve(state: SandboxState | None, event: Event) -> SandboxState:
    """Return the state after `event`; None is the state of a sandbox that has not been created.

    Raises:
        UnknownRecordError: The event cannot follow that state.
    """
    if isinstance(event, SandboxCreated):
        if state is not None:
            raise UnknownRecordError(f"{event.sandbox} was created twice")
        return SandboxState(
            event.sandbox,
            event.container,
            event.open_ports,
            event.when_asleep,
            seal=event.seal,
            sleep_after=event.sleep_after,
            created_at=event.created_at,
        )
    if state is None or state.status is Status.DESTROYED:
        raise UnknownRecordError(f"{type(event).__name__} for a sandbox that does not exist")
    match event:
        case PortExposed():
            return _expose(state, event)
        case PortUnexposed():
            if event.port not in state.ports:
                raise UnknownRecordError(f"port {event.port} was not exposed")
            left = {port: exposure for port, exposure in state.ports.items() if port != event.port}
            shares = {share: sharing for share, sharing in state.shares.items() if sharing.port != event.port}
            return replace(state, ports=left, shares=shares)
        case RunStarted():
            if state.run_id is not None or state.status is not Status.ACTIVE:
                raise UnknownRecordError(f"run {event.run_id} began beside another, or after the end")
            return replace(state, run_id=event.run_id, slept=False)
        case RunEnded():
            if state.run_id != event.run_id:
                raise UnknownRecordError(f"run {event.run_id} ended, but it was not the current one")
            return replace(state, run_id=None, slept=event.reason is RunEnd.SLEPT)
        case ServiceExited():
            if state.run_id != event.run_id:
                raise UnknownRecordError(f"a process of run {event.run_id} exited, but it was not the current one")
            return state
        case SleepAfterSet():
            return replace(state, sleep_after=event.seconds)
        case PreviewAuthSet():
            generation = state.generation + 1
            return replace(state, auth=PreviewAuth(event.digest, generation), generation=generation)
        case PreviewAuthRotated():
            return _rotate(state, event)
        case PreviewAuthGraceEnded():
            if state.auth is None or state.auth.previous is None:
                raise UnknownRecordError("a grace ended that had not begun")
            return replace(state, auth=PreviewAuth(state.auth.digest, state.auth.generation))
        case ShareCreated():
            return _share(state, event)
        case ShareRedeemed():
            return _redeem(state, event)
        case ShareRevoked() | ShareExpired():
            if event.share not in state.shares:
                raise UnknownRecordError(f"share {event.share} ended that had not begun")
            return replace(state, shares={key: kept for key, kept in state.shares.items() if key != event.share})
        case SandboxStopped():
            if state.status is not Status.ACTIVE:
                raise UnknownRecordError("stopped twice")
            return replace(state, status=Status.STOPPED, run_id=None)
        case SandboxDestroyed():
            return replace(state, status=Status.DESTROYED, run_id=None, ports={}, auth=None, shares={})


def fold(events: Iterable[Event], state: SandboxState | None = None) -> SandboxState | None:
    """Return the state after all of `events`: recovery is nothing but this."""
    for event in events:
        state = evolve(state, event)
    return state


def check_active(sandbox: SandboxId, state: SandboxState | None) -> None:
    """Return if a sandbox is there and not stopped.

    Raises:
        SandboxNotFoundError, SandboxStoppedError: It is not so.
    """
    if state is None or state.status is Status.DESTROYED:
        raise SandboxNotFoundError(f"there is no sandbox {sandbox}")
    if state.status is Status.STOPPED:
        raise SandboxStoppedError(f"sandbox {sandbox} has been stopped")


def next_alarm(state: SandboxState | None) -> float | None:
    """Return when something of this state falls due by time alone, in seconds since 1970, or None.

    Derived from the state, so that an alarm is as durable as its cause and cannot be lost beside it.
    """
    if state is None:
        return None
    due = [sharing.expires_at for sharing in state.shares.values()]
    if state.auth is not None and state.auth.previous is not None:
        due.append(state.auth.previous.until)
    return min(due, default=None)


def snapshot(state: SandboxState) -> dict[str, object]:
    """Return the state as plain values, for a log to keep in place of the events that led to it."""
    fields = {name: getattr(state, name) for name in state.__struct_fields__}
    return to_plain(_Snapshot(**{**fields, "ports": list(state.ports.values()), "shares": list(state.shares.values())}))


def restore(version: int, fields: Mapping[str, object]) -> SandboxState:
    """Rebuild a state from `snapshot`.

    Raises:
        UnknownRecordError: It is of another version, or does not fit this one.
    """
    if version not in _VERSIONS_READ:
        raise UnknownRecordError(f"snapshot version {version} is not known to this version of Portico")
    try:
        kept = from_plain(fields, _Snapshot)
    except (msgspec.ValidationError, ValueError) as error:
        raise UnknownRecordError(f"the snapshot does not have its fields: {error}") from error
    values = {name: getattr(kept, name) for name in kept.__struct_fields__}
    ports = {exposure.port: exposure for exposure in kept.ports}
    shares = {sharing.share: sharing for sharing in kept.shares}
    return SandboxState(**{**values, "ports": ports, "shares": shares})


def port_of_token(state: SandboxState, token: PortToken) -> Port | None:
    """Return the port that `token` belongs to, without telling by time how near a miss was."""
    found: Port | None = None
    for exposure in state.ports.values():
        if hmac.compare_digest(exposure.token.reveal(), token.reveal()):
            found = exposure.port
    return found


def _expose(state: SandboxState, event: PortExposed) -> SandboxState:
    if state.status is not Status.ACTIVE:
        raise UnknownRecordError(f"port {event.port} was exposed after the end")
    if event.token.reveal() in state.shares:
        raise UnknownRecordError(f"port {event.port} and a share have one name")
    holder = port_of_token(state, event.token)
    if holder is not None and holder != event.port:
        raise UnknownRecordError(f"ports {holder} and {event.port} share a token")
    current = state.ports.get(event.port)
    generation = state.generation
    if current is None or current.token != event.token:
        generation += 1
        kept = generation
    else:
        kept = current.generation
    exposure = Exposure(event.port, event.token, kept, event.name, event.host_header, event.wake_on_websocket)
    return replace(state, ports={**state.ports, event.port: exposure}, generation=generation)


def _share(state: SandboxState, event: ShareCreated) -> SandboxState:
    if state.status is not Status.ACTIVE:
        raise UnknownRecordError(f"port {event.port} was shared after the end")
    if event.share in state.shares or port_of_token(state, PortToken(event.share)) is not None:
        raise UnknownRecordError(f"share {event.share} has a name that was in use")
    generation = state.generation + 1
    sharing = Sharing(event.share, event.port, generation, event.digest, event.seal, event.expires_at, event.once)
    if isinstance(event, HostnameShared):
        sharing = replace(sharing, hostname=event.hostname, binding=event.binding)
    return replace(state, shares={**state.shares, event.share: sharing}, generation=generation)


def _redeem(state: SandboxState, event: ShareRedeemed) -> SandboxState:
    sharing = state.shares.get(event.share)
    if sharing is None or sharing.redeemed or not sharing.once:
        raise UnknownRecordError(f"share {event.share} was redeemed that could not be")
    return replace(state, shares={**state.shares, event.share: replace(sharing, redeemed=True)})


def _rotate(state: SandboxState, event: PreviewAuthRotated) -> SandboxState:
    if state.auth is None:
        raise UnknownRecordError("a gate was rotated that was never set")
    previous = None
    if event.previous_until is not None:
        previous = PreviousToken(state.auth.digest, state.auth.generation, event.previous_until)
    generation = state.generation + 1
    return replace(state, auth=PreviewAuth(event.digest, generation, previous), generation=generation)
