"""The file by which commands find a server: there while it serves, and for its owner only."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from proxy.local import FILE_NAME, LocalServer, LocalServerError, announced, find_local, url_of

SERVER = LocalServer("http://127.0.0.1:8787", "key-of-this-run-0123456789")


def test_server_is_found_while_it_serves(tmp_path: Path) -> None:
    assert find_local(tmp_path) is None
    with announced(tmp_path, SERVER):
        assert find_local(tmp_path) == SERVER
    assert find_local(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_file_is_its_owners_only_whatever_was_there(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        for left in (FILE_NAME, "server.json.new"):
            (tmp_path / left).write_text("left behind")
        with announced(tmp_path, SERVER):
            assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_file_that_others_may_use_is_not_trusted(tmp_path: Path, mode: int) -> None:
    with announced(tmp_path, SERVER):
        (tmp_path / FILE_NAME).chmod(mode)
        with pytest.raises(LocalServerError, match="not trusted"):
            find_local(tmp_path)


def test_link_is_not_followed(tmp_path: Path) -> None:
    with announced(tmp_path, SERVER):
        other = tmp_path / "other"
        other.mkdir()
        (other / FILE_NAME).symlink_to(tmp_path / FILE_NAME)
        with pytest.raises(LocalServerError):
            find_local(other)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"url": 1, "key": 2}'])
def test_file_of_another_form_is_an_error_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LocalServerError, match="is not of its form"):
        find_local(tmp_path)


def test_key_is_shown_to_nobody() -> None:
    screen = io.StringIO()
    Console(file=screen).print(SERVER)
    assert SERVER.key not in repr(SERVER) + screen.getvalue()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_url_is_one_that_this_machine_can_dial(host: str, url: str) -> None:
    assert url_of(host, 80) == url
