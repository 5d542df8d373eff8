"""Hostnames: what each form reads as, what is not ours, what is no host at all."""

from collections.abc import Callable

import pytest

from actors import (
    CustomDomainRequiredError,
    Domain,
    InvalidNameError,
    Port,
    PortToken,
    PublicAddress,
    SandboxId,
    built_in_hostname,
    first_label,
    preview_url,
)
from proxy.core.hostname import (
    BaseHost,
    BuiltInHost,
    Host,
    HostKind,
    Matcher,
    NotOurs,
    TokenHost,
    match_label,
    parse_host,
)
from proxy.errors import BadHostError

EXAMPLE = Domain("example.com")
DEEP = Domain("sub.deep.example.com")
LOCAL = Domain("localhost")
MATCHER = Matcher([EXAMPLE, DEEP, LOCAL])


def token_host(port: int, sandbox: str, token: str, domain: Domain = EXAMPLE) -> TokenHost:
    return TokenHost(SandboxId(sandbox), Port(port), PortToken(token), domain)


def built_in(sandbox: str, port: int, domain: Domain = EXAMPLE) -> BuiltInHost:
    return BuiltInHost(SandboxId(sandbox), Port(port), domain)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8080-sandbox-token12345678901.example.com", token_host(8080, "sandbox", "token12345678901")),
        ("8080-test-sandbox-token123.example.com", token_host(8080, "test-sandbox", "token123")),
        ("8080-sandbox-tok.localhost", token_host(8080, "sandbox", "tok", LOCAL)),
        (
            "8080-550e8400-e29b-41d4-a716-446655440000-my_tok_1.example.com",
            token_host(8080, "550e8400-e29b-41d4-a716-446655440000", "my_tok_1"),
        ),
        ("1024-a-b.example.com", token_host(1024, "a", "b")),
        # Which ports may be exposed is the actor's rule, not grammar: it refuses them with INVALID_TOKEN.
        ("80-a-b.example.com", token_host(80, "a", "b")),
        ("65535-a-b.example.com", token_host(65535, "a", "b")),
        ("8080-api-v2-tok.example.com", token_host(8080, "api-v2", "tok")),
        ("8080-a--b-tok.example.com", token_host(8080, "a--b", "tok")),
        ("8080-1-2.example.com", token_host(8080, "1", "2")),
        ("8080-a-_.example.com", token_host(8080, "a", "_")),
        ("8080-sb-1a2b3c4d-p80.example.com", token_host(8080, "sb-1a2b3c4d", "p80")),
        (f"65535-{'a' * 40}-{'b' * 16}.example.com", token_host(65535, "a" * 40, "b" * 16)),
        ("8080-a-b.sub.deep.example.com", token_host(8080, "a", "b", DEEP)),
    ],
)
def test_token_form_is_read(host: str, expected: TokenHost) -> None:
    assert MATCHER.match(host.encode()) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("sb-12ab34cd-p3000.example.com", built_in("sb-12ab34cd", 3000)),
        ("sb-12ab34cd-p65535.example.com", built_in("sb-12ab34cd", 65535)),
        ("sb-12ab34cd-p1.localhost", built_in("sb-12ab34cd", 1, LOCAL)),
        ("sb-a-p8-p80.example.com", built_in("sb-a-p8", 80)),
        ("sb--x-p80.example.com", built_in("sb--x", 80)),
        ("sb-p-p80.example.com", built_in("sb-p", 80)),
        (f"sb-{'a' * 37}-p65535.example.com", built_in("sb-" + "a" * 37, 65535)),
    ],
)
def test_built_in_form_is_read(host: str, expected: BuiltInHost) -> None:
    assert MATCHER.match(host.encode()) == expected


@pytest.mark.parametrize("suffix", ["", ".", ":8443", ".:8443", ":", ".:"])
@pytest.mark.parametrize("fold", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("8080-a-b.example.com", token_host(8080, "a", "b")),
        ("sb-12ab34cd-p3000.example.com", built_in("sb-12ab34cd", 3000)),
        ("example.com", BaseHost(EXAMPLE)),
        ("localhost", BaseHost(LOCAL)),
    ],
)
def test_case_one_trailing_dot_and_port_make_no_difference(
    host: str, expected: object, fold: Callable[[str], str], suffix: str
) -> None:
    assert MATCHER.match((fold(host) + suffix).encode()) == expected


