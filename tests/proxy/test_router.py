"""What connections share: streams handed in, the watchman's rounds, an orderly end."""

import socket
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
import trio_websocket

from actors import CustomDomainRequiredError, InvalidNameError, MemoryStore, open_runtime
from actors.testing.containers import socket_stream_pair
from proxy.connection import Connection
from proxy.lane import Lane
from proxy.options import Options
from proxy.passage import Passage
from proxy.router import open_router
from proxy.testing import (
    Client,
    CutOffError,
    PreviewEngine,
    events,
    mirror,
    respond,
    silence,
    slow_head,
    websocket_echo,
)
from proxy.testing import preview_engine as make_engine
from proxy.transport import SocketTransport
from tests.proxy.ways import OpenEngine


def host_of(url: str) -> str:
    return urlsplit(url).netloc


# Streams handed in.


async def test_accepted_trio_stream_is_served_and_closed(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0], trio.open_nursery() as nursery:
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        nursery.start_soon(preview_engine.router.handle, await listeners[0].accept())
        client = Client(stream)
        with trio.fail_after(5):
            await client.send_request("GET", "/", host_of(url), headers=[("Connection", "close")])
            response = await client.read_response()
            # The peer is read off the socket, the scheme is the one it was handed in with.
            assert b'["x-forwarded-for", "127.0.0.1"]' in response.body
            assert b'["x-forwarded-proto", "http"]' in response.body
            assert await client.receive() == b""
        await client.aclose()


