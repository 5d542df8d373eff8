"""The real file system, through the narrow interface that logs use, and its double keep the same promises."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from actors.files import (
    Files,
    RealFiles,
    check_taken,
    describe_failure,
    replace_file,
    replace_whole,
    successor,
    write_whole,
)
from actors.testing.memoryfiles import MemoryFiles
from actors.testing.storage import FaultyFiles


@pytest.fixture(params=["real", "memory", "faulty"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    """Return a file system and a folder of it that exists."""
    if request.param == "real":
        return RealFiles(), str(tmp_path)
    files = MemoryFiles()
    files.make_folder("/folder")
    return (files if request.param == "memory" else FaultyFiles(files)), "/folder"


def test_bytes_written_at_a_place_are_read_and_counted(place: tuple[Files, str]) -> None:
    files, folder = place
    path = f"{folder}/log"
    assert files.size(path) is None
    files.close(files.create(path))
    fd = files.open_durable(path)
    assert files.write_at(fd, b"one...", 0) == 6
    assert files.write_at(fd, b"two", 3) == 3
    assert files.length(fd) == 6
    files.truncate(fd, 4)
    files.sync(fd)
    assert files.write_at(fd, b"X", 4) == 1
    assert files.write_at(fd, b"Y", 7) == 1
    files.close(fd)
    assert files.read(path) == b"onetX\0\0Y"
    assert files.size(path) == 8


def test_missing_and_existing_files_are_told_apart(place: tuple[Files, str]) -> None:
    files, folder = place
    path = f"{folder}/log"
    missing: list[Callable[[str], object]] = [files.read, files.open_durable]
    for call in missing:
        with pytest.raises(FileNotFoundError):
            call(path)
    with pytest.raises(FileNotFoundError):
        files.names(f"{folder}/nowhere")
    write_whole(files, path, b"x")
    with pytest.raises(FileExistsError):
        write_whole(files, path, b"y")
    assert files.read(path) == b"x"
    files.remove(path)
    files.remove(path)
    assert files.names(folder) == []


def test_replacing_takes_the_name_and_the_old_name_is_gone(place: tuple[Files, str]) -> None:
    files, folder = place
    files.make_folder(f"{folder}/inner")
    files.make_folder(f"{folder}/inner")
    write_whole(files, f"{folder}/old", b"old")
    write_whole(files, f"{folder}/new", b"new")
    files.replace(f"{folder}/new", f"{folder}/old")
    files.replace(f"{folder}/old", f"{folder}/inner/moved")
    files.sync_folder(folder)
    assert files.names(folder) == ["inner"]
    assert files.read(f"{folder}/inner/moved") == b"new"


def test_content_is_replaced_whole_and_a_leftover_is_in_nobodys_way(place: tuple[Files, str]) -> None:
    files, folder = place
    path = f"{folder}/kept"
    write_whole(files, successor(path), b"of a crash")
    for data in (b"first", b"second"):
        replace_whole(files, path, data)
        assert files.read(path) == data
    assert files.names(folder) == ["kept"]


@pytest.mark.parametrize("operation", ["create", "write", "sync", "replace"])
def test_replacing_that_fails_leaves_what_was_there(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    files.make_folder("/folder")
    replace_whole(files, "/folder/kept", b"first")

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(files, operation, fail)
        with pytest.raises(OSError, match="on fire"):
            replace_whole(files, "/folder/kept", b"second")
    assert files.read("/folder/kept") == b"first"
    replace_whole(files, "/folder/kept", b"third")
    assert files.read("/folder/kept") == b"third"


def test_real_file_is_replaced_for_its_owner_alone_and_no_link_in_the_way_is_followed(tmp_path: Path) -> None:
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "kept"
    elsewhere.write_text("mine")
    (tmp_path / "kept.new").symlink_to(elsewhere)
    old = os.umask(0)
    try:
        replace_file(path, b"theirs")
    finally:
        os.umask(old)
    assert (path.read_bytes(), elsewhere.read_text()) == (b"theirs", "mine")
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "kept"]


def test_lock_keeps_others_out_until_it_is_closed(place: tuple[Files, str]) -> None:
    files, folder = place
    path = f"{folder}/LOCK"
    fd = files.lock(path, "first, with a longer text")
    with pytest.raises(BlockingIOError):
        files.lock(path, "second")
    assert files.read(path) == b"first, with a longer text"
    files.close(fd)
    fd = files.lock(path, "third")
    assert files.read(path) == b"third"
    files.close(fd)


def test_log_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    (tmp_path / "log").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        RealFiles().open_durable(str(tmp_path / "log"))


def test_writes_at_a_place_are_synced_by_the_kernel(tmp_path: Path) -> None:
    import fcntl

    files = RealFiles()
    files.close(files.create(str(tmp_path / "log")))
    fd = files.open_durable(str(tmp_path / "log"))
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    files.close(fd)
    assert flags & os.O_DSYNC
    # Linux would write at the end whatever the place (pwrite(2), BUGS).
    assert not flags & os.O_APPEND


def test_short_write_is_a_failure() -> None:
    check_taken(3, b"abc")
    with pytest.raises(OSError, match="2 of 3 bytes"):
        check_taken(2, b"abc")


@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EIO, "disk failed")]
)
def test_failure_is_described_in_words(number: int, text: str) -> None:
    assert text in describe_failure(OSError(number, os.strerror(number)))


def test_failure_of_another_kind_is_told_without_its_number() -> None:
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/LOCK")
    assert describe_failure(denied) == "permission denied: /data/LOCK"
    assert describe_failure(OSError(errno.EACCES, os.strerror(errno.EACCES))) == "permission denied"
    assert describe_failure(OSError("no number")) == "no number"