@pytest.mark.parametrize(
    "host",
    [
        "invalid-pattern.example.com",
        "8080-sandbox.example.com",  # no token
        "8080-sandbox-tok",  # no domain
        "8080-b.example.com",
        "8080-.example.com",
        "8080-a-.example.com",
        "8080--b.example.com",
        "8080.example.com",
        "65536-a-b.example.com",
        "99999-a-b.example.com",
        "123456-a-b.example.com",
        "0-a-b.example.com",
        "08080-a-b.example.com",  # would be another name of 8080
        "8080a-a-b.example.com",
        "3e3-a-b.example.com",
        "0xbb8-a-b.example.com",
        "-8080-a-b.example.com",
        "8080-a-b-.example.com",
        "8080--a-b.example.com",  # ids neither begin nor end with a hyphen
        "8080-a--b.example.com",
        "8080-my_sandbox-tok.example.com",  # nor hold an underscore
        "8080-www-tok.example.com",  # nor are reserved words
        "8080-workers-tok.example.com",
        f"8080-{'a' * 41}-tok.example.com",
        "8080-a-bbbbbbbbbbbbbbbbb.example.com",  # 17 characters
        "sb-12ab34cd-p0.example.com",
        "sb-12ab34cd-p65536.example.com",
        "sb-12ab34cd-p080.example.com",
        "sb-12ab34cd-pabc.example.com",
        "sb-12ab34cd-p.example.com",
        "sb-12ab34cd.example.com",
        "sb-p80.example.com",
        "sb--p80.example.com",
        "-p80.example.com",
        "my-sandbox-p8080.example.com",
        "x.8080-a-b.example.com",
        "8080-a-b.other.example.com",
        "8080-a-b.example.com.evil.example",
        "8080-a-b.evilexample.com",
        "8080-a-bexample.com",
        "evilexample.com",
        "com",
        "attacker.example",
        "deep.example.com",
    ],
)
def test_other_names_are_not_ours(host: str) -> None:
    assert MATCHER.match(host.encode()) == NotOurs(Host(HostKind.NAME, host, None))


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b".",
        b":8080",
        b"example.com..",
        b".8080-a-b.example.com",
        b"8080-a-b..example.com",
        b"8080-a-b.example.com:0",
        b"8080-a-b.example.com:65536",
        b"8080-a-b.example.com:99999",
        b"8080-a-b.example.com:080",
        b"8080-a-b.example.com:+80",
        b"8080-a-b.example.com:80:80",
        b"8080-a-b.example.com:http",
        b"8080-a-b.example.com\n",
        b"8080-a-b.example.com:80\n",
        b"8080-a-tok\n.example.com",
        b" 8080-a-b.example.com",
        b"8080-a-b.example.com ",
        b"8080-a-b.example.com\tx",
        b"8080-a-b\0.example.com",
        b"8080-a-b.example.com,8080-c-d.example.com",
        b"8080-a-b.example.com;x",
        b"8080-a-b.example.com/x",
        b"8080-a-b.example.com#x",
        b"8080-a-b.example.com\\x",
        b"8080-a-b.example.com@8080-c-d.example.com",
        b"user:pw@8080-a-b.example.com",
        b"sb-12ab34cd-p+80.example.com",
        b"8080-..%2f..%2fetc.example.com",
        b"8080-a-tok%2Fx.example.com",
        "\uff18080-a-b.example.com".encode(),  # a full-width eight
        "\u0668080-a-b.example.com".encode(),  # an Arabic-Indic eight, which int() reads
        "8080-a-b\u3002example.com".encode(),  # an ideographic full stop
        "8080-\u212a-b.example.com".encode(),  # KELVIN SIGN, which str.lower() folds to k
        "8080-a-b.example.com".encode("utf-16"),
        b"8080-a-b.ex\xe4mple.com",
        b"a" * 64 + b".example.com",
        b"8080-" + b"a" * 200 + b".example.com",
        b"abcdefg." * 40 + b"example.com",
        b"[::1",
        b"[::1]x",
        b"[::1%25eth0]",
        b"[::1%eth0]",
        b"[v1.x]",
        b"[]",
        b"[127.0.0.1]",
        b"::1",
        b"127.1",
        b"127.0.0.1.1",
        b"127.0.0.01",
        b"0x7f.0.0.1",
        b"0x7f000001",
        b"2130706433",
        b"8080-a-b.example.0x",
    ],
)
def test_bytes_outside_a_hostname_are_refused(host: bytes) -> None:
    with pytest.raises(BadHostError) as caught:
        MATCHER.match(host)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"127.0.0.1", Host(HostKind.IPV4, "127.0.0.1", None)),
        (b"127.0.0.1:8787", Host(HostKind.IPV4, "127.0.0.1", 8787)),
        (b"127.0.0.1.", Host(HostKind.IPV4, "127.0.0.1", None)),
        (b"[::1]", Host(HostKind.IPV6, "::1", None)),
        (b"[0:0:0:0:0:0:0:1]:65535", Host(HostKind.IPV6, "::1", 65535)),
        (b"[2001:DB8::A]", Host(HostKind.IPV6, "2001:db8::a", None)),
        (b"LocalHost:1", Host(HostKind.NAME, "localhost", 1)),
        (b"a" * 63 + b".b", Host(HostKind.NAME, "a" * 63 + ".b", None)),
        (b"x_y.example", Host(HostKind.NAME, "x_y.example", None)),
    ],
)
def test_host_is_read_with_kind_and_port(value: bytes, expected: Host) -> None:
    assert parse_host(value) == expected
    assert Matcher([]).match(value) == NotOurs(expected)


