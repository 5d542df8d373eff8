"""Many connections at once: each as fast as it is answered, or all together at a rate.

At a rate, requests have their times on a timetable, and a latency counts from the time on it. When the server falls
behind, what waits for a free connection waits for the server, and a test that began its clock at the sending would not
show it ("coordinated omission").
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import h11
import trio

from proxy.loadtest.client import Dial, LoadConnection, LoadFailureError
from proxy.loadtest.tally import Failure, Tally

CONNECTIONS_MAX: Final = 4096
"""More sockets than that want more descriptors than most shells allow."""

GRACE_S: Final = 2.0
"""What requests under way get once the time is up."""

PAUSE_S: Final = 0.05
"""After a failure, before the next request of the same connection."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much load, and for how long."""

    connections: int
    duration_s: float | None = None
    requests: int | None = None
    """Stop after so many; at least one of the two is given."""
    rate: float | None = None
    """Requests a second, of all connections together; None: as fast as they go."""
    timeout_s: float = 30.0
    """For a complete answer, connecting included."""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: With what makes no sense.
        """
        if not 1 <= self.connections <= CONNECTIONS_MAX:
            raise ValueError(f"--connections goes from 1 to {CONNECTIONS_MAX}")
        if self.duration_s is None and self.requests is None:
            raise ValueError("a test ends: say --duration or --requests")
        for name, value in (
            ("--duration", self.duration_s),
            ("--requests", self.requests),
            ("--rate", self.rate),
            ("--timeout", self.timeout_s),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} is more than 0")


async def drive(plan: Plan, request: h11.Request, dial: Dial, tally: Tally) -> None:
    """Load until the plan is fulfilled, or until cancelled; `tally` has what happened either way."""
    start = trio.current_time()
    end = start + plan.duration_s if plan.duration_s is not None else float("inf")
    times = _timetable(plan, start)
    with trio.move_on_at(end + GRACE_S):
        async with trio.open_nursery() as nursery:
            for _ in range(plan.connections):
                nursery.start_soon(_work, plan, times, end, LoadConnection(dial, request), tally)


def _timetable(plan: Plan, start: float) -> Iterator[float | None]:
    """Yield when each request is due, one after the other; None for at once."""
    numbers = itertools.count() if plan.requests is None else iter(range(plan.requests))
    return (None if plan.rate is None else start + number / plan.rate for number in numbers)


async def _work(
    plan: Plan, times: Iterator[float | None], end: float, connection: LoadConnection, tally: Tally
) -> None:
    """Send what is next on the timetable, again and again, over one connection."""
    async with connection:
        # One timetable for all: whoever is free takes the next.
        for due in times:
            if due is not None:
                if due >= end:
                    return
                await trio.sleep_until(due)
            now = trio.current_time()
            if now >= end:
                return
            await _ask(connection, plan.timeout_s, now if due is None else due, tally)


async def _ask(connection: LoadConnection, timeout_s: float, began: float, tally: Tally) -> None:
    tally.under_way += 1
    answer = None
    failure = Failure.TIMEOUT
    with trio.move_on_after(timeout_s) as timeout:
        try:
            answer = await connection.ask()
        except LoadFailureError as error:
            # Expected: what a load test is there to find. The report says how many.
            failure = error.failure
    # Not in a `finally`: what is cancelled here stays under way, and the report says so.
    tally.under_way -= 1
    if answer is not None:
        tally.answered(answer.status, trio.current_time() - began, answer.content_bytes)
    else:
        tally.failed(failure)
        if not timeout.cancelled_caught:
            # A server that refuses at once would otherwise be asked as fast as this machine can.
            await trio.sleep(PAUSE_S)
