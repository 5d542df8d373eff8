"""The client side of one HTTP/1.1 connection: bytes in, events out; answers in, bytes out.

One request at a time, in order. After a request has ended the connection is PAUSED: what a client
pipelines stays in the buffer, unread, until the answer has ended too and `start_next` is called, so
that requests and answers cannot fall out of step. Request and answer are otherwise independent: an
answer may begin, and even end, before the request has (full duplex).

The framing of an answer towards the client is decided here and nowhere else: whatever Content-Length,
Transfer-Encoding or Connection a head brings along is dropped and written anew.

A shell, per read: ``receive(data)``, then ``next_event()`` until it gives a `Signal`. It should stop
reading from the client while ``buffered`` is above its bound.
"""

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.core.body import (
    NO_TRAILERS,
    BadBodyError,
    Body,
    LengthBody,
    TruncatedBodyError,
    allowed_trailers,
    body_reader,
    chunk,
    is_refused_trailer,
    last_chunk,
)
from proxy.core.http1 import (
    DEFAULT_LIMITS,
    NO_BODY,
    BadRequestError,
    BadResponseError,
    Field,
    Framing,
    FramingKind,
    Limits,
    RequestHead,
    ResponseHead,
    expects_continue,
    find_head_end,
    flawed_so_far,
    keeps_alive,
    read_request_head,
    request_framing,
    requested_upgrade,
    values,
    write_lines,
    write_response_head,
)

ReadHead = Callable[[bytes, Limits], RequestHead]
"""How a request head is read."""


class RequestStarted(NamedTuple):
    """A request head has come."""

    head: RequestHead
    framing: Framing
    expect_continue: bool
    """The client holds its body back until it sees a 100, or loses patience."""
    upgrade: bytes | None
    """The protocols it offers to switch to."""


class RequestContent(NamedTuple):
    """Some of the request's content, as much as has arrived."""

    data: bytes

    def __repr__(self) -> str:
        """Give the size only: content may be secret, and large."""
        return f"RequestContent({len(self.data)} bytes)"


class RequestEnded(NamedTuple):
    """The request is complete."""

    trailers: Sequence[Field]

    def __repr__(self) -> str:
        """Give the number of trailers only."""
        return f"RequestEnded({len(self.trailers)} trailers)"


class Signal(enum.Enum):
    """Why there is no event."""

    NEED_DATA = "need data"
    """Call `ServerConnection.receive` or `receive_eof`."""
    PAUSED = "paused"
    """The request is complete. Answer it, then call `ServerConnection.start_next`."""
    CONNECTION_ENDED = "connection ended"
    """The client closed its side between two requests. There is nobody to answer."""


ServerEvent = RequestStarted | RequestContent | RequestEnded | Signal

_ENDED_PLAINLY = RequestEnded(NO_TRAILERS)
_EMPTY_BODY = LengthBody(0)

_FRAMING_FIELDS = frozenset(b"connection content-length transfer-encoding keep-alive proxy-connection upgrade".split())
_CLOSE: Field = (b"connection", b"Connection", b"close")
_KEEP_ALIVE: Field = (b"connection", b"Connection", b"keep-alive")
_UPGRADE: Field = (b"connection", b"Connection", b"Upgrade")
_CHUNKED: Field = (b"transfer-encoding", b"Transfer-Encoding", b"chunked")


