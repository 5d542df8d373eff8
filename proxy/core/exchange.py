"""One request and its response, passing to a service and back: the service side, without I/O.

The exchange writes the request with a framing of its own and reads the response under the rules of
`proxy.core.http1`. It owns one service connection for its duration; whoever drives it moves the bytes.
Both directions are independent, so a response may begin before the request has ended.

What it guards above all is that the connection is never handed on out of step: it is ``reusable`` only
when both messages are complete, both ends mean to keep it, and not one byte came that belongs to neither.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from proxy.core.body import (
    NO_TRAILERS,
    BadBodyError,
    Body,
    TruncatedBodyError,
    allowed_trailers,
    body_reader,
    chunk,
    last_chunk,
)
from proxy.core.http1 import (
    DEFAULT_LIMITS,
    IDEMPOTENT_METHODS,
    BadResponseError,
    Field,
    Framing,
    FramingKind,
    Limits,
    RequestHead,
    ResponseHead,
    connection_options,
    find_head_end,
    flawed_so_far,
    keeps_alive,
    read_response_head,
    response_framing,
    values,
    write_request_head,
)

# One 100, one 103 per wave of hints; a service that sends more is not going to answer.
INFORMATIONAL_MAX = 16

ReadResponseHead = Callable[[bytes, Limits], ResponseHead]
"""How a response head is read."""


class UpstreamClosedError(Exception):
    """The service closed the connection before its response was complete."""

    code: ClassVar[str] = "UPSTREAM_CLOSED"

    def __init__(self, text: str, *, mid_response: bool) -> None:
        super().__init__(text)
        self.mid_response = mid_response
        """True once `ResponseStarted` was given: the client must then see a cut-off body, not a 502."""


class Informational(NamedTuple):
    """An interim response (1xx, never 101)."""

    head: ResponseHead


class ResponseStarted(NamedTuple):
    """The final head has come."""

    head: ResponseHead
    framing: Framing


class ResponseContent(NamedTuple):
    """Some of the response's content."""

    data: bytes

    def __repr__(self) -> str:
        """Give the size only: content may be secret, and large."""
        return f"ResponseContent({len(self.data)} bytes)"


class ResponseEnded(NamedTuple):
    """The response is complete."""

    trailers: Sequence[Field]

    def __repr__(self) -> str:
        """Give the number of trailers only."""
        return f"ResponseEnded({len(self.trailers)} trailers)"


class SwitchedProtocols(NamedTuple):
    """The service accepted the upgrade: from here on the connection carries raw bytes."""

    head: ResponseHead
    leftover: bytes
    """The first of them."""

    def __repr__(self) -> str:
        """Give the size of what followed only."""
        return f"SwitchedProtocols({self.head!r}, {len(self.leftover)} bytes)"


ExchangeEvent = Informational | ResponseStarted | ResponseContent | ResponseEnded | SwitchedProtocols

_ENDED_PLAINLY = ResponseEnded(NO_TRAILERS)

_OWN_FIELDS = frozenset(
    b"connection content-length transfer-encoding keep-alive proxy-connection upgrade expect".split()
)
_CHUNKED: Field = (b"transfer-encoding", b"Transfer-Encoding", b"chunked")
_UPGRADE: Field = (b"connection", b"Connection", b"Upgrade")
_EXPECT: Field = (b"expect", b"Expect", b"100-continue")


