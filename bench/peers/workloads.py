"""What is done to a proxy, what is counted, and what Portico is to reach. Pure.

A workload has one case or two; each case is measured by itself, on every proxy that can do it.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bench.peers import scene
from bench.peers.scene import CONNECTIONS, Heads, Preview

BODY_BYTES: Final = 64 * 2**20
IDLE: Final = 2_000
IDLE_MAX: Final = 9_000
"""The service and the load have a descriptor for each, a proxy two; 20,000 is a common limit."""
MANY: Final = 1_000
OTHERS_PER_S: Final = 500

BODY_SUM_GIB: Final = BODY_BYTES / 2**30


class Cost(Enum):
    """What a case counts."""

    REQUEST = "CPU us/request"
    MESSAGE = "CPU us/message"
    CONNECTION = "CPU us/connection"
    GIB = "CPU s/GiB"
    SOCKET = "KiB/WebSocket"

    def of(self, cpu_ns: float, done: float) -> float:
        """Give the cost of one: of so many done in so much CPU time."""
        return cpu_ns / 1e9 / (done * BODY_SUM_GIB) if self is Cost.GIB else cpu_ns / 1e3 / done


@dataclass(frozen=True)
class Goal:
    """What Portico is to reach; at least one bound."""

    text: str
    times_nginx: float | None = None
    """At most so many times nginx's cost."""
    cost: float | None = None
    """At most this cost."""
    below: str | None = None
    """Cheaper than this peer."""
    added_p50_us: float | None = None
    added_p99_us: float | None = None
    """At most so much over going to the service directly."""
    times_other: float | None = None
    """At most so many times the cost of the workload's other case, the first."""


@dataclass(frozen=True)
class Case:
    """One way of sending, and what counts."""

    name: str
    mode: str
    """Of `load.c`."""
    heads: Heads
    cost: Cost = Cost.REQUEST
    connections: int = CONNECTIONS
    number: int = 0
    """What the mode asks for: bytes of an upload, other requests a second."""
    sandboxes: int = scene.SANDBOXES
    goal: Goal | None = None


@dataclass(frozen=True)
class Workload:
    """A question, and how it is asked."""

    name: str
    about: str
    cases: tuple[Case, ...]
    only_portico: bool = False
    fresh: bool = False
    """A new process for each sample: memory that was freed is used again, and would not be seen."""


def _many(served: Sequence[Preview]) -> Iterator[bytes]:
    # One port of each: the same number of heads as there are connections.
    return scene.one_each([preview for preview in served if preview.port == served[0].port])


def _one_of_many(served: Sequence[Preview]) -> Iterator[bytes]:
    return scene.one_each(served[:1])


def workloads(idle: int = IDLE) -> tuple[Workload, ...]:
    """Give all of them, in the order in which they run."""
    down = functools.partial(scene.downloads, count=BODY_BYTES)
    up = functools.partial(scene.uploads, count=BODY_BYTES)
    bodies = Goal("at most 0.7 s of CPU per GiB", cost=0.7)
    return (
        Workload(
            "get",
            "the same GET again and again, ten browser fields, 32 connections",
            (Case("get", "requests", scene.same_heads),),
        ),
        Workload(
            "vary",
            "2,000 paths, 200 cookies, one head in ten with a line never seen",
            (Case("vary", "requests", scene.varied_heads, goal=Goal("at most 2 times nginx", times_nginx=2.0)),),
        ),
        Workload(
            "new-heads",
            "lines never seen in every head: cookie, trace, request id, path",
            (
                Case(
                    "new-heads",
                    "requests",
                    scene.new_heads,
                    goal=Goal("at most 5 times nginx, and ahead of Caddy", times_nginx=5.0, below="caddy"),
                ),
            ),
        ),
        Workload(
            "echo",
            "WebSocket messages of 32 bytes and back, 32 connections",
            (
                Case(
                    "echo",
                    "echo",
                    scene.handshakes,
                    Cost.MESSAGE,
                    goal=Goal("at most 1.7 times nginx", times_nginx=1.7),
                ),
            ),
        ),
        Workload(
            "body",
            "64 MiB bodies, one at a time",
            (
                Case("body-down", "requests", down, Cost.GIB, 1, goal=bodies),
                Case("body-up", "upload", up, Cost.GIB, 1, BODY_BYTES, goal=bodies),
            ),
        ),
        Workload(
            "connect",
            "a new connection for each GET, 32 at once",
            (
                Case(
                    "connect",
                    "connect",
                    scene.closing_heads,
                    Cost.CONNECTION,
                    goal=Goal("at most 2.5 times nginx", times_nginx=2.5),
                ),
            ),
        ),
        Workload(
            "idle-ws",
            f"{idle:,} WebSockets with nothing said",
            fresh=True,
            cases=(
                Case(
                    "idle-ws",
                    "idle",
                    scene.handshakes,
                    Cost.SOCKET,
                    idle,
                    goal=Goal("at most 2 KiB each", cost=2.0),
                ),
            ),
        ),
        Workload(
            "latency",
            f"one GET at a time, while {OTHERS_PER_S} others a second go by",
            (
                Case(
                    "latency",
                    "latency",
                    scene.varied_heads,
                    number=OTHERS_PER_S,
                    goal=Goal(
                        "p50 at most 250 us, p99 at most 1 ms over going direct",
                        added_p50_us=250.0,
                        added_p99_us=1000.0,
                    ),
                ),
            ),
        ),
        Workload(
            "many",
            f"{MANY:,} connections: to one sandbox, and to {MANY:,} of them at once",
            (
                Case("many-one", "requests", _one_of_many, connections=MANY, sandboxes=MANY),
                Case(
                    "many-all",
                    "requests",
                    _many,
                    connections=MANY,
                    sandboxes=MANY,
                    goal=Goal("at most 1.1 times one sandbox", times_other=1.1),
                ),
            ),
            only_portico=True,
        ),
    )
