"""Who counts as one client, and when one has had its share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.addresses import (
    REPORT_INTERVAL_S,
    REPORTED_MAX,
    Addresses,
    TurnedAway,
    address_group,
    share_of,
)

HERE = "192.0.2.7"
THERE = "192.0.2.8"


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        # What a dual-stack listener sees is the same client.
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("127.8.9.10", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("", None),
        ("unknown", None),
    ],
)
def test_one_client_is_an_ipv4_address_or_an_ipv6_subscriber(address: str, group: str | None) -> None:
    assert address_group(address) == group


@pytest.mark.parametrize(
    ("places", "share", "expected"),
    [(10_000, 512, 512), (384, 512, 192), (3, 512, 1), (1, 512, 1), (1, 0, 0), (10_000, 0, 0), (10, 5, 5)],
)
def test_share_is_at_most_half_of_the_places(places: int, share: int, expected: int) -> None:
    assert share_of(places, share) == expected


def test_beyond_its_share_an_address_is_turned_away_and_others_are_not() -> None:
    addresses = Addresses(2)
    assert [addresses.enter(HERE) for _ in range(3)] == [True, True, False]
    assert addresses.enter(THERE)
    addresses.leave(HERE)
    assert [addresses.enter(HERE) for _ in range(2)] == [True, False]


def test_share_of_zero_is_no_limit_and_keeps_nothing() -> None:
    addresses = Addresses(0)
    assert all(addresses.enter(HERE) for _ in range(1000))
    assert addresses.held(HERE) == 0
    addresses.leave(HERE)
    assert addresses.report(0.0) is None


def test_report_says_how_many_and_who_and_begins_anew() -> None:
    addresses = Addresses(1)
    for address, times in ((HERE, 2), (THERE, 4)):
        for _ in range(times):
            addresses.enter(address)
    assert addresses.report(100.0) == TurnedAway(4, (THERE, HERE))
    assert addresses.report(200.0) is None


def test_report_comes_at_once_and_then_once_an_interval() -> None:
    addresses = Addresses(1)
    addresses.enter(HERE)
    for _ in range(3):
        addresses.enter(HERE)
    assert addresses.report(0.0) == TurnedAway(3, (HERE,))
    addresses.enter(HERE)
    assert addresses.report(REPORT_INTERVAL_S - 1) is None
    assert addresses.report(REPORT_INTERVAL_S) == TurnedAway(1, (HERE,))


def test_flood_from_everywhere_names_few() -> None:
    addresses = Addresses(1)
    for _ in range(2):
        for number in range(REPORTED_MAX * 4):
            addresses.enter(f"192.0.2.{number}")
    report = addresses.report(0.0)
    assert report is not None
    assert report.connections == REPORTED_MAX * 4
    assert len(report.addresses) == REPORTED_MAX


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.sampled_from([HERE, THERE, "2001:db8::/64"]))))
def test_counts_agree_with_a_plain_list_and_empty_when_all_have_left(share: int, steps: list[tuple[bool, str]]) -> None:
    addresses = Addresses(share)
    inside: list[str] = []
    for comes, group in steps:
        if comes:
            let_in = addresses.enter(group)
            assert let_in is (inside.count(group) < share)
            inside += [group] * let_in
        elif group in inside:
            addresses.leave(group)
            inside.remove(group)
        assert addresses.held(group) == inside.count(group)
    for group in inside:
        addresses.leave(group)
    # As large as there are groups inside, and no larger.
    assert not addresses._held
