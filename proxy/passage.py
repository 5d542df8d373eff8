"""One exchange on its way: moves the bytes between a client, the two state machines and a service.

All decisions about HTTP are the machines' (`ServerConnection` towards the client, `Exchange` towards the service);
all decisions about who may pass are the actor's, who can pull the visit's cord at any moment. What is left here
is waiting, in the right order, for whoever is slow: each piece is read only after the piece before it has been
handed on, so a slow reader slows its own service and nothing is ever stored up.
"""

from enum import Enum, auto
from typing import Final

import trio

from actors import CutBecause, NotListeningError, Visit
from proxy.core.exchange import (
    Exchange,
    ExchangeEvent,
    Informational,
    ResponseContent,
    ResponseEnded,
    ResponseStarted,
    SwitchedProtocols,
    UpstreamClosedError,
)
from proxy.core.headers import Forwarding
from proxy.core.http1 import BadRequestError, BadResponseError, RequestHead, ResponseHead
from proxy.core.pages import Answer, Code, refusal
from proxy.core.serving import RequestContent, RequestEnded, RequestStarted, ServerConnection, Signal
from proxy.core.websocket import FrameTracker, close_frame, is_websocket_upgrade
from proxy.options import Options
from proxy.transport import RECEIVE_BYTES
from proxy.upstream import Pool, Upstream, connect

PIPELINED_BYTES_MAX: Final = 64 * 1024
"""What is read ahead from a client while its request is being answered; then its own sending is held up."""

HALF_CLOSED_GRACE_S: Final = 5.0
"""How long a client that has ended its sending, but not its request, is still taken to wait for the answer.
``nc`` and its like do that; a browser tab that was closed looks just the same."""

CLOSE_CODES: Final = {
    # RFC 6455 section 7.4.1; 1012 is in its registry as "service restart".
    CutBecause.RUN_ENDED: 1012,
}
GOING_AWAY: Final = 1001


class Ended(Enum):
    """How a passage came to its end, for the connection's next step."""

    COMPLETE = auto()
    """The client has a whole answer; the connection may go on if the machine says so."""
    UPGRADED = auto()
    """It carried raw bytes; there is nothing more to say on it."""
    CUT = auto()
    """The cord was pulled before the client had been told anything."""
    ABORTED = auto()
    """The client's answer is cut off, and must be seen to be."""


