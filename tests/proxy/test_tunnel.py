"""Upgraded connections without tasks: both ways, half-closes, slow readers, ends, and the cord."""

import gc
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import FunctionType, ModuleType
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from actors import CutBecause, Port, Visit
from actors.sandbox.admission import Grant
from actors.testing.containers import socket_stream_pair
from actors.visits import VisitBook
from proxy.connection import Connection
from proxy.core.exchange import Exchange
from proxy.core.http1 import RequestHead
from proxy.core.served import Served
from proxy.core.serving import RequestStarted, ServerConnection
from proxy.core.websocket import close_frame
from proxy.farewell import Farewell
from proxy.lane import Lane
from proxy.ledger import Ledger
from proxy.outlet import Outlet
from proxy.passage import Passage, Switched
from proxy.pump import Pump
from proxy.reception import Reception
from proxy.testing import preview_engine, websocket_echo
from proxy.transport import SocketTransport
from proxy.tunnel import Tunnel
from proxy.upstream import Upstream

PORT = Port(8080)
FLOOD = 4 * 1024 * 1024
"""More than two sockets hold."""
TEXT_FRAME = b"\x81\x05hello"


class Stage:
    """A tunnel with its two far ends."""

    def __init__(
        self,
        *,
        websocket: bool = False,
        from_client: bytes = b"",
        from_service: bytes = b"",
        client_ends: tuple[trio.SocketStream, trio.SocketStream] | None = None,
    ) -> None:
        self.client, near_client = socket_stream_pair() if client_ends is None else client_ends
        self.service, near_service = socket_stream_pair()
        self.visit: Visit = VisitBook().open(Grant(PORT, "run-a", 1, None), None)  # type: ignore[arg-type]  # not used
        self.near = SocketTransport.take_over(near_client).socket
        upstream = Upstream(("run-a", PORT), SocketTransport.take_over(near_service))
        self.service_socket = upstream.socket
        self.pump = Pump()
        self.closed: list[Tunnel] = []
        switched = Switched(self.visit, upstream, websocket, from_client, from_service)
        self.early = from_client, from_service
        self.tunnel = Tunnel(
            self.near, switched, pump=self.pump, stalled_timeout_s=60, account=None, on_closed=self.closed.append
        )

    def start(self) -> None:
        self.tunnel.start(*self.early)

    def assert_under_way(self) -> None:
        assert self.visit.under_way
        assert not self.tunnel.over

    def assert_over(self) -> None:
        """Check that nothing is carried; leave may still be taken of the client."""
        assert not self.visit.under_way
        assert self.tunnel.over
        assert self.service_socket.fileno() == -1

    def assert_closed(self) -> None:
        self.assert_over()
        assert (self.closed, len(self.pump)) == ([self.tunnel], 0)
        assert self.near.fileno() == -1


@asynccontextmanager
async def tunnel(
    *,
    websocket: bool = False,
    from_client: bytes = b"",
    from_service: bytes = b"",
    client_ends: tuple[trio.SocketStream, trio.SocketStream] | None = None,
) -> AsyncIterator[Stage]:
    stage = Stage(websocket=websocket, from_client=from_client, from_service=from_service, client_ends=client_ends)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.pump.run)
            stage.start()
            yield stage
            stage.tunnel.abort()
            nursery.cancel_scope.cancel()
    stage.assert_closed()
    await trio.aclose_forcefully(stage.client)
    await trio.aclose_forcefully(stage.service)
    stage.pump.close()


async def settle() -> None:
    """Return once the pump is at rest; a busy one never is."""
    await trio.testing.wait_all_tasks_blocked()


def write_all_at_once(stream: trio.SocketStream, length: int = FLOOD) -> int:
    """Send for as long as there is room without waiting; return how much there was."""
    sent = 0
    raw = socket.socket(fileno=socket.dup(stream.socket.fileno()))
    with raw:
        raw.setblocking(False)
        try:
            while sent < length:
                sent += raw.send(b"x" * min(65536, length - sent))
        except BlockingIOError:
            # That was all.
            pass
    return sent


