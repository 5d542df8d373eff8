"""One log on its file: recovery, appends, compaction, and what is kept of a torn tail."""

import pytest

from actors.core.record import SECTOR_BYTES, SNAPSHOT, Tail
from actors.errors import LogCorruptError
from actors.log import ROOM_BYTES, Found, Log, examine
from actors.sandbox.ids import SandboxId
from actors.store import Entry
from actors.testing.memoryfiles import Keep, MemoryFiles
from actors.testing.storage import Fault, FaultyFiles

SANDBOX = SandboxId("my-app")
PATH = "/logs/my-app.log"


@pytest.fixture
def disk() -> MemoryFiles:
    files = MemoryFiles()
    files.make_folder("/logs")
    files.sync_folder("/")
    return files


def entry(number: int) -> Entry:
    return Entry(float(number), "Numbered", 1, {"number": number})


def opened(files: MemoryFiles | FaultyFiles, found: Found | None = None) -> Log:
    log = Log(files, PATH, SANDBOX)
    log.recover(found or Found())
    return log


def written(files: MemoryFiles | FaultyFiles, *appends: int) -> Log:
    """Open the log and append so many entries at a time."""
    log = opened(files)
    number = 0
    for count in appends:
        log.append(log.encode([entry(number + offset + 1) for offset in range(count)], epoch=1))
        number += count
    return log


def damage(files: MemoryFiles, data: bytes) -> None:
    files.remove(PATH)
    fd = files.create(PATH)
    files.write(fd, data)
    files.sync(fd)
    files.close(fd)
    files.sync_folder("/logs")


def test_recovering_a_log_that_is_not_there_writes_nothing(disk: MemoryFiles) -> None:
    opened(disk)
    assert disk.names("/logs") == []


def test_appended_records_survive_a_power_cut(disk: MemoryFiles) -> None:
    written(disk, 1, 2)
    report = examine(disk.crash(Keep.NOTHING), PATH, SANDBOX)
    assert report.scan.tail is Tail.CLEAN
    assert [record.fields["number"] for record in report.scan.records] == [1, 2, 3]


def test_log_goes_on_where_another_opening_left_it(disk: MemoryFiles) -> None:
    written(disk, 2).close()
    log = opened(disk)
    log.append(log.encode([entry(3)], epoch=2))
    records = examine(disk, PATH, SANDBOX).scan.records
    assert [(record.sequence, record.epoch) for record in records] == [(1, 1), (2, 1), (3, 2)]


def two_records(disk: MemoryFiles) -> tuple[bytes, int]:
    """Return a log of two appends, and where the second begins."""
    written(disk, 1, 1).finish()
    return disk.read(PATH), examine(disk, PATH, SANDBOX).entries[1][0]


