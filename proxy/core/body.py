"""Bodies of HTTP/1.1 messages: where each ends, and what of it is content.

A reader is fed whatever arrived and says what was content and how many bytes it took; what it did not
take belongs to the next message. It holds back no content, and of the framing at most one unfinished
line or trailer section, so a body of any length passes in constant memory.

The chunked reader is strict because two readers of one chunk-size line can disagree about where a body
ends: sizes are 1 to 16 hex digits with nothing around them, every line ends in CRLF, and extensions, which
nobody needs and which are never forwarded, must keep to their grammar and are bounded one by one and in sum.
"""

import enum
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from proxy.core.fates import passes_untouched
from proxy.core.http1 import (
    DEFAULT_LIMITS,
    TOKEN,
    Field,
    Framing,
    FramingKind,
    Limits,
    flawed_so_far,
    read_fields,
    write_block,
)

# Holds a signed-chunk extension (about 85 bytes) with room to spare.
EXTENSION_BYTES_MAX = 256
# What the framing of a body may cost beyond 16 bytes a chunk and twice its content, as in Go's
# net/http since CVE-2023-39326: one-byte chunks never exceed it, chunks of extensions soon do.
OVERHEAD_BYTES_MAX = 16 * 2**10

NO_TRAILERS: tuple[Field, ...] = ()

# RFC 9110 section 6.5.1. Framing, routing, authentication: in a request, one of these after the body is an attack.
_TRAILERS_REFUSED = frozenset(
    b"transfer-encoding content-length host trailer connection keep-alive proxy-connection te upgrade expect "
    b"authorization proxy-authorization cookie forwarded".split()
)
# The rest of that section: how to read the content, how to store it. What is judged or rewritten in the head, so
# that a late one would come in by the back door, is told by `passes_untouched`.
_TRAILERS_DROPPED = _TRAILERS_REFUSED | frozenset(
    b"max-forwards cache-control content-encoding content-type content-range "
    b"www-authenticate authentication-info".split()
)
_TRAILER_PREFIXES_DROPPED = (b"x-original-", b"x-oc-", b"sec-")

_SIZE = rb"[0-9A-Fa-f]{1,16}"
_EXTENSION = rb";[\t -~\x80-\xff]{0,%d}" % (EXTENSION_BYTES_MAX - 1)
# RFC 9112 section 7.1.1. A quote left open is where readers of extensions part ways, so the whole grammar is asked for.
_EXTENSION_NAMED = rb";[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (
    TOKEN,
    TOKEN,
    rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"',
)
# Looked at twice, the length first: backtracking has at most that much to go over.
_EXTENSIONS = rb"(?=%b\r\n)%b(?:[ \t]*%b)*" % (_EXTENSION, _EXTENSION_NAMED, _EXTENSION_NAMED)
_SIZE_LINE = re.compile(rb"(%b)(?:%b)?\r\n" % (_SIZE, _EXTENSIONS))
_SIZE_LINE_BEGUN = re.compile(rb"(?:%b(?:%b)?\r?)?" % (_SIZE, _EXTENSION))
# The CRLF that ends a chunk's content is matched together with the next size line: half the steps.
_NEXT_SIZE_LINE = re.compile(rb"\r\n(%b)(?:%b)?\r\n" % (_SIZE, _EXTENSIONS))
_NEXT_SIZE_LINE_BEGUN = re.compile(rb"\r(?:\n(?:%b(?:%b)?\r?)?)?" % (_SIZE, _EXTENSION))


CHUNKS_PER_FEED = 256
"""A read full of one-byte chunks holds some 11,000 of them, which take 20 ms: others must get their turn meanwhile."""


class BadBodyError(Exception):
    """The framing of a body is broken. Nothing on that connection can be read any more."""


class TruncatedBodyError(Exception):
    """The connection ended inside a body."""


class Body(Protocol):
    """Reads one body."""

    done: bool
    """Whether the body is complete. Nothing may be fed after it."""
    trailers: Sequence[Field]
    """Complete once ``done``; not yet judged, see `allowed_trailers`."""

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Take what belongs to this body from the front of ``data``.

        Returns:
            The content in it (``b""`` when only framing arrived), and how many bytes were taken; all of
            them, unless ``done``.

        Raises:
            BadBodyError: If the framing is broken.
        """

    def eof(self) -> None:
        """Take note that the peer will send no more.

        Raises:
            TruncatedBodyError: If the body is not complete by that.
        """


class LengthBody:
    """A body of a known number of bytes; with 0, done at once."""

    __slots__ = ("done", "remaining", "trailers")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0
        self.trailers: Sequence[Field] = NO_TRAILERS

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Take up to the stated length."""
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return data, size
        taken = self.remaining
        self.remaining = 0
        self.done = True
        return (data if taken == size else data[:taken]), taken

    def eof(self) -> None:
        """Refuse unless every byte has come."""
        if not self.done:
            raise TruncatedBodyError("The connection ended before the stated length.")


