"""One exchange through the whole engine: both directions, every way to fail, and what the client then sees."""

import socket
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
import trio_websocket

from actors import ContainerSpec, MemoryStore, NotListeningError, open_runtime
from actors.testing.containers import FakeRun
from proxy.options import Options
from proxy.passage import HALF_CLOSED_GRACE_S
from proxy.router import open_router
from proxy.testing import (
    Asked,
    Caller,
    Client,
    CutOffError,
    PreviewEngine,
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
from proxy.testing import preview_engine as open_engine


def host_of(url: str) -> str:
    return urlsplit(url).netloc


def close_reason(closed: trio_websocket.ConnectionClosed) -> tuple[int, str | None]:
    assert closed.reason is not None
    return closed.reason.code, closed.reason.reason


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


# The service fails.


async def test_nothing_listening_says_what_was_tried(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose()
    response = await preview_engine.get(url)
    shown = response.json()
    assert isinstance(shown, dict)

    assert (response.status, shown["code"], shown["port"]) == (502, "NOT_LISTENING", 8080)
    assert "memory: connection refused" in shown["error"]
    page = await preview_engine.get(url, headers=[("Accept", "text/html")])
    assert (page.status, b"NOT_LISTENING" in page.body) == (502, True)


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (hangs_up(), "UPSTREAM_CLOSED"),
        (garbage(), "BAD_RESPONSE"),
        (garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), "BAD_RESPONSE"),
        (garbage(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "BAD_RESPONSE"),
        (garbage(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000), "BAD_RESPONSE"),
    ],
)
async def test_service_without_a_sound_head_is_a_bad_gateway(
    handler: object, code: str, preview_engine: PreviewEngine
) -> None:
    host = host_of(await preview_engine.expose(handler))  # type: ignore[arg-type]  # handlers of all kinds
    client = preview_engine.connect()
    await client.send_request("GET", "/", host)
    response = await client.read_response()
    assert (response.status, response.code) == (502, code)

    # The fault is the service's: the client's connection goes on.
    preview_engine.container().handlers[8080] = respond(b"better")
    await client.send_request("GET", "/", host)
    assert (await client.read_response()).body == b"better"


