"""The two fields that name the client: read alike, kept in agreement, and not to be spoofed past a trusted proxy."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.forwarded import UNKNOWN, Node, agreeing_trails, read_forwarded, read_node

TRUSTED = ip_network("10.0.0.0/8")


def client_of(nodes: list[Node]) -> str:
    """Read as services do: from the right, past the trusted proxies."""
    for node in reversed(nodes):
        if node.address == UNKNOWN or ip_address(node.address) not in TRUSTED:
            return node.address
    return UNKNOWN


def read_both(addresses: list[bytes], forwarded: list[bytes], peer: str) -> tuple[list[Node], list[Node]]:
    """Return what a service reads in each field, once the peer has been appended to them."""
    addresses, forwarded = agreeing_trails(addresses, forwarded)
    by_address = [read_node(member) for member in b",".join([*addresses, peer.encode()]).decode("latin-1").split(",")]
    by_forwarded = read_forwarded(b", ".join([*forwarded, f"for={read_node(peer).forwarded}".encode()]))
    assert by_forwarded is not None
    return by_address, by_forwarded


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.7", "192.0.2.7", ""),
        (" 192.0.2.7:4711\t", "192.0.2.7", "4711"),
        ("2001:DB8::1", "2001:db8::1", ""),
        ("[2001:db8::1]", "2001:db8::1", ""),
        ("[2001:db8::1]:4711", "2001:db8::1", "4711"),
        ("fe80::1%eth0", "fe80::1", ""),
        ("192.0.2.7:_http", "192.0.2.7", "_http"),
        ("_gazonk", "_gazonk", ""),
        ("unknown", UNKNOWN, ""),
        ("", UNKNOWN, ""),
        ("192.0.2.7:port", UNKNOWN, ""),
        ("192.0.2.300", UNKNOWN, ""),
        ("evil.example", UNKNOWN, ""),
        ('"', UNKNOWN, ""),
    ],
)
def test_node_is_an_address_in_any_spelling_or_unknown(text: str, address: str, port: str) -> None:
    """RFC 7239 section 6."""
    assert read_node(text) == Node(address, port)


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b"for=192.0.2.43, for=198.51.100.17", ["192.0.2.43", "198.51.100.17"]),
        (b'For="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17"]),
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
        (b'proto=http;host="a,b;c";FOR="192.0.2.1"', ["192.0.2.1"]),
        (b'for="192.0.2\\.1"', ["192.0.2.1"]),
        (b"for=unknown, proto=http, ,;,", [UNKNOWN, UNKNOWN]),
        (b"", []),
        # No grammar that we would append to.
        (b'for="192.0.2.1', None),
        (b"for=192.0.2.1, for=[2001:db8::1]", None),
        (b"for=192.0.2.1;for=192.0.2.2", None),
        (b"for = 192.0.2.1", None),
        (b"192.0.2.1", None),
        (b"for=", None),
    ],
)
def test_forwarded_is_read_by_its_grammar_or_not_at_all(value: bytes, addresses: list[str] | None) -> None:
    """RFC 7239 section 4, its examples first."""
    nodes = read_forwarded(value)
    assert (None if nodes is None else [node.address for node in nodes]) == addresses


@pytest.mark.parametrize(
    ("addresses", "forwarded"),
    [
        # A proxy that writes one of the two, and passes the other on as its client sent it.
        ([b"192.0.2.7"], [b"for=1.2.3.4"]),
        ([b"192.0.2.7"], [b'for="1.2.3.4']),
        ([b"192.0.2.7"], [b"for=192.0.2.7, for=1.2.3.4"]),
        ([], [b"for=192.0.2.7"]),
        ([], [b'for="192.0.2.7:4711";proto=https']),
        # Spoofed on the left: whoever reads from the right never gets there.
        ([b"1.2.3.4, 192.0.2.7"], []),
        ([b"1.2.3.4", b"192.0.2.7:4711"], [b"for=10.0.0.1"]),
        ([b"10.0.0.1, 192.0.2.7, 10.0.0.2"], [b"for=10.0.0.1, for=192.0.2.7, for=10.0.0.2"]),
        ([b'", 192.0.2.7'], []),
        ([b"[2001:db8::1]:1, unknown, 192.0.2.7"], []),
        ([b", ,192.0.2.7,"], []),
    ],
)
def test_client_is_the_rightmost_untrusted_address_in_both_fields(
    addresses: list[bytes], forwarded: list[bytes]
) -> None:
    by_address, by_forwarded = read_both(addresses, forwarded, "10.0.0.9")
    assert client_of([node for node in by_address if node.address != UNKNOWN]) == "192.0.2.7"
    assert client_of(by_forwarded) == "192.0.2.7"


def test_client_that_is_unknown_is_not_replaced_by_a_spoofed_one() -> None:
    _, by_forwarded = read_both([b"1.2.3.4, unknown"], [], "10.0.0.9")
    assert client_of(by_forwarded) == UNKNOWN


def test_word_of_the_proxy_that_agrees_is_kept_to_the_byte() -> None:
    addresses, forwarded = (
        [b"192.0.2.7:4711,2001:DB8::1"],
        [b'for=192.0.2.7;proto=https;by=_edge, for="[2001:db8::1]:9"'],
    )
    assert agreeing_trails(addresses, forwarded) == (addresses, forwarded)


def test_nothing_to_keep_is_nothing() -> None:
    assert agreeing_trails([], []) == ([], [])
    assert agreeing_trails([b" , "], [b'for="']) == ([], [])
    assert agreeing_trails([], [b'for="x, for=1.2.3.4']) == ([], [])


def test_what_is_written_anew_is_quoted_as_it_must_be() -> None:
    _, (forwarded,) = agreeing_trails([b"192.0.2.7, 192.0.2.7:1, [2001:db8::1]:2, ::1, _x, evil"], [])
    assert forwarded == b'for=192.0.2.7, for="192.0.2.7:1", for="[2001:db8::1]:2", for="[::1]", for=_x, for=unknown'


@given(st.lists(st.binary(max_size=30), max_size=3), st.lists(st.binary(max_size=30), max_size=3))
def test_whatever_came_both_fields_name_the_peer_last_and_agree(addresses: list[bytes], forwarded: list[bytes]) -> None:
    left, right = agreeing_trails(addresses, forwarded)
    nodes = read_forwarded(b", ".join([*right, b"for=10.0.0.9"]))
    assert nodes is not None
    assert nodes[-1].address == "10.0.0.9"
    members = [member for value in left for member in value.split(b",") if member.strip(b" \t")]
    assert [read_node(member.decode("latin-1")).address for member in members] == [node.address for node in nodes[:-1]]
