"""What a browser shows in place of a secret: a session, signed, and worth nothing anywhere else.

A browser cannot add a field to what it asks for, so it is given a cookie. What is in the cookie is not the secret but
a signature over what the secret opened. Nothing of it is stored: whether it is right, the sandbox's state says each
time, so a session ends in the moment in which what it is bound to ends.

=============== =========================================================================================
a session of    is bound to
=============== =========================================================================================
the gate        this life of the sandbox (its seal), the port, the bearer token and that token's generation
a share         that share (its own seal): its sandbox, port, end, and custom hostname if it is for one
=============== =========================================================================================

It takes the seal, which is in the log alone, to make one; whoever has only seen a session or a link cannot make
another.
"""

import base64
import hmac
from functools import lru_cache
from typing import Final

from actors.sandbox.ids import Port, Seal
from actors.sandbox.state import Sharing

_NAMED: Final = b"."

SESSIONS_REMEMBERED: Final = 4096
"""Signatures, each of some 200 bytes. They are functions of what they are over, so one that is remembered can be
useless but not wrong; signing takes 3 us, and a page asks for dozens of things."""


def gate_session(seal: Seal | None, port: Port, generation: int, digest: bytes) -> bytes:
    """Return the session of the gate, 43 characters of base64url.

    Args:
        seal: Of the sandbox; None for one that was made before there were seals: it is then signed with the digest.
        port: The one that it opens.
        generation: Of the bearer token.
        digest: Of the bearer token.
    """
    return _gate_session(seal.reveal() if seal is not None else digest, port, generation, digest)


def naming_share(share: str, shown: bytes) -> bytes:
    """Return a share's secret or session as it is shown at a custom hostname, which does not name the share itself."""
    return share.encode("ascii") + _NAMED + shown


def read_named(shown: bytes) -> tuple[str, bytes] | None:
    """Take apart what `naming_share` has put together: the share's id, and its secret or session; None if it has not.

    Neither a secret nor a session, as text of base64url, has a full stop in it.
    """
    share, separator, rest = shown.partition(_NAMED)
    return (share.decode("latin-1"), rest) if separator else None


def share_session(sharing: Sharing) -> bytes:
    """Return the session of a share, 43 characters of base64url."""
    return _share_session(sharing.seal.reveal(), sharing.port, sharing.share)


@lru_cache(SESSIONS_REMEMBERED)
def _gate_session(key: bytes, port: int, generation: int, digest: bytes) -> bytes:
    return _signature(key, b"portico gate 1 %d %d " % (port, generation) + digest)


@lru_cache(SESSIONS_REMEMBERED)
def _share_session(key: bytes, port: int, share: str) -> bytes:
    return _signature(key, b"portico share 1 %d %b " % (port, share.encode("ascii")))


def _signature(key: bytes, message: bytes) -> bytes:
    """Return the HMAC-SHA256 of `message` (RFC 2104) as text."""
    return base64.urlsafe_b64encode(hmac.digest(key, message, "sha256")).rstrip(b"=")
