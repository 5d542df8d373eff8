"""Callers, and the whole runtime, are cancelled at every step that any task takes.

What must hold whenever it comes: no visit is left that nobody ends, no run, nobody waits for ever, memory is what
the log says, and the next call works.
"""

import contextlib
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.errors import PorticoError
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, RuntimeStatistics, open_runtime
from actors.sandbox.admission import VisitRequest
from actors.sandbox.events import decode
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.state import SandboxState, fold
from actors.surroundings import Limits
from actors.testing.containers import FakeContainers, fake_containers
from actors.visits import Visit

NAME = SandboxId("my-app")
KNOCK = VisitRequest(Port(8080), PortToken("secret"))
STEPS_MAX = 2_000
"""More than any of the scenarios takes; a bound for a loop that would otherwise not end if it hung."""

Scenario = Callable[[Runtime], Awaitable[None]]


class CancelAt(trio.abc.Instrument):
    """Cancels a scope before the so-and-so-many-th step of any task, counted from `begin` to `end`."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._left = step
        self._counting = False

    def begin(self) -> None:
        self._counting = True

    def end(self) -> bool:
        """Count no more; return whether it came to cancelling."""
        self._counting = False
        return self.scope.cancel_called

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._counting:
            if self._left == 0:
                self.scope.cancel()
            self._left -= 1


async def visit(runtime: Runtime) -> None:
    admitted = await runtime.admit(NAME, KNOCK)
    if isinstance(admitted, Visit):
        admitted.on_cut(lambda _: admitted.end())
        try:
            await trio.lowlevel.checkpoint()
        finally:
            admitted.end()


async def execute(runtime: Runtime) -> None:
    await (await runtime.find_sandbox(NAME)).exec("printf hello; printf oops >&2; exit 3")


async def create(runtime: Runtime) -> None:
    await runtime.get_sandbox("another")


async def expose(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).expose_port(9090)


async def retoken(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).expose_port(8080, token="another")


async def unexpose(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).unexpose_port(8080)


async def drain(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).unexpose_port(8080, drain=5)


async def gate(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).set_preview_auth()


async def stop(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).stop()


async def destroy(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).destroy()


async def destroy_and_create(runtime: Runtime) -> None:
    await (await runtime.get_sandbox(NAME)).destroy()
    await runtime.get_sandbox(NAME)


async def rest(_runtime: Runtime) -> None:
    await trio.sleep(Limits().rest_after_s * 3)


SCENARIOS = (
    visit,
    execute,
    create,
    expose,
    retoken,
    unexpose,
    drain,
    gate,
    stop,
    destroy,
    destroy_and_create,
    rest,
)


async def prepare(runtime: Runtime, *, awake: bool) -> Visit | None:
    """Make a sandbox with an exposed port; awake, with a visit whose holder ends it when told."""
    await (await runtime.get_sandbox(NAME)).expose_port(8080, token="secret")
    if not awake:
        return None
    admitted = await runtime.admit(NAME, KNOCK)
    assert isinstance(admitted, Visit)
    admitted.on_cut(lambda _: admitted.end())
    return admitted


async def kept(store: MemoryStore) -> SandboxState | None:
    """Return what the log says."""
    if not store.exists(NAME):
        return None
    records = (await store.read(NAME)).records
    return fold(decode(record.name, record.version, record.fields) for record in records)


def all_ended(containers: FakeContainers) -> bool:
    runs = [container.run for container in containers.made.values()]
    return all(run is None or run._ended.is_set() for run in runs)


async def settle() -> None:
    """Let everything happen that happens by itself, the end of a drain included."""
    await trio.sleep(6)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_cancelled_caller_leaves_nothing_behind(scenario: Scenario, awake: bool) -> None:
    async def main(cancel: CancelAt) -> bool:
        store, containers = MemoryStore(), fake_containers()
        async with open_runtime(store, containers={"process": containers}, clock=trio.current_time) as runtime:
            held = await prepare(runtime, awake=awake)
            await wait_all_tasks_blocked()
            cancel.begin()
            with cancel.scope:
                await scenario(runtime)
            cancelled = cancel.end()
            await settle()
            if held is not None:
                held.end()
            assert runtime.statistics().visits == 0
            # The next call works, and agrees with the log.
            with trio.fail_after(1):
                sandbox = await runtime.get_sandbox(NAME)
                assert await sandbox.state() == await kept(store)
                await sandbox.destroy()
                await (await runtime.get_sandbox(NAME)).expose_port(8080)
        assert all_ended(containers)
        return cancelled

    for step in range(STEPS_MAX):
        cancel = CancelAt(step)
        if not trio.run(main, cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel]):
            return
    raise AssertionError("it never ended by itself")


@pytest.mark.parametrize("awake", [False, True])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_cancelled_runtime_leaves_nothing_running_and_a_log_that_holds_what_was_acknowledged(
    scenario: Scenario, awake: bool
) -> None:
    async def main(cancel: CancelAt) -> bool:
        store, containers = MemoryStore(), fake_containers()
        done: list[Scenario] = []
        seen: list[Runtime] = []
        outside: list[str] = []

        async def call_from_outside(runtime: Runtime) -> None:
            """Callers that are not in the block must get an answer all the same."""
            with contextlib.suppress(PorticoError):
                # Not `get_sandbox`, which would make a destroyed one anew.
                await (await runtime.find_sandbox(NAME)).expose_port(9090)
            with contextlib.suppress(PorticoError):
                await visit(runtime)
            outside.append("answered")

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                with cancel.scope:
                    async with open_runtime(store, containers={"process": containers}) as runtime:
                        seen.append(runtime)
                        await prepare(runtime, awake=awake)
                        cancel.begin()
                        nursery.start_soon(call_from_outside, runtime)
                        await scenario(runtime)
                        done.append(scenario)
                cancelled = cancel.end()
        assert outside == ["answered"]
        assert all_ended(containers)
        (runtime,) = seen
        assert runtime.statistics() == RuntimeStatistics(actors=0, visits=0, runs=0)
        check_kept(done, await kept(store))
        async with open_runtime(store, containers={"process": fake_containers()}) as runtime:
            sandbox = await runtime.get_sandbox(NAME)
            assert await sandbox.state() == await kept(store)
        return cancelled

    for step in range(STEPS_MAX):
        cancel = CancelAt(step)
        if not trio.run(main, cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel]):
            return
    raise AssertionError("it never ended by itself")


def check_kept(done: list[Scenario], state: SandboxState | None) -> None:
    """Hold the log to what was acknowledged, of what nobody else has touched."""
    if destroy in done:
        assert state is None
        return
    if state is None:
        return
    if unexpose in done or drain in done:
        assert 8080 not in state.ports
    if gate in done:
        assert state.auth is not None
    if stop in done:
        assert state.status == "stopped"
    if retoken in done:
        assert state.ports[Port(8080)].token == PortToken("another")
