"""Upgraded connections: bytes both ways, half-closes, back-pressure, and a close frame where one fits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from proxy.core.websocket import close_frame
from proxy.relay import Relay, end_sending

Streams = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]
HELLO = b"\x81\x05hello"
"""A whole text frame, from service to client."""


class Parties:
    """A relay under way, the client at one end of it and the service at the other."""

    def __init__(self, *, websocket: bool, client: Streams | None, service: Streams | None) -> None:
        self.client, router_client = client or trio.testing.memory_stream_pair()
        self.service, router_service = service or trio.testing.memory_stream_pair()
        self.relay = Relay(router_client, router_service, websocket=websocket)
        self.scope = trio.CancelScope()
        self.over = trio.Event()

    async def run(self, from_client: bytes, from_service: bytes) -> None:
        with self.scope:
            await self.relay.run(from_client, from_service)
        self.over.set()

    async def cut(self) -> None:
        self.scope.cancel()
        with trio.fail_after(5):
            await self.over.wait()


@asynccontextmanager
async def relaying(
    *,
    websocket: bool = True,
    client: Streams | None = None,
    service: Streams | None = None,
    from_client: bytes = b"",
    from_service: bytes = b"",
) -> AsyncIterator[Parties]:
    parties = Parties(websocket=websocket, client=client, service=service)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parties.run, from_client, from_service)
        yield parties
        nursery.cancel_scope.cancel()


async def test_bytes_pass_untouched_both_ways(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying(websocket=False, from_client=b"early up", from_service=b"early down") as parties:
        assert await parties.client.receive_some() == b"early down"
        assert await parties.service.receive_some() == b"early up"
        await parties.client.send_all(b"\x00\xffup")
        assert await parties.service.receive_some() == b"\x00\xffup"
        await parties.service.send_all(b"\x00\xffdown")
        assert await parties.client.receive_some() == b"\x00\xffdown"


async def test_half_close_of_the_client_leaves_the_other_direction(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying() as parties:
        await parties.client.send_eof()
        assert await parties.service.receive_some() == b""
        await parties.service.send_all(b"last words")
        assert await parties.client.receive_some() == b"last words"
        assert not parties.over.is_set()
        await parties.service.send_eof()
        assert await parties.client.receive_some() == b""
        await parties.over.wait()


async def test_half_close_of_the_service_leaves_the_other_direction(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying() as parties:
        await parties.service.send_eof()
        assert await parties.client.receive_some() == b""
        await parties.client.send_all(b"last words")
        assert await parties.service.receive_some() == b"last words"
        await parties.client.send_eof()
        await parties.over.wait()


async def test_client_stream_that_cannot_half_close_ends_as_a_whole(autojump_clock: trio.testing.MockClock) -> None:
    class OneWayOnly(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()

        async def wait_send_all_might_not_block(self) -> None:
            await trio.lowlevel.checkpoint()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep_forever()
            raise AssertionError("unreachable")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    service, router_service = trio.testing.memory_stream_pair()
    await service.send_eof()
    with trio.fail_after(5):
        await Relay(OneWayOnly(), router_service, websocket=True).run(b"", b"")
    assert not await end_sending(OneWayOnly())


@pytest.mark.parametrize("leaver", ["client", "service"])
async def test_side_that_has_gone_ends_the_relay(leaver: str, autojump_clock: trio.testing.MockClock) -> None:
    async with relaying() as parties:
        gone, other = (parties.client, parties.service) if leaver == "client" else (parties.service, parties.client)
        await trio.aclose_forcefully(gone)
        with trio.fail_after(5):
            await other.send_all(b"are you there?")
            await parties.over.wait()


async def test_client_that_resets_ends_the_relay_though_the_service_is_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def reset() -> None:
        raise trio.BrokenResourceError

    client, router_client = trio.testing.memory_stream_pair()
    router_client.receive_stream.receive_some_hook = reset
    async with relaying(client=(client, router_client)) as parties:
        with trio.fail_after(5):
            await parties.over.wait()


async def test_slow_reader_holds_up_the_writer(autojump_clock: trio.testing.MockClock) -> None:
    client, service = trio.testing.lockstep_stream_pair(), trio.testing.lockstep_stream_pair()
    async with relaying(client=client, service=service) as parties:
        sent = 0
        with trio.move_on_after(60):
            while True:
                await parties.service.send_all(b"x" * 1000)
                sent += 1
    # One piece is on its way; the second waits until the client reads.
    assert sent == 1


async def test_close_frame_is_put_between_two_frames(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying(from_service=HELLO) as parties:
        assert await parties.client.receive_some() == HELLO
        await parties.cut()
        await parties.relay.say_goodbye(1001, "unexposed")
        assert await parties.client.receive_some() == close_frame(1001, "unexposed")
        assert await parties.client.receive_some() == b""


@pytest.mark.parametrize(
    "came",
    [
        pytest.param(HELLO[:4], id="in the middle of a frame"),
        pytest.param(close_frame(1000), id="after the service's own close frame"),
        pytest.param(b"GET / HTTP/1.1", id="what is no WebSocket"),
    ],
)
async def test_no_close_frame_where_none_can_be_read(came: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with relaying(from_service=came) as parties:
        await trio.testing.wait_all_tasks_blocked()
        await parties.cut()
        await parties.relay.say_goodbye(1001, "unexposed")
        with trio.move_on_after(5):
            assert await parties.client.receive_some() == came
            assert not await parties.client.receive_some()


async def test_no_close_frame_on_what_is_not_a_websocket(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying(websocket=False) as parties:
        await parties.cut()
        await parties.relay.say_goodbye(1001, "unexposed")
        with trio.move_on_after(5) as waiting:
            await parties.client.receive_some()
        assert waiting.cancelled_caught


async def test_no_close_frame_after_a_send_that_was_cut_short(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying(client=trio.testing.lockstep_stream_pair(), from_service=HELLO) as parties:
        assert await parties.client.receive_some(3) == HELLO[:3]
        await parties.cut()
        await parties.relay.say_goodbye(1001, "unexposed")
        # Nobody knows how much of the frame has arrived, so nothing of ours may follow.
        rest = b""
        with trio.move_on_after(5):
            while data := await parties.client.receive_some():
                rest += data
        assert HELLO[3:].startswith(rest)


async def test_no_close_frame_after_our_direction_has_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying() as parties:
        await parties.service.send_eof()
        assert await parties.client.receive_some() == b""
        await parties.cut()
        await parties.relay.say_goodbye(1012, "run ended")


async def test_goodbye_does_not_wait_for_a_client_that_reads_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying(client=trio.testing.lockstep_stream_pair()) as parties:
        await parties.cut()
        started = trio.current_time()
        await parties.relay.say_goodbye(1001, "unexposed")
        assert trio.current_time() - started <= 1


async def test_goodbye_to_a_client_that_has_gone_is_no_error(autojump_clock: trio.testing.MockClock) -> None:
    async with relaying() as parties:
        await parties.cut()
        await trio.aclose_forcefully(parties.client)
        await parties.relay.say_goodbye(1001, "unexposed")
