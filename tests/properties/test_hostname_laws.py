"""Laws of hostnames: written and read again they are the same, and no two mean the same thing."""

import string

from hypothesis import example, given
from hypothesis import strategies as st

from actors import Domain, Port, PortToken, SandboxId, built_in_hostname, first_label
from actors.sandbox.ids import RESERVED_SANDBOX_IDS
from proxy.core.hostname import (
    BuiltInHost,
    Matcher,
    NotOurs,
    TokenHost,
    match_label,
    parse_host,
)
from proxy.errors import BadHostError

DOMAINS = (Domain("example.com"), Domain("a.example.com"), Domain("localhost"))
MATCHER = Matcher(DOMAINS)

domains = st.sampled_from(DOMAINS)
ports = st.integers(1, 65535).map(Port)
tokens = st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=16).map(PortToken)
ids = (
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)
    .filter(lambda text: text not in RESERVED_SANDBOX_IDS)
    .map(SandboxId)
)
built_in_ids = st.from_regex(r"sb-[a-z0-9-]{0,36}[a-z0-9]", fullmatch=True).map(SandboxId)
token_hosts = st.builds(TokenHost, ids, ports, tokens, domains)
built_in_hosts = st.builds(BuiltInHost, built_in_ids, ports, domains)


def written(host: TokenHost | BuiltInHost) -> str:
    if isinstance(host, TokenHost):
        return f"{first_label(host.sandbox, host.port, host.token)}.{host.domain}"
    return built_in_hostname(host.sandbox, host.port, host.domain)


@given(token_hosts | built_in_hosts, st.sampled_from(["", ".", ":8787", ".:1", ":"]), st.integers(min_value=0))
@example(BuiltInHost(SandboxId("sb-p1-p2"), Port(3), DOMAINS[0]), "", 0)
@example(TokenHost(SandboxId("sb-a-p80"), Port(80), PortToken("p80"), DOMAINS[0]), "", 0)
def test_what_is_written_is_read_back_whatever_its_case(
    host: TokenHost | BuiltInHost, suffix: str, capitals: int
) -> None:
    text = "".join(
        character.upper() if capitals >> index & 1 else character for index, character in enumerate(written(host))
    )
    assert MATCHER.match((text + suffix).encode()) == host
    assert match_label(text.partition(".")[0].encode(), host.domain) == host


@given(token_hosts | built_in_hosts, token_hosts | built_in_hosts)
def test_different_ports_have_different_hostnames(one: TokenHost | BuiltInHost, other: TokenHost | BuiltInHost) -> None:
    assert (one == other) == (written(one) == written(other))


@given(token_hosts | built_in_hosts)
def test_hostname_stays_within_dns_limits(host: TokenHost | BuiltInHost) -> None:
    label, _, _ = written(host).partition(".")
    assert len(label) <= 63
    assert not label.startswith("-")
    assert not label.endswith("-")


near_misses = st.text(string.ascii_lowercase + string.digits + "-_.:pAsb8", max_size=40)


@given(near_misses, domains)
@example("8080-a-b", DOMAINS[0])
@example("sb-a-p80", DOMAINS[0])
def test_whatever_is_read_is_written_the_same_way(label: str, domain: Domain) -> None:
    """There is one spelling up to case: reading is the inverse of writing, not a superset of it."""
    text = f"{label}.{domain}"
    try:
        found = MATCHER.match(text.encode())
    except BadHostError:
        return
    if isinstance(found, TokenHost | BuiltInHost):
        assert written(found) == text.lower()


@given(st.binary(max_size=60))
@example(b"8080-a-b.localhost\xff")
def test_any_bytes_are_a_host_or_refused(value: bytes) -> None:
    try:
        host = parse_host(value)
    except BadHostError:
        return
    # What was accepted is canonical: written out it is accepted again, and means the same.
    assert parse_host(host.authority.encode()) == host


@given(st.binary(max_size=60) | near_misses.map(str.encode))
def test_both_ways_of_matching_agree(value: bytes) -> None:
    """`match` takes a short cut past `parse_host`; it must not lead anywhere else."""
    for host in (value, value + b".localhost", value + b".example.com"):
        try:
            expected = MATCHER.match_host(parse_host(host))
        except BadHostError:
            expected = None
        try:
            found = MATCHER.match(host)
        except BadHostError:
            found = None
        assert found == expected
        assert not isinstance(found, NotOurs) or found.host == parse_host(host)
