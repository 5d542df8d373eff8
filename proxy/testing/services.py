"""What listens in a sandbox: handlers for a fake container, each of them one connection's service.

`service` makes a handler out of an answer to one request, and speaks HTTP/1.1 with keep-alive by h11. The others are
ready to use, some of them as bad as real ones can be.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import h11
import trio
import trio_websocket

from actors.testing.containers import Handler

Headers = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """The head of a request, as the service saw it."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in order."""

    def header(self, name: str) -> str | None:
        """Return the value of a field, the first if there are several; None if there is none."""
        return next((value for found, value in self.headers if found == name.lower()), None)


class Caller:
    """One connection to the service: requests in, responses out."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Talk over `stream`."""
        self.stream: Final = stream
        """For what HTTP has no word for."""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
        self._method = ""

    async def next_request(self) -> Asked | None:
        """Return the next request's head; None once there will be none."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
        self._method = event.method.decode("ascii")
        return Asked(self._method, event.target.decode("ascii"), headers)

    async def read_some(self) -> bytes:
        """Return content of the request as it comes; ``b""`` at its end. Sends a 100 if the client waits for one."""
        if self._http.they_are_waiting_for_100_continue:
            await self.inform(100)
        if self._http.their_state is not h11.SEND_BODY:
            return b""
        event = await self._next_event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read_all(self) -> bytes:
        """Return all content of the request."""
        content = b""
        while data := await self.read_some():
            content += data
        return content

    async def inform(self, status: int, headers: Headers = ()) -> None:
        """Send an interim response."""
        await self._send(h11.InformationalResponse(status_code=status, headers=list(headers)))

    async def begin(self, status: int = 200, headers: Headers = ()) -> None:
        """Send the head of the response: chunked, unless a field says otherwise."""
        await self._send(h11.Response(status_code=status, headers=list(headers)))

    async def send(self, content: bytes) -> None:
        """Send content."""
        await self._send(h11.Data(data=content))

    async def end(self, trailers: Headers = ()) -> None:
        """End the response."""
        await self._send(h11.EndOfMessage(headers=list(trailers)))

    async def respond(self, status: int = 200, body: bytes = b"", headers: Headers = ()) -> None:
        """Send a whole response in one piece; to HEAD, what goes before the body."""
        fields = list(headers)
        # RFC 9110 section 8.6: not with 204, and with 304 only what GET would bring.
        if status not in (204, 304):
            fields.append(("Content-Length", str(len(body))))
        content = b"" if self._method == "HEAD" else body
        events = (h11.Response(status_code=status, headers=fields), h11.Data(data=content), h11.EndOfMessage())
        await self.stream.send_all(b"".join(self._http.send(event) or b"" for event in events))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self.stream.send_all(data)

    async def _next_event(self) -> object:
        while True:
            event: object = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(bytes(await self.stream.receive_some()))


Answer = Callable[[Caller, Asked], Awaitable[None]]
"""Answers one request; what it leaves of the request's content is read and thrown away."""


def service(answer: Answer) -> Handler:
    """Return a handler that gives every request of a connection to `answer`."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        caller = Caller(stream)
        # The other side broke off in the middle of a request.
        with suppress(h11.RemoteProtocolError):
            while (asked := await caller.next_request()) is not None:
                await answer(caller, asked)
                await caller.read_all()

    return handle


def respond(body: bytes = b"", *, status: int = 200, headers: Headers = ()) -> Handler:
    """Answer every request alike, having read it."""
    fields = tuple(headers)

    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.read_all()
        await caller.respond(status, body, fields)

    return service(answer)


def mirror() -> Handler:
    """Answer with what was asked: ``{"method", "target", "headers", "body"}`` as JSON, headers as pairs."""

    async def answer(caller: Caller, asked: Asked) -> None:
        content = (await caller.read_all()).decode("latin-1")
        shown = {"method": asked.method, "target": asked.target, "headers": asked.headers, "body": content}
        await caller.respond(200, json.dumps(shown).encode("ascii"), [("Content-Type", "application/json")])

    return service(answer)


def echo() -> Handler:
    """Send a request's content back piece by piece, each as soon as it has come."""

    async def answer(caller: Caller, _asked: Asked) -> None:
        if data := await caller.read_some():
            await caller.begin()
            while data:
                await caller.send(data)
                data = await caller.read_some()
        else:
            await caller.begin()
        await caller.end()

    return service(answer)


def events(source: trio.MemoryReceiveChannel[str]) -> Handler:
    """Send each text that comes out of `source` as a Server-Sent Event, until it ends."""

    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.begin(200, [("Content-Type", "text/event-stream")])
        async for text in source:
            await caller.send(f"data: {text}\n\n".encode())
        await caller.end()

    return service(answer)


def websocket_echo(*, subprotocol: str | None = None) -> Handler:
    """Speak WebSocket, and send every message back."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            connection = await request.accept(subprotocol=subprotocol)
            try:
                while True:
                    await connection.send_message(await connection.get_message())
            except trio_websocket.ConnectionClosed:
                nursery.cancel_scope.cancel()

    return handle


def slow_head(delay_s: float, body: bytes = b"at last") -> Handler:
    """Think for a while, then answer."""

    async def answer(caller: Caller, _asked: Asked) -> None:
        await trio.sleep(delay_s)
        await caller.respond(200, body)

    return service(answer)


def silence() -> Handler:
    """Take everything and never say a word."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        while await stream.receive_some():
            pass
        await trio.sleep_forever()

    return handle


def early_answer(status: int = 413, body: bytes = b"too much") -> Handler:
    """Answer on the head alone, and read nothing more."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        caller = Caller(stream)
        await caller.next_request()
        await caller.respond(status, body)
        await trio.sleep_forever()

    return handle


def hangs_up() -> Handler:
    """Read a request and close the connection without an answer."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        await Caller(stream).next_request()

    return handle


def reset_mid_body(sent: bytes = b"half of it", *, length: int | None = None) -> Handler:
    """Begin a response and close in the middle of it; chunked, unless `length` is stated."""

    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.begin(200, [] if length is None else [("Content-Length", str(length))])
        await caller.send(sent)
        await trio.aclose_forcefully(caller.stream)

    return service(answer)


def garbage(data: bytes = b"SSH-2.0-OpenSSH_9.6\r\n") -> Handler:
    """Speak something else than HTTP."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(data)
        while await stream.receive_some():
            pass

    return handle
