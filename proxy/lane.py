"""A client connection without a task: between its requests, and while plain ones pass.

Most requests have no content, ask for no other protocol, are for a sandbox that is awake, and find a kept connection
to its service. Those are carried here, from call to call of the pump, without a switch between tasks. Everything
else is handed to a `Connection` in a task of its own, which gives the connection back when it has nothing to do.

The decisions are where they are for every other way in: `Reception` and the actor say who may pass, `ServerConnection`
and `Exchange` what the bytes mean. Here is only the moving of bytes, and what becomes of it when either side fails:

====== ============================================ =================================================
Phase   Waits for                                    Owns
====== ============================================ =================================================
HEAD    the client's next head                       the client's socket
ANSWER  the service, or room towards the client      also a visit, an exchange, a service connection
LINGER  the client's end, after a last answer        the client's socket
TASK    a `Connection`                               nothing
TUNNEL  nothing: a `Tunnel` has taken its place      nothing
CLOSED  nothing                                      nothing
====== ============================================ =================================================
"""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from functools import partial
from typing import Final

import trio

from actors import CutBecause
from proxy.connection import Connection, First
from proxy.core.answering import write_events
from proxy.core.exchange import Exchange, ExchangeEvent, UpstreamClosedError
from proxy.core.headers import Forwarding
from proxy.core.http1 import BadRequestError, BadResponseError
from proxy.core.lines import LineMemo
from proxy.core.pages import Answer, Code, refusal
from proxy.core.serving import RequestStarted, ServerConnection, Signal
from proxy.door import Admitted, Preview, answer_to_cut
from proxy.farewell import Farewell
from proxy.options import Options
from proxy.outlet import Outlet
from proxy.passage import HALF_CLOSED_GRACE_S, Switched
from proxy.pump import BROKEN, ENDED, READABLE, WRITABLE, Pump
from proxy.reception import Reception
from proxy.transport import RECEIVE_BYTES, SocketTransport
from proxy.tunnel import Tunnel
from proxy.upstream import Pool, Upstream

RECEIVE_BYTES_MAX: Final = 256 * 1024
"""A response that fills one read after the other is read in bigger pieces: half the CPU for each byte."""

_NEVER: Final = float("inf")


class Phase(Enum):
    """What a lane waits for; see the table above."""

    HEAD = auto()
    ANSWER = auto()
    LINGER = auto()
    TASK = auto()
    TUNNEL = auto()
    CLOSED = auto()


