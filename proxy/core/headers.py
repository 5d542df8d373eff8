"""What happens to the fields of a message on its way through us (RFC 9110 section 7.6).

Towards the service a request tells the truth about the connection it came by, whatever its sender claimed: what a
front proxy would set is set by us, and a sender's own copy counts only if the peer is a trusted proxy. Towards the
client a response is kept from reaching beyond its own hostname: no cookies for sibling previews, no orders to a
front proxy. Everything else passes, in order and byte for byte.

How a message is framed and what becomes of its connection is decided elsewhere: those fields are dropped here, or
(``Content-Length`` and ``Upgrade`` of a response) passed as information for who writes the head anew.

A `Forwarding` holds what stays the same from request to request: one per client connection and host.
"""

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple

from actors import HostHeader
from proxy.core.fates import CONNECTION_FIELDS, Fate, request_fate, response_fate
from proxy.core.forwarded import agreeing_trails
from proxy.core.hostname import DEFAULT_PORTS, CustomHost, Host, PreviewHost, TokenHost
from proxy.core.http1 import (
    Field,
    Line,
    RequestHead,
    connection_options,
    join_lines,
    values,
    write_lines,
    write_request_head,
)
from proxy.errors import AmbiguousCredentialError

MASK: Final = "****"
"""Stands for a token wherever a service might log it."""


class Credential(Enum):
    """By which field a visitor showed the preview token."""

    PREVIEW_TOKEN = "X-OC-Preview-Token"  # noqa: S105  the name of a field
    AUTHORIZATION = "Authorization"
    COOKIE = "Cookie"


class Bearer(NamedTuple):
    """A preview token as sent, not yet compared with anything. Left out of `repr`."""

    token: bytes
    credential: Credential

    def __repr__(self) -> str:
        return f"Bearer(****, {self.credential})"


# What `Connection` nearly always names: nothing that would have to be looked for.
_USUAL_OPTIONS: Final = frozenset((b"", b"close", b"keep-alive", b"upgrade", b"te"))

# What `Connection` may name without effect. A sender that could remove these behind our back would undo what a
# proxy before us asserted, or show us one request and the service another.
_NOT_REMOVABLE: Final = frozenset(
    b"authorization cookie origin referer content-type content-encoding content-range range expect "
    b"set-cookie www-authenticate location date cache-control vary".split()
)
_NOT_REMOVABLE_PREFIXES: Final = (b"sec-", b"access-control-", b"content-security-", b"x-oc-", b"x-csrf-", b"x-xsrf-")

GATE_COOKIE_PREFIXES: Final = (b"__Host-portico-", b"portico-gate")
"""How the names of the sign-in gate's cookies begin, over TLS and without; see `proxy.core.gate`."""

# Compared in lower case: browsers hold names apart by case but check `__Host-` without regard to it, and a
# service may fold them.
_GATE_PREFIXES: Final = tuple(prefix.lower() for prefix in GATE_COOKIE_PREFIXES)
_GATE_PART: Final = b"portico-"

_PLAIN_NAME: Final = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_CLEARS_SIBLINGS: Final = frozenset((b'"cookies"', b'"clienthints"', b'"*"', b"*", b"cookies"))
_LOOPBACK: Final = (b"localhost", b"127.0.0.1")


def _without_named(fields: Sequence[Field]) -> Sequence[Field]:
    """Drop what ``Connection`` names, unless it is not for the sender to remove."""
    options = connection_options(fields)
    if options <= _USUAL_OPTIONS:
        return fields
    named = {
        name
        for name in options
        if name not in CONNECTION_FIELDS
        and name not in _NOT_REMOVABLE
        and not name.startswith(_NOT_REMOVABLE_PREFIXES)
        # Those are judged by who says them; `Connection` has no part in it.
        and request_fate(name) is Fate.PASS
    }
    return [field for field in fields if field[0] not in named] if named else fields


def _field(name: bytes, value: str | bytes) -> Field:
    return name.lower(), name, value.encode("ascii") if isinstance(value, str) else value


