"""One exchange on its way: moves the bytes between a client, the two state machines and a service.

All decisions about HTTP are the machines' (`ServerConnection` towards the client, `Exchange` towards the service);
all decisions about who may pass are the actor's, who can pull the visit's cord at any moment. What is left here
is waiting, in the right order, for whoever is slow: each piece is read only after the piece before it has been
handed on, so a slow reader slows its own service and nothing is ever stored up.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

import trio

from actors import CutBecause, NotListeningError, Visit
from proxy.core.answering import write_events
from proxy.core.exchange import (
    Exchange,
    ExchangeEvent,
    Informational,
    ResponseStarted,
    SwitchedProtocols,
    UpstreamClosedError,
)
from proxy.core.headers import Forwarding
from proxy.core.http1 import BadRequestError, BadResponseError, RequestHead
from proxy.core.pages import Answer, Code, refusal
from proxy.core.serving import RequestContent, RequestEnded, RequestStarted, ServerConnection, ServerEvent, Signal
from proxy.core.websocket import GOING_AWAY, is_websocket_upgrade
from proxy.door import READ_AHEAD_BYTES_MAX
from proxy.options import Options
from proxy.patience import Mark, Patience
from proxy.relay import Relay, taken
from proxy.transport import RECEIVE_BYTES, SocketTransport
from proxy.upstream import Pool, Upstream, connect

HALF_CLOSED_GRACE_S: Final = 5.0
"""How long a client that has ended its sending, and is not being sent anything, is still taken to wait.
``nc`` and its like do that; a browser tab that was closed looks just the same."""

RESTARTED: Final = 1012
"""In the registry of RFC 6455 section 7.4.1: the service goes away and will be back."""

_NEVER: Final = float("inf")


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
    STALLED = auto()
    """Nothing has moved for too long: there is nobody to say anything to."""


class Switched(NamedTuple):
    """A connection that carries another protocol now, between a client and a service, both plain sockets.

    Whoever gets it owns `upstream` and the visit, which it must end.
    """

    visit: Visit
    upstream: Upstream
    websocket: bool
    from_client: bytes
    """What came behind the request that switched."""
    from_service: bytes
    """What came behind the 101."""


class Passage:
    """One request's way to its service and back."""

    __slots__ = (
        "_awaits_content",
        "_bad_request",
        "_client",
        "_client_gone",
        "_due",
        "_exchange",
        "_forwarding",
        "_fresh",
        "_head",
        "_http",
        "_leftover",
        "_options",
        "_patience",
        "_pieces",
        "_pieces_up",
        "_pool",
        "_relay",
        "_scope",
        "_sending_down",
        "_sending_up",
        "_stalled",
        "_started",
        "_stopped",
        "_tunnels",
        "_upstream",
        "_visit",
        "switched",
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
        *,
        fresh: bool = False,
        gives_tunnel_back: bool = False,
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
            fresh: Whether to dial although there may be kept connections.
            gives_tunnel_back: Whether `run` returns when a connection between two sockets has switched protocols,
                and leaves it in `switched`.
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
        # Not the scope's own deadline, which costs 2 us each time it is moved: `expire_if_due` sees to it.
        self._due = _NEVER
        self._client_gone = False
        self._stopped = False
        self._stalled = False
        self._patience = Patience(options.stalled_timeout_s)
        self._fresh = fresh
        self._tunnels = gives_tunnel_back
        self.switched: Switched | None = None
        self._relay: Relay | None = None
        self._leftover = b""
        """What the service sent behind its 101."""
        self._bad_request: BadRequestError | None = None
        self._pieces = 0
        """How often the client has been sent something."""
        self._pieces_up = 0
        """How often it has sent some of its request's content."""
        self._awaits_content = False
        """It is being waited for to send more of it."""
        self._sending_down = False
        self._sending_up = False
        """A send is under way; one that was cancelled is so for ever, as nobody knows how much of it arrived."""

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
        if self._visit.cut_because is not None:
            # In the moment between admission and this. A scope that is cancelled stops nothing before it has to wait.
            return Ended.CUT
        self._visit.on_cut(self._on_cut)
        answer: Answer | None = None
        try:
            with self._scope:
                answer = await self._pass()
        except (UpstreamClosedError, BadResponseError) as error:
            if self._http.response_started:
                return Ended.ABORTED
            return refusal(Code(error.code), port=self._visit.grant.port)
        else:
            if answer is not None:
                return answer
            if self._scope.cancelled_caught:
                return await self._interrupted()
            return Ended.UPGRADED if self._exchange.switched else Ended.COMPLETE
        finally:
            await self._let_go_of_upstream()

    async def watch(self) -> None:
        """Notice that a waiting client has gone; keep what it pipelines meanwhile, up to a bound.

        Reads from the client: nobody else may until this has returned or been cancelled.
        """
        try:
            if not await read_ahead(self._client, self._http):
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.leave()
            return
        pieces = -1
        while pieces != self._pieces or self._sending_down:
            pieces = self._pieces
            await trio.sleep(HALF_CLOSED_GRACE_S)
        self.leave()

    @property
    def reads_client(self) -> bool:
        """Whether the passage itself reads from the client, so that nobody else need watch it."""
        return self._started.framing.has_body or self._started.upgrade is not None

    def expire_if_due(self, now: float) -> None:
        """Stop, if the service has taken too long by `now`, or nothing moves; to be called every now and then."""
        if now >= self._due:
            self._scope.cancel()
        elif self._patience.is_out(self._held_up(), now):
            self._stalled = True
            self._scope.cancel()

    def _held_up(self) -> Mark | None:
        """Return a mark of what has moved, if somebody is to take or to send something; None if the service thinks."""
        if self._relay is not None:
            return self._relay.held_up
        upstream = self._upstream
        if self._sending_down:
            return (self._pieces, self._pieces_up, *taken(self._client))
        if self._awaits_content:
            return self._pieces, self._pieces_up
        if self._sending_up and self._exchange.response_started and upstream is not None:
            return (self._pieces, self._pieces_up, *taken(upstream.stream))
        return None

    def leave(self) -> None:
        """Stop, as the client is gone."""
        self._client_gone = True
        self._scope.cancel()

    def stop(self) -> None:
        """Stop, as the server is closing; the client is told if it can still be."""
        self._stopped = True
        self._scope.cancel()

    def _on_cut(self, _reason: CutBecause) -> None:
        self._scope.cancel()

    async def _pass(self) -> Answer | None:
        grant = self._visit.grant
        upstream = None if self._fresh else await self._pool.take(grant.run_id, grant.port)
        if upstream is not None:
            self._upstream = upstream
            try:
                await self._exchange_bytes(upstream)
            except UpstreamClosedError:
                if not self._exchange.retryable:
                    raise
                # The service closed the kept connection as we reached for it. What was sent on it was idempotent,
                # had no content, and had no byte of an answer: a fresh connection, once.
                await self._let_go_of_upstream()
                self._exchange = self._new_exchange()
                self._sending_up = False
            else:
                return None
        try:
            self._upstream = await connect(self._visit, self._options.connect_timeout_s)
        except NotListeningError as error:
            return refusal(Code.NOT_LISTENING, port=grant.port, detail=str(error))
        except trio.TooSlowError:
            text = f"the service did not accept a connection within {self._options.connect_timeout_s:g} s"
            return refusal(Code.UPSTREAM_TIMEOUT, port=grant.port, detail=text)
        await self._exchange_bytes(self._upstream)
        return None

    async def _exchange_bytes(self, upstream: Upstream) -> None:
        exchange = self._exchange
        self._expect_answer()
        try:
            await upstream.stream.send_all(exchange.start())
        except trio.BrokenResourceError as error:
            raise self._closed("The service closed the connection.") from error
        if not exchange.request_ended:
            await self._both_ways(upstream)
            return
        self._http.next_event()  # RequestEnded, as the framing says; it was given already if this is a second try
        if self._started.upgrade is not None:
            await self._both_ways(upstream)
        else:
            # Most requests: nothing is left to send, so one direction is all there is.
            await self._pass_response(upstream)

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
            websocket = is_websocket_upgrade(self._started.head)
            # Sockets that are ready do not let a task hear that it was stopped; the relay lets it, and says goodbye.
            stopped = self._scope.cancel_called
            if self._tunnels and isinstance(upstream.stream, SocketTransport) and not stopped:
                ahead = self._http.take_buffer()
                self.switched = Switched(self._visit, upstream, websocket, ahead, self._leftover)
                self._upstream = None
                return
            self._relay = Relay(self._client, upstream.stream, websocket=websocket)
            await self._relay.run(self._http.take_buffer(), self._leftover)

    async def _pass_request(self, upstream: Upstream, both: trio.CancelScope) -> None:
        """Send the content, then watch over the waiting client. What went wrong is left in `_bad_request`."""
        try:
            if await self._send_request(upstream):
                await self.watch()
        except BadRequestError as error:
            # Told to the client if nothing has been yet; else the cut connection says it.
            self._bad_request = error
            both.cancel()
        except trio.BrokenResourceError:
            self.leave()

    async def _send_request(self, upstream: Upstream) -> bool:
        """Send it all; False if the service does not want it (its answer will come, or its end)."""
        http, exchange = self._http, self._exchange
        while not exchange.request_ended:
            event = http.next_event()
            if isinstance(event, RequestContent):
                # A client that asked to be told to continue, and was not, has lost patience: nothing to wait for.
                exchange.stop_awaiting_continue()
                data = exchange.request_content(event.data)
                if exchange.content_complete:
                    # Before the last of it is sent: once it is, the answer may be over before this task goes on, and
                    # the connection must be ready for the next request then.
                    data += exchange.request_end(_ended(http.next_event()).trailers)
            elif isinstance(event, RequestEnded):
                data = exchange.request_end(event.trailers)
            elif event is Signal.NEED_DATA:
                if not exchange.awaiting_continue:
                    # It is the client who is slow, and it may be.
                    self._due = _NEVER
                    self._awaits_content = True
                received = await self._client.receive_some(RECEIVE_BYTES)
                self._awaits_content = False
                self._pieces_up += 1
                if received:
                    http.receive(bytes(received))
                else:
                    http.receive_eof()
                continue
            else:
                raise RuntimeError(f"no {event} is due inside a request")
            self._expect_answer()
            if data:
                self._sending_up = True
                try:
                    await upstream.stream.send_all(data)
                except trio.BrokenResourceError:
                    # It may have answered and closed without reading on (RFC 9112 section 9.5): its response decides.
                    return False
                self._sending_up = False
            if http.buffered and not exchange.request_ended:
                # A read that takes long to make out: it must not hold up everybody else.
                await trio.lowlevel.checkpoint()
        return True

    async def _pass_response(self, upstream: Upstream) -> None:
        exchange, stream = self._exchange, upstream.stream
        while not exchange.response_ended:
            if exchange.pending:
                # A read that takes long to make out: it must not hold up everybody else.
                await trio.lowlevel.checkpoint()
                await self._send_down(exchange.receive(b""))
                continue
            try:
                data = await stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise self._closed("The service reset the connection.") from error
            await self._send_down(exchange.receive(bytes(data)) if data else exchange.receive_eof())
            if exchange.switched:
                return

    async def _send_down(self, events: list[ExchangeEvent]) -> None:
        out = self._written(events)
        if out:
            self._pieces += 1
            self._sending_down = True
            await self._client.send_all(out)
            self._sending_down = False

    def _closed(self, text: str) -> UpstreamClosedError:
        return UpstreamClosedError(text, mid_response=self._exchange.response_started)

    def _written(self, events: list[ExchangeEvent]) -> bytes:
        """Return what the client is to be sent, in one piece."""
        for event in events:
            if isinstance(event, ResponseStarted | SwitchedProtocols) or (
                # Now it waits for the client.
                isinstance(event, Informational) and event.head.status == 100 and not self._exchange.request_ended
            ):
                # From here on there is no deadline: a stream may be as slow as it likes.
                self._due = _NEVER
            if isinstance(event, SwitchedProtocols):
                self._leftover = event.leftover
        return write_events(self._http, self._forwarding, events)

    def _expect_answer(self) -> None:
        """Give the service its time, from now on, to take what it is sent and to answer."""
        if not self._exchange.response_started:
            self._due = trio.current_time() + self._options.response_timeout_s

    async def _interrupted(self) -> Ended | Answer:
        """The cord was pulled, the client left, the server is closing, or the service took too long."""
        reason = self._visit.cut_because
        if self._relay is not None:
            if reason is not None:
                code = RESTARTED if reason is CutBecause.RUN_ENDED else GOING_AWAY
                await self._relay.say_goodbye(code, reason.value)
            elif self._stopped:
                await self._relay.say_goodbye(GOING_AWAY, "server closing")
            elif self._stalled:
                await self._relay.say_goodbye(GOING_AWAY, "stalled")
            return Ended.STALLED if self._stalled else Ended.UPGRADED
        if self._client_gone or self._http.response_started or self._sending_down:
            # An interim response of which it has been sent a part is no place for an answer either.
            return Ended.STALLED if self._stalled else Ended.ABORTED
        if reason is not None:
            return Ended.CUT
        if self._stopped:
            return refusal(Code.SHUTTING_DOWN)
        if self._stalled:
            return refusal(Code.REQUEST_TIMEOUT)
        text = f"the service did not answer within {self._options.response_timeout_s:g} s"
        return refusal(Code.UPSTREAM_TIMEOUT, port=self._visit.grant.port, detail=text)

    async def _let_go_of_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if self._exchange.reusable and not self._sending_up and self._visit.cut_because is None:
            await self._pool.put(upstream)
        else:
            await upstream.aclose()


def _ended(event: ServerEvent) -> RequestEnded:
    assert isinstance(event, RequestEnded), "the length is used up"
    return event


async def read_ahead(client: trio.abc.Stream, http: ServerConnection) -> bool:
    """Keep what a client sends while it waits. True once it has ended its sending.

    False once it has sent so much that its end would not be seen any more without storing still more.

    Raises:
        trio.BrokenResourceError, trio.ClosedResourceError: It is gone.
    """
    while http.buffered < READ_AHEAD_BYTES_MAX:
        data = await client.receive_some(RECEIVE_BYTES)
        if not data:
            http.receive_eof()
            return True
        http.receive(bytes(data))
    return False
