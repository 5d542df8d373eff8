"""WebSockets of an ASGI app on the base domain."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from proxy import appsocket
from proxy.appsocket import MESSAGE_BYTES_MAX
from proxy.options import Options
from proxy.testing import Client
from proxy.testing import preview_engine as make_engine
from tests.proxy.ways import OpenEngine

SECRET = "hunter2"
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

URL = "wss://example.com/socket?x=1"


async def echo(scope: Any, receive: Receive, send: Send) -> None:
    """Send back what comes, until the client closes."""
    assert scope["type"] == "websocket"
    assert (await receive())["type"] == "websocket.connect"
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


def code_of(closed: trio_websocket.ConnectionClosed) -> int:
    assert closed.reason is not None
    return closed.reason.code


async def test_messages_pass_both_ways_whole(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine, engine.websocket(URL) as socket:
        for message in ("text", b"bytes", b"", "x" * 200_000):
            await socket.send_message(message)
            assert await socket.get_message() == message
        await socket.ping(b"there?")


async def test_subprotocol_is_the_apps_choice_of_those_offered(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine, engine.websocket(URL, subprotocols=["a", "b"]) as socket:
        assert socket.subprotocol == "a"


async def test_app_sees_the_clients_close_code(open_engine: OpenEngine) -> None:
    codes: list[int] = []

    async def note(_scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        codes.append((await receive())["code"])

    async with open_engine(app=note) as engine:
        async with engine.websocket(URL) as socket:
            await socket.aclose(3456)
        await engine.settle()
    assert codes == [3456]


async def test_client_sees_the_apps_close_code(open_engine: OpenEngine) -> None:
    async def close(_scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": b"last"})
        await send({"type": "websocket.close", "code": 4001, "reason": "done"})

    async with open_engine(app=close) as engine, engine.websocket(URL) as socket:
        assert await socket.get_message() == b"last"
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await socket.get_message()
        assert code_of(closed.value) == 4001


async def test_refused_handshake_is_an_ordinary_answer(open_engine: OpenEngine) -> None:
    async def deny(_scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        fields = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": fields})
        await send({"type": "websocket.http.response.body", "body": b"{}"})

    async def close(_scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})

    for app, status, body in ((deny, 401, b"{}"), (close, 403, b"")):
        async with open_engine(app=app) as engine:
            with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
                async with engine.websocket(URL):
                    pass
            assert (rejected.value.status_code, rejected.value.body or b"") == (status, body)


async def test_message_without_end_is_not_held(open_engine: OpenEngine) -> None:
    async with open_engine(app=echo) as engine, engine.websocket(URL) as socket:
        await socket.send_message(b"x" * (MESSAGE_BYTES_MAX + 1))
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await socket.get_message()
        assert code_of(closed.value) == 1009


@pytest.mark.parametrize(("opcode", "message"), [(1, "ab"), (2, b"ab")])
async def test_frames_without_content_are_not_held_and_leave_the_message_whole(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, opcode: int, message: str | bytes
) -> None:
    held: list[int] = []

    def note(pieces: list[Any]) -> dict[str, str | bytes]:
        held.append(len(pieces))
        return content(pieces)

    content = appsocket._content
    monkeypatch.setattr(appsocket, "_content", note)

    def frame(first: int, data: bytes = b"") -> bytes:
        # RFC 6455 section 5.2; masked with zeros, which changes nothing.
        return bytes([first, 0x80 | len(data), 0, 0, 0, 0]) + data

    async with open_engine(app=echo) as engine, engine.websocket(URL) as socket:
        empty = frame(0)
        sent = [frame(opcode), empty * 500, frame(0, b"a"), empty * 500, frame(0, b"b"), empty * 500, frame(0x80)]
        await socket._stream.send_all(b"".join(sent))
        assert await socket.get_message() == message
        await socket.send_message(message[:0])
        assert await socket.get_message() == message[:0]
    assert max(held) <= 3


async def test_app_that_fails_closes_with_an_error(open_engine: OpenEngine, logged: list[dict[str, object]]) -> None:
    async def fail(_scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        raise KeyError(SECRET)

    async with open_engine(app=fail) as engine, engine.websocket(URL) as socket:
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await socket.get_message()
        assert code_of(closed.value) == 1011
    assert len(logged) == 1
    assert SECRET not in str(logged)


async def test_closing_server_says_goodbye(open_engine: OpenEngine, autojump_clock: trio.testing.MockClock) -> None:
    async with open_engine(app=echo, options=Options(drain_timeout_s=3)) as engine, engine.websocket(URL) as socket:
        await engine.settle()
        assert await engine.router.drain() == 1
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await socket.get_message()
        assert code_of(closed.value) == 1001


async def test_client_that_leaves_without_a_word_ends_the_app(open_engine: OpenEngine) -> None:
    ended = trio.Event()

    async def note(scope: Any, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        ended.set()

    async with open_engine(app=note) as engine:
        client = engine.connect()
        await client.send(
            b"GET /socket HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = await client.read_head()
        # RFC 6455 section 1.3 has this pair.
        assert head.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        await client.aclose()
        with trio.fail_after(5):
            await ended.wait()


async def test_handshake_out_of_order_is_an_ordinary_request(open_engine: OpenEngine) -> None:
    kinds: list[str] = []

    async def note(scope: Any, _receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])
        await send({"type": "http.response.start", "status": 426, "headers": []})
        await send({"type": "http.response.body"})

    async with open_engine(app=note) as engine:
        fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "short")]
        assert (await engine.get("https://example.com/", headers=fields)).status == 426
    assert kinds == ["http"]


HANDSHAKE = [
    *(("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


async def flood(_scope: Any, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "bytes": bytes(65536)})


async def test_client_that_takes_nothing_of_what_it_is_sent_is_let_go_of(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(app=flood, options=Options(stalled_timeout_s=30.0)) as engine:
        client = engine.connect(unbuffered=True)
        await client.send_request("GET", "/", "example.com", headers=HANDSHAKE)
        assert (await client.receive()).startswith(b"HTTP/1.1 101 ")
        await trio.sleep(29)
        assert engine.router.connections == 1
        await trio.sleep(6)
        assert engine.router.connections == 0


async def test_what_the_kernel_holds_for_a_client_that_takes_nothing_is_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with (
        listener,
        await trio.testing.open_stream_to_socket_listener(listener) as stream,
        make_engine(app=flood, options=Options(stalled_timeout_s=30.0), sockets=True) as engine,
        trio.open_nursery() as nursery,
    ):
        client = Client(stream)
        nursery.start_soon(engine.router.handle, await listener.accept())
        await client.send_request("GET", "/", "example.com", headers=HANDSHAKE)
        assert (await client.receive()).startswith(b"HTTP/1.1 101 ")
        # One round of the watchman more, and no farewell.
        await trio.sleep(32)
        assert engine.router.connections == 0
        # A reset, where an end would come after all that was sent.
        with pytest.raises(trio.BrokenResourceError):
            async for _ in stream:
                pass