async def test_peer_and_scheme_can_be_told(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    async with trio.open_nursery() as nursery:

        async def handle() -> None:
            await preview_engine.router.handle(stream, peer="203.0.113.9", scheme="https")

        nursery.start_soon(handle)
        with trio.fail_after(5):
            await client.send_request("GET", "/", host_of(url))
            response = await client.read_response()
        assert b'"for=203.0.113.9;' in response.body
        assert b"proto=https" in response.body
        await client.aclose()


@pytest.mark.parametrize("domains", [["a b"], ["1.2.3.4"], ["x.workers.dev"]])
async def test_domains_that_cannot_carry_previews_are_refused(
    domains: list[str], preview_engine: PreviewEngine
) -> None:
    with pytest.raises((InvalidNameError, CustomDomainRequiredError)):
        async with open_router(preview_engine.runtime, domains):
            pass


async def test_error_in_the_block_comes_out_as_it_is(preview_engine: PreviewEngine) -> None:
    with pytest.raises(KeyError):
        async with open_router(preview_engine.runtime, ["example.com"]):
            raise KeyError


# The watchman.


async def test_requests_that_are_over_soon_cost_no_watch(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Connection] = []
    watch = Connection.watch

    async def noted(self: Connection) -> None:
        watched.append(self)
        await watch(self)

    monkeypatch.setattr(Connection, "watch", noted)
    url = await preview_engine.expose(slow_head(0.9))
    for _ in range(5):
        await preview_engine.get(url)
    assert not watched

    # One that takes long is watched by one task, however many rounds it lasts.
    await trio.sleep(5)
    preview_engine.container().handlers[8080] = slow_head(60)
    await preview_engine.get(url)
    assert len(watched) == 1


async def test_watch_that_comes_too_late_watches_nothing(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(respond()))
    client = preview_engine.connect()
    await client.send_request("GET", "/", host)
    await client.read_response()
    [connection] = preview_engine.router._connections
    assert isinstance(connection, Connection | Lane)
    with trio.fail_after(5):
        await connection.watch()


async def test_bug_in_a_watch_ends_its_request_and_not_the_router(
    preview_engine: PreviewEngine,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[dict[str, object]],
) -> None:
    async def broken(_self: Passage) -> None:
        raise KeyError("a bug")

    url = await preview_engine.expose(silence())
    with monkeypatch.context() as patch:
        patch.setattr(Passage, "watch", broken)
        with pytest.raises(CutOffError):
            await preview_engine.get(url)
    assert [event["error"] for event in logged if event["log_level"] == "error"] == ["KeyError"]
    preview_engine.container().handlers[8080] = respond(b"hello")
    assert (await preview_engine.get(url)).body == b"hello"


async def test_idle_connections_to_services_are_closed_in_time(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    ended = trio.Event()

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert await stream.receive_some() == b""
        ended.set()

    url = await preview_engine.expose(handle)
    await preview_engine.get(url)
    with trio.fail_after(5):
        await ended.wait()


# The end.


async def test_drain_ends_idle_connections_at_once(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    used, fresh = preview_engine.connect(), preview_engine.connect()
    await used.send_request("GET", "/", host)
    await used.read_response()
    await preview_engine.settle()
    began = trio.current_time()

    assert await preview_engine.router.drain() == 0
    assert trio.current_time() == began
    assert await used.receive() == b""
    assert await fresh.receive() == b""


async def test_drain_lets_requests_under_way_end(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(slow_head(20)))
    client = preview_engine.connect()
    await client.send_request("GET", "/", host)
    await preview_engine.settle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(preview_engine.router.drain)
        await preview_engine.settle()
        assert (await client.read_response()).body == b"at last"
        # That was its last.
        assert await client.receive() == b""


async def test_drain_serves_the_request_whose_head_has_begun(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    client = preview_engine.connect()
    await client.send(b"GET / HTTP/1.1\r\n")
    await preview_engine.settle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(preview_engine.router.drain)
        await trio.sleep(5)
        await client.send(f"Host: {host}\r\n\r\n".encode())
        assert (await client.read_response()).body == b"hello"
        assert await client.receive() == b""


async def test_drain_cuts_what_outlasts_it_and_says_how_many(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    _told, source = trio.open_memory_channel[str](0)
    async with open_engine(options=Options(drain_timeout_s=10)) as engine:
        waiting = engine.connect()
        await waiting.send_request("GET", "/", host_of(await engine.expose(silence(), port=8081)))
        streaming = engine.connect()
        await streaming.send_request("GET", "/", host_of(await engine.expose(events(source), port=8082)))
        await streaming.read_head()
        waking = engine.connect()
        await waking.send_request("GET", "/", host_of(await engine.expose(respond(), sandbox="asleep")))
        engine.container("asleep").hold_starts()
        upgraded = await engine.expose(websocket_echo(), port=8083)
        async with engine.websocket(upgraded) as websocket:
            await engine.settle()
            began = trio.current_time()
            assert await engine.router.drain() == 4
            assert 10 <= trio.current_time() - began <= 12
            assert engine.runtime.statistics().visits == 0
            refused = await waiting.read_response()
            assert (refused.status, refused.code, refused.header("retry-after")) == (503, "SHUTTING_DOWN", "5")
            with pytest.raises(CutOffError):
                await streaming.read_some()
            assert (await waking.read_response()).code == "SHUTTING_DOWN"
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await websocket.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 1001
        engine.container("asleep").release_starts()


async def test_cut_does_not_wait_for_a_client_that_reads_nothing(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(options=Options(drain_timeout_s=0)) as engine:
        client = engine.connect(unbuffered=True)
        await client.send_request("GET", "/", host_of(await engine.expose(silence())))
        await engine.settle()
        began = trio.current_time()
        assert await engine.router.drain() == 1
        assert trio.current_time() - began <= 3


async def test_connections_that_come_during_a_drain_are_closed(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    await preview_engine.router.drain()
    client = preview_engine.connect()
    with trio.fail_after(5):
        assert await client.receive() == b""
    with pytest.raises(CutOffError):
        await preview_engine.get(url)
    assert preview_engine.container().starts == []


async def test_closed_router_has_let_go_of_its_services(open_engine: OpenEngine) -> None:
    ended: list[bytes] = []

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        ended.append(bytes(await stream.receive_some()))

    async with open_engine() as engine:
        url = await engine.expose(handle)
        async with open_router(engine.runtime, ["example.com"]) as router, trio.open_nursery() as nursery:
            ours, routers = trio.testing.memory_stream_pair()
            nursery.start_soon(router.handle, routers)
            client = Client(ours)
            await client.send_request("GET", "/", host_of(url))
            assert (await client.read_response()).status == 200
            assert not ended
            await client.aclose()
        await engine.settle()
        assert ended == [b""]


# One address and its share.


async def test_address_beyond_its_share_is_closed_and_nobody_else_is_harmed(open_engine: OpenEngine) -> None:
    async with open_engine(options=Options(connections_per_address_max=2)) as engine:
        url = await engine.expose(respond(b"hello"))
        inside = [engine.connect() for _ in range(2)]
        await engine.settle()
        beyond = engine.connect()
        assert await beyond.read_to_end() == b""
        assert engine.router.connections == 2
        for client in (*inside, engine.connect(peer="192.0.2.8")):
            await client.send_request("GET", "/", host_of(url))
            assert (await client.read_response()).body == b"hello"
        # One leaves, and there is room for one.
        await inside[0].aclose()
        await engine.settle()
        again = engine.connect()
        await again.send_request("GET", "/", host_of(url))
        assert (await again.read_response()).body == b"hello"


async def test_ipv6_subscriber_is_one_client_whatever_address_it_comes_from(open_engine: OpenEngine) -> None:
    async with open_engine(options=Options(connections_per_address_max=1)) as engine:
        engine.connect(peer="2001:db8:1:2::1")
        await engine.settle()
        assert await engine.connect(peer="2001:db8:1:2:ffff::9").read_to_end() == b""
        engine.connect(peer="2001:db8:1:3::1")
        await engine.settle()
        assert engine.router.connections == 2


@pytest.mark.parametrize("peer", ["10.0.0.9", "127.0.0.1", "::1", ""])
async def test_trusted_proxies_and_this_machine_speak_for_many(open_engine: OpenEngine, peer: str) -> None:
    options = Options(connections_per_address_max=1, trusted_proxies=(ip_network("10.0.0.0/8"),))
    async with open_engine(options=options) as engine:
        for _ in range(5):
            engine.connect(peer=peer)
        await engine.settle()
        assert engine.router.connections == 5


async def test_flood_from_one_address_is_logged_once_a_minute_with_its_count(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock, logged: list[dict[str, object]]
) -> None:
    async with open_engine(options=Options(connections_per_address_max=1)) as engine:
        engine.connect()
        for _ in range(50):
            await engine.settle()
            await engine.connect().read_to_end()
        await trio.sleep(20)
        await engine.connect().read_to_end()
        await trio.sleep(55)
    warned = [event for event in logged if event["log_level"] == "warning"]
    assert [(event["connections"], event["addresses"]) for event in warned] == [
        (50, ("192.0.2.7",)),
        (1, ("192.0.2.7",)),
    ]


async def test_client_that_comes_after_the_end_of_the_router_is_closed_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, far = socket_stream_pair()
    async with open_runtime(MemoryStore()) as runtime:
        async with open_router(runtime, ["example.com"]) as router:
            pass
        await router.handle(far)
    assert await near.receive_some() == b""
    assert router.connections == 0
    await near.aclose()


async def test_adopted_connection_is_told_of_its_end_once(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []
    near, far = socket_stream_pair()
    async with (
        open_runtime(MemoryStore()) as runtime,
        open_router(runtime, ["example.com"]) as router,
    ):
        assert router.adopt(SocketTransport.take_over(far), on_ended=lambda: ended.append("ended")) is not None
        await near.send_all(b"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
        assert (await near.receive_some()).startswith(b"HTTP/1.1 421")
        assert not ended
        await near.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert ended == ["ended"]
    assert ended == ["ended"]


async def test_handled_socket_that_is_cancelled_is_closed_with_all_that_is_under_way() -> None:
    async with make_engine(sockets=True) as engine:
        host = urlsplit(await engine.expose(silence())).netloc
        near, far = socket_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.router.handle, far)
            await near.send_all(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            await trio.testing.wait_all_tasks_blocked()
            assert engine.runtime.statistics().visits == 1
            nursery.cancel_scope.cancel()
        engine.assert_at_rest()
        assert await near.receive_some() == b""
        await near.aclose()
