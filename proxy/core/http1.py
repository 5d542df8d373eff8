"""Heads of HTTP/1.1 messages: read strictly, framed, and written anew.

A proxy and a service that read one head differently can be played against each other (request
smuggling), so nothing is relayed as it came: a head is read into a list of fields, refused at the
first doubt, and written again from that list. Two readers judge every request head. h11 is the
authority; the gate around it is stricter (RFC 9112 lets a recipient be lenient where we need not be)
and both must have read the same. Response heads, which come from the sandbox and cost it only its own
answer, pass our scanner alone: h11 there would cost as much as all the rest of the exchange together.
A law test holds the scanner to h11: what it accepts, h11 accepts and reads the same.

Nothing here waits, reads a clock or knows a socket. Error texts never quote what the peer sent, so no
secret of a head can reach a log through them.
"""

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import h11

from proxy.core.fates import Fate

Field = tuple[bytes, bytes, bytes]
"""One field: its name in lower case, its name as received, its value without the space around it."""


class Line(NamedTuple):
    """A field line of the plainest kind; see `proxy.core.lines`."""

    field: Field
    wire: bytes | None
    """As it is passed on; None if that is to be judged."""
    fate: Fate


HEAD_BYTES_MAX = 64 * 2**10  # Holds a 4 KiB cookie sixteen times over; nginx allows 32 KiB, Envoy 60 KiB.
FIELDS_MAX = 100  # Envoy's and Apache's figure.
TARGET_BYTES_MAX = 16 * 2**10  # RFC 9112 section 3 asks for 8,000 octets at least.
TRAILER_BYTES_MAX = 8 * 2**10

METHODS_REFUSED = frozenset({b"CONNECT", b"TRACE"})
"""CONNECT would make a tunnel of us; TRACE would echo to a client the fields that we add for the service."""

IDEMPOTENT_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 section 9.2.2."""


class BadRequestError(Exception):
    """The client broke the protocol, or asked for what we refuse. Answer, then close the connection."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        """Stable: BAD_REQUEST, METHOD_NOT_ALLOWED, URI_TOO_LONG, EXPECTATION_FAILED, HEAD_TOO_LARGE or
        VERSION_NOT_SUPPORTED."""
        self.text = text


class BadResponseError(Exception):
    """The service broke the protocol: 502, or a cut-off body when the response is already under way."""

    code: ClassVar[str] = "BAD_RESPONSE"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a head or a trailer section is read before it is refused."""

    head_bytes_max: int = HEAD_BYTES_MAX
    fields_max: int = FIELDS_MAX
    target_bytes_max: int = TARGET_BYTES_MAX
    trailer_bytes_max: int = TRAILER_BYTES_MAX


DEFAULT_LIMITS = Limits()


@dataclass(slots=True)
class RequestHead:
    """A request head that both readers accepted. Its repr leaves out what may hold secrets."""

    method: bytes
    target: bytes = field(repr=False)
    """Origin-form, bytes as received (``%2F`` stays), or ``*`` with OPTIONS."""
    http_version: bytes
    """``1.1`` or ``1.0``."""
    fields: list[Field] = field(repr=False)
    authority: bytes | None = field(default=None, repr=False)
    """Of an absolute-form target. It must name the same host as ``Host``, which the caller judges."""
    lines: Sequence[Line] | None = field(default=None, repr=False, compare=False)
    """Of a *plain* head: one known to be in HTTP/1.1, without content, and to ask for nothing of the connection but
    to keep or close it. None for any other."""
    judged: Sequence[Field] | None = field(default=None, repr=False, compare=False)
    """Of a plain head: those of its fields that are not just passed on."""
    closes: bool = field(default=False, compare=False)
    """Of a plain head: the client wants the connection closed after the answer."""


@dataclass(slots=True)
class ResponseHead:
    """A response head, interim or final. Its repr leaves out what may hold secrets."""

    status: int
    reason: bytes
    fields: list[Field] = field(repr=False)
    http_version: bytes = b"1.1"
    lines: Sequence[Line] | None = field(default=None, repr=False, compare=False)
    """Of a *plain* head: one known to be final and in HTTP/1.1, to have been framed in at most one way, and to ask
    for nothing of the connection but to keep or close it. None for any other."""
    stated: "Framing | None" = field(default=None, compare=False)
    """Of a plain head: how its fields frame the content."""
    closes: bool = field(default=False, compare=False)
    """Of a plain head: the service wants to close the connection after the response."""
    wires: list[bytes] | None = field(default=None, repr=False, compare=False)
    """The fields as lines for the client, in place of `fields`, once `Forwarding` has written them."""


