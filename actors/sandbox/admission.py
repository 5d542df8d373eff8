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
from typing import Any, Final

import msgspec

from actors.sandbox.events import AsleepPolicy, HostHeader
from actors.sandbox.ids import Port, PortToken
from actors.sandbox.state import Exposure, PreviewAuth, SandboxState, Status


class VisitRequest(msgspec.Struct, frozen=True, gc=False):
    """Somebody at the door."""

    port: Port
    token: PortToken | None = None
    """From the hostname; None in the built-in form, which carries none."""
    preview_token: bytes | None = None
    """The bearer secret, if one was sent."""
    preflight: bool = False
    """A CORS preflight: browsers cannot attach a bearer token to one (Fetch standard, CORS-preflight fetch)."""

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
    """Of the bearer token it came with; None if there was no gate."""
    host_header: HostHeader = HostHeader.LOCALHOST


class RefusedBecause(StrEnum):
    """Why a visit may not enter; the value is the stable code of the HTTP answer."""

    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105 - the name of an answer, not a secret
    SANDBOX_NOT_FOUND = "SANDBOX_NOT_FOUND"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    AUTH_INVALID = "AUTH_INVALID"
    SANDBOX_STOPPED = "SANDBOX_STOPPED"
    STALE_PREVIEW_URL = "STALE_PREVIEW_URL"


class NeedsWake(msgspec.Struct, frozen=True):
    """The credential is right, the container is not up, and the policy is to wake it."""


class CutBecause(StrEnum):
    """Why a visit may not stay."""

    UNEXPOSED = "unexposed"
    ROTATED = "rotated"
    RUN_ENDED = "run ended"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


NEEDS_WAKE: Final = NeedsWake()

Admission = Grant | RefusedBecause | NeedsWake

# Compared against when there is nothing to compare with, so that a port that is not exposed takes as long to
# refuse as a wrong token. It cannot match: a token has at least one character.
_NO_TOKEN: Final = ""


def admit(state: SandboxState | None, request: VisitRequest, now: float) -> Admission:
    """Judge a visit.

    Args:
        state: Of the sandbox that the hostname names; None if there is none.
        request: The door it knocks on, and its credentials.
        now: Seconds since 1970-01-01 UTC.

    Returns:
        A `Grant`, the reason of a refusal, or `NEEDS_WAKE`: judge again once the container is up.
    """
    exposure = None
    if request.token is None:
        if state is None or state.status is Status.DESTROYED:
            return RefusedBecause.SANDBOX_NOT_FOUND
        # Without a token in its name, the built-in form must not reach what a token was meant to protect.
        if not state.open_ports:
            return RefusedBecause.INVALID_TOKEN
    else:
        exposure = state.ports.get(request.port) if state is not None else None
        expected = exposure.token.reveal() if exposure is not None else _NO_TOKEN
        if not hmac.compare_digest(expected, request.token.reveal()) or exposure is None:
            return RefusedBecause.INVALID_TOKEN
    assert state is not None
    auth_generation = None
    if state.auth is not None:
        opened = _open_gate(state.auth, request, now)
        if isinstance(opened, RefusedBecause):
            return opened
        auth_generation = opened
    if state.status is Status.STOPPED:
        return RefusedBecause.SANDBOX_STOPPED
    if state.run_id is None:
        if state.auth is not None and request.preflight and not request.preview_token:
            # It was let pass without a credential, so it may not wake anything.
            return RefusedBecause.AUTH_REQUIRED
        return NEEDS_WAKE if state.when_asleep is AsleepPolicy.WAKE else RefusedBecause.STALE_PREVIEW_URL
    if exposure is None:
        return Grant(request.port, state.run_id, None, auth_generation)
    return Grant(request.port, state.run_id, exposure.generation, auth_generation, exposure.host_header)


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
    if not _gate_still_open(state.auth, grant, now):
        return CutBecause.ROTATED
    if state.run_id != grant.run_id:
        return CutBecause.RUN_ENDED
    return None


def _open_gate(auth: PreviewAuth, request: VisitRequest, now: float) -> int | RefusedBecause:
    """Return the generation of the token that opened, or why none did."""
    if request.preflight and request.token is not None and not request.preview_token:
        return auth.generation
    if not request.preview_token:
        return RefusedBecause.AUTH_REQUIRED
    digest = hashlib.sha256(request.preview_token).digest()
    if hmac.compare_digest(digest, auth.digest):
        return auth.generation
    previous = auth.previous
    if previous is not None and hmac.compare_digest(digest, previous.digest) and now < previous.until:
        return previous.generation
    return RefusedBecause.AUTH_INVALID


def _gate_still_open(auth: PreviewAuth | None, grant: Grant, now: float) -> bool:
    if auth is None or grant.auth_generation == auth.generation:
        return True
    # Either it came with the token before, in grace; or with an older one; or before there was a gate, and a
    # gate set since is for it as well.
    previous = auth.previous
    return previous is not None and grant.auth_generation == previous.generation and now < previous.until
