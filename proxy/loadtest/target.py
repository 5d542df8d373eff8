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

_DEFAULT_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A URL, taken apart. Its token is a secret, so the host is not shown."""

    host: str
    """As names are compared: lower case, no brackets around an IPv6 address."""
    port: int
    path: str
    """Path and query, as they go into the request line."""

    @property
    def authority(self) -> str:
        """What the Host field says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT else f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"LoadTarget(port={self.port}, path={self.path!r})"


def read_target(url: str) -> LoadTarget:
    """Take a URL apart.

    Raises:
        ValueError: It is none that can be loaded; the text says why, and does not repeat it.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        raise ValueError("portico bench speaks plain HTTP: give it the http:// URL behind whatever does TLS")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("a URL is wanted, such as http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:8787/")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials go into --header, not into the URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not url.isascii() or any(character <= " " for character in url):
        raise ValueError("a URL has no spaces and only ASCII: write other characters as %20 and the like")
    # Raises ValueError for what is no port.
    return LoadTarget(parts.hostname.rstrip("."), parts.port or _DEFAULT_PORT, path)


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


def refusal(addresses: Sequence[str]) -> str | None:
    """Say why a target may not be loaded; None if it may.

    Whoever can run this command on a machine can use up that machine anyway. Anywhere else it takes proof that the
    server is the caller's own, and there is none to be had yet.

    Args:
        addresses: Every address that the target's name has.
    """
    if not addresses:
        return "the URL's name has no address"
    outside = [address for address in addresses if not _is_loopback(address)]
    if not outside:
        return None
    return (
        f"only servers on this machine can be loaded, and that name leads to {outside[0]}. A server elsewhere may be "
        "somebody else's, and this version has no way to show that it is yours. Run the command on the server "
        "itself, with the URL's name in its /etc/hosts or with --header 'Host: …' and http://127.0.0.1:8787/"
    )


def _is_loopback(address: str) -> bool:
    parsed = ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return (mapped or parsed).is_loopback


async def resolve(target: LoadTarget) -> tuple[str, ...]:
    """Give every address of a target's host, in the order in which to try them; none if its name has none.

    ``localhost`` and what ends in it is this machine, whatever a resolver says (RFC 6761, 6.3).
    """
    if target.host == "localhost" or target.host.endswith(".localhost"):
        return _LOOPBACK
    try:
        found = await trio.socket.getaddrinfo(target.host, target.port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        # Expected: nobody knows the name, or it is no name at all.
        return ()
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