class _Reading(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()
    PAUSED = enum.auto()
    SWITCHED = enum.auto()


class _Writing(enum.Enum):
    HEAD = enum.auto()
    LENGTH = enum.auto()
    CHUNKED = enum.auto()
    UNTIL_CLOSE = enum.auto()
    NOTHING = enum.auto()
    """To HEAD, and with 204 and 304: content is swallowed, so that a page need not know."""
    ENDED = enum.auto()


class ServerConnection:
    """Reads the requests of one client connection and writes the answers to them."""

    __slots__ = (
        "_blank_skipped",
        "_body",
        "_buffer",
        "_eof",
        "_expecting",
        "_failure",
        "_head",
        "_limits",
        "_must_close",
        "_read_request_head",
        "_reading",
        "_remaining",
        "_searched",
        "_upgrade",
        "_writing",
        "content_sent",
        "status",
    )

    def __init__(self, limits: Limits = DEFAULT_LIMITS, read_head: ReadHead = read_request_head) -> None:
        """Begin without a request.

        Args:
            limits: Sizes.
            read_head: `read_request_head`, or what reads as it does.
        """
        self._limits = limits
        self._read_request_head = read_head
        # bytes, not bytearray: a read that is one head or one piece of content is then never copied. What
        # joining costs a client that drips is bounded by the head limit and by the shell's bound on `buffered`.
        self._buffer = b""
        self._searched = 0
        """How much of the buffer holds no end of a head."""
        self._blank_skipped = False
        self._eof = False
        self._failure: BadRequestError | None = None
        """The first error; what failed stays failed."""
        self._must_close = False
        """Never becomes False again."""
        self._reading = _Reading.HEAD
        self._writing = _Writing.HEAD
        self._head: RequestHead | None = None
        """The request being answered."""
        self._body: Body | None = None
        self._upgrade: bytes | None = None
        self._expecting = False
        """The client waits for a 100, as far as we know: none was sent, and no content has come."""
        self._remaining = 0
        """Content still owed under the Content-Length of the answer."""
        self.status = 0
        """Of the final answer to the request, or of the switch of protocols; 0 before there is one."""
        self.content_sent = 0
        """How many bytes of the answer's content have been written."""

    @property
    def buffered(self) -> int:
        """How many received bytes have not been read."""
        return len(self._buffer)

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow on this connection, as things stand.

        False after an error, when either side said close, and while the answer has ended but the request has
        not: reading on until `RequestEnded` makes it True again, closing is the alternative.
        """
        if self._must_close:
            return False
        return self._writing is not _Writing.ENDED or self._reading is _Reading.PAUSED

    @property
    def response_started(self) -> bool:
        """Whether the head of the final answer has been written, so that no other answer can be given."""
        return self._writing is not _Writing.HEAD

    @property
    def response_ended(self) -> bool:
        """Whether the answer has been written to its end."""
        return self._writing is _Writing.ENDED

    def receive(self, data: bytes) -> None:
        """Take in what the client sent; dropped once it has broken the protocol."""
        if self._failure is not None:
            return
        self._buffer = self._buffer + data if self._buffer else data

    def receive_eof(self) -> None:
        """Take note that the client will send no more; it may still wait for its answers."""
        self._eof = True

    def next_event(self) -> ServerEvent:
        """Read on.

        Raises:
            BadRequestError: If the client broke the protocol, again at each later call. It can still be
                answered with `respond`, unless ``response_started``; then the connection must be closed.
        """
        if self._failure is not None:
            raise self._failure
        try:
            if self._reading is _Reading.HEAD:
                return self._read_head()
            if self._reading is _Reading.BODY:
                return self._read_body()
        except BadRequestError as error:
            self._failure = error
            self._must_close = True
            self._buffer = b""
            raise
        if self._reading is _Reading.SWITCHED:
            raise RuntimeError("the connection has switched protocols: take_buffer()")
        return Signal.PAUSED

    def _read_head(self) -> ServerEvent:
        buffer = self._buffer
        if not self._blank_skipped and buffer.startswith(b"\r\n"):
            # RFC 9112 section 2.2: ignore one empty line that a careless client puts after a body.
            self._buffer = buffer = buffer[2:]
            self._blank_skipped = True
        end = find_head_end(buffer, self._searched)
        if end < 0:
            return self._wait_for_head()
        self._buffer = buffer[end:]
        self._searched = 0
        head = self._read_request_head(buffer[:end], self._limits)
        self._head = head
        if head.lines is not None:
            if head.closes:
                self._must_close = True
            self._upgrade = None
            self._expecting = False
            self._body = _EMPTY_BODY
            self._reading = _Reading.BODY
            return RequestStarted(head, NO_BODY, expect_continue=False, upgrade=None)
        framing = request_framing(head)
        if not keeps_alive(head.http_version, head.fields):
            self._must_close = True
        self._upgrade = requested_upgrade(head)
        self._expecting = framing.has_body and expects_continue(head)
        self._body = body_reader(framing, self._limits)
        self._reading = _Reading.BODY
        return RequestStarted(head, framing, self._expecting, self._upgrade)

    def _wait_for_head(self) -> ServerEvent:
        buffer = self._buffer
        if self._eof:
            if buffer:
                raise BadRequestError(400, "BAD_REQUEST", "The connection ended inside a request head.")
            self._must_close = True
            return Signal.CONNECTION_ENDED
        if flawed_so_far(buffer, max(self._searched - 1, 0)):
            raise BadRequestError(400, "BAD_REQUEST", "The request head holds a forbidden byte.")
        if len(buffer) > self._limits.head_bytes_max:
            if 0 <= buffer.find(b"\r\n") <= self._limits.target_bytes_max:
                raise BadRequestError(431, "HEAD_TOO_LARGE", "The request head is too large.")
            raise BadRequestError(414, "URI_TOO_LONG", "The request target is too long.")
        # The last three bytes may be the beginning of the end.
        self._searched = max(len(buffer) - 3, 0)
        return Signal.NEED_DATA

    def _read_body(self) -> ServerEvent:
        body = self._body
        assert body is not None
        if not body.done and self._buffer:
            try:
                content, taken = body.feed(self._buffer)
            except BadBodyError as error:
                raise BadRequestError(400, "BAD_REQUEST", str(error)) from error
            self._buffer = self._buffer[taken:]
            self._expecting = False
            if content:
                return RequestContent(content)
        if body.done:
            self._reading = _Reading.PAUSED
            return self._end_request(body.trailers)
        if self._eof:
            try:
                body.eof()
            except TruncatedBodyError as cut:
                raise BadRequestError(400, "BAD_REQUEST", str(cut)) from cut
        return Signal.NEED_DATA

    def _end_request(self, trailers: Sequence[Field]) -> RequestEnded:
        if not trailers:
            return _ENDED_PLAINLY
        if any(is_refused_trailer(name) for name, _, _ in trailers):
            raise BadRequestError(400, "BAD_REQUEST", "A field that frames or routes cannot be a trailer.")
        return RequestEnded(allowed_trailers(trailers))

    def informational(self, head: ResponseHead) -> bytes:
        """Write an interim answer; ``b""`` for a 1.0 client, which would not understand it."""
        if not 100 <= head.status < 200 or head.status == 101 or self._writing is not _Writing.HEAD:
            raise RuntimeError("an interim answer is a 1xx but 101, before the final one")
        if self._head is None or self._head.http_version != b"1.1":
            return b""
        if head.status == 100:
            self._expecting = False
        return write_response_head(head.status, head.reason, _without_framing(head.fields))

    def make_last(self) -> None:
        """Have the connection end with this answer, which then says so (RFC 9112 section 9.6).

        For whoever gives the whole answer at once and will not wait for what is left of the request.
        """
        self._must_close = True

    def respond(self, head: ResponseHead, framing: Framing) -> bytes:
        """Write the head of the final answer, with the framing that suits this client.

        ``framing`` is how the content will arrive here. A known length is kept; any other is chunked for a
        1.1 client and ended by closing for a 1.0 client. To HEAD and with 304 the Content-Length that the head
        states, or that a page of ours has, is told: it is what GET would bring. Also answers a request that raised
        `BadRequestError`.
        """
        if self._writing is not _Writing.HEAD or head.status < 200:
            raise RuntimeError("there is one final answer to a request, and its status is 200 or more")
        request = self._head
        if request is None and self._failure is None:
            raise RuntimeError("there is no request to answer")
        own = self._frame(request, head, framing)
        self.status = head.status
        if head.wires is not None:
            start = b"HTTP/1.1 %d %b" % (head.status, head.reason)
            return write_lines([start, *head.wires, *[received + b": " + value for _, received, value in own]])
        fields = _without_framing(head.fields)
        if head.status == 426:
            # It must say what to upgrade to (RFC 9110 section 15.5.22).
            fields += [field for field in head.fields if field[0] == b"upgrade"]
        return write_response_head(head.status, head.reason, fields + own)

    def _frame(self, request: RequestHead | None, head: ResponseHead, framing: Framing) -> list[Field]:
        """Decide how the content is framed and what becomes of the connection; return the fields that say so."""
        own: list[Field] = []
        modern = request is None or request.http_version == b"1.1"
        if (request is not None and request.method == b"HEAD") or head.status in (204, 304):
            self._writing = _Writing.NOTHING
            if framing.kind is FramingKind.LENGTH and head.status not in (204, 304):
                own.append((b"content-length", b"Content-Length", b"%d" % framing.length))
            elif head.status != 204:
                own += [field for field in head.fields if field[0] == b"content-length"]
        elif framing.kind is FramingKind.LENGTH or framing.kind is FramingKind.NONE:
            self._writing = _Writing.LENGTH
            self._remaining = framing.length
            own.append((b"content-length", b"Content-Length", b"%d" % framing.length))
        elif modern:
            self._writing = _Writing.CHUNKED
            own.append(_CHUNKED)
        else:
            self._writing = _Writing.UNTIL_CLOSE
            self._must_close = True
        if self._expecting:
            # The client may or may not send the body that it held back: what follows could be either
            # (RFC 9110 section 10.1.1), so nothing that follows is read.
            self._must_close = True
        if self._must_close:
            own.append(_CLOSE)
        elif not modern:
            own.append(_KEEP_ALIVE)
        return own

    def content(self, data: bytes) -> bytes:
        """Write content of the answer.

        Raises:
            BadResponseError: If it exceeds the stated Content-Length. Close the connection: the answer that
                the client holds is not a whole one.
        """
        if self._writing is _Writing.LENGTH:
            if len(data) > self._remaining:
                self._must_close = True
                raise BadResponseError("There is more content than the Content-Length says.")
            self._remaining -= len(data)
            self.content_sent += len(data)
            return data
        if self._writing is _Writing.CHUNKED:
            self.content_sent += len(data)
            return chunk(data)
        if self._writing is _Writing.UNTIL_CLOSE:
            self.content_sent += len(data)
            return data
        if self._writing is _Writing.NOTHING:
            return b""
        raise RuntimeError("content comes after the head of an answer and before its end")

    def end(self, trailers: Sequence[Field] = NO_TRAILERS) -> bytes:
        """Write the end of the answer; trailers reach the client only in a chunked one.

        An answer that cannot be completed has no end: close the connection without calling this, and the
        client sees that it is cut off.

        Raises:
            BadResponseError: If content is missing under the stated Content-Length. Close the connection.
        """
        writing = self._writing
        if writing is _Writing.HEAD or writing is _Writing.ENDED:
            raise RuntimeError("only an answer that has begun can end")
        if writing is _Writing.LENGTH and self._remaining:
            self._must_close = True
            raise BadResponseError("There is less content than the Content-Length says.")
        self._writing = _Writing.ENDED
        return last_chunk(trailers) if writing is _Writing.CHUNKED else b""

    def start_next(self) -> None:
        """Go on to the next request, which may be waiting in the buffer already.

        Raises:
            RuntimeError: Unless request and answer have ended and ``keep_alive`` holds.
        """
        if self._writing is not _Writing.ENDED or not self.keep_alive:
            raise RuntimeError("the connection cannot go on to another request now")
        self._reading = _Reading.HEAD
        self._writing = _Writing.HEAD
        self._blank_skipped = False
        self._head = None
        self._body = None
        self.status = self.content_sent = 0

    def switch_protocols(self, head: ResponseHead) -> bytes:
        """Write the 101 that accepts the client's offer; from here on the connection carries raw bytes.

        Raises:
            RuntimeError: If the request offered no other protocol, or is not complete.
        """
        if self._upgrade is None or self._reading is not _Reading.PAUSED or self._writing is not _Writing.HEAD:
            raise RuntimeError("only a complete request that offered it can switch protocols")
        fields = _without_framing(head.fields)
        fields.append(_UPGRADE)
        fields.append((b"upgrade", b"Upgrade", b", ".join(values(head.fields, b"upgrade"))))
        self._reading = _Reading.SWITCHED
        self._writing = _Writing.ENDED
        self._must_close = True
        self.status = 101
        return write_response_head(101, head.reason, fields)

    def take_buffer(self) -> bytes:
        """Give what the client sent after the request that switched protocols, once.

        Raises:
            RuntimeError: Before `switch_protocols`.
        """
        if self._reading is not _Reading.SWITCHED:
            raise RuntimeError("the connection has not switched protocols")
        data = self._buffer
        self._buffer = b""
        # Nothing will ask for the request again, and what it was may be remembered for hours.
        self._head = None
        self._body = None
        return data


def _without_framing(fields: list[Field]) -> list[Field]:
    return [field for field in fields if field[0] not in _FRAMING_FIELDS]
