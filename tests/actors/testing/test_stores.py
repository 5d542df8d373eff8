"""The check of stores finds each broken promise that a store could plausibly break."""

from collections.abc import Sequence

import pytest
import trio

from actors.errors import FencedError
from actors.memorystore import MemoryStore
from actors.sandbox.ids import SYSTEM, SandboxId
from actors.store import Entry, History, Record, Tenure
from actors.testing.stores import check_store


class ForgetsFencing(MemoryStore):
    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        self._logs[tenure.sandbox].tenure = tenure
        if self.exists(tenure.sandbox):
            tenure.sequence = (await self.read(tenure.sandbox)).sequence
        await super().append(tenure, entries)


class RepeatsEpochs(MemoryStore):
    async def claim(self, sandbox: SandboxId) -> Tenure:
        tenure = await super().claim(sandbox)
        tenure.epoch = 1
        return tenure


class WritesOnClaim(MemoryStore):
    def exists(self, sandbox: SandboxId) -> bool:
        return sandbox in self._logs


class AppendsOneByOne(MemoryStore):
    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        for entry in entries:
            await super().append(tenure, [entry])


class LosesTheSecondRecord(MemoryStore):
    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        await super().append(tenure, entries[:1])


class RenumbersAfterCompaction(MemoryStore):
    async def compact(self, tenure: Tenure, snapshot: Entry) -> None:
        await super().compact(tenure, snapshot)
        tenure.sequence += 1


class BuriesNothing(MemoryStore):
    async def bury(self, tenure: Tenure) -> None:
        await self.release(tenure)


class RoundsTimes(MemoryStore):
    async def read(self, sandbox: SandboxId) -> History:
        history = await super().read(sandbox)
        return History(
            history.snapshot,
            tuple(
                Record(r.sequence, r.epoch, float(int(r.time)), r.name, r.version, r.fields) for r in history.records
            ),
        )


class AcknowledgesWhatIsFenced(MemoryStore):
    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        try:
            await super().append(tenure, entries)
        except FencedError:
            await trio.lowlevel.checkpoint()


class ForgetsWhenClosed(MemoryStore):
    async def __aexit__(self, *_details: object) -> None:
        await trio.lowlevel.checkpoint()
        self._logs.clear()


class ListsUnsorted(MemoryStore):
    async def sandboxes(self) -> Sequence[SandboxId]:
        return (await super().sandboxes())[::-1]


class ListsWhatIsNoSandbox(MemoryStore):
    async def sandboxes(self) -> Sequence[SandboxId]:
        return sorted([*await super().sandboxes(), SYSTEM])


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsFencing,
        RepeatsEpochs,
        WritesOnClaim,
        AppendsOneByOne,
        LosesTheSecondRecord,
        RenumbersAfterCompaction,
        BuriesNothing,
        RoundsTimes,
        AcknowledgesWhatIsFenced,
        ForgetsWhenClosed,
        ListsUnsorted,
        ListsWhatIsNoSandbox,
    ],
)
async def test_broken_store_is_found_out(broken: type[MemoryStore]) -> None:
    store = broken()
    with pytest.raises(AssertionError, match="promise is broken"):
        await check_store(lambda: store)