class Forwarding:
    """How one client's requests to one preview, and the responses to them, are passed on."""

    __slots__ = (
        "_domain",
        "_host",
        "_host_line",
        "_location",
        "_masked_origin",
        "_node",
        "_on_base_domain",
        "_original_prefix",
        "_plain_tail",
        "_public_host",
        "_public_origin",
        "_rewrites_origin",
        "_set",
        "_trusted",
    )

    def __init__(
        self,
        preview: PreviewHost,
        public: Host,
        *,
        scheme: str,
        client_address: str,
        trusted: bool = False,
        host_header: HostHeader = HostHeader.LOCALHOST,
    ) -> None:
        """Work out what every request will need.

        Args:
            preview: What the host, or the ``Portico-Preview`` field, named.
            public: The host as the client sent it. With ``Portico-Preview`` that is the base domain itself.
            scheme: How the client speaks to the outermost proxy, ``http`` or ``https``: see `public_scheme`.
            client_address: The peer's IP address; anything else (``""`` for a Unix socket) becomes "unknown".
            trusted: Whether the peer is a proxy whose word about the client counts.
            host_header: What the service sees as ``Host``.
        """
        masked_host = f"localhost:{preview.port:d}"
        port = None if public.port == DEFAULT_PORTS[scheme] else public.port
        authority = public._replace(port=port).authority
        # A custom hostname is all its own: nobody else's name is under it.
        custom = isinstance(preview, CustomHost)
        self._domain = b"" if custom else preview.domain.encode("ascii")
        self._public_host = public.name.encode("ascii")
        self._public_origin = f"{scheme}://{authority}".encode("ascii")
        self._masked_origin = b"http://" + masked_host.encode("ascii")
        self._location = re.compile(
            rb"(?:http:)?//(?:localhost|127\.0\.0\.1|\[::1\])%b(?=[/?#]|\Z)"
            % (rb"(?::(?:80)?)?" if preview.port == 80 else b":%d" % preview.port),
            re.IGNORECASE,
        )
        self._on_base_domain = public.name == preview.domain and not custom
        self._trusted = trusted
        self._rewrites_origin = host_header is HostHeader.LOCALHOST
        shown = masked_host if self._rewrites_origin else authority
        self._host = _field(b"Host", shown)
        masked_name = authority
        if isinstance(preview, TokenHost) and not self._on_base_domain:
            _, _, rest = authority.partition(".")
            masked_name = f"{preview.port:d}-{preview.sandbox}-{MASK}.{rest}"
        self._original_prefix = f"{scheme}://{masked_name}".encode("ascii")
        address, node = _node(client_address)
        quoted_host = f'"{authority}"' if ":" in authority else authority
        self._node = (address.encode("ascii"), f"for={node};host={quoted_host};proto={scheme}".encode("ascii"))
        self._set = (
            _field(b"X-Forwarded-Host", authority),
            _field(b"X-Forwarded-Proto", scheme),
            _field(b"X-Sandbox-Name", str(preview.sandbox)),
        )
        # For a client whose own word counts for nothing, the lines that we set are always the same.
        own = [
            *self._set,
            _field(b"X-Forwarded-For", self._node[0]),
            _field(b"Forwarded", self._node[1]),
            _field(b"X-Original-URL", self._original_prefix),
        ]
        self._host_line = _line(self._host)
        self._plain_tail = join_lines([_line(field) for field in own])

    def forward_request(
        self, fields: Sequence[Field], target: bytes, *, opened_by: Credential | None = None
    ) -> list[Field]:
        """Return the fields for the service, ``Host`` first (RFC 9110 section 7.2).

        Args:
            fields: As the client sent them.
            target: In origin-form, or ``*``.
            opened_by: The field whose credential opened the door: it is removed, as the service has no business
                knowing it. The same field stays where it opened nothing, since then it is the service's own.
        """
        fields = _without_named(fields)
        trusted = self._trusted
        out = [self._host]
        address_trail: list[bytes] = []
        forwarded_trail: list[bytes] = []
        for field in fields:
            fate = request_fate(field[0])
            if fate is Fate.PASS:
                out.append(field)
            elif fate is Fate.ASSERTED:
                if not trusted:
                    continue
                if field[0] == b"x-forwarded-for":
                    address_trail.append(field[2])
                elif field[0] == b"forwarded":
                    forwarded_trail.append(field[2])
                elif field[0] not in (b"x-forwarded-host", b"x-forwarded-proto"):
                    out.append(field)
            elif (kept := self._kept(field, fate, opened_by)) is not None:
                out.append(kept)
        if address_trail or forwarded_trail:
            address_trail, forwarded_trail = agreeing_trails(address_trail, forwarded_trail)
        address, forwarded = self._node
        out += self._set
        out.append((b"x-forwarded-for", b"X-Forwarded-For", b", ".join((*address_trail, address))))
        out.append((b"forwarded", b"Forwarded", b", ".join((*forwarded_trail, forwarded))))
        path = b"/" if target == b"*" else target
        out.append((b"x-original-url", b"X-Original-URL", self._original_prefix + path))
        return out

    def write_plain_request(self, head: RequestHead, *, opened_by: Credential | None = None) -> bytes:
        """Write a plain head (`RequestHead.lines`) as the service shall see it.

        The same bytes as `forward_request` and `Exchange.start` together give, in two thirds of the time.

        Raises:
            ValueError: If anything given could end a line or the head before its time.
        """
        if self._trusted:
            fields = self.forward_request(head.fields, head.target, opened_by=opened_by)
            return write_request_head(head.method, head.target, fields)
        assert head.lines is not None
        lines = [head.method + b" " + head.target + b" HTTP/1.1", self._host_line]
        for field, wire, fate in head.lines:
            if wire is not None:
                lines.append(wire)
            elif fate is not Fate.DROP and (kept := self._kept(field, fate, opened_by)) is not None:
                lines.append(_line(kept))
        # The target is judged where it stands in the first line.
        return write_lines(lines, tail=self._plain_tail + (b"/" if head.target == b"*" else head.target))

    def _kept(self, field: Field, fate: Fate, opened_by: Credential | None) -> Field | None:
        """Return a request's field as it is passed on if its fate is to be judged by its value, None if it is not."""
        if fate is Fate.ORIGIN:
            rewrite = self._rewrites_origin and field[2].lower() == self._public_origin
            return (field[0], field[1], self._masked_origin) if rewrite else field
        if fate is Fate.COOKIE:
            kept = without_gate_cookies(field[2])
            return (field[0], field[1], kept) if kept else None
        if fate is Fate.AUTHORIZATION:
            return field if opened_by is not Credential.AUTHORIZATION else None
        if fate is Fate.PREVIEW_TOKEN:
            return field if opened_by is not Credential.PREVIEW_TOKEN else None
        if fate is Fate.TE and _accepts_trailers(field[2]):
            # Trailers we do relay; other codings would be a matter of our own connection to the service.
            return (b"te", field[1], b"trailers")
        return None

    def forward_response(self, fields: Sequence[Field]) -> list[Field]:
        """Return the fields for the client, of a final or an interim response."""
        fields = _without_named(fields)
        out: list[Field] = []
        for field in fields:
            fate = response_fate(field[0])
            if fate is Fate.PASS:
                out.append(field)
            elif (kept := self._kept_of_response(field, fate)) is not None:
                out.append(kept)
        return out

    def write_plain_response(self, lines: Sequence[Line]) -> list[bytes]:
        """Return the lines for the client of a head that is plain (`ResponseHead.lines`), but for those that frame it.

        The same fields as `forward_response` gives, in a third of the time.
        """
        out = []
        for field, wire, fate in lines:
            if wire is not None:
                out.append(wire)
            elif fate is not Fate.DROP and (kept := self._kept_of_response(field, fate)) is not None:
                out.append(_line(kept))
        return out

    def _kept_of_response(self, field: Field, fate: Fate) -> Field | None:
        """Return a response's field as it is passed on if its fate is to be judged by its value, None if it is not."""
        if fate is Fate.LOCATION:
            return (field[0], field[1], self._public_location(field[2]))
        if fate is Fate.SET_COOKIE:
            # The gate's cookie is ours to set; a preview that could set it could sign its visitors out, or in.
            if is_gate_cookie(field[2]):
                return None
            return (field[0], field[1], narrowed_cookie(field[2], host=self._public_host, domain=self._domain))
        if fate is Fate.CLEAR_SITE_DATA and not self._on_base_domain:
            kept = narrowed_clearing(field[2])
            return (field[0], field[1], kept) if kept else None
        if fate is Fate.OWN_HOST_ONLY and not self._on_base_domain:
            # On a preview's own hostname these bind nobody else. On the base domain, which answers for a
            # preview when `Portico-Preview` asks for it, they would bind every preview there is.
            return field
        return None

    def _public_location(self, value: bytes) -> bytes:
        """Turn a redirect to where the service thinks it is into one to where the client knows it.

        The origin is compared whole: ``http://localhost:8080.evil.com`` and ``http://localhost:8080@evil.com``
        only begin like it.
        """
        match = self._location.match(value)
        if match is None:
            return value
        end = match.end()
        return self._public_origin + value[end:]


