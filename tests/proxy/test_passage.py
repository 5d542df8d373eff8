"""One exchange through the whole engine: what passes, in both directions, and as it comes."""

from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from actors.testing.containers import FakeRun
from proxy.testing import (
    Asked,
    Caller,
    PreviewEngine,
    early_answer,
    echo,
    events,
    mirror,
    respond,
    service,
    silence,
    websocket_echo,
)
from proxy.testing import preview_engine as make_engine


def host_of(url: str) -> str:
    return urlsplit(url).netloc


# What the service answers passes.


async def test_request_and_response_pass_end_to_end(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    response = await preview_engine.request(
        "PUT", f"{url}a%2Fb?q=%20", headers=[("X-Own", "kept"), ("Cookie", "a=1")], body=b"content"
    )
    shown = response.json()
    assert isinstance(shown, dict)

    assert (shown["method"], shown["target"], shown["body"]) == ("PUT", "/a%2Fb?q=%20", "content")
    fields = dict(shown["headers"])
    assert (fields["host"], fields["x-own"], fields["cookie"]) == ("localhost:8080", "kept", "a=1")
    assert fields["x-forwarded-for"] == "192.0.2.7"
    assert fields["x-forwarded-proto"] == "https"


async def test_owner_may_have_the_public_host_preserved(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror(), host_header="preserve")

    assert f'"{host_of(url)}"'.encode() in (await preview_engine.get(url)).body


@pytest.mark.parametrize("status", [200, 201, 302, 404, 500, 503])
async def test_whatever_the_service_answers_is_answered(status: int, preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"its own words", status=status, headers=[("X-Own", "kept")]))
    response = await preview_engine.get(url)

    assert (response.status, response.body, response.header("x-own")) == (status, b"its own words", "kept")


async def test_fields_of_the_response_are_narrowed_to_the_preview(preview_engine: PreviewEngine) -> None:
    headers = [
        ("Location", "http://localhost:8080/next"),
        ("Set-Cookie", "a=1; Domain=example.com"),
        ("Set-Cookie", "b=2"),
    ]
    url = await preview_engine.expose(respond(status=302, headers=headers))
    response = await preview_engine.get(url)

    assert response.header("location") == f"{url}next"
    assert response.header_values("set-cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_content_leave_the_connection_in_step(
    method: str, status: int, preview_engine: PreviewEngine
) -> None:
    async def answer(caller: Caller, asked: Asked) -> None:
        fields = [("ETag", '"1"')]
        if asked.method == "HEAD":
            fields.append(("Content-Length", "5"))
        await caller.begin(status if asked.target == "/" else 200, fields)
        if asked.target != "/":
            await caller.send(b"next")
        await caller.end()

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    await client.send_request(method, "/", host)
    first = await client.read_response(method)
    await client.send_request("GET", "/next", host)

    assert (first.status, first.body) == (status, b"")
    assert first.header("content-length") == ("5" if method == "HEAD" else None)
    assert (await client.read_response()).body == b"next"
    assert preview_engine.container().dials.total() == 1


async def test_interim_responses_pass_before_the_final_one(preview_engine: PreviewEngine) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.inform(103, [("Link", "</style.css>; rel=preload")])
        await caller.inform(102)
        await caller.respond(200, b"done")

    response = await preview_engine.get(await preview_engine.expose(service(answer)))

    assert (response.informational, response.status, response.body) == ((103, 102), 200, b"done")


async def test_trailers_pass(preview_engine: PreviewEngine) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.begin()
        await caller.send(b"content")
        await caller.end([("X-Checksum", "1234")])

    response = await preview_engine.get(await preview_engine.expose(service(answer)))

    assert response.trailers == (("x-checksum", "1234"),)


# Streaming.


async def test_each_event_leaves_as_it_comes(preview_engine: PreviewEngine) -> None:
    told, source = trio.open_memory_channel[str](0)
    url = await preview_engine.expose(events(source))
    async with preview_engine.open("GET", url) as client:
        head = await client.read_head()
        assert head.header("content-type") == "text/event-stream"
        for number in range(3):
            # The service waits for the next one to be told: nothing else can push this one out.
            await told.send(str(number))
            assert await client.read_some() == f"data: {number}\n\n".encode()
        told.close()
        assert await client.read_some() == b""