class FramingKind(enum.Enum):
    """How the length of a body is told (RFC 9112 section 6.3)."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class Framing(NamedTuple):
    """A kind and, for LENGTH, the number of bytes."""

    kind: FramingKind
    length: int = 0

    @property
    def has_body(self) -> bool:
        """Whether any byte of content can follow the head."""
        return self.kind is not FramingKind.NONE and self != EMPTY


NO_BODY = Framing(FramingKind.NONE)
EMPTY = Framing(FramingKind.LENGTH, 0)
CHUNKED = Framing(FramingKind.CHUNKED)
UNTIL_CLOSE = Framing(FramingKind.UNTIL_CLOSE)

# RFC 9110 section 5.6.2.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) HTTP/([0-9]\.[0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?\r\n")
# Matches only where a line begins, so a line that is not a field leaves the count of matches short.
_FIELD_LINES = re.compile(rb"^(" + TOKEN + rb"):[ \t]*([^\r\n]*)\r\n", re.MULTILINE)
# User information (`user@`) has no place in a request (RFC 9110 section 4.2.4): `@` matches nowhere here.
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@\\]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
# Eighteen digits stay below 2**63, whatever a service behind us counts with.
LENGTH = re.compile(rb"[0-9]{1,18}")
_PROTOCOL = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?")
# Upgrades that would change the rules under which *we* read the connection.
_PROTOCOLS_REFUSED = re.compile(rb"(?:h2c?|h3|http/.*|tls/.*)", re.IGNORECASE)
# What no head may hold, as far as it has come: control characters, CR or LF without its other half.
_FLAW = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")
_LEGAL_BYTES = bytes(byte for byte in range(256) if byte in b"\t\r\n" or (byte >= 0x20 and byte != 0x7F))

_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
# Two media types are two readings of one body: a filter's and the application's (RFC 9110 section 8.3 knows one).
_SINGLE = _FRAMING | {b"content-type"}
_NO_OPTIONS: frozenset[bytes] = frozenset()


def values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    """The values of all fields of that lower-case name, in order."""
    return [value for lower, _, value in fields if lower == name]


def find_head_end(buffer: bytes | bytearray, start_from: int) -> int:
    """Where the head ends (just after its empty line), or -1; bytes before ``start_from`` are not searched."""
    end = buffer.find(b"\r\n\r\n", start_from)
    return -1 if end < 0 else end + 4


def flawed_so_far(buffer: bytes | bytearray, start_from: int) -> bool:
    """Whether an unfinished head or trailer section can already be refused for one of its bytes.

    Without it a client that ends its lines with a bare LF would wait for its answer until the timeout.
    """
    return _FLAW.search(buffer, start_from) is not None


def read_fields(block: bytes, start: int = 0) -> list[Field] | None:
    """Read field lines, each ended by CRLF, from ``start`` to the end of ``block``; None if any is malformed.

    Refused (RFC 9112 section 5): space before the colon, an empty or non-token name, obs-fold, a line
    without a colon, bare CR or LF, and every control character but HTAB.
    """
    count = block.count(b"\r\n", start)
    # bytes.count and bytes.translate run at memory speed; the same by a regular expression costs 10 us a head.
    if block.count(b"\n", start) != count or block.count(b"\r", start) != count:
        return None
    if block.translate(None, _LEGAL_BYTES):
        return None
    found = _FIELD_LINES.findall(block, start)
    if len(found) != count:
        return None
    return [(name.lower(), name, value.rstrip(b" \t")) for name, value in found]


def connection_options(fields: Iterable[Field]) -> frozenset[bytes]:
    """What ``Connection`` names, in lower case (RFC 9110 section 7.6.1)."""
    found = values(fields, b"connection")
    if not found:
        return _NO_OPTIONS
    return frozenset(option.strip(b" \t").lower() for option in b",".join(found).split(b","))


def keeps_alive(http_version: bytes, fields: Iterable[Field]) -> bool:
    """Whether the sender of this head means to go on with the connection (RFC 9112 section 9.3)."""
    options = connection_options(fields)
    return b"close" not in options and (http_version == b"1.1" or b"keep-alive" in options)


def requested_upgrade(head: RequestHead) -> bytes | None:
    """The protocols a request offers to switch to, as they may be offered to the service; None for none.

    ``Upgrade`` counts only when ``Connection`` names it (RFC 9110 section 7.8). HTTP/2 in clear text and
    TLS are left out: behind them the service would see requests that nobody judged.
    """
    offered = values(head.fields, b"upgrade")
    if not offered or head.http_version != b"1.1" or b"upgrade" not in connection_options(head.fields):
        return None
    protocols = (protocol.strip(b" \t") for protocol in b",".join(offered).split(b","))
    kept = [name for name in protocols if _PROTOCOL.fullmatch(name) and not _PROTOCOLS_REFUSED.fullmatch(name)]
    return b", ".join(kept) or None


def expects_continue(head: RequestHead) -> bool:
    """Whether the client waits for a 100 before its body; one that speaks 1.0 never does (RFC 9110 10.1.1)."""
    return head.http_version == b"1.1" and bool(values(head.fields, b"expect"))


def request_framing(head: RequestHead) -> Framing:
    """How the body of an accepted request is framed."""
    return _stated_framing(head.fields) or NO_BODY


def response_framing(head: ResponseHead, request_method: bytes) -> Framing:
    """How the body of an accepted response is framed (RFC 9112 section 6.3, in that order)."""
    status = head.status
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        return NO_BODY
    return (head.stated if head.lines is not None else _stated_framing(head.fields)) or UNTIL_CLOSE


def _stated_framing(fields: list[Field]) -> Framing | None:
    for name, _, value in fields:
        if name == b"content-length":
            return Framing(FramingKind.LENGTH, int(value))
        if name == b"transfer-encoding":
            return CHUNKED
    return None


def read_request_head(head: bytes, limits: Limits = DEFAULT_LIMITS) -> RequestHead:
    """Read one whole request head, its empty line included.

    Raises:
        BadRequestError: For any doubt. The connection cannot be read on after it.
    """
    if len(head) > limits.head_bytes_max:
        raise BadRequestError(431, "HEAD_TOO_LARGE", "The request head is too large.")
    method, target, http_version, line_end = _read_request_line(head, limits)
    if head.count(b"\r\n") - 2 > limits.fields_max:
        raise BadRequestError(431, "HEAD_TOO_LARGE", "The request head has too many fields.")
    fields = read_fields(head[:-2], line_end + 2) if head.endswith(b"\r\n\r\n") else None
    if fields is None:
        raise _bad("The request head has a malformed line.")
    _judge_fields(fields, http_version)
    if any(name == b"transfer-encoding" for name, _, _ in fields):
        # Its one legal value, whatever the case it came in; h11 reads it so too.
        fields = [(n, r, b"chunked" if n == b"transfer-encoding" else value) for n, r, value in fields]
    _ask_h11(head, method, target, http_version, fields)
    if method in METHODS_REFUSED:
        raise BadRequestError(405, "METHOD_NOT_ALLOWED", "This method is not proxied.")
    authority = None
    if target[0] != 0x2F or b"#" in target:
        authority, target = _judge_target(method, target)
    request = RequestHead(method, target, http_version, fields, authority)
    if requested_upgrade(request) is not None and request_framing(request).has_body:
        raise _bad("A request to switch protocols cannot have a body.")
    return request


def _bad(text: str) -> BadRequestError:
    return BadRequestError(400, "BAD_REQUEST", text)


def _read_request_line(head: bytes, limits: Limits) -> tuple[bytes, bytes, bytes, int]:
    line_end = head.find(b"\r\n")
    if line_end > limits.target_bytes_max:
        raise BadRequestError(414, "URI_TOO_LONG", "The request target is too long.")
    line = _REQUEST_LINE.fullmatch(head, 0, line_end)
    if line is None:
        raise _bad("The request line is malformed.")
    method, target, http_version = line.groups()
    if http_version not in (b"1.1", b"1.0"):
        raise BadRequestError(505, "VERSION_NOT_SUPPORTED", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    return method, target, http_version, line_end


def _judge_fields(fields: list[Field], http_version: bytes) -> None:
    """Judge the fields that decide where a request goes and where it ends (RFC 9112 section 6)."""
    single: dict[bytes, bytes] = {}
    for name, _, value in fields:
        if name in _SINGLE:
            if name in single:
                raise _bad("A field that must be single is repeated.")
            single[name] = value
        elif b"_" in name and name.replace(b"_", b"-") in _FRAMING:
            # CGI, WSGI and their kin read `-` and `_` alike: this one would speak for the real field.
            raise _bad("A field name can be taken for that of a framing field.")
    if b"host" not in single:
        raise _bad("A request must have exactly one Host.")
    if len(single) == 1:
        return
    length = single.get(b"content-length")
    if length is not None and LENGTH.fullmatch(length) is None:
        raise _bad("Content-Length must be 1 to 18 digits.")
    coding = single.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise _bad("Content-Length and Transfer-Encoding exclude each other.")
        if coding.lower() != b"chunked" or http_version != b"1.1":
            raise _bad("The only transfer coding accepted is chunked, in HTTP/1.1.")
    expectation = single.get(b"expect")
    if expectation is not None and expectation.lower() != b"100-continue":
        raise BadRequestError(417, "EXPECTATION_FAILED", "The only expectation accepted is 100-continue.")


def _ask_h11(head: bytes, method: bytes, target: bytes, http_version: bytes, fields: list[Field]) -> None:
    """Let h11 read the head too; refuse it unless h11 accepts it and read exactly what we read."""
    authority = h11.Connection(h11.SERVER)
    try:
        authority.receive_data(head)
        event = authority.next_event()
    except h11.RemoteProtocolError as error:
        raise _bad("The request head is malformed.") from error
    if (
        type(event) is not h11.Request
        or event.method != method
        or event.target != target
        or event.http_version != http_version
        or event.headers.raw_items() != [(received, value) for _, received, value in fields]
    ):
        raise _bad("The request head can be read in more than one way.")


def _judge_target(method: bytes, target: bytes) -> tuple[bytes | None, bytes]:
    """Give the authority and the origin-form of a target that is not plainly a path (RFC 9112 section 3.2)."""
    if target == b"*":
        if method != b"OPTIONS":
            raise _bad("The target * belongs to OPTIONS.")
        return None, target
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise _bad("The request target is malformed.")
    authority, path = absolute.groups()
    if path is None:
        # RFC 9112 section 3.2.4: OPTIONS about the whole server, in absolute-form.
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, path if path[0] == 0x2F else b"/" + path


def read_response_head(head: bytes, limits: Limits = DEFAULT_LIMITS) -> ResponseHead:
    """Read one whole response head, its empty line included; as strict as h11 and stricter.

    Raises:
        BadResponseError: For any doubt. The connection to the service cannot be used after it.
    """
    if len(head) > limits.head_bytes_max or head.count(b"\r\n") - 2 > limits.fields_max:
        raise BadResponseError("The response head is too large.")
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadResponseError("The status line is malformed.")
    fields = read_fields(head[:-2], line.end()) if head.endswith(b"\r\n\r\n") else None
    if fields is None:
        raise BadResponseError("The response head has a malformed line.")
    http_version = b"1.1" if line[1] == b"1" else b"1.0"
    framed = False
    for name, _, value in fields:
        if name == b"content-length":
            legal = LENGTH.fullmatch(value) is not None
        elif name == b"transfer-encoding":
            legal = value.lower() == b"chunked" and http_version == b"1.1"
        else:
            continue
        # A second one is refused even when it says the same, and so is one of each.
        if framed or not legal:
            raise BadResponseError("The response head frames its body in a way that cannot be trusted.")
        framed = True
    return ResponseHead(int(line[2]), line[3] or b"", fields, http_version)


def write_request_head(method: bytes, target: bytes, fields: Sequence[Field]) -> bytes:
    """Write a request head in HTTP/1.1.

    Raises:
        ValueError: If anything given could end a line or the head before its time.
    """
    if b" " in target or b" " in method or not (target and method):
        raise ValueError("a method or target cannot be empty or hold a space")
    return write_block(method + b" " + target + b" HTTP/1.1", fields)


def write_response_head(status: int, reason: bytes, fields: Sequence[Field]) -> bytes:
    """Write a response head in HTTP/1.1, which is what a proxy speaks even to a 1.0 client (RFC 9112 2.3).

    Raises:
        ValueError: If anything given could end a line or the head before its time.
    """
    if not 100 <= status <= 999:
        raise ValueError("a status code has three digits")
    return write_block(b"HTTP/1.1 %d %b" % (status, reason), fields)


def write_block(start_line: bytes, fields: Sequence[Field]) -> bytes:
    """Write a start line, field lines and the empty line: a head, or a last chunk with its trailers.

    Raises:
        ValueError: If anything given could end a line or the block before its time.
    """
    return write_lines([start_line, *[received + b": " + value for _, received, value in fields]])


def write_lines(lines: Sequence[bytes], *, tail: bytes = b"") -> bytes:
    """Write lines and the empty line.

    Args:
        lines: The start line and field lines, without their ends.
        tail: More of them, as `join_lines` gave it, which are not judged again. What is added to it must be in `lines`
            too.

    Raises: as `write_block`.
    """
    _judge_lines(lines)
    return b"\r\n".join((*lines, tail, b"", b"") if tail else (*lines, b"", b""))


def join_lines(lines: Sequence[bytes]) -> bytes:
    """Return lines in one piece, with ends between them, for many a `write_lines`.

    Raises: as `write_block`.
    """
    _judge_lines(lines)
    return b"\r\n".join(lines)


def _judge_lines(lines: Sequence[bytes]) -> None:
    """Refuse lines that hold more than a line: somebody's value has brought an end along.

    Judged before there are ends between them: to look for a byte that is not there takes a tenth of the time of
    counting those that are.
    """
    bare = b"".join(lines)
    if b"\n" in bare or b"\r" in bare or b"\0" in bare:
        raise ValueError("a field or start line holds a line end or NUL")
