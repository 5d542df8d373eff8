"""The face without async: the other one's code, and as good against a server."""

import inspect
import subprocess
import sys

import pytest

from actors import SandboxNotFoundError
from proxy.client import AsyncClient, AsyncProcess, AsyncSandbox, Client, Process, Sandbox, ServerUnreachableError
from tests.proxy.client.conftest import KEY, Script
from tests.proxy.client.unasync import FOLDER, unasync

PROCESS = {"id": "p-1", "command": "sleep 1", "pid": 7, "status": "running", "exit_code": None}


def test_it_is_the_other_face_without_async() -> None:
    written = unasync((FOLDER / "aio.py").read_text(encoding="utf-8"))
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(FOLDER / "sync.py"), "-"],
        input=written,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert formatted == (FOLDER / "sync.py").read_text(encoding="utf-8"), "run unasync.py, and format"


@pytest.mark.parametrize(("ours", "theirs"), [(Client, AsyncClient), (Sandbox, AsyncSandbox), (Process, AsyncProcess)])
def test_names_and_arguments_are_the_same(ours: type, theirs: type) -> None:
    def public(of: type) -> dict[str, list[str]]:
        found = inspect.getmembers(of, inspect.isfunction)
        return {
            name.replace("aclose", "close"): list(inspect.signature(function).parameters)
            for name, function in found
            if not name.startswith("_")
        }

    assert public(ours) == public(theirs)


def test_calls_block_until_they_are_answered(script: Script) -> None:
    script.refuse(503, "OVERLOADED")
    script.answer(201, PROCESS)
    script.answer(200, b"line\n")
    script.answer(200, b"x" * 100_000)
    script.answer(200, PROCESS)
    script.refuse(404, "SANDBOX_NOT_FOUND")
    with Client(script.url, api_key=KEY) as client:
        process = Sandbox(client, "my-app").start_process("sleep 1")
        assert process.logs() == b"line\n"
        with process.follow_logs() as pieces:
            assert next(pieces).startswith(b"x")
        process.refresh()
        with pytest.raises(SandboxNotFoundError):
            client.find_sandbox("my-app")
    assert script.asked[0].headers["idempotency-key"] == script.asked[1].headers["idempotency-key"]


def test_server_that_is_not_there_is_unreachable(script: Script) -> None:
    with Client("http://127.0.0.1:1", api_key=KEY) as client, pytest.raises(ServerUnreachableError):
        client.health()