def test_append_goes_into_the_room_and_only_a_full_room_makes_the_file_longer(disk: MemoryFiles) -> None:
    log = opened(disk)
    sizes: list[int] = []
    for number in range(1, 100):
        batch = log.encode([entry(number)], epoch=1)
        log.append(batch)
        used = log.durable_length or 0
        sizes.append(len(disk.read(PATH)))
        assert sizes[-1] == -(-used // ROOM_BYTES) * ROOM_BYTES
        assert disk.read(PATH)[used:].strip(b"\0") == b""
    assert len(set(sizes)) == 2
    report = examine(disk.crash(Keep.NOTHING), PATH, SANDBOX)
    assert (report.scan.tail, len(report.entries)) == (Tail.CLEAN, 99)
    assert report.room_bytes == report.size - report.scan.valid_length > 0


def test_append_is_one_operation_whether_the_file_grows_or_not(disk: MemoryFiles) -> None:
    files = FaultyFiles(disk)
    log = written(files, 1)
    files.mend()
    for size in (10, 5000, 10):
        log.append(log.encode([Entry(1.0, "Sized", 1, {"text": "x" * size})], epoch=1))
    assert [operation.kind for operation in files.operations] == ["write_at"] * 3


def test_finished_log_is_its_records_alone_and_goes_on(disk: MemoryFiles) -> None:
    log = written(disk, 2)
    assert len(disk.read(PATH)) > (log.durable_length or 0)
    log.finish()
    assert not log.has_room
    assert len(disk.read(PATH)) == log.durable_length
    assert disk.open_count == 0
    # The length was not synced: after a power cut the room is there again, and as good.
    assert opened(disk.crash(Keep.NOTHING)).has_room
    log.append(log.encode([entry(3)], epoch=1))
    log.close()
    log.finish()
    assert len(disk.read(PATH)) == log.durable_length
    assert len(examine(disk, PATH, SANDBOX).entries) == 3


@pytest.mark.parametrize("fault", [Fault.DISK_ERROR, Fault.HALF_THEN_ERROR])
def test_log_that_cannot_be_finished_is_closed_and_sound(disk: MemoryFiles, fault: Fault) -> None:
    files = FaultyFiles(disk)
    log = written(files, 2)
    files.break_at(0, fault, kind="truncate")
    log.finish()
    assert disk.open_count == 0
    again = opened(files)
    again.append(again.encode([entry(3)], epoch=2))
    assert len(examine(disk, PATH, SANDBOX).entries) == 3


def test_log_with_room_is_recovered_as_it_is_and_the_room_used(disk: MemoryFiles) -> None:
    written(disk, 2).close()
    size = len(disk.read(PATH))
    log = opened(disk)
    assert len(disk.read(PATH)) == size
    log.append(log.encode([entry(3)], epoch=2))
    assert len(disk.read(PATH)) == size
    assert len(examine(disk.crash(Keep.NOTHING), PATH, SANDBOX).entries) == 3


def test_torn_tail_in_the_room_is_kept_aside_without_the_room_and_zeros_follow_again(disk: MemoryFiles) -> None:
    log = written(disk, 1)
    start = log.durable_length or 0
    batch = log.encode([Entry(1.0, "Large", 1, {"text": "x" * 1000})], epoch=1)
    # Of three sectors the first and the last never arrived.
    torn = bytearray(disk.read(PATH))
    torn[SECTOR_BYTES : 2 * SECTOR_BYTES] = batch.data[SECTOR_BYTES - start : 2 * SECTOR_BYTES - start]
    damage(disk, bytes(torn))
    again = opened(disk)
    assert disk.read(f"{PATH}.torn-{start}") == torn[start : 2 * SECTOR_BYTES]
    again.append(again.encode([entry(2)], epoch=2))
    data = disk.crash(Keep.NOTHING).read(PATH)
    assert len(examine(disk, PATH, SANDBOX).entries) == 2
    assert data[again.durable_length :].strip(b"\0") == b""


def test_reader_that_meets_a_write_looks_again(disk: MemoryFiles) -> None:
    written(disk, 2)
    whole = disk.read(PATH)
    half = whole[: len(whole.rstrip(b"\0")) - 20].ljust(len(whole), b"\0")

    class HalfWritten(FaultyFiles):
        reads = 0

        def read(self, path: str) -> bytes:
            self.reads += 1
            return half if self.reads == 1 else super().read(path)

    files = HalfWritten(disk)
    assert len(examine(files, PATH, SANDBOX).entries) == 2
    assert files.reads == 2
    damage(disk, half)
    assert examine(files, PATH, SANDBOX).scan.tail is Tail.CORRUPT
    assert files.reads == 4


def test_torn_tail_is_cut_off_and_kept_aside(disk: MemoryFiles) -> None:
    whole, first = two_records(disk)
    damage(disk, whole[:-5])
    opened(disk)
    survivor = disk.crash(Keep.NOTHING)
    assert survivor.read(PATH) == whole[:first]
    assert survivor.read(f"{PATH}.torn-{first}") == whole[first:-5]


def test_torn_tails_at_the_same_place_are_all_kept(disk: MemoryFiles) -> None:
    whole, first = two_records(disk)
    for torn in (3, 5, 5):
        damage(disk, whole[:-torn])
        opened(disk)
    assert disk.read(f"{PATH}.torn-{first}") == whole[first:-3]
    assert disk.read(f"{PATH}.torn-{first}.1") == whole[first:-5]
    assert len(disk.names("/logs")) == 3


def test_damaged_log_is_refused_with_its_offset_and_left_as_it_is(disk: MemoryFiles) -> None:
    written(disk, 1, 1)
    data = bytearray(disk.read(PATH))
    second = examine(disk, PATH, SANDBOX).entries[1][0]
    data[second + 40] ^= 1
    damage(disk, bytes(data))
    with pytest.raises(LogCorruptError, match=f"my-app is damaged at byte {second}") as caught:
        opened(disk)
    assert caught.value.offset == second
    assert disk.read(PATH) == data
    assert disk.names("/logs") == ["my-app.log"]


def leave_unsynced(disk: MemoryFiles) -> None:
    """Write one more record as a process does that is killed before it syncs."""
    data = opened(disk.crash(Keep.ALL)).encode([entry(2)], epoch=1).data
    fd = disk.open_durable(PATH)
    disk.write(fd, data)
    disk.close(fd)


def test_first_recovery_makes_durable_what_a_killed_process_left_unsynced(disk: MemoryFiles) -> None:
    written(disk, 1).finish()
    leave_unsynced(disk)
    assert disk.crash(Keep.NOTHING).read(PATH) != disk.read(PATH)
    opened(disk)
    assert disk.crash(Keep.NOTHING).read(PATH) == disk.read(PATH)


def test_short_write_kills_the_log_and_is_cut_off_by_the_next_recovery(disk: MemoryFiles) -> None:
    files = FaultyFiles(disk)
    log = written(files, 1)
    length = log.durable_length
    files.break_at(0, Fault.SHORT, kind="write_at")
    with pytest.raises(OSError, match="bytes were taken"):
        log.append(log.encode([entry(2)], epoch=1))
    assert log.failure is not None
    assert disk.read(PATH)[length:].strip(b"\0")
    opened(files, Found(durable_length=log.durable_length))
    assert len(disk.crash(Keep.NOTHING).read(PATH)) == length
    assert disk.names("/logs") == ["my-app.log"]


def test_record_that_a_failed_sync_left_in_the_cache_is_not_believed(disk: MemoryFiles) -> None:
    files = FaultyFiles(disk)
    log = written(files, 1)
    files.break_at(0, Fault.DISK_ERROR, kind="write_at")
    with pytest.raises(OSError, match="Input/output"):
        log.append(log.encode([entry(2)], epoch=1))
    assert len(examine(disk, PATH, SANDBOX).scan.records) == 2
    again = opened(files, Found(durable_length=log.durable_length))
    again.append(again.encode([entry(3)], epoch=2))
    records = examine(disk.crash(Keep.NOTHING), PATH, SANDBOX).scan.records
    assert [record.fields["number"] for record in records] == [1, 3]


def test_recovery_after_a_failed_recovery_writes_the_log_anew(disk: MemoryFiles) -> None:
    written(disk, 1).finish()
    leave_unsynced(disk)
    files = FaultyFiles(disk)
    files.break_at(0, Fault.DISK_ERROR, kind="sync")
    with pytest.raises(OSError, match="Input/output"):
        opened(files)
    opened(files, Found(recovery_failed=True))
    survivor = disk.crash(Keep.NOTHING)
    assert survivor.read(PATH) == disk.read(PATH)
    assert len(examine(survivor, PATH, SANDBOX).scan.records) == 2


def test_compaction_replaces_all_records_by_one_and_the_chain_goes_on(disk: MemoryFiles) -> None:
    log = written(disk, 3)
    log.compact(log.encode_snapshot(Entry(9.0, "", 4, {"all": 3}), epoch=1))
    assert (log.records_since_snapshot, log.bytes_since_snapshot) == (0, 0)
    assert len(disk.read(PATH)) == log.durable_length
    log.append(log.encode([entry(4)], epoch=1))
    result = examine(disk.crash(Keep.NOTHING), PATH, SANDBOX).scan
    assert result.tail is Tail.CLEAN
    assert result.snapshot is not None
    assert (result.snapshot.sequence, result.snapshot.fields) == (3, {"all": 3})
    assert [record.sequence for record in result.records] == [4]
    again = opened(disk)
    assert again.records_since_snapshot == log.records_since_snapshot == 1
    assert again.bytes_since_snapshot == log.bytes_since_snapshot > 0


def test_stale_successor_of_a_crashed_compaction_is_removed(disk: MemoryFiles) -> None:
    written(disk, 1).close()
    disk.close(disk.create(f"{PATH}.new"))
    opened(disk)
    assert disk.names("/logs") == ["my-app.log"]


def test_reserved_name_is_refused(disk: MemoryFiles) -> None:
    log = opened(disk)
    with pytest.raises(ValueError, match="reserved"):
        log.encode([Entry(1.0, SNAPSHOT, 1, {})], epoch=1)


def test_log_that_was_changed_by_somebody_else_is_not_appended_to(disk: MemoryFiles) -> None:
    log = written(disk, 1)
    log.close()
    fd = disk.open_durable(PATH)
    disk.write_at(fd, b"x", len(disk.read(PATH)))
    disk.close(fd)
    with pytest.raises(OSError, match="changed by somebody else"):
        log.append(log.encode([entry(2)], epoch=1))
    assert disk.open_count == 0


def test_closing_and_failing_leave_no_descriptor_open(disk: MemoryFiles) -> None:
    files = FaultyFiles(disk)
    log = written(files, 1)
    assert disk.open_count == 1
    log.close()
    assert disk.open_count == 0
    log.append(log.encode([entry(2)], epoch=1))
    files.break_at(0, Fault.DISK_FULL, kind="write_at")
    with pytest.raises(OSError, match="No space"):
        log.append(log.encode([entry(3)], epoch=1))
    assert disk.open_count == 0
