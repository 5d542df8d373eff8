"""Every operation that a sandbox's life does on its disk goes wrong once, in every way.

What must hold whatever happens: nobody waits for ever; what was acknowledged is true, now and after a power cut;
what was refused has happened as a whole or not at all; nothing leaves an actor before it is on the disk; and once
the disk works again, so does the sandbox.
"""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from actors.errors import PorticoError
from actors.filestore import FileStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import VisitRequest
from actors.sandbox.events import decode
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.state import SandboxState, fold, restore
from actors.store import History
from actors.surroundings import Limits
from actors.testing.containers import fake_containers
from actors.testing.memoryfiles import Keep, MemoryFiles
from actors.testing.storage import Fault, FaultyFiles
from actors.visits import Visit

NAME = SandboxId("my-app")
PORTS = (2001, 2002, 2003)

# Worker threads do not stop trio's clock: it runs a thousand times as fast, instead of jumping.
RATE = 1000.0
FOREVER_S = 60 * RATE
"""A minute for people."""

LIMITS = Limits(compact_records=5, compact_bytes=1)


class Told:
    """What the owner was told about its ports and its sandbox."""

    def __init__(self) -> None:
        self.exposed: dict[int, bool | None] = dict.fromkeys(PORTS, False)
        """{port: whether it is exposed; None: it was not told}."""
        self.exists: bool | None = False

    async def expose(self, runtime: Runtime, port: int) -> None:
        self.exposed[port] = None
        await (await runtime.find_sandbox(NAME)).expose_port(port, token=f"token{port}")
        self.exposed[port] = True

    async def unexpose(self, runtime: Runtime, port: int) -> None:
        self.exposed[port] = None
        await (await runtime.find_sandbox(NAME)).unexpose_port(port)
        self.exposed[port] = False

    async def destroy(self, runtime: Runtime) -> None:
        self.exists = None
        await (await runtime.find_sandbox(NAME)).destroy()
        self.exists = False

    def check(self, state: SandboxState | None) -> None:
        if state is None:
            assert not self.exists, "a sandbox that was acknowledged is gone"
            return
        assert self.exists is not False, "a destruction that was acknowledged did not happen"
        for port, exposed in self.exposed.items():
            assert exposed is None or (port in state.ports) == exposed, f"port {port} was told to be otherwise"


async def scenario(runtime: Runtime, told: Told, store: FileStore) -> None:
    """A sandbox's life. Every step that fails is left at that, and the next is tried."""

    async def attempt(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except PorticoError:
            return

    async def create() -> None:
        told.exists = None
        await runtime.get_sandbox(NAME)
        told.exists = True

    async def visit() -> None:
        visit = await runtime.admit(NAME, VisitRequest(Port(2001), PortToken("token2001")))
        if isinstance(visit, Visit):
            # The output gate: what the visit leans on can be read from the disk.
            kept = state_in(await store.read(NAME))
            assert kept is not None
            assert kept.run_id == visit.run.run_id
            visit.end()

    await attempt(create)
    await attempt(lambda: told.expose(runtime, 2001))
    await attempt(lambda: told.expose(runtime, 2002))
    await attempt(visit)
    await attempt(lambda: told.unexpose(runtime, 2002))
    await attempt(lambda: told.expose(runtime, 2003))
    await attempt(visit)
    if told.exists is not False:
        await attempt(lambda: told.destroy(runtime))


def state_in(history: History) -> SandboxState | None:
    state = None
    if history.snapshot is not None:
        state = restore(history.snapshot.version, history.snapshot.fields)
    return fold((decode(record.name, record.version, record.fields) for record in history.records), state)


async def live(files: FaultyFiles, told: Told, index: int | None, fault: Fault) -> int:
    """Run the scenario, then ask with a disk that works again; return how many operations the scenario did."""
    store = FileStore("/data", files=files)
    with trio.fail_after(FOREVER_S):
        async with open_runtime(store, containers={"process": fake_containers()}, limits=LIMITS) as runtime:
            # From here on: that a folder cannot be opened is no affair of an actor's.
            files.mend()
            if index is not None:
                files.break_at(index, fault)
            await scenario(runtime, told, store)
            operations = len(files.operations)
            files.mend()
            await look(runtime, told, store)
    return operations


async def look(runtime: Runtime, told: Told, store: FileStore) -> None:
    """Check that the sandbox answers, and as it was told."""
    if not runtime.exists(NAME):
        told.check(None)
        return
    while True:
        try:
            state = await (await runtime.find_sandbox(NAME)).state()
        except PorticoError as error:
            if error.code == "SANDBOX_NOT_FOUND":
                told.check(None)
                return
            # Quarantined: the time has to be served.
            await trio.sleep(5)
            continue
        told.check(state)
        assert state_in(await store.read(NAME)) == state
        return


def run_with(index: int | None, fault: Fault) -> tuple[int, Told]:
    """Run it all with one operation going wrong, and then a power cut.

    Returns:
        How many operations there were, and what the owner was told.
    """
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    told = Told()

    async def after_a_power_cut() -> None:
        store = FileStore("/data", files=disk.crash(Keep.NOTHING))
        async with open_runtime(store, containers={"process": fake_containers()}) as runtime:
            await look(runtime, told, store)

    operations = trio.run(live, files, told, index, fault, clock=MockClock(rate=RATE))
    assert disk.open_count == 0
    trio.run(after_a_power_cut, clock=MockClock(rate=RATE))
    return operations, told


OPERATIONS, UNDISTURBED = run_with(None, Fault.DEAD)


def test_undisturbed_everything_is_acknowledged() -> None:
    assert OPERATIONS >= 15
    assert UNDISTURBED.exposed == {2001: True, 2002: False, 2003: True}
    assert UNDISTURBED.exists is False


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("index", range(OPERATIONS))
def test_whatever_goes_wrong_on_the_disk_the_owner_was_told_the_truth(index: int, fault: Fault) -> None:
    run_with(index, fault)
