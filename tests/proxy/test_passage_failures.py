"""One exchange through the whole engine: the service fails, a kept connection is stale, the client leaves."""

import socket
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from actors import ContainerSpec, MemoryStore, NotListeningError, open_runtime
from actors.testing.containers import FakeRun, Handler
from proxy.door import READ_AHEAD_BYTES_MAX
from proxy.options import Options
from proxy.passage import HALF_CLOSED_GRACE_S
from proxy.router import open_router
from proxy.testing import (
    Asked,
    Caller,
    Client,
    CutOffError,
    PreviewEngine,
    events,
    garbage,
    hangs_up,
    reset_mid_body,
    respond,
    service,
    silence,
    slow_head,
)
from proxy.testing import preview_engine as make_engine
from tests.proxy.ways import OpenEngine


def host_of(url: str) -> str:
    return urlsplit(url).netloc


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
    handler: Handler, code: str, preview_engine: PreviewEngine
) -> None:
    host = host_of(await preview_engine.expose(handler))
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
        async with make_engine() as engine:
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


def answers_once(received: list[bytes]) -> Handler:
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
    url = await preview_engine.expose(answers_once(received))
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


async def test_client_that_leaves_after_its_upload_frees_its_visit(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await preview_engine.expose(silence())
    async with preview_engine.open("POST", url, body=b"content"):
        await preview_engine.settle()
        assert preview_engine.runtime.statistics().visits == 1
    await trio.sleep(HALF_CLOSED_GRACE_S + 1)

    assert preview_engine.runtime.statistics().visits == 0


async def test_client_that_pipelines_without_end_is_held_up(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    client = preview_engine.connect(unbuffered=True)
    await client.send_request("GET", "/", host_of(await preview_engine.expose(silence())))
    sent = 0
    with trio.move_on_after(60):
        while True:
            await client.send(b"x" * 1024)
            sent += 1024
    # What the kernel holds by itself comes on top.
    held = 16 * 1024 if preview_engine.sockets else 2048
    assert READ_AHEAD_BYTES_MAX <= sent <= READ_AHEAD_BYTES_MAX + held


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

    url = await preview_engine.expose(respond(headers=[("Connection", "close")]))
    await preview_engine.get(url)
    preview_engine.container().handlers[8080] = silence()
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
    url = await preview_engine.expose(answers_once(received))
    await preview_engine.get(url)

    async def refuse(_run: FakeRun, port: int) -> trio.abc.HalfCloseableStream:
        raise NotListeningError(port, [("memory", "connection refused")])

    monkeypatch.setattr(FakeRun, "dial", refuse)
    assert (await preview_engine.get(url)).code == "NOT_LISTENING"


async def test_head_of_the_service_has_limits_of_its_own(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(options=Options(response_timeout_s=3)) as engine:
        url = await engine.expose(slow_head(10))
        assert b"within 3 s" in (await engine.get(url)).body
