"""The life of one client connection: head, judgement, passage, next.

One task, and nothing in it but the order of things. Whatever goes wrong ends in this file: the client is answered
if it can still be, and the connection closed.
"""

from http import HTTPStatus
from typing import Final

import structlog
import trio

from proxy.core.headers import Forwarding, public_scheme
from proxy.core.http1 import BadRequestError, Framing, FramingKind, RequestHead, ResponseHead, write_response_head
from proxy.core.pages import Answer, Code, refusal, render, wants_html
from proxy.core.serving import RequestContent, RequestStarted, ServerConnection, Signal
from proxy.door import Admitted, Door, Elsewhere, Preview, answer_to_cut
from proxy.options import Options
from proxy.passage import Ended, Passage
from proxy.transport import RECEIVE_BYTES, SocketTransport
from proxy.upstream import Pool, close_now

log = structlog.get_logger("portico.connection")

REASONS: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

LINGER_S: Final = 2.0
LINGER_BYTES_MAX: Final = 256 * 1024
"""After a last answer, how long and how much is still read from the client: closing with bytes unread makes the
kernel send a reset, which may overtake the answer (RFC 9112 section 9.6)."""


class Connection:
    """One client connection, from its first byte to its last."""

    __slots__ = (
        "_door",
        "_http",
        "_idle",
        "_options",
        "_peer",
        "_pool",
        "_scheme",
        "_silence",
        "_stream",
        "_trusted",
        "_watch",
        "_watch_ended",
        "draining",
        "passage",
        "seen_waiting",
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
        # Between requests, with nothing of the next one here.
        self._idle = True
        self._watch: trio.CancelScope | None = None
        self._watch_ended: trio.Event | None = None
        self.passage: Passage | None = None
        """What is under way; None between requests."""
        self.seen_waiting: Passage | None = None
        """The passage that the last round of the watchman found here."""
        self.draining = False
        """The server is closing: this request is the last."""

    async def run(self) -> None:
        """Serve until either side has had enough. Raises nothing but cancellation."""
        try:
            with self._silence:
                await self._serve()
            if self._silence.cancelled_caught and not self.draining:
                await self._give_up_on_silence()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Expected: clients leave when they like, and a drain closes idle connections from outside.
            pass
        except Exception:
            # A safety net: one connection's bug must not take the others down.
            log.exception("connection failed")
        finally:
            await close_now(self._stream)

    def drain(self) -> None:
        """Have the request under way be the last; an idle connection ends at once."""
        self.draining = True
        if self._idle:
            self._silence.cancel()

    def cut(self) -> None:
        """End it now, whatever is under way."""
        self._silence.cancel()
        if self.passage is not None:
            self.passage.cancel()

    async def watch(self) -> None:
        """Watch over a client that has been waiting for a while; the router's watchman starts this."""
        passage = self.passage
        if passage is None or passage.reads_client or self._watch is not None:
            return
        self._watch_ended = trio.Event()
        try:
            with trio.CancelScope() as self._watch:
                await passage.watch()
        finally:
            self._watch_ended.set()

    async def _serve(self) -> None:
        while True:
            try:
                started = await self._next_request()
                if started is None:
                    return
                go_on = await self._answer(started)
            except BadRequestError as error:
                if not self._http.response_started:
                    await self._send_answer(refusal(Code(error.code), detail=error.text), None)
                    await self._linger()
                return
            if not go_on:
                return
            if self.draining or not self._http.keep_alive:
                await self._linger()
                return
            self._http.start_next()

    async def _next_request(self) -> RequestStarted | None:
        """Wait for a request head; None at the client's end."""
        http, options = self._http, self._options
        self._silence.deadline = trio.current_time() + options.keep_alive_timeout_s
        begun = False
        self._idle = True
        while True:
            event = http.next_event()
            if isinstance(event, RequestStarted):
                self._silence.deadline = float("inf")
                self._idle = False
                return event
            if event is Signal.CONNECTION_ENDED:
                return None
            if http.buffered and not begun:
                # From its first byte on a head has its own time, however often another byte comes.
                begun = True
                self._idle = False
                self._silence.deadline = trio.current_time() + options.head_timeout_s
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if data:
                http.receive(bytes(data))
            else:
                http.receive_eof()

    async def _answer(self, started: RequestStarted) -> bool:
        """Answer one request; False if the connection cannot be used any more, whatever its machine says."""
        head = started.head
        scheme = public_scheme(head.fields, self._scheme, trusted=self._trusted)
        place = self._door.locate(head, scheme)
        if isinstance(place, Preview):
            return await self._visit(started, place, scheme)
        if isinstance(place, Elsewhere):
            ours = place.domain is not None or place.host.names_this_machine
            place = refusal(Code.NOT_FOUND if ours else Code.MISDIRECTED_REQUEST)
        await self._send_answer(place, started)
        return True

    async def _visit(self, started: RequestStarted, preview: Preview, scheme: str) -> bool:
        admitted = await self._door.admit(preview, started.head)
        if not isinstance(admitted, Admitted):
            await self._send_answer(admitted, started)
            return True
        visit = admitted.visit
        try:
            self.passage = self._passage(started, preview, admitted, scheme)
            ended = await self.passage.run()
        finally:
            self.passage = None
            if self._watch is not None:
                await self._dismiss_watch()
            visit.end()
        if ended is Ended.CUT:
            assert visit.cut_because is not None
            ended = answer_to_cut(visit.cut_because, preview)
        if isinstance(ended, Answer):
            await self._send_answer(ended, started)
            return True
        if ended is Ended.ABORTED and started.head.http_version == b"1.0":
            # Its body may be delimited by the end of the connection alone: only a reset tells a cut from an end.
            abort(self._stream)
        return ended is Ended.COMPLETE

    def _passage(self, started: RequestStarted, preview: Preview, admitted: Admitted, scheme: str) -> Passage:
        head, visit = started.head, admitted.visit
        forwarding = Forwarding(
            preview.host,
            preview.public,
            scheme=scheme,
            client_address=self._peer,
            trusted=self._trusted,
            host_header=visit.grant.host_header,
        )
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
        await self._stream.send_all(http.respond(head, framing) + http.content(body) + http.end())

    async def _give_up_on_silence(self) -> None:
        """A head that began and did not come to its end in time is told so; an idle connection just ends."""
        if self._idle:
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


def abort(stream: trio.abc.Stream) -> None:
    """Reset a connection where the transport can; `close_now` does for the others."""
    if isinstance(stream, SocketTransport):
        stream.abort()
