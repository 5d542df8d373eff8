"""The services for tests do what they say, to a client that speaks to them without a router in between."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket

from actors.testing.containers import Handler
from proxy.testing import (
    Asked,
    Caller,
    Client,
    CutOffError,
    early_answer,
    echo,
    events,
    garbage,
    hangs_up,
    mirror,
    reset_mid_body,
    respond,
    service,
    silence,
    slow_head,
    websocket_echo,
)


@asynccontextmanager
async def calling(handler: Handler) -> AsyncIterator[Client]:
    """A client connected to `handler`, whose stream is closed when it returns, as a fake container does."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def handle() -> None:
        await handler(theirs)
        await trio.aclose_forcefully(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle)
        yield Client(ours)
        nursery.cancel_scope.cancel()


async def test_respond_answers_every_request_alike() -> None:
    async with calling(respond(b"hello", status=201, headers=[("X-Own", "1")])) as client:
        for body in (None, b"content"):
            await client.send_request("POST", "/", "h", body=body)
            response = await client.read_response()
            assert (response.status, response.body, response.header("x-own")) == (201, b"hello", "1")
        await client.send_request("HEAD", "/", "h")
        head = await client.read_response("HEAD")
        assert (head.header("content-length"), head.body) == ("5", b"")
        await client.send_eof()
        assert await client.receive() == b""


@pytest.mark.parametrize("status", [204, 304])
async def test_respond_without_content_states_no_length(status: int) -> None:
    async with calling(respond(status=status)) as client:
        await client.send_request("GET", "/", "h")
        assert (await client.read_response()).header("content-length") is None


async def test_service_ends_with_a_client_that_breaks_off() -> None:
    async with calling(respond()) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nsome")
        await client.send_eof()
        assert await client.receive() == b""


async def test_mirror_shows_the_request() -> None:
    async with calling(mirror()) as client:
        await client.send_request("PUT", "/a?b=c", "h", headers=[("X-Own", "1")], body=b"content")
        assert (await client.read_response()).json() == {
            "method": "PUT",
            "target": "/a?b=c",
            "headers": [["host", "h"], ["x-own", "1"], ["content-length", "7"]],
            "body": "content",
        }


async def test_echo_sends_each_piece_back_at_once() -> None:
    async with calling(echo()) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await client.read_head()
        assert await client.read_some() == b"one"
        await client.send(b"0\r\n\r\n")
        assert await client.read_some() == b""
        await client.send_request("GET", "/", "h")
        assert (await client.read_response()).body == b""


async def test_events_are_sent_as_they_are_told() -> None:
    told, source = trio.open_memory_channel[str](0)
    async with calling(events(source)) as client:
        await client.send_request("GET", "/", "h")
        assert (await client.read_head()).header("content-type") == "text/event-stream"
        await told.send("first")
        assert await client.read_some() == b"data: first\n\n"
        await told.aclose()
        assert await client.read_some() == b""


async def test_websocket_echo_sends_messages_back() -> None:
    async with calling(websocket_echo(subprotocol="chat")) as client, trio.open_nursery() as nursery:
        connection = await trio_websocket.wrap_client_stream(
            nursery,
            client.stream,  # type: ignore[arg-type]  # any stream will do
            "h",
            "/",
            subprotocols=["chat"],
        )
        await connection.send_message("hello")
        assert await connection.get_message() == "hello"
        assert connection.subprotocol == "chat"
        await connection.aclose()


async def test_slow_head_thinks_first(autojump_clock: trio.testing.MockClock) -> None:
    async with calling(slow_head(20, b"done")) as client:
        await client.send_request("GET", "/", "h")
        assert (await client.read_response()).body == b"done"
        assert trio.current_time() == 20


async def test_silence_says_nothing_even_at_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with calling(silence()) as client:
        await client.send_request("GET", "/", "h")
        await client.send_eof()
        with trio.move_on_after(100) as waiting:
            await client.receive()
        assert waiting.cancelled_caught


async def test_early_answer_reads_no_content() -> None:
    async with calling(early_answer(413, b"no")) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
        response = await client.read_response()
        assert (response.status, response.body) == (413, b"no")


async def test_hanging_up_gives_no_answer() -> None:
    async with calling(hangs_up()) as client:
        await client.send_request("GET", "/", "h")
        with pytest.raises(CutOffError) as cut:
            await client.read_response()
        assert cut.value.partial is None


@pytest.mark.parametrize("length", [None, 100])
async def test_reset_mid_body_breaks_off(length: int | None) -> None:
    async with calling(reset_mid_body(b"half", length=length)) as client:
        await client.send_request("GET", "/", "h")
        with pytest.raises(CutOffError) as cut:
            await client.read_response()
        assert cut.value.partial is not None
        assert cut.value.partial.body == b"half"


async def test_garbage_is_no_http() -> None:
    async with calling(garbage(b"SSH-2.0\r\n")) as client:
        await client.send_request("GET", "/", "h")
        assert await client.receive() == b"SSH-2.0\r\n"


async def test_caller_speaks_all_of_http() -> None:
    async def answer(caller: Caller, asked: Asked) -> None:
        assert (asked.header("X-OWN"), asked.header("x-other")) == ("1", None)
        assert await caller.read_all() == b"data"
        await caller.inform(103, [("Link", "</a>")])
        await caller.begin(202)
        await caller.send(b"content")
        await caller.end([("X-Sum", "9")])

    async with calling(service(answer)) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nX-Own: 1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b" 100 " in await client.receive()
        await client.send(b"data")
        response = await client.read_response()
        assert (response.status, response.informational, response.trailers) == (202, (103,), (("x-sum", "9"),))
