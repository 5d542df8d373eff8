"""What a browser shows in place of a secret: a session, signed, and worth nothing anywhere else.

A browser cannot add a field to what it asks for, so it is given a cookie. What is in the cookie is not the secret but
a signature over what the secret opened. Nothing of it is stored: whether it is right, the sandbox's state says each
time, so a session ends in the moment in which what it is bound to ends.

=============== =========================================================================================
a session of    is bound to
=============== =========================================================================================
the gate        this life of the sandbox (its seal), the port, the bearer token and that token's generation
a share         that share (its own seal): its sandbox, port and end
=============== =========================================================================================

It takes the seal, which is in the log alone, to make one; whoever has only seen a session or a link cannot make
another.
"""

import base64
import hashlib
import hmac

from actors.sandbox.ids import Port, Seal
from actors.sandbox.state import Sharing


def gate_session(seal: Seal | None, port: Port, generation: int, digest: bytes) -> bytes:
    """Return the session of the gate, 43 characters of base64url.

    Args:
        seal: Of the sandbox; None for one that was made before there were seals: it is then signed with the digest.
        port: The one that it opens.
        generation: Of the bearer token.
        digest: Of the bearer token.
    """
    message = b"portico gate 1 %d %d " % (port, generation)
    if seal is None:
        return _as_text(hmac.digest(digest, message, hashlib.sha256))
    return _as_text(seal.sign(message + digest))


def share_session(sharing: Sharing) -> bytes:
    """Return the session of a share, 43 characters of base64url."""
    return _as_text(sharing.seal.sign(b"portico share 1 %d %b " % (sharing.port, sharing.share.encode("ascii"))))


def _as_text(signature: bytes) -> bytes:
    return base64.urlsafe_b64encode(signature).rstrip(b"=")
