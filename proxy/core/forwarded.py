"""Who asked, as the proxies before us tell it: ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239), made to agree.

A service finds the client by reading one of the two from the right, past every proxy that it trusts. But most proxies
write only one of them, and pass the other on as their client sent it: nginx and HAProxy append to ``X-Forwarded-For``,
and a client's own ``Forwarded: for=…`` would come out of a trusted proxy looking like its word. So where both came and
disagree, ``X-Forwarded-For`` counts, which nearly every proxy writes, and the other is written anew from it; and of a
``Forwarded`` that breaks its grammar nothing is kept, as an open quotation mark in it would swallow what we append.

What a client wrote to the left of its own address in the field that does count stays: whoever reads from the right
never gets there.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"

# One `name=value` and what ends it, or an end with nothing before it (RFC 7239 section 4, and the empty members that
# RFC 9110 section 5.6.1 has readers accept).
_PAIR: Final = re.compile(
    rb'[ \t]*(?:(?P<name>%b)=(?:(?P<token>%b)|"(?P<quoted>(?:[^"\\]|\\.)*)")[ \t]*)?(?P<end>;|,|\Z)' % (_TOKEN, _TOKEN),
    re.DOTALL,
)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)

# RFC 7239 section 6: a port, or a name for one, after IPv4 and after brackets; and a name for the node itself.
_NODE: Final = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+))(?::(?P<port>[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
)
_NAMED: Final = re.compile(r"_[A-Za-z0-9._-]+")

UNKNOWN: Final = "unknown"


class Node(NamedTuple):
    """One link of the chain, the client or a proxy."""

    address: str
    """In its canonical form; or `UNKNOWN`, or a name that begins with ``_``."""
    port: str

    @property
    def forwarded(self) -> str:
        """As the value of ``for=``."""
        name = f"[{self.address}]" if ":" in self.address else self.address
        text = f"{name}:{self.port}" if self.port else name
        return f'"{text}"' if ":" in text else text

    @property
    def plain(self) -> str:
        """As a member of ``X-Forwarded-For``, where everybody understands bare addresses, and few anything else."""
        return self.address


def read_node(text: str) -> Node:
    """Read a member of ``X-Forwarded-For`` or the value of ``for=``: an address, with or without brackets and port.

    Anything that is none is `UNKNOWN`.
    """
    text = text.strip(" \t")
    if _NAMED.fullmatch(text) is not None:
        return Node(text, "")
    match = _NODE.fullmatch(text)
    host, port = text, ""
    if match is not None:
        host, port = match["ipv6"] or match["ipv4"], match["port"] or ""
    try:
        address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    except ValueError:
        # Expected: "unknown", or whatever a client makes up.
        return Node(UNKNOWN, "")
    return Node(str(address), port)


def read_forwarded(value: bytes) -> list[Node] | None:
    """Return the nodes that a ``Forwarded`` value names, `UNKNOWN` where an element names none.

    None if it is malformed.
    """
    nodes: list[Node] = []
    node: Node | None = None
    empty = True
    position = 0
    while True:
        match = _PAIR.match(value, position)
        if match is None:
            return None
        if match["name"] is not None:
            empty = False
            if match["name"].lower() == b"for":
                if node is not None:
                    return None
                said = match["token"] if match["token"] is not None else _ESCAPED.sub(rb"\1", match["quoted"])
                node = read_node(said.decode("latin-1"))
        if match["end"] != b";":
            if not empty:
                nodes.append(node or Node(UNKNOWN, ""))
            node, empty = None, True
        position = match.end()
        if not match["end"]:
            return nodes


def agreeing_trails(addresses: Sequence[bytes], forwarded: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return both trails so that they name the same nodes, each to be appended to.

    Args:
        addresses: Values of ``X-Forwarded-For``, as a trusted proxy sent them.
        forwarded: Values of ``Forwarded``, likewise.
    """
    members = [member for value in addresses for member in value.split(b",") if member.strip(b" \t")]
    said = read_forwarded(b", ".join(forwarded)) if forwarded else []
    if not members:
        if not said:
            return [], []
        return [_plain(said)], list(forwarded)
    nodes = [read_node(member.decode("latin-1")) for member in members]
    if said is not None and [node.address for node in said] == [node.address for node in nodes]:
        return list(addresses), list(forwarded)
    return list(addresses), [", ".join(f"for={node.forwarded}" for node in nodes).encode("ascii")]


def _plain(nodes: Iterable[Node]) -> bytes:
    return ", ".join(node.plain for node in nodes).encode("ascii")
