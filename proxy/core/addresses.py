"""How many connections each client address holds, and which one has had its share.

Without a share for each, one client could take every place that the server has, and everybody else would wait outside.
What counts as one client: an IPv4 address; of IPv6 the /64, which is the least that a subscriber is given (RFC 6177),
so that one machine has 2**64 addresses to come from. Behind one address there may be an office full of people, so a
share is for browsers by the dozen, not for one.

Not counted: peers on this machine, and peers without an address. On loopback there is nearly always a proxy or a load
generator that speaks for many, and a program here could harm the server in simpler ways. Whom else to spare, such as
trusted proxies, is for the caller to say.

Who is beyond the share is turned away without an answer, as HAProxy's ``tcp-request connection reject`` does: nothing
has been asked yet, and a client must not take for an answer what came before its question (RFC 9112 section 9.2).
nginx's ``limit_conn`` does answer, 503, but has read a whole request head by then, which is what a flood is after.
"""

from collections import Counter
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

SUBSCRIBER_BITS: Final = 64
"""Of an IPv6 address: what is one subscriber's."""

REPORT_INTERVAL_S: Final = 60.0
"""One line of log a minute says as much as a flood of them."""

REPORTED_MAX: Final = 5
"""Addresses named in one report; it bounds what a flood from everywhere can make us remember."""


class TurnedAway(NamedTuple):
    """What has happened since the report before."""

    connections: int
    addresses: tuple[str, ...]
    """Whose, at most `REPORTED_MAX`, those of the most connections first."""


# Parsing an address takes some microseconds, and clients come again.
@lru_cache(maxsize=1024)
def address_group(address: str) -> str | None:
    """Return what stands for all connections of one client: ``192.0.2.7``, or ``2001:db8:1:2::/64``.

    None if they are not counted: a loopback address, or no address at all.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        # Expected: the peer of a Unix socket or of a stream in memory.
        return None
    if isinstance(parsed, IPv6Address):
        # A dual-stack listener sees IPv4 peers as ::ffff:192.0.2.1.
        parsed = parsed.ipv4_mapped or parsed
    if parsed.is_loopback:
        return None
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    host_bits = 128 - SUBSCRIBER_BITS
    return f"{IPv6Address(int(parsed) >> host_bits << host_bits)}/{SUBSCRIBER_BITS}"


def share_of(places: int, share: int) -> int:
    """Return how many of `places` one address may have: `share`, but never more than half, nor fewer than one.

    A limit on open files can make the places far fewer than were configured. 0, no limit, stays 0.
    """
    return 0 if share == 0 else min(share, max(places // 2, 1))


class Addresses:
    """Counts connections by group; as large as there are groups with a connection, and no larger."""

    __slots__ = ("_held", "_reported_at", "_share", "_turned_away", "_turned_away_count")

    def __init__(self, share: int) -> None:
        """Allow each group so many connections at once; 0 is no limit, and then nothing is counted."""
        self._share = share
        # {group: connections}; none with 0.
        self._held: dict[str, int] = {}
        self._turned_away: Counter[str] = Counter()
        self._turned_away_count = 0
        self._reported_at = float("-inf")

    def enter(self, group: str) -> bool:
        """Count a connection in, and `leave` must be called once for it; False if its group has its share."""
        if self._share == 0:
            return True
        held = self._held.get(group, 0)
        if held >= self._share:
            self._turned_away_count += 1
            if group in self._turned_away or len(self._turned_away) < REPORTED_MAX:
                self._turned_away[group] += 1
            return False
        self._held[group] = held + 1
        return True

    def leave(self, group: str) -> None:
        """Count a connection out that `enter` let in."""
        if self._share == 0:
            return
        held = self._held[group] - 1
        if held:
            self._held[group] = held
        else:
            del self._held[group]

    def held(self, group: str) -> int:
        """Return how many connections are counted for a group."""
        return self._held.get(group, 0)

    def report(self, now: float) -> TurnedAway | None:
        """Return who was turned away, if anyone was and the report before is `REPORT_INTERVAL_S` old.

        Args:
            now: In seconds, on any clock that does not jump.
        """
        if not self._turned_away_count or now - self._reported_at < REPORT_INTERVAL_S:
            return None
        named = tuple(group for group, _ in self._turned_away.most_common())
        report = TurnedAway(self._turned_away_count, named)
        self._turned_away.clear()
        self._turned_away_count = 0
        self._reported_at = now
        return report
