"""Requests that nobody would think of, drawn from the OpenAPI document, against a real server: it keeps its word.

Schemathesis reads ``/openapi.json`` and tries every call with what the document allows, and with what it does not: no
answer may be a 500, none may be of a status or a form that is not documented, what is wrong must be refused and what is
right taken, and no call may forget to ask for a key.
"""

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCRIPTS: Final = sysconfig.get_path("scripts")
KEY: Final = "a-key-of-my-own-choice"
TRIES: Final = 8
"""Of each kind, for each call."""


def test_nothing_is_found(start_python: "StartProgram", tmp_path: Path) -> None:
    arguments = ["--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--log-format", "json"]
    environment = {**os.environ, "PORTICO_API_KEY": KEY}
    server = start_python(
        str(Path(__file__).with_name("serve_offline.py")),
        "serve",
        *arguments,
        ready=r"(\{.*\"listening\".*)",
        env=environment,
    )
    address = json.loads(server.ready[1])["address"]
    command = [
        os.path.join(SCRIPTS, "schemathesis"),
        *("--config-file", str(Path(__file__).with_name("schemathesis.toml"))),
        "run",
        f"http://{address}/openapi.json",
        *("--header", f"X-API-Key: {KEY}"),
        *("--max-examples", str(TRIES)),
        # The same each time: what is found must be found again.
        *("--seed", "1"),
        "--generation-deterministic",
        *("--phases", "examples,coverage,fuzzing"),
        *("--request-timeout", "40"),
        "--no-color",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
