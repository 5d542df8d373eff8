"""Laws of hostnames: one spelling for each preview, one answer by every way of asking, no error but `BadHostError`."""

from typing import Final

from actors import CustomHostname, Domain, InvalidNameError
from proxy.core.hostname import (
    BaseHost,
    BuiltInHost,
    HostKind,
    HostMatch,
    Matcher,
    NotOurs,
    TokenHost,
    match_label,
    parse_host,
)
from proxy.errors import BadHostError

DOMAINS: Final = (Domain("example.com"), Domain("8080-a-b.example.com"), Domain("localhost"))
_MATCHER: Final = Matcher(DOMAINS)


def hostname(data: bytes) -> None:
    """Check a Host value, and the same bytes as a first label."""
    refusal = ""
    host = None
    try:
        host = parse_host(data)
    except BadHostError as error:
        refusal = str(error)
    if host is None:
        # Shorter ones may stand in the text by chance.
        assert len(data) < 16 or data.decode("latin-1") not in refusal, "an error that quotes a secret"
        assert _match(data) is None
        return
    assert parse_host(host.authority.encode("ascii")) == host
    assert host.name == host.name.lower()
    assert repr(host) == f"Host({host.kind.value}, ****, port={host.port})"
    found = _MATCHER.match_host(host)
    # The usual spelling goes a shorter way, which must lead to the same place.
    assert _match(data) == found
    if isinstance(found, NotOurs | BaseHost):
        return
    assert _written(found) == host.name
    label = host.name.removesuffix(f".{found.domain}")
    assert match_label(label.encode("ascii"), found.domain) == found


def label(data: bytes) -> None:
    """Check a ``Portico-Preview`` value: as if it stood in front of the domain, and never an error."""
    domain = DOMAINS[0]
    found = match_label(data, domain)
    if found is None:
        return
    name = data.strip(b" \t").lower() + f".{domain}".encode("ascii")
    assert _written(found).encode("ascii") == name
    assert _match(name) == found or name in {str(domain).encode("ascii") for domain in DOMAINS}


def custom_hostname(data: bytes) -> None:
    """Check a name that somebody wants to bind: what is one, is a host that clients can ask for, by the same name."""
    text = data.decode("latin-1")
    try:
        name = CustomHostname(text)
    except InvalidNameError:
        return
    host = parse_host(data)
    assert (host.kind, host.name, host.port) == (HostKind.NAME, name, None)
    assert CustomHostname(name.upper()) == name == CustomHostname(f"{name}.")
    # Such a name never stands where ours do.
    found = _MATCHER.match_host(host)
    assert isinstance(found, NotOurs) or any(name.is_under(domain) for domain in DOMAINS)


def _match(value: bytes) -> HostMatch | None:
    try:
        return _MATCHER.match(value)
    except BadHostError:
        return None


def _written(found: TokenHost | BuiltInHost) -> str:
    if isinstance(found, BuiltInHost):
        return f"{found.sandbox}-p{found.port:d}.{found.domain}"
    return f"{found.port:d}-{found.sandbox}-{found.token.reveal()}.{found.domain}"
