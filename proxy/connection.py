"""The life of one client connection: head, judgement, passage, next.

One task, and nothing in it but the order of things. Whatever goes wrong ends in this file: the client is answered
if it can still be, and the connection closed.
"""

from http import HTTPStatus
from typing import Final, NamedTuple

import structlog
import trio

from actors import HostHeader, where_raised
from proxy.core.headers import Forwarding, public_scheme
from proxy.core.http1 import BadRequestError, Framing, FramingKind, RequestHead, ResponseHead, write_response_head
from proxy.core.pages import Answer, Code, refusal, render, wants_html
from proxy.core.serving import RequestContent, RequestStarted, ServerConnection, Signal
from proxy.door import Admitted, Door, Elsewhere, MustWait, Preview, answer_to_cut
from proxy.options import Options
from proxy.passage import HALF_CLOSED_GRACE_S, Ended, Passage, read_ahead
from proxy.transport import RECEIVE_BYTES, SocketTransport
from proxy.upstream import Pool, close_now

log = structlog.get_logger("portico.connection")

REASONS: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

LINGER_S: Final = 2.0
LINGER_BYTES_MAX: Final = 256 * 1024
"""After a last answer, how long and how much is still read from the client: closing with bytes unread makes the
kernel send a reset, which may overtake the answer (RFC 9112 section 9.6)."""

_NEVER: Final = float("inf")


class _Route(NamedTuple):
    """What stays the same from request to request to one preview: worked out once, it saves a fifth of a GET."""

    host: bytes
    """The value of the Host field, a secret like every preview's hostname."""
    scheme: str
    preview: Preview
    host_header: HostHeader
    forwarding: Forwarding


