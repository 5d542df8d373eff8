"""Programs written for OpenComputer's published clients, with only the base URL changed.

The scripts in `opencomputer/` are such programs; here they are run against a real `portico serve`, and the previews
they were given are visited as their users would. The TypeScript client comes from npm, in the version of
`opencomputer/package.json`, into pytest's cache folder, once.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import NO_SKIPS

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO: Final = os.path.join(sysconfig.get_path("scripts"), "portico")
SCRIPTS: Final = Path(__file__).with_name("opencomputer")
KEY: Final = "a-key-of-my-own-choice"
INSTALL_S: Final = 120
SCRIPT_S: Final = 60


@pytest.fixture
def port(start_python: "StartProgram", tmp_path: Path) -> int:
    """Where a server listens."""
    arguments = ["--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--log-format", "json"]
    environment = {**os.environ, "PORTICO_API_KEY": KEY}
    server = start_python(PORTICO, "serve", *arguments, ready=r"(\{.*\"listening\".*)", env=environment)
    return int(json.loads(server.ready[1])["address"].rpartition(":")[2])


@pytest.fixture(scope="session")
def node_folder(request: pytest.FixtureRequest, require_program: Callable[[str], str]) -> Path:
    """A folder in which the TypeScript client is installed, with the script beside it."""
    require_program("node")
    npm = require_program("npm")
    cache = request.config.cache
    assert cache is not None, "these tests need pytest's cache provider"
    folder: Path = (
        cache.mkdir("opencomputer")
        / json.loads((SCRIPTS / "package.json").read_text())["dependencies"]["@opencomputer/sdk"]
    )
    if not folder.exists():
        unfinished = folder.with_suffix(f".{os.getpid()}")
        unfinished.mkdir()
        shutil.copy(SCRIPTS / "package.json", unfinished)
        command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=unfinished, capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
            if done.returncode:
                if NO_SKIPS:
                    pytest.fail(f"npm could not install the client: {done.stderr[-500:]}", pytrace=False)
                pytest.skip("npm could not install the client")
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copy(SCRIPTS / "script.mjs", folder)
    return folder


@pytest.fixture(params=["python", "typescript"])
def command(request: pytest.FixtureRequest) -> list[str]:
    """How a script is run."""
    if request.param == "python":
        return [sys.executable, str(SCRIPTS / "script.py")]
    folder: Path = request.getfixturevalue("node_folder")
    # Node 20 has WebSocket behind a flag, 22 without.
    return ["node", "--experimental-websocket", str(folder / "script.mjs")]


@contextmanager
def script(command: list[str], port: int) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "API_URL": f"http://127.0.0.1:{port}", "API_KEY": KEY}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def read(running: subprocess.Popen[str]) -> Any:
    out: IO[str] | None = running.stdout
    assert out is not None
    line = out.readline()
    if not line:
        assert running.stderr is not None
        pytest.fail(f"the script failed:\n{running.stderr.read()}", pytrace=False)
    return json.loads(line)


def api(port: int, method: str, path: str, body: object = None) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"X-API-Key": KEY, "Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status < 300, answer
    return answer


def visit(port: int, host: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers={"Host": host, **headers})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if response.status >= 400 else {}


def test_programs_of_others_work_and_their_previews_open_to_the_right_token_only(command: list[str], port: int) -> None:
    with script(command, port) as running:
        seen = read(running)
        name = seen["id"]
        assert name.startswith("sb-")
        assert (seen["status"], len(seen["token"])) == ("running", 43)
        # The Python client works no hostnames out.
        assert seen.get("domain", f"{name}-p80.localhost") == f"{name}-p80.localhost"
        assert seen.get("computed", seen["hostname"]) == seen["hostname"]
        assert (seen["again"], seen["hostname"]) == (True, f"{name}-p8123.localhost")
        assert (seen["ports"], seen["left"]) == ([80, 8123], [8123])
        assert seen["run"] == {"exitCode": 3, "stdout": "out\n", "stderr": "err\n"}
        assert seen["slow"] == {"exitCode": 0, "stdout": "slow\n", "stderr": ""}
        assert (seen["code"], seen["printed"]) == (7, {"out": "got hello\n", "err": "bad\n"})
        assert seen["killed"] == -9
        assert ["sh", False, 7] in seen["sessions"]
        assert seen["rotated"] != seen["token"]
        assert (seen["asleep"], seen["awake"], seen["connected"]) == (False, [True, "running"], name)

        at = f"/v1/sandboxes/{name}/processes"
        api(port, "POST", at, {"command": "python -m http.server 8123", "id": "web"})
        api(port, "POST", f"{at}/web/wait-for-port", {"port": 8123})
        host = seen["hostname"]
        right = seen["rotated"]
        assert visit(port, host, {"X-OC-Preview-Token": right})[0] == 200
        assert visit(port, host, {"Authorization": f"Bearer {right}"})[0] == 200
        for headers, code in (({}, "AUTH_REQUIRED"), ({"X-OC-Preview-Token": seen["token"]}, "AUTH_INVALID")):
            status, body = visit(port, host, headers)
            assert (status, body["code"]) == (401, code)

        assert running.stdin is not None
        running.stdin.write("go on\n")
        running.stdin.flush()
        assert read(running) == {"gone": True}
        assert running.wait(SCRIPT_S) == 0
        assert visit(port, host, {"X-OC-Preview-Token": right})[0] == 404
