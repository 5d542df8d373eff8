"""A client connection without a task: what it carries, when either side is slow or leaves, and its handing over.

What holds for every connection is tested on both ways by test_connection.py, test_passage.py and their like. Here is
what is a lane's own: it begins where a connection to the service has been kept.
"""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_trio
import trio
import trio.testing

from actors.testing.containers import Handler
from proxy.connection import First
from proxy.core.body import ChunkedBody
from proxy.lane import RECEIVE_BYTES_MAX, Lane, Phase
from proxy.options import Options
from proxy.passage import Passage
from proxy.router import ROUND_S
from proxy.testing import Asked, Caller, Client, CutOffError, PreviewEngine, mirror, respond, service
from proxy.testing import preview_engine as make_engine
from proxy.tunnel import Tunnel
from proxy.upstream import Pool

FLOOD = 16 * 1024 * 1024
"""More than sockets hold."""
GRACE_S = 5 + ROUND_S


def host_of(url: str) -> str:
    return urlsplit(url).netloc


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def engine() -> AsyncIterator[PreviewEngine]:
    async with make_engine(sockets=True) as engine:
        yield engine
        await engine.aclose()
        # Nothing is waited for but the end of what is kept.
        assert len(engine.router._pump) == len(engine.router._pool)


async def open_lane(engine: PreviewEngine, handler: Handler) -> tuple[Client, str]:
    """Expose `handler`, let a connection to it be kept, and return a client and the host to ask for."""
    host = host_of(await engine.expose(handler))
    client = engine.connect()
    await client.send_request("GET", "/warm", host)
    await client.read_response()
    await engine.settle()
    assert len(engine.router._pool) == 1
    return client, host


def lane_of(engine: PreviewEngine) -> Lane:
    [lane] = engine.router._connections
    assert isinstance(lane, Lane)
    return lane


def warm_then(answer: Handler | None = None) -> Handler:
    """Answer the first request plainly, and give the connection to `answer` from the second on."""

    async def handle(stream: trio.abc.HalfCloseableStream) -> None:
        caller = Caller(stream)
        await caller.next_request()
        await caller.respond(200, b"warm")
        if answer is None:
            return
        received = b""
        while b"\r\n\r\n" not in received:
            data = await stream.receive_some()
            if not data:
                return
            received += data
        await answer(stream)

    return handle


async def silent(_stream: trio.abc.HalfCloseableStream) -> None:
    await trio.sleep_forever()


