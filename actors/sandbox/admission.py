"""May this visit enter, and may it stay?

Order of judgement: sandbox, credential, run state. Whoever holds no right credential learns nothing but that,
whatever state the sandbox is in, and causes nothing: only the last step can lead to a wake.

An admitted visit carries a `Grant`: what it leaned on when it entered. `still_holds` asks the state of any
later moment whether all of that still stands; when it does not, the visit is cut. Admission and revocation
are thereby one rule seen from two sides, and a property test holds them together.
"""

import hashlib
import hmac
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from actors.sandbox.events import AsleepPolicy, HostHeader
from actors.sandbox.ids import Port, PortToken
from actors.sandbox.sessions import gate_session, read_named, share_session
from actors.sandbox.state import Exposure, PreviewAuth, SandboxState, Sharing, Status


class VisitRequest(msgspec.Struct, frozen=True, gc=False):
    """Somebody at the door."""

    port: Port
    token: PortToken | None = None
    """From the hostname; None in the built-in form, which carries none."""
    preview_token: bytes | None = None
    """The bearer secret, if one was sent."""
    preflight: bool = False
    """A CORS preflight: browsers cannot attach a bearer token to one (Fetch standard, CORS-preflight fetch)."""
    sessions: tuple[bytes, ...] = ()
    """What browsers show that have signed in, or opened a share's link: see `sessions`. Any right one will do."""
    share_secret: bytes | None = None
    """The secret of a share's link, if it was sent instead of a session."""
    binding: int | None = None
    """Of a custom hostname, which holds no token either: that its port is exposed is what opens. The number of its
    `DomainBinding`; whether that stands is for the runtime to say."""
    websocket: bool = False
    """A WebSocket handshake: it wakes only where its port says so."""

    def __repr__(self) -> str:
        return f"VisitRequest(port={self.port})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec's own signature
        """Show no more to rich, whose tracebacks print locals: msgspec's own would show `preview_token`."""
        return [("port", int(self.port))]


class Grant(msgspec.Struct, frozen=True, gc=False):
    """What an admitted visit leans on. All of it must go on standing."""

    port: Port
    run_id: str
    exposure_generation: int | None
    """None in the built-in form."""
    auth_generation: int | None
    """Of the bearer token it came with, or signed in with; None if there was no gate, or a share opened it."""
    host_header: HostHeader = HostHeader.LOCALHOST
    share: str | None = None
    """The share it came by."""
    share_generation: int = 0
    """Of that share. 0: the visit may outlive it; see `VisitBook.let_linger`."""
    by_bearer: bool = False
    """Whether a bearer token that it brought opened the gate; that one is no business of the service's."""
    binding: int | None = None
    """Of the custom hostname it came by."""


class RefusedBecause(StrEnum):
    """Why a visit may not enter; the value is the stable code of the HTTP answer."""

    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 - the name of an answer, not a secret
    SANDBOX_NOT_FOUND = "SANDBOX_NOT_FOUND"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    AUTH_INVALID = "AUTH_INVALID"
    SANDBOX_STOPPED = "SANDBOX_STOPPED"
    STALE_PREVIEW_URL = "STALE_PREVIEW_URL"
    ASLEEP = "ASLEEP"
    """A WebSocket handshake came, which wakes nothing: a page that was left open reconnects for ever."""


class NeedsWake(msgspec.Struct, frozen=True):
    """The credential is right, the container is not up, and the policy is to wake it."""


class CutBecause(StrEnum):
    """Why a visit may not stay."""

    UNEXPOSED = "unexposed"
    ROTATED = "rotated"
    UNSHARED = "unshared"
    RUN_ENDED = "run ended"
    STOPPED = "stopped"
    DESTROYED = "destroyed"
    UNBOUND = "unbound"
    """The custom hostname it came by does not lead here any more."""


NEEDS_WAKE: Final = NeedsWake()

Admission = Grant | RefusedBecause | NeedsWake

# Compared against when there is nothing to compare with, so that a port that is not exposed takes as long to
# refuse as a wrong token. It cannot match: a token has at least one character.
_NO_TOKEN: Final = ""


