"""A server on real sockets: listening, accepting under pressure, an orderly end."""

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
import trio_websocket

from actors import CustomDomainRequiredError, InvalidNameError, MemoryStore, Runtime, open_runtime
from actors.testing.containers import FakeContainers, Handler, fake_containers
from proxy.lane import Lane
from proxy.options import Options
from proxy.server import Server
from proxy.testing import Client, respond, websocket_echo


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Runtime, FakeContainers]]:
    containers = fake_containers()
    async with open_runtime(MemoryStore(), containers={"fake": containers}) as runtime:
        yield runtime, containers


async def expose(runtime: Runtime, containers: FakeContainers, handler: Handler) -> str:
    """Expose a service on the server's own domain, and return the URL."""
    sandbox = await runtime.get_sandbox("my-app", container="fake")
    containers.handlers[8080] = handler
    return (await sandbox.expose_port(8080, wake_on_websocket=True)).url


async def dial(server: Server, host: str = "127.0.0.1") -> Client:
    return Client(await trio.open_tcp_stream(host, server.port))


async def be_let_in(client: Client) -> None:
    """Return once the connection is one of the server's, idle: what it asks for is answered, though it is nowhere."""
    await client.send_request("GET", "/", "localhost")
    assert (await client.read_response()).status == 404


async def test_preview_is_served_over_a_socket(nursery: trio.Nursery) -> None:
    async with running() as (runtime, containers):
        async with Server(runtime, listen="127.0.0.1:0") as server:
            url = await expose(runtime, containers, respond(b"hello"))
            parts = urlsplit(url)
            assert (parts.scheme, parts.port, parts.path) == ("http", server.port, "/")
            client = await dial(server)
            for _ in range(2):
                await client.send_request("GET", "/", parts.netloc)
                assert (await client.read_response()).body == b"hello"
            assert server.connections == 1
            await client.aclose()
        assert runtime.public_address is None
        with pytest.raises(OSError, match=r"refused|failed"):
            await dial(server)


async def test_websocket_is_cut_over_a_socket_with_a_close_frame() -> None:
    async with running() as (runtime, containers), Server(runtime, listen="127.0.0.1:0") as server:
        url = urlsplit(await expose(runtime, containers, websocket_echo()))
        sandbox = await runtime.get_sandbox("my-app")
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.open_nursery() as nursery:
            connection = await trio_websocket.wrap_client_stream(nursery, stream, url.netloc, "/")

            async def read_to_end() -> None:
                while True:
                    await connection.get_message()

            with trio.fail_after(5):
                # Unread data on our side must not turn the end into a reset that overtakes the close frame.
                for _ in range(100):
                    await connection.send_message("x" * 1000)
                await connection.get_message()
                assert await sandbox.unexpose_port(8080) == 1
                with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                    await read_to_end()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
            nursery.cancel_scope.cancel()
        await stream.aclose()


async def test_full_house_lets_further_clients_wait() -> None:
    async with (
        running() as (runtime, containers),
        Server(runtime, listen="127.0.0.1:0", options=Options(connections_max=1)) as server,
    ):
        host = urlsplit(await expose(runtime, containers, respond(b"hello"))).netloc
        first, second = await dial(server), await dial(server)
        await first.send_request("GET", "/", host)
        assert (await first.read_response()).body == b"hello"
        await second.send_request("GET", "/", host)
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == 1
        # The one inside is unharmed, and its leaving makes room.
        await first.send_request("GET", "/", host)
        assert (await first.read_response()).body == b"hello"
        await first.aclose()
        with trio.fail_after(5):
            assert (await second.read_response()).body == b"hello"
        await second.aclose()


async def test_connections_of_one_address_share_what_is_noted_of_them() -> None:
    async with running() as (runtime, _), Server(runtime, listen="127.0.0.1:0") as server:
        clients = [await dial(server) for _ in range(3)]
        for client in clients:
            await be_let_in(client)
        assert server._router is not None
        connections = server._router._connections
        assert len(connections) == 3
        assert len({id(entry) for entry in connections.values()}) == 1
        lanes = [lane for lane in connections if isinstance(lane, Lane)]
        assert len(lanes) == 3
        for shared in (
            [lane.stream.peer for lane in lanes],
            [lane._on_closed for lane in lanes],
            [lane._http._read_request_head for lane in lanes],
            [lane._reception._trusts for lane in lanes],
        ):
            assert len({id(thing) for thing in shared}) == 1
        for client in clients:
            await client.aclose()


