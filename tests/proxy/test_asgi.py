"""The ASGI middleware, with the test as its server: what it sends when, and that nothing outlives its client."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketRequest, wrap_server_stream

from actors import MemoryStore, Runtime, Sandbox, open_runtime
from actors.testing.containers import FakeContainer, fake_containers
from proxy.asgi import ASGIApp, PreviewURLs

Stream = trio.abc.HalfCloseableStream
Event = Mapping[str, Any]

PORT = 8080


async def own_app(scope: Any, _: Any, send: Any) -> None:
    assert scope["type"] != "lifespan"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"own"})


class Call:
    """One call of the app, as its server sees it."""

    def __init__(self) -> None:
        self.to_app, self._from_server = trio.open_memory_channel[Event](0)
        self._to_server, self.from_app = trio.open_memory_channel[Event](0)
        self.over = trio.Event()

    async def run(self, app: ASGIApp, scope: Event) -> None:
        await app(scope, self._from_server.receive, self._to_server.send)
        self.over.set()

    async def send(self, kind: str, **event: Any) -> None:
        await self.to_app.send({"type": kind, **event})

    async def hear(self, kind: str) -> Event:
        event = await self.from_app.receive()
        assert event["type"] == kind, event
        return event

    def heard_nothing_more(self) -> bool:
        return self.from_app.statistics().tasks_waiting_send == 0


class House:
    """The middleware before one sandbox."""

    def __init__(
        self, runtime: Runtime, sandbox: Sandbox, app: PreviewURLs, place: FakeContainer, nursery: trio.Nursery
    ) -> None:
        self.runtime = runtime
        self.sandbox = sandbox
        self.app = app
        self.place = place
        self.host = b""
        self._nursery = nursery

    def call(self, kind: str = "http", host: bytes | None = None, **scope: Any) -> Call:
        call = Call()
        headers = [(b"host", host or self.host), *scope.pop("headers", [])]
        whole = {"type": kind, "path": "/a b", "raw_path": b"/a%20b", "query_string": b"x=1", "headers": headers}
        self._nursery.start_soon(call.run, self.app, {**whole, "client": ("192.0.2.7", 5), **scope})
        return call

    @property
    def visits(self) -> int:
        return self.runtime.statistics().visits


@asynccontextmanager
async def house(service: Callable[[Stream], Awaitable[None]], app: ASGIApp = own_app) -> AsyncIterator[House]:
    containers = fake_containers({PORT: service})
    async with open_runtime(MemoryStore(), containers={"fake": containers}) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        async with sandbox.running(), trio.open_nursery() as nursery:
            previews = PreviewURLs(app, runtime, ["example.com"])
            lifespan = Call()
            nursery.start_soon(lifespan.run, previews, {"type": "lifespan"})
            await lifespan.send("lifespan.startup")
            await lifespan.hear("lifespan.startup.complete")
            it = House(runtime, sandbox, previews, containers.made[sandbox.id], nursery)
            exposed = await sandbox.expose_port(PORT)
            it.host = urlsplit(exposed.url).netloc.encode("ascii")
            yield it
            await lifespan.send("lifespan.shutdown")
            await lifespan.hear("lifespan.shutdown.complete")
            await lifespan.over.wait()


async def read_head(stream: Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    return head


async def tell_head(stream: Stream) -> None:
    head = await read_head(stream)
    await stream.send_all(b"HTTP/1.1 201 Made\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def tick_until_gone(stream: Stream) -> None:
    await read_head(stream)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    await stream.send_all(b"a\r\ndata: 1\n\n\n\r\n")
    while await stream.receive_some():
        pass


# Requests.


async def test_request_for_another_host_is_the_apps() -> None:
    async with house(tell_head) as it:
        call = it.call(host=b"www.example.com")
        await call.hear("http.response.start")
        assert (await call.hear("http.response.body"))["body"] == b"own"
        await call.over.wait()


async def test_visitor_signs_in_in_front_of_the_app_too() -> None:
    async with house(tell_head) as it:
        await it.sandbox.set_preview_auth("preview-token-of-the-owner")
        form = b"token=preview-token-of-the-owner&to=/deep"
        length = (b"content-length", b"%d" % len(form))
        call = it.call(method="POST", path="/.portico/sign-in", raw_path=b"/.portico/sign-in", headers=[length])
        await call.send("http.request", body=form, more_body=False)
        answer = await call.hear("http.response.start")
        await call.hear("http.response.body")
        fields = dict(answer["headers"])
        assert (answer["status"], fields[b"location"]) == (303, b"http://" + it.host + b"/deep")
        cookie = fields[b"set-cookie"].partition(b";")[0]
        call = it.call(headers=[(b"cookie", cookie)])
        await call.send("http.request", body=b"", more_body=False)
        assert (await call.hear("http.response.start"))["status"] == 201
        shown = await call.hear("http.response.body")
        await call.hear("http.response.body")
        await call.over.wait()
        assert cookie not in shown["body"]


async def test_custom_hostname_is_the_apps_until_it_is_verified() -> None:
    async with house(tell_head) as it:
        asked = await it.sandbox.bind_domain("preview.my-app.com", PORT)
        call = it.call(host=b"preview.my-app.com")
        await call.hear("http.response.start")
        assert (await call.hear("http.response.body"))["body"] == b"own"
        await call.over.wait()
        await it.runtime.domains.verify(asked)
        call = it.call(host=b"preview.my-app.com")
        await call.send("http.request", body=b"", more_body=False)
        assert (await call.hear("http.response.start"))["status"] == 201
        assert b"X-Forwarded-Host: preview.my-app.com\r\n" in (await call.hear("http.response.body"))["body"]
        await call.hear("http.response.body")
        await call.over.wait()


async def test_preview_gets_the_request_as_received_and_the_client_the_answer() -> None:
    async with house(tell_head) as it:
        call = it.call()
        await call.send("http.request", body=b"", more_body=False)
        start = await call.hear("http.response.start")
        head = (await call.hear("http.response.body"))["body"]
        assert (start["status"], dict(start["headers"])) == (201, {b"content-length": b"%d" % len(head)})
        assert head.startswith(b"GET /a%20b?x=1 HTTP/1.1\r\n")
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in head
        assert await call.hear("http.response.body") == {"type": "http.response.body", "body": b"", "more_body": False}
        await call.over.wait()


async def test_path_without_its_raw_form_is_escaped_anew() -> None:
    async with house(tell_head) as it:
        call = it.call(raw_path=None)
        await call.send("http.request", body=b"", more_body=False)
        await call.hear("http.response.start")
        assert (await call.hear("http.response.body"))["body"].startswith(b"GET /a%20b?x=1 HTTP/1.1\r\n")
        await call.hear("http.response.body")


async def test_event_reaches_the_client_while_the_stream_is_open_and_leaving_ends_the_visit() -> None:
    async with house(tick_until_gone) as it:
        call = it.call()
        await call.send("http.request", body=b"", more_body=False)
        await call.hear("http.response.start")
        event = await call.hear("http.response.body")
        assert (event["body"], event["more_body"], it.visits) == (b"data: 1\n\n\n", True, 1)
        await call.send("http.disconnect")
        await call.over.wait()
        assert it.visits == 0


async def test_client_that_leaves_before_the_answer_ends_the_visit() -> None:
    async def say_nothing(stream: Stream) -> None:
        while await stream.receive_some():
            pass

    async with house(say_nothing) as it:
        call = it.call()
        await call.send("http.request", body=b"", more_body=False)
        await trio.testing.wait_all_tasks_blocked()
        assert it.visits == 1
        await call.send("http.disconnect")
        await call.over.wait()
        assert it.visits == 0


async def test_upload_of_a_client_that_leaves_is_not_passed_off_as_whole() -> None:
    received = []

    async def collect(stream: Stream) -> None:
        while data := await stream.receive_some():
            received.append(data)

    async with house(collect) as it:
        call = it.call(method="POST", headers=[(b"transfer-encoding", b"chunked")])
        await call.send("http.request", body=b"half", more_body=True)
        await trio.testing.wait_all_tasks_blocked()
        await call.send("http.disconnect")
        await call.over.wait()
        await trio.testing.wait_all_tasks_blocked()
    assert b"".join(received).endswith(b"4\r\nhalf\r\n")


async def test_upload_goes_on_while_the_answer_comes() -> None:
    async def answer_pieces(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        for _ in range(2):
            assert await stream.receive_some()
            await stream.send_all(b"yes")

    async with house(answer_pieces) as it:
        call = it.call(method="POST", headers=[(b"content-length", b"6")])
        await call.hear("http.response.start")
        for more in (True, False):
            await call.send("http.request", body=b"abc", more_body=more)
            assert (await call.hear("http.response.body"))["body"] == b"yes"
        await call.hear("http.response.body")
        await call.over.wait()


async def test_revocation_leaves_the_response_without_its_end() -> None:
    async with house(tick_until_gone) as it:
        call = it.call()
        await call.send("http.request", body=b"", more_body=False)
        await call.hear("http.response.start")
        await call.hear("http.response.body")
        assert await it.sandbox.unexpose_port(PORT) == 1
        await call.over.wait()
        assert call.heard_nothing_more()


async def test_server_that_says_the_client_is_gone_by_an_oserror_is_believed() -> None:
    async def gone(_: Event) -> None:
        raise OSError("connection lost")

    async with house(tick_until_gone) as it:
        scope = {"type": "http", "path": "/", "query_string": b"", "headers": [(b"host", it.host)]}
        await it.app(scope, trio.sleep_forever, gone)
        assert it.visits == 0


# WebSockets.


async def echo(request: WebSocketRequest) -> None:
    chosen = next(iter(request.proposed_subprotocols), None)
    websocket = await request.accept(subprotocol=chosen, extra_headers=[(b"x-a", b"1")])
    while True:
        await websocket.send_message(await websocket.get_message())


def websocket_service(serve: Callable[[WebSocketRequest], Awaitable[None]]) -> Callable[[Stream], Awaitable[None]]:
    async def handle(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            try:
                await serve(request)
            except ConnectionClosed:
                nursery.cancel_scope.cancel()

    return handle


async def test_websocket_echoes_on_the_subprotocol_that_the_service_chose() -> None:
    async with house(websocket_service(echo)) as it:
        key = (b"sec-websocket-key", b"the client's own")
        call = it.call("websocket", headers=[key], subprotocols=["chat", "other"])
        await call.send("websocket.connect")
        accept = await call.hear("websocket.accept")
        assert (accept["subprotocol"], accept["headers"]) == ("chat", [(b"x-a", b"1")])
        await call.send("websocket.receive", text="grüße")
        assert (await call.hear("websocket.send"))["text"] == "grüße"
        await call.send("websocket.receive", bytes=b"\xff")
        assert (await call.hear("websocket.send"))["bytes"] == b"\xff"
        assert it.visits == 1
        await call.send("websocket.disconnect", code=1000)
        await call.over.wait()
        assert it.visits == 0


async def test_revoked_websocket_is_closed_with_1001() -> None:
    async with house(websocket_service(echo)) as it:
        call = it.call("websocket")
        await call.send("websocket.connect")
        await call.hear("websocket.accept")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.sandbox.unexpose_port, PORT)
            assert (await call.hear("websocket.close"))["code"] == 1001
        await call.over.wait()


async def test_websocket_of_a_run_that_ends_is_closed_with_1012() -> None:
    released = trio.Event()

    async def outlive_the_run(request: WebSocketRequest) -> None:
        await request.accept()
        with trio.CancelScope(shield=True):
            await released.wait()

    async with house(websocket_service(outlive_the_run)) as it:
        call = it.call("websocket")
        await call.send("websocket.connect")
        await call.hear("websocket.accept")
        assert it.place.run is not None
        it.place.run.end()
        assert (await call.hear("websocket.close"))["code"] == 1012
        await call.over.wait()
        released.set()


async def test_refused_handshake_is_a_plain_answer_where_the_server_can_give_one() -> None:
    async with house(tell_head) as it:
        call = it.call("websocket", extensions={"websocket.http.response": {}})
        await call.send("websocket.connect")
        assert (await call.hear("websocket.http.response.start"))["status"] == 201
        head = (await call.hear("websocket.http.response.body"))["body"]
        assert b"\r\nUpgrade: websocket\r\n" in head
        await call.hear("websocket.http.response.body")
        await call.over.wait()


async def test_refused_handshake_is_a_close_elsewhere() -> None:
    async with house(tell_head) as it:
        call = it.call("websocket", host=it.host.replace(b"8080-", b"8081-"))
        await call.send("websocket.connect")
        await call.hear("websocket.close")
        await call.over.wait()


@pytest.mark.parametrize("extra", [b"", b"Sec-WebSocket-Accept: wrong\r\n"])
async def test_service_that_cannot_do_the_handshake_is_answered_for_with_502(extra: bytes) -> None:
    async def switch(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n%b\r\n" % extra)
        while await stream.receive_some():
            pass

    async with house(switch) as it:
        call = it.call("websocket", extensions={"websocket.http.response": {}})
        await call.send("websocket.connect")
        assert (await call.hear("websocket.http.response.start"))["status"] == 502
        await call.hear("websocket.http.response.body")
        await call.hear("websocket.http.response.body")
        await call.over.wait()


async def test_client_that_leaves_during_the_handshake_ends_the_visit() -> None:
    async def say_nothing(stream: Stream) -> None:
        while await stream.receive_some():
            pass

    async with house(say_nothing) as it:
        call = it.call("websocket")
        await call.send("websocket.connect")
        await trio.testing.wait_all_tasks_blocked()
        assert it.visits == 1
        await call.send("websocket.disconnect", code=1006)
        await call.over.wait()
        assert it.visits == 0


# The lifespan.


async def live(app: ASGIApp) -> list[str]:
    """Start and stop; return what the server was told."""
    told: list[str] = []

    async def receive() -> Event:
        await trio.lowlevel.checkpoint()
        return next(events)

    async def send(event: Event) -> None:
        await trio.lowlevel.checkpoint()
        told.append(event["type"])

    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    async with open_runtime(MemoryStore()) as runtime:
        await PreviewURLs(app, runtime)({"type": "lifespan"}, receive, send)
    return told


WHOLE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_app_with_a_lifespan_has_it() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        for phase in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{phase}"
            await send({"type": f"lifespan.{phase}.complete"})

    assert await live(app) == WHOLE


async def test_app_without_a_lifespan_does_not_cost_the_previews_theirs() -> None:
    async def app(_: Any, _receive: Any, _send: Any) -> None:
        raise NotImplementedError("what is a lifespan?")

    assert await live(app) == WHOLE


async def test_app_that_asks_and_then_raises_does_not_either() -> None:
    async def app(_: Any, receive: Any, _send: Any) -> None:
        await receive()
        raise NotImplementedError("what is a lifespan?")

    assert await live(app) == WHOLE


async def test_app_that_is_through_early_leaves_the_previews_to_the_shutdown() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})

    assert await live(app) == WHOLE


async def test_startup_that_failed_is_the_last_word() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    assert await live(app) == ["lifespan.startup.failed"]


async def test_error_of_a_started_app_is_not_swallowed() -> None:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise LookupError("a bug")

    async with open_runtime(MemoryStore()) as runtime:
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Event:
            await trio.lowlevel.checkpoint()
            return next(events)

        async def send(_: Event) -> None:
            await trio.lowlevel.checkpoint()

        with pytest.raises(LookupError):
            await PreviewURLs(app, runtime)({"type": "lifespan"}, receive, send)


async def test_request_outside_the_lifespan_says_what_is_missing() -> None:
    async with open_runtime(MemoryStore()) as runtime:
        previews = PreviewURLs(own_app, runtime)
        with pytest.raises(RuntimeError, match="lifespan"):
            await previews({"type": "http"}, trio.sleep_forever, trio.sleep)