async def read_to_end(stream: trio.SocketStream) -> bytes:
    received = b""
    while data := await stream.receive_some():
        received += data
    return received


async def test_bytes_flow_both_ways_and_half_closes_are_kept() -> None:
    async with tunnel() as stage:
        await stage.client.send_all(b"question")
        assert await stage.service.receive_some() == b"question"
        await stage.client.send_eof()
        assert await stage.service.receive_some() == b""
        stage.assert_under_way()
        await stage.service.send_all(b"answer")
        assert await stage.client.receive_some() == b"answer"
        await stage.service.send_eof()
        assert await stage.client.receive_some() == b""
        await settle()
        stage.assert_over()


async def test_service_may_end_first() -> None:
    async with tunnel() as stage:
        await stage.service.send_eof()
        assert await stage.client.receive_some() == b""
        await stage.client.send_all(b"still there")
        assert await stage.service.receive_some() == b"still there"
        stage.assert_under_way()


async def test_what_came_early_comes_first() -> None:
    async with tunnel(from_client=b"early ", from_service=b"bird ") as stage:
        await stage.client.send_all(b"question")
        await stage.service.send_all(b"answer")
        await settle()
        assert await stage.service.receive_some() == b"early question"
        assert await stage.client.receive_some() == b"bird answer"


async def test_more_came_early_than_there_is_room_for() -> None:
    early = b"x" * FLOOD
    async with tunnel(from_client=early) as stage:
        await settle()
        received = 0
        await stage.client.send_eof()
        while data := await stage.service.receive_some():
            received += len(data)
        assert received == FLOOD


@pytest.mark.parametrize("towards_client", [False, True])
async def test_slow_reader_holds_up_its_writer_and_nobody_else(towards_client: bool) -> None:
    async with tunnel() as stage:
        reader, writer = (stage.client, stage.service) if towards_client else (stage.service, stage.client)
        sent = 0
        while written := write_all_at_once(writer):
            sent += written
            await settle()
            assert sent < FLOOD
        # The other way is free.
        await reader.send_all(b"patience")
        assert await writer.receive_some() == b"patience"
        await writer.send_eof()
        await settle()
        assert len(await read_to_end(reader)) == sent
        stage.assert_under_way()


@pytest.mark.parametrize("towards_client", [False, True])
async def test_writer_that_leaves_a_slow_reader_keeps_nobody_busy_and_loses_nothing(towards_client: bool) -> None:
    """The kernel tells of its end whether asked or not, again and again, and nothing can be done about it yet."""
    async with tunnel() as stage:
        reader, writer = (stage.client, stage.service) if towards_client else (stage.service, stage.client)
        sent = 0
        while written := write_all_at_once(writer):
            sent += written
            await settle()
        await trio.aclose_forcefully(writer)
        await settle()
        stage.assert_under_way()
        assert len(await read_to_end(reader)) == sent


async def test_reader_that_leaves_ends_the_tunnel_while_its_writer_is_held_up() -> None:
    async with tunnel() as stage:
        while write_all_at_once(stage.service):
            await settle()
        await trio.aclose_forcefully(stage.client)
        await settle()
        stage.assert_over()


def reset(stream: trio.SocketStream) -> None:
    """Have the kernel reset the connection now, whatever its peer has not read."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def connected() -> tuple[trio.SocketStream, trio.SocketStream]:
    """As `socket_stream_pair`, over TCP: only that has resets."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        # Of its own size, a kernel's buffers take megabytes by and by, each after a wait.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        far = await trio.open_tcp_stream(*listener.socket.getsockname())
        return far, await listener.accept()