async def test_share_of_an_address_shrinks_with_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on open files can leave fewer places than one address would be given."""
    monkeypatch.setattr("proxy.server.allow_connections", lambda _wanted: 10)
    async with running() as (runtime, _), Server(runtime, listen="127.0.0.1:0") as server:
        router = server._router
        assert router is not None
        ends = []
        async with trio.open_nursery() as nursery:
            for _ in range(7):
                ours, theirs = trio.testing.memory_stream_pair()
                ends.append(ours)
                nursery.start_soon(partial(router.handle, theirs, peer="192.0.2.7"))
            await trio.testing.wait_all_tasks_blocked()
            assert server.connections == 5
            for end in ends:
                await end.aclose()


async def test_client_that_waits_for_a_place_is_closed_with_the_server() -> None:
    async with running() as (runtime, _):
        async with Server(runtime, listen="127.0.0.1:0", options=Options(connections_max=1)) as server:
            first, second = await dial(server), await dial(server)
            await be_let_in(first)
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(5):
            assert await first.read_to_end() == b""
            assert await second.read_to_end() == b""
        for client in (first, second):
            await client.aclose()


async def test_every_address_of_a_host_is_listened_on_even_with_one_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    async with (
        running() as (runtime, _),
        Server(runtime, listen=f"localhost:{port}", options=Options(connections_max=1)) as server,
    ):
        for _attempt in range(3):
            client = await dial(server)
            await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with trio.fail_after(5):
                assert (await client.read_response()).status == 404
                await client.read_to_end()
            await client.aclose()


async def test_port_that_the_kernel_chooses_is_one_for_all() -> None:
    async with running() as (runtime, _), Server(runtime, listen="localhost:0") as server:
        assert server.port > 0
        assert runtime.public_address is not None
        assert runtime.public_address.listener_port == server.port


async def test_close_drains_and_wait_closed_returns() -> None:
    asked, gate = trio.Event(), trio.Event()

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        asked.set()
        await gate.wait()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast")

    async with running() as (runtime, containers):
        server = Server(runtime, listen="127.0.0.1:0")
        async with server:
            host = urlsplit(await expose(runtime, containers, handle)).netloc
            client, idle = await dial(server), await dial(server)
            await be_let_in(idle)
            await client.send_request("GET", "/", host)
            await asked.wait()
            server.close()
            with trio.fail_after(5):
                assert await idle.read_to_end() == b""
                with pytest.raises(OSError, match=r"refused|failed"):
                    await dial(server)
                gate.set()
                assert (await client.read_response()).body == b"last"
                assert await client.read_to_end() == b""
                for used in (client, idle):
                    await used.aclose()
                await server.wait_closed()
        await server.wait_closed()


async def test_error_in_the_block_cuts_at_once_and_comes_out_as_it_is() -> None:
    asked = trio.Event()

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        asked.set()
        await trio.sleep_forever()

    async with running() as (runtime, containers):

        async def fail_under_way() -> None:
            async with Server(runtime, listen="127.0.0.1:0") as server:
                host = urlsplit(await expose(runtime, containers, handle)).netloc
                client = await dial(server)
                try:
                    await client.send_request("GET", "/", host)
                    await asked.wait()
                    assert runtime.statistics().visits == 1
                    raise KeyError
                finally:
                    await client.aclose()

        with trio.fail_after(5), pytest.raises(KeyError):
            await fail_under_way()
        assert runtime.statistics().visits == 0


async def test_cancelled_server_has_let_go_of_its_port() -> None:
    async with running() as (runtime, _):
        with trio.CancelScope() as scope:
            async with Server(runtime, listen="127.0.0.1:0") as server:
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with socket.create_server(("127.0.0.1", server.port)):
            pass


async def test_address_in_use_is_an_error_of_opening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with running() as (runtime, _):
            with pytest.raises(OSError, match=r"in use|98"):
                async with Server(runtime, listen=f"127.0.0.1:{taken.getsockname()[1]}"):
                    pass
            assert runtime.public_address is None


async def test_settings_are_checked_before_anything_listens() -> None:
    async with running() as (runtime, _):
        with pytest.raises(ValueError, match="at least one domain"):
            Server(runtime, domains=[])
        with pytest.raises(ValueError, match="HOST:PORT"):
            Server(runtime, listen="8787")
        with pytest.raises(InvalidNameError):
            Server(runtime, domains=["a b"])
        with pytest.raises(CustomDomainRequiredError):
            Server(runtime, domains=["x.workers.dev"])


async def test_server_is_opened_once() -> None:
    async with running() as (runtime, _):
        server = Server(runtime, listen="127.0.0.1:0")
        assert server.connections == 0
        async with server:
            with pytest.raises(RuntimeError):
                await server.__aenter__()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EPROTO])
async def test_trouble_in_accepting_passes(
    error: int,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    logged: list[dict[str, object]],
) -> None:
    accept = socket.socket.accept
    failures = [OSError(error, "on cue")] * 3

    def fail_first(self: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", fail_first)
    async with running() as (runtime, _), Server(runtime, listen="127.0.0.1:0") as server:
        client = await dial(server)
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.read_response()).status == 404
        await client.aclose()
    warned = [event for event in logged if event["log_level"] == "warning"]
    assert len(warned) == (3 if error in (errno.EMFILE, errno.ENOBUFS) else 0)


async def test_lost_listener_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: socket.socket) -> tuple[socket.socket, object]:
        raise OSError(errno.EBADF, "on cue")

    monkeypatch.setattr(socket.socket, "accept", fail)
    async with running() as (runtime, _):

        async def knock() -> None:
            async with Server(runtime, listen="127.0.0.1:0") as server:
                with socket.create_connection(("127.0.0.1", server.port)):
                    await trio.sleep_forever()

        with trio.fail_after(5), pytest.raises(ExceptionGroup) as failed:
            await knock()
    assert failed.value.split(OSError)[1] is None
