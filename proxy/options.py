"""How the proxy behaves towards clients and services: times, sizes, whom it believes."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from proxy.core.http1 import Limits

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Options:
    """Defaults that hold on the open internet. Times are in seconds."""

    http: Limits = field(default_factory=Limits)
    head_timeout_s: float = 30.0
    """For a whole request head, from its first byte: what a client that trickles bytes can hold on to. The first one
    is also to begin within this time."""
    keep_alive_timeout_s: float = 75.0
    """How long a client's idle connection stays open."""
    upstream_idle_timeout_s: float = 4.0
    """How long an idle connection to a service is kept; less than the 5 s after which Node.js closes its own."""
    connect_timeout_s: float = 5.0
    response_timeout_s: float = 120.0
    """From the end of a request to the head of its response. A flowing body has no limit."""
    stalled_timeout_s: float = 300.0
    """How long nothing may move on a stream although there is something to hand over: a client that takes nothing of
    its answer, or owes content and sends none, and either side of an upgraded connection. A reader may pause, but not
    for ever: its visit counts, and the kernel keeps megabytes for it. Infinite: no limit."""
    wake_timeout_s: float = 90.0
    """How long a request waits for its sandbox to come up."""
    connections_max: int = 10_000
    """Client connections at once; further ones wait in the kernel's queue."""
    connections_per_address_max: int = 512
    """Of these, for one client address (of IPv6: its /64); further ones are closed at once. 0: no limit. Trusted
    proxies and loopback are not counted. 512 is all that one Chromium ever opens (256 for pages and 256 WebSockets:
    ``g_max_sockets_per_pool`` in its client_socket_pool_manager.cc), or eighty people behind one NAT with the six
    that a browser opens to a host; and it takes twenty addresses to fill the house."""
    drain_timeout_s: float = 30.0
    """What requests under way are given when the server closes; 0 cuts them at once."""
    trusted_proxies: tuple[IPNetwork, ...] = ()
    """Networks whose X-Forwarded-* fields are believed."""

    def trusts(self, address: str) -> bool:
        """Say whether the peer at that address is a proxy whose word about the client counts."""
        if not self.trusted_proxies:
            return False
        try:
            peer = ip_address(address.partition("%")[0])
        except ValueError:
            # Expected: the peer of a Unix socket or a memory stream has no address.
            return False
        return any(peer in network for network in self.trusted_proxies)


DEFAULT_OPTIONS = Options()
