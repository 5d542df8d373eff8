"""`portico serve` and `portico demo`, as far as they can be refused. tests/e2e has the rest."""

import socket
from pathlib import Path

from tests.proxy.cli.conftest import Command


def test_folder_that_cannot_be_made_is_a_line_on_stderr(portico: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("serve", "demo"):
        said = portico(command, "--data", str(tmp_path / "file" / "data"), "--listen", "127.0.0.1:0")
        assert said.code == 1
        (line,) = said.err.splitlines()
        assert line == (
            f"portico: cannot open {tmp_path}/file/data: not a directory: {tmp_path}/file/data; "
            "a folder is wanted that this user may make, read and write"
        )


def test_key_is_not_told_by_a_server_that_cannot_listen(portico: Command, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = portico("serve", "--data", str(tmp_path / "data"), "--listen", address, "--log-level", "error")
    assert (said.code, said.out) == (1, "")
    (line,) = said.err.splitlines()
    assert line.startswith(f"portico: cannot listen on {address}: address already in use; name another address")


def test_folder_that_takes_no_more_files_is_a_line_on_stderr(portico: Command, tmp_path: Path) -> None:
    # Where the file is to be by which commands find the server.
    (tmp_path / "data" / "server.json.new").mkdir(parents=True)
    said = portico("serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--log-level", "error")
    assert (said.code, said.out) == (1, "")
    assert said.err == f"portico: cannot write in {tmp_path}/data: is a directory\n"
