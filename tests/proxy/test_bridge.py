"""A WebSocket between ASGI events and a service's frames."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from proxy import bridge
from proxy.bridge import Bridge
from proxy.pipe import PipeEnd, open_pipe


class Talk:
    """A bridge, with the test on both of its sides."""

    def __init__(self, service: PipeEnd) -> None:
        self.to_app, self.from_server = trio.open_memory_channel[Mapping[str, Any]](0)
        self.to_server, self.from_app = trio.open_memory_channel[Mapping[str, Any]](100)
        self.service = service
        self.frames = Connection(ConnectionType.SERVER)
        self.over = trio.Event()

    async def client_says(self, **event: Any) -> None:
        await self.to_app.send({"type": "websocket.receive", **event})

    async def client_leaves(self, **event: Any) -> None:
        await self.to_app.send({"type": "websocket.disconnect", **event})

    async def client_hears(self) -> Mapping[str, Any]:
        return await self.from_app.receive()

    async def service_says(self, event: Event) -> None:
        await self.service.send_all(self.frames.send(event))

    async def service_hears(self) -> Event:
        while True:
            for event in self.frames.events():
                return event
            self.frames.receive_data(await self.service.receive_some() or None)


@asynccontextmanager
async def talk() -> AsyncIterator[Talk]:
    ours, theirs = open_pipe()
    said = Talk(theirs)
    bridging = Bridge(said.from_server.receive, said.to_server.send)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            async with trio.open_nursery() as both:
                both.start_soon(bridging.read_client, both.cancel_scope)
                await bridging.pass_messages(ours)
                both.cancel_scope.cancel()
            ours.close()
            said.over.set()

        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield said
        nursery.cancel_scope.cancel()


async def test_text_and_bytes_pass_both_ways() -> None:
    async with talk() as it:
        await it.client_says(text="grüße")
        assert await it.service_hears() == TextMessage("grüße")
        await it.client_says(bytes=b"\x00", text=None)
        assert await it.service_hears() == BytesMessage(bytearray(b"\x00"))
        await it.service_says(TextMessage("hallo"))
        assert await it.client_hears() == {"type": "websocket.send", "text": "hallo"}
        await it.service_says(BytesMessage(b"\xff" * 70_000))
        assert await it.client_hears() == {"type": "websocket.send", "bytes": b"\xff" * 70_000}


async def test_empty_messages_stay_messages() -> None:
    async with talk() as it:
        await it.client_says(text="")
        assert await it.service_hears() == TextMessage("")
        await it.service_says(BytesMessage(b""))
        assert await it.client_hears() == {"type": "websocket.send", "bytes": b""}


async def test_message_in_fragments_arrives_as_one() -> None:
    async with talk() as it:
        await it.service_says(TextMessage("one ", message_finished=False))
        await it.service_says(TextMessage("two", message_finished=True))
        assert await it.client_hears() == {"type": "websocket.send", "text": "one two"}


async def test_ping_of_the_service_is_answered_here() -> None:
    async with talk() as it:
        await it.service_says(Ping(b"are you there"))
        assert await it.service_hears() == Pong(b"are you there")


async def test_close_of_the_service_reaches_the_client_with_its_code_and_is_answered() -> None:
    async with talk() as it:
        await it.service_says(CloseConnection(4001, "enough"))
        assert await it.client_hears() == {"type": "websocket.close", "code": 4001, "reason": "enough"}
        assert await it.service_hears() == CloseConnection(4001, "enough")
        it.service.close()
        await it.over.wait()


async def test_close_without_a_code_is_a_normal_one_to_the_client() -> None:
    async with talk() as it:
        await it.service_says(CloseConnection(1005))
        assert (await it.client_hears())["code"] == 1000


async def test_leaving_client_closes_the_service_with_its_code() -> None:
    async with talk() as it:
        await it.client_leaves(code=4002, reason="bye")
        assert await it.service_hears() == CloseConnection(4002, "bye")
        await it.service_says(CloseConnection(4002, "bye"))
        it.service.close()
        await it.over.wait()
        assert it.from_app.statistics().current_buffer_used == 0


async def test_vanished_client_is_going_away_to_the_service() -> None:
    async with talk() as it:
        await it.client_leaves(code=1006)
        assert await it.service_hears() == CloseConnection(1001, "")


async def test_service_that_does_not_answer_a_close_is_waited_for_no_longer_than_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with talk() as it:
        start = trio.current_time()
        await it.client_leaves()
        await it.over.wait()
        assert trio.current_time() - start == bridge.CLOSE_S


async def test_end_without_a_word_is_going_away_to_the_client() -> None:
    async with talk() as it:
        await it.service.send_all(b"\x82\x7e\x10")
        it.service.close()
        assert await it.client_hears() == {"type": "websocket.close", "code": 1001, "reason": ""}
        await it.over.wait()


async def test_message_above_the_limit_closes_both_sides() -> None:
    async with talk() as it:
        piece = BytesMessage(b"x" * 2**20, message_finished=False)
        for _ in range(bridge.MESSAGE_BYTES_MAX // 2**20 + 1):
            await it.service_says(piece)
        assert await it.client_hears() == {"type": "websocket.close", "code": 1009, "reason": ""}
        event = await it.service_hears()
        assert isinstance(event, CloseConnection)
        assert event.code == 1009


async def test_bytes_that_are_no_frames_close_both_sides() -> None:
    async with talk() as it:
        await it.service.send_all(b"\xff\xff\xff\xff")
        assert (await it.client_hears())["code"] == 1002
        event = await it.service_hears()
        assert isinstance(event, CloseConnection)
        assert event.code == 1002


async def test_client_that_leaves_before_the_handshake_cancels_it() -> None:
    said = Talk(open_pipe()[1])
    with trio.CancelScope() as both:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Bridge(said.from_server.receive, said.to_server.send).read_client, both)
            await said.client_leaves(code=1006)
            await trio.sleep_forever()
    assert both.cancelled_caught