def test_name_of_253_octets_is_read_and_one_more_is_refused() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert parse_host(longest.encode()).name == longest
    with pytest.raises(BadHostError):
        parse_host(longest.encode() + b"b")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"localhost", True), (b"127.0.0.1", True), (b"[::1]:80", True), (b"x.localhost", False), (b"a.b", False)],
)
def test_localhost_and_addresses_name_this_machine(value: bytes, expected: bool) -> None:
    assert parse_host(value).names_this_machine is expected


@pytest.mark.parametrize(
    ("one", "other", "scheme", "expected"),
    [
        (b"a.example", b"A.example.:80", "http", True),
        (b"a.example", b"a.example:443", "https", True),
        (b"a.example", b"a.example:443", "http", False),
        (b"a.example:1", b"a.example:2", "http", False),
        (b"a.example", b"b.example", "http", False),
    ],
)
def test_missing_port_agrees_with_the_default_one(one: bytes, other: bytes, scheme: str, expected: bool) -> None:
    assert parse_host(one).agrees_with(parse_host(other), scheme) is expected
    assert parse_host(other).agrees_with(parse_host(one), scheme) is expected


def test_authority_puts_an_ipv6_address_in_brackets() -> None:
    assert parse_host(b"[::1]:80").authority == "[::1]:80"
    assert parse_host(b"A.example.").authority == "a.example"


def test_domain_that_looks_like_a_preview_of_another_stays_a_base_domain() -> None:
    odd = Domain("8080-a-b.example.com")
    matcher = Matcher([EXAMPLE, odd])
    assert matcher.match(b"8080-a-b.example.com") == BaseHost(odd)
    assert matcher.match(b"8080-a-b.example.com:80") == BaseHost(odd)
    assert matcher.match(b"8080-a-b.8080-a-b.example.com") == token_host(8080, "a", "b", odd)
    assert matcher.match(b"8080-a-c.example.com") == token_host(8080, "a", "c")


def test_secrets_stay_out_of_every_repr() -> None:
    for host in (b"8080-a-k3v9x0q2m7t1z8aa.example.com", b"8080-a-k3v9x0q2m7t1z8aa.example.org"):
        assert "k3v9" not in repr(MATCHER.match(host))
        assert "k3v9" not in repr(parse_host(host))
    with pytest.raises(BadHostError) as caught:
        MATCHER.match(b"8080-a-k3v9x0q2m7t1z8aa.example.com/")
    assert "k3v9" not in repr(caught.value)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (b"8080-my-app-k3v9", token_host(8080, "my-app", "k3v9", LOCAL)),
        (b" 8080-MY-app-K3V9\t", token_host(8080, "my-app", "k3v9", LOCAL)),
        (b"sb-1a2b3c4d-p80", built_in("sb-1a2b3c4d", 80, LOCAL)),
        (b"8080-my-app-k3v9.localhost", None),
        (b"8080-my-app-k3v9.", None),
        (b"08080-my-app-k3v9", None),
        (b"8080-my-app-k3v9\n", None),
        (b"8080-my-app-k\xe4", None),
        (b"", None),
        (b"example", None),
    ],
)
def test_label_in_a_field_reads_like_a_first_label(label: bytes, expected: object) -> None:
    assert match_label(label, LOCAL) == expected


