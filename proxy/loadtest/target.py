"""What may be loaded, and where it is.

A name is resolved once, every address it has is judged, and only addresses that were judged are dialled: a name
cannot lead elsewhere after the check (DNS rebinding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

import trio

_LOOPBACK: Final = ("127.0.0.1", "::1")

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_PREVIEW_CODES: Final = frozenset({"ADMITTED", "WAKES", "AUTH_REQUIRED"})
"""What a server says of a URL of its own that a visitor with the right credentials gets through; see
`proxy.core.explain`."""


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A URL, taken apart. A token stands in its host, and a share's secret may in its path: neither is shown."""

    host: str
    """As names are compared: lower case, no brackets around an IPv6 address."""
    port: int
    path: str
    """Path and query, as they go into the request line."""
    scheme: str = "http"
    """``http`` or ``https``."""

    @property
    def authority(self) -> str:
        """What the Host field says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"LoadTarget(port={self.port}, scheme={self.scheme!r})"


@dataclass(frozen=True, slots=True)
class Word:
    """What a server whose API key the caller holds says of a target."""

    server: str
    """Its host."""
    addresses: Sequence[str]
    """All of them."""
    code: str
    """What a visit to the target meets there: the code that ``GET /v1/explain`` tells."""


def read_target(url: str) -> LoadTarget:
    """Take a URL apart.

    Raises:
        ValueError: It is none that can be loaded; the text says why, and does not repeat it.
    """
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("a URL is wanted, such as http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:8787/")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials go into --header, not into the URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not url.isascii() or any(character <= " " for character in url):
        raise ValueError("a URL has no spaces and only ASCII: write other characters as %20 and the like")
    # Raises ValueError for what is no port.
    return LoadTarget(parts.hostname.rstrip("."), parts.port or _DEFAULT_PORTS[parts.scheme], path, parts.scheme)


def parse_headers(given: Sequence[str], preview_token: str | None) -> list[tuple[str, str]]:
    """Take ``NAME: VALUE`` texts apart; add the preview token unless an Authorization is among them.

    Raises:
        ValueError: One is none; the text does not repeat it.
    """
    headers = []
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ValueError("a --header is NAME: VALUE")
        headers.append((name.strip(), value.strip()))
    if preview_token is not None and "authorization" not in {name.lower() for name, _ in headers}:
        headers.append(("Authorization", f"Bearer {preview_token}"))
    return headers


def outside(addresses: Sequence[str]) -> list[str]:
    """Return those that are not this machine's own."""
    return [address for address in addresses if not _is_loopback(address)]


def refusal(addresses: Sequence[str], word: Word | None = None) -> str | None:
    """Say why a target may not be loaded; None if it may.

    Whoever can run this command on a machine can use up that machine anyway. Anywhere else it takes a key of the
    server behind the name: the server says that the URL is one of its previews, and the name leads to no address but
    the server's own, so a mistyped or a moved name does not put load on a stranger.

    Args:
        addresses: Every address that the target's name has.
        word: What the server says whose key there is; None: there is no key.
    """
    if not addresses:
        return "the URL's name has no address"
    elsewhere = outside(addresses)
    if not elsewhere:
        return None
    if word is None:
        return (
            f"without a key only servers on this machine can be loaded, and that name leads to {elsewhere[0]}. If the "
            "server there is yours, name it with --server and put a key of it into PORTICO_API_KEY"
        )
    if word.code not in _PREVIEW_CODES:
        return f"{word.server} lets nobody in at that URL ({word.code}): portico explain says why"
    strange = [address for address in elsewhere if address not in word.addresses]
    if strange:
        return f"that name leads to {strange[0]}, which is no address of {word.server}: it may be somebody else's"
    return None


def _is_loopback(address: str) -> bool:
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """Give every address of a host, in the order in which to try them; none if its name has none.

    ``localhost`` and what ends in it is this machine, whatever a resolver says (RFC 6761, 6.3).
    """
    if host == "localhost" or host.endswith(".localhost"):
        return _LOOPBACK
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # Expected: nobody knows the name, or it is no name at all.
        return ()
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
