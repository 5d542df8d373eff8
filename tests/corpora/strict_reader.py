"""A reader of HTTP/1.1 that forgives nothing, to say what somebody strict would see in some bytes.

It is the judge of `one_in_one_out`, so it shares no line with the proxy: plain slicing and comparing, written from
RFC 9110 and RFC 9112 alone. Given all bytes that one side of a connection sent, it gives the messages that are
whole, in order, and what stopped it: the end, the middle of a message, or a violation.

Two readings of requests. What a client sends may use all that the RFC allows a sender (absolute targets, chunk
extensions, an empty line in front). What comes out behind a proxy was written anew, and there nothing is allowed
that a proxy has no need to write: one spelling for everything.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

TOKEN_BYTES = frozenset((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode("ascii"))
"""RFC 9110 section 5.6.2."""
VALUE_BYTES = frozenset({0x09, 0x20, *range(0x21, 0x7F), *range(0x80, 0x100)})
"""RFC 9110 section 5.5: visible characters, obs-text, space and tab."""
TARGET_BYTES = frozenset(range(0x21, 0x7F)) - {0x23}
"""Wider than RFC 3986, which has no quotes or bars; but a fragment never travels (RFC 9112 section 3.2)."""
HEX = frozenset(b"0123456789abcdefABCDEF")
DIGITS = frozenset(b"0123456789")

HOP_BY_HOP = frozenset(b"keep-alive proxy-connection te http2-settings proxy-authorization trailer".split())
"""RFC 9110 section 7.6.1; TE is judged apart, as ``trailers`` may be said anew."""
NEVER_TRAILERS = frozenset(
    b"transfer-encoding content-length host trailer te connection upgrade authorization cookie".split()
)
"""RFC 9110 section 6.5.1."""

Fields = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, with values."""


class ViolationError(Exception):
    """The bytes are not what RFC 9112 lets a sender send, or not what this reading allows."""


class _UnfinishedError(Exception):
    """The bytes end inside a message."""


class Stop(Enum):
    """Why there is no further message."""

    END = auto()
    """All bytes belong to whole messages."""
    UNFINISHED = auto()
    VIOLATION = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes
    trailers: Fields = ()

    @property
    def origin_form(self) -> bytes:
        """The target as a proxy passes it on: without scheme and authority (RFC 9112 section 3.2.2)."""
        if self.target[:1] == b"/" or self.target == b"*":
            return self.target
        after = self.target.partition(b"//")[2]
        for position, byte in enumerate(after):
            if byte in b"/?":
                path = after[position:]
                return path if byte == 0x2F else b"/" + path
        return b"*" if self.method == b"OPTIONS" else b"/"

    @property
    def last(self) -> bool:
        """Whether no other request may follow (RFC 9112 section 9.3)."""
        options = _members(self.fields, b"connection")
        return b"close" in options or (self.version == b"HTTP/1.0" and b"keep-alive" not in options)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response, interim ones left out."""

    status: int
    fields: Fields
    body: bytes
    trailers: Fields = ()
    until_close: bool = False

    def value(self, name: bytes) -> bytes | None:
        """The value of a field, the first if there are several."""
        return next((value for found, value in self.fields if found == name), None)


@dataclass(frozen=True, slots=True)
class Requests:
    """What a strict reader sees of one direction."""

    whole: tuple[Request, ...]
    stop: Stop
    read: int
    """How many bytes the whole ones take."""
    why: str = ""
    """What the violation is."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What a strict client sees."""

    whole: tuple[Response, ...]
    stop: Stop
    why: str = ""
    interim: tuple[int, ...] = field(default=())
    begun: bytes = b""
    """What there is of an unfinished last one."""


def read_requests(data: bytes, *, rewritten: bool) -> Requests:
    """Read what one sender of requests sent; `rewritten` if a proxy wrote it, for whom less is allowed."""
    whole: list[Request] = []
    position = 0
    while position < len(data):
        start = position
        if not rewritten and data[start : start + 2] == b"\r\n":
            # RFC 9112 section 2.2: a server should ignore at least one empty line before the request line.
            start += 2
            if start == len(data):
                break
        try:
            request, position = _read_request(data, start, rewritten=rewritten)
        except _UnfinishedError:
            return Requests(tuple(whole), Stop.UNFINISHED, position)
        except ViolationError as violation:
            return Requests(tuple(whole), Stop.VIOLATION, position, str(violation))
        whole.append(request)
    return Requests(tuple(whole), Stop.END, position)