def admit(state: SandboxState | None, request: VisitRequest, now: float) -> Admission:
    """Judge a visit.

    In a hostname the id of a share may stand where a port's token does. Then it takes a credential of that share, and
    no other is asked for. At a custom hostname, which has no room for it, the credential itself says of which share it
    is; such a share opens no other name, and the gate may be opened there in every other way too.

    Args:
        state: Of the sandbox that the hostname names; None if there is none.
        request: The door it knocks on, and its credentials.
        now: Seconds since 1970-01-01 UTC.

    Returns:
        A `Grant`, the reason of a refusal, or `NEEDS_WAKE`: judge again once the container is up.
    """
    keys = _judge_credentials(state, request, now)
    if isinstance(keys, RefusedBecause):
        return keys
    assert state is not None
    if state.status is Status.STOPPED:
        return RefusedBecause.SANDBOX_STOPPED
    run_id = state.run_id
    if run_id is None:
        if state.auth is not None and keys.sharing is None and _is_bare_preflight(request):
            # It was let pass without a credential, so it may not wake anything.
            return RefusedBecause.AUTH_REQUIRED
        if state.when_asleep is not AsleepPolicy.WAKE:
            return RefusedBecause.STALE_PREVIEW_URL
        # A page that was left open reconnects for ever. Where nobody has put the sandbox to sleep, the handshake may as
        # well be the first visit there is.
        if request.websocket and state.slept and (keys.exposure is None or not keys.exposure.wake_on_websocket):
            return RefusedBecause.ASLEEP
        return NEEDS_WAKE
    exposure, sharing = keys.exposure, keys.sharing
    if sharing is not None:
        generation = exposure.generation if exposure is not None else None
        host_header = exposure.host_header if exposure is not None else HostHeader.LOCALHOST
        return Grant(
            request.port,
            run_id,
            generation,
            None,
            host_header,
            sharing.share,
            sharing.generation,
            binding=sharing.binding,
        )
    if exposure is None:
        return Grant(request.port, run_id, None, keys.auth_generation, by_bearer=keys.by_bearer)
    return Grant(
        request.port,
        run_id,
        exposure.generation,
        keys.auth_generation,
        exposure.host_header,
        by_bearer=keys.by_bearer,
        binding=request.binding,
    )


class _Keys(NamedTuple):
    """What a visitor's credentials open."""

    exposure: Exposure | None
    sharing: Sharing | None = None
    auth_generation: int | None = None
    by_bearer: bool = False


def _judge_credentials(state: SandboxState | None, request: VisitRequest, now: float) -> _Keys | RefusedBecause:
    exposure = None
    if request.binding is not None:
        exposure = state.ports.get(request.port) if state is not None else None
        if exposure is None:
            return RefusedBecause.INVALID_TOKEN
    elif request.token is None:
        if state is None or state.status is Status.DESTROYED:
            return RefusedBecause.SANDBOX_NOT_FOUND
        # Without a token in its name, the built-in form must not reach what a token was meant to protect.
        if not state.open_ports:
            return RefusedBecause.INVALID_TOKEN
    else:
        exposure = state.ports.get(request.port) if state is not None else None
        expected = exposure.token.reveal() if exposure is not None else _NO_TOKEN
        if not hmac.compare_digest(expected, request.token.reveal()) or exposure is None:
            sharing = _open_share(state, request, now) if state is not None else None
            if sharing is None:
                return RefusedBecause.INVALID_TOKEN
            assert state is not None
            return _Keys(state.ports.get(sharing.port), sharing)
    assert state is not None
    if state.auth is None:
        return _Keys(exposure)
    keys = _open_gate(state, state.auth, request, exposure, now)
    if request.binding is not None and isinstance(keys, RefusedBecause):
        sharing = _open_named_share(state, request, now)
        if sharing is not None:
            return _Keys(exposure, sharing)
    return keys


def still_holds(state: SandboxState | None, grant: Grant, now: float) -> CutBecause | None:
    """Say whether what a visit leaned on still stands: None if it does, or why not."""
    if state is None or state.status is Status.DESTROYED:
        return CutBecause.DESTROYED
    if state.status is Status.STOPPED:
        return CutBecause.STOPPED
    if grant.exposure_generation is not None:
        exposure: Exposure | None = state.ports.get(grant.port)
        if exposure is None or exposure.generation != grant.exposure_generation:
            return CutBecause.UNEXPOSED
    if grant.share is not None:
        if grant.share_generation and not _share_still_stands(state, grant.share, grant.share_generation, now):
            return CutBecause.UNSHARED
    elif not _gate_still_open(state.auth, grant, now):
        return CutBecause.ROTATED
    if state.run_id != grant.run_id:
        return CutBecause.RUN_ENDED
    return None


def sign_in(state: SandboxState | None, request: VisitRequest, now: float) -> bytes | RefusedBecause | None:
    """Return the session that a browser may show from now on in place of the bearer token of `request`.

    Judges as `admit` does, but for the run state: it admits nobody and wakes nothing.

    Returns:
        The session; or why there is none; None if no gate asks for one.
    """
    keys = _judge_credentials(state, request, now)
    if isinstance(keys, RefusedBecause):
        return keys
    assert state is not None
    for digest, generation in _open_tokens(state.auth, now):
        if generation == keys.auth_generation:
            return gate_session(state.seal, request.port, generation, digest)
    return None