async def test_request_that_finds_a_kept_connection_is_carried_without_a_task(
    engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, host = await open_lane(engine, mirror())

    async def broken(*_: object) -> None:
        raise AssertionError("a task was used")

    monkeypatch.setattr(Passage, "run", broken)
    for number in range(3):
        await client.send_request("GET", f"/{number}", host)
        assert f'"target": "/{number}"'.encode() in (await client.read_response()).body
    assert engine.container().dials.total() == 1


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 5\r\n\r\n'),
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nhello"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhello"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        ("GET", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n"),
        ("GET", b"SSH-2.0-OpenSSH\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello"),
    ],
)
async def test_answer_is_the_same_with_a_task_and_without(
    method: str, version: str, answer: bytes, engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def say(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(answer)

    async def hear(caller: Caller, _asked: Asked) -> None:
        await caller.send_raw(answer)
        await trio.aclose_forcefully(caller.stream)

    request = f"{method} / HTTP/{version}\r\nHost: {{}}\r\nConnection: close\r\n\r\n"
    client, host = await open_lane(engine, warm_then(say))
    await client.send(request.format(host).encode())
    without_task = await client.read_to_end()
    other = engine.connect()
    host = host_of(await engine.expose(service(hear), port=8081))
    await other.send(request.format(host).encode())
    with_task = await other.read_to_end()
    assert without_task == with_task.replace(b"8081", b"8080")
    assert without_task


async def test_slow_reader_holds_up_its_service_and_gets_everything(engine: PreviewEngine) -> None:
    sent = 0

    async def flood(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % FLOOD)
        while sent < FLOOD:
            await stream.send_all(b"x" * 65536)
            sent += 65536

    client, host = await open_lane(engine, warm_then(flood))
    await client.send_request("GET", "/", host)
    await engine.settle()
    held_up = sent
    assert 0 < held_up < FLOOD // 4
    lane = lane_of(engine)
    assert lane._outlet.unsent is not None
    assert len(lane._outlet.unsent) <= RECEIVE_BYTES_MAX
    await client.read_head()
    # Some room makes some way, and no more than that.
    for _ in range(10):
        await client.read_some()
        await engine.settle()
    assert held_up < sent < FLOOD // 2
    while await client.read_some():
        pass
    assert sent == FLOOD
    assert engine.runtime.statistics().visits == 0


async def test_service_that_ends_while_its_reader_is_slow_keeps_nobody_busy(engine: PreviewEngine) -> None:
    length = 2 * 1024 * 1024

    async def flood(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * length)

    client, host = await open_lane(engine, warm_then(flood))
    await client.send_request("GET", "/", host)
    # A pump that is told of the end again and again would never come to rest.
    with trio.fail_after(10):
        await engine.settle()
        assert lane_of(engine)._outlet.unsent is not None
        received = 0
        await client.read_head()
        while data := await client.read_some():
            received += len(data)
            await engine.settle()
    assert received == length


async def test_client_that_leaves_a_slow_service_ends_its_visit(engine: PreviewEngine) -> None:
    client, host = await open_lane(engine, warm_then(silent))
    await client.send_request("GET", "/", host)
    await engine.settle()
    assert engine.runtime.statistics().visits == 1
    await client.aclose()
    await engine.settle()
    engine.assert_at_rest()
    assert len(engine.router._pool) == 0


async def test_client_that_leaves_in_the_middle_of_its_answer_ends_it(engine: PreviewEngine) -> None:
    ended = trio.Event()

    async def begin(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        assert not await stream.receive_some()
        ended.set()

    client, host = await open_lane(engine, warm_then(begin))
    await client.send_request("GET", "/", host)
    await client.read_head()
    await client.aclose()
    await ended.wait()
    await engine.settle()
    engine.assert_at_rest()


async def test_client_that_ends_its_direction_gets_an_answer_that_comes_soon(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(stream: trio.abc.HalfCloseableStream) -> None:
        await trio.sleep(4)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    client, host = await open_lane(engine, warm_then(answer))
    await client.send_request("GET", "/", host)
    await client.send_eof()
    assert (await client.read_response()).body == b"hello"
    assert await client.receive() == b""


async def test_client_that_ends_its_direction_is_not_waited_for_longer(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    client, host = await open_lane(engine, warm_then(silent))
    await client.send_request("GET", "/", host)
    await client.send_eof()
    began = trio.current_time()
    with pytest.raises(CutOffError):
        await client.read_response()
    assert 5 <= trio.current_time() - began <= GRACE_S
    engine.assert_at_rest()


async def test_client_that_ended_its_direction_may_read_as_slowly_as_it_likes(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    length = 2 * 1024 * 1024

    async def flood(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length)

    client, host = await open_lane(engine, warm_then(flood))
    await client.send_request("GET", "/", host)
    await client.send_eof()
    await client.read_head()
    received = len(await client.read_some())
    await trio.sleep(60)
    while data := await client.read_some():
        received += len(data)
    assert received == length


async def test_pipelined_request_waits_for_the_answer_before_it(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(caller: Caller, asked: Asked) -> None:
        await trio.sleep(1 if asked.target == "/slow" else 0)
        await caller.respond(200, asked.target.encode())

    client, host = await open_lane(engine, service(answer))
    await client.send_request("GET", "/slow", host)
    await engine.settle()
    for target in ("/2", "/3"):
        await client.send_request("GET", target, host)
    await client.send_eof()
    assert [(await client.read_response()).body for _ in range(3)] == [b"/slow", b"/2", b"/3"]
    assert await client.receive() == b""


async def test_tiny_chunks_are_not_piled_up(engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = 200_000

    async def flood(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await stream.send_all(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")

    waiting: list[int] = []
    feed = ChunkedBody.feed

    def measured(self: ChunkedBody, data: bytes) -> tuple[bytes, int]:
        waiting.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(ChunkedBody, "feed", measured)
    client, host = await open_lane(engine, warm_then(flood))
    await client.send_request("GET", "/", host)
    assert (await client.read_response()).body == b"x" * chunks
    assert max(waiting) <= RECEIVE_BYTES_MAX + 65536


async def test_end_that_comes_with_tiny_chunks_is_not_taken_for_a_break(engine: PreviewEngine) -> None:
    chunks = 50_000

    async def flood(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        await stream.send_all(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")

    client, host = await open_lane(engine, warm_then(flood))
    await client.send_request("GET", "/", host)
    assert (await client.read_response()).body == b"x" * chunks


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_kept_connection_that_ends_without_an_answer_is_tried_again_where_nobody_could_notice(
    method: str, engine: PreviewEngine
) -> None:
    async def hang_up(_stream: trio.abc.HalfCloseableStream) -> None:
        await trio.lowlevel.checkpoint()

    client, host = await open_lane(engine, warm_then(hang_up))
    await client.send_request(method, "/", host)
    response = await client.read_response()
    if method == "GET":
        assert response.body == b"warm"
        assert engine.container().dials.total() == 2
    else:
        assert response.code == "UPSTREAM_CLOSED"
        assert engine.container().dials.total() == 1


async def test_service_that_takes_too_long_is_a_timeout_and_the_connection_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with make_engine(sockets=True, options=Options(response_timeout_s=10)) as engine:
        client, host = await open_lane(engine, warm_then(silent))
        began = trio.current_time()
        await client.send_request("GET", "/", host)
        assert (await client.read_response()).code == "UPSTREAM_TIMEOUT"
        assert 10 <= trio.current_time() - began <= 10 + ROUND_S
        await client.send_request("GET", "/", host)
        assert (await client.read_response()).body == b"warm"


@pytest.mark.parametrize("kept", [False, True])
async def test_cut_while_an_interim_response_is_half_sent_puts_no_answer_into_it(
    kept: bool, engine: PreviewEngine
) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </%s>\r\n" % (b"a" * 40_000) + b"\r\n"

    async def hint(stream: trio.abc.HalfCloseableStream) -> None:
        for _ in range(8):
            await stream.send_all(hints)
        await trio.sleep_forever()

    async def hint_at_once(caller: Caller, _asked: Asked) -> None:
        await hint(caller.stream)

    host = host_of(await engine.expose(warm_then(hint) if kept else service(hint_at_once)))
    if kept:
        await engine.get(f"https://{host}/")
    client = engine.connect(unbuffered=True)
    await client.send_request("GET", "/", host)
    await engine.settle()
    assert await (await engine.sandbox()).unexpose_port(8080) == 1
    received = await client.read_to_end()
    assert b"HTTP/1.1 103" in received
    assert b"INVALID_TOKEN" not in received


@pytest.mark.parametrize("where", ["proxy.reception.Reception.prepare", "proxy.lane.write_events"])
async def test_bug_is_told_to_the_client_and_costs_nothing_else(
    where: str, engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    client, host = await open_lane(engine, respond(b"hello"))
    with monkeypatch.context() as patch:
        patch.setattr(where, broken)
        await client.send_request("GET", "/", host)
        assert (await client.read_response()).code == "INTERNAL"
    assert [event["error"] for event in logged if event["log_level"] == "error"] == ["ValueError"]
    assert engine.runtime.statistics().visits == 0
    await client.send_request("GET", "/", host)
    assert (await client.read_response()).body == b"hello"


async def test_bug_in_the_middle_of_an_answer_breaks_it_off(
    engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    client, host = await open_lane(engine, respond(b"hello"))
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "put_nowait", broken)
        await client.send_request("GET", "/", host)
        assert (await client.read_response()).body == b"hello"
        assert await client.receive() == b""
    assert len([event for event in logged if event["log_level"] == "error"]) == 1


@pytest.mark.parametrize("phase", [Phase.HEAD, Phase.ANSWER, Phase.LINGER, Phase.TASK, Phase.TUNNEL])
@pytest.mark.parametrize("blow", ["cut", "abort", "drain"])
async def test_blow_in_every_phase_leaves_nothing(
    blow: str, phase: Phase, engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def switch(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n")
        await trio.sleep_forever()

    async def close(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 204 No Content\r\n\r\n")

    after = {Phase.TUNNEL: switch, Phase.LINGER: close}.get(phase, silent)
    client, host = await open_lane(engine, warm_then(after))
    lane = lane_of(engine)
    match phase:
        case Phase.ANSWER:
            await client.send_request("GET", "/", host)
        case Phase.LINGER:
            await client.send_request("GET", "/", host, headers=[("Connection", "close")])
            # It lingers only where more has come.
            await client.send(b"more")
        case Phase.TASK:
            await client.send_request("POST", "/", host, body=b"content")
        case Phase.TUNNEL:
            await client.send_request("GET", "/", host, headers=[("Connection", "upgrade"), ("Upgrade", "raw")])
            await client.read_head()
    await engine.settle()
    assert lane._phase is phase
    if blow == "drain":
        await engine.router.drain(3)
    else:
        # A tunnel has taken the lane's place.
        [holder] = engine.router._connections
        holder.cut() if blow == "cut" else holder.abort()
        await trio.sleep(4)
    engine.assert_at_rest()
    assert len(engine.router._pump) == len(engine.router._pool)
    assert lane.stream.socket.fileno() == -1
    if blow == "cut" and phase in (Phase.ANSWER, Phase.TASK):
        assert (await client.read_response()).code == "SHUTTING_DOWN"


@pytest.mark.parametrize("blow", ["cut", "abort"])
async def test_whoever_accepted_it_ends_its_tunnel_by_the_lane_too(
    blow: str, engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    """`Router.handle` knows the lane alone, whatever has become of it."""

    async def switch(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n")
        await trio.sleep_forever()

    client, host = await open_lane(engine, warm_then(switch))
    lane = lane_of(engine)
    await client.send_request("GET", "/", host, headers=[("Connection", "upgrade"), ("Upgrade", "raw")])
    await client.read_head()
    await engine.settle()
    [tunnel] = engine.router._connections
    assert isinstance(tunnel, Tunnel)
    lane.cut() if blow == "cut" else lane.abort()
    assert await client.receive() == b""
    # Leave of a client that was cut is taken until it has gone.
    await trio.sleep(4)
    engine.assert_at_rest()


@pytest.mark.parametrize("verdict", ["admitted", "refused"])
async def test_cut_before_the_task_of_a_handed_over_request_begins_is_told(
    verdict: str, engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    client, host = await open_lane(engine, mirror())
    lane, start = lane_of(engine), Lane._hand_over
    asked = engine.container().dials.total()

    def struck(self: Lane, first: First | None) -> None:
        start(self, first)
        lane.cut()

    monkeypatch.setattr(Lane, "_hand_over", struck)
    # Either leaves the lane's own way: the kept connection is gone, or its content takes a task.
    if verdict == "admitted":
        monkeypatch.setattr(Pool, "take_nowait", lambda *_: None)
        await client.send_request("GET", "/", host)
    else:
        await client.send_request("POST", "/", "8080-no-such-k3v9x0q2m7t1z8aa.example.com", body=b"x")
    response = await client.read_response()
    assert (response.status, response.code) == (503, "SHUTTING_DOWN")
    assert await client.read_to_end() == b""
    await trio.sleep(4)
    engine.assert_at_rest()
    assert engine.container().dials.total() == asked


@pytest.mark.parametrize("blow", ["stop", "abort"])
async def test_blow_in_the_moment_of_a_switch_is_not_lost(
    blow: str, engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def switch(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n")
        await trio.sleep_forever()

    client, host = await open_lane(engine, warm_then(switch))
    lane, written = lane_of(engine), Passage._written

    def struck(self: Passage, events: list[object]) -> bytes:
        out = written(self, events)  # type: ignore[arg-type]  # passed on
        self.stop() if blow == "stop" else lane.abort()
        return out

    monkeypatch.setattr(Passage, "_written", struck)
    await client.send_request("GET", "/", host, headers=[("Connection", "upgrade"), ("Upgrade", "raw")])
    with trio.fail_after(10):
        await client.read_to_end()
    await trio.sleep(4)
    engine.assert_at_rest()