def _line(field: Field) -> bytes:
    return field[1] + b": " + field[2]


def _node(client_address: str) -> tuple[str, str]:
    """Give a peer as ``X-Forwarded-For`` and as the node of ``Forwarded`` (RFC 7239 section 6) write it."""
    try:
        address = ip_address(client_address.partition("%")[0])
    except ValueError:
        # Expected: a Unix socket's peer has no address.
        return "unknown", "unknown"
    if address.version == 4:
        return str(address), str(address)
    # A dual-stack listener sees IPv4 peers as ::ffff:192.0.2.1.
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped), str(address.ipv4_mapped)
    return str(address), f'"[{address}]"'


def _accepts_trailers(value: bytes) -> bool:
    return any(member.strip(b" \t").lower() == b"trailers" for member in value.split(b","))


def without_gate_cookies(value: bytes) -> bytes:
    """Return a ``Cookie`` value without the gate's; ``b""`` if nothing else was in it (RFC 6265 section 5.4)."""
    return value if _GATE_PART not in value.lower() else _without_gate_cookies(value)


# The same at each request of a page.
@lru_cache(maxsize=1024)
def _without_gate_cookies(value: bytes) -> bytes:
    kept = [pair for pair in value.split(b";") if not pair.strip(b" \t").lower().startswith(_GATE_PREFIXES)]
    return b";".join(kept).strip(b" \t")


