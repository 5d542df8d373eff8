"""Shares: links that open one port for a while, past any gate, for whoever holds them.

A share has a hostname of its own, in which its id stands where a port's token would, so that a link gives nothing away
that outlives it: neither the port's own URL nor the bearer token. The id is no secret; what opens is the secret in the
link's path, of which only a digest is kept, or a session that it was redeemed for.

A share may be for a custom hostname instead, which has no room for the id: there it stands before the secret. Such a
share leans on the binding of that hostname too, and is over with it, whoever has the hostname afterwards.
"""

import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from actors.errors import (
    DomainNotVerifiedError,
    InvalidNameError,
    RevocationIncompleteError,
    SandboxNotFoundError,
    ShareNotFoundError,
    ShareSpentError,
)
from actors.sandbox.decide import CreateShare, RedeemShare, RevokeShare
from actors.sandbox.domains import CustomHostname
from actors.sandbox.ids import (
    PORT_TOKEN_BYTES,
    PREVIEW_TOKEN_BYTES,
    SEAL_BYTES,
    PreviewToken,
    SandboxId,
    Seal,
    ShareId,
    shown_number,
)
from actors.sandbox.sessions import naming_share, share_session
from actors.sandbox.state import SandboxState, Sharing
from actors.sandbox.urls import Domain, PublicAddress, hostname_share_url, share_url

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
    custom_hostname: str | None = None
    """The custom hostname that it is for, and opens alone; None: it has a hostname of its own."""


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
    await _sweep(runtime, sandbox)
    command, secret = _drawn(port, expires_in, once)
    sharing = await _create(runtime, sandbox, command)
    return _shown(sharing, share_url(public, sandbox, sharing.port, command.minted, secret))


async def create_hostname_share(
    runtime: "Runtime", sandbox: SandboxId, port: int, *, expires_in: float, once: bool, hostname: CustomHostname
) -> Share:
    """See `Sandbox.share`."""
    binding = runtime.domains.binding(hostname, sandbox)
    if not runtime.domains.stands(binding.number):
        raise DomainNotVerifiedError(hostname, ["so it does not serve, and a link to it would not open"])
    if binding.port != port:
        raise InvalidNameError(f"{hostname} leads to port {binding.port}, not to {shown_number(port)}")
    await _sweep(runtime, sandbox)
    command, secret = _drawn(port, expires_in, once)
    sharing = await _create(runtime, sandbox, replace(command, hostname=str(hostname), binding=binding.number))
    # The base domain of this address plays no part.
    public = runtime.public_address or PublicAddress(Domain("localhost"))
    return _shown(sharing, hostname_share_url(public, hostname, command.minted, secret))


def _drawn(port: int, expires_in: float, once: bool) -> tuple[CreateShare, PreviewToken]:
    secret = PreviewToken.mint(secrets.token_bytes(PREVIEW_TOKEN_BYTES))
    minted = ShareId.mint(secrets.token_bytes(PORT_TOKEN_BYTES))
    return CreateShare(port, minted, secret.digest(), Seal(secrets.token_bytes(SEAL_BYTES)), expires_in, once), secret


async def _sweep(runtime: "Runtime", sandbox: SandboxId) -> None:
    """Take back the shares of bindings that are over: they open nothing, and would count among those that stand."""
    # While the hostnames could not be read, none seems to stand.
    if not runtime.domains.known or not runtime.exists(sandbox):
        return
    state = await runtime.actor(sandbox).look()
    for sharing in () if state is None else state.shares.values():
        if not _leads_here(runtime, sharing):
            # Expected of visits that do not end. The share is over all the same, durably, and whoever asks for another
            # has nothing to do with them.
            with suppress(RevocationIncompleteError):
                await revoke_share(runtime, sandbox, sharing.share)


async def _create(runtime: "Runtime", sandbox: SandboxId, command: CreateShare) -> Sharing:
    done = await runtime.call(sandbox, command)
    assert done.state is not None
    return done.state.shares[command.minted]


