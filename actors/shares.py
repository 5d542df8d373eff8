"""Shares: links that open one port for a while, past any gate, for whoever holds them.

A share has a hostname of its own, in which its id stands where a port's token would, so that a link gives nothing away
that outlives it: neither the port's own URL nor the bearer token. The id is no secret; what opens is the secret in the
link's path, of which only a digest is kept, or a session that it was redeemed for.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.errors import SandboxNotFoundError, ShareNotFoundError, ShareSpentError
from actors.sandbox.decide import CreateShare, RedeemShare, RevokeShare
from actors.sandbox.ids import PORT_TOKEN_BYTES, PREVIEW_TOKEN_BYTES, SEAL_BYTES, PreviewToken, SandboxId, Seal, ShareId
from actors.sandbox.sessions import share_session
from actors.sandbox.state import SandboxState, Sharing
from actors.sandbox.urls import Domain, PublicAddress, share_url

if TYPE_CHECKING:
    # The runtime makes handles, so this arrow may exist for the type checker only.
    from actors.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Share:
    """A share as it was when asked."""

    id: str
    """No secret: what `Sandbox.revoke_share` takes."""
    url: str | None = field(repr=False)
    """The link, a secret. Told once, by `Sandbox.share`; None from `Sandbox.list_shares`."""
    port: int
    expires_at: float
    """Seconds since 1970."""
    once: bool = False
    """Whether the link opens one session and no more."""
    redeemed: bool = False
    """Of one that opens one session: it has."""


@dataclass(frozen=True, slots=True)
class ShareSession:
    """What somebody gets for a share's secret."""

    value: bytes = field(repr=False)
    """For `VisitRequest.sessions`."""
    expires_at: float
    """Seconds since 1970."""


async def create_share(
    runtime: "Runtime", sandbox: SandboxId, port: int, *, expires_in: float, once: bool, domain: Domain | None
) -> Share:
    """See `Sandbox.share`."""
    public = runtime.public_address
    if domain is not None:
        public = PublicAddress(domain, public.listener_port if public is not None else None)
    if public is None:
        # Before anything is stored: the link could not be told again.
        raise RuntimeError("no domain to build the link on: pass hostname=, or ask again once a Server listens")
    secret = PreviewToken.mint(secrets.token_bytes(PREVIEW_TOKEN_BYTES))
    minted = ShareId.mint(secrets.token_bytes(PORT_TOKEN_BYTES))
    seal = Seal(secrets.token_bytes(SEAL_BYTES))
    done = await runtime.call(sandbox, CreateShare(port, minted, secret.digest(), seal, expires_in, once))
    assert done.state is not None
    sharing = done.state.shares[minted]
    return _shown(sharing, share_url(public, sandbox, sharing.port, minted, secret))


def shares_of(state: SandboxState, now: float, port: int | None) -> list[Share]:
    """See `Sandbox.list_shares`."""
    return [
        _shown(sharing, None)
        for sharing in state.shares.values()
        if now < sharing.expires_at and port in (None, sharing.port)
    ]


async def revoke_share(runtime: "Runtime", sandbox: SandboxId, share: str) -> int:
    """See `Sandbox.revoke_share`."""
    return (await runtime.call(sandbox, RevokeShare(share))).cut


def _shown(sharing: Sharing, url: str | None) -> Share:
    return Share(
        str(sharing.share), url, int(sharing.port), sharing.expires_at, sharing.once, redeemed=sharing.redeemed
    )


async def find_share(runtime: "Runtime", sandbox: SandboxId, share: str, port: int, secret: bytes) -> Share:
    """Return the share that a link leads to, and leave it as it is; a sandbox that does not exist costs no actor.

    Raises:
        ShareNotFoundError: There is none, or the secret is not its own.
        ShareSpentError: It opens one session, and has.
        RetryableError, StoreError: As `Runtime.admit`.
    """
    state = await runtime.actor(sandbox).look() if runtime.exists(sandbox) else None
    return judge_share(state, share, port, secret, runtime.now())


def judge_share(state: SandboxState | None, share: str, port: int, secret: bytes, now: float) -> Share:
    """Return the share that a link leads to in a state, at `now` in seconds since 1970.

    Raises:
        ShareNotFoundError, ShareSpentError: As `find_share`.
    """
    sharing = state.shares.get(share) if state is not None else None
    digest = hashlib.sha256(secret).digest()
    if sharing is None or sharing.port != port or now >= sharing.expires_at:
        raise ShareNotFoundError("there is no such share")
    if not secrets.compare_digest(sharing.digest, digest):
        raise ShareNotFoundError("there is no such share")
    if sharing.redeemed:
        raise ShareSpentError("that link could be opened once, and has been")
    return _shown(sharing, None)


async def redeem_share(runtime: "Runtime", sandbox: SandboxId, share: str, port: int, secret: bytes) -> ShareSession:
    """Give a session for a link's secret. One that opens one session is spent by that, durably: of two, one gets it.

    Raises: as `find_share`.
    """
    try:
        done = await runtime.call(sandbox, RedeemShare(share, port, hashlib.sha256(secret).digest()))
    except SandboxNotFoundError:
        raise ShareNotFoundError("there is no such share") from None
    assert done.state is not None
    sharing = done.state.shares[share]
    return ShareSession(share_session(sharing), sharing.expires_at)
