"""Order among the callers of a file store, and what its folder looks like."""

# ruff: noqa: ASYNC220, ASYNC230, ASYNC240  # small files on a local disk, and no other task that would wait

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from actors import filestore
from actors.core.record import Tail
from actors.errors import (
    AppendFailedError,
    FencedError,
    LogCorruptError,
    SandboxNotFoundError,
    StoreError,
    StoreLockedError,
)
from actors.files import RealFiles
from actors.filestore import FileStore
from actors.sandbox.ids import SandboxId
from actors.store import Entry, Tenure
from actors.testing.memoryfiles import Keep, MemoryFiles
from actors.testing.storage import Fault, FaultyFiles
from actors.testing.stores import check_store

SANDBOX = SandboxId("my-app")


def entry(number: int) -> Entry:
    return Entry(float(number), "Numbered", 1, {"number": number})


async def numbers(store: FileStore, sandbox: SandboxId = SANDBOX) -> list[object]:
    return [record.fields["number"] for record in (await store.read(sandbox)).records]


class SlowFiles(RealFiles):
    """Appends wait in their thread until the test lets them go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        self.begun.set()
        self.go_on.wait()
        return super().write_at(fd, data, offset)


async def wait_begun(files: SlowFiles) -> None:
    await trio.to_thread.run_sync(files.begun.wait)


async def test_file_store_keeps_the_promises(tmp_path: Path) -> None:
    await check_store(lambda: FileStore(tmp_path / "data"))


async def test_file_store_keeps_the_promises_on_memory_files() -> None:
    files = MemoryFiles()
    await check_store(lambda: FileStore("/data", files=files))
    assert files.open_count == 0


async def test_folder_and_files_are_for_the_owner_only(tmp_path: Path) -> None:
    async with FileStore(tmp_path / "data") as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        await store.compact(tenure, entry(0))
        await store.bury(tenure)
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_second_store_in_the_same_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    async with FileStore(tmp_path):
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()}"):
            async with FileStore(tmp_path):
                pytest.fail("two stores own one folder")
    async with FileStore(tmp_path):
        assert (tmp_path / "LOCK").read_text().strip() == str(os.getpid())


async def test_folder_is_free_once_its_owner_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from actors.filestore import FileStore\n"
        "async def main():\n"
        "    async with FileStore(sys.argv[1]):\n"
        "        print('open', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    root = Path(filestore.__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert await trio.to_thread.run_sync(owner.stdout.readline) == "open\n"
        with pytest.raises(StoreLockedError, match=f"process {owner.pid}"):
            async with FileStore(tmp_path):
                pytest.fail("two processes own one folder")
        owner.kill()
    async with FileStore(tmp_path) as store:
        await store.claim(SANDBOX)


async def test_store_is_not_opened_twice_but_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    async with store:
        with pytest.raises(RuntimeError, match="open already"):
            await store.__aenter__()
        await store.append(await store.claim(SANDBOX), [entry(1)])
    with pytest.raises(RuntimeError, match="not open"):
        await store.claim(SANDBOX)
    async with store:
        assert await numbers(store) == [1]


async def test_parent_that_is_missing_is_an_error_naming_the_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing/data"):
        async with FileStore(tmp_path / "missing" / "data"):
            pytest.fail("opened a folder in a folder that is not there")


async def test_reader_beside_a_writer_sees_what_is_whole(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store, FileStore(tmp_path, read_only=True) as reader:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1), entry(2)])
        assert await numbers(reader) == [1, 2]
        assert await reader.sandboxes() == [SANDBOX]
        path = (await reader.report(SANDBOX)).path
        whole = Path(path).read_bytes()
        with Path(path).open("ab") as file:
            file.write(whole[:4])
        assert await numbers(reader) == [1, 2]
        assert Path(path).read_bytes() == whole + whole[:4]
        with pytest.raises(RuntimeError, match="reading only"):
            await reader.claim(SANDBOX)


async def test_reading_a_folder_that_holds_nothing_yet(tmp_path: Path) -> None:
    async with FileStore(tmp_path / "data", read_only=True) as reader:
        assert await reader.sandboxes() == []
        assert await reader.buried(SANDBOX) == []
        assert not reader.exists(SANDBOX)
        with pytest.raises(SandboxNotFoundError):
            await reader.read(SANDBOX)
    assert list(tmp_path.iterdir()) == []


async def test_damaged_log_stops_its_own_sandbox_only(tmp_path: Path) -> None:
    other = SandboxId("other")
    async with FileStore(tmp_path) as store:
        for sandbox in (SANDBOX, other):
            await store.append(await store.claim(sandbox), [entry(1)])
        path = Path((await store.report(SANDBOX)).path)
        data = bytearray(path.read_bytes())
        data[50] ^= 4
        path.write_bytes(data)
        with pytest.raises(LogCorruptError, match="my-app is damaged at byte 0") as caught:
            await store.claim(SANDBOX)
        assert caught.value.offset == 0
        with pytest.raises(LogCorruptError):
            await store.read(SANDBOX)
        report = await store.report(SANDBOX)
        assert (report.scan.tail, report.scan.offset, report.entries) == (Tail.CORRUPT, 0, [])
        assert (await store.claim(other)).sequence == 1


async def test_report_names_each_record_and_the_torn_bytes(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        await store.compact(tenure, entry(1))
        await store.append(tenure, [entry(2)])
        await store.append(tenure, [entry(3)])
        path = Path((await store.report(SANDBOX)).path)
        used = (await store.report(SANDBOX)).scan.used_length
        assert path.stat().st_size > used
        os.truncate(path, used - 3)
        report = await store.report(SANDBOX)
    assert [record.name for _, _, record in report.entries] == ["snapshot", "Numbered"]
    (first, first_length, _), (second, second_length, _) = report.entries
    assert (first, second, second + second_length) == (0, first_length, report.scan.valid_length)
    assert report.torn_bytes == report.size - report.scan.valid_length > 0


async def test_buried_logs_are_kept_under_names_of_their_own(tmp_path: Path) -> None:
    async with FileStore(tmp_path, clock=lambda: 1_760_000_000.0) as store:
        for number in (1, 2):
            tenure = await store.claim(SANDBOX)
            await store.append(tenure, [entry(number)])
            await store.bury(tenure)
        other = await store.claim(SandboxId("my-app-2"))
        await store.append(other, [entry(3)])
        await store.bury(other)
        reports = await store.buried(SANDBOX)
        assert [report.scan.records[0].fields["number"] for report in reports] == [1, 2]
        assert Path(reports[0].path).name == "my-app.20251009T085320.000000Z-00000001.log"
        assert not store.exists(SANDBOX)
        assert await store.sandboxes() == []


async def test_files_of_others_in_the_folder_are_not_sandboxes(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        await store.append(await store.claim(SANDBOX), [entry(1)])
        shelf = Path((await store.report(SANDBOX)).path).parent
        (shelf / "Not An Id.log").write_text("x")
        (shelf / "notes.txt").write_text("x")
        (shelf / "empty.log").write_text("")
        assert await store.sandboxes() == [SANDBOX]


@pytest.mark.parametrize(
    ("fault", "text"), [(Fault.DISK_FULL, "disk is full"), (Fault.DISK_ERROR, "disk failed"), (Fault.SHORT, "disk")]
)
async def test_failed_append_says_why_and_ends_the_tenure(fault: Fault, text: str) -> None:
    files = FaultyFiles(MemoryFiles())
    async with FileStore("/data", files=files) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        files.break_at(0, fault, kind="write_at")
        with pytest.raises(AppendFailedError, match=text) as first:
            await store.append(tenure, [entry(2)])
        with pytest.raises(AppendFailedError, match="claim it anew") as second:
            await store.append(tenure, [entry(3)])
        assert second.value.__cause__ is first.value
        with pytest.raises(AppendFailedError):
            await store.compact(tenure, entry(0))
        await store.release(tenure)
        again = await store.claim(SANDBOX)
        await store.append(again, [entry(4)])
        assert await numbers(store) == [1, 4]


async def test_failed_claim_says_why_and_may_be_tried_again() -> None:
    files = FaultyFiles(MemoryFiles())
    async with FileStore("/data", files=files) as store:
        await store.append(await store.claim(SANDBOX), [entry(1)])
    async with FileStore("/data", files=files) as store:
        files.break_at(0, Fault.DISK_ERROR, kind="sync")
        with pytest.raises(StoreError, match="cannot read the log of my-app"):
            await store.claim(SANDBOX)
        assert (await store.claim(SANDBOX)).sequence == 1


async def test_record_found_by_a_claim_that_follows_a_failed_one_is_durable() -> None:
    disk = MemoryFiles()
    files = FaultyFiles(disk)
    async with FileStore("/data", files=files) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        # Killed between write and sync: the record can be read, but a power cut would take it.
        files.break_at(0, Fault.DEAD, kind="write_at")
        with pytest.raises(AppendFailedError):
            await store.append(tenure, [entry(2)])
        files.mend()
    async with FileStore("/data", files=files) as store:
        files.break_at(0, Fault.DISK_ERROR, kind="sync")
        with pytest.raises(StoreError):
            await store.claim(SANDBOX)
        assert (await store.claim(SANDBOX)).sequence == 2
    async with FileStore("/data", files=disk.crash(Keep.NOTHING)) as store:
        assert await numbers(store) == [1, 2]


async def test_claim_of_a_log_in_good_order_only_reads() -> None:
    files = FaultyFiles(MemoryFiles())
    async with FileStore("/data", files=files) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        files.mend()
        again = await store.claim(SANDBOX)
        assert files.operations == []
        await store.release(again)
        files.mend()
        await store.claim(SANDBOX)
        assert files.operations == []


@pytest.mark.parametrize("ending", ["release", "bury", "close"])
async def test_log_at_rest_is_nothing_but_its_records(tmp_path: Path, ending: str) -> None:
    async with FileStore(tmp_path, clock=lambda: 1_760_000_000.0) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        assert (await store.report(SANDBOX)).room_bytes > 0
        match ending:
            case "release":
                await store.release(tenure)
            case "bury":
                await store.bury(tenure)
    async with FileStore(tmp_path, read_only=True) as store:
        report = (await store.buried(SANDBOX))[0] if ending == "bury" else await store.report(SANDBOX)
    assert (report.size, report.room_bytes) == (report.scan.valid_length, 0)


async def test_failed_recovery_does_not_forget_what_an_append_failed_on() -> None:
    files = FaultyFiles(MemoryFiles())
    async with FileStore("/data", files=files) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        files.break_at(0, Fault.HALF_THEN_ERROR, kind="write_at")
        with pytest.raises(AppendFailedError):
            await store.append(tenure, [entry(2)])
        files.break_at(0, Fault.DISK_ERROR, kind="truncate")
        with pytest.raises(StoreError):
            await store.claim(SANDBOX)
        # What was half written would be corruption if nobody knew how it came about.
        await store.append(await store.claim(SANDBOX), [entry(3)])
        assert await numbers(store) == [1, 3]


async def test_cancelled_append_that_has_begun_is_finished_first(tmp_path: Path) -> None:
    files = SlowFiles()
    async with FileStore(tmp_path, files=files) as store:
        tenure = await store.claim(SANDBOX)
        returned = trio.Event()
        scope = trio.CancelScope()

        async def append() -> None:
            with scope:
                await store.append(tenure, [entry(1)])
                returned.set()
                await trio.lowlevel.checkpoint()
                pytest.fail("the cancellation got lost")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append)
            await wait_begun(files)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert not returned.is_set()
            files.go_on.set()
        assert returned.is_set()
        assert tenure.sequence == 1
        assert await numbers(store) == [1]


async def test_append_cancelled_while_it_waits_its_turn_writes_nothing(tmp_path: Path) -> None:
    files = SlowFiles()
    async with FileStore(tmp_path, files=files) as store:
        tenure = await store.claim(SANDBOX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append, tenure, [entry(1)])
            await wait_begun(files)
            with trio.move_on_after(0) as scope:
                await store.append(tenure, [entry(2)])
            assert scope.cancelled_caught
            files.go_on.set()
        await store.append(tenure, [entry(3)])
        assert await numbers(store) == [1, 3]


async def test_claim_waits_for_an_append_under_way_and_finds_it(tmp_path: Path) -> None:
    files = SlowFiles()
    async with FileStore(tmp_path, files=files) as store:
        older = await store.claim(SANDBOX)
        claimed: list[Tenure] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.append, older, [entry(1)])
            await wait_begun(files)

            async def claim() -> None:
                claimed.append(await store.claim(SANDBOX))

            nursery.start_soon(claim)
            await trio.testing.wait_all_tasks_blocked()
            assert not claimed
            files.go_on.set()
        assert claimed[0].sequence == 1
        with pytest.raises(FencedError):
            await store.append(older, [entry(2)])


async def test_closing_waits_for_an_append_under_way(tmp_path: Path) -> None:
    files = SlowFiles()
    store = FileStore(tmp_path, files=files)
    await store.__aenter__()
    tenure = await store.claim(SANDBOX)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.append, tenure, [entry(1)])
        await wait_begun(files)
        nursery.start_soon(store.__aexit__, None, None, None)
        await trio.testing.wait_all_tasks_blocked()
        files.go_on.set()
    assert tenure.sequence == 1
    with pytest.raises(FencedError):
        await store.append(tenure, [entry(2)])


@pytest.mark.parametrize("call", ["claim", "append", "compact", "bury", "read", "sandboxes"])
async def test_call_that_is_cancelled_already_changes_nothing(tmp_path: Path, call: str) -> None:
    async with FileStore(tmp_path) as store:
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [entry(1)])
        with trio.CancelScope() as scope:
            scope.cancel()
            match call:
                case "claim":
                    await store.claim(SandboxId("other"))
                case "append":
                    await store.append(tenure, [entry(2)])
                case "compact":
                    await store.compact(tenure, entry(0))
                case "bury":
                    await store.bury(tenure)
                case "read":
                    await store.read(SANDBOX)
                case _:
                    await store.sandboxes()
        assert scope.cancelled_caught
        await store.append(tenure, [entry(3)])
        assert await numbers(store) == [1, 3]


async def test_no_more_files_stay_open_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestore, "OPEN_LOGS_MAX", 3)
    files = MemoryFiles()
    async with FileStore("/data", files=files) as store:
        before = files.open_count
        tenures = [await store.claim(SandboxId(f"many-{number}")) for number in range(8)]
        assert files.open_count == before
        for round_number in range(2):
            for tenure in tenures:
                await store.append(tenure, [entry(round_number)])
                assert files.open_count <= before + 3
        assert await numbers(store, tenures[0].sandbox) == [0, 1]


async def test_released_sandboxes_cost_no_more_than_their_epoch(tmp_path: Path) -> None:
    async with FileStore(tmp_path) as store:
        first = await store.claim(SANDBOX)
        await store.release(first)
        assert store._places == {}
        assert (await store.claim(SANDBOX)).epoch == first.epoch + 1


async def test_text_of_an_os_error_holds_no_field(tmp_path: Path) -> None:
    files = FaultyFiles(MemoryFiles())
    async with FileStore("/data", files=files) as store:
        tenure = await store.claim(SANDBOX)
        files.break_at(0, Fault.DISK_ERROR, kind="write_at")
        with pytest.raises(AppendFailedError) as caught:
            await store.append(tenure, [Entry(1.0, "PortExposed", 1, {"token": "k3v9x0q2m7t1z8aa"})])
    assert "k3v9" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EIO
