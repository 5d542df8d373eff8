"""The record of a container's services: on disk before anybody is told, whole, and nobody else's to read."""

import errno
import os
import stat
from pathlib import Path

import pytest

from actors.containers import services
from actors.containers.base import ProcessOptions, RestartPolicy
from actors.containers.services import ServiceBook
from actors.errors import ContainerError
from actors.files import replace_file
from actors.sandbox.ids import Port

WEB = ProcessOptions("serve --port 8080", "web", {"KEY": "hunter2"}, "web", RestartPolicy.ALWAYS)
WORKER = ProcessOptions(["work", "hard"], None, {}, "worker")


async def loaded(folder: Path) -> ServiceBook:
    book = ServiceBook(folder)
    await book.load()
    return book


async def test_what_is_remembered_is_read_back_in_order(tmp_path: Path) -> None:
    book = await loaded(tmp_path)
    assert book.services == []
    await book.remember(WEB, [])
    await book.remember(WORKER, [])
    await book.note_port(Port(8080))
    await book.note_port(8080)
    again = await loaded(tmp_path)
    assert again.services == [WEB, WORKER]
    assert again.ports == [8080]
    await again.forget("web")
    await again.forget("nobody")
    assert (await loaded(tmp_path)).services == [WORKER]


async def test_the_file_is_its_owners_alone_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    book = await loaded(tmp_path)
    old = os.umask(0)
    try:
        await book.remember(WEB, [])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "services").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["services"]


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    home = tmp_path / "home"
    home.mkdir()
    (home / "services.new").symlink_to(elsewhere)
    book = await loaded(home)
    await book.remember(WEB, [])
    assert elsewhere.read_text() == "mine"


async def test_started_anew_under_its_id_it_is_remembered_as_it_is_now(tmp_path: Path) -> None:
    book = await loaded(tmp_path)
    await book.remember(WEB, [])
    newer = ProcessOptions("serve", id="web")
    await book.remember(newer, [])
    assert (await loaded(tmp_path)).services == [newer]


async def test_when_there_are_many_the_oldest_that_does_not_run_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "SERVICES_MAX", 3)
    book = await loaded(tmp_path)
    for name in ("a", "b", "c", "d"):
        await book.remember(ProcessOptions("x", id=name), ["a"])
    assert [options.id for options in book.services] == ["a", "c", "d"]


async def test_clearing_leaves_nothing(tmp_path: Path) -> None:
    book = await loaded(tmp_path)
    await book.remember(WEB, [])
    await book.clear()
    await book.clear()
    assert os.listdir(tmp_path) == []
    assert book.services == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"services": [{"id": 1}], "ports": []}', b"\xff"])
async def test_a_record_that_makes_no_sense_is_refused_without_its_words(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "services").write_bytes(damage)
    with pytest.raises(ContainerError, match="cannot be read"):
        await loaded(tmp_path)


async def test_a_disk_that_does_not_take_it_is_told_of(tmp_path: Path) -> None:
    book = await loaded(tmp_path / "missing")
    with pytest.raises(ContainerError, match="cannot keep the record"):
        await book.remember(WEB, [])


async def test_what_could_not_be_stored_is_not_stored_by_the_next_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = await loaded(tmp_path)
    await book.remember(WEB, [])

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(services, "replace_file", full)
        with pytest.raises(ContainerError):
            await book.remember(WORKER, [])
        with pytest.raises(ContainerError):
            await book.forget("web")
        with pytest.raises(ContainerError):
            await book.note_port(8080)
        assert (book.services, book.ports) == ([WEB], [])
    await book.note_port(9090)
    again = await loaded(tmp_path)
    assert (again.services, again.ports) == ([WEB], [9090])
    # Asked for again, it is done, and not taken for done.
    await book.forget("web")
    assert (await loaded(tmp_path)).services == []


async def test_what_was_written_although_it_failed_can_be_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = await loaded(tmp_path)
    replace = replace_file

    def late(path: Path, data: bytes) -> None:
        replace(path, data)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(services, "replace_file", late)
        with pytest.raises(ContainerError):
            await book.remember(WEB, [])
    await book.forget("web")
    assert (await loaded(tmp_path)).services == []
