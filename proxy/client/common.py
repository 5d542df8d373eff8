"""What both faces of the client have in common: where the server is, the key, how long to wait, words for failures.

The key travels as ``Authorization: Bearer``, which httpx2 leaves out of its own reprs. Redirects are not followed, so
it goes to no other server; and proxies of the environment are not asked to carry it to this machine itself.
"""

import hmac
import ipaddress
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from proxy.api import schemas
from proxy.client.dialogue import ANSWER_BYTES_MAX, CONNECT_TIMEOUT_S, check_key, check_server
from proxy.client.errors import APIError, ServerUnreachableError

SERVER_VARIABLE: Final = "PORTICO_SERVER"
KEY_VARIABLE: Final = "PORTICO_API_KEY"

NOT_FOUND: Final = 404

CONNECTIONS_MAX: Final = 100

POLL_FIRST_S: Final = 0.1
POLL_MAX_S: Final = 1.0
"""How often `wait` asks whether a process has exited: soon at first, seldom later."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server, and the key to it."""

    server: str
    api_key: str = field(repr=False)

    def timeout(self, answer_s: float, *, follow: bool) -> httpx2.Timeout:
        """Return how long to wait for each step; an answer that is followed may pause for as long as it likes."""
        return httpx2.Timeout(answer_s, connect=CONNECT_TIMEOUT_S, read=None if follow else answer_s)


def find_address(server: str | None, api_key: str | None) -> Address:
    """Return where to go, from arguments and environment.

    Raises:
        ValueError: Something is missing, or cannot be what it should be.
    """
    server = server if server is not None else os.environ.get(SERVER_VARIABLE)
    if not server:
        raise ValueError(f"which server? Give its URL, or set {SERVER_VARIABLE}")
    api_key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    if not api_key:
        raise ValueError(f"an API key is wanted: give one, or set {KEY_VARIABLE}")
    return Address(check_server(server), check_key(api_key))


def transport_options(address: Address) -> dict[str, Any]:
    """Return the arguments for either client of httpx2. Any: they go on as keyword arguments."""
    return {
        "base_url": address.server,
        "headers": {"Authorization": f"Bearer {address.api_key}", "User-Agent": "portico-client"},
        "follow_redirects": False,
        "trust_env": not is_this_machine(address.server),
        "limits": httpx2.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=20, keepalive_expiry=30.0),
    }


def is_this_machine(server: str) -> bool:
    """Say whether a URL leads to this machine by its own word: ``localhost``, or a loopback address."""
    host = urlsplit(server).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # Expected: a name.
        return False


def describe(error: httpx2.TransportError) -> str:
    """Return what went wrong on the way, for people."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            # Of the addresses that were tried, the first says what the others would.
            cause = cause.exceptions[0]
        elif isinstance(cause, ssl.SSLError):
            # An OSError too, but its number is OpenSSL's own, and would be read as another word.
            return _describe_tls(cause)
        elif isinstance(cause, OSError) and cause.strerror is not None:
            # Trio's own text repeats the address; a name that does not resolve has a number that is no error number.
            number = cause.errno or 0
            return (os.strerror(number) if number > 0 else cause.strerror).lower()
        else:
            cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _describe_tls(error: ssl.SSLError) -> str:
    # OpenSSL's words in short. What Python raises by itself has no such fields, and a text that is fit to be shown.
    untrusted = getattr(error, "verify_message", None)
    if untrusted:
        return f"the certificate is not trusted: {untrusted}"
    reason = getattr(error, "reason", None)
    return f"tls: {reason.replace('_', ' ').lower() if reason else error}"


def too_large(status: int) -> APIError:
    """Return the error for an answer that does not end."""
    return APIError(f"the answer is larger than {ANSWER_BYTES_MAX // 2**20} MiB", status=status, code="BAD_ANSWER")


def no_answer(text: str) -> ServerUnreachableError:
    """Return the error for an answer that did not come, or not to its end."""
    return ServerUnreachableError(f"no answer from the server: {text}")


def token_fits(ports: Sequence[schemas.Port], port: int, token: str) -> bool:
    """Say whether `token` is that of one of `ports`, in constant time."""
    if isinstance(port, bool):
        return False
    expected = next((found.token for found in ports if found.port == port), None)
    return expected is not None and hmac.compare_digest(expected.encode(), token.encode())
