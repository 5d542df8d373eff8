"""The file system in memory forgets in a crash exactly what was not synced."""

import pytest

from actors.core.record import SECTOR_BYTES
from actors.testing.memoryfiles import Keep, MemoryFiles


@pytest.fixture
def files() -> MemoryFiles:
    made = MemoryFiles()
    made.make_folder("/folder")
    made.sync_folder("/")
    return made


def synced_file(files: MemoryFiles, path: str, data: bytes) -> int:
    fd = files.create(path)
    files.write(fd, data)
    files.sync(fd)
    files.sync_folder("/folder")
    return fd


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep.NOTHING, "......"),
        (Keep.HALF, "ab...."),
        (Keep.OTHERS, ".b.d.."),
        (Keep.ZEROS, "......"),
        (Keep.ALL, "abcd.."),
    ],
)
def test_sectors_written_in_place_arrive_whole_or_not(files: MemoryFiles, keep: Keep, left: str) -> None:
    fd = synced_file(files, "/folder/a", b"." * 6 * SECTOR_BYTES)
    files.write_unsynced_at(fd, b"".join(letter * SECTOR_BYTES for letter in (b"a", b"b", b"c", b"d")), 0)
    expected = "".join(letter * SECTOR_BYTES for letter in left).encode()
    assert files.crash(keep).read("/folder/a") == expected


def test_sectors_that_arrive_are_for_the_test_to_choose(files: MemoryFiles) -> None:
    fd = synced_file(files, "/folder/a", b"." * (SECTOR_BYTES + 10))
    files.write_unsynced_at(fd, b"x" * SECTOR_BYTES * 2, SECTOR_BYTES + 10)
    left = files.crash(arrives=lambda number: number == 1).read("/folder/a")
    assert left == b"." * (SECTOR_BYTES + 10) + bytes(SECTOR_BYTES - 10) + b"x" * SECTOR_BYTES + bytes(10)


def test_write_beyond_the_end_leaves_zeros_before_it(files: MemoryFiles) -> None:
    fd = synced_file(files, "/folder/a", b"ab")
    files.write_at(fd, b"x", 4)
    assert files.crash(Keep.NOTHING).read("/folder/a") == b"ab\0\0x"


@pytest.mark.parametrize(
    ("keep", "left"),
    [(Keep.NOTHING, b"abcd"), (Keep.HALF, b"abcdef"), (Keep.ZEROS, b"abcd\0\0\0\0"), (Keep.ALL, b"abcdefgh")],
)
def test_bytes_that_were_not_synced_are_left_as_asked(files: MemoryFiles, keep: Keep, left: bytes) -> None:
    fd = synced_file(files, "/folder/a", b"abcd")
    files.write(fd, b"efgh")
    assert files.crash(keep).read("/folder/a") == left
    assert files.read("/folder/a") == b"abcdefgh"


def test_name_that_was_not_synced_is_lost_with_its_file(files: MemoryFiles) -> None:
    fd = files.create("/folder/a")
    files.write(fd, b"x")
    files.sync(fd)
    assert files.crash(Keep.NOTHING).size("/folder/a") is None
    assert files.crash(Keep.ALL).read("/folder/a") == b"x"


def test_folder_whose_name_was_not_synced_is_lost(files: MemoryFiles) -> None:
    files.make_folder("/folder/inner")
    synced_file(files, "/folder/a", b"")
    files.make_folder("/late")
    files.close(files.create("/late/b"))
    files.sync_folder("/late")
    survivor = files.crash(Keep.NOTHING)
    with pytest.raises(FileNotFoundError):
        survivor.names("/late")
    assert survivor.names("/folder/inner") == []


def test_rename_that_was_not_synced_is_undone(files: MemoryFiles) -> None:
    synced_file(files, "/folder/a", b"old")
    synced_file(files, "/folder/b", b"new")
    files.replace("/folder/b", "/folder/a")
    before, after = files.crash(Keep.NOTHING), files.crash(Keep.ALL)
    assert (before.read("/folder/a"), before.read("/folder/b")) == (b"old", b"new")
    assert (after.read("/folder/a"), after.size("/folder/b")) == (b"new", None)


def test_failed_sync_leaves_bytes_that_no_later_sync_writes(files: MemoryFiles) -> None:
    fd = synced_file(files, "/folder/a", b"one")
    files.write(fd, b"two")
    files.fail_sync(fd)
    files.write(fd, b"three")
    files.sync(fd)
    assert files.read("/folder/a") == b"onetwothree"
    assert files.crash(Keep.ALL).read("/folder/a") == b"one\0\0\0three"


def test_cutting_makes_the_page_dirty_that_the_cut_goes_through(files: MemoryFiles) -> None:
    fd = synced_file(files, "/folder/a", b"one")
    files.write(fd, b"two")
    files.fail_sync(fd)
    files.truncate(fd, 3)
    files.write_at(fd, b"three", 3)
    assert files.crash(Keep.NOTHING).read("/folder/a") == b"onethree"


def test_crash_frees_locks_and_descriptors(files: MemoryFiles) -> None:
    files.lock("/folder/LOCK", "1")
    survivor = files.crash(Keep.ALL)
    assert survivor.open_count == 0
    survivor.lock("/folder/LOCK", "2")
