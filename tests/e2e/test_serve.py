"""`portico serve` and `portico log` as programs: what they print, where, and what they never print."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import Program, StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")

# Makes the data folder in the way its users do: by embedding.
EMBEDDING = """
import sys, trio
from actors import ContainerSpec, FileStore, open_runtime

async def main():
    async with open_runtime(FileStore(sys.argv[1])) as runtime:
        spec = ContainerSpec("address", {"host": "127.0.0.1"})
        sandbox = await runtime.get_sandbox("served", container=spec)
        print((await sandbox.expose_port(int(sys.argv[2]), name="web")).token)
        print((await sandbox.expose_port(int(sys.argv[3]))).token)
        doomed = await runtime.get_sandbox("doomed", container=spec)
        print((await doomed.expose_port(int(sys.argv[2]))).token)
        await doomed.destroy()

trio.run(main)
"""


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"served")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the base class
        """Keep quiet."""


@pytest.fixture
def service() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@dataclass
class Data:
    """A data folder with a sandbox `served`, and `doomed`, which was destroyed."""

    folder: Path
    port: int
    """Where the service listens."""
    silent_port: int
    """Where nothing does."""
    tokens: list[str]
    """Of both ports of `served`, and of `doomed`."""

    @property
    def log_file(self) -> Path:
        (path,) = self.folder.glob("sandboxes/*/served.log")
        return path


@pytest.fixture
def data(tmp_path: Path, service: int) -> Data:
    # An ephemeral port next to one that is in use: nobody listens there, or the test of it fails at once.
    silent = service + 1 if service < 65535 else service - 1
    folder = tmp_path / "data"
    made = subprocess.run(
        [sys.executable, "-c", EMBEDDING, str(folder), str(service), str(silent)],
        capture_output=True,
        text=True,
        check=True,
    )
    return Data(folder, service, silent, made.stdout.split())


@pytest.fixture
def server(start_python: "StartProgram", data: Data) -> "Program":
    arguments = ["--data", str(data.folder), "--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"]
    environment = {**os.environ, "PORTICO_API_KEY": "a-key-of-my-own-choice"}
    return start_python(PORTICO, "serve", *arguments, ready=r"(\{.*\"listening\".*)", env=environment)


def get(server: "Program", host: str) -> tuple[int, bytes]:
    port = int(json.loads(server.ready[1])["address"].rpartition(":")[2])
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/some?secret=query", headers={"Host": host})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def log(data: Data, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PORTICO, "log", *arguments, "--data", str(data.folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_sandboxes_of_the_folder_are_served_and_nothing_printed_holds_a_token(server: "Program", data: Data) -> None:
    token, silent, doomed = data.tokens
    assert get(server, f"{data.port}-served-{token}.localhost") == (200, b"served")
    assert get(server, f"{data.silent_port}-served-{silent}.localhost")[0] == 502
    assert get(server, f"{data.port}-doomed-{doomed}.localhost")[0] == 404
    wrong = "x" * 16
    assert get(server, f"{data.port}-served-{wrong}.localhost")[0] == 404
    assert get(server, f"{data.port}-served-{token}.localhost:99999")[0] == 400
    assert server.stop() == 0
    printed = "".join(server.output)
    for secret in (*data.tokens, wrong, "secret=query", "a-key-of-my-own-choice"):
        assert secret not in printed
    events = [json.loads(line) for line in server.output]
    assert [event["event"] for event in events if event["level"] == "info"] == [
        "listening",
        "closing: requests under way may end",
        "closed",
    ]
    assert all({"event", "level", "timestamp"} <= event.keys() for event in events)


def test_log_is_read_beside_the_running_server_with_tokens_masked(server: "Program", data: Data) -> None:
    for arguments in (["served"], ["served", "--json"], ["served", "--at", "4000000000"], ["served", "--verify"]):
        shown = log(data, *arguments)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout
        assert not [token for token in data.tokens if token in shown.stdout]
    events = [json.loads(line) for line in log(data, "served", "--json").stdout.splitlines()]
    assert [event["event"] for event in events[:2]] == ["sandbox_created", "port_exposed"]
    assert events[1]["fields"]["token"] == "****"
    # The reader took nothing from the server.
    assert get(server, f"{data.port}-served-{data.tokens[0]}.localhost") == (200, b"served")


def test_log_of_a_destroyed_sandbox_is_still_there(data: Data) -> None:
    shown = log(data, "doomed", "--json")
    assert shown.returncode == 0
    assert json.loads(shown.stdout.splitlines()[-1])["event"] == "sandbox_destroyed"
    assert log(data, "doomed", "--verify").returncode == 0


def test_damaged_log_is_exit_code_1_and_the_byte(data: Data) -> None:
    content = bytearray(data.log_file.read_bytes())
    content[len(content) // 2] ^= 1
    data.log_file.write_bytes(content)
    shown = log(data, "served")
    assert shown.returncode == 1
    assert shown.stdout == ""
    (line,) = shown.stderr.splitlines()
    assert line.startswith("portico: the log of served is damaged at byte ")
    verified = log(data, "served", "--verify", "--json")
    assert verified.returncode == 1
    assert f"at byte {json.loads(verified.stdout)['valid_bytes']}:" in line


def test_pipe_that_is_closed_early_is_no_traceback(data: Data) -> None:
    # As `portico log served | head -0` does.
    read, write = os.pipe()
    os.close(read)
    command = [PORTICO, "log", "served", "--data", str(data.folder)]
    shown = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in shown.stderr


def test_server_goes_on_when_nobody_reads_its_log(data: Data) -> None:
    command = [PORTICO, "serve", "--data", str(data.folder), "--listen", "127.0.0.1:0", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = json.loads(server.stderr.readline())["address"]
        server.stderr.close()
        # What it says at its end meets a broken pipe.
        server.terminate()
        assert server.wait(10) == 0
    assert address.startswith("127.0.0.1:")
