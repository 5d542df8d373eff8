"""Many connections: as many requests as were asked for, at the rate, for the time."""

import h11
import pytest
import trio
import trio.testing

from proxy.loadtest.client import build_request
from proxy.loadtest.drive import CONNECTIONS_MAX, GRACE_S, PAUSE_S, Plan, drive
from proxy.loadtest.tally import Failure, Tally
from proxy.loadtest.target import LoadTarget

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Answers every request after so many seconds of the virtual clock."""

    def __init__(self, nursery: trio.Nursery, delay_s: float = 0.0, answer: bytes = OK) -> None:
        self.delay_s = delay_s
        self.answer = answer
        self.connections = 0
        self.at_once = 0
        self.at_once_most = 0
        self.times: list[float] = []
        self._nursery = nursery

    async def dial(self) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.connections += 1
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        async with stream:
            try:
                while bytes(await stream.receive_some()):
                    self.times.append(trio.current_time())
                    self.at_once += 1
                    self.at_once_most = max(self.at_once, self.at_once_most)
                    await trio.sleep(self.delay_s)
                    self.at_once -= 1
                    await stream.send_all(self.answer)
            except trio.BrokenResourceError:
                pass  # Expected: the client went away in the middle.


@pytest.fixture
def request_() -> h11.Request:
    return build_request(LoadTarget("localhost", 80, "/"), [])


async def run(plan: Plan, peer: Peer, request: h11.Request) -> tuple[Tally, float]:
    """Drive to the end; return what was counted and how long it took."""
    tally = Tally()
    start = trio.current_time()
    await drive(plan, request, peer.dial, tally)
    return tally, trio.current_time() - start


async def test_so_many_requests_are_sent_and_no_more(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    peer = Peer(nursery, 1.0)
    tally, seconds = await run(Plan(connections=4, requests=10), peer, request_)
    assert (tally.requests, tally.content_bytes, tally.under_way, len(peer.times)) == (10, 20, 0, 10)
    # Four at a time, a second each: 4 + 4 + 2.
    assert (peer.connections, peer.at_once_most) == (4, 4)
    assert seconds == pytest.approx(3.0)


async def test_test_ends_with_its_duration_and_requests_under_way_are_answered(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    tally, seconds = await run(Plan(connections=2, duration_s=2.5), Peer(nursery, 1.0), request_)
    assert (tally.requests, tally.under_way) == (6, 0)
    assert seconds == pytest.approx(3.0)


async def test_requests_that_outlast_the_grace_are_unfinished(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    tally, seconds = await run(Plan(connections=3, duration_s=1.0), Peer(nursery, 20.0), request_)
    assert (tally.requests, tally.errors, tally.under_way) == (0, 0, 3)
    assert seconds == pytest.approx(1.0 + GRACE_S)
    nursery.cancel_scope.cancel()


async def test_rate_is_kept_by_all_connections_together(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    peer = Peer(nursery, 0.1)
    tally, _ = await run(Plan(connections=5, duration_s=10.0, rate=20.0), peer, request_)
    assert tally.requests == 200
    gaps = [later - earlier for earlier, later in zip(peer.times, peer.times[1:], strict=False)]
    assert gaps == pytest.approx([0.05] * 199)


async def test_latency_at_a_rate_counts_from_when_the_request_was_due(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    # One connection, a second each, ten due in the first second: the last is answered nine seconds late.
    tally, _ = await run(Plan(connections=1, requests=10, rate=10.0), Peer(nursery, 1.0), request_)
    assert tally.percentile_s(1.0) == pytest.approx(10 - 0.9, rel=0.02)
    assert tally.percentile_s(0.05) == pytest.approx(1.0, rel=0.02)


async def test_request_without_an_answer_in_time_is_a_failure_and_the_test_goes_on(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    peer = Peer(nursery, 5.0)
    tally, seconds = await run(Plan(connections=1, requests=2, timeout_s=1.0), peer, request_)
    assert tally.failures == {Failure.TIMEOUT: 2}
    assert seconds == pytest.approx(2.0)
    assert peer.connections == 2
    nursery.cancel_scope.cancel()


async def test_server_that_refuses_is_not_asked_as_fast_as_possible(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, request_: h11.Request
) -> None:
    async def refuse() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError

    tally = Tally()
    await drive(Plan(connections=1, duration_s=1.0), request_, refuse, tally)
    assert tally.failures[Failure.NOT_ACCEPTED] == pytest.approx(1.0 / PAUSE_S, abs=1)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"connections": 0}, "--connections"),
        ({"connections": CONNECTIONS_MAX + 1}, "--connections"),
        ({"duration_s": 0.0}, "--duration"),
        ({"duration_s": float("nan")}, "--duration"),
        ({"duration_s": float("inf")}, "--duration"),
        ({"duration_s": None}, "a test ends"),
        ({"requests": 0}, "--requests"),
        ({"rate": -1.0}, "--rate"),
        ({"timeout_s": 0.0}, "--timeout"),
    ],
)
def test_plan_that_makes_no_sense_is_refused_with_its_flag(changed: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Plan(**{"connections": 1, "duration_s": 1.0, **changed})  # type: ignore[arg-type]  # the values are the test
