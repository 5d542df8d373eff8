"""Addresses at which no sandbox can be, so that a preview URL is no way to them.

Whoever may name a host for a sandbox must not thereby reach what only this machine is meant to reach: above all
the metadata service of a cloud, which hands out credentials to whoever asks from the right place (CWE-918). An
address is judged once it is known, at each dial, as a name can lead somewhere else from one look-up to the next.

Not refused are loopback and private addresses, as that is where services of one's own are; unless only public ones
will do, for a name that a stranger chose.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

METADATA: Final = "an address of a cloud's metadata"

# {why it is refused: networks}; the first that fits is told.
_REFUSED: Final = {
    METADATA: (
        "169.254.169.254/32",  # AWS, Google, Azure, Oracle, DigitalOcean, OpenStack and others
        "169.254.170.2/32",  # AWS: a task's credentials
        "fd00:ec2::254/128",  # AWS
        "fd20:ce::254/128",  # Google
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure: the host's agent
        "192.0.0.192/32",  # Oracle, of old
    ),
    "a link-local address": ("169.254.0.0/16", "fe80::/10"),  # RFC 3927, RFC 4291 section 2.5.6
    "the unspecified address": ("0.0.0.0/8", "::/128"),  # RFC 1122 section 3.2.1.3; the kernel takes it for loopback
    # RFC 8215: translated within one network, by a layout that only its operator knows.
    "an address that a network translates": ("64:ff9b:1::/48",),
    "a multicast address": ("224.0.0.0/4", "ff00::/8"),
    "a broadcast or reserved address": ("240.0.0.0/4",),  # RFC 1112 section 4; the last of them is the broadcast
}
_NETWORKS: Final = [
    (ipaddress.ip_network(network), reason) for reason, networks in _REFUSED.items() for network in networks
]

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1: the last 32 bits are an IPv4 address, which is where a translator sends it."""
_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")
"""RFC 2765 section 2.1, obsolete: the same."""
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
"""RFC 4291 section 2.5.5.1, deprecated: the same."""


_NOT_PUBLIC: Final = tuple(map(ipaddress.IPv6Network, ("fec0::/10", "3fff::/20", "5f00::/16")))
"""Site-local of old (RFC 3879), documentation (RFC 9637), segment routing (RFC 9602): Python 3.11 takes them for
global."""


class Places:
    """Which addresses may be dialled."""

    def __init__(self, allow: Iterable[str | Network] = (), *, public_only: bool = False) -> None:
        """Refuse what is said above, except `allow`: networks such as ``169.254.10.0/24``.

        Args:
            allow: What is let through all the same.
            public_only: Refuse whatever is not reachable from everywhere, too (IANA's special-purpose registries).

        Raises:
            ValueError: One of them is no network.
        """
        self._allow: Final = tuple(ipaddress.ip_network(network) for network in allow)
        self._public_only: Final = public_only

    def refusal(self, address: str) -> str | None:
        """Say why an address in its usual text form must not be dialled; None if it may be.

        Raises:
            ValueError: It is no address.
        """
        # A zone (``fe80::1%eth0``, RFC 4007) says by which way, not whereto.
        written = ipaddress.ip_address(address.partition("%")[0])
        meant = _meant(written)
        if any(one in network for one in meant for network in self._allow):
            return None
        for one in meant:
            for network, reason in _NETWORKS:
                if one in network:
                    return reason
        if self._public_only and not all(_is_public(one) for one in meant):
            return "a private address"
        return None


def _is_public(address: Address) -> bool:
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


def _meant(address: Address) -> Sequence[Address]:
    """Return the address and, of an IPv6 one that stands for an IPv4 one, that one too."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner = address.ipv4_mapped or address.sixtofour
    # Not ``::`` and ``::1``, which have a meaning of their own.
    if inner is None and (address in _NAT64 or address in _TRANSLATED or (address in _COMPATIBLE and int(address) > 1)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return (address,) if inner is None else (address, inner)