async def test_upload_reaches_the_service_while_it_is_sent(preview_engine: PreviewEngine) -> None:
    received, pieces = trio.open_memory_channel[bytes](0)

    async def answer(caller: Caller, _asked: Asked) -> None:
        while data := await caller.read_some():
            await received.send(data)
        await caller.respond(200, b"thanks")

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for piece in (b"one", b"two"):
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert await pieces.receive() == piece
    await client.send(b"0\r\n\r\n")

    assert (await client.read_response()).body == b"thanks"


async def test_both_directions_flow_at_once(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(echo()))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n".encode())
    await client.read_head("POST")
    assert await client.read_some() == b"one"
    await client.send(b"3\r\ntwo\r\n")
    assert await client.read_some() == b"two"
    await client.send(b"0\r\n\r\n")
    assert await client.read_some() == b""

    # Both messages are complete, so both connections go on.
    await client.send_request("GET", "/", host)
    assert (await client.read_response()).status == 200
    assert preview_engine.container().dials.total() == 1


async def test_flowing_stream_has_no_time_limit(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    told, source = trio.open_memory_channel[str](0)
    url = await preview_engine.expose(events(source))
    async with preview_engine.open("GET", url) as client:
        await client.read_head()
        await trio.sleep(600)
        await told.send("still here")
        assert await client.read_some() == b"data: still here\n\n"


async def test_slow_upload_has_no_time_limit(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(echo()))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\n".encode())
    for _ in range(4):
        await trio.sleep(300)
        await client.send(b"x")

    assert (await client.read_response()).body == b"xxxx"


# Expect: 100-continue.


async def test_content_is_held_back_until_the_service_wants_it(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(mirror()))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    interim = await client.receive()
    assert interim.startswith(b"HTTP/1.1 100 ")
    await trio.sleep(300)
    await client.send(b"data")
    response = await client.read_response()

    assert response.status == 200
    assert b'"body": "data"' in response.body


async def test_client_that_loses_patience_sends_its_content_unasked(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        # Without `read_some`, which would send the 100: many a service never does.
        received = b""
        while not received.endswith(b"data"):
            received += await caller.stream.receive_some()
        await caller.send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    await trio.sleep(1)
    await client.send(b"data")

    assert (await client.read_response()).body == b"ok"


async def test_final_answer_instead_of_a_100_ends_the_connection(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(early_answer(417)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())
    response = await client.read_response()

    assert (response.status, response.header("connection")) == (417, "close")
    assert await client.receive() == b""


async def test_neither_100_nor_answer_is_a_timeout(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(silence()))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n".encode())

    assert (await client.read_response()).code == "UPSTREAM_TIMEOUT"


# Early answers.


async def test_early_answer_ends_an_upload_that_nobody_reads(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(early_answer(413)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n".encode())
    response = await client.read_response()
    await client.send(b"x" * 1000)

    assert (response.status, response.body) == (413, b"too much")
    assert await client.receive() == b""


async def test_service_that_stops_reading_before_its_answer_has_come_is_heard(preview_engine: PreviewEngine) -> None:
    class StopsReading(trio.abc.HalfCloseableStream):
        """Takes the head; a send after that fails, and only then comes the answer."""

        def __init__(self) -> None:
            self.sends = 0
            self.refused = trio.Event()

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()
            self.sends += 1
            if self.sends > 1:
                self.refused.set()
                raise trio.BrokenResourceError

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await self.refused.wait()
            await trio.testing.wait_all_tasks_blocked()
            return b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"

        async def wait_send_all_might_not_block(self) -> None: ...

        async def send_eof(self) -> None: ...

        async def aclose(self) -> None: ...

    async def dial(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        return StopsReading()

    url = await preview_engine.expose()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeRun, "dial", dial)
        response = await preview_engine.request("POST", url, body=b"content")
    assert (response.status, response.body) == (413, b"no")


async def test_service_that_answers_and_closes_without_reading_is_heard(preview_engine: PreviewEngine) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.respond(413, b"too much")
        await trio.aclose_forcefully(caller.stream)

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2000\r\n\r\n".encode() + b"x" * 1000)

    assert (await client.read_response()).status == 413


def test_connection_on_which_a_request_is_not_all_sent_is_not_kept() -> None:
    """Its service would take the next request for the rest of this one's content."""
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        sent = 0

        async def hold_last_chunk() -> None:
            nonlocal sent
            sent += 1
            if sent == 3:
                # The head, the content, and now the last chunk: on its way for ever.
                await trio.sleep_forever()

        async def dial(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
            ours.send_stream.send_all_hook = hold_last_chunk
            return ours

        async with make_engine() as engine:
            url = await engine.expose(respond())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(FakeRun, "dial", dial)
                client = engine.connect()
                await client.send(
                    f"POST / HTTP/1.1\r\nHost: {host_of(url)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
                    + b"3\r\nabc\r\n"
                )
                await engine.settle()
                await client.send(b"0\r\n\r\n")
                await engine.settle()
                assert sent == 3
                await theirs.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert (await client.read_response()).body == b"ok"
            await engine.settle()
            assert len(engine.router._pool) == 0

    trio.run(main, clock=clock)


# WebSocket.


async def test_websocket_passes_with_its_subprotocol(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo(subprotocol="chat"))
    async with preview_engine.websocket(url, subprotocols=["chat", "other"]) as connection:
        assert connection.subprotocol == "chat"
        for text in ("one", "x" * 100_000):
            await connection.send_message(text)
            assert await connection.get_message() == text


async def test_answer_to_an_upgrade_names_what_it_switches_to_once(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    client = preview_engine.connect()
    await client.send(
        f"GET / HTTP/1.1\r\nHost: {host_of(url)}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = await client.read_head()

    assert head.status == 101
    assert head.header_values("upgrade") == ["websocket"]
    assert head.header("connection") == "Upgrade"
    assert head.header("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


async def test_any_accepted_upgrade_carries_raw_bytes_and_half_closes(preview_engine: PreviewEngine) -> None:
    async def answer(stream: trio.abc.HalfCloseableStream) -> None:
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\nhello")
        # What the client sent ahead comes once the protocol has been switched.
        assert await stream.receive_some() == b"early"
        while data := await stream.receive_some():
            await stream.send_all(data[::-1])
        await stream.send_all(b"bye")

    url = await preview_engine.expose(answer)
    client = preview_engine.connect()
    await client.send(
        f"GET / HTTP/1.1\r\nHost: {host_of(url)}\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\nearly".encode()
    )
    assert (await client.read_head()).status == 101
    assert await client.receive() == b"hello"
    await client.send(b"\x00\x01\x02")
    assert await client.receive() == b"\x02\x01\x00"
    await client.send_eof()
    assert await client.read_to_end() == b"bye"


async def test_refused_upgrade_is_an_ordinary_answer_and_the_connection_goes_on(
    preview_engine: PreviewEngine,
) -> None:
    host = host_of(await preview_engine.expose(respond(b"no")))
    client = preview_engine.connect()
    for _ in range(2):
        await client.send_request("GET", "/", host, headers=[("Connection", "Upgrade"), ("Upgrade", "websocket")])
        assert (await client.read_response()).body == b"no"


async def test_request_is_over_before_a_quick_switch_of_protocols(preview_engine: PreviewEngine) -> None:
    class AnsweredAlready(trio.abc.HalfCloseableStream):
        """A service whose 101 is there before anybody has had a turn."""

        answers: list[bytes]

        def __init__(self) -> None:
            self.answers = [
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n",
                b"",
            ]

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return self.answers.pop(0)

        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

        async def wait_send_all_might_not_block(self) -> None: ...

        async def send_eof(self) -> None: ...

        async def aclose(self) -> None: ...

    async def dial(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        return AnsweredAlready()

    url = await preview_engine.expose(respond())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeRun, "dial", dial)
        client = preview_engine.connect()
        await client.send(
            f"GET / HTTP/1.1\r\nHost: {host_of(url)}\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
        )
        assert (await client.read_head()).status == 101