class Connection:
    """One client connection, from its first byte to its last."""

    __slots__ = (
        "_asked",
        "_door",
        "_due",
        "_ending",
        "_held",
        "_http",
        "_idle",
        "_options",
        "_passage",
        "_peer",
        "_pool",
        "_route",
        "_scheme",
        "_seen_waiting",
        "_silence",
        "_stream",
        "_trusted",
        "_watch",
        "_watch_ended",
        "draining",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        door: Door,
        pool: Pool,
        options: Options,
        peer: str,
        scheme: str,
    ) -> None:
        """Prepare to serve `stream`, which this object owns from now on.

        Args:
            stream: Connected; after any TLS handshake.
            door: Judges.
            pool: Connections to services.
            options: Times and sizes.
            peer: The client's IP address, or ``""``.
            scheme: ``http`` or ``https``, as this stream is spoken to.
        """
        self._stream = stream
        self._door = door
        self._pool = pool
        self._options = options
        self._peer = peer
        self._scheme = scheme
        self._trusted = options.trusts(peer)
        self._http = ServerConnection(options.http)
        self._silence = trio.CancelScope()
        # Not the scope's own deadline, which costs 2 us each time it is moved: `patrol` sees to it.
        self._due = _NEVER
        self._ending = False
        # Whether there has been a request.
        self._asked = False
        # Between requests, with nothing of the next one here.
        self._idle = True
        self._route: _Route | None = None
        # While a request waits to be admitted.
        self._held: trio.CancelScope | None = None
        self._passage: Passage | None = None
        # The passage that the watchman saw here on his last round.
        self._seen_waiting: Passage | None = None
        self._watch: trio.CancelScope | None = None
        self._watch_ended: trio.Event | None = None
        self.draining = False
        """The server is closing: this request is the last."""

    async def run(self) -> None:
        """Serve until either side has had enough. Raises nothing but cancellation."""
        try:
            with self._silence:
                await self._serve()
            if self._silence.cancelled_caught and not self.draining:
                await self._give_up_on_silence()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # Expected: clients leave when they like.
            pass
        except* Exception as bug:  # noqa: BLE001  # logged, and that is all that can be done
            # A safety net: one connection's bug must not take the others down.
            log.error("connection failed", **where_raised(bug))
        finally:
            await close_now(self._stream)

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
        else:
            self._end()

    def patrol(self, now: float) -> bool:
        """End what has taken too long by `now`; True if `watch` should be started.

        That is when the same request as on the last round still waits, and nobody reads from its client. So requests
        that are over in a second never pay for it.
        """
        if now >= self._due:
            self._end()
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

    async def _serve(self) -> None:
        while True:
            started: RequestStarted | None = None
            try:
                started = await self._next_request()
                if started is None or not await self._answer(started):
                    return
            except BadRequestError as error:
                await self._send_last(refusal(Code(error.code), detail=error.text), None)
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise
            except Exception as bug:  # noqa: BLE001  # a safety net: the client hears of it, if it can
                log.error("connection failed", **where_raised(bug))
                await self._send_last(refusal(Code.INTERNAL), started)
                return
            if self.draining or not self._http.keep_alive:
                await self._linger()
                return
            self._http.start_next()

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
                return None
            if http.buffered and not begun:
                # From its first byte on a head has its own time, however often another byte comes.
                begun = True
                self._idle = False
                self._due = trio.current_time() + options.head_timeout_s
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if data:
                http.receive(bytes(data))
            else:
                http.receive_eof()

    async def _answer(self, started: RequestStarted) -> bool:
        """Answer one request; False if the connection cannot be used any more, whatever its machine says."""
        head = started.head
        scheme = public_scheme(head.fields, self._scheme, trusted=self._trusted)
        route = self._known_route(head, scheme)
        place = route.preview if route is not None else self._door.locate(head, scheme)
        if isinstance(place, Preview):
            return await self._visit(started, place, scheme)
        if isinstance(place, Answer):
            # Its host makes no sense: nothing that follows on this connection is to be trusted either.
            await self._send_last(place, started)
            return False
        if isinstance(place, Elsewhere):
            ours = place.domain is not None or place.host.names_this_machine
            place = refusal(Code.NOT_FOUND if ours else Code.MISDIRECTED_REQUEST)
        await self._send_answer(place, started)
        return True

    async def _visit(self, started: RequestStarted, preview: Preview, scheme: str) -> bool:
        admitted: Admitted | Answer | MustWait | None = self._door.admit_nowait(preview, started.head)
        if isinstance(admitted, MustWait):
            admitted = await self._wait_admitted(admitted)
            if admitted is None and self.draining:
                admitted = refusal(Code.SHUTTING_DOWN)
        if admitted is None:
            return False
        if isinstance(admitted, Answer):
            await self._send_answer(admitted, started)
            return True
        visit = admitted.visit
        try:
            passage = self._passage = self._new_passage(started, preview, admitted, scheme)
            ended = await passage.run()
        finally:
            self._passage = None
            if self._watch is not None:
                await self._dismiss_watch()
            visit.end()
        if ended is Ended.COMPLETE:
            return True
        if ended is Ended.CUT:
            ended = answer_to_cut(visit, preview)
        if isinstance(ended, Answer):
            await self._send_answer(ended, started)
            return True
        if ended is Ended.UPGRADED:
            await self._linger()
        elif started.head.http_version == b"1.0" and isinstance(self._stream, SocketTransport):
            # Its body may be delimited by the end of the connection alone: only a reset tells a cut from an end.
            self._stream.abort()
        return False

    async def _wait_admitted(self, waiting: MustWait) -> Admitted | Answer | None:
        """Wait for a sandbox to load or to wake, for as long as the client does: None if it has left."""
        admitted: Admitted | Answer | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._held = nursery.cancel_scope
                nursery.start_soon(self._leave_with_client, nursery.cancel_scope)
                admitted = await self._door.admit(waiting)
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

    def _known_route(self, head: RequestHead, scheme: str) -> _Route | None:
        route = self._route
        if route is None or head.authority is not None or route.scheme != scheme:
            return None
        for name, _, value in head.fields:
            if name == b"host":
                # The head has exactly one.
                return route if value == route.host else None
        return None

    def _new_passage(self, started: RequestStarted, preview: Preview, admitted: Admitted, scheme: str) -> Passage:
        head, visit = started.head, admitted.visit
        host_header = visit.grant.host_header
        route = self._route
        if route is not None and route.preview is preview and route.host_header is host_header:
            forwarding = route.forwarding
        else:
            forwarding = Forwarding(
                preview.host,
                preview.public,
                scheme=scheme,
                client_address=self._peer,
                trusted=self._trusted,
                host_header=host_header,
            )
            # A preview that was named by another field than Host is read anew each time.
            if head.authority is None and preview.public.name != preview.host.domain:
                host = next(value for name, _, value in head.fields if name == b"host")
                self._route = _Route(host, scheme, preview, host_header, forwarding)
        fields = forwarding.forward_request(head.fields, head.target, opened_by=admitted.opened_by)
        forwarded = RequestHead(head.method, head.target, b"1.1", fields)
        return Passage(self._stream, self._http, started, forwarding, visit, forwarded, self._pool, self._options)

    async def _dismiss_watch(self) -> None:
        assert self._watch is not None
        assert self._watch_ended is not None
        self._watch.cancel()
        with trio.CancelScope(shield=True):
            await self._watch_ended.wait()
        self._watch = None

    async def _send_answer(self, answer: Answer, started: RequestStarted | None) -> None:
        """Answer ourselves. `started` is None if no request could be made out."""
        http = self._http
        as_html = False
        if started is not None:
            as_html = wants_html(started.head.fields)
            # If all of the request is here, the connection can go on to the next one.
            while isinstance(http.next_event(), RequestContent):
                pass
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