class UntilCloseBody:
    """A body that only the end of the connection ends: responses only."""

    __slots__ = ("done", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.trailers: Sequence[Field] = NO_TRAILERS

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Take everything."""
        return data, len(data)

    def eof(self) -> None:
        """Complete the body."""
        self.done = True


class _Expecting(enum.Enum):
    SIZE_LINE = enum.auto()
    CONTENT = enum.auto()
    NEXT_SIZE_LINE = enum.auto()
    TRAILERS = enum.auto()


class ChunkedBody:
    """A chunked body (RFC 9112 section 7.1)."""

    __slots__ = ("_begun", "_expecting", "_limits", "_overhead", "_remaining", "done", "trailers")

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._expecting = _Expecting.SIZE_LINE
        self._begun = b""
        """An unfinished line or trailer section. Invariant: bounded by the patterns and by the limits."""
        self._remaining = 0
        """Bytes of content still to come of the current chunk."""
        self._overhead = 0
        self.done = False
        self.trailers: Sequence[Field] = NO_TRAILERS

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Take chunks up to the end of the trailer section, `CHUNKS_PER_FEED` at a time: call again for the rest."""
        carried = len(self._begun)
        if carried:
            data = self._begun + data
            self._begun = b""
        pieces: list[bytes] = []
        position, size = 0, len(data)
        chunks = 0
        while position < size and not self.done:
            if self._expecting is _Expecting.CONTENT:
                end = min(position + self._remaining, size)
                pieces.append(data[position:end])
                self._remaining -= end - position
                position = end
                if not self._remaining:
                    self._expecting = _Expecting.NEXT_SIZE_LINE
                    chunks += 1
                    if chunks == CHUNKS_PER_FEED:
                        break
                continue
            if self._expecting is _Expecting.TRAILERS:
                end = self._read_trailers(data, position)
            else:
                end = self._read_size_line(data, position)
            if end < 0:
                self._begun = data[position:]
                position = size
            else:
                position = end
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), position - carried

    def eof(self) -> None:
        """Refuse unless the last chunk and its trailer section have come."""
        if not self.done:
            raise TruncatedBodyError("The connection ended before the last chunk.")

    def _read_size_line(self, data: bytes, position: int) -> int:
        """Read one line; return where it ends, or -1 while it is unfinished."""
        first = self._expecting is _Expecting.SIZE_LINE
        line = (_SIZE_LINE if first else _NEXT_SIZE_LINE).match(data, position)
        if line is None:
            begun = _SIZE_LINE_BEGUN if first else _NEXT_SIZE_LINE_BEGUN
            if begun.fullmatch(data, position) is None:
                raise BadBodyError("A chunk is malformed.")
            return -1
        self._remaining = int(line[1], 16)
        end = line.end()
        overhead = self._overhead + end - position - 16 - 2 * self._remaining
        self._overhead = max(overhead, 0)
        if overhead > OVERHEAD_BYTES_MAX:
            raise BadBodyError("The chunks hold too much besides content.")
        self._expecting = _Expecting.CONTENT if self._remaining else _Expecting.TRAILERS
        return end

    def _read_trailers(self, data: bytes, position: int) -> int:
        """Read the trailer section; return where it ends, or -1 while it is unfinished."""
        if data.startswith(b"\r\n", position):
            self.done = True
            return position + 2
        end = data.find(b"\r\n\r\n", position)
        # Its last three bytes may be the beginning of the end: how the section is cut must not decide.
        if (len(data) - 3 if end < 0 else end) - position > self._limits.trailer_bytes_max:
            raise BadBodyError("The trailer section is too large.")
        if end < 0:
            if flawed_so_far(data, position):
                raise BadBodyError("The trailer section is malformed.")
            return -1
        trailers = read_fields(data[position : end + 2])
        if trailers is None or len(trailers) > self._limits.fields_max:
            raise BadBodyError("The trailer section is malformed or has too many fields.")
        self.trailers = trailers
        self.done = True
        return end + 4


def body_reader(framing: Framing, limits: Limits = DEFAULT_LIMITS) -> Body:
    """Make the reader for a framing."""
    match framing.kind:
        case FramingKind.CHUNKED:
            return ChunkedBody(limits)
        case FramingKind.UNTIL_CLOSE:
            return UntilCloseBody()
        case FramingKind.NONE | FramingKind.LENGTH:
            return LengthBody(framing.length)


def is_refused_trailer(name: bytes) -> bool:
    """Whether a trailer of that lower-case name is reason enough to refuse a request."""
    return name in _TRAILERS_REFUSED


def allowed_trailers(trailers: Iterable[Field]) -> Sequence[Field]:
    """The trailers that may be passed on; the others would do harm where nothing judges them."""
    return [field for field in trailers if not _is_dropped_trailer(field[0])]


def _is_dropped_trailer(name: bytes) -> bool:
    # Also in the spelling that CGI and its kin take for the same name. Servers that put trailers among the fields of
    # the head (RFC 9110 section 6.5.1 warns of them) would believe there what no client may say in the head.
    folded = name.replace(b"_", b"-")
    return folded in _TRAILERS_DROPPED or folded.startswith(_TRAILER_PREFIXES_DROPPED) or not passes_untouched(name)


def chunk(data: bytes) -> bytes:
    """Write one chunk; ``b""`` for no data, because an empty chunk would end the body.

    The copy is wanted: one buffer is one send, and costs less than a second system call.
    """
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: Sequence[Field] = NO_TRAILERS) -> bytes:
    """Write the end of a chunked body.

    Raises:
        ValueError: If a trailer could end a line before its time.
    """
    return write_block(b"0", trailers) if trailers else b"0\r\n\r\n"
