"""Which sandbox and port a hostname names.

Every preview has a hostname of its own, so that the browser's same-origin rule keeps previews apart, and the
hostname of the token form is itself the credential. Reading one too generously would open doors: if two
spellings named one port, a revocation, a cache or a cookie could know one of them and not the other. So exactly
one spelling is read, up to ASCII case and one trailing dot: the one that `actors.preview_url` and
`actors.built_in_hostname` write.

::

    8080-my-app-k3v9x0q2m7t1z8aa.example.com    token      port to the FIRST hyphen, token after the LAST
    sb-1a2b3c4d-p8080.example.com               built-in   id begins `sb-`, port after the last `-p`, no token

The first begins with a digit and the second with `sb-`, so no name has both forms. What has neither form is not an
error: it is `NotOurs`, also right under one of our domains, and whoever embeds us may answer it. Only what could
not be the host of any URL is a `BadHostError`. A name that is outside our domains altogether may be a custom one, as
a whole (`CustomHost`): a table says so, that somebody else keeps.

Nothing is remembered between calls but ids and ports, which are no secrets: a table of whole hosts would keep
every token it had ever seen, wrong guesses included, in plain text.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from actors import BUILT_IN_PREFIX, Domain, InvalidNameError, Port, PortToken, SandboxId
from proxy.errors import BadHostError

NAME_LENGTH_MAX: Final = 253
"""The 255 octets of RFC 1035 section 2.3.4 as text: less the first length octet and the root's."""

PORT_MAX: Final = 65535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# The WHATWG URL standard takes a host for an IPv4 address when its last label looks like this, and so browsers dial
# it instead of asking the DNS.
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# RFC 9110 section 7.2: Host = uri-host [ ":" port ]. Of RFC 3986's reg-name we take what occurs in hostnames, and
# the underscore, which port tokens may hold. RFC 3986 section 3.2.3 lets the port be empty ("host:"), which means
# the default one; some clients send what the user typed, and as the port plays no part in routing, accepting it
# makes no second spelling of anything.
_PORT_PART: Final = r"(?::([1-9][0-9]{0,4})?)?"
_NAME: Final = re.compile(r"((?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63})\.?" + _PORT_PART)
_IPV6: Final = re.compile(r"\[([0-9a-f:.]{2,45})\]" + _PORT_PART)

# Neither is a secret. Building them costs about 1 us each, a look-up 0.1 us. The sizes bound the memory (about half
# a megabyte) that clients can fill with made-up names; failures are not kept.
_sandbox_id = lru_cache(maxsize=2048)(SandboxId)
_port = lru_cache(maxsize=1024)(Port.parse)


class HostKind(Enum):
    """What the host part is."""

    NAME = "name"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Host(NamedTuple):
    """A checked ``host[:port]``: folded to lower case, the trailing dot gone.

    A secret for as long as a port token may stand in `name`, which is why it is left out of `repr`.
    """

    kind: HostKind
    name: str
    """Of an IPv6 address the shortest form (RFC 5952), without brackets."""
    port: int | None
    """None: not given, so the default one of the scheme."""

    @property
    def names_this_machine(self) -> bool:
        """True for ``localhost`` and IP literals: what people type who dial an address.

        No web page can make a browser send such a name to us unless that is where it connects, so answering it
        opens no way for DNS rebinding.
        """
        return self.kind is not HostKind.NAME or self.name == "localhost"

    @property
    def authority(self) -> str:
        """``host[:port]`` as in a URL."""
        name = f"[{self.name}]" if self.kind is HostKind.IPV6 else self.name
        return name if self.port is None else f"{name}:{self.port}"

    def agrees_with(self, other: "Host", scheme: str) -> bool:
        """Say whether both name the same authority, a missing port being the default one of `scheme`."""
        default = DEFAULT_PORTS.get(scheme)
        return self.name == other.name and (self.port or default) == (other.port or default)

    def __repr__(self) -> str:
        return f"Host({self.kind.value}, ****, port={self.port})"


class TokenHost(NamedTuple):
    """``{port}-{sandbox}-{token}.{domain}``."""

    sandbox: SandboxId
    port: Port
    token: PortToken
    domain: Domain


class BuiltInHost(NamedTuple):
    """``{sandbox}-p{port}.{domain}``: no token, so only a preview-auth gate can guard it."""

    sandbox: SandboxId
    port: Port
    domain: Domain


class CustomHost(NamedTuple):
    """A whole name that its owner has bound to one port of one sandbox."""

    sandbox: SandboxId
    port: Port
    domain: str
    """The name itself: as a preview's hostname and its base domain are one here, nothing is a sibling of it."""
    binding: int
    """What a visit leans on; see `actors.DomainBinding`."""


