"""Names in public: what a base domain may be, and the URLs below it."""

import pytest
from hypothesis import given

from actors.errors import CustomDomainRequiredError, InvalidNameError
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.urls import (
    DOMAIN_LENGTH_MAX,
    LABEL_LENGTH_MAX,
    Domain,
    PublicAddress,
    built_in_hostname,
    first_label,
    preview_url,
)
from actors.testing.strategies import port_tokens, ports, sandbox_ids

APP, WEB, TOKEN = SandboxId("my-app"), Port(8080), PortToken("k3v9x0q2m7t1z8aa")

# Domains.


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("example.com", "example.com"),
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("dev.localhost", "dev.localhost"),
        ("a", "a"),
        ("1.example", "1.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("4chan.org", "4chan.org"),
        ("0xabc.example", "0xabc.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
        ("workers.dev.example.com", "workers.dev.example.com"),
        ("myworkers.dev", "myworkers.dev"),
    ],
)
def test_domain_is_taken_and_folded(text: str, canonical: str) -> None:
    assert Domain(text) == canonical
    assert Domain(Domain(text)) == canonical


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not empty"),
        (".", "not empty"),
        ("https://example.com", "without a scheme"),
        ("example.com/", "without a path"),
        ("example.com/path", "without a path"),
        ("example.com?q", "without a path"),
        ("example.com#f", "without a path"),
        ("example.com:8080", "without a port"),
        ("example.com:", "without a port"),
        ("exam ple.com", "no spaces"),
        ("example.com\n", "no spaces"),
        ("\texample.com", "no spaces"),
        ("127.0.0.1", "IP address"),
        ("[::1]", "IP address"),
        ("::1", "IP address"),
        ("[::1]:80", "IP address"),
        ("2130706433", "IP address"),
        ("0x7f000001", "IP address"),
        ("example.0x1", "IP address"),
        ("1.2.3.4.", "IP address"),
        ("example..com", "each part"),
        (".example.com", "each part"),
        ("example.com..", "each part"),
        ("-a.example", "each part"),
        ("a-.example", "each part"),
        ("under_score.example", "each part"),
        ("user@example.com", "each part"),
        ("*.example.com", "each part"),
        ("a\0.example", "each part"),
        (f"{'a' * 64}.example", "each part"),
        ("bücher.example", "ASCII form"),
        ("\u212a.example", "ASCII form"),
        (".".join(["a" * 47] * 4), "at most 189"),
    ],
)
def test_domain_is_refused_with_its_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=rule):
        Domain(text)


def test_domain_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="a domain is text"):
        Domain(b"example.com")  # type: ignore[arg-type] # the point of the test


@pytest.mark.parametrize("text", ["workers.dev", "my.workers.dev", "MY.Workers.Dev", "a.b.workers.dev."])
def test_workers_dev_needs_a_custom_domain(text: str) -> None:
    with pytest.raises(CustomDomainRequiredError) as refused:
        Domain(text)
    assert (refused.value.code, refused.value.status_code) == ("CUSTOM_DOMAIN_REQUIRED", 400)


@pytest.mark.parametrize(
    ("text", "local"),
    [("localhost", True), ("dev.localhost", True), ("notlocalhost", False), ("localhost.example.com", False)],
)
def test_local_domains_are_localhost_and_what_is_below(text: str, local: bool) -> None:
    assert Domain(text).is_local is local


def test_longest_preview_name_stays_within_dns_limits() -> None:
    longest = ".".join(["a" * 62, "a" * 63, "a" * 62])
    assert len(longest) == DOMAIN_LENGTH_MAX
    label = first_label(SandboxId("x" * 40), 65535, PortToken("z" * 16))
    assert len(label) == LABEL_LENGTH_MAX
    assert len(f"{label}.{Domain(longest)}") == 253


# URLs.


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        (PublicAddress(Domain("example.com")), "https://app.example.com"),
        # Clients reach us through whatever ends their TLS, not at our listener.
        (PublicAddress(Domain("example.com"), 8787), "https://app.example.com"),
        (PublicAddress(Domain("example.com"), 443, "https"), "https://app.example.com"),
        (PublicAddress(Domain("example.com"), 8443, "https"), "https://app.example.com:8443"),
        (PublicAddress(Domain("example.com"), 80, "http"), "http://app.example.com"),
        (PublicAddress(Domain("example.com"), 443, "http"), "http://app.example.com:443"),
        (PublicAddress(Domain("example.com"), None, "http"), "http://app.example.com"),
        (PublicAddress(Domain("localhost")), "http://app.localhost"),
        (PublicAddress(Domain("localhost"), 8787), "http://app.localhost:8787"),
        (PublicAddress(Domain("localhost"), 80), "http://app.localhost"),
        (PublicAddress(Domain("dev.localhost"), 8443, "https"), "https://app.dev.localhost:8443"),
    ],
)
def test_origin_is_where_clients_dial(address: PublicAddress, origin: str) -> None:
    assert address.origin("app") == origin


def test_url_has_its_token_in_the_first_label_and_a_slash() -> None:
    assert first_label(APP, WEB, TOKEN) == "8080-my-app-k3v9x0q2m7t1z8aa"
    address = PublicAddress(Domain("localhost"), 8787)
    assert preview_url(address, APP, WEB, TOKEN) == "http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:8787/"


def test_built_in_hostname_needs_no_token() -> None:
    hostname = built_in_hostname(SandboxId("sb-1a2b3c4d"), WEB, Domain("example.com"))
    assert hostname == "sb-1a2b3c4d-p8080.example.com"


def test_built_in_hostname_is_for_ids_that_begin_with_sb() -> None:
    with pytest.raises(InvalidNameError, match="does not begin with 'sb-'"):
        built_in_hostname(APP, WEB, Domain("example.com"))


@given(sandbox_ids(), ports(), port_tokens())
def test_first_label_can_be_taken_apart_again(sandbox: SandboxId, port: Port, token: PortToken) -> None:
    """The port up to the first hyphen, the token after the last, the id between."""
    label = first_label(sandbox, port, token)
    number, _, rest = label.partition("-")
    middle, _, secret = rest.rpartition("-")
    assert (Port.parse(number), SandboxId(middle), PortToken(secret)) == (port, sandbox, token)
    assert len(label) <= LABEL_LENGTH_MAX
