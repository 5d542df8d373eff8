"""`portico serve` and `portico demo`, as far as they can be refused. tests/e2e has the rest."""

from pathlib import Path

from tests.proxy.cli.conftest import Command


def test_folder_that_cannot_be_made_is_a_line_on_stderr(portico: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("serve", "demo"):
        said = portico(command, "--data", str(tmp_path / "file" / "data"), "--listen", "127.0.0.1:0")
        assert said.code == 1
        (line,) = said.err.splitlines()
        assert line.startswith(f"portico: cannot open {tmp_path}/file/data: ")