def _leads_here(runtime: "Runtime", sharing: Sharing) -> bool:
    """Say whether the custom hostname of a share, if it is for one, still leads to its port."""
    return sharing.binding is None or runtime.domains.stands(sharing.binding)


def shares_of(runtime: "Runtime", state: SandboxState, port: int | None) -> list[Share]:
    """See `Sandbox.list_shares`."""
    now = runtime.now()
    return [
        _shown(sharing, None)
        for sharing in state.shares.values()
        if now < sharing.expires_at and port in (None, sharing.port) and _leads_here(runtime, sharing)
    ]


async def revoke_share(runtime: "Runtime", sandbox: SandboxId, share: str) -> int:
    """See `Sandbox.revoke_share`."""
    return (await runtime.call(sandbox, RevokeShare(share))).cut


def _shown(sharing: Sharing, url: str | None) -> Share:
    return Share(
        str(sharing.share),
        url,
        int(sharing.port),
        sharing.expires_at,
        sharing.once,
        redeemed=sharing.redeemed,
        custom_hostname=sharing.hostname,
    )


async def find_share(
    runtime: "Runtime", sandbox: SandboxId, share: str, port: int, secret: bytes, *, binding: int | None = None
) -> Share:
    """Return the share that a link leads to, and leave it as it is; a sandbox that does not exist costs no actor.

    Args:
        runtime: Where.
        sandbox: Whose.
        share: Its id, as the link says it.
        port: That its hostname leads to.
        secret: In the link.
        binding: Of the custom hostname that the link was opened at; None: its hostname is the share's own.

    Raises:
        ShareNotFoundError: There is none, or the secret is not its own.
        ShareSpentError: It opens one session, and has.
        RetryableError, StoreError: As `Runtime.admit`.
    """
    state = await runtime.actor(sandbox).look() if runtime.exists(sandbox) else None
    _check_stands(runtime, binding)
    return judge_share(state, share, port, secret, runtime.now(), binding=binding)


def _check_stands(runtime: "Runtime", binding: int | None) -> None:
    # The table of hostnames is not in the sandbox's state, which may not know yet.
    if binding is not None and not runtime.domains.stands(binding):
        raise ShareNotFoundError("there is no such share")


def judge_share(
    state: SandboxState | None, share: str, port: int, secret: bytes, now: float, *, binding: int | None = None
) -> Share:
    """Return the share that a link leads to in a state, at `now` in seconds since 1970; see `find_share`.

    Raises:
        ShareNotFoundError, ShareSpentError: As `find_share`.
    """
    sharing = state.shares.get(share) if state is not None else None
    digest = hashlib.sha256(secret).digest()
    if sharing is None or sharing.port != port or sharing.binding != binding or now >= sharing.expires_at:
        raise ShareNotFoundError("there is no such share")
    if not secrets.compare_digest(sharing.digest, digest):
        raise ShareNotFoundError("there is no such share")
    if sharing.redeemed:
        raise ShareSpentError("that link could be opened once, and has been")
    return _shown(sharing, None)


async def redeem_share(
    runtime: "Runtime", sandbox: SandboxId, share: str, port: int, secret: bytes, *, binding: int | None = None
) -> ShareSession:
    """Give a session for a link's secret. One that opens one session is spent by that, durably: of two, one gets it.

    Raises: as `find_share`.
    """
    _check_stands(runtime, binding)
    try:
        done = await runtime.call(sandbox, RedeemShare(share, port, hashlib.sha256(secret).digest(), binding))
    except SandboxNotFoundError:
        raise ShareNotFoundError("there is no such share") from None
    assert done.state is not None
    sharing = done.state.shares[share]
    session = share_session(sharing)
    # A custom hostname does not say whose session it is.
    value = session if binding is None else naming_share(share, session)
    return ShareSession(value, sharing.expires_at)
