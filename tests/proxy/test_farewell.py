"""Leave is taken of a client: our direction ends at once, and what it still sends is read, up to bounds."""

import socket
from collections.abc import AsyncIterator

import pytest_trio
import trio
import trio.testing

from actors.testing.containers import socket_stream_pair
from proxy.farewell import LINGER_BYTES_MAX, LINGER_S, Farewell
from proxy.pump import Pump


class Stage:
    """A client, and the farewell to it."""

    def __init__(self) -> None:
        self.client, near = socket_stream_pair()
        self.pump = Pump()
        self.socket = socket.socket(fileno=near.socket.detach())
        self.socket.setblocking(False)
        self.over = 0
        self.farewell = Farewell(self.socket, self.pump, self._on_over)

    def _on_over(self) -> None:
        self.over += 1
        self.pump.remove(self.socket)


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.pump.run)
        yield stage
        nursery.cancel_scope.cancel()
    stage.pump.close()
    stage.socket.close()
    await trio.aclose_forcefully(stage.client)


async def test_client_hears_the_end_and_may_still_send_for_a_while(stage: Stage) -> None:
    stage.farewell.start()
    assert await stage.client.receive_some() == b""
    await stage.client.send_all(b"too late")
    await trio.testing.wait_all_tasks_blocked()
    assert stage.over == 0
    await stage.client.send_eof()
    await trio.testing.wait_all_tasks_blocked()
    assert stage.over == 1


async def test_client_that_has_left_already_is_not_waited_for(stage: Stage) -> None:
    await trio.aclose_forcefully(stage.client)
    stage.farewell.start()
    await trio.testing.wait_all_tasks_blocked()
    assert stage.over == 1


async def test_client_that_sends_without_end_is_read_no_further(stage: Stage) -> None:
    stage.farewell.start()
    sent, piece = 0, b"x" * 16384
    while sent < LINGER_BYTES_MAX:
        assert stage.over == 0
        await stage.client.send_all(piece)
        sent += len(piece)
        await trio.testing.wait_all_tasks_blocked()
    assert stage.over == 1


async def test_client_that_says_nothing_has_its_time(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.farewell.start()
    began = trio.current_time()
    stage.farewell.patrol(began + LINGER_S - 0.01)
    assert stage.over == 0
    stage.farewell.patrol(began + LINGER_S)
    assert stage.over == 1


async def test_bug_is_the_end_of_it(stage: Stage) -> None:
    stage.farewell.on_bug()
    assert stage.over == 1