class Lane:
    """One client connection over a plain socket."""

    __slots__ = (
        "_admitted", "_client_ended", "_connection", "_due", "_exchange", "_farewell", "_forwarding", "_http", "_idle",
        "_ledger", "_lines", "_nursery", "_on_closed", "_on_switched", "_options", "_outlet", "_phase", "_pool",
        "_preview", "_pump", "_reception", "_room", "_started", "_tunnel", "_upstream", "draining", "stream",
    )  # fmt: skip

    def __init__(
        self,
        stream: SocketTransport,
        reception: Reception,
        http: ServerConnection,
        *,
        pump: Pump,
        pool: Pool,
        options: Options,
        lines: LineMemo,
        nursery: trio.Nursery,
        on_closed: Callable[["Lane | Tunnel"], None],
        on_switched: Callable[["Lane", Tunnel], None],
    ) -> None:
        """Begin to wait for requests.

        Args:
            stream: The client's, owned by this object from now on.
            reception: The client's own.
            http: The machine of this connection; nothing has come yet.
            pump: Calls this object.
            pool: Connections to services, watched by the same pump.
            options: Times and sizes.
            lines: Reads heads of responses.
            nursery: For what takes a task.
            on_closed: Called once, when the connection is over, by whoever has it then.
            on_switched: Called when a tunnel takes this object's place, before it begins.
        """
        self.stream: Final = stream
        """The client's."""
        self._reception: Final = reception
        self._pump: Final = pump
        self._pool: Final = pool
        self._options: Final = options
        self._lines: Final = lines
        self._nursery: Final = nursery
        self._on_closed: Final = on_closed
        self._on_switched: Final = on_switched
        self._http: Final = http
        self._ledger: Final = reception.ledger(http)
        self._phase = Phase.HEAD
        self._idle = True  # between requests, with nothing of the next one here
        self._due = trio.current_time() + min(options.keep_alive_timeout_s, options.head_timeout_s)
        """When the watchman ends what is being waited for, on trio's clock."""
        self._client_ended = False
        """The client has ended its direction while it waits for an answer."""
        self._room = RECEIVE_BYTES
        # All of them in ANSWER, none while it waits for anything else.
        self._started: RequestStarted | None = None
        self._preview: Preview | None = None
        self._admitted: Admitted | None = None
        self._forwarding: Forwarding | None = None
        self._exchange: Exchange | None = None
        self._upstream: Upstream | None = None
        # In LINGER, in TASK, and in TUNNEL.
        self._farewell: Farewell | None = None
        self._connection: Connection | None = None
        self._tunnel: Tunnel | None = None
        self.draining = False
        """The server is closing: this request is the last."""
        self._outlet: Final = Outlet(pump, stream.socket)
        """Towards the client. While there is something unsent, nothing is read from the service."""
        self._outlet.join(self)

    # What the pump calls.

    def on_ready(self, mask: int) -> None:
        """See `pump.Handler`."""
        if self._phase is Phase.ANSWER:
            self._on_client_while_answering(mask)
            return
        try:
            data = self.stream.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            # Expected: clients leave when they like.
            self._close()
            return
        if data:
            self._http.receive(data)
        else:
            self._http.receive_eof()
        self._read_requests()

    def on_bug(self) -> None:
        """See `pump.Handler`."""
        if self._started is not None:
            self._fail(refusal(Code.INTERNAL))
        else:
            self._close()

    # From head to service.

    def _read_requests(self) -> None:
        """Go on with what has been received."""
        http = self._http
        try:
            event = http.next_event()
        except BadRequestError:
            # The machine says it again to whoever can answer.
            self._hand_over(None)
            return
        if isinstance(event, RequestStarted):
            self._idle = False
            self._due = _NEVER
            self._begin(event)
        elif event is Signal.CONNECTION_ENDED:
            self._close()
        elif http.buffered and self._idle:
            # From its first byte on a head has its own time, however often another byte comes.
            self._idle = False
            self._due = trio.current_time() + self._options.head_timeout_s

    def _begin(self, started: RequestStarted) -> None:
        """Send a request on its way, or hand it over."""
        # Each thing is noted as soon as there is one: whatever goes wrong after that, it is had done with.
        self._started = started
        if self._ledger is not None:
            self._ledger.begin(started)
        if started.head.lines is None and (started.framing.has_body or started.upgrade is not None):
            self._hand_over(First(started))
            return
        preview = self._reception.locate(started.head)
        if not isinstance(preview, Preview):
            self._hand_over(First(started))
            return
        if self._ledger is not None:
            self._ledger.preview = preview
        admitted = self._reception.admit_nowait(preview, started.head)
        if not isinstance(admitted, Admitted):
            self._hand_over(First(started, preview, admitted))
            return
        self._preview, self._admitted = preview, admitted
        grant = admitted.visit.grant
        upstream = self._upstream = self._pool.take_nowait(grant.run_id, grant.port)
        if upstream is None:
            self._hand_over(First(started, preview, admitted))
            return
        upstream.user = self
        self._forwarding, exchange = self._reception.prepare(
            started, preview, admitted, self._options.http, self._lines.read_response
        )
        self._exchange = exchange
        data = exchange.start()
        try:
            # A request head is smaller than what an idle socket takes; if not, the connection is of no use.
            whole = upstream.socket.send(data) == len(data)
        except OSError:
            whole = False
        if not whole:
            upstream.close()
            # The service has seen no request: a fresh connection may be tried.
            self._hand_over(First(started, preview, admitted, fresh=True))
            return
        self._http.next_event()  # RequestEnded, as the framing says
        self._phase = Phase.ANSWER
        self._due = trio.current_time() + self._options.response_timeout_s
        admitted.visit.on_cut(self._on_cut)

    # From service to client.

    def on_response(self, _mask: int) -> None:
        """See `upstream.User`."""
        upstream, exchange = self._upstream, self._exchange
        assert upstream is not None
        assert exchange is not None
        if self._outlet.unsent is not None:
            # Its end or its breaking, which are told asked for or not. It can wait for what was read before.
            self._pump.remove(upstream.socket)
            return
        if exchange.pending:
            # Nothing more is read before that is made out, or a service could pile it up.
            return
        try:
            data = upstream.socket.recv(self._room)
        except BlockingIOError:
            return
        except OSError:
            text = "The service reset the connection."
            self._on_service_lost(UpstreamClosedError(text, mid_response=exchange.response_started))
            return
        if len(data) == self._room:
            self._room = min(self._room * 2, RECEIVE_BYTES_MAX)
        try:
            out = self._written(exchange.receive(data) if data else exchange.receive_eof())
        except UpstreamClosedError as error:
            self._on_service_lost(error)
            return
        except BadResponseError as error:
            self._fail(refusal(Code(error.code), port=upstream.key[1]))
            return
        if out and not self._send(out):
            return
        self._go_on()

    def _go_on(self) -> None:
        """What was read has been sent: read on, or have done with the exchange."""
        exchange = self._exchange
        assert exchange is not None
        if exchange.response_ended:
            self._finish()
        elif exchange.pending:
            # A read that takes long to make out: it must not hold up everybody else.
            self._pump.soon(self, self._read_pending)

    def _read_pending(self) -> None:
        exchange = self._exchange
        if (
            self._phase is not Phase.ANSWER
            or exchange is None
            or not exchange.pending
            or self._outlet.unsent is not None
        ):
            return
        try:
            out = self._written(exchange.receive(b""))
        except BadResponseError as error:
            assert self._upstream is not None
            self._fail(refusal(Code(error.code), port=self._upstream.key[1]))
            return
        if not out or self._send(out):
            self._go_on()

    def _written(self, events: list[ExchangeEvent]) -> bytes:
        """Return what the client is to be sent, in one piece."""
        assert self._forwarding is not None
        assert self._exchange is not None
        if self._exchange.response_started:
            # From here on there is no deadline: a stream may be as slow as it likes.
            self._due = _NEVER
        return write_events(self._http, self._forwarding, events)

    def _send(self, out: bytes) -> bool:
        """Send to the client; False if it must be waited for, or has gone."""
        try:
            whole = self._outlet.send(out)
        except OSError:
            self._abandon()
            return False
        if whole:
            self._note_sent()
            return True
        assert self._upstream is not None
        if self._client_ended:
            # How long it takes to read is its own affair.
            self._due = _NEVER
        self._pump.change(self._upstream.socket, 0)
        return False

    def _note_sent(self) -> None:
        if self._client_ended:
            # Somebody who is being sent something still listens, as far as one can tell.
            self._due = trio.current_time() + HALF_CLOSED_GRACE_S

    def _on_client_while_answering(self, mask: int) -> None:
        """The client has room again, sends on, or leaves."""
        if mask & BROKEN:
            self._abandon()
        elif self._outlet.unsent is not None:
            if mask & WRITABLE:
                self._send_rest()
        elif mask & ENDED:
            # ``nc`` and its like end their direction and wait; a browser tab that was closed looks just the same.
            self._client_ended = True
            self._due = trio.current_time() + HALF_CLOSED_GRACE_S
            self._outlet.want(0)
        elif mask & READABLE:
            # The next request already: it stays in the kernel until this one is answered.
            self._outlet.want(ENDED)

    def _send_rest(self) -> None:
        try:
            if not self._outlet.flush():
                return
        except OSError:
            self._abandon()
            return
        self._note_sent()
        upstream = self._upstream
        assert upstream is not None
        self._outlet.want(0 if self._client_ended else READABLE)
        # It may have been taken out altogether; see `on_response`.
        self._pump.remove(upstream.socket)
        self._pump.add(upstream.socket, upstream, READABLE | ENDED)
        self._go_on()

    def _finish(self) -> None:
        """The client has its whole answer: end the visit, keep the connection to the service, go on."""
        self._release(keep=True)
        self._note_end()
        http = self._http
        if self.draining or not http.keep_alive:
            # If its request is read to the end, and nothing has come behind it, it may be closed at once.
            if http.buffered or self._outlet.mask != READABLE or not self.stream.is_quiet():
                self._linger()
            else:
                self._close()
            return
        http.start_next()
        self._rest()
        if http.buffered:
            self._pump.soon(self, self._read_buffered)

    def _rest(self) -> None:
        """Wait for the next head."""
        self._phase = Phase.HEAD
        self._idle = True
        self._client_ended = False
        self._outlet.want(READABLE)
        self._due = trio.current_time() + self._options.keep_alive_timeout_s

    def _read_buffered(self) -> None:
        if self._phase is Phase.HEAD:
            self._read_requests()

    # When it does not go well.

    def _on_service_lost(self, error: UpstreamClosedError) -> None:
        """The service closed or reset the connection before its response was complete."""
        exchange, started = self._exchange, self._started
        assert exchange is not None
        assert started is not None
        assert self._admitted is not None
        if not exchange.retryable:
            self._fail(refusal(Code(error.code), port=self._admitted.visit.grant.port))
            return
        # It closed the kept connection as we reached for it. The request was idempotent, had no content, and had no
        # byte of an answer: a fresh connection, once.
        first = First(started, self._preview, self._admitted, fresh=True)
        self._let_go_of_service(keep=False)
        self._hand_over(first)

    def _fail(self, answer: Answer) -> None:
        """Give the client `answer` if it has been told nothing yet; else let it see that its answer is cut off."""
        if self._http.response_started or self._outlet.unsent is not None:
            # An interim response of which it has been sent a part is no place for an answer either.
            self._abandon()
            return
        assert self._started is not None
        first = First(self._started, self._preview, answer)
        self._release(keep=False)
        self._hand_over(first)

    def _abandon(self) -> None:
        """End the connection in the middle of an answer."""
        started = self._started
        # A 1.0 client's body may be delimited by the end of the connection alone: only a reset tells a cut from an end.
        self._close(reset=started is not None and started.head.http_version == b"1.0")

    def _on_cut(self, _reason: CutBecause) -> None:
        # Inside a turn of the actor, which is no place to end the visit in.
        self._pump.soon(self, self._take_cut)

    def _take_cut(self) -> None:
        admitted = self._admitted
        if admitted is not None and admitted.visit.cut_because is not None:
            assert self._preview is not None
            self._fail(answer_to_cut(admitted.visit, self._preview))

    def _release(self, *, keep: bool) -> None:
        """Have done with the exchange and its visit."""
        admitted = self._admitted
        if admitted is not None:
            self._let_go_of_service(keep=keep)
            admitted.visit.end()
            self._clear()

    def _let_go_of_service(self, *, keep: bool) -> None:
        upstream, exchange, admitted = self._upstream, self._exchange, self._admitted
        if upstream is None:
            return
        assert admitted is not None
        if keep and exchange is not None and exchange.reusable and admitted.visit.cut_because is None:
            self._pool.put_nowait(upstream)
        else:
            upstream.close()

    def _clear(self) -> None:
        self._started = self._preview = self._admitted = None
        self._forwarding = self._exchange = self._upstream = None
        self._outlet.unsent = None
        self._room = RECEIVE_BYTES

    def _note_end(self) -> None:
        if self._ledger is not None:
            self._ledger.end()

    def _linger(self) -> None:
        """End our direction and read what the client still sends, for a while."""
        self._phase = Phase.LINGER
        self._outlet.leave()
        self._farewell = Farewell(self.stream.socket, self._pump, self._close)
        self._farewell.start()

    def _close(self, *, reset: bool = False) -> None:
        """End the connection, whatever is under way. Idempotent."""
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.CLOSED
        self._outlet.leave()
        if reset:
            self.stream.abort()
        else:
            self.stream.close()
        self._release(keep=False)
        self._note_end()
        self._on_closed(self)

    # What takes a task.

    def _hand_over(self, first: First | None) -> None:
        """Have a `Connection` go on, with a request that was read, or with what there is to read."""
        self._clear()
        connection = self._leave_to_connection()
        self._nursery.start_soon(self._serve_in_task, connection, partial(connection.run, first))

    def _leave_to_connection(self) -> Connection:
        self._phase = Phase.TASK
        self._outlet.leave()
        connection = self._connection = Connection(
            self.stream,
            self._reception,
            pool=self._pool,
            options=self._options,
            http=self._http,
            returns=True,
            ledger=self._ledger,
        )
        connection.draining = self.draining
        return connection

    async def _serve_in_task(self, connection: Connection, serve: Callable[[], Awaitable[bool]]) -> None:
        given_back = False
        try:
            given_back = await serve()
        finally:
            self._connection = None
            if not given_back:
                self._phase = Phase.CLOSED
                self._on_closed(self)
        if not given_back:
            return
        if connection.switched is not None:
            self._become_tunnel(connection.switched)
            return
        self._outlet.join(self)
        self._rest()
        if self.draining:
            self._close()

    def _become_tunnel(self, switched: Switched) -> None:
        """Leave the connection to a tunnel, which holds no more of it than it needs."""
        self._phase = Phase.TUNNEL
        tunnel = self._tunnel = Tunnel(
            self.stream.socket,
            switched,
            pump=self._pump,
            stalled_timeout_s=self._options.stalled_timeout_s,
            account=None if self._ledger is None else self._ledger.switch(),
            on_closed=self._on_closed,
        )
        self._on_switched(self, tunnel)
        tunnel.start(switched.from_client, switched.from_service)

    # What the router calls.

    def drain(self) -> None:
        """Have the request under way be the last; an idle connection ends at once."""
        self.draining = True
        if self._connection is not None:
            self._connection.drain()
        elif self._phase is Phase.HEAD and self._idle:
            self._close()

    def cut(self) -> None:
        """End it now, whatever is under way; a client that can still be told why is told."""
        self.draining = True
        if self._tunnel is not None:
            # Which has the socket, and this object's place in the router.
            self._tunnel.cut()
        elif self._connection is not None:
            self._connection.cut()
        elif self._phase is Phase.ANSWER:
            self._fail(refusal(Code.SHUTTING_DOWN))
        else:
            self._close()

    def abort(self) -> None:
        """End it at once, with all that is under way and without a word: whoever accepted it wants it gone."""
        if self._tunnel is not None:
            self._tunnel.abort()
        elif self._connection is not None:
            self._connection.abort()
        else:
            self._close()

    def patrol(self, now: float) -> bool:
        """End what has taken too long by `now`; True if `watch` should be started. See `Connection.patrol`."""
        if self._connection is not None:
            return self._connection.patrol(now)
        if self._outlet.is_stuck(now, self._options.stalled_timeout_s):
            self.stream.reset_on_close()
            self.abort()
        if self._farewell is not None:
            self._farewell.patrol(now)
        if now < self._due:
            return False
        if self._phase is Phase.ANSWER and not self._client_ended:
            assert self._admitted is not None
            text = f"the service did not answer within {self._options.response_timeout_s:g} s"
            self._fail(refusal(Code.UPSTREAM_TIMEOUT, port=self._admitted.visit.grant.port, detail=text))
        elif self._phase is Phase.HEAD and not self._idle:
            connection = self._leave_to_connection()
            self._nursery.start_soon(self._serve_in_task, connection, connection.run_out_of_time)
        elif self._phase in (Phase.HEAD, Phase.ANSWER):
            self._close()
        return False

    async def watch(self) -> None:
        """See `Connection.watch`."""
        if self._connection is not None:
            await self._connection.watch()
