"""The doubles that fail on cue do fail, when told and how told, and at no other time."""

import errno

import pytest
import trio
import trio.testing

from actors.errors import AppendFailedError, StoreError
from actors.memorystore import MemoryStore
from actors.sandbox.events import PortExposed
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.store import Entry
from actors.testing.memoryfiles import Keep, MemoryFiles
from actors.testing.storage import Fault, FaultyFiles, FaultyStore, Operation, as_logged, through_msgpack
from actors.testing.stores import check_store

SANDBOX = SandboxId("my-app")
ENTRY = Entry(1.0, "A", 1, {})


@pytest.fixture
def files() -> FaultyFiles:
    made = FaultyFiles(MemoryFiles())
    made.close(made.create("/a"))
    made.mend()
    return made


@pytest.mark.parametrize(
    ("fault", "number", "left"),
    [
        (Fault.DISK_ERROR, errno.EIO, b"abcd"),
        (Fault.DISK_FULL, errno.ENOSPC, b""),
        (Fault.HALF_THEN_ERROR, errno.EIO, b"ab"),
        (Fault.DEAD, errno.EIO, b"abcd"),
    ],
)
def test_append_fails_as_told_and_leaves_what_it_should(
    files: FaultyFiles, fault: Fault, number: int, left: bytes
) -> None:
    fd = files.open_durable("/a")
    files.break_at(0, fault, kind="write_at")
    with pytest.raises(OSError, match=r".") as caught:
        files.write_at(fd, b"abcd", 0)
    assert caught.value.errno == number
    assert files.read("/a") == left


def test_short_append_says_how_little_it_took(files: FaultyFiles) -> None:
    fd = files.open_durable("/a")
    files.break_at(0, Fault.SHORT, kind="write_at")
    assert files.write_at(fd, b"abcd", 0) == 2
    assert files.write_at(fd, b"ef", 2) == 2
    assert files.read("/a") == b"abef"


def test_only_the_chosen_operation_of_the_chosen_kind_fails(files: FaultyFiles) -> None:
    files.break_at(1, Fault.DISK_ERROR, kind="make_folder")
    files.make_folder("/one")
    files.sync_folder("/")
    with pytest.raises(OSError, match="Input/output"):
        files.make_folder("/two")
    files.make_folder("/three")
    assert sorted(files.names("/")) == ["a", "one", "three"]
    assert files.operations[:2] == [Operation("make_folder", "/one"), Operation("sync_folder", "/")]


def test_dead_disk_takes_nothing_until_mended(files: FaultyFiles) -> None:
    files.break_at(0, Fault.DEAD)
    for _ in range(2):
        with pytest.raises(OSError, match=r"."):
            files.make_folder("/one")
        # The first one was done, as one that the power cut came right after.
        assert sorted(files.names("/")) == ["a", "one"]
    with pytest.raises(OSError, match="gone"):
        files.make_folder("/two")
    files.mend()
    files.make_folder("/two")


def test_dying_append_is_not_synced(files: FaultyFiles) -> None:
    assert isinstance(files.files, MemoryFiles)
    files.sync_folder("/")
    fd = files.open_durable("/a")
    files.break_at(0, Fault.DEAD)
    with pytest.raises(OSError, match="Input/output"):
        files.write_at(fd, b"abcd", 0)
    assert files.files.crash(Keep.NOTHING).read("/a") == b""
    assert files.files.crash(Keep.HALF).read("/a") == b"ab"


def test_operation_that_is_done_and_reported_as_failed(files: FaultyFiles) -> None:
    files.break_at(0, Fault.HALF_THEN_ERROR)
    with pytest.raises(OSError, match="Input/output"):
        files.replace("/a", "/b")
    assert files.names("/") == ["b"]


def test_failed_sync_is_not_made_good_by_the_next(files: FaultyFiles) -> None:
    assert isinstance(files.files, MemoryFiles)
    files.sync_folder("/")
    fd = files.create("/b")
    files.sync_folder("/")
    files.write(fd, b"x")
    files.break_at(0, Fault.DISK_ERROR, kind="sync")
    with pytest.raises(OSError, match="Input/output"):
        files.sync(fd)
    files.sync(fd)
    assert files.files.crash(Keep.NOTHING).read("/b") == b""


async def test_faulty_store_without_faults_keeps_the_promises() -> None:
    store = MemoryStore()
    await check_store(lambda: FaultyStore(store))


@pytest.mark.parametrize("written", [False, True])
async def test_append_that_was_told_to_fail_ends_the_tenure(written: bool) -> None:
    async with FaultyStore(MemoryStore()) as store:
        tenure = await store.claim(SANDBOX)
        store.fail_next_append(written=written)
        with pytest.raises(AppendFailedError, match="on cue"):
            await store.append(tenure, [ENTRY])
        with pytest.raises(StoreError):
            await store.append(tenure, [ENTRY])
        again = await store.claim(SANDBOX)
        assert again.sequence == int(written)
        await store.append(again, [ENTRY])


async def test_held_append_is_written_when_let_go() -> None:
    async with FaultyStore(MemoryStore()) as store, trio.open_nursery() as nursery:
        tenure = await store.claim(SANDBOX)
        with store.hold_appends():
            nursery.start_soon(store.append, tenure, [ENTRY])
            await store.wait_append_held()
            assert store.appends_waiting == 1
            assert not store.exists(SANDBOX)
        await trio.testing.wait_all_tasks_blocked()
        assert store.exists(SANDBOX)
        assert store.appends_waiting == 0


async def test_held_append_is_not_cancelled() -> None:
    async with FaultyStore(MemoryStore()) as store:
        tenure = await store.claim(SANDBOX)
        async with trio.open_nursery() as nursery:
            hold = store.hold_appends()
            hold.__enter__()
            nursery.start_soon(store.append, tenure, [ENTRY])
            await store.wait_append_held()
            nursery.cancel_scope.cancel()
            hold.__exit__(None, None, None)
        assert tenure.sequence == 1


def test_event_passes_through_storage_unchanged() -> None:
    event = PortExposed(Port(8080), PortToken("stable"), "web")
    assert as_logged(event) == event
    assert through_msgpack({"a": [1, b"2"]}) == {"a": [1, b"2"]}
