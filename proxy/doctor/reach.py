"""Getting to the server: names looked up, connections made, TLS shaken hands for.

What goes wrong is an answer (`Attempt`, `TLSFailure`), as it is what the doctor is there to tell.
"""

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from proxy.core.reaching import Attempt, TLSFailure

CONNECT_TIMEOUT_S: Final = 5.0
"""For one address; TCP sends its first segment again after 1 and 3 s (RFC 6298)."""

# X509_V_ERR_* of OpenSSL's x509_vfy.h, as `ssl.SSLCertVerificationError.verify_code` gives them. Its text would name
# the host, token and all.
_VERIFY_CODES: Final = {
    9: TLSFailure.NOT_YET,
    10: TLSFailure.EXPIRED,
    18: TLSFailure.UNKNOWN_ISSUER,
    19: TLSFailure.UNKNOWN_ISSUER,
    20: TLSFailure.UNKNOWN_ISSUER,
    21: TLSFailure.UNKNOWN_ISSUER,
    62: TLSFailure.OTHER_NAME,
    64: TLSFailure.OTHER_NAME,
}


async def look_up(name: str) -> list[str]:
    """Return the addresses of a name, IPv4 first; none if it does not resolve.

    Names under ``localhost`` mean this machine without asking anybody, as browsers have it (RFC 6761 section 6.3).
    """
    if name == "localhost" or name.endswith(".localhost"):
        return ["127.0.0.1", "::1"]
    try:
        found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # Expected: there is no such name, or no server to ask.
        return []
    addresses = dict.fromkeys(str(address[0]) for _, _, _, _, address in found)
    return sorted(addresses, key=lambda address: ":" in address)


@dataclass(frozen=True, slots=True)
class Route:
    """An address that takes connections, and how to speak to it."""

    address: str
    port: int
    tls: ssl.SSLContext | None
    attempts: tuple[Attempt, ...] = ()
    """Those tried before it, in vain."""


async def find_route(addresses: Sequence[str], port: int, tls: ssl.SSLContext | None) -> Route | list[Attempt]:
    """Return the first of `addresses` that takes a connection; if none does, what came of each."""
    attempts: list[Attempt] = []
    for address in addresses:
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                stream = await trio.open_tcp_stream(address, port)
        except trio.TooSlowError:
            attempts.append(Attempt(address, f"no answer within {CONNECT_TIMEOUT_S:.0f} s"))
        except OSError as error:
            attempts.append(Attempt(address, _why(error)))
        else:
            await trio.aclose_forcefully(stream)
            return Route(address, port, tls, tuple(attempts))
    return attempts


def _why(error: OSError) -> str:
    # trio wraps what came of the one address that it tried.
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(error.__cause__, BaseExceptionGroup):
        cause = next((inner for inner in error.__cause__.exceptions if isinstance(inner, OSError)), error)
    if cause.errno == errno.ECONNREFUSED:
        return "connection refused"
    return (cause.strerror or "no connection").lower()


class TLSError(Exception):
    """A TLS handshake failed, for a reason that can be shown."""

    def __init__(self, failure: TLSFailure) -> None:
        super().__init__(failure.value)
        self.failure = failure


@asynccontextmanager
async def dialled(route: Route, name: str, timeout_s: float) -> AsyncIterator[trio.abc.Stream]:
    """Connect for the length of the block, with TLS to `name` if the route has it.

    Raises:
        TLSError: The handshake failed.
        trio.BrokenResourceError: The address takes no connection any more, or not within `timeout_s`.
    """
    stream: trio.abc.Stream | None = None
    try:
        try:
            with trio.fail_after(timeout_s):
                plain = await trio.open_tcp_stream(route.address, route.port)
                stream = plain
                if route.tls is not None:
                    # https_compatible: servers often end without a word of TLS, and heads say how long bodies are.
                    stream = wrapped = trio.SSLStream(plain, route.tls, server_hostname=name, https_compatible=True)
                    await _shake_hands(wrapped)
        except (OSError, trio.TooSlowError) as error:
            raise trio.BrokenResourceError from error
        yield stream
    finally:
        if stream is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


async def _shake_hands(stream: "trio.SSLStream[trio.SocketStream]") -> None:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as error:
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise TLSError(_VERIFY_CODES.get(cause.verify_code, TLSFailure.OTHER)) from None
        if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            raise TLSError(TLSFailure.NO_TLS) from None
        # The text of anything else may name the host; its kind is enough.
        raise TLSError(TLSFailure.OTHER) from None


async def check_tls(route: Route, name: str, timeout_s: float) -> TLSFailure | None:
    """Shake hands for TLS to `name`; None if that went well."""
    try:
        async with dialled(route, name, timeout_s):
            return None
    except TLSError as error:
        return error.failure
    except trio.BrokenResourceError:
        return TLSFailure.OTHER
