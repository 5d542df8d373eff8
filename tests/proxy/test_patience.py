"""Streams on which nothing moves: let go after their time, on either way; and those that flow, or rest, are not."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from proxy.options import Options
from proxy.patience import Patience, untaken
from proxy.router import ROUND_S
from proxy.testing import Asked, Caller, Client, CutOffError, PreviewEngine, echo, respond, service
from tests.proxy.ways import OpenEngine

LIMIT_S = 300.0
SOON_S = LIMIT_S + 3 * ROUND_S
FLOOD = 8 * 1024 * 1024
"""More than sockets hold."""
UPGRADE = [("Connection", "upgrade"), ("Upgrade", "raw")]
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n"


def host_of(url: str) -> str:
    return urlsplit(url).netloc


# The watch itself.


def test_what_stands_is_out_of_time_after_the_limit_and_not_before() -> None:
    patience = Patience(10)
    assert [patience.is_out((1,), now) for now in (100, 109.9, 110, 111)] == [False, False, True, True]


def test_whatever_moves_or_rests_begins_its_time_anew() -> None:
    patience = Patience(10)
    marks = [((1,), 0), ((2,), 9), ((2,), 18), (None, 19), ((2,), 20), ((2,), 29)]
    assert not any(patience.is_out(mark, now) for mark, now in marks)
    assert patience.is_out((2,), 30)


def test_no_limit_is_never_reached() -> None:
    patience = Patience(float("inf"))
    assert not patience.is_out((1,), 0)
    assert not patience.is_out((1,), 1e12)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_kernel_says_how_much_is_untaken(family: socket.AddressFamily) -> None:
    if family == socket.AF_INET:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Room for less than is sent, or its kernel would take all of it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    else:
        ours, theirs = socket.socketpair()
    with ours, theirs:
        assert untaken(ours) == 0
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 65536)
        before = untaken(ours)
        assert before > 0
        theirs.setblocking(False)
        with suppress(BlockingIOError):
            while theirs.recv(65536):
                pass
        assert untaken(ours) < before
    assert untaken(ours) == 0


# Clients that take nothing.


async def flood(caller: Caller, asked: Asked) -> None:
    """Answer with more than anybody has room for, and plainly where that is asked."""
    if asked.target == "/plain":
        await caller.respond(200, b"plain")
        return
    await caller.begin(200)
    with suppress(trio.BrokenResourceError):
        for _ in range(FLOOD // 65536):
            await caller.send(b"x" * 65536)
    await trio.sleep_forever()


def visits(engine: PreviewEngine) -> int:
    return engine.runtime.statistics().visits


async def asked_for_flood(engine: PreviewEngine, *, kept: bool) -> Client:
    """Return a client to whom more is being sent than it reads; over a kept connection to the service or a new one."""
    host = host_of(await engine.expose(service(flood)))
    client = engine.connect(unbuffered=True)
    if kept:
        await client.send_request("GET", "/plain", host)
        assert (await client.read_response()).body == b"plain"
        await engine.settle()
    await client.send_request("GET", "/", host)
    return client


@pytest.mark.parametrize("kept", [False, True])
async def test_client_that_takes_nothing_of_its_answer_is_let_go(
    kept: bool, open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine:
        await asked_for_flood(engine, kept=kept)
        await trio.sleep(LIMIT_S - 5)
        assert visits(engine) == 1
        await trio.sleep(SOON_S - LIMIT_S + 5)
        engine.assert_at_rest()


@pytest.mark.parametrize("kept", [False, True])
async def test_client_that_takes_a_little_now_and_then_is_not(
    kept: bool, open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine:
        client = await asked_for_flood(engine, kept=kept)
        for _ in range(10):
            await trio.sleep(LIMIT_S - 5)
            assert await client.stream.receive_some()
        assert visits(engine) == 1


async def test_client_that_stops_after_having_read_is_let_go(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine:
        client = await asked_for_flood(engine, kept=True)
        for _ in range(5):
            await trio.sleep(LIMIT_S - 5)
            assert await client.stream.receive_some()
        await trio.sleep(SOON_S)
        engine.assert_at_rest()


async def test_limit_may_be_lifted(open_engine: OpenEngine, autojump_clock: trio.testing.MockClock) -> None:
    async with open_engine(options=Options(stalled_timeout_s=float("inf"))) as engine:
        await asked_for_flood(engine, kept=False)
        await trio.sleep(10 * LIMIT_S)
        assert visits(engine) == 1


async def test_service_that_has_nothing_to_say_has_no_limit(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def quiet(caller: Caller, _asked: Asked) -> None:
        await caller.begin(200)
        await caller.send(b"one")
        await trio.sleep(100 * LIMIT_S)
        await caller.send(b"two")

    async with open_engine() as engine, engine.open("GET", await engine.expose(service(quiet))) as client:
        await client.read_head()
        assert [await client.read_some(), await client.read_some()] == [b"one", b"two"]


# Clients that owe content.


async def test_client_that_owes_content_and_sends_none_is_told_and_let_go(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine:
        host = host_of(await engine.expose(respond(b"done")))
        client = engine.connect()
        await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n".encode())
        await trio.sleep(LIMIT_S - 5)
        await client.send(b"hello")
        await trio.sleep(LIMIT_S - 5)
        assert visits(engine) == 1
        response = await client.read_response()
        assert (response.status, response.code) == (408, "REQUEST_TIMEOUT")
        assert response.header("connection") == "close"
        assert visits(engine) == 0
        assert await client.read_to_end() == b""


async def test_client_that_owes_content_of_an_answer_that_has_begun_is_cut_off(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine:
        host = host_of(await engine.expose(echo()))
        client = engine.connect()
        await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nhello".encode())
        await client.read_head()
        assert await client.read_some() == b"hello"
        with pytest.raises(CutOffError):
            await client.read_some()
        assert LIMIT_S <= trio.current_time() <= SOON_S


async def test_client_that_owes_content_while_its_answer_flows_is_not_let_go(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def tick(caller: Caller, _asked: Asked) -> None:
        await caller.begin(200)
        for _ in range(10):
            await trio.sleep(LIMIT_S - 5)
            await caller.send(b"tick")

    async with open_engine() as engine:
        host = host_of(await engine.expose(service(tick)))
        client = engine.connect()
        await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\nhello".encode())
        await client.read_head()
        for _ in range(10):
            assert await client.read_some() == b"tick"


# Upgraded connections.


@asynccontextmanager
async def upgraded(
    engine: PreviewEngine, after: Callable[[trio.abc.HalfCloseableStream], object]
) -> AsyncIterator[Client]:
    """Return a client that has switched protocols with a service, which then does as `after` says."""

    async def switch(caller: Caller, _asked: Asked) -> None:
        await caller.send_raw(SWITCHED)
        with suppress(trio.BrokenResourceError):
            await after(caller.stream)  # type: ignore[misc]  # an async function
        await trio.sleep_forever()

    host = host_of(await engine.expose(service(switch)))
    client = engine.connect(unbuffered=True)
    await client.send_request("GET", "/", host, headers=UPGRADE)
    await client.read_head()
    yield client


async def floods(stream: trio.abc.HalfCloseableStream) -> None:
    for _ in range(FLOOD // 65536):
        await stream.send_all(b"x" * 65536)


async def reads_nothing(_stream: trio.abc.HalfCloseableStream) -> None:
    await trio.sleep_forever()


async def test_upgraded_client_that_takes_nothing_is_let_go(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine, upgraded(engine, floods):
        await trio.sleep(LIMIT_S - 5)
        assert visits(engine) == 1
        await trio.sleep(SOON_S - LIMIT_S + 5)
        engine.assert_at_rest()


async def test_upgraded_client_that_takes_a_little_now_and_then_is_not(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine, upgraded(engine, floods) as client:
        for _ in range(10):
            await trio.sleep(LIMIT_S - 5)
            assert await client.stream.receive_some()
        assert visits(engine) == 1


async def test_service_that_takes_nothing_of_an_upgraded_connection_is_let_go(
    open_engine: OpenEngine, sockets: bool, autojump_clock: trio.testing.MockClock
) -> None:
    if not sockets:
        pytest.skip("a stream in memory to a service has room without end")
    async with open_engine() as engine, upgraded(engine, reads_nothing) as client:
        with trio.move_on_after(LIMIT_S - 5):
            await client.send(b"x" * FLOOD)
        assert visits(engine) == 1
        await trio.sleep(SOON_S - LIMIT_S + 5)
        engine.assert_at_rest()


async def test_upgraded_connection_at_rest_has_no_limit(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine, upgraded(engine, reads_nothing):
        await trio.sleep(100 * LIMIT_S)
        assert visits(engine) == 1
