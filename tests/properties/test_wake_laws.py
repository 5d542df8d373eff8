"""Whatever is done at the same time: nobody enters by what was taken back before, and nobody wakes without a right to.

Owners and visitors come one after the other without waiting for each other, at every distance that hypothesis thinks
of, on a real runtime. Credentials are never used twice, so one that was taken back is wrong for ever; it counts as
taken back once its owner has been told so.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import PorticoError
from actors.handle import Sandbox
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import VisitRequest
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.surroundings import Limits
from actors.testing.containers import FakeContainers, fake_containers
from actors.visits import Visit

NAME = SandboxId("my-app")
PORTS = (8080, 5173)
LIMITS = Limits(wakes_per_minute=10**6, wakes_per_client_per_minute=10**6)

# What is done, on which port, with which of the credentials issued so far, and after how many turns of the scheduler.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["visit", "visit", "visit", "expose", "unexpose", "rotate", "hibernate", "wake", "destroy", "run dies"]
        ),
        st.sampled_from(PORTS),
        # Counted from the newest, which is the right one, or has just been taken back.
        st.sampled_from([0, 0, 0, 1, 2, 7]),
        st.sampled_from([0, 0, 0, 1, 2, 7]),
        st.sampled_from([0, 1, 5, 50, 50]),
    ),
    min_size=5,
    max_size=60,
)
Step = tuple[str, int, int, int, int]


class World:
    """One sandbox, made anew when it was destroyed, and all that was ever issued for it."""

    def __init__(self, runtime: Runtime, containers: FakeContainers) -> None:
        self.runtime = runtime
        self.containers = containers
        self.sandbox: Sandbox | None = None
        # (port, token), oldest first
        self.port_tokens: list[tuple[int, str]] = []
        self.secrets: list[str] = []
        self.taken_back: set[str] = set()
        self.serial = 0
        self.admitted = 0

    async def open(self) -> Sandbox:
        sandbox = self.sandbox
        if sandbox is None:
            sandbox = self.sandbox = await self.runtime.get_sandbox(NAME, sleep_after=None)
            secret = self._fresh("secret-number")
            self.secrets.append(secret)
            await sandbox.set_preview_auth(secret)
        return sandbox

    def _fresh(self, what: str) -> str:
        self.serial += 1
        return f"{what}{'-' if '-' in what else '_'}{self.serial:05}"

    @property
    def starts(self) -> int:
        return sum(len(container.starts) for container in self.containers.made.values())

    async def expose(self, port: int) -> None:
        sandbox = await self.open()
        # From here to the call nothing is waited for: commands are obeyed in the order in which they are issued.
        token = self._fresh("token")
        before = [old for where, old in self.port_tokens if where == port]
        self.port_tokens.append((port, token))
        await sandbox.expose_port(port, token=token)
        self.taken_back.update(before)

    async def unexpose(self, port: int) -> None:
        sandbox = await self.open()
        before = [old for where, old in self.port_tokens if where == port]
        await sandbox.unexpose_port(port)
        self.taken_back.update(before)

    async def rotate(self) -> None:
        sandbox = await self.open()
        before = [*self.secrets]
        secret = self._fresh("secret-number")
        self.secrets.append(secret)
        await sandbox.rotate_preview_auth(token=secret)
        self.taken_back.update(before)

    async def destroy(self) -> None:
        sandbox = await self.open()
        self.sandbox = None
        before = [*self.secrets, *(token for _, token in self.port_tokens)]
        await sandbox.destroy()
        self.taken_back.update(before)

    async def visit(self, port: int, which_token: int, which_secret: int) -> None:
        await trio.lowlevel.checkpoint()
        tokens = [token for where, token in self.port_tokens if where == port] or ["nobody_s"]
        token = tokens[-1 - which_token % len(tokens)]
        secret = self.secrets[-1 - which_secret % len(self.secrets)] if self.secrets else "nobody-knows-this"
        wrong = {token, secret} & self.taken_back
        admitted = await self.runtime.admit(NAME, VisitRequest(Port(port), PortToken(token), secret.encode()))
        if isinstance(admitted, Visit):
            self.admitted += 1
            visit = admitted
            visit.on_cut(lambda _: visit.end())
            assert not wrong, f"{wrong} had been taken back before this visit began"
            visit.end()

    async def run_dies(self) -> None:
        await trio.lowlevel.checkpoint()
        container = self.containers.made.get(NAME)
        if container is not None and container.run is not None:
            container.run.end()


async def take(world: World, step: Step) -> None:
    what, port, token, secret, _ = step
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "visit": lambda: world.visit(port, token, secret),
        "expose": lambda: world.expose(port),
        "unexpose": lambda: world.unexpose(port),
        "rotate": world.rotate,
        "destroy": world.destroy,
        "run dies": world.run_dies,
    }
    try:
        if what in calls:
            await calls[what]()
        else:
            sandbox = await world.open()
            await (sandbox.hibernate() if what == "hibernate" else sandbox.wake())
    except PorticoError:
        # Refused: destroyed meanwhile, or overtaken. Nothing was acknowledged, so nothing is held against it.
        return


async def live(steps: Sequence[Step]) -> int:
    """Let it all happen, hold both laws, and return how many were let in."""
    containers = fake_containers()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(
            open_runtime(MemoryStore(), containers={"process": containers}, limits=LIMITS)
        )
        world = World(runtime, containers)
        for port in PORTS:
            await world.expose(port)
        async with trio.open_nursery() as nursery:
            for step in steps:
                nursery.start_soon(take, world, step)
                for _ in range(step[-1]):
                    await trio.lowlevel.checkpoint()
        await nobody_wakes_it_without_a_right_to(world)
        return world.admitted


async def nobody_wakes_it_without_a_right_to(world: World) -> None:
    # Whatever has become of the one that there was.
    world.sandbox = None
    sandbox = await world.open()
    await world.expose(PORTS[0])
    await world.rotate()
    token, secret = world.port_tokens[-1][1], world.secrets[-1]
    await sandbox.wake()
    await sandbox.hibernate()
    starts = world.starts
    # What a refused or overtaken call has left is right or wrong, nobody knows.
    wrong = [(port, old) for port, old in world.port_tokens if old in world.taken_back]
    for port, old in [*wrong, (PORTS[0], "guess")]:
        await world.runtime.admit(NAME, VisitRequest(Port(port), PortToken(old), secret.encode()))
    for other in (*(old for old in world.secrets if old in world.taken_back), "guess", ""):
        await world.runtime.admit(NAME, VisitRequest(Port(PORTS[0]), PortToken(token), other.encode()))
    await world.runtime.admit(NAME, VisitRequest(Port(PORTS[0]), PortToken(token), preflight=True))
    await world.runtime.admit(NAME, VisitRequest(Port(PORTS[0]), PortToken(token), secret.encode(), websocket=True))
    await world.runtime.admit(NAME, VisitRequest(Port(PORTS[0])))
    assert world.starts == starts, "it was woken by somebody who had no right to"
    visit = await world.runtime.admit(NAME, VisitRequest(Port(PORTS[0]), PortToken(token), secret.encode()))
    assert isinstance(visit, Visit)
    visit.end()
    assert world.starts == starts + 1


@pytest.mark.slow
@settings(deadline=None)
@given(STEPS)
def test_nobody_enters_by_what_was_taken_back_and_nobody_wakes_without_a_right_to(steps: list[Step]) -> None:
    trio.run(live, steps, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_laws_are_tried_on_visits_that_are_let_in() -> None:
    steps: list[Step] = [("visit", 8080, 0, 0, 50), ("hibernate", 8080, 0, 0, 50)]
    steps += [("visit", 8080, 0, 0, 0)] * 3
    assert trio.run(live, steps, clock=trio.testing.MockClock(autojump_threshold=0)) == 4
