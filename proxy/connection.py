"""The life of one client connection: head, judgement, passage, next.

One task, and nothing in it but the order of things. Whatever goes wrong ends in this file: the client is answered
if it can still be, and the connection closed.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

import structlog
import trio

from actors import where_raised
from proxy.application import AppExchange, Application, wants_websocket
from proxy.appsocket import AppSocket
from proxy.core.http1 import BadRequestError, Framing, FramingKind, ResponseHead, write_response_head
from proxy.core.pages import Answer, Code, refusal, render, wants_html
from proxy.core.serving import RequestContent, RequestStarted, ServerConnection, Signal
from proxy.core.sign_in import ASKS_FOR_TOKEN, sign_in_page
from proxy.door import OWN_PAGE, Admitted, MustWait, OwnPage, Preview, answer_to_cut
from proxy.farewell import LINGER_BYTES_MAX, LINGER_S
from proxy.ledger import Ledger
from proxy.options import Options
from proxy.passage import HALF_CLOSED_GRACE_S, Ended, Passage, Switched, read_ahead
from proxy.reception import Reception
from proxy.transport import RECEIVE_BYTES, SocketTransport
from proxy.upstream import Pool, close_now

log = structlog.get_logger("portico.connection")

REASONS: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

_NEVER: Final = float("inf")


class First(NamedTuple):
    """A request that somebody else has read from the connection, and how far they came with it."""

    started: RequestStarted
    preview: Preview | None = None
    """What it is for, if that is known."""
    verdict: Admitted | Answer | MustWait | OwnPage | None = None
    """What the preview's sandbox says, or what the client is to be told."""
    fresh: bool = False
    """A kept connection to the service was tried and found dead: this time a new one."""