@pytest.mark.parametrize("ended", [False, True])
async def test_writer_that_breaks_off_ends_the_tunnel_while_its_reader_is_held_up(ended: bool) -> None:
    """Whether or not it had ended its direction before: nobody waits for what a slow reader might still take."""
    async with tunnel(client_ends=await connected()) as stage:
        client = stage.client
        sent = 1
        while sent:
            sent = write_all_at_once(client)
            await trio.testing.wait_all_tasks_blocked(0.02)
        if ended:
            await client.send_eof()
            await trio.testing.wait_all_tasks_blocked(0.02)
        stage.assert_under_way()
        reset(client)
        with trio.fail_after(5):
            while not stage.tunnel.over:
                await trio.testing.wait_all_tasks_blocked(0.01)
        stage.assert_over()


async def test_both_slow_and_one_leaves() -> None:
    async with tunnel() as stage:
        for _ in range(3):
            write_all_at_once(stage.service)
            write_all_at_once(stage.client)
            await settle()
        stage.assert_under_way()
        await trio.aclose_forcefully(stage.client)
        await settle()
        stage.assert_over()


@pytest.mark.parametrize(
    ("reason", "code"), [(CutBecause.UNEXPOSED, 1001), (CutBecause.RUN_ENDED, 1012), (CutBecause.ROTATED, 1001)]
)
async def test_cut_puts_a_close_frame_between_two_frames(reason: CutBecause, code: int) -> None:
    async with tunnel(websocket=True) as stage:
        await stage.service.send_all(TEXT_FRAME)
        assert await stage.client.receive_some() == TEXT_FRAME
        stage.visit.pull(reason)
        # Not yet: the client has not been told.
        stage.assert_under_way()
        assert await stage.client.receive_some() == close_frame(code, reason.value)
        stage.assert_over()


async def test_cut_in_the_middle_of_a_frame_says_nothing() -> None:
    async with tunnel(websocket=True, from_service=TEXT_FRAME[:4]) as stage:
        assert await stage.client.receive_some() == TEXT_FRAME[:4]
        stage.visit.pull(CutBecause.UNEXPOSED)
        assert await stage.client.receive_some() == b""
        stage.assert_over()


async def test_cut_while_a_frame_is_not_all_sent_says_nothing() -> None:
    frame = b"\x82\x7f" + FLOOD.to_bytes(8, "big") + b"\xff" * FLOOD
    async with tunnel(websocket=True, from_service=frame) as stage:
        stage.visit.pull(CutBecause.UNEXPOSED)
        await settle()
        stage.assert_over()
        assert set((await read_to_end(stage.client))[10:]) == {0xFF}


async def test_cut_after_the_services_own_close_frame_adds_none() -> None:
    own = close_frame(1000, "done")
    async with tunnel(websocket=True, from_service=own) as stage:
        stage.visit.pull(CutBecause.UNEXPOSED)
        assert await read_to_end(stage.client) == own


async def test_other_protocols_are_cut_without_a_word() -> None:
    async with tunnel() as stage:
        stage.visit.pull(CutBecause.UNEXPOSED)
        assert await stage.client.receive_some() == b""
        stage.assert_over()


async def test_cut_before_the_start_ends_it_with_a_close_frame() -> None:
    stage = Stage(websocket=True)
    stage.visit.pull(CutBecause.UNEXPOSED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.pump.run)
        stage.start()
        assert await stage.client.receive_some() == close_frame(1001, "unexposed")
        stage.assert_over()
        stage.tunnel.abort()
        nursery.cancel_scope.cancel()
    stage.assert_closed()
    for stream in (stage.client, stage.service):
        await trio.aclose_forcefully(stream)
    stage.pump.close()


async def test_server_that_closes_says_so_and_does_not_wait_for_the_clients_end_twice() -> None:
    async with tunnel(websocket=True) as stage:
        stage.tunnel.cut()
        assert await stage.client.receive_some() == close_frame(1001, "server closing")
        stage.assert_over()
        assert stage.closed == []
        stage.tunnel.cut()
        stage.assert_closed()