def read_responses(data: bytes, methods: Sequence[bytes], *, ended: bool = True, rewritten: bool = True) -> Responses:
    """Read what a client got, or with ``rewritten=False`` what a service sent, for whom more is allowed.

    Args:
        data: All of it.
        methods: Of its requests, in order; past their end, GET. `b"?"` for one that nobody knows: then the answer
            may lack its body, as to HEAD.
        ended: Whether the connection has ended, which ends a body that nothing else does.
    """
    whole: list[Response] = []
    interim: list[int] = []
    position = 0
    while position < len(data):
        method = methods[len(whole)] if len(whole) < len(methods) else b"GET"
        try:
            response, after = _read_response(data, position, method, ended=ended, rewritten=rewritten)
        except _UnfinishedError:
            return Responses(tuple(whole), Stop.UNFINISHED, interim=tuple(interim), begun=data[position:])
        except ViolationError as violation:
            return Responses(tuple(whole), Stop.VIOLATION, str(violation), tuple(interim))
        position = after
        if response.status < 200:
            interim.append(response.status)
            if response.status == 101:
                # What follows is not HTTP any more.
                break
        else:
            whole.append(response)
    return Responses(tuple(whole), Stop.END, interim=tuple(interim))


def _read_request(data: bytes, start: int, *, rewritten: bool) -> tuple[Request, int]:
    line, position = _read_line(data, start)
    parts = line.split(b" ")
    if len(parts) != 3:
        raise ViolationError("a request line is three words with one space between them")
    method, target, version = parts
    _demand_bytes(method, TOKEN_BYTES, "a method")
    _demand_bytes(target, TARGET_BYTES, "a target")
    if version != b"HTTP/1.1" and (rewritten or version != b"HTTP/1.0"):
        raise ViolationError("an unknown version")
    _judge_target(method, target, rewritten=rewritten)
    fields, position = _read_fields(data, position, rewritten=rewritten)
    length, chunked = _framing(fields)
    hosts = [value for name, value in fields if name == b"host"]
    if len(hosts) > 1 or (not hosts and (rewritten or version == b"HTTP/1.1")):
        raise ViolationError("not exactly one Host")
    if chunked and version != b"HTTP/1.1":
        raise ViolationError("chunked before HTTP/1.1")
    if rewritten:
        _judge_rewritten(fields)
    body = b""
    trailers: Fields = ()
    if chunked:
        body, trailers, position = _read_chunked(data, position, rewritten=rewritten)
        _judge_trailers(trailers)
    elif length:
        body, position = _take(data, position, length)
    return Request(method, target, version, fields, body, trailers), position


def _judge_target(method: bytes, target: bytes, *, rewritten: bool) -> None:
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return
    scheme, colon, rest = target.partition(b"://")
    if rewritten or not colon or scheme.lower() not in (b"http", b"https") or rest[:1] in (b"", b"/", b"?"):
        raise ViolationError("a target of no form that may be here")


def _judge_rewritten(fields: Fields) -> None:
    names = [name for name, _ in fields]
    for name, value in fields:
        if name in HOP_BY_HOP and (name, value) != (b"te", b"trailers"):
            raise ViolationError("a hop-by-hop field behind a proxy")
        if name.replace(b"_", b"-") != name and name.replace(b"_", b"-") in (b"content-length", b"transfer-encoding"):
            raise ViolationError("a name that some read as a framing field")
        if name == b"expect" and value != b"100-continue":
            raise ViolationError("an unknown expectation")
    # Options name nothing but an upgrade, and an upgrade goes with its option (RFC 9110 section 7.8).
    connection = [value for name, value in fields if name == b"connection"]
    if connection not in ([], [b"Upgrade"]) or (b"upgrade" in names) != bool(connection):
        raise ViolationError("Connection and Upgrade behind a proxy that do not belong together")


def _read_response(data: bytes, start: int, method: bytes, *, ended: bool, rewritten: bool) -> tuple[Response, int]:
    line, position = _read_line(data, start)
    version, _, rest = line.partition(b" ")
    status, space, reason = rest.partition(b" ")
    # Services do leave out the space before an empty reason (RFC 9112 section 4 has it mandatory).
    if version != b"HTTP/1.1" and (rewritten or version != b"HTTP/1.0"):
        raise ViolationError("an unknown version")
    if len(status) != 3 or not set(status) <= DIGITS or status < b"100" or (rewritten and not space):
        raise ViolationError("no status line")
    _demand_bytes(reason, VALUE_BYTES, "a reason", empty=True)
    fields, position = _read_fields(data, position, rewritten=rewritten)
    length, chunked = _framing(fields)
    if chunked and version != b"HTTP/1.1":
        raise ViolationError("chunked before HTTP/1.1")
    code = int(status)
    if code < 200 or code == 204:
        # RFC 9110 section 8.6, RFC 9112 section 6.1.
        if rewritten and (length is not None or chunked):
            raise ViolationError("a 1xx or 204 that says how long its content is")
        return Response(code, fields, b""), position
    if method == b"HEAD" or code == 304:
        return Response(code, fields, b""), position
    if method == b"?" and (position == len(data) or data.startswith(b"HTTP/1.1 ", position)):
        return Response(code, fields, b""), position
    if chunked:
        body, trailers, position = _read_chunked(data, position, rewritten=rewritten)
        if rewritten:
            # From a service they do no harm yet: whoever passes the answer on is to leave them out.
            _judge_trailers(trailers)
        return Response(code, fields, body, trailers), position
    if length is not None:
        body, position = _take(data, position, length)
        return Response(code, fields, body), position
    if not ended:
        raise _UnfinishedError
    return Response(code, fields, data[position:], until_close=True), len(data)


