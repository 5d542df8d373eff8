"""A reader of HTTP/1.1 for tests: as strict as RFC 9112 lets a recipient be, and not the proxy's own.

A proxy that is judged by its own parser agrees with itself about everything. So what a service received and what a
client received are read by this one, which shares no line with `proxy.core`. It knows one way to write each thing;
whatever is written otherwise is a `FaultError`, also where the RFC would let a recipient be lenient.

It reads whole recordings, after the fact: nothing here is fast, or meant for anything but tests.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELD_LINE: Final = re.compile(rb"(%b):[ \t]*([\t -~\x80-\xff]*?)[ \t]*" % TOKEN)
_REQUEST_LINE: Final = re.compile(rb"(%b) ([!-~]+) (HTTP/1\.[01])" % TOKEN)
_STATUS_LINE: Final = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2}) ([\t -~\x80-\xff]*)")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t -~\x80-\xff]*)?")

Fields = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, values without the space around them, in order."""


class FaultError(Exception):
    """The bytes are not HTTP/1.1 in its one strict reading."""


class _IncompleteError(Exception):
    """They may become it, if more come."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response, or as much of one as there was."""

    start: tuple[bytes, bytes, bytes]
    """Method, target and version; or version, status and reason."""
    fields: Fields
    head: bytes
    """As it came, the empty line included."""
    body: bytes = b""
    framing: bytes = b""
    """The chunk-size lines of a chunked body, as they came."""
    trailers: Fields = ()
    complete: bool = True

    @property
    def method(self) -> bytes:
        return self.start[0]

    @property
    def target(self) -> bytes:
        return self.start[1]

    @property
    def status(self) -> int:
        return int(self.start[1])

    def all(self, name: str) -> list[bytes]:
        """Return the values of all fields of that lower-case name."""
        wanted = name.encode("latin-1")
        return [value for found, value in self.fields if found == wanted]

    def rebuilt(self) -> bool:
        """Say whether the head is written as one writes who has nothing but the parsed values."""
        lines = [b" ".join(self.start), *(name + b": " + value for name, value in self.fields), b"", b""]
        return self.head.lower() == b"\r\n".join(lines).lower()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a recording holds."""

    messages: tuple[Message, ...]
    """In order; only the last can be incomplete."""
    rest: bytes = b""
    """What was not read: after a fault, after a switch of protocols."""
    fault: str | None = None

    @property
    def complete(self) -> list[Message]:
        return [message for message in self.messages if message.complete]


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def line(self) -> bytes:
        end = self.data.find(b"\r\n", self.at)
        if end < 0:
            _refuse_ends(self.data[self.at :].removesuffix(b"\r"))
            raise _IncompleteError
        line = self.data[self.at : end]
        _refuse_ends(line)
        self.at = end + 2
        return line

    def take(self, count: int) -> bytes:
        taken = self.data[self.at : self.at + count]
        self.at += len(taken)
        return taken

    def fields(self) -> Fields:
        found: list[tuple[bytes, bytes]] = []
        while line := self.line():
            match = _FIELD_LINE.fullmatch(line)
            if match is None:
                raise FaultError("a line that is no field")
            found.append((match[1].lower(), match[2]))
        return tuple(found)


def _refuse_ends(line: bytes) -> None:
    if b"\r" in line or b"\n" in line or b"\0" in line:
        raise FaultError("a CR, LF or NUL inside a line")


def read_requests(data: bytes, *, extensions: bool = False) -> Reading:
    """Read what one connection to a server received.

    Args:
        data: All of it.
        extensions: Allow chunk extensions, which a client may send and no proxy forwards (RFC 9112 section 7.1.1).
    """
    cursor, messages = _Cursor(data), list[Message]()
    while cursor.at < len(data):
        begun = cursor.at
        try:
            message = _read_request(cursor, extensions=extensions)
        except _IncompleteError:
            return Reading(tuple(messages), data[begun:])
        except FaultError as fault:
            return Reading(tuple(messages), data[begun:], str(fault))
        messages.append(message)
    return Reading(tuple(messages))


def _read_request(cursor: _Cursor, *, extensions: bool) -> Message:
    begun = cursor.at
    line = _REQUEST_LINE.fullmatch(cursor.line())
    if line is None:
        raise FaultError("no request line")
    fields = cursor.fields()
    head = cursor.data[begun : cursor.at]
    message = Message((line[1], line[2], line[3]), fields, head)
    if len(message.all("host")) != 1:
        raise FaultError("not exactly one Host")
    length = _length(message, line[3])
    return _with_body(cursor, message, 0 if length is None else length, extensions=extensions)


def read_responses(data: bytes, methods: Sequence[bytes] = (), *, ended: bool = True) -> Reading:
    """Read what one client received; interim responses are messages too.

    Args:
        data: All of it.
        methods: Of the requests that were answered, in order; beyond them GET is assumed.
        ended: Whether the connection has ended, which is what ends some bodies.
    """
    cursor, messages = _Cursor(data), list[Message]()
    finals = 0
    while cursor.at < len(data):
        begun = cursor.at
        try:
            method = methods[finals] if finals < len(methods) else b"GET"
            message = _read_response(cursor, method, ended=ended)
        except _IncompleteError:
            return Reading(tuple(messages), data[begun:])
        except FaultError as fault:
            return Reading(tuple(messages), data[begun:], str(fault))
        messages.append(message)
        if message.status == 101:
            return Reading(tuple(messages), data[cursor.at :])
        finals += message.status >= 200
    return Reading(tuple(messages))


def _read_response(cursor: _Cursor, method: bytes, *, ended: bool) -> Message:
    begun = cursor.at
    line = _STATUS_LINE.fullmatch(cursor.line())
    if line is None:
        raise FaultError("no status line")
    fields = cursor.fields()
    message = Message((line[1], line[2], line[3]), fields, cursor.data[begun : cursor.at])
    length = _length(message, line[1])
    if message.status < 200 or message.status == 204:
        # RFC 9112 section 6.1 and RFC 9110 section 8.6: a sender must not frame what has no content.
        if length is not None:
            raise FaultError("framing where there can be no content")
        return message
    if method == b"HEAD" or message.status == 304:
        return message
    if length is None:
        body = cursor.take(len(cursor.data))
        return _replaced(message, body, complete=ended)
    return _with_body(cursor, message, length, extensions=False)


CHUNKED: Final = -1


def _length(message: Message, version: bytes) -> int | None:
    """Return the length of the body as stated (RFC 9112 section 6.3): a number, `CHUNKED`, or None for not stated."""
    lengths, codings = message.all("content-length"), message.all("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise FaultError("framed more than once")
    if codings:
        if codings[0].lower() != b"chunked" or version != b"HTTP/1.1":
            raise FaultError("a transfer coding other than chunked, or in HTTP/1.0")
        return CHUNKED
    if lengths:
        if re.fullmatch(rb"[0-9]+", lengths[0]) is None:
            raise FaultError("a length that is no number")
        return int(lengths[0])
    return None


def _with_body(cursor: _Cursor, message: Message, length: int, *, extensions: bool) -> Message:
    if length != CHUNKED:
        body = cursor.take(length)
        return _replaced(message, body, complete=len(body) == length)
    body, framing = b"", b""
    while True:
        try:
            line = cursor.line()
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None or (size[2] and not extensions):
                raise FaultError("a chunk-size line that says more than a size")
            framing += line + b"\r\n"
            count = int(size[1], 16)
            if not count:
                return _replaced(message, body, framing, cursor.fields())
        except _IncompleteError:
            break
        content, end = cursor.take(count), cursor.take(2)
        body += content
        if not b"\r\n".startswith(end):
            raise FaultError("a chunk that does not end where it says")
        if len(end) < 2:
            break
    cursor.take(len(cursor.data))
    return _replaced(message, body, framing, complete=False)


def _replaced(
    message: Message, body: bytes, framing: bytes = b"", trailers: Fields = (), *, complete: bool = True
) -> Message:
    return Message(message.start, message.fields, message.head, body, framing, trailers, complete)
