"""An ASGI app on the base domain: requests and answers as they come, and what becomes of either when the other ends."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from proxy.application import Application, ClientGoneError
from proxy.options import Options
from proxy.testing import Client, CutOffError
from proxy.testing import preview_engine as make_engine
from proxy.transport import RECEIVE_BYTES
from tests.proxy.ways import OpenEngine

SECRET = "hunter2"
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    fields = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Answer with what was asked."""
    body = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise EOFError("no whole request")
        body += event["body"]
        if not event.get("more_body"):
            break
    asked = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} {scope['scheme']} {scope['client']}"
    await answer(send, 200, asked.encode() + b" " + body)


@pytest.mark.parametrize("host", ["example.com", "localhost:8787", "127.0.0.1", "[::1]:80"])
async def test_base_domain_is_the_apps(open_engine: OpenEngine, host: str) -> None:
    async with open_engine(app=echo) as engine:
        response = await engine.request("POST", f"https://{host}/a%20b?c=%2F", body=b"content")
        assert response.body == b"POST /a b?c=%2F https ('192.0.2.7', 0) content"


async def test_hosts_of_nobody_and_previews_are_not_the_apps(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine:
        assert (await engine.get("https://elsewhere.net/")).code == "MISDIRECTED_REQUEST"
        assert (await engine.get("https://8080-x-abc.example.com/")).code == "INVALID_TOKEN"


async def test_one_connection_carries_many_requests(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine:
        client = engine.connect()
        for number in range(4):
            await client.send_request("PUT", f"/{number}", "example.com", body=b"x" * number)
            response = await client.read_response()
            assert response.body.endswith(b"x" * number)
        assert engine.router.connections == 1


async def test_pieces_leave_as_the_app_sends_them_while_the_request_still_comes(open_engine: OpenEngine) -> None:
    async def shout(_scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (event := await receive()).get("more_body"):
            await send({"type": "http.response.body", "body": event["body"].upper(), "more_body": True})
        await send({"type": "http.response.body"})

    async with open_engine(app=shout) as engine:
        client = engine.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
        head = await client.read_head("POST")
        assert head.header("transfer-encoding") == "chunked"
        for piece in (b"one", b"two"):
            await client.send(b"3\r\n%b\r\n" % piece)
            assert await client.read_some() == piece.upper()
        await client.send(b"0\r\n\r\n")
        assert await client.read_some() == b""


async def test_client_that_waits_is_told_to_go_on_only_when_the_body_is_wanted(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine:
        client = engine.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 100 ")
        await client.send(b"ok")
        assert (await client.read_response("POST")).body.endswith(b"ok")


async def test_answer_before_the_body_ends_the_connection(open_engine: OpenEngine) -> None:
    async def refuse(_scope: Any, _receive: Receive, send: Send) -> None:
        await answer(send, 413, b"too much")

    async with open_engine(app=refuse) as engine:
        client = engine.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 99\r\n\r\nsome")
        response = await client.read_response("POST")
        # RFC 9112 section 9.6: whoever will close says so.
        assert (response.status, response.header("connection")) == (413, "close")
        assert await client.receive() == b""


async def test_answer_before_a_body_that_is_here_leaves_the_connection_usable(open_engine: OpenEngine) -> None:
    async def refuse(_scope: Any, _receive: Receive, send: Send) -> None:
        await answer(send, 413, b"too much")

    async with open_engine(app=refuse) as engine:
        client = engine.connect()
        for _ in range(2):
            await client.send(b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\nsome")
            response = await client.read_response("POST")
            assert (response.status, response.header("connection")) == (413, None)


async def test_body_that_breaks_the_protocol_is_answered_400(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine:
        client = engine.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n")
        assert (await client.read_response("POST")).code == "BAD_REQUEST"


async def test_app_that_fails_is_answered_for(open_engine: OpenEngine, logged: list[dict[str, object]]) -> None:
    async def fail(_scope: Any, _receive: Receive, _send: Send) -> None:
        raise KeyError(SECRET)

    async def silent(_scope: Any, _receive: Receive, _send: Send) -> None:
        """Give no answer."""

    for app in (fail, silent):
        async with open_engine(app=app) as engine:
            response = await engine.get("https://example.com/")
            assert (response.status, response.code) == (500, "INTERNAL")
    assert SECRET not in str(logged)
    assert len(logged) == 2


async def test_answer_that_falls_short_is_seen_to_be_cut_off(open_engine: OpenEngine) -> None:
    async def fall_short(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})

    async with open_engine(app=fall_short) as engine:
        with pytest.raises(CutOffError):
            await engine.get("https://example.com/")


async def test_app_learns_that_its_client_has_left(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    told = trio.Event()

    async def wait(_scope: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        with pytest.raises(ClientGoneError):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        told.set()

    async with open_engine(app=wait) as engine:
        async with engine.open("GET", "https://example.com/") as client:
            await client.read_head()
        with trio.fail_after(60):
            await told.wait()


@pytest.mark.parametrize("begun", [False, True])
async def test_closing_server_cuts_what_the_app_has_under_way(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock, begun: bool
) -> None:
    async def last(_scope: Any, _receive: Receive, send: Send) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep_forever()

    async with (
        open_engine(app=last, options=Options(drain_timeout_s=3)) as engine,
        engine.open("GET", "https://example.com/") as client,
    ):
        await engine.settle()
        started = trio.current_time()
        assert await engine.router.drain() == 1
        assert trio.current_time() - started < 10
        if begun:
            with pytest.raises(CutOffError):
                await client.read_response()
        else:
            assert (await client.read_response()).code == "SHUTTING_DOWN"


async def test_head_request_is_answered_without_content(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine:
        client: Client = engine.connect()
        await client.send_request("HEAD", "/", "example.com")
        response = await client.read_response("HEAD")
        assert (response.status, response.body) == (200, b"")
        assert response.header("content-length") != "0"


async def test_answer_without_a_length_reaches_an_old_client(open_engine: OpenEngine) -> None:
    async def stream(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})

    app: Application = stream
    async with open_engine(app=app) as engine:
        client = engine.connect()
        await client.send(b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n")
        assert (await client.read_to_end()).endswith(b"\r\n\r\nwhole")


async def test_no_content_has_no_length_and_the_connection_goes_on(open_engine: OpenEngine) -> None:
    async def nothing(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with open_engine(app=nothing) as engine:
        client = engine.connect()
        for _ in range(2):
            await client.send_request("DELETE", "/", "example.com")
            response = await client.read_response("DELETE")
            assert (response.status, response.header("content-length")) == (204, None)


LIMIT_S = 30.0


async def flood(_scope: Any, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})


async def test_client_that_takes_nothing_of_its_answer_is_let_go_of(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(app=flood, options=Options(stalled_timeout_s=LIMIT_S)) as engine:
        client = engine.connect(unbuffered=True)
        await client.send_request("GET", "/", "example.com")
        await client.read_head()
        await trio.sleep(LIMIT_S - 1)
        assert engine.router.connections == 1
        await trio.sleep(4)
        assert engine.router.connections == 0


async def test_client_that_was_given_up_is_reset_whatever_the_app_still_sends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def clings(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await flood(scope, receive, send)
        finally:
            with trio.move_on_after(5, shield=True):
                await send({"type": "http.response.body", "body": b"goodbye"})

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with (
        listener,
        await trio.testing.open_stream_to_socket_listener(listener) as stream,
        make_engine(app=clings, options=Options(stalled_timeout_s=LIMIT_S), sockets=True) as engine,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(engine.router.handle, await listener.accept())
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        await trio.sleep(LIMIT_S + 10)
        assert engine.router.connections == 0
        with pytest.raises(trio.BrokenResourceError):
            async for _ in stream:
                pass


async def test_client_that_reads_slowly_keeps_its_answer(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(app=flood, options=Options(stalled_timeout_s=LIMIT_S)) as engine:
        client = engine.connect(unbuffered=True)
        await client.send_request("GET", "/", "example.com")
        await client.read_head()
        for _ in range(10):
            await trio.sleep(LIMIT_S - 5)
            assert await client.stream.receive_some()
        assert engine.router.connections == 1


async def test_client_that_reads_one_large_piece_steadily_is_not_taken_for_stuck(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def at_once(_scope: Any, _receive: Receive, send: Send) -> None:
        await answer(send, 200, bytes(100 * RECEIVE_BYTES))

    async with open_engine(app=at_once, options=Options(stalled_timeout_s=LIMIT_S)) as engine:
        client = engine.connect(unbuffered=True)
        await client.send_request("GET", "/", "example.com")
        await client.read_head()
        for _ in range(10):
            await trio.sleep(LIMIT_S - 5)
            assert await client.stream.receive_some(RECEIVE_BYTES)
        assert engine.router.connections == 1


async def test_app_that_has_nothing_to_say_has_no_limit(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def quiet(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await trio.sleep(10 * LIMIT_S)
        await send({"type": "http.response.body", "body": b"late"})

    async with open_engine(app=quiet, options=Options(stalled_timeout_s=LIMIT_S)) as engine:
        assert (await engine.get("https://example.com/")).body == b"late"
