"""An exchange that is struck at any moment leaves nothing behind: no visit, no stream, no connection out of step.

Each scenario is run again and again, struck after the first step of any task, after the second, and so on until it
gets through unharmed. Three kinds of blow: the connection is cancelled, its client leaves, its port is taken back. All
of it over streams in memory, and over sockets, which the router carries in another way.
"""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import trio
import trio.abc
import trio.testing

from actors.testing.containers import FakeRun, socket_stream_pair
from proxy.testing import Asked, Caller, Client, CutOffError, PreviewEngine, preview_engine, service
from proxy.transport import SocketTransport

STEPS_MAX = 1000
"""More than any scenario here takes."""


class Tracked(trio.abc.HalfCloseableStream):
    """A connection to the service that knows whether it was closed."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self.stream.aclose()


class Stage:
    """The engine with one client connection, which a test can strike."""

    def __init__(self, engine: PreviewEngine, url: str) -> None:
        self.engine = engine
        self.url = url
        self.host = urlsplit(url).netloc
        self.scope = trio.CancelScope()
        self.routers: trio.abc.HalfCloseableStream
        if engine.sockets:
            near, far = socket_stream_pair()
            self.client, self.routers = Client(near), SocketTransport.take_over(far)
        else:
            ours, self.routers = trio.testing.memory_stream_pair()
            self.client = Client(ours)
        self.dialled: list[Tracked] = []
        self.taken_over: list[SocketTransport] = []

    async def handle(self) -> None:
        with self.scope:
            await self.engine.router.handle(self.routers, scheme="https")

    async def ask(self, method: str, target: str, *, body: bytes | None = None) -> None:
        """Make a request and check that its answer is the one to it."""
        await self.client.send_request(method, target, self.host, body=body)
        response = await self.client.read_response(method)
        # A port that was taken back meanwhile has its own answer.
        assert response.body == target.encode() or response.code in ("INVALID_TOKEN", "UPSTREAM_CLOSED"), response


Scenario = Callable[[Stage], Awaitable[None]]
Blow = Callable[[Stage], Awaitable[None]]


async def name_target(caller: Caller, asked: Asked) -> None:
    """The service: answers with what was asked for, in the way that its path wants."""
    if asked.target == "/raw":
        await caller.send_raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n")
        while data := await caller.stream.receive_some():
            await caller.send_raw(bytes(data))
    elif asked.target == "/stream":
        await caller.begin()
        for letter in asked.target:
            await caller.send(letter.encode())
        await caller.end()
    elif asked.target == "/early":
        await caller.respond(200, b"/early")
    else:
        await caller.read_all()
        await caller.respond(200, asked.target.encode())


async def two_gets(stage: Stage) -> None:
    await stage.ask("GET", "/1")
    await stage.ask("GET", "/2")


async def upload(stage: Stage) -> None:
    await stage.ask("POST", "/1", body=b"content")
    await stage.client.send(f"POST /2 HTTP/1.1\r\nHost: {stage.host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(3):
        await stage.client.send(b"3\r\nabc\r\n")
    await stage.client.send(b"0\r\n\r\n")
    await stage.client.read_response("POST")


async def early_answer(stage: Stage) -> None:
    await stage.client.send(f"POST /early HTTP/1.1\r\nHost: {stage.host}\r\nContent-Length: 9\r\n\r\nsome".encode())
    await stage.client.read_response("POST")


async def expectation(stage: Stage) -> None:
    head = f"POST /1 HTTP/1.1\r\nHost: {stage.host}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    await stage.client.send(head.encode())
    if b" 100 " in await stage.client.receive():
        await stage.client.send(b"data")
        await stage.client.read_response("POST")


async def stream(stage: Stage) -> None:
    await stage.ask("GET", "/stream")


async def upgrade(stage: Stage) -> None:
    head = f"GET /raw HTTP/1.1\r\nHost: {stage.host}\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n"
    await stage.client.send(head.encode())
    if (await stage.client.read_head()).status == 101:
        await stage.client.send(b"bytes")
        assert await stage.client.receive() in (b"bytes", b"")
        await stage.client.send_eof()
        assert await stage.client.receive() == b""


async def stale_connection(stage: Stage) -> None:
    await stage.ask("GET", "/1")
    for tracked in stage.dialled:
        # As if the service had closed it in the moment it is reached for.
        await trio.aclose_forcefully(tracked.stream)
        tracked.stream, theirs = trio.testing.memory_stream_pair()
        await trio.aclose_forcefully(theirs)
    for transport in stage.taken_over:
        with suppress(OSError):
            transport.socket.shutdown(socket.SHUT_WR)
    await stage.ask("GET", "/2")


async def refusals(stage: Stage) -> None:
    await stage.client.send_request("GET", "/", "elsewhere.net")
    await stage.client.read_response()
    await stage.client.send(b"nonsense\r\n\r\n")
    await stage.client.read_response()


async def cancel(stage: Stage) -> None:
    stage.scope.cancel()


async def leave(stage: Stage) -> None:
    await stage.client.aclose()


async def unexpose(stage: Stage) -> None:
    await (await stage.engine.sandbox()).unexpose_port(8080)
    assert stage.engine.runtime.statistics().visits == 0


class StrikeAfter(trio.abc.Instrument):
    """Sets an event after a number of task steps, counted from `begin`."""

    def __init__(self, steps: int) -> None:
        self.struck = trio.Event()
        self._left: int | None = None
        self._steps = steps

    def begin(self) -> None:
        self._left = self._steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left is None:
            return
        self._left -= 1
        if self._left == 0:
            self._left = None
            self.struck.set()


async def play(scenario: Scenario, blow: Blow, sockets: bool, instrument: StrikeAfter) -> bool:
    """Play a scenario, strike it, check what is left. True if it was over before the blow."""
    dialled: list[Tracked] = []
    taken_over: list[SocketTransport] = []
    dial, take_over = FakeRun.dial, SocketTransport.take_over

    def tracked_take_over(stream: trio.SocketStream) -> SocketTransport:
        transport = take_over(stream)
        taken_over.append(transport)
        return transport

    async def tracked_dial(run: FakeRun, port: int) -> trio.abc.HalfCloseableStream:
        tracked = Tracked(await dial(run, port))
        dialled.append(tracked)
        return tracked

    async with preview_engine(sockets=sockets) as engine:
        url = await engine.expose(service(name_target))
        stage = Stage(engine, url)
        stage.dialled, stage.taken_over = dialled, taken_over
        with pytest.MonkeyPatch.context() as patch:
            if sockets:
                patch.setattr(SocketTransport, "take_over", tracked_take_over)
            else:
                patch.setattr(FakeRun, "dial", tracked_dial)
            unharmed = await act(scenario, blow, instrument, stage)
            assert engine.runtime.statistics().visits == 0
            assert engine.router.connections == 0
            with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                await stage.routers.send_all(b"is it closed?")
            kept = [upstream.stream for idle in engine.router._pool._idle.values() for upstream in idle]
            assert all(tracked.closed or tracked in kept for tracked in dialled)
            assert all(transport.socket.fileno() == -1 or transport in kept for transport in taken_over)
            assert len(engine.router._pump) == (len(kept) if sockets else 0)
            await check_next_requests(engine)
        return unharmed


async def act(scenario: Scenario, blow: Blow, instrument: StrikeAfter, stage: Stage) -> bool:
    unharmed = False

    async def perform() -> None:
        nonlocal unharmed
        # What a client sees when it is struck; or it has left itself.
        with suppress(CutOffError, trio.BrokenResourceError, trio.ClosedResourceError):
            await scenario(stage)
            unharmed = not instrument.struck.is_set()
        performed.set()

    async def strike() -> None:
        await instrument.struck.wait()
        await blow(stage)

    performed = trio.Event()
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.handle)
            nursery.start_soon(perform)
            nursery.start_soon(strike)
            instrument.begin()
            await performed.wait()
            await stage.client.aclose()
            while stage.engine.router.connections:  # noqa: ASYNC110  # the watchman's rounds take virtual time
                await trio.sleep(1)
            await stage.engine.settle()
            nursery.cancel_scope.cancel()
    return unharmed


async def check_next_requests(engine: PreviewEngine) -> None:
    """Check that each of some requests gets its own answer, over whatever connections were kept."""
    url = await engine.expose()
    for number in range(3):
        response = await engine.get(f"{url}next-{number}")
        assert (response.status, response.body) == (200, b"/next-%d" % number)


@pytest.mark.parametrize("sockets", [False, True], ids=["memory", "sockets"])
@pytest.mark.parametrize("blow", [cancel, leave, unexpose])
@pytest.mark.parametrize(
    "scenario", [two_gets, upload, early_answer, expectation, stream, upgrade, stale_connection, refusals]
)
def test_blow_at_any_moment_leaves_nothing_behind(scenario: Scenario, blow: Blow, sockets: bool) -> None:
    for steps in range(1, STEPS_MAX):
        instrument = StrikeAfter(steps)
        unharmed = trio.run(
            play,
            scenario,
            blow,
            sockets,
            instrument,
            clock=trio.testing.MockClock(autojump_threshold=0),
            instruments=[instrument],
        )
        if unharmed:
            assert steps > 10
            return
    raise AssertionError("the scenario never got through")
