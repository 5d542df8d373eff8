"""Upgraded connections without tasks: both ways, half-closes, slow readers, ends, and the cord."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from actors import CutBecause, Port, Visit
from actors.sandbox.admission import Grant
from actors.testing.containers import socket_stream_pair
from actors.visits import VisitBook
from proxy.core.websocket import close_frame
from proxy.passage import Switched
from proxy.pump import Pump
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
        self.near = SocketTransport.take_over(near_client)
        self.upstream = Upstream(("run-a", PORT), SocketTransport.take_over(near_service))
        self.pump = Pump()
        self.ended = 0
        switched = Switched(self.visit, self.upstream, websocket, from_client, from_service)
        self.tunnel = Tunnel(self.near, switched, self.pump, self._on_ended)

    def _on_ended(self) -> None:
        self.ended += 1
        # Whoever gets the client's socket back.
        self.near.close()

    def assert_under_way(self) -> None:
        assert self.visit.under_way
        assert not self.ended

    def assert_over(self) -> None:
        assert not self.visit.under_way
        assert (self.ended, len(self.pump)) == (1, 0)
        assert self.upstream.socket.fileno() == -1


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
            stage.tunnel.start()
            yield stage
            stage.tunnel.end()
            nursery.cancel_scope.cancel()
    stage.assert_over()
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
            while not stage.ended:
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
        stage.tunnel.start()
        assert await stage.client.receive_some() == close_frame(1001, "unexposed")
        nursery.cancel_scope.cancel()
    stage.assert_over()
    for stream in (stage.client, stage.service):
        await trio.aclose_forcefully(stream)
    stage.pump.close()


async def test_bug_ends_the_tunnel(monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    async with tunnel() as stage:
        monkeypatch.setattr(Tunnel, "carried", broken)
        await stage.client.send_all(b"question")
        await settle()
        stage.assert_over()
        assert [event["error"] for event in logged] == ["ValueError"]