@pytest.mark.parametrize(
    ("address", "sandbox", "token", "expected"),
    [
        (PublicAddress(EXAMPLE), "my-project", "tok8080", "https://8080-my-project-tok8080.example.com/"),
        (PublicAddress(EXAMPLE), "MyProject-ABC", "tok", "https://8080-myproject-abc-tok.example.com/"),
        (PublicAddress(EXAMPLE), "my-sb", "a_b", "https://8080-my-sb-a_b.example.com/"),
        (PublicAddress(EXAMPLE, listener_port=8787), "sb", "tok", "https://8080-sb-tok.example.com/"),
        (PublicAddress(EXAMPLE, 8443, "https"), "sb", "tok", "https://8080-sb-tok.example.com:8443/"),
        (PublicAddress(LOCAL), "test-sandbox", "tok", "http://8080-test-sandbox-tok.localhost/"),
        (PublicAddress(LOCAL, 8787), "sb", "tok", "http://8080-sb-tok.localhost:8787/"),
        (PublicAddress(LOCAL, 80), "sb", "tok", "http://8080-sb-tok.localhost/"),
        (PublicAddress(LOCAL, 443, "https"), "sb", "tok", "https://8080-sb-tok.localhost/"),
        (PublicAddress(Domain("dev.localhost"), 8787), "sb", "tok", "http://8080-sb-tok.dev.localhost:8787/"),
    ],
)
def test_url_that_owners_are_given_leads_back_to_the_port(
    address: PublicAddress, sandbox: str, token: str, expected: str
) -> None:
    url = preview_url(address, SandboxId(sandbox), Port(8080), PortToken(token))
    assert url == expected
    host = url.removesuffix("/").partition("://")[2]
    assert Matcher([address.domain]).match(host.encode()) == token_host(8080, sandbox, token, address.domain)


def test_longest_first_label_fits_one_dns_label() -> None:
    assert len(first_label(SandboxId("a" * 40), Port(65535), PortToken("b" * 16))) == 63


def test_built_in_hostname_wants_an_id_of_that_form() -> None:
    domain = Domain("workers.opencomputer.dev")
    assert built_in_hostname(SandboxId("sb-abc123"), Port(3000), domain) == "sb-abc123-p3000.workers.opencomputer.dev"
    with pytest.raises(InvalidNameError, match="sb-"):
        built_in_hostname(SandboxId("my-app"), Port(3000), domain)


@pytest.mark.parametrize("text", ["Example.COM", "example.com."])
def test_domain_is_folded(text: str) -> None:
    assert Domain(text) == "example.com"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not empty"),
        (".", "not empty"),
        ("example.com:8443", "without a port"),
        ("127.0.0.1:8787", "without a port"),
        ("127.0.0.1", "IP address"),
        ("0x7f.1", "IP address"),
        ("::1", "IP address"),
        ("[::1]", "IP address"),
        ("https://example.com", "without a scheme"),
        ("example.com/x", "without a path"),
        ("exa mple.com", "no spaces"),
        ("example.com\n", "no spaces"),
        ("example..com", "each part"),
        ("*.example.com", "each part"),
        ("-a.example.com", "each part"),
        ("a_b.example.com", "each part"),
        ("a@b.example.com", "each part"),
        ("a" * 64 + ".com", "each part"),
        ("b\u00fccher.example", "xn--"),
        (".".join(["a" * 62] * 3) + ".b", "189"),
    ],
)
def test_unusable_domain_is_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=rule):
        Domain(text)


@pytest.mark.parametrize("text", ["workers.dev", "my-app.WORKERS.dev", "a.b.workers.dev."])
def test_workers_dev_wants_a_custom_domain(text: str) -> None:
    with pytest.raises(CustomDomainRequiredError) as caught:
        Domain(text)
    assert caught.value.code == "CUSTOM_DOMAIN_REQUIRED"


def test_longest_domain_leaves_room_for_the_longest_label() -> None:
    domain = Domain(".".join(["a" * 62] * 3))
    host = f"{first_label(SandboxId('a' * 40), Port(65535), PortToken('b' * 16))}.{domain}"
    assert len(host) == 252
    assert isinstance(Matcher([domain]).match(host.encode()), TokenHost)