def _read_line(data: bytes, start: int) -> tuple[bytes, int]:
    """Read up to CRLF; CR and LF stand nowhere else."""
    for position in range(start, len(data)):
        byte = data[position]
        if byte == 0x0A:
            raise ViolationError("a bare LF")
        if byte == 0x0D:
            if position + 1 == len(data):
                raise _UnfinishedError
            if data[position + 1] != 0x0A:
                raise ViolationError("a bare CR")
            return data[start:position], position + 2
    raise _UnfinishedError


def _read_fields(data: bytes, position: int, *, rewritten: bool) -> tuple[Fields, int]:
    fields: list[tuple[bytes, bytes]] = []
    while True:
        line, position = _read_line(data, position)
        if not line:
            return tuple(fields), position
        name, colon, value = line.partition(b":")
        if not colon:
            raise ViolationError("a field line without a colon")
        _demand_bytes(name, TOKEN_BYTES, "a field name")
        _demand_bytes(value, VALUE_BYTES, "a field value", empty=True)
        stripped = value.strip(b" \t")
        if rewritten and value != b" " + stripped:
            raise ViolationError("a field value that is not in its one spelling")
        fields.append((name.lower(), stripped))


def _framing(fields: Fields) -> tuple[int | None, bool]:
    """Give the length and whether it is chunked instead; both, or either twice, is no framing (RFC 9112 section 6)."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise ViolationError("more than one field says how the body is framed")
    if codings:
        if codings[0].lower() != b"chunked":
            raise ViolationError("a transfer coding other than chunked")
        return None, True
    if not lengths:
        return None, False
    _demand_bytes(lengths[0], DIGITS, "a length")
    return int(lengths[0]), False


def _read_chunked(data: bytes, position: int, *, rewritten: bool) -> tuple[bytes, Fields, int]:
    """Read a chunked body (RFC 9112 section 7.1)."""
    content = b""
    while True:
        line, position = _read_line(data, position)
        size, semicolon, extension = line.partition(b";")
        _demand_bytes(size, HEX, "a chunk size")
        if rewritten and (semicolon or size.startswith(b"0") != (size == b"0")):
            raise ViolationError("a chunk size that is not in its one spelling")
        if semicolon:
            _judge_extensions(b";" + extension)
        length = int(size, 16)
        if not length:
            break
        chunk, position = _take(data, position, length)
        content += chunk
        empty, position = _read_line(data, position)
        if empty:
            raise ViolationError("a chunk that goes on after its size")
    trailers, position = _read_fields(data, position, rewritten=rewritten)
    return content, trailers, position


def _judge_trailers(trailers: Fields) -> None:
    if any(name in NEVER_TRAILERS for name, _ in trailers):
        raise ViolationError("a trailer that frames or routes")


def _judge_extensions(rest: bytes) -> None:
    """Read chunk extensions (RFC 9112 section 7.1.1): names with values, which are tokens or quoted."""
    _demand_bytes(rest, VALUE_BYTES, "a chunk extension")
    while rest:
        semicolon, rest = rest[:1], rest[1:].lstrip(b" \t")
        if semicolon != b";":
            raise ViolationError("a chunk extension that goes on after its end")
        rest = _after_token(rest)
        value = rest.lstrip(b" \t")
        if value[:1] == b"=":
            value = value[1:].lstrip(b" \t")
            rest = _after_quoted(value) if value[:1] == b'"' else _after_token(value)
        following = rest.lstrip(b" \t")
        # Only before another one is space allowed.
        rest = following or rest


def _after_token(text: bytes) -> bytes:
    length = next((position for position, byte in enumerate(text) if byte not in TOKEN_BYTES), len(text))
    if not length:
        raise ViolationError("a chunk extension without a name or value")
    return text[length:]


def _after_quoted(text: bytes) -> bytes:
    """Return what follows a quoted string (RFC 9110 section 5.6.4)."""
    position = 1
    while position < len(text):
        if text[position] == 0x22:
            return text[position + 1 :]
        position += 2 if text[position] == 0x5C else 1
    raise ViolationError("a quoted string that does not end")


def _take(data: bytes, position: int, length: int) -> tuple[bytes, int]:
    if len(data) - position < length:
        raise _UnfinishedError
    return data[position : position + length], position + length


def _demand_bytes(text: bytes, allowed: frozenset[int], what: str, *, empty: bool = False) -> None:
    if not text and not empty:
        raise ViolationError(f"{what} that is empty")
    if not set(text) <= allowed:
        raise ViolationError(f"{what} with a byte that is not allowed there")


def _members(fields: Fields, name: bytes) -> set[bytes]:
    return {part.strip(b" \t").lower() for found, value in fields if found == name for part in value.split(b",")}