class Passage:
    """One request's way to its service and back."""

    __slots__ = (
        "_bad_request",
        "_client",
        "_client_gone",
        "_exchange",
        "_forwarding",
        "_head",
        "_http",
        "_options",
        "_pool",
        "_scope",
        "_started",
        "_tracker",
        "_upstream",
        "_visit",
        "bytes_sent",
        "status",
    )

    def __init__(
        self,
        client: trio.abc.Stream,
        http: ServerConnection,
        started: RequestStarted,
        forwarding: Forwarding,
        visit: Visit,
        head: RequestHead,
        pool: Pool,
        options: Options,
    ) -> None:
        """Prepare; nothing is dialled yet.

        Args:
            client: The client's stream. While `run` runs nobody else may send on it.
            http: The machine of its connection, at `started`.
            started: The request.
            forwarding: How its response's fields are passed on.
            visit: Admitted; the caller ends it after `run`.
            head: The request as the service shall see it.
            pool: Where clean connections are taken from and left.
            options: Times.
        """
        self._client = client
        self._http = http
        self._started = started
        self._forwarding = forwarding
        self._visit = visit
        self._pool = pool
        self._options = options
        self._head = head
        self._exchange = self._new_exchange()
        self._upstream: Upstream | None = None
        self._scope = trio.CancelScope()
        self._client_gone = False
        self._tracker: FrameTracker | None = None
        self._bad_request: BadRequestError | None = None
        self.status = 0
        """Of the final answer; 0 while there is none."""
        self.bytes_sent = 0
        """Content bytes of the response, or raw bytes after an upgrade, handed to the client."""

    def _new_exchange(self) -> Exchange:
        started = self._started
        return Exchange(
            self._head,
            started.framing,
            upgrade=started.upgrade,
            expect_continue=started.expect_continue,
            limits=self._options.http,
        )

    async def run(self) -> Ended | Answer:
        """Take the request to the service and its response back.

        Returns how it ended, or, while the client has been told nothing yet, what to tell it.

        Raises:
            trio.BrokenResourceError: The client is gone.
            BadRequestError: The client broke the protocol before the answer had begun.
        """
        self._visit.on_cut(self._on_cut)
        answer: Answer | None = None
        try:
            with self._scope:
                answer = await self._pass()
            if answer is not None:
                return answer
            if self._scope.cancelled_caught:
                return await self._interrupted()
            return Ended.UPGRADED if self._exchange.switched else Ended.COMPLETE
        except (UpstreamClosedError, BadResponseError) as error:
            return self._failed(Code(error.code))
        finally:
            await self._let_go_of_upstream()

    async def watch(self) -> None:
        """Notice that a waiting client has gone; keep what it pipelines meanwhile, up to a bound.

        Reads from the client: nobody else may until this has returned or been cancelled.
        """
        http = self._http
        while http.buffered < PIPELINED_BYTES_MAX:
            try:
                data = await self._client.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                self.cancel()
                return
            if not data:
                http.receive_eof()
                await trio.sleep(HALF_CLOSED_GRACE_S)
                self.cancel()
                return
            http.receive(bytes(data))

    @property
    def reads_client(self) -> bool:
        """Whether the passage itself reads from the client, so that nobody else need watch it."""
        return self._started.framing.has_body or self._started.upgrade is not None

    def cancel(self) -> None:
        """Stop: the client is gone, or the server is closing for good."""
        self._client_gone = True
        self._scope.cancel()

    def _on_cut(self, _reason: CutBecause) -> None:
        self._scope.cancel()

    async def _pass(self) -> Answer | None:
        upstream = await self._pool.take(self._visit.grant.run_id, int(self._visit.grant.port))
        if upstream is not None:
            self._upstream = upstream
            try:
                await self._exchange_bytes(upstream)
            except UpstreamClosedError:
                if not self._exchange.retryable:
                    raise
                # The service closed the kept connection as we reached for it. What was sent on it was idempotent,
                # had no content, and had no byte of an answer: a fresh connection, once.
                self._upstream = None
                await upstream.aclose()
                self._exchange = self._new_exchange()
            else:
                return None
        port = int(self._visit.grant.port)
        try:
            self._upstream = await connect(self._visit, self._options.connect_timeout_s)
        except NotListeningError as error:
            return refusal(Code.NOT_LISTENING, port=port, detail=str(error))
        except trio.TooSlowError:
            text = f"the service did not accept a connection within {self._options.connect_timeout_s:g} s"
            return refusal(Code.UPSTREAM_TIMEOUT, port=port, detail=text)
        await self._exchange_bytes(self._upstream)
        return None

    async def _exchange_bytes(self, upstream: Upstream) -> None:
        try:
            await upstream.stream.send_all(self._exchange.start())
        except trio.BrokenResourceError as error:
            raise self._closed("The service closed the connection.") from error
        if self._exchange.request_ended and self._started.upgrade is None:
            # Most requests: nothing is left to send, so one direction is all there is.
            self._http.next_event()  # RequestEnded, as the framing says; it was given if this is a second try
            self._await_response()
            await self._pass_response(upstream)
            return
        await self._both_ways(upstream)

    async def _both_ways(self, upstream: Upstream) -> None:
        """Send the request's content while the response comes, whichever ends first."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_request, upstream, nursery.cancel_scope)
            try:
                await self._pass_response(upstream)
            except (UpstreamClosedError, BadResponseError, trio.BrokenResourceError) as error:
                # Carried past the nursery, which would wrap it in a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._bad_request is not None:
            raise self._bad_request
        if self._exchange.switched:
            await self._relay(upstream)

    async def _pass_request(self, upstream: Upstream, both: trio.CancelScope) -> None:
        """Send the content, then watch over the waiting client. What went wrong is left in `_bad_request`."""
        try:
            if await self._send_request(upstream):
                self._await_response()
                await self.watch()
        except BadRequestError as error:
            # Told to the client if nothing has been yet; else the cut connection says it.
            self._bad_request = error
            both.cancel()
        except trio.BrokenResourceError:
            self.cancel()

    async def _send_request(self, upstream: Upstream) -> bool:
        """Send it all; False if the service does not want it (its answer will come, or its end)."""
        http, exchange = self._http, self._exchange
        while True:
            event = http.next_event()
            if isinstance(event, RequestContent):
                # A client that asked to be told to continue, and was not, has lost patience: nothing to wait for.
                exchange.stop_awaiting_continue()
                data = exchange.request_content(event.data)
            elif isinstance(event, RequestEnded):
                data = exchange.request_end(event.trailers)
            elif event is Signal.NEED_DATA:
                received = await self._client.receive_some(RECEIVE_BYTES)
                if received:
                    http.receive(bytes(received))
                else:
                    http.receive_eof()
                continue
            else:
                raise RuntimeError(f"no {event} is due inside a request")
            if data:
                try:
                    await upstream.stream.send_all(data)
                except trio.BrokenResourceError:
                    # It may have answered and closed without reading on (RFC 9112 section 9.5): its response decides.
                    return False
            if isinstance(event, RequestEnded):
                return True

    async def _pass_response(self, upstream: Upstream) -> None:
        exchange, stream = self._exchange, upstream.stream
        while not exchange.response_ended:
            try:
                data = await stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise self._closed("The service reset the connection.") from error
            events = exchange.receive(bytes(data)) if data else exchange.receive_eof()
            out = self._written(events)
            if out:
                await self._client.send_all(out)
            if exchange.switched:
                return

    def _closed(self, text: str) -> UpstreamClosedError:
        return UpstreamClosedError(text, mid_response=self._exchange.response_started)

    def _written(self, events: list[ExchangeEvent]) -> bytes:
        """Return what the client is to be sent, in one piece."""
        http, out = self._http, []
        for event in events:
            if isinstance(event, ResponseContent):
                self.bytes_sent += len(event.data)
                out.append(http.content(event.data))
            elif isinstance(event, ResponseStarted):
                # From here on there is no deadline: a stream may be as slow as it likes.
                self._scope.deadline = float("inf")
                self.status = event.head.status
                out.append(http.respond(self._forwarded(event.head), event.framing))
            elif isinstance(event, ResponseEnded):
                out.append(http.end(event.trailers))
            elif isinstance(event, Informational):
                out.append(http.informational(self._forwarded(event.head)))
            else:
                out.append(self._switch(event))
        return out[0] if len(out) == 1 else b"".join(out)

    def _forwarded(self, head: ResponseHead) -> ResponseHead:
        fields = self._forwarding.forward_response(head.fields)
        return ResponseHead(head.status, head.reason, fields, head.http_version)

    def _switch(self, event: SwitchedProtocols) -> bytes:
        self._scope.deadline = float("inf")
        self.status = 101
        forwarded = self._forwarded(event.head)
        # The protocol switched to is ours to pass on: `forward_response` drops it as a hop-by-hop field.
        forwarded.fields += [field for field in event.head.fields if field[0] == b"upgrade"]
        out = self._http.switch_protocols(forwarded)
        if is_websocket_upgrade(self._started.head):
            self._tracker = FrameTracker(masked=False)
            self._tracker.feed(event.leftover)
        self.bytes_sent += len(event.leftover)
        return out + event.leftover

    def _await_response(self) -> None:
        if not self._exchange.response_started:
            self._scope.deadline = trio.current_time() + self._options.response_timeout_s

    async def _relay(self, upstream: Upstream) -> None:
        """Raw bytes both ways, half-closes kept, until both directions have ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay_up, upstream, nursery.cancel_scope)
            try:
                while data := await upstream.stream.receive_some(RECEIVE_BYTES):
                    if self._tracker is not None:
                        self._tracker.feed(data)
                    self.bytes_sent += len(data)
                    await self._client.send_all(data)
                await _end_sending(self._client)
            except trio.BrokenResourceError:
                # Expected: either side has gone. The other is let go with it.
                nursery.cancel_scope.cancel()

    async def _relay_up(self, upstream: Upstream, both: trio.CancelScope) -> None:
        try:
            data = self._http.take_buffer()
            if data:
                await upstream.stream.send_all(data)
            while more := await self._client.receive_some(RECEIVE_BYTES):
                await upstream.stream.send_all(more)
            await _end_sending(upstream.stream)
        except trio.BrokenResourceError:
            both.cancel()

    async def _interrupted(self) -> Ended | Answer:
        """The cord was pulled, the client left, or the service took too long."""
        if self._visit.cut_because is not None:
            if self._exchange.switched:
                await self._say_goodbye(self._visit.cut_because)
                return Ended.UPGRADED
            if not self._http.response_started:
                return Ended.CUT
        elif not self._client_gone and not self._http.response_started:
            text = f"the service did not answer within {self._options.response_timeout_s:g} s"
            return refusal(Code.UPSTREAM_TIMEOUT, port=int(self._visit.grant.port), detail=text)
        return Ended.ABORTED

    async def _say_goodbye(self, reason: CutBecause) -> None:
        """Close a WebSocket with a reason, if the client can still read a frame where it stands."""
        if self._tracker is None or not self._tracker.at_boundary:
            return
        frame = close_frame(CLOSE_CODES.get(reason, GOING_AWAY), reason.value)
        with trio.move_on_after(1):
            try:
                await self._client.send_all(frame)
                await _end_sending(self._client)
            except trio.BrokenResourceError:
                # It has left already.
                return

    def _failed(self, code: Code) -> Ended | Answer:
        if self._http.response_started:
            return Ended.ABORTED
        return refusal(code, port=int(self._visit.grant.port))

    async def _let_go_of_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if self._exchange.reusable and self._visit.cut_because is None:
            await self._pool.put(upstream)
        else:
            await upstream.aclose()


async def _end_sending(stream: trio.abc.AsyncResource) -> None:
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
