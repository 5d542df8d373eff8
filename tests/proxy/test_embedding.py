"""Preview traffic inside another server: one gate, no loose ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from actors import MemoryStore, Runtime, Sandbox, open_runtime
from actors.testing.containers import FakeContainer, fake_containers
from proxy.embedding import Gateway, open_gateway, proxy_to_sandbox
from proxy.messages import Request, Response, ResponseCutError

Stream = trio.abc.HalfCloseableStream
Service = Callable[[bytes, Stream], Awaitable[None]]
"""Is given the head of a request, and answers on the stream."""

DOMAIN = "example.com"
PORT = 8080


def serving(service: Service) -> Callable[[Stream], Awaitable[None]]:
    async def handle(stream: Stream) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = await stream.receive_some()
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            await service(head + b"\r\n", Given(stream, buffer))
            buffer = b""

    return handle


class Given(trio.abc.HalfCloseableStream):
    """The service's stream, from the end of the head on."""

    def __init__(self, stream: Stream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        first, self._first = self._first, b""
        return first or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class House:
    """A gateway before one sandbox with one service."""

    def __init__(self, runtime: Runtime, gateway: Gateway, sandbox: Sandbox, host: bytes, place: FakeContainer) -> None:
        self.runtime = runtime
        self.gateway = gateway
        self.sandbox = sandbox
        self.host = host
        self.place = place

    def request(
        self,
        *headers: tuple[bytes, bytes],
        method: bytes = b"GET",
        body: AsyncIterator[bytes] | None = None,
        http_version: str = "1.1",
        accepts_upgrade: bool = False,
    ) -> Request:
        return Request(
            method,
            b"/path?x=%2F",
            [(b"host", self.host), *headers],
            body,
            http_version=http_version,
            accepts_upgrade=accepts_upgrade,
            client_address="192.0.2.7",
        )

    @property
    def visits(self) -> int:
        return self.runtime.statistics().visits

    @property
    def dials(self) -> int:
        return self.place.dials.total()


@asynccontextmanager
async def house(service: Service) -> AsyncIterator[House]:
    containers = fake_containers({PORT: serving(service)})
    async with open_runtime(MemoryStore(), containers={"fake": containers}) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        async with open_gateway(runtime, [DOMAIN]) as gateway:
            exposed = await sandbox.expose_port(PORT)
            host = urlsplit(exposed.url).netloc.encode("ascii")
            async with sandbox.running():
                yield House(runtime, gateway, sandbox, host, containers.made[sandbox.id])


async def content(response: Response) -> bytes:
    return b"".join([piece async for piece in response.body])


async def tell_head(head: bytes, stream: Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))