def is_gate_cookie(value: bytes) -> bool:
    """Say whether a ``Set-Cookie`` value sets one of the gate's, or one that would be sent back looking like it.

    A cookie without a name (``=__Host-portico-x=1``) comes back as its bare value.
    """
    return value.lstrip(b" \t=").lower().startswith(_GATE_PREFIXES)


def narrowed_clearing(value: bytes) -> bytes:
    """Return a ``Clear-Site-Data`` value that clears nothing of sibling previews; ``b""`` if nothing else was in it.

    Cookies are cleared for the whole registrable domain (Clear Site Data, section 4.2.2): one preview would sign the
    visitors of all others out. Everything, and the client hints that go with the cookies, includes them.
    """
    kept = [member for member in value.split(b",") if member.strip(b" \t").lower() not in _CLEARS_SIBLINGS]
    return b",".join(kept).strip(b" \t")


def narrowed_cookie(value: bytes, *, host: bytes, domain: bytes) -> bytes:
    """Return a ``Set-Cookie`` value that reaches no further than the preview it comes from.

    Without a ``Domain`` a cookie goes back to the host that set it, alone (RFC 6265 section 5.3). So if a ``Domain``
    is wider than `host`, all of them go; which of several counts, browsers do not agree on. The same if one is the
    loopback name that the service knows itself by, with which browsers would refuse the cookie.

    Args:
        value: Of one field; each cookie has its own.
        host: The public hostname, lower case.
        domain: The base domain it is under. When `host` is that domain itself, no ``Domain`` is narrow enough.
    """
    cookie, *attributes = value.split(b";")
    domains = [
        wanted
        for attribute in attributes
        for name, _, wanted in (attribute.partition(b"="),)
        if name.strip(b" \t").lower() == b"domain"
    ]
    if not any(_reaches_too_far(wanted, host, domain) for wanted in domains):
        return value
    kept = [part for part in attributes if part.partition(b"=")[0].strip(b" \t").lower() != b"domain"]
    return b";".join((cookie, *kept))