async def test_drain_lets_a_tunnel_go_on() -> None:
    async with tunnel() as stage:
        stage.tunnel.drain()
        await stage.client.send_all(b"question")
        assert await stage.service.receive_some() == b"question"
        stage.assert_under_way()


async def test_bug_in_what_ends_a_tunnel_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    async with tunnel() as stage:
        monkeypatch.setattr(Farewell, "start", broken)
        await trio.aclose_forcefully(stage.service)
        await stage.client.send_eof()
        await settle()
        stage.assert_closed()
        assert [event["error"] for event in logged] == ["ValueError"]


async def test_bug_in_what_is_told_of_a_sudden_end_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    async with tunnel() as stage:
        with monkeypatch.context() as patched:
            patched.setattr(VisitBook, "strike", broken)
            with pytest.raises(ValueError, match="a bug"):
                stage.tunnel.abort()
        assert (stage.closed, len(stage.pump)) == ([stage.tunnel], 0)
        assert stage.near.fileno() == -1


async def test_bug_ends_the_tunnel(monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    async with tunnel() as stage:
        monkeypatch.setattr(Tunnel, "carried", broken)
        await stage.client.send_all(b"question")
        await settle()
        stage.assert_over()
        assert [event["error"] for event in logged] == ["ValueError"]


HANDSHAKE = (
    b"GET /socket?token=hush HTTP/1.1\r\nHost: %b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: session=secret\r\n\r\n"
)
# What belongs to the request that a tunnel began with, or to those who carried it.
OF_THE_REQUEST = (
    Connection, Exchange, Lane, Ledger, Outlet, Passage, Reception, RequestHead, RequestStarted, ServerConnection,
    SocketTransport, Switched, Upstream,
)  # fmt: skip


def alive_of_requests() -> list[object]:
    return [thing for thing in gc.get_objects() if isinstance(thing, OF_THE_REQUEST)]


def held_by(start: object, shared: Sequence[object]) -> list[object]:
    """Return all that an object leads to, but for what it shares with others."""
    seen = {id(thing) for thing in shared}
    found, todo = [], [start]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | ModuleType | FunctionType):
            continue
        seen.add(id(thing))
        found.append(thing)
        todo += gc.get_referents(thing)
    return found


async def test_idle_tunnel_holds_nothing_of_its_request() -> None:
    told: list[Served] = []
    gc.collect()
    # Other tests' affair, such as what the traceback of one that failed holds.
    others = alive_of_requests()
    # What only a collection would free might stay for hours: it comes when there is much new, and here is not.
    gc.disable()
    try:
        async with preview_engine(sockets=True, observe=told.append) as engine:
            url = await engine.expose(websocket_echo())
            client, far = socket_stream_pair()
            engine.router.adopt(SocketTransport.take_over(far), peer="192.0.2.7")
            await client.send_all(HANDSHAKE % urlsplit(url).netloc.encode())
            assert (await client.receive_some()).startswith(b"HTTP/1.1 101 ")
            # The pump remembers whom it called last, and that shall not be the one before the tunnel.
            await client.send_all(b"\x81\x85\0\0\0\0hello")
            assert await client.receive_some() == TEXT_FRAME
            await settle()
            [tunnel] = engine.router._connections
            assert isinstance(tunnel, Tunnel)
            shared = [tunnel.pump, engine.router, tunnel._visit.run, tunnel._visit._book]
            held = held_by(tunnel, shared)
            assert [thing for thing in held if isinstance(thing, OF_THE_REQUEST)] == []
            assert [thing for thing in held if isinstance(thing, bytes | bytearray | memoryview) and thing] == []
            assert "hush" not in repr([thing for thing in held if isinstance(thing, str)])
            # Nobody else keeps them for it either.
            assert [thing for thing in alive_of_requests() if all(thing is not other for other in others)] == []
            await trio.aclose_forcefully(client)
    finally:
        gc.enable()
    assert [(served.client, served.path, served.status, served.complete) for served in told] == [
        ("192.0.2.7", "/socket", 101, True)
    ]
