"""Where a store's files lie, and that opening a folder makes it durable."""

import pytest

from actors.errors import StoreLockedError
from actors.files import write_whole
from actors.layout import Layout
from actors.sandbox.ids import SandboxId
from actors.testing.memoryfiles import Keep, MemoryFiles

SANDBOX = SandboxId("my-app")


def test_path_is_stable() -> None:
    # Logs written by an earlier version are looked for here: this must never change.
    assert Layout(MemoryFiles(), "/data").path(SANDBOX) == "/data/sandboxes/31/my-app.log"


def test_prepared_folder_survives_a_power_cut_whole() -> None:
    files = MemoryFiles()
    files.close(Layout(files, "/data").prepare())
    survivor = files.crash(Keep.NOTHING)
    assert len(survivor.names("/data/sandboxes")) == 256
    assert survivor.names("/data/destroyed") == []


def test_preparing_again_changes_nothing_and_the_lock_names_the_owner() -> None:
    files = MemoryFiles()
    layout = Layout(files, "/data")
    fd = layout.prepare()
    with pytest.raises(StoreLockedError, match=r"/data is in use by process \d+"):
        layout.prepare()
    files.close(fd)
    files.close(layout.prepare())
    assert len(files.names("/data/sandboxes")) == 256


def test_buried_log_survives_a_power_cut_under_its_new_name() -> None:
    files = MemoryFiles()
    layout = Layout(files, "/data")
    files.close(layout.prepare())
    write_whole(files, layout.path(SANDBOX), b"")
    layout.bury(SANDBOX, 7, 0.0)
    after = Layout(files.crash(Keep.NOTHING), "/data")
    grave = "/data/destroyed/my-app.19700101T000000.000000Z-00000007.log"
    assert [report.path for report in after.buried(SANDBOX)] == [grave]
    assert not after.exists(SANDBOX)


def test_burying_nothing_does_nothing() -> None:
    files = MemoryFiles()
    layout = Layout(files, "/data")
    files.close(layout.prepare())
    layout.bury(SANDBOX, 1, 0.0)
    assert layout.buried(SANDBOX) == []


def test_empty_file_is_no_log() -> None:
    files = MemoryFiles()
    layout = Layout(files, "/data")
    files.close(layout.prepare())
    files.close(files.create(layout.path(SANDBOX)))
    assert not layout.exists(SANDBOX)
    assert layout.sandboxes() == []