async def test_service_that_does_not_accept_in_time_is_a_timeout(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    url = await preview_engine.expose(respond())
    monkeypatch.setattr(FakeRun, "dial", never)
    asked = trio.current_time()
    response = await preview_engine.get(url)

    assert (response.status, response.code) == (504, "UPSTREAM_TIMEOUT")
    assert b"within 5 s" in response.body
    assert trio.current_time() - asked == 5


async def test_service_that_does_not_answer_in_time_is_a_timeout(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await preview_engine.expose(slow_head(119))
    assert (await preview_engine.get(url)).status == 200

    preview_engine.container().handlers[8080] = slow_head(10_000)
    await trio.sleep(5)
    asked = trio.current_time()
    response = await preview_engine.request("POST", url, body=b"content")
    assert (response.status, response.code) == (504, "UPSTREAM_TIMEOUT")
    assert b"within 120 s" in response.body
    assert 120 <= trio.current_time() - asked <= 121


def test_service_that_takes_no_content_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lockstep streams: a send waits until the other side receives, which this service never does.
    clock = trio.testing.MockClock(autojump_threshold=0)
    monkeypatch.setattr(trio.testing, "memory_stream_pair", trio.testing.lockstep_stream_pair)

    async def deaf(stream: trio.abc.HalfCloseableStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some()
        await trio.sleep_forever()

    async def main() -> None:
        async with open_engine() as engine:
            url = await engine.expose(deaf)
            async with engine.open("POST", url, body=b"") as client:
                assert (await client.read_response()).code == "UPSTREAM_TIMEOUT"
            client = engine.connect()
            await client.send(f"POST / HTTP/1.1\r\nHost: {host_of(url)}\r\nContent-Length: 9\r\n\r\n".encode())
            await client.send(b"some")
            assert (await client.read_response()).code == "UPSTREAM_TIMEOUT"

    trio.run(main, clock=clock)


@pytest.mark.parametrize("length", [None, 100])
async def test_response_that_breaks_off_is_seen_as_incomplete(
    length: int | None, preview_engine: PreviewEngine
) -> None:
    url = await preview_engine.expose(reset_mid_body(b"half of it", length=length))
    with pytest.raises(CutOffError) as cut:
        await preview_engine.get(url)

    assert cut.value.partial is not None
    assert cut.value.partial.body == b"half of it"


async def test_body_that_ends_with_the_connection_is_complete(preview_engine: PreviewEngine) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.send_raw(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        await trio.aclose_forcefully(caller.stream)

    response = await preview_engine.get(await preview_engine.expose(service(answer)))

    assert (response.status, response.body) == (200, b"all of it")


async def test_malformed_body_breaks_off(preview_engine: PreviewEngine) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.send_raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await preview_engine.settle()
        await caller.send_raw(b"zzz\r\n")

    with pytest.raises(CutOffError):
        await preview_engine.get(await preview_engine.expose(service(answer)))


# Early answers.


async def test_early_answer_ends_an_upload_that_nobody_reads(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(early_answer(413)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n".encode())
    response = await client.read_response()
    await client.send(b"x" * 1000)

    assert (response.status, response.body) == (413, b"too much")
    assert await client.receive() == b""


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

        async with open_engine() as engine:
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


# Kept connections to services.


async def test_connection_to_a_service_is_kept_for_other_clients(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    for _ in range(3):
        await preview_engine.get(url)

    assert list(preview_engine.container().dials.values()) == [1]


async def test_connection_that_the_service_wants_closed_is_not_kept(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello", headers=[("Connection", "close")]))
    for _ in range(2):
        response = await preview_engine.get(url)
        assert (response.body, response.header("connection")) == (b"hello", None)

    assert list(preview_engine.container().dials.values()) == [2]


async def test_connection_of_a_run_is_never_used_for_the_next(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"first"))
    await preview_engine.get(url)
    container = preview_engine.container()
    assert container.run is not None
    container.run.end()
    container.handlers[8080] = respond(b"second")
    await preview_engine.settle()

    assert (await preview_engine.get(url)).body == b"second"
    assert [container.dials[run_id] for run_id in container.starts] == [1, 1]


def answers_once(received: list[bytes]) -> object:
    """A service that answers the first request of each connection, and closes at the first byte of the second."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        caller = Caller(stream)
        asked = await caller.next_request()
        assert asked is not None
        received.append(asked.target.encode())
        await caller.respond(200, b"hello")
        received.append(bytes(await stream.receive_some()).partition(b" HTTP")[0])

    return handle


@pytest.mark.parametrize(
    ("method", "body", "served"),
    [
        ("GET", None, True),
        ("HEAD", None, True),
        ("DELETE", None, True),
        ("POST", None, False),
        ("POST", b"content", False),
        ("PATCH", b"content", False),
        ("PUT", b"content", False),
    ],
)
async def test_stale_connection_costs_a_retry_only_where_it_cannot_be_noticed(
    method: str, body: bytes | None, served: bool, preview_engine: PreviewEngine
) -> None:
    received: list[bytes] = []
    url = await preview_engine.expose(answers_once(received))  # type: ignore[arg-type]  # a handler
    await preview_engine.get(f"{url}first")
    received.clear()
    response = await preview_engine.request(method, f"{url}second", body=body)

    assert (response.status == 200) is served
    if not served:
        assert (response.status, response.code) == (502, "UPSTREAM_CLOSED")
    sent = [entry for entry in received if b"second" in entry]
    assert len(sent) == (2 if served else 1)


async def test_retry_is_made_once_and_on_a_fresh_connection(preview_engine: PreviewEngine) -> None:
    hosts = host_of(await preview_engine.expose(respond(b"hello")))
    stale: list[Client] = []
    # Two kept connections, both of which will be found dead.
    first, second = preview_engine.connect(), preview_engine.connect()
    gate = trio.Event()

    async def answer(caller: Caller, asked: Asked) -> None:
        if asked.target == "/warm-up":
            await gate.wait()
            await caller.respond(200)
        else:
            await trio.aclose_forcefully(caller.stream)

    preview_engine.container().handlers[8080] = service(answer)
    for client in (first, second):
        await client.send_request("GET", "/warm-up", hosts)
    await preview_engine.settle()
    gate.set()
    for client in (first, second):
        await client.read_response()
    dialled = preview_engine.container().dials.total()
    assert dialled == 2
    await first.send_request("GET", "/", hosts)

    assert (await first.read_response()).code == "UPSTREAM_CLOSED"
    assert preview_engine.container().dials.total() == dialled + 1
    assert not stale


# The client leaves, or is slow.


async def test_client_that_leaves_while_it_waits_frees_visit_and_connection(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await preview_engine.expose(silence())
    async with preview_engine.open("GET", url):
        await preview_engine.settle()
        assert preview_engine.runtime.statistics().visits == 1
    await trio.sleep(3 + HALF_CLOSED_GRACE_S)

    assert preview_engine.runtime.statistics().visits == 0
    assert preview_engine.router.connections == 0


async def test_client_that_leaves_an_upload_frees_its_visit_at_once(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(silence())
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host_of(url)}\r\nContent-Length: 9\r\n\r\n".encode())
    await preview_engine.settle()
    assert preview_engine.runtime.statistics().visits == 1
    await client.aclose()
    await preview_engine.settle()

    assert preview_engine.runtime.statistics().visits == 0


async def test_client_that_ended_its_sending_is_answered_if_it_does_not_take_long(
    preview_engine: PreviewEngine,
    autojump_clock: trio.testing.MockClock,
) -> None:
    url = await preview_engine.expose(slow_head(4))
    client = preview_engine.connect()
    await client.send_request("GET", "/", host_of(url))
    await client.send_eof()

    assert (await client.read_response()).body == b"at last"


async def test_client_that_ended_its_sending_is_sent_a_long_answer_to_its_end(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    told, source = trio.open_memory_channel[str](0)
    client = preview_engine.connect()
    await client.send_request("GET", "/", host_of(await preview_engine.expose(events(source))))
    await client.send_eof()
    await client.read_head()
    for number in range(20):
        await trio.sleep(HALF_CLOSED_GRACE_S * 0.6)
        await told.send(str(number))
        assert await client.read_some() == f"data: {number}\n\n".encode()
    told.close()
    assert await client.read_some() == b""


async def test_client_that_resets_while_it_waits_is_noticed(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    class Resets(trio.abc.HalfCloseableStream):
        """Sends one request, and is gone at the second receive."""

        def __init__(self, data: bytes) -> None:
            self.data = data

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            data, self.data = self.data, b""
            if not data:
                raise trio.BrokenResourceError
            return data

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise trio.BrokenResourceError

        async def wait_send_all_might_not_block(self) -> None: ...

        async def send_eof(self) -> None: ...

        async def aclose(self) -> None: ...

    url = await preview_engine.expose(silence())
    asked = trio.current_time()
    await preview_engine.router.handle(Resets(f"GET / HTTP/1.1\r\nHost: {host_of(url)}\r\n\r\n".encode()))

    assert trio.current_time() - asked <= 3
    assert preview_engine.runtime.statistics().visits == 0


async def test_what_a_waiting_client_pipelines_is_kept_and_answered(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(slow_head(10)))
    client = preview_engine.connect()
    await client.send_request("GET", "/1", host)
    # By now the watchman reads from it.
    await trio.sleep(5)
    await client.send_request("GET", "/2", host)

    assert (await client.read_response()).body == b"at last"
    assert (await client.read_response()).body == b"at last"


async def test_slow_reader_holds_up_its_service_and_nothing_is_stored_up() -> None:
    """On real sockets, whose buffers are the kernel's and bounded."""
    sent = 0

    async def flood(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            while True:
                await stream.send_all(chunk)
                sent += len(chunk)
        except trio.BrokenResourceError:
            return

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    ours, routers = socket.socketpair()
    async with open_runtime(MemoryStore()) as runtime, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, flood, listeners)
        sandbox = await runtime.get_sandbox("my-app", container=ContainerSpec("address", {"host": "127.0.0.1"}))
        host = host_of((await sandbox.expose_port(port, hostname="example.com")).url)
        async with open_router(runtime, ["example.com"]) as router:
            nursery.start_soon(router.handle, trio.SocketStream(trio.socket.from_stdlib_socket(routers)))
            client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
            with trio.fail_after(20):
                await client.send_request("GET", "/", host)
                assert (await client.read_head()).status == 200
                at_rest, before = 0, -1
                while at_rest < 3:
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    at_rest, before = (at_rest + 1 if sent == before else 0), sent
            # What the kernel's four buffers hold; a router that stored up would have taken gigabytes by now.
            assert sent < 32 * 2**20
            await client.aclose()
            nursery.cancel_scope.cancel()


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


# The cord.


async def test_unexpose_cuts_a_live_stream_before_it_returns(preview_engine: PreviewEngine) -> None:
    _told, source = trio.open_memory_channel[str](0)
    url = await preview_engine.expose(events(source))
    sandbox = await preview_engine.sandbox()
    async with preview_engine.open("GET", url) as one, preview_engine.open("GET", url) as other:
        for client in (one, other):
            await client.read_head()
        assert await sandbox.unexpose_port(8080) == 2
        assert preview_engine.runtime.statistics().visits == 0
        for client in (one, other):
            with pytest.raises(CutOffError):
                await client.read_some()
    assert await sandbox.unexpose_port(8080) == 0


async def test_unexpose_closes_websockets_with_going_away(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    async with preview_engine.websocket(url) as connection:
        await connection.send_message("hello")
        await connection.get_message()
        assert await (await preview_engine.sandbox()).unexpose_port(8080) == 1
        assert preview_engine.runtime.statistics().visits == 0
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert close_reason(closed.value) == (1001, "unexposed")


async def test_end_of_the_run_closes_websockets_with_service_restart(autojump_clock: trio.testing.MockClock) -> None:
    async with open_engine() as engine:
        url = await engine.expose(websocket_echo())
        async with engine.websocket(url) as connection:
            await connection.send_message("hello")
            await connection.get_message()
            await engine.runtime.aclose()
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await connection.get_message()
            assert close_reason(closed.value) == (1012, "run ended")


async def test_stopped_sandbox_closes_its_websockets(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    async with preview_engine.websocket(url) as connection:
        assert await (await preview_engine.sandbox()).stop() == 1
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert close_reason(closed.value) == (1001, "stopped")


@pytest.mark.parametrize("body", [None, b"content"])
async def test_request_that_is_cut_before_its_answer_gets_the_answer_of_now(
    body: bytes | None, preview_engine: PreviewEngine
) -> None:
    host = host_of(await preview_engine.expose(silence()))
    client = preview_engine.connect()
    await client.send_request("GET" if body is None else "POST", "/", host, body=body)
    await preview_engine.settle()
    sandbox = await preview_engine.sandbox()
    assert await sandbox.unexpose_port(8080) == 1
    response = await client.read_response()
    assert (response.status, response.code) == (404, "INVALID_TOKEN")

    # Nothing of an answer had been sent, so the client's connection goes on.
    preview_engine.container().handlers[8080] = respond(b"hello")
    await client.send_request("GET", "/", host_of(await preview_engine.expose()))
    assert (await client.read_response()).body == b"hello"


async def test_request_that_is_cut_in_the_moment_of_its_admission_does_not_reach_the_service(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await preview_engine.expose(respond(b"secret"))
    await preview_engine.get(url)
    dials = preview_engine.container().dials.total()
    runtime = preview_engine.runtime
    admit = type(runtime).admit_nowait

    def admit_and_cut(self: object, *args: object) -> object:
        visit = admit(self, *args)  # type: ignore[arg-type]  # passed on
        assert visit is not None
        from actors import CutBecause, Visit

        assert isinstance(visit, Visit)
        visit.pull(CutBecause.UNEXPOSED)
        return visit

    monkeypatch.setattr(type(runtime), "admit_nowait", admit_and_cut)
    assert (await preview_engine.get(url)).code == "INVALID_TOKEN"
    assert preview_engine.container().dials.total() == dials


async def test_cut_answer_of_unknown_length_is_seen_as_cut_by_an_old_client() -> None:
    """HTTP/1.0 knows no chunks: where the connection's end is the body's, a cut has to be a reset."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_engine() as engine, trio.open_nursery() as nursery:
        url = await engine.expose(reset_mid_body(b"half"))

        async def accept() -> None:
            await engine.router.handle(await listeners[0].accept(), scheme="https")

        nursery.start_soon(accept)
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        async with stream, listeners[0]:
            await stream.send_all(f"GET / HTTP/1.0\r\nHost: {host_of(url)}\r\n\r\n".encode())

            async def read_to_end() -> None:
                while await stream.receive_some():
                    pass

            with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                await read_to_end()


async def test_bug_in_a_container_is_answered_and_harms_nobody_else(
    preview_engine: PreviewEngine,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[dict[str, object]],
) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    await preview_engine.get(url)
    other = preview_engine.connect()

    async def broken(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        raise KeyError("a bug with a secret in its text")

    await trio.sleep(5)
    with monkeypatch.context() as patch:
        patch.setattr(FakeRun, "dial", broken)
        response = await preview_engine.get(url)
    assert (response.status, response.code) == (500, "INTERNAL")
    [event] = [event for event in logged if event["log_level"] == "error"]
    assert event["error"] == "KeyError"
    assert "in broken" in str(event["frames"])
    assert "secret" not in str(event).replace("a bug with a secret in its text", "", 1)
    await other.send_request("GET", "/", host_of(url))
    assert (await other.read_response()).body == b"hello"


async def test_dial_that_is_refused_later_on_a_retry_is_told(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    url = await preview_engine.expose(answers_once(received))  # type: ignore[arg-type]  # a handler
    await preview_engine.get(url)

    async def refuse(_run: FakeRun, port: int) -> trio.abc.HalfCloseableStream:
        raise NotListeningError(port, [("memory", "connection refused")])

    monkeypatch.setattr(FakeRun, "dial", refuse)
    assert (await preview_engine.get(url)).code == "NOT_LISTENING"


async def test_head_of_the_service_has_limits_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async with open_engine(options=Options(response_timeout_s=3)) as engine:
        url = await engine.expose(slow_head(10))
        assert b"within 3 s" in (await engine.get(url)).body