async def send_half(_: bytes, stream: Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    await wait_for_end(stream)


async def say_nothing(_: bytes, stream: Stream) -> None:
    await wait_for_end(stream)


async def wait_for_end(stream: Stream) -> None:
    while await stream.receive_some():
        pass


@pytest.mark.parametrize("host", [b"other.com", b"example.com", b"www.example.com", b"localhost:80"])
async def test_host_that_is_no_previews_is_left_to_the_embedding_server(host: bytes) -> None:
    async with house(tell_head) as it, proxy_to_sandbox(Request(b"GET", b"/", [(b"host", host)]), it.gateway) as answer:
        assert answer is None


async def test_request_without_host_is_left_to_the_embedding_server() -> None:
    async with house(tell_head) as it, proxy_to_sandbox(Request(b"GET", b"/", []), it.gateway) as answer:
        assert answer is None


async def test_request_reaches_the_service_and_its_connection_is_kept() -> None:
    async with house(tell_head) as it:
        for _ in range(2):
            async with proxy_to_sandbox(it.request((b"X-Mine", b"1")), it.gateway) as response:
                assert response is not None
                head = await content(response)
            assert it.visits == 0
            assert head.startswith(b"GET /path?x=%2F HTTP/1.1\r\nHost: localhost:8080\r\n")
            assert b"\r\nX-Mine: 1\r\n" in head
            assert b"\r\nX-Forwarded-For: 192.0.2.7\r\n" in head
        assert it.dials == 1


async def test_what_connection_names_does_not_reach_the_service() -> None:
    async with house(tell_head) as it:
        request = it.request((b"connection", b"keep-alive, x-hop"), (b"x-hop", b"1"), (b"x-end", b"1"))
        async with proxy_to_sandbox(request, it.gateway) as response:
            assert response is not None
            head = await content(response)
        assert b"x-hop" not in head.lower()
        assert b"x-end: 1" in head


async def test_wrong_token_is_answered_like_anywhere_else() -> None:
    async with house(tell_head) as it:
        host = it.host[: it.host.index(b".") - 16] + b"a" * 16 + b".example.com"
        async with proxy_to_sandbox(Request(b"GET", b"/", [(b"host", host)]), it.gateway) as response:
            assert response is not None
            assert response.status == 404
            assert b'"INVALID_TOKEN"' in await content(response)
        assert it.dials == 0


@pytest.mark.parametrize("lax", [(b"x: y", b"z"), (b"x", b"a\r\nb: c"), (b"host", b"b.example.com")])
async def test_head_that_could_be_read_otherwise_is_refused_and_goes_nowhere(lax: tuple[bytes, bytes]) -> None:
    async with house(tell_head) as it:
        async with proxy_to_sandbox(it.request(lax), it.gateway) as response:
            assert response is not None
            assert response.status == 400
        assert it.dials == 0


async def test_target_that_names_another_host_is_refused() -> None:
    async with house(tell_head) as it:
        request = Request(b"GET", b"http://other.com/", [(b"host", it.host)])
        async with proxy_to_sandbox(request, it.gateway) as response:
            assert response is not None
            assert (response.status, it.dials) == (400, 0)


async def test_head_request_has_the_length_and_no_content() -> None:
    async def answer(_: bytes, stream: Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    async with house(answer) as it, proxy_to_sandbox(it.request(method=b"HEAD"), it.gateway) as response:
        assert response is not None
        assert (response.headers, await content(response)) == ([(b"content-length", b"5")], b"")


async def test_request_and_response_stream_at_once() -> None:
    async def answer_each_piece(_: bytes, stream: Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not (data := await stream.receive_some()).startswith(b"0"):
            await stream.send_all(data)
        await stream.send_all(b"0\r\n\r\n")

    send, body = trio.open_memory_channel[bytes](0)
    async with house(answer_each_piece) as it:
        request = it.request((b"transfer-encoding", b"chunked"), method=b"POST", body=body)
        async with proxy_to_sandbox(request, it.gateway) as response:
            assert response is not None
            for piece in (b"one", b"two"):
                await send.send(piece)
                assert await anext(response.body) == piece
            send.close()
            assert await content(response) == b""
        assert it.visits == 0


async def test_revocation_in_the_middle_cuts_the_response_before_it_is_acknowledged() -> None:
    async with house(send_half) as it, proxy_to_sandbox(it.request(), it.gateway) as response:
        assert response is not None
        assert await anext(response.body) == b"half"
        assert await it.sandbox.unexpose_port(PORT) == 1
        assert it.visits == 0
        with pytest.raises(ResponseCutError):
            await anext(response.body)


async def test_revocation_before_an_answer_is_answered_as_the_next_request_would_be(nursery: trio.Nursery) -> None:
    async with house(say_nothing) as it:
        nursery.start_soon(unexpose_when_visited, it)
        async with proxy_to_sandbox(it.request(), it.gateway) as response:
            assert response is not None
            assert response.status == 404


async def unexpose_when_visited(it: House) -> None:
    while not it.visits:
        await trio.lowlevel.checkpoint()
    await it.sandbox.unexpose_port(PORT)


async def test_leaving_early_ends_the_visit_and_closes_the_services_connection() -> None:
    closed = trio.Event()

    async def stream_forever(_: bytes, stream: Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await stream.send_all(b"4\r\ntick\r\n")
                await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError:
            closed.set()

    async with house(stream_forever) as it:
        async with proxy_to_sandbox(it.request(), it.gateway) as response:
            assert response is not None
            await anext(response.body)
            assert it.visits == 1
        assert it.visits == 0
        await closed.wait()


async def test_cancelling_while_the_service_thinks_ends_the_visit(autojump_clock: trio.testing.MockClock) -> None:
    async with house(say_nothing) as it:
        with trio.move_on_after(1) as waited:
            async with proxy_to_sandbox(it.request(), it.gateway):
                pytest.fail("the service never answers")
        assert waited.cancelled_caught
        assert it.visits == 0


async def test_error_of_the_requests_body_is_raised_and_no_end_is_made_up() -> None:
    received = []

    async def collect(_: bytes, stream: Stream) -> None:
        while data := await stream.receive_some():
            received.append(data)

    async def fail_in_the_middle() -> AsyncIterator[bytes]:
        yield b"half"
        # The kind of error that a server's own stream raises, and that must not be taken for one of ours.
        raise trio.BrokenResourceError("the client left")

    async with house(collect) as it:
        request = it.request((b"transfer-encoding", b"chunked"), method=b"POST", body=fail_in_the_middle())
        with pytest.raises(trio.BrokenResourceError, match="the client left"):
            async with proxy_to_sandbox(request, it.gateway):
                pytest.fail("there is no response")
        assert it.visits == 0
        assert b"0\r\n\r\n" not in b"".join(received)


async def test_body_shorter_than_its_length_is_an_error() -> None:
    async def short() -> AsyncIterator[bytes]:
        yield b"1234"

    async with house(say_nothing) as it:
        request = it.request((b"content-length", b"5"), method=b"POST", body=short())
        with pytest.raises(RuntimeError, match="less content"):
            async with proxy_to_sandbox(request, it.gateway):
                pytest.fail("there is no response")


async def test_body_is_closed_when_the_service_wants_no_more_of_it() -> None:
    closed = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    async def refuse(_: bytes, stream: Stream) -> None:
        await stream.send_all(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        await wait_for_end(stream)

    async with house(refuse) as it:
        request = it.request((b"transfer-encoding", b"chunked"), method=b"POST", body=endless())
        async with proxy_to_sandbox(request, it.gateway) as response:
            assert response is not None
            assert (response.status, await content(response)) == (413, b"no")
        await closed.wait()


async def test_announced_body_that_is_missing_is_the_callers_mistake() -> None:
    async with house(tell_head) as it:
        with pytest.raises(ValueError, match="announce a body"):
            async with proxy_to_sandbox(it.request((b"content-length", b"5"), method=b"POST"), it.gateway):
                pytest.fail("there is no response")


@pytest.mark.parametrize(("method", "pieces", "chunked"), [(b"GET", 0, False), (b"GET", 1, True), (b"POST", 0, True)])
async def test_http2_body_without_length_is_chunked_if_there_is_one(method: bytes, pieces: int, chunked: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b"piece"

    async with house(tell_head) as it:
        request = it.request(method=method, body=body(), http_version="2")
        async with proxy_to_sandbox(request, it.gateway) as response:
            assert response is not None
            assert (b"Transfer-Encoding: chunked" in await content(response)) is chunked


async def switch_and_echo(head: bytes, stream: Stream) -> None:
    assert b"\r\nUpgrade: websocket\r\n" in head
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
    while data := await stream.receive_some():
        await stream.send_all(data)
    await stream.send_eof()


UPGRADE = ((b"connection", b"upgrade"), (b"upgrade", b"websocket"))


async def test_websocket_is_refused_where_the_server_cannot_pass_it_on() -> None:
    async with house(switch_and_echo) as it, proxy_to_sandbox(it.request(*UPGRADE), it.gateway) as response:
        assert response is not None
        assert (response.status, it.dials) == (400, 0)


async def test_upgrade_gives_raw_bytes_both_ways_until_both_have_ended() -> None:
    async with house(switch_and_echo) as it:
        async with proxy_to_sandbox(it.request(*UPGRADE, accepts_upgrade=True), it.gateway) as response:
            assert response is not None
            assert (response.status, response.stream is not None) == (101, True)
            assert response.stream is not None
            assert await response.stream.receive_some() == b"hi"
            await response.stream.send_all(b"ping")
            assert await response.stream.receive_some() == b"ping"
            await response.stream.send_eof()
            assert await response.stream.receive_some() == b""
        assert it.visits == 0


async def test_closing_the_gateway_cuts_what_is_under_way() -> None:
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers({PORT: serving(send_half)})}) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        exposed = await sandbox.expose_port(PORT, hostname=DOMAIN)
        request = Request(b"GET", b"/", [(b"host", urlsplit(exposed.url).netloc.encode("ascii"))])
        opened = open_gateway(runtime, [DOMAIN])
        gateway = await opened.__aenter__()
        async with proxy_to_sandbox(request, gateway) as response:
            assert response is not None
            assert await anext(response.body) == b"half"
            await opened.__aexit__(None, None, None)
            assert runtime.statistics().visits == 0
            with pytest.raises(ResponseCutError):
                await anext(response.body)


async def test_urls_are_built_on_the_gateways_domain_while_it_is_open() -> None:
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        async with open_gateway(runtime, ["localhost"], listener_port=8000):
            exposed = await sandbox.expose_port(PORT, token="secret")
            assert exposed.url == "http://8080-my-app-secret.localhost:8000/"
        assert runtime.public_address is None
