"""Every operation that a store does on its disk goes wrong once, in every way; and the power is cut at each.

What must hold whatever happens: a record that was acknowledged is there, an append is there as a whole or not at
all, the log is never corrupt, and the store can go on.
"""

from collections.abc import Awaitable, Callable

import pytest

from actors.core.record import SECTOR_BYTES, Tail
from actors.errors import PorticoError
from actors.filestore import FileStore
from actors.sandbox.ids import SandboxId
from actors.store import Entry, History
from actors.testing.memoryfiles import Keep, MemoryFiles
from actors.testing.storage import Fault, FaultyFiles

SANDBOX = SandboxId("my-app")
FOLDER = "/data"


def entries(*numbers: int) -> list[Entry]:
    return [Entry(float(number), "Numbered", 1, {"number": number}) for number in numbers]


class Told:
    """What the caller of the store was told, and what it tried."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        """Numbers of records whose append returned."""
        self.in_doubt: list[list[int]] = []
        """Appends that raised: each is there as a whole or not at all."""
        self.buried = False
        """True once a burial returned."""
        self.burial_in_doubt = False
        self.compacting = False

    def check(self, history: History) -> None:
        found: list[object] = []
        if history.snapshot is not None:
            numbers = history.snapshot.fields["numbers"]
            assert isinstance(numbers, list)
            found += numbers
        found += [record.fields["number"] for record in history.records]
        if self.buried:
            assert found == []
            return
        if self.burial_in_doubt and not found:
            return
        possible = list(self.acknowledged)
        for batch in self.in_doubt:
            if all(number in found for number in batch):
                possible += batch
        assert found == sorted(possible), f"acknowledged {self.acknowledged}, in doubt {self.in_doubt}"
        assert history.sequence == len(found)


Scenario = Callable[[FileStore, Told], Awaitable[None]]


async def append(store: FileStore, told: Told, *numbers: int) -> None:
    """Claim and append; a failure is noted and raised."""
    tenure = await store.claim(SANDBOX)
    try:
        await store.append(tenure, entries(*numbers))
    except PorticoError:
        told.in_doubt.append(list(numbers))
        raise
    told.acknowledged += numbers
    await store.release(tenure)


async def appends(store: FileStore, told: Told) -> None:
    await append(store, told, 1)
    await append(store, told, 2, 3, 4)
    await append(store, told, 5)


async def compaction(store: FileStore, told: Told) -> None:
    await append(store, told, 1, 2)
    tenure = await store.claim(SANDBOX)
    await store.compact(tenure, Entry(9.0, "", 1, {"numbers": [1, 2]}))
    await append(store, told, 3)


async def burial(store: FileStore, told: Told) -> None:
    await append(store, told, 1)
    tenure = await store.claim(SANDBOX)
    try:
        await store.bury(tenure)
    except PorticoError:
        told.burial_in_doubt = True
        raise
    told.buried = True


SCENARIOS: list[Scenario] = [appends, compaction, burial]


async def count_operations(scenario: Scenario) -> int:
    files = FaultyFiles(MemoryFiles())
    async with FileStore(FOLDER, files=files) as store:
        files.mend()
        await scenario(store, Told())
        return len(files.operations)


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_fault_at_every_operation_loses_nothing_acknowledged(scenario: Scenario, fault: Fault) -> None:
    total = await count_operations(scenario)
    assert total > 3
    for index in range(total):
        disk = MemoryFiles()
        files = FaultyFiles(disk)
        told = Told()
        async with FileStore(FOLDER, files=files) as store:
            files.break_at(index, fault)
            try:
                await scenario(store, told)
            except PorticoError:
                pass
            else:
                # Room that could not be cut off is as good, and nobody's affair.
                assert files.operations[index].kind == "truncate", f"operation {index} failed and nobody was told"
            files.mend()
            # In the same process, twice, so that the second claim builds on what the first left.
            tenure = await store.claim(SANDBOX)
            assert tenure.history is not None
            told.check(tenure.history)
            if not told.buried and tenure.history.sequence:
                told.burial_in_doubt = False
            await store.append(tenure, entries(90))
            assert (await store.read(SANDBOX)).records[-1].fields == {"number": 90}
            after = await store.read(SANDBOX)
            gone = told.buried or told.burial_in_doubt
        # And whatever the recovered store acknowledged outlives a power cut: no failed sync was believed.
        for keep in Keep:
            async with FileStore(FOLDER, files=disk.crash(keep)) as store:
                assert await store.read(SANDBOX) == after, (index, keep)
                if gone:
                    buried = [report.scan.history for report in await store.buried(SANDBOX)]
                    assert [history.sequence for history in buried] == [1], (index, keep)
        assert disk.open_count == 0


@pytest.mark.parametrize("keep", list(Keep))
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_power_cut_at_every_operation_loses_nothing_acknowledged(scenario: Scenario, keep: Keep) -> None:
    total = await count_operations(scenario)
    for index in range(total + 1):
        disk = MemoryFiles()
        files = FaultyFiles(disk)
        told = Told()
        survivor: MemoryFiles | None = None
        async with FileStore(FOLDER, files=files) as store:
            files.break_at(index, Fault.DEAD)
            try:
                await scenario(store, told)
            except PorticoError:
                assert index < total
            survivor = disk.crash(keep)
        async with FileStore(FOLDER, files=survivor) as store:
            tenure = await store.claim(SANDBOX)
            assert tenure.history is not None
            told.check(tenure.history)
            await store.append(tenure, entries(90))
        async with FileStore(FOLDER, files=survivor.crash(Keep.NOTHING)) as store:
            assert (await store.read(SANDBOX)).records[-1].fields == {"number": 90}


def chosen(mask: int) -> Callable[[int], bool]:
    return lambda number: bool(mask >> number & 1)


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("padding", [0, 300, 420, 470])
async def test_power_cut_may_leave_any_sectors_of_the_append_under_way(room: bool, padding: int) -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    text = "x" * (600 if room else 4000)
    appended = [Entry(float(number), "Numbered", 1, {"number": number, "text": text}) for number in (2, 3)]
    async with FileStore(FOLDER, files=files) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [Entry(1.0, "Numbered", 1, {"number": 1, "text": "p" * padding})])
        before = disk.crash(Keep.NOTHING).read((await store.report(SANDBOX)).path)
        files.break_at(0, Fault.DEAD, kind="write_at")
        with pytest.raises(PorticoError):
            await store.append(tenure, appended)
        path = (await store.report(SANDBOX)).path
        after = disk.crash(Keep.ALL).read(path)
    assert (len(before) == len(after)) is room
    changed = sum(
        before[at : at + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0") != after[at : at + SECTOR_BYTES]
        for at in range(0, len(after), SECTOR_BYTES)
    )
    every = 2**changed - 1
    # Every choice where they are few; otherwise each sector as the only one, and as the only one missing.
    masks = (
        range(every + 1) if room else [*(1 << n for n in range(changed)), *(every - (1 << n) for n in range(changed))]
    )
    for mask in masks:
        survivor = disk.crash(arrives=chosen(mask))
        async with FileStore(FOLDER, files=survivor) as store:
            tenure = await store.claim(SANDBOX)
            numbers = [1, 2, 3] if mask == every else [1]
            assert tenure.history is not None
            assert [record.fields["number"] for record in tenure.history.records] == numbers, mask
            await store.append(tenure, entries(90))
        async with FileStore(FOLDER, files=survivor.crash(Keep.NOTHING)) as store:
            assert (await store.read(SANDBOX)).records[-1].fields == {"number": 90}
            assert (await store.report(SANDBOX)).scan.tail is Tail.CLEAN


@pytest.mark.parametrize("keep", list(Keep))
async def test_power_cut_while_a_torn_tail_is_mended_loses_nothing(keep: Keep) -> None:
    disk = MemoryFiles()
    async with FileStore(FOLDER, files=disk) as store:
        await append(store, Told(), 1, 2)
        await append(store, Told(), 3)
        report = await store.report(SANDBOX)
    fd = disk.open_durable(report.path)
    disk.truncate(fd, report.scan.used_length - 5)
    disk.sync(fd)
    disk.close(fd)
    index = 0
    while True:
        files = FaultyFiles(disk.crash(Keep.ALL))
        assert isinstance(files.files, MemoryFiles)
        async with FileStore(FOLDER, files=files) as store:
            files.break_at(index, Fault.DEAD)
            try:
                await store.claim(SANDBOX)
            except PorticoError:
                finished = False
            else:
                finished = True
            survivor = files.files.crash(keep)
        async with FileStore(FOLDER, files=survivor) as store:
            await store.claim(SANDBOX)
            assert [record.fields["number"] for record in (await store.read(SANDBOX)).records] == [1, 2]
        if finished:
            break
        index += 1
    assert index > 3


@pytest.mark.parametrize("fault", [Fault.DISK_ERROR, Fault.DISK_FULL, Fault.DEAD])
async def test_store_that_cannot_be_opened_leaves_no_lock(fault: Fault) -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    for index in (0, 1, 2, 3, 100, 260, 261, 262):
        files.break_at(index, fault)
        with pytest.raises(PorticoError):
            async with FileStore(FOLDER, files=files):
                pytest.fail(f"operation {index} failed and nobody was told")
        assert disk.open_count == 0
        disk = MemoryFiles()
        files = FaultyFiles(disk)
