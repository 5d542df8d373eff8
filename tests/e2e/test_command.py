"""The command against a real server of its data folder: from nothing to a private preview, and back."""

import json
import os
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_client import visit

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")


class Shell:
    """Runs commands in a folder, as its owner would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("PORTICO_")}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run a command that is to end with `code`; return its stdout."""
        ended = subprocess.run(
            [sys.executable, PORTICO, *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout

    def json(self, *arguments: str) -> dict[str, object]:
        answer = json.loads(self(*arguments, "--json"))
        assert isinstance(answer, dict)
        return answer


@pytest.fixture
def shell(start_python: "StartProgram", tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    server = start_python(
        *(PORTICO, "serve", "--data", str(tmp_path / "portico-data"), "--listen", "127.0.0.1:0"),
        *("--log-format", "json"),
        ready=r"(\{.*\"listening\".*)",
        env=shell.environ,
    )
    yield shell
    assert server.stop() == 0
    assert not (tmp_path / "portico-data" / "server.json").exists()


def test_private_preview_from_nothing_and_back(shell: Shell, free_port: int) -> None:
    made = shell.json("sandbox", "create", "my-app", "--preview-auth")
    token = made["preview_auth_token"]
    assert isinstance(token, str)
    command = (sys.executable, "-m", "http.server", str(free_port), "--bind", "127.0.0.1")
    url = shell("run", "my-app", "--port", str(free_port), "--", *command).strip()
    assert (visit(url), visit(url, token)) == (401, 200)

    assert "AUTH_REQUIRED" in shell("explain", url)
    assert "INVALID_TOKEN" in shell("explain", url, "--at", "2026-01-01T00:00:00Z")
    assert url in shell("port", "list", "my-app")
    assert "my-app" in shell("sandbox", "list")

    rotated = shell("preview", "rotate", "my-app").strip()
    assert (visit(url, token), visit(url, rotated)) == (401, 200)
    shell("port", "unexpose", "my-app", str(free_port))
    assert visit(url, rotated) == 404
    shell("sandbox", "destroy", "my-app")
    shell("sandbox", "show", "my-app", code=1)
    assert "sandbox_destroyed" in shell("log", "my-app", "--json")


def test_readme_can_be_followed(shell: Shell, free_port: int) -> None:
    """Every command of its five minutes, in order, but for the server itself."""
    _, _, section = (
        (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").partition("## In five minutes")
    )
    section = section.partition("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    portico ")]
    assert lines[0] == "portico serve"
    assert len(lines) > 5
    said = [shell(*shlex.split(line.replace("8000", str(free_port)))[1:]) for line in lines[1:]]
    assert "preview token" in said[0]
    # Not any more: the last of them destroyed it.
    assert visit(said[1].strip()) == 404


def test_exec_is_as_good_as_being_there(shell: Shell) -> None:
    shell("sandbox", "create", "my-app")
    assert shell("exec", "my-app", "--env", "NAME=you", "--", "echo hello $NAME; exit 7", code=7) == "hello you\n"
    shell("exec", "no-such", "--", "true", code=125)
    shell("run", "my-app", "--id", "talker", "--", "echo one; sleep 0.2; echo two")
    assert shell("logs", "my-app", "-f") == "one\ntwo\n"
    assert shell("logs", "my-app", "talker") == "one\ntwo\n"
    shell("preview", "create", "my-app", "8080")
    assert "8080" in shell("preview", "list", "my-app")
    shell("preview", "delete", "my-app", "8080")
    shell("preview", "delete", "my-app", "8080", code=1)


def test_key_made_beside_the_server_opens_it_and_a_revoked_one_does_not(shell: Shell) -> None:
    made = shell.json("key", "create", "laptop", "--scope", "read")
    address = json.loads((shell.folder / "portico-data" / "server.json").read_text())["url"]
    shell.environ |= {"PORTICO_SERVER": address, "PORTICO_API_KEY": str(made["key"])}
    shell("sandbox", "list")
    assert (shell.folder / "portico-data" / "server.json").stat().st_mode & 0o777 == 0o600
    shell("sandbox", "create", "my-app", code=1)
    del shell.environ["PORTICO_SERVER"]
    shell("key", "revoke", str(made["id"]))
    shell.environ["PORTICO_SERVER"] = address
    shell("sandbox", "list", code=1)


def test_server_that_has_ended_is_told_from_one_that_refuses(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shell("sandbox", "list", "--data", str(tmp_path / "elsewhere"), code=1)
    shell("sandbox", "list", "--server", "http://127.0.0.1:1", code=2)
    shell.environ["PORTICO_API_KEY"] = "key-of-the-owner-0123456789"
    shell("sandbox", "list", "--server", "http://127.0.0.1:1", code=1)
