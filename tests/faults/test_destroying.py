"""A sandbox with custom hostnames is destroyed while something fails at every step: none is lost, none inherited.

What must hold after each failure, and after a crash at each step: a sandbox that is still there has its hostnames, and
one that is not leaves none to the next of its name.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from actors.errors import AppendFailedError, PorticoError, StoreError
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.ids import Port, SandboxId
from actors.store import Entry, Tenure
from actors.testing.containers import fake_containers

NAMES = ("a.my-app.com", "b.my-app.com")
SANDBOX = SandboxId("mine")
STEPS_MAX = 12
"""More than destroying takes; the last of them fail nothing, which the test of the steps checks."""


class Stumbling(MemoryStore):
    """Fails at one step, or at it and at all that come after it, as the end of the process would."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        """Steps until it fails; None: it does not."""
        self.for_good = False
        self.written = False
        """Whether the step that fails is taken all the same."""
        self.failed: list[str] = []

    def _stumbles(self, what: str) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        fails = self.left < 0 if self.for_good else self.left == -1
        if fails:
            self.failed.append(what)
        return fails

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        stumbles = self._stumbles(f"{entries[0].name}")
        if not stumbles or (self.written and len(self.failed) == 1):
            await super().append(tenure, entries)
        if stumbles:
            raise AppendFailedError("the disk is on fire")

    async def claim(self, sandbox: SandboxId) -> Tenure:
        if self._stumbles("claim"):
            raise StoreError("the disk is on fire")
        return await super().claim(sandbox)

    async def bury(self, tenure: Tenure) -> None:
        stumbles = self._stumbles("bury")
        if not stumbles or (self.written and len(self.failed) == 1):
            await super().bury(tenure)
        if stumbles:
            raise StoreError("the disk is on fire")

    def heal(self) -> None:
        self.left = None


@asynccontextmanager
async def running(store: MemoryStore) -> AsyncIterator[Runtime]:
    async with open_runtime(store, containers={"fake": fake_containers()}) as runtime:
        yield runtime


async def prepare(store: MemoryStore) -> None:
    """Make a sandbox with two verified hostnames, and one that is asked for; and somebody else with one."""
    async with running(store) as runtime:
        for name, hostnames in ((SANDBOX, NAMES), ("other", ("other.my-app.com",))):
            sandbox = await runtime.get_sandbox(name, container="fake")
            await sandbox.expose_port(8080, hostname="example.com")
            for hostname in hostnames:
                await runtime.domains.verify(await sandbox.bind_domain(hostname, Port(8080)))
        await (await runtime.find_sandbox(SANDBOX)).bind_domain("asked.my-app.com", Port(8080))


async def check(runtime: Runtime) -> bool:
    """Say whether the sandbox is still there; it has all of its hostnames then, and else leaves none to the next."""
    there = True
    try:
        sandbox = await runtime.find_sandbox(SANDBOX)
    except PorticoError:
        there = False
        sandbox = await runtime.get_sandbox(SANDBOX, container="fake")
    expected = [*NAMES, "asked.my-app.com"] if there else []
    assert sorted(one.hostname for one in sandbox.get_domains()) == sorted(expected)
    assert [name for name in NAMES if runtime.domains.find(name) is not None] == (list(NAMES) if there else [])
    assert runtime.domains.find("other.my-app.com") is not None
    return there


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("crash", [False, True])
async def test_failure_at_each_step_of_destroying_loses_no_hostname_and_leaves_none(
    crash: bool, written: bool, autojump_clock: trio.testing.MockClock
) -> None:
    stumbled: list[str] = []
    outcomes: set[bool] = set()
    for step in range(STEPS_MAX):
        store = Stumbling()
        await prepare(store)
        store.written, store.for_good = written, crash
        with suppress(PorticoError):
            async with running(store) as runtime:
                await runtime.find_sandbox(SANDBOX)
                store.left = step
                with suppress(PorticoError):
                    await (await runtime.find_sandbox(SANDBOX)).destroy()
                stumbled += store.failed[:1]
                assert step < STEPS_MAX - 1 or not store.failed, "there are more steps than are tried"
                if not crash:
                    store.heal()
                    # Quarantine and back-off, if it comes to that, are over by then.
                    await trio.sleep(3600)
                    outcomes.add(await check(runtime))
        store.heal()
        if crash:
            async with running(store) as runtime:
                outcomes.add(await check(runtime))
    assert outcomes == ({False} if written else {True, False})
    assert {"sandbox_destroyed", "domain_unbound", "bury"} <= {*stumbled}


async def test_destroy_that_failed_can_be_repeated_until_nothing_is_left() -> None:
    for step in range(STEPS_MAX):
        store = Stumbling()
        await prepare(store)
        async with running(store) as runtime:
            sandbox = await runtime.find_sandbox(SANDBOX)
            store.left = step
            with suppress(PorticoError):
                await sandbox.destroy()
            assert step < STEPS_MAX - 1 or not store.failed, "there are more steps than are tried"
            store.heal()
        async with running(store) as runtime:
            with suppress(PorticoError):
                await (await runtime.find_sandbox(SANDBOX)).destroy()
            assert not await check(runtime)
