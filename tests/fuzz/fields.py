"""Laws of what becomes of fields: nothing that ends a line, nothing between hops, nothing of ours but from us."""

from collections.abc import Sequence
from typing import Final

from actors import HostHeader
from proxy.core.headers import (
    GATE_COOKIE_PREFIXES,
    Credential,
    Forwarding,
    bearer_credential,
    public_scheme,
)
from proxy.core.http1 import Field, read_fields, write_block
from proxy.errors import AmbiguousCredentialError
from tests.fuzz.messages import PREVIEW, PUBLIC

HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding http2-settings proxy-authorization proxy-authenticate "
    b"proxy".split()
)
_SAID_BY_CLIENTS_ONLY: Final = frozenset({b"proxy", b"proxy-authorization"})
OURS: Final = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for", b"forwarded", b"x-sandbox-name")
_TOKEN: Final = PREVIEW.token.reveal().encode("ascii")
_GATE: Final = GATE_COOKIE_PREFIXES[0].lower()


def forwarding(data: bytes) -> None:
    """Check the fields of a request and of a response: each line of `data` is one, if our reader takes it."""
    fields = _fields(data)
    scheme = public_scheme(fields, "https", trusted=True)
    assert scheme in ("http", "https")
    try:
        bearer = bearer_credential(fields)
    except AmbiguousCredentialError:
        return
    for trusted in (False, True):
        for host_header in HostHeader:
            rules = Forwarding(
                PREVIEW, PUBLIC, scheme=scheme, client_address="192.0.2.7", trusted=trusted, host_header=host_header
            )
            opened_by = None if bearer is None else bearer.credential
            _judge_request(
                fields, rules.forward_request(fields, b"/a", opened_by=opened_by), opened_by, trusted=trusted
            )
            _judge_response(rules.forward_response(fields))


def _fields(data: bytes) -> list[Field]:
    fields: list[Field] = []
    for line in data.split(b"\n"):
        fields += read_fields(line.removesuffix(b"\r") + b"\r\n") or ()
    return fields


def _judge_request(
    given: Sequence[Field], out: Sequence[Field], opened_by: Credential | None, *, trusted: bool
) -> None:
    _can_be_written(out)
    names = [name for name, _, _ in out]
    assert names[0] == b"host"
    for name in OURS:
        assert names.count(name) == 1, name
        # What a CGI program would take for the same.
        assert [other for other in names if other.replace(b"_", b"-") == name] == [name]
    assert not HOP_BY_HOP & {name.replace(b"_", b"-") for name in names}
    assert b"upgrade" not in names
    assert b"content-length" not in names
    for name, _, value in out:
        assert name != b"te" or value == b"trailers"
        assert name != b"cookie" or _GATE not in value.lower().replace(b"\t", b" ").split(b"=")[0]
        assert not name.startswith(b"x-original-url") or _TOKEN not in value
    if opened_by is not None:
        assert opened_by.value.lower().encode("ascii") not in names
    if not trusted:
        told = {field for field in out if field[0].startswith((b"x-forwarded-", b"forwarded", b"x-real-ip"))}
        claimed = {field for field in given if field[1].islower() or field[1].isupper()}
        # Ours are written in one spelling, so one that came in another came from the client.
        assert not told & claimed


def _judge_response(out: Sequence[Field]) -> None:
    _can_be_written(out)
    for name, _, value in out:
        assert name not in HOP_BY_HOP - _SAID_BY_CLIENTS_ONLY
        assert not name.startswith((b"portico-", b"x-sendfile"))
        assert not name.startswith(b"x-accel-") or name == b"x-accel-buffering"
        if name == b"set-cookie":
            assert not value.lower().lstrip(b" \t=").startswith(_GATE)
            for attribute in value.split(b";")[1:]:
                key, _, wanted = attribute.partition(b"=")
                # Whatever a browser may make of it, it must not be read as a name above this preview's own.
                assert key.strip(b" \t").lower() != b"domain" or not _reaches_further(wanted)


def _reaches_further(wanted: bytes) -> bool:
    name = wanted.strip(b" \t").lower().lstrip(b".")
    public = PUBLIC.name.encode("ascii")
    return bool(name) and public != name and (public.endswith(b"." + name) or b'"' in name or b"%" in name)


def _can_be_written(fields: Sequence[Field]) -> None:
    block = write_block(b"x", fields)
    assert read_fields(block[:-2], 3) == list(fields)
    for name, received, value in fields:
        assert name == received.lower()
        assert not {*b"\r\n\0"} & {*value}
