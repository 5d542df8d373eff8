"""WebSockets for the owner's own code: opened without a token, raw or spoken."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketRequest, wrap_server_stream

from actors import MemoryStore, Sandbox, SecurityError, open_runtime
from actors.testing.containers import FakeContainers, fake_containers
from proxy import websockets
from proxy.messages import Request
from proxy.websockets import forward_upgrade, ws_connect

Stream = trio.abc.HalfCloseableStream

PORT = 8080
KEY = (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")
HANDSHAKE = [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"), KEY]
HOST = (b"Host", b"own.example.com")


@asynccontextmanager
async def sandbox_with(service: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[tuple[Sandbox, FakeContainers]]:
    containers = fake_containers({PORT: service})
    async with open_runtime(MemoryStore(), containers={"fake": containers}) as runtime:
        yield await runtime.get_sandbox("my-app", container="fake"), containers


def starts(containers: FakeContainers) -> int:
    return sum(len(made.starts) for made in containers.made.values())


async def read_head(stream: Stream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    return head


async def tell_path_and_headers(stream: Stream) -> None:
    async with trio.open_nursery() as nursery:
        request: WebSocketRequest = await wrap_server_stream(nursery, stream)
        websocket = await request.accept(subprotocol=next(iter(request.proposed_subprotocols), None))
        try:
            await websocket.send_message(f"{request.path} {dict(request.headers)[b'x-mine'].decode()}")
            while True:
                await websocket.send_message(await websocket.get_message())
        except ConnectionClosed:
            nursery.cancel_scope.cancel()


# Spoken here.


async def test_owner_opens_a_websocket_without_token_and_wakes_the_sandbox() -> None:
    async with sandbox_with(tell_path_and_headers) as (sandbox, containers):
        assert starts(containers) == 0
        async with ws_connect(
            sandbox, "/a?b=%2F", PORT, headers=[(b"x-mine", b"1")], subprotocols=["chat"]
        ) as websocket:
            assert await websocket.get_message() == "/a?b=%2F 1"
            assert websocket.subprotocol == "chat"
            await websocket.send_message(b"\x00")
            assert await websocket.get_message() == b"\x00"
        assert starts(containers) == 1


@pytest.mark.parametrize("port", [0, 80, 3000, 65536, True])
async def test_port_that_could_not_be_exposed_is_refused(port: int) -> None:
    async with sandbox_with(tell_path_and_headers) as (sandbox, containers):
        with pytest.raises(SecurityError):
            async with ws_connect(sandbox, "/", port):
                pytest.fail("opened")
        with pytest.raises(SecurityError):
            async with forward_upgrade(sandbox, Request(b"GET", b"/", [HOST, *HANDSHAKE]), port):
                pytest.fail("forwarded")
        assert starts(containers) == 0


async def test_error_in_the_block_comes_out_as_it_is() -> None:
    async with sandbox_with(tell_path_and_headers) as (sandbox, _):
        with pytest.raises(LookupError, match="mine"):
            async with ws_connect(sandbox, "/", PORT, headers=[(b"x-mine", b"1")]):
                raise LookupError("mine")


async def test_refused_handshake_tells_the_services_status() -> None:
    async def refuse(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    async with sandbox_with(refuse) as (sandbox, _):
        with pytest.raises(ConnectionRejected) as caught:
            async with ws_connect(sandbox, "/", PORT):
                pytest.fail("opened")
        assert (caught.value.status_code, caught.value.body) == (403, b"no")


async def test_service_that_closes_instead_of_answering_is_an_error() -> None:
    async with sandbox_with(read_head_only) as (sandbox, _):
        with pytest.raises(HandshakeError):
            async with ws_connect(sandbox, "/", PORT):
                pytest.fail("opened")


async def read_head_only(stream: Stream) -> None:
    await read_head(stream)


async def test_service_that_never_answers_is_waited_for_no_longer_than_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def say_nothing(stream: Stream) -> None:
        while await stream.receive_some():
            pass

    async with sandbox_with(say_nothing) as (sandbox, _):
        with pytest.raises(trio.TooSlowError):
            async with ws_connect(sandbox, "/", PORT):
                pytest.fail("opened")
        async with forward_upgrade(sandbox, Request(b"GET", b"/", [HOST, *HANDSHAKE]), PORT) as response:
            assert response.status == 504


async def test_refusal_without_end_is_not_collected_without_end() -> None:
    sent = 0

    async def refuse_for_ever(stream: Stream) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            try:
                await stream.send_all(b"x" * 4096)
            except trio.BrokenResourceError:
                return
            sent += 4096

    async with sandbox_with(refuse_for_ever) as (sandbox, _):
        with pytest.raises(HandshakeError):
            async with ws_connect(sandbox, "/", PORT):
                pytest.fail("opened")
        assert sent < 2 * websockets.HANDSHAKE_BYTES_MAX


# Passed through.


async def test_handshake_passes_with_path_query_and_headers_and_bytes_flow_raw() -> None:
    async def switch(stream: Stream) -> None:
        head = await read_head(stream)
        assert head.startswith(b"GET /a?b=%2F HTTP/1.1\r\nHost: localhost:8080\r\n")
        assert b"\r\nCookie: mine\r\n" in head
        assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" in head
        await stream.send_all(b"HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\nfirst")
        await stream.send_all(await stream.receive_some())

    headers = [HOST, *HANDSHAKE, (b"Cookie", b"mine"), (b"Sec-WebSocket-Extensions", b"permessage-deflate")]
    async with (
        sandbox_with(switch) as (sandbox, _),
        forward_upgrade(sandbox, Request(b"GET", b"/a?b=%2F", headers), PORT) as response,
    ):
        assert (response.status, dict(response.headers)[b"x-a"]) == (101, b"1")
        assert response.stream is not None
        assert await response.stream.receive_some(2) == b"fi"
        assert await response.stream.receive_some() == b"rst"
        await response.stream.send_all(b"\x81\x00")
        assert await response.stream.receive_some() == b"\x81\x00"
        assert await response.stream.receive_some() == b""


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (Request(b"GET", b"/", [HOST]), 426),
        (Request(b"GET", b"/", [HOST, (b"Upgrade", b"websocket"), KEY]), 426),
        (Request(b"GET", b"/", [HOST, (b"Connection", b"upgrade"), (b"Upgrade", b"other")]), 426),
        (Request(b"POST", b"/", [HOST, *HANDSHAKE]), 400),
        (Request(b"GET", b"/", [HOST, *HANDSHAKE[:3]]), 400),
        (Request(b"GET", b"/", [HOST, *HANDSHAKE, (b"x", b"a\r\nb: c")]), 400),
    ],
)
async def test_what_is_no_websocket_handshake_goes_nowhere(request_: Request, status: int) -> None:
    async with sandbox_with(tell_path_and_headers) as (sandbox, containers):
        async with forward_upgrade(sandbox, request_, PORT) as response:
            assert response.status == status
            assert (b"upgrade" in dict(response.headers)) is (status == 426)
        assert starts(containers) == 0


async def test_refusal_of_the_service_passes_as_it_is() -> None:
    async def refuse(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    async with (
        sandbox_with(refuse) as (sandbox, _),
        forward_upgrade(sandbox, Request(b"GET", b"/", [HOST, *HANDSHAKE]), PORT) as response,
    ):
        assert (response.status, [piece async for piece in response.body]) == (403, [b"no"])


@pytest.mark.parametrize("answer", [b"", b"220 this is SMTP\r\n"])
async def test_service_that_does_not_speak_http_is_answered_for(answer: bytes) -> None:
    async def speak(stream: Stream) -> None:
        await read_head(stream)
        await stream.send_all(answer)

    async with (
        sandbox_with(speak) as (sandbox, _),
        forward_upgrade(sandbox, Request(b"GET", b"/", [HOST, *HANDSHAKE]), PORT) as response,
    ):
        assert response.status == 502


async def test_port_where_nothing_listens_is_answered_for() -> None:
    async with (
        sandbox_with(tell_path_and_headers) as (sandbox, _),
        forward_upgrade(sandbox, Request(b"GET", b"/", [HOST, *HANDSHAKE]), PORT + 1) as response,
    ):
        assert response.status == 502
        assert b'"NOT_LISTENING"' in b"".join([piece async for piece in response.body])