def _reaches_too_far(wanted: bytes, host: bytes, domain: bytes) -> bool:
    # RFC 6265 section 5.2.3: a leading dot means nothing.
    name = wanted.strip(b" \t").lower().lstrip(b".")
    if not name:
        return False
    # What is not plainly a name, a browser may take for one: without quotes or a trailing dot, with %2e decoded,
    # with an ideographic full stop mapped.
    if name in _LOOPBACK or _PLAIN_NAME.fullmatch(name) is None:
        return True
    if name == host:
        return host == domain
    return host.endswith(b"." + name)


def public_scheme(fields: Sequence[Field], connection_scheme: str, *, trusted: bool) -> str:
    """Return the scheme by which the client reached the outermost proxy.

    That is the connection's own, unless a trusted proxy says otherwise in ``X-Forwarded-Proto``.
    """
    if trusted:
        said = values(fields, b"x-forwarded-proto")
        if said:
            # The last member is the word of the nearest proxy, the one that is trusted.
            nearest = said[-1].rpartition(b",")[2].strip(b" \t").lower()
            if nearest in (b"https", b"wss"):
                return "https"
            if nearest in (b"http", b"ws"):
                return "http"
    return connection_scheme


def bearer_credential(fields: Sequence[Field]) -> Bearer | None:
    """Return the preview token that a request bears, if any.

    ``X-OC-Preview-Token`` wins unless it is blank; then ``Authorization: Bearer`` (RFC 6750 section 2.1).

    Args:
        fields: Of the request; those that are just passed on may be left out.

    Raises:
        AmbiguousCredentialError: The field that counts was sent more than once.
    """
    tokens, authorizations = [], []
    for name, _, value in fields:
        if name == b"authorization":
            authorizations.append(value)
        elif name == b"x-oc-preview-token" and (token := value.strip(b" \t")):
            tokens.append(token)
    if tokens:
        if len(tokens) > 1:
            raise AmbiguousCredentialError("X-OC-Preview-Token was sent more than once")
        return Bearer(tokens[0], Credential.PREVIEW_TOKEN)
    if authorizations:
        if len(authorizations) > 1:
            raise AmbiguousCredentialError("Authorization was sent more than once")
        scheme, _, token = authorizations[0].partition(b" ")
        token = token.strip(b" \t")
        if scheme.lower() == b"bearer" and token:
            return Bearer(token, Credential.AUTHORIZATION)
    return None


# None of these is part of what a browser sends as a preflight, and each would make it more than a question.
_NEVER_IN_A_PREFLIGHT: Final = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"cookie"})


def is_preflight(head: RequestHead) -> bool:
    """Say whether a browser asks leave for a cross-origin request to come (Fetch standard, CORS-preflight fetch).

    As such a request passes the gate without a token, it must be that question and nothing more.
    """
    if head.method != b"OPTIONS":
        return False
    names = {field[0] for field in head.fields}
    return (
        {b"origin", b"access-control-request-method"} <= names
        and not names & _NEVER_IN_A_PREFLIGHT
        and all(length == b"0" for length in values(head.fields, b"content-length"))
    )
