"""`portico explain`, from the logs of a data folder and from a server."""

import json
from pathlib import Path

import pytest
import trio

from actors import ContainerSpec, FileStore, SandboxId, open_runtime
from proxy.local import LocalServer, announced
from tests.proxy.cli.conftest import Command
from tests.proxy.client.conftest import Script

URL = "http://8000-my-app-k3v9x0q2m7t1z8aa.localhost:8787/"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold a sandbox, made at 1000 s, whose port 8000 was exposed at 2000 s. No server runs."""
    now = [1000.0]

    async def main() -> None:
        store = FileStore(tmp_path / "data", clock=lambda: now[0])
        async with open_runtime(store, clock=lambda: now[0]) as runtime:
            sandbox = await runtime.get_sandbox(
                SandboxId("my-app"), container=ContainerSpec("address", {"host": "::1"})
            )
            now[0] = 2000.0
            await sandbox.expose_port(8000, token="k3v9x0q2m7t1z8aa")

    trio.run(main)
    return tmp_path / "data"


def explain(portico: Command, folder: Path, *more: str) -> dict[str, object]:
    said = portico("explain", URL, "--data", str(folder), "--json", *more)
    assert (said.code, said.err) == (0, "")
    answer = json.loads(said.out)
    assert isinstance(answer, dict)
    return answer


def test_logs_explain_now_and_then(portico: Command, folder: Path) -> None:
    now, then = explain(portico, folder), explain(portico, folder, "--at", "1500")
    assert isinstance(now["outcome"], dict)
    assert isinstance(then["outcome"], dict)
    assert (now["outcome"]["status"], now["outcome"]["code"]) == (None, "WAKES")
    assert (then["outcome"]["status"], then["outcome"]["code"]) == (404, "INVALID_TOKEN")


def test_people_get_a_table_without_the_token(portico: Command, folder: Path) -> None:
    said = portico("explain", URL, "--data", str(folder), "--at", "1970-01-01T00:25:00Z")
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["step", "host", "sandbox", "credential"]
    assert lines[-1] == "404 INVALID_TOKEN: Access denied: Invalid token or port not exposed"
    assert "k3v9x0q2m7t1z8aa" not in said.out


def test_server_of_the_folder_is_asked_where_there_is_one(script: Script, portico: Command, tmp_path: Path) -> None:
    outcome = {"status": 421, "code": "MISDIRECTED_REQUEST", "text": "no preview"}
    script.answer(200, {"url": "http://x/", "sandbox": None, "steps": [], "outcome": outcome})
    with announced(tmp_path, LocalServer(script.url, "key-of-this-run-0123456789")):
        said = portico("explain", "http://x/", "--at", "1500", "--data", str(tmp_path))
    assert said.out.endswith("421 MISDIRECTED_REQUEST: no preview\n")
    assert script.asked[0].target == "/v1/explain?url=http%3A%2F%2Fx%2F&at=1500.0"


def test_folder_that_is_not_there_is_exit_code_1(portico: Command) -> None:
    said = portico("explain", URL)
    assert (said.code, said.err) == (1, "portico: there is no data folder portico-data\n")
