"""Where no sandbox can be, in every spelling, and what is let through."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.containers.places import METADATA, Places

REFUSED = [
    ("169.254.169.254", METADATA),
    ("fd00:ec2::254", METADATA),
    ("100.100.100.200", METADATA),
    ("168.63.129.16", METADATA),
    ("169.254.0.1", "a link-local address"),
    ("fe80::1", "a link-local address"),
    ("fe80::1%eth0", "a link-local address"),
    ("febf::1", "a link-local address"),
    ("0.0.0.0", "the unspecified address"),
    ("0.1.2.3", "the unspecified address"),
    ("::", "the unspecified address"),
    ("224.0.0.1", "a multicast address"),
    ("ff02::1", "a multicast address"),
    ("255.255.255.255", "a broadcast or reserved address"),
    ("64:ff9b:1::a9fe:a9fe", "an address that a network translates"),
]
ALLOWED = ["127.0.0.1", "::1", "fec0::1", "10.0.0.5", "192.168.1.1", "100.64.0.1", "192.0.2.1", "fd00::5"]


@pytest.mark.parametrize(("address", "reason"), REFUSED)
def test_refused_address_is_told_why(address: str, reason: str) -> None:
    assert Places().refusal(address) == reason


@pytest.mark.parametrize("address", ALLOWED)
def test_services_of_ones_own_are_let_through(address: str) -> None:
    assert Places().refusal(address) is None


def in_ipv6(address: ipaddress.IPv4Address) -> list[str]:
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    compatible = [f"::{address}"] if number > 1 else []
    return [f"::ffff:{address}", f"64:ff9b::{address}", f"::ffff:0:{address}", f"2002:{high:x}:{low:x}::1", *compatible]


@given(st.ip_addresses(v=4))
def test_ipv4_address_in_an_ipv6_one_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    places = Places()
    expected = places.refusal(str(address))
    for spelling in in_ipv6(address):
        if places.refusal(spelling) != expected:
            # A reason is the more for one; none must be lost.
            assert expected is None


@given(st.sampled_from([address for address, _ in REFUSED]), st.integers(0, 128))
def test_network_that_is_allowed_holds_for_its_addresses_only(address: str, bits: int) -> None:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    network = ipaddress.ip_network(f"{parsed}/{min(bits, parsed.max_prefixlen)}", strict=False)
    places = Places([network])
    assert places.refusal(address) is None
    for other, reason in REFUSED:
        if ipaddress.ip_address(other.partition("%")[0]) not in network:
            assert places.refusal(other) == reason


def test_ipv4_network_that_is_allowed_holds_for_its_ipv6_spellings() -> None:
    places = Places(["169.254.10.0/24"])
    assert all(places.refusal(one) is None for one in in_ipv6(ipaddress.IPv4Address("169.254.10.9")))
    assert all(places.refusal(one) for one in in_ipv6(ipaddress.IPv4Address("169.254.11.9")))


PRIVATE = "127.0.0.1 ::1 10.0.0.5 192.168.1.1 172.16.0.1 100.64.0.1 fd00::5 ::ffff:10.0.0.5 64:ff9b::10.0.0.5"
PRIVATE += " fec0::1 3fff::1 5f00::1 ::ffff:0:127.0.0.1"


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_address_is_refused_where_only_public_ones_will_do(address: str) -> None:
    assert Places(public_only=True).refusal(address) == "a private address"
    assert Places(["::/0", "0.0.0.0/0"], public_only=True).refusal(address) is None


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_address_is_let_through(address: str) -> None:
    assert Places(public_only=True).refusal(address) is None


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "1.2.3.4/8"])
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear"):
        Places().refusal(text)