def _open_share(state: SandboxState, request: VisitRequest, now: float) -> Sharing | None:
    """Return the share that the hostname names, if the request has a credential of it."""
    if request.token is None or not (request.sessions or request.share_secret):
        return None
    sharing = _standing(state, request, request.token.reveal(), now)
    if sharing is None:
        return None
    if request.share_secret and _is_secret_of(sharing, request.share_secret):
        return sharing
    if request.sessions and _is_any_of(share_session(sharing), request.sessions):
        return sharing
    return None


def _open_named_share(state: SandboxState, request: VisitRequest, now: float) -> Sharing | None:
    """Return a share for the custom hostname that the request has a credential of."""
    if request.share_secret and (named := read_named(request.share_secret)) is not None:
        sharing = _standing(state, request, named[0], now)
        if sharing is not None and _is_secret_of(sharing, named[1]):
            return sharing
    for session in request.sessions:
        if (named := read_named(session)) is not None:
            sharing = _standing(state, request, named[0], now)
            if sharing is not None and hmac.compare_digest(share_session(sharing), named[1]):
                return sharing
    return None


def _standing(state: SandboxState, request: VisitRequest, share: str, now: float) -> Sharing | None:
    """Return a share that stands, and is for the port and the hostname that the request came to."""
    sharing = state.shares.get(share)
    if sharing is None or sharing.port != request.port or sharing.binding != request.binding:
        return None
    return sharing if now < sharing.expires_at else None


def _is_secret_of(sharing: Sharing, secret: bytes) -> bool:
    # One that opens one session is redeemed for it, not shown.
    return not sharing.once and hmac.compare_digest(hashlib.sha256(secret).digest(), sharing.digest)


def _share_still_stands(state: SandboxState, share: str, generation: int, now: float) -> bool:
    sharing = state.shares.get(share)
    return sharing is not None and sharing.generation == generation and now < sharing.expires_at


def _open_gate(
    state: SandboxState, auth: PreviewAuth, request: VisitRequest, exposure: Exposure | None, now: float
) -> _Keys | RefusedBecause:
    """Return the generation of the token that opened, or why none did."""
    if request.token is not None and _is_bare_preflight(request):
        return _Keys(exposure, None, auth.generation)
    # Nearly always it is the current token that counts, and the one before it is not looked at.
    previous = auth.previous if auth.previous is not None and now < auth.previous.until else None
    if request.preview_token:
        digest = hashlib.sha256(request.preview_token).digest()
        if hmac.compare_digest(digest, auth.digest):
            return _Keys(exposure, None, auth.generation, True)  # by position, in half the time
        if previous is not None and hmac.compare_digest(digest, previous.digest):
            return _Keys(exposure, None, previous.generation, True)  # as above
    if request.sessions:
        if _is_any_of(gate_session(state.seal, request.port, auth.generation, auth.digest), request.sessions):
            return _Keys(exposure, None, auth.generation)
        if previous is not None:
            session = gate_session(state.seal, request.port, previous.generation, previous.digest)
            if _is_any_of(session, request.sessions):
                return _Keys(exposure, None, previous.generation)
    # A share's secret is tried here only at a custom hostname.
    shown = request.preview_token or request.sessions or (request.binding is not None and request.share_secret)
    return RefusedBecause.AUTH_INVALID if shown else RefusedBecause.AUTH_REQUIRED


def _open_tokens(auth: PreviewAuth | None, now: float) -> tuple[tuple[bytes, int], ...]:
    """Return digest and generation of the tokens that open, the current one first."""
    if auth is None:
        return ()
    current, previous = (auth.digest, auth.generation), auth.previous
    if previous is None or now >= previous.until:
        return (current,)
    return current, (previous.digest, previous.generation)


def _is_bare_preflight(request: VisitRequest) -> bool:
    return request.preflight and not request.preview_token and not request.sessions


def _is_any_of(expected: bytes, shown: tuple[bytes, ...]) -> bool:
    found = False
    for candidate in shown:
        found |= hmac.compare_digest(expected, candidate)
    return found


def _gate_still_open(auth: PreviewAuth | None, grant: Grant, now: float) -> bool:
    if auth is None or grant.auth_generation == auth.generation:
        return True
    # Either it came with the token before, in grace; or with an older one; or before there was a gate, and a
    # gate set since is for it as well.
    previous = auth.previous
    return previous is not None and grant.auth_generation == previous.generation and now < previous.until