class BaseHost(NamedTuple):
    """A base domain itself: the management API's place."""

    domain: Domain


class NotOurs(NamedTuple):
    """A sound host of no form of ours. It may still be looked up whole in a table of custom hostnames."""

    host: Host


PreviewHost = TokenHost | BuiltInHost | CustomHost
HostMatch = TokenHost | BuiltInHost | BaseHost | NotOurs


def parse_host(value: bytes) -> Host:
    """Read the value of a ``Host`` field, or the authority of an absolute-form target (RFC 9110 section 7.2).

    Raises:
        BadHostError: It is empty, longer than a name can be, holds bytes that no hostname has, has a label of more
            than 63 octets, user information, a port out of range, or is an address in a form that is not the
            usual one (``127.1``, ``[::1%25eth0]``).
    """
    # Folded as bytes, so ASCII only: as text, U+212A KELVIN SIGN would fold to "k".
    text = value.lower().decode("latin-1")
    if (match := _NAME.fullmatch(text)) is not None:
        kind, name = HostKind.NAME, match[1]
        if len(name) > NAME_LENGTH_MAX:
            raise BadHostError("the host is longer than a name can be")
        if _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]) is not None:
            kind, name = HostKind.IPV4, _ipv4(name)
    elif (match := _IPV6.fullmatch(text)) is not None:
        kind, name = HostKind.IPV6, _ipv6(match[1])
    else:
        raise BadHostError("the host is not a name or address with an optional port")
    port = int(match[2]) if match[2] else None
    if port is not None and port > PORT_MAX:
        raise BadHostError("the port of the host is out of range")
    return Host(kind, name, port)


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        # Expected: 127.1, 0x7f000001, 010.0.0.1. Readers disagree on what address these are, so they are none.
        raise BadHostError("the host is not an IPv4 address of four decimal numbers") from None


def _ipv6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        # Expected: anything in brackets comes here.
        raise BadHostError("the host is not an IPv6 address") from None


class Matcher:
    """Tells what a host is among a fixed set of base domains."""

    __slots__ = ("_domains",)

    def __init__(self, domains: Sequence[Domain]) -> None:
        self._domains: Mapping[str, Domain] = {str(domain): domain for domain in domains}

    def match(self, value: bytes) -> HostMatch:
        """Read a ``Host`` value and say what it names. Its port plays no part.

        A base domain that looks like a preview of another one is a base domain: the operator wrote it down.

        Raises:
            BadHostError: As `parse_host`.
        """
        # The usual spelling, without port or trailing dot, needs no grammar of its own: what follows the first dot
        # is one of our domains to the letter, and the parts before it are checked by their types. That is 1.2 us
        # against 4 us by way of `parse_host`, which everything else goes.
        text = value.lower().decode("latin-1")
        label, _, rest = text.partition(".")
        domain = self._domains.get(rest)
        if domain is not None and text not in self._domains:
            preview = _read_label(label, domain)
            if preview is not None:
                return preview
        return self.match_host(parse_host(value))

    def match_host(self, host: Host) -> HostMatch:
        """Say what an already checked `host` names."""
        if host.kind is HostKind.NAME:
            base = self._domains.get(host.name)
            if base is not None:
                return BaseHost(base)
            label, _, rest = host.name.partition(".")
            domain = self._domains.get(rest)
            if domain is not None:
                preview = _read_label(label, domain)
                if preview is not None:
                    return preview
        return NotOurs(host)


def match_label(label: bytes, domain: Domain) -> TokenHost | BuiltInHost | None:
    """Read the value of a ``Portico-Preview`` field: a first label, as if it stood in front of `domain`.

    Returns None for anything that is not one, also for a whole hostname.
    """
    return _read_label(label.strip(b" \t").lower().decode("latin-1"), domain)


def _read_label(label: str, domain: Domain) -> TokenHost | BuiltInHost | None:
    """Take a first label apart at its hyphens; None if a part is not what it should be. It must be lower case."""
    try:
        if label.startswith(BUILT_IN_PREFIX):
            name, separator, digits = label.rpartition("-p")
            if not separator or not name.startswith(BUILT_IN_PREFIX):
                return None
            return BuiltInHost(_sandbox_id(name), _port(digits), domain)
        digits, _, rest = label.partition("-")
        name, _, token = rest.rpartition("-")
        return TokenHost(_sandbox_id(name), _port(digits), PortToken(token), domain)
    except InvalidNameError:
        # Expected: `08080-...`, `99999-...`, `8080-www-...`, `8080--a-...`. Whoever asks is told what anybody is
        # told whose host is not ours.
        return None