class Exchange:
    """One request to a service and its response.

    Call `start` once and send what it gives; then, in any order, the content and end of the request, and
    `receive` for whatever the service sends.
    """

    __slots__ = (
        "_body",
        "_body_sent",
        "_broken",
        "_buffer",
        "_framing",
        "_head",
        "_informational_count",
        "_keep_alive",
        "_limits",
        "_pending",
        "_read_response_head",
        "_remaining",
        "_searched",
        "_silent",
        "_started",
        "_upgrade",
        "_written",
        "awaiting_continue",
        "request_ended",
        "response_ended",
        "response_started",
        "switched",
    )

    def __init__(
        self,
        head: RequestHead,
        framing: Framing,
        *,
        upgrade: bytes | None = None,
        expect_continue: bool = False,
        written: bytes | None = None,
        limits: Limits = DEFAULT_LIMITS,
        read_head: ReadResponseHead = read_response_head,
    ) -> None:
        """Prepare to send a request.

        Args:
            head: As the service shall see it, already rewritten. Fields that frame the message or concern
                the connection are dropped from it and written anew.
            framing: How the client framed the body; it is framed for the service in the same way.
            upgrade: The protocols to offer, or None.
            expect_continue: The client waits for a 100, and so do we: see `awaiting_continue`.
            written: The request head as bytes, if somebody has written it already: see
                `Forwarding.write_plain_request`. Of `head` only the method counts then.
            limits: For the response head and its trailers.
            read_head: `read_response_head`, or what reads as it does.
        """
        if framing.kind is FramingKind.UNTIL_CLOSE:
            raise ValueError("a request cannot be framed by the end of the connection")
        self._head = head
        self._framing = framing
        self._upgrade = upgrade
        self._written = written
        self._limits = limits
        self._read_response_head = read_head
        self._started = False
        self._body_sent = False
        self._remaining = framing.length
        self._silent = True
        """Not one byte of a response has come."""
        self._buffer = b""
        """An unfinished response head. Invariant: empty once the final head has come."""
        self._searched = 0
        """How much of the buffer holds no end of a head."""
        self._pending = b""
        """Received, and not read yet."""
        self._informational_count = 0
        self._body: Body | None = None
        self._keep_alive = False
        """The service means to go on with the connection: known from the final head on."""
        self._broken = False
        """Something came, or ended, that leaves the connection out of step. Never becomes False again."""
        self.awaiting_continue = expect_continue and framing.has_body
        """The request's content must be held back: neither a 100 nor a final response has come."""
        self.request_ended = not framing.has_body
        """Everything of the request has been written (once `start` has been called)."""
        self.response_started = False
        self.response_ended = False
        self.switched = False
        """The service has switched protocols; `receive` has nothing more to say."""

    @property
    def pending(self) -> bool:
        """Whether more events are to be had by ``receive(b"")``, after giving others a turn."""
        return bool(self._pending) and not self._broken

    @property
    def content_complete(self) -> bool:
        """Whether as much content has been written as the length of the request says: only its end is due."""
        return self._framing.kind is FramingKind.LENGTH and not self._remaining and not self.request_ended

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request after this one."""
        return self._keep_alive and self.response_ended and self.request_ended and not self._broken

    @property
    def retryable(self) -> bool:
        """Whether sending the request again on another connection cannot be noticed (RFC 9110 section 9.2.2).

        True only if the method is idempotent, no content was sent, and not one byte of a response came.
        """
        return self._silent and not self._body_sent and self._head.method in IDEMPOTENT_METHODS

    def start(self) -> bytes:
        """Write the request head."""
        if self._started:
            raise RuntimeError("an exchange starts once")
        self._started = True
        if self._written is not None:
            return self._written
        head = self._head
        fields = [field for field in head.fields if field[0] not in _OWN_FIELDS]
        if self._framing.kind is FramingKind.CHUNKED:
            fields.append(_CHUNKED)
        elif self._framing.kind is FramingKind.LENGTH:
            fields.append((b"content-length", b"Content-Length", b"%d" % self._framing.length))
        if self.awaiting_continue:
            fields.append(_EXPECT)
        if self._upgrade is not None:
            fields.append(_UPGRADE)
            fields.append((b"upgrade", b"Upgrade", self._upgrade))
        return write_request_head(head.method, head.target, fields)

    def stop_awaiting_continue(self) -> None:
        """Let the content go although no 100 came: not every service sends one (RFC 9110 section 10.1.1)."""
        self.awaiting_continue = False

    def request_content(self, data: bytes) -> bytes:
        """Write content of the request.

        Raises:
            RuntimeError: If it exceeds the length, comes after the end, or is still `awaiting_continue`.
        """
        if self.request_ended or self.awaiting_continue or not self._started:
            raise RuntimeError("content comes between the start and the end of a request, and not before a 100")
        if data:
            self._body_sent = True
        if self._framing.kind is FramingKind.CHUNKED:
            return chunk(data)
        if len(data) > self._remaining:
            raise RuntimeError("there is more content than the length of the request")
        self._remaining -= len(data)
        return data

    def request_end(self, trailers: Sequence[Field] = NO_TRAILERS) -> bytes:
        """Write the end of the request; nothing is left to write when it has no body.

        Raises:
            RuntimeError: If content is missing.
        """
        if self.request_ended:
            return b""
        if self._framing.kind is FramingKind.LENGTH:
            if self._remaining:
                raise RuntimeError("there is less content than the length of the request")
            self.request_ended = True
            return b""
        if self.awaiting_continue or not self._started:
            raise RuntimeError("a body ends after it was let go")
        self._body_sent = True
        self.request_ended = True
        return last_chunk(trailers)

    def receive(self, data: bytes) -> list[ExchangeEvent]:
        """Take in what the service sent.

        Bytes after the end of the response give no event: they make the connection not ``reusable``.

        Raises:
            BadResponseError: If the service broke the protocol. What the same read brought before the fault
                is not told, so ``response_started`` says whether the client has been given a head: if not, it
                can be answered 502.
        """
        if self.switched or not self._started:
            raise RuntimeError("an exchange receives between its start and a switch of protocols")
        if self._pending:
            data, self._pending = self._pending + data, b""
        if self._broken or not data:
            return []
        self._silent = False
        events: list[ExchangeEvent] = []
        told = self.response_started
        try:
            if not told:
                data = self._read_heads(data, events)
            if self._body is not None:
                self._read_body(self._body, data, events)
        except BadResponseError:
            self._fail(told)
            raise
        except BadBodyError as error:
            self._fail(told)
            raise BadResponseError(str(error)) from error
        return events

    def receive_eof(self) -> list[ExchangeEvent]:
        """Take note that the service will send no more; ends a response that only this could end.

        Raises:
            UpstreamClosedError: If the response is not complete.
        """
        self._broken = True
        if self.response_ended or self.switched:
            return []
        body = self._body
        if body is None:
            raise UpstreamClosedError("The service closed the connection without a response.", mid_response=False)
        try:
            body.eof()
        except TruncatedBodyError as error:
            raise UpstreamClosedError(str(error), mid_response=True) from error
        self.response_ended = True
        return [_ENDED_PLAINLY]

    def _fail(self, told: bool) -> None:
        self._broken = True
        self.response_started = told

    def _read_heads(self, data: bytes, events: list[ExchangeEvent]) -> bytes:
        """Read heads up to the final one; return what follows it."""
        buffer = self._buffer + data if self._buffer else data
        while True:
            end = find_head_end(buffer, self._searched)
            if end < 0:
                self._wait_for_head(buffer)
                return b""
            head = self._read_response_head(buffer[:end], self._limits)
            buffer = buffer[end:]
            self._searched = 0
            if head.status >= 200:
                break
            if head.status == 101:
                self._judge_switch(head)
                self._buffer = b""
                self.switched = True
                self._broken = True
                events.append(SwitchedProtocols(head, buffer))
                return b""
            self._informational_count += 1
            if self._informational_count > INFORMATIONAL_MAX:
                raise BadResponseError("The service sent too many interim responses.")
            if head.status == 100:
                self.awaiting_continue = False
            events.append(Informational(head))
        self._buffer = b""
        self.awaiting_continue = False
        framing = response_framing(head, self._head.method)
        self._keep_alive = not head.closes if head.lines is not None else keeps_alive(head.http_version, head.fields)
        self._body = body_reader(framing, self._limits)
        self.response_started = True
        events.append(ResponseStarted(head, framing))
        return buffer

    def _wait_for_head(self, buffer: bytes) -> None:
        size = len(buffer)
        if buffer[:7] != b"HTTP/1."[:size]:
            # A service that speaks something else may wait for us to speak on: say so now.
            raise BadResponseError("The service does not speak HTTP/1.")
        if size > self._limits.head_bytes_max or flawed_so_far(buffer, max(self._searched - 1, 0)):
            raise BadResponseError("The response head is too large or holds a forbidden byte.")
        # The last three bytes may be the beginning of the end.
        self._searched = max(size - 3, 0)
        self._buffer = buffer

    def _judge_switch(self, head: ResponseHead) -> None:
        """Accept a 101 only to a protocol that was offered (RFC 9110 sections 7.8 and 15.2.2)."""
        accepted = _protocols(b",".join(values(head.fields, b"upgrade")))
        if (
            self._upgrade is None
            or not accepted
            or not accepted <= _protocols(self._upgrade)
            or b"upgrade" not in connection_options(head.fields)
        ):
            raise BadResponseError("The service switched to a protocol that was not offered.")

    def _read_body(self, body: Body, data: bytes, events: list[ExchangeEvent]) -> None:
        if not body.done and data:
            content, taken = body.feed(data)
            data = data[taken:]
            if content:
                events.append(ResponseContent(content))
        if not body.done:
            self._pending = data
            return
        if data:
            self._broken = True
        if not self.response_ended:
            self.response_ended = True
            trailers = body.trailers
            events.append(ResponseEnded(allowed_trailers(trailers)) if trailers else _ENDED_PLAINLY)


def _protocols(listed: bytes) -> set[bytes]:
    return {name for part in listed.split(b",") if (name := part.strip(b" \t").lower())}