class Connection:
    """One client connection, from its first byte to its last."""

    __slots__ = (
        "_app",
        "_asked",
        "_begun",
        "_cut_first",
        "_due",
        "_ending",
        "_held",
        "_http",
        "_idle",
        "_ledger",
        "_options",
        "_passage",
        "_pool",
        "_reception",
        "_returns",
        "_seen_waiting",
        "_silence",
        "_stream",
        "_watch",
        "_watch_ended",
        "draining",
        "switched",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        reception: Reception,
        *,
        pool: Pool,
        options: Options,
        http: ServerConnection | None = None,
        returns: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        """Prepare to serve `stream`, which this object owns from now on.

        Args:
            stream: Connected; after any TLS handshake.
            reception: The client's own.
            pool: Connections to services.
            options: Times and sizes.
            http: The client's machine, if somebody has used it already.
            returns: Whether `run` gives the stream back when there is nothing to do.
            ledger: Of this connection, if somebody keeps it already.
        """
        self._stream = stream
        self._reception = reception
        self._pool = pool
        self._options = options
        self._http = ServerConnection(options.http) if http is None else http
        self._returns = returns
        self._ledger = ledger if returns else reception.ledger(self._http)
        self._silence = trio.CancelScope()
        # Not the scope's own deadline, which costs 2 us each time it is moved: `patrol` sees to it.
        self._due = _NEVER
        self._ending = False
        # Whether the task has come to its first step. A cut before that is remembered: the request that it begins with
        # can be told why.
        self._begun = False
        self._cut_first = False
        # Whether there has been a request.
        self._asked = returns
        # Between requests, with nothing of the next one here. Who was given the connection was given it for one.
        self._idle = not returns
        # While a request waits to be admitted, or the app of the base domain has it.
        self._held: trio.CancelScope | None = None
        self._app: AppExchange | AppSocket | None = None
        self._passage: Passage | None = None
        # The passage that the watchman saw here on his last round.
        self._seen_waiting: Passage | None = None
        self._watch: trio.CancelScope | None = None
        self._watch_ended: trio.Event | None = None
        self.draining = False
        """The server is closing: this request is the last."""
        self.switched: Switched | None = None
        """What has become of the connection, if `run` gave it back because it carries another protocol now."""

    async def run(self, first: First | None = None) -> bool:
        """Serve until either side has had enough. Raises nothing but cancellation.

        Returns whether the stream is given back: there is nothing to do, or it was `switched`. Else it is closed.

        Args:
            first: A request that has been read already.
        """
        given_back = False
        try:
            with self._silence:
                given_back = await self._serve(first)
            if self._silence.cancelled_caught and not self.draining:
                await self._give_up_on_silence()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # Expected: clients leave when they like.
            pass
        except* Exception as bug:  # noqa: BLE001  # logged, and that is all that can be done
            # A safety net: one connection's bug must not take the others down.
            log.error("connection failed", **where_raised(bug))
        finally:
            if not given_back:
                if self._ledger is not None:
                    self._ledger.end()
                await close_now(self._stream)
        return given_back

    async def run_out_of_time(self) -> bool:
        """Tell a client whose request head did not come to its end in time, and close. As `run`; gives nothing back."""
        try:
            with self._silence:
                await self._give_up_on_silence()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Expected: it has left.
            pass
        finally:
            await close_now(self._stream)
        return False

    def drain(self) -> None:
        """Have the request under way be the last; an idle connection ends at once."""
        self.draining = True
        if self._idle:
            self._end()

    def cut(self) -> None:
        """End it now, whatever is under way; a client that can still be told why is told."""
        self.draining = True
        self._silence.deadline = trio.current_time() + LINGER_S
        if self._passage is not None:
            self._passage.stop()
        elif self._held is not None:
            self._held.cancel()
        elif self._begun:
            self._end()
        else:
            self._cut_first = True

    def abort(self) -> None:
        """End it now, without a word."""
        self.draining = True
        self._end()

    def patrol(self, now: float) -> bool:
        """End what has taken too long by `now`; True if `watch` should be started.

        That is when the same request as on the last round still waits, and nobody reads from its client. So requests
        that are over in a second never pay for it.
        """
        if now >= self._due:
            self._end()
        if self._app is not None and self._app.delivery.is_stuck(now):
            assert self._held is not None
            self._held.cancel()
        passage = self._passage
        seen, self._seen_waiting = self._seen_waiting, passage
        if passage is None:
            return False
        passage.expire_if_due(now)
        return passage is seen and self._watch is None and not passage.reads_client

    def _end(self) -> None:
        self._ending = True
        self._silence.cancel()

    async def watch(self) -> None:
        """Watch over a client that has been waiting for a while, until its request is answered or it has gone."""
        passage = self._passage
        if passage is None or passage.reads_client or self._watch is not None:
            # The world has moved since `patrol`.
            return
        self._watch_ended = trio.Event()
        try:
            with trio.CancelScope() as self._watch:
                await passage.watch()
        except Exception as bug:  # noqa: BLE001  # a safety net: whoever runs this serves others too
            log.error("connection failed", **where_raised(bug))
            passage.leave()
        finally:
            self._watch_ended.set()

    async def _serve(self, first: First | None) -> bool:
        """Serve; True if the stream is to be given back."""
        self._begun = True
        while True:
            started: RequestStarted | None = None
            try:
                if first is None:
                    started = await self._next_request()
                    if started is None:
                        return self._gives_back()
                    first = First(started)
                    if self._ledger is not None:
                        self._ledger.begin(started)
                started = first.started
                if not await self._answer(first):
                    return self.switched is not None
                first = None
            except BadRequestError as error:
                if self._ledger is not None and started is None:
                    self._ledger.begin(None)
                await self._send_last(refusal(Code(error.code), detail=error.text), None)
                return False
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise
            except Exception as bug:  # noqa: BLE001  # a safety net: the client hears of it, if it can
                log.error("connection failed", **where_raised(bug))
                await self._send_last(refusal(Code.INTERNAL), started)
                return False
            if self._ledger is not None:
                self._ledger.end()
            if self.draining or not self._http.keep_alive:
                await self._linger()
                return False
            self._http.start_next()

    def _gives_back(self) -> bool:
        return self._returns and not self._ending and not self.draining and self._idle

    async def _next_request(self) -> RequestStarted | None:
        """Wait for a request head; None at the client's end, or at ours."""
        http, options = self._http, self._options
        # Who connects means to send something: patience is for clients that have asked for something before.
        patience_s = options.keep_alive_timeout_s
        self._due = trio.current_time() + (patience_s if self._asked else min(patience_s, options.head_timeout_s))
        begun = False
        self._idle = True
        while True:
            event = http.next_event()
            if isinstance(event, RequestStarted):
                self._due = _NEVER
                self._asked = True
                self._idle = False
                # It may have come in the very moment that a drain or the clock had chosen to end the connection.
                return None if self._ending else event
            if event is Signal.CONNECTION_ENDED:
                self._ending = True
                return None
            if http.buffered and not begun:
                # From its first byte on a head has its own time, however often another byte comes.
                begun = True
                self._idle = False
                self._due = trio.current_time() + options.head_timeout_s
            if self._returns and self._idle:
                return None
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if data:
                http.receive(bytes(data))
            else:
                http.receive_eof()

    async def _answer(self, first: First) -> bool:
        """Answer one request; False if the connection cannot be used any more, whatever its machine says."""
        started = first.started
        if self._cut_first:
            if isinstance(first.verdict, Admitted):
                first.verdict.visit.end()
            await self._send_answer(refusal(Code.SHUTTING_DOWN), started)
            return True
        place = first.preview if first.preview is not None else self._reception.locate(started.head)
        if isinstance(place, Preview):
            if self._ledger is not None:
                self._ledger.preview = place
            return await self._visit(first, place)
        if isinstance(place, Answer):
            # Its host makes no sense: nothing that follows on this connection is to be trusted either.
            await self._send_last(place, started)
            return False
        ours = place.domain is not None or place.host.names_this_machine
        if ours and self._reception.app is not None:
            return await self._apply(started, self._reception.app)
        await self._send_answer(refusal(Code.NOT_FOUND if ours else Code.MISDIRECTED_REQUEST), started)
        return True

    async def _apply(self, started: RequestStarted, app: Application) -> bool:
        """Have the app of the base domain answer; False if the connection cannot be used any more."""
        kind = AppSocket if wants_websocket(started) else AppExchange
        reception = self._reception
        exchange = self._app = kind(
            self._stream,
            self._http,
            started,
            scheme=reception.scheme_of(started.head),
            peer=reception.peer,
            client=reception.client(started.head),
            stalled_timeout_s=self._options.stalled_timeout_s,
        )
        complete = False
        try:
            with trio.CancelScope() as self._held:
                complete = await exchange.run(app)
        finally:
            self._app = None
        stopped, self._held = self._held.cancelled_caught, None
        if stopped and exchange.delivery.stuck:
            if isinstance(self._stream, SocketTransport):
                self._stream.abort()
            return False
        if stopped and not self._http.response_started:
            await self._send_answer(refusal(Code.SHUTTING_DOWN), started)
            return True
        return complete

    async def _visit(self, first: First, preview: Preview) -> bool:
        started = first.started
        admitted = first.verdict
        if admitted is None:
            admitted = self._reception.admit_nowait(preview, started.head)
        if admitted is OWN_PAGE:
            app = self._reception.own_page(preview, started.head)
            if app is not None:
                return await self._apply(started, app)
            admitted = refusal(Code.NOT_FOUND)
        if isinstance(admitted, MustWait):
            waited = await self._wait_admitted(admitted)
            if waited is None:
                if not self.draining:
                    return False
                waited = refusal(Code.SHUTTING_DOWN)
            admitted = waited
        if isinstance(admitted, Answer):
            await self._send_answer(admitted, started)
            return True
        visit = admitted.visit
        try:
            passage = self._passage = self._new_passage(first, preview, admitted)
            ended = await passage.run()
            if passage.switched is not None and self._ending:
                # Aborted in the very moment: nobody takes the tunnel.
                passage.switched.upstream.close()
            else:
                self.switched = passage.switched
        finally:
            self._passage = None
            if self._watch is not None:
                await self._dismiss_watch()
            if self.switched is None:
                visit.end()
        if self.switched is not None:
            # Whoever gets the stream back gets the visit with it.
            return False
        if ended is Ended.COMPLETE:
            return True
        if ended is Ended.CUT:
            ended = answer_to_cut(visit, preview)
        if isinstance(ended, Answer):
            await self._send_answer(ended, started)
            return True
        if ended is Ended.UPGRADED:
            await self._linger()
        elif isinstance(self._stream, SocketTransport) and (
            ended is Ended.STALLED or started.head.http_version == b"1.0"
        ):
            # A reset lets go of what the kernel keeps for a client that does not read it; and where a body may be
            # delimited by the end of the connection alone, only a reset tells a cut from an end.
            self._stream.abort()
        return False

    async def _wait_admitted(self, waiting: MustWait) -> Admitted | Answer | None:
        """Wait for a sandbox to load or to wake, for as long as the client does: None if it has left."""
        admitted: Admitted | Answer | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._held = nursery.cancel_scope
                nursery.start_soon(self._leave_with_client, nursery.cancel_scope)
                admitted = await self._reception.door.admit(waiting)
                nursery.cancel_scope.cancel()
        except BaseException:
            # Cancelled in the moment of its admission.
            if isinstance(admitted, Admitted):
                admitted.visit.end()
            raise
        finally:
            self._held = None
        return admitted

    async def _leave_with_client(self, waiting: trio.CancelScope) -> None:
        try:
            if not await read_ahead(self._stream, self._http):
                return
            await trio.sleep(HALF_CLOSED_GRACE_S)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Gone altogether.
            pass
        waiting.cancel()

    def _new_passage(self, first: First, preview: Preview, admitted: Admitted) -> Passage:
        forwarding, head = self._reception.forward(first.started.head, preview, admitted)
        return Passage(
            self._stream,
            self._http,
            first.started,
            forwarding,
            admitted.visit,
            head,
            self._pool,
            self._options,
            fresh=first.fresh,
            gives_tunnel_back=self._returns,
        )

    async def _dismiss_watch(self) -> None:
        assert self._watch is not None
        assert self._watch_ended is not None
        self._watch.cancel()
        with trio.CancelScope(shield=True):
            await self._watch_ended.wait()
        self._watch = None

    async def _send_answer(self, answer: Answer, started: RequestStarted | None) -> None:
        """Answer ourselves. `started` is None if no request could be made out."""
        if self._ledger is not None:
            self._ledger.code = answer.code
        http = self._http
        as_html = False
        if started is not None:
            as_html = wants_html(started.head.fields)
            # If all of the request is here, the connection can go on to the next one.
            while isinstance(event := http.next_event(), RequestContent):
                pass
            if event is Signal.NEED_DATA or self.draining:
                http.make_last()
        if as_html and started is not None and answer.code in ASKS_FOR_TOKEN:
            fields, body = sign_in_page(answer, started.head.target.decode("latin-1"))
        else:
            fields, body = render(answer, as_html=as_html)
        head = ResponseHead(answer.status, REASONS.get(answer.status, b""), fields)
        framing = Framing(FramingKind.LENGTH, len(body))
        # Our own answers are small: who does not take one is not reading, and needs no token to get another.
        self._due = trio.current_time() + self._options.head_timeout_s
        await self._stream.send_all(http.respond(head, framing) + http.content(body) + http.end())
        self._due = _NEVER

    async def _send_last(self, answer: Answer, started: RequestStarted | None) -> None:
        """Answer, if nothing of an answer has been sent, and have done with the connection."""
        if not self._http.response_started:
            self._http.make_last()
            await self._send_answer(answer, started)
            await self._linger()

    async def _give_up_on_silence(self) -> None:
        """A head that began and did not come to its end in time is told so; any other connection just ends."""
        if self._idle or self._http.response_started:
            return
        fields, body = render(refusal(Code.REQUEST_TIMEOUT), as_html=False)
        fields.append((b"content-length", b"Content-Length", b"%d" % len(body)))
        fields.append((b"connection", b"Connection", b"close"))
        with trio.move_on_after(LINGER_S):
            await self._stream.send_all(write_response_head(408, REASONS[408], fields) + body)
            await self._linger()

    async def _linger(self) -> None:
        """End our direction and read what the client still sends, for a while."""
        with trio.move_on_after(LINGER_S):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            unread = 0
            while unread < LINGER_BYTES_MAX:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                if not data:
                    return
                unread += len(data)
