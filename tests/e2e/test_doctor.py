"""`portico doctor` as a program, against `portico`'s own server as a program."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")

# Two services: a web app with a Host check of Vite's, and a port where nobody listens.
SERVER = """
import sys, trio
from actors import FileStore, open_runtime
from proxy import Server

APP = '''
from http.server import BaseHTTPRequestHandler, HTTPServer
class App(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Host"].startswith("localhost:")
        body = b"hello" if known else b"Blocked request. This host is not allowed."
        self.send_response(200 if known else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = HTTPServer(("127.0.0.1", 0), App)
print(server.server_address[1], flush=True)
server.serve_forever()
'''

async def main():
    async with open_runtime(FileStore(sys.argv[1])) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="process")
        app = await sandbox.start_process([sys.executable, "-c", APP])
        while not (printed := await app.logs()).endswith(b"\\n"):
            await trio.sleep(0.02)
        port = int(printed)
        async with Server(runtime, listen="127.0.0.1:0") as server:
            good = await sandbox.expose_port(port)
            other = await runtime.get_sandbox("other", container="process")
            preserved = await other.expose_port(port, host_header="preserve")
            silent = await sandbox.expose_port(port + 1 if port < 65535 else port - 1)
            print("READY", good.url, preserved.url, silent.url, flush=True)
            await trio.sleep_forever()

import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
trio.run(main)
"""


def doctor(*arguments: str) -> tuple[int, str]:
    ended = subprocess.run([PORTICO, "doctor", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


def test_doctor_tells_a_sound_preview_from_broken_ones(start_python: "StartProgram", tmp_path: Path) -> None:
    data = tmp_path / "data"
    program = start_python("-c", SERVER, str(data), ready=r"READY (\S+) (\S+) (\S+)")
    good, preserved, silent = program.ready.groups()
    tokens = [url.split(".")[0].rpartition("-")[2] for url in (good, preserved, silent)]
    said = []

    code, out = doctor(good)
    assert code == 0, out
    assert out.endswith("Nothing to mend.\n")
    said.append(out)

    code, out = doctor(preserved, "--data", str(data))
    assert code == 1, out
    assert "Vite refuses the Host" in out
    assert "Mend this: let the service see localhost, which it takes: await sandbox.expose_port(" in out
    said.append(out)

    code, out = doctor(silent, "--json", "--data", str(data))
    answer = json.loads(out)
    assert (code, answer["sound"]) == (1, False)
    steps = {step["step"]: step for step in answer["steps"]}
    assert (steps["run"]["outcome"], steps["port"]["outcome"]) == ("ok", "failed")
    assert "127.0.0.1: connection refused" in steps["port"]["text"]
    assert "::1: " in steps["port"]["text"]
    said.append(out)

    wrong = good.replace(tokens[0], tokens[0][:-1] + ("a" if tokens[0][-1] != "a" else "b"))
    code, out = doctor(wrong, "--data", str(data))
    assert code == 1, out
    assert "it has had another since" in out
    said.append(out)

    assert not [token for token in tokens if token in "".join(said)]
    # It looked, and changed nothing: the log is read without being claimed.
    ended = subprocess.run(
        [PORTICO, "log", "my-app", "--data", str(data), "--verify"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
