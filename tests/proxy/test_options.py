"""Whom the proxy believes, and that its defaults hold on the open internet."""

from ipaddress import ip_network

import pytest

from proxy.options import DEFAULT_OPTIONS, Options


def test_nobody_is_trusted_by_default() -> None:
    assert not any(DEFAULT_OPTIONS.trusts(peer) for peer in ("127.0.0.1", "10.0.0.1", "::1", ""))


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("fe00::1", False),
        # The peers of Unix sockets and of streams in memory.
        ("", False),
        ("unknown", False),
    ],
)
def test_peers_within_a_trusted_network_are_believed(peer: str, trusted: bool) -> None:
    options = Options(trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))

    assert options.trusts(peer) is trusted


def test_defaults_are_those_that_are_promised() -> None:
    options = DEFAULT_OPTIONS

    assert (options.http.head_bytes_max, options.http.fields_max) == (64 * 1024, 100)
    assert (options.head_timeout_s, options.keep_alive_timeout_s, options.connect_timeout_s) == (30, 75, 5)
    assert options.wake_timeout_s == 90
    # Twenty addresses fill the house, not one; and all that one Chromium ever opens is let in.
    assert options.connections_max // options.connections_per_address_max >= 19
    assert options.connections_per_address_max >= 256 + 256


def test_services_are_left_before_they_leave_us() -> None:
    # Node.js closes an idle connection after 5 s; ours must be gone by then.
    assert DEFAULT_OPTIONS.upstream_idle_timeout_s < 5 < DEFAULT_OPTIONS.keep_alive_timeout_s
