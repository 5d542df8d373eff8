"""Connections to services: whose they are, for how long they are kept, and that none is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from actors import ContainerContext, NotListeningError, Port, SandboxId, Visit
from actors.sandbox.admission import Grant
from actors.testing.containers import fake_containers, socket_stream_pair
from actors.visits import VisitBook
from proxy.pump import Pump
from proxy.transport import SocketTransport
from proxy.upstream import IDLE_MAX, IDLE_PER_PORT_MAX, Pool, Upstream, connect

PORT = Port(8080)


@dataclass(eq=False)
class CountingStream(trio.abc.HalfCloseableStream):
    """Knows whether it was closed."""

    closed: bool = False
    sent: list[bytes] = field(default_factory=list)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


def upstream(run_id: str = "run-a", port: Port = PORT) -> tuple[Upstream, CountingStream]:
    stream = CountingStream()
    return Upstream((run_id, port), stream), stream


def visit(dial: object, run_id: str = "run-a") -> Visit:
    """A visit whose run has no other side than `dial`."""
    return VisitBook().open(Grant(PORT, run_id, 1, None), dial)  # type: ignore[arg-type]  # all that is used of a run


async def test_kept_connection_serves_the_next_request_to_the_same_run_and_port() -> None:
    pool = Pool(4)
    kept, stream = upstream()
    await pool.put(kept)

    assert await pool.take("run-b", PORT) is None
    assert await pool.take("run-a", Port(8081)) is None
    assert await pool.take("run-a", PORT) is kept
    assert await pool.take("run-a", PORT) is None
    assert not stream.closed
    assert len(pool) == 0


async def test_most_recently_used_connection_is_taken_first() -> None:
    pool = Pool(4)
    first, second = upstream()[0], upstream()[0]
    await pool.put(first)
    await pool.put(second)

    assert await pool.take("run-a", PORT) is second


async def test_connection_is_not_used_after_its_idle_time(autojump_clock: trio.testing.MockClock) -> None:
    pool = Pool(4)
    kept, stream = upstream()
    await pool.put(kept)
    await trio.sleep(4)

    assert await pool.take("run-a", PORT) is None
    assert stream.closed


async def test_sweep_closes_what_was_idle_for_too_long_and_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pool = Pool(4)
    streams = []
    for run_id in ("run-a", "run-a", "run-b"):
        kept, stream = upstream(run_id)
        streams.append(stream)
        await pool.put(kept)
        await trio.sleep(2)
    await pool.sweep()

    assert [stream.closed for stream in streams] == [True, True, False]
    assert len(pool) == 1
    assert await pool.take("run-b", PORT) is not None


async def test_sweep_while_others_take_and_put_loses_no_connection(autojump_clock: trio.testing.MockClock) -> None:
    pool = Pool(4)
    for number in range(4):
        await pool.put(upstream(f"run-{number}")[0])
    await trio.sleep(5)
    fresh = upstream("run-3")[0]

    async def use() -> None:
        await pool.take("run-3", PORT)
        await pool.put(fresh)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.sweep)
        nursery.start_soon(use)
    assert len(pool) == 1
    assert await pool.take("run-3", PORT) is fresh


async def test_enough_connections_to_one_port_are_kept_and_no_more() -> None:
    pool = Pool(4)
    streams = []
    for _ in range(IDLE_PER_PORT_MAX + 1):
        kept, stream = upstream()
        streams.append(stream)
        await pool.put(kept)

    assert [stream.closed for stream in streams] == [False] * IDLE_PER_PORT_MAX + [True]


async def test_enough_connections_in_all_are_kept_and_no_more() -> None:
    pool = Pool(4)
    for number in range(IDLE_MAX):
        await pool.put(upstream(f"run-{number}")[0])
    kept, stream = upstream("one-too-many")
    await pool.put(kept)

    assert stream.closed
    assert len(pool) == IDLE_MAX


async def test_closed_pool_has_closed_everything_and_keeps_nothing() -> None:
    pool = Pool(4)
    kept, first = upstream()
    await pool.put(kept)
    await pool.aclose()
    late, second = upstream()
    await pool.put(late)

    assert first.closed
    assert second.closed
    assert len(pool) == 0


async def test_cancelled_close_closes_everything_all_the_same() -> None:
    pool = Pool(4)
    streams = []
    for number in range(3):
        kept, stream = upstream(f"run-{number}")
        streams.append(stream)
        await pool.put(kept)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pool.aclose()

    assert all(stream.closed for stream in streams)


async def test_connection_that_its_service_has_closed_is_not_taken() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        pool = Pool(4)
        dialled = await trio.testing.open_stream_to_socket_listener(listener)
        accepted = await listener.accept()
        transport = SocketTransport.take_over(dialled)
        await pool.put(Upstream(("run-a", PORT), transport))
        await accepted.aclose()
        await trio.lowlevel.wait_readable(transport.socket)

        assert await pool.take("run-a", PORT) is None
        assert transport.socket.fileno() == -1


async def test_connect_dials_through_the_run_of_the_visit() -> None:
    class Runs:
        dialled: int | None = None

        async def dial(self, port: int) -> trio.abc.HalfCloseableStream:
            self.dialled = port
            return CountingStream()

    run = Runs()
    connected = await connect(visit(run), 5)

    assert run.dialled == 8080
    assert connected.key == ("run-a", 8080)


async def test_socket_of_a_run_is_taken_over_from_trio() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    class Dials:
        async def dial(self, port: int) -> trio.SocketStream:
            return await trio.testing.open_stream_to_socket_listener(listeners[0])

    async with listeners[0]:
        connected = await connect(visit(Dials()), 5)
        assert isinstance(connected.stream, SocketTransport)
        await connected.aclose()


async def test_connect_gives_up_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    class NeverConnects:
        async def dial(self, port: int) -> trio.abc.HalfCloseableStream:
            await trio.sleep_forever()
            raise AssertionError("unreachable")

    with pytest.raises(trio.TooSlowError):
        await connect(visit(NeverConnects()), 5)
    assert trio.current_time() == 5


async def test_connect_tells_that_nothing_listens(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = fake_containers()(ContainerContext(SandboxId("my-app"), tmp_path), {})
    run = await container.start("run-a", nursery)

    with pytest.raises(NotListeningError):
        await connect(visit(run), 5)
    nursery.cancel_scope.cancel()


# Watched by a pump.


@asynccontextmanager
async def watched() -> AsyncIterator[tuple[Pool, Pump, Upstream, trio.SocketStream]]:
    """A pool with a pump, a connection that is kept in it, and the far end of that."""
    pump = Pump()
    pool = Pool(4, pump)
    near, far = socket_stream_pair()
    kept = Upstream(("run-a", PORT), SocketTransport.take_over(near))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await pool.put(kept)
        yield pool, pump, kept, far
        await pool.aclose()
        nursery.cancel_scope.cancel()
    assert not len(pump)
    kept.close()
    await trio.aclose_forcefully(far)
    pump.close()


async def test_kept_socket_is_closed_when_its_service_ends() -> None:
    async with watched() as (pool, pump, kept, far):
        await trio.aclose_forcefully(far)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(pool), len(pump), kept.socket.fileno()) == (0, 0, -1)


async def test_kept_socket_on_which_something_comes_unasked_is_closed() -> None:
    async with watched() as (pool, pump, kept, far):
        await far.send_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert (len(pool), len(pump), kept.socket.fileno()) == (0, 0, -1)


async def test_socket_taken_by_a_task_is_left_alone_by_the_pump() -> None:
    async with watched() as (pool, pump, kept, far):
        taken = await pool.take("run-a", PORT)
        assert taken is kept
        assert len(pump) == 0
        await far.send_all(b"for the task")
        assert await kept.stream.receive_some() == b"for the task"
        await pool.put(kept)
        assert (len(pump), len(pool)) == (1, 1)


async def test_socket_taken_at_once_stays_with_the_pump_which_tells_its_user() -> None:
    class Reader:
        received = b""

        def on_response(self, mask: int) -> None:
            assert mask
            self.received += kept.socket.recv(100)

        def on_bug(self) -> None:
            raise AssertionError("unreachable")

    async with watched() as (pool, pump, kept, far):
        assert pool.take_nowait("run-b", PORT) is None
        assert pool.take_nowait("run-a", PORT) is kept
        assert pool.take_nowait("run-a", PORT) is None
        kept.user = reader = Reader()
        await far.send_all(b"for the user")
        await trio.testing.wait_all_tasks_blocked()
        assert (reader.received, len(pump)) == (b"for the user", 1)
        pool.put_nowait(kept)
        assert (len(pump), len(pool)) == (1, 1)
        # A response that nobody waits for.
        await far.send_all(b"more")
        await trio.testing.wait_all_tasks_blocked()
        assert (reader.received, len(pool)) == (b"for the user", 0)


async def test_socket_that_is_one_too_many_is_closed_and_waited_for_no_more() -> None:
    async with watched() as (pool, pump, kept, _far):
        assert pool.take_nowait("run-a", PORT) is kept
        await pool.aclose()
        pool.put_nowait(kept)
        assert (len(pool), len(pump), kept.socket.fileno()) == (0, 0, -1)


async def test_dead_socket_is_not_taken_at_once_even_if_the_pump_has_not_told_of_it_yet() -> None:
    async with watched() as (pool, pump, kept, far):
        far.socket.close()
        assert pool.take_nowait("run-a", PORT) is None
        assert (len(pool), len(pump), kept.socket.fileno()) == (0, 0, -1)
