"""Real processes, really killed: what a runtime has acknowledged is there afterwards, and nothing is half there.

SIGKILL takes the process and leaves the kernel, so this is about the order of writing and telling, about recovery,
and about every place in between where a process can stop existing. What a power cut takes besides, the bytes that were
written and not synced, is the affair of `test_storage_faults`.
"""

import json
import os
import random  # noqa: TID251  # seeded: a round that failed can be played again
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from actors.errors import SandboxNotFoundError
from actors.filestore import FileStore
from actors.history import read_history
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SandboxState, Status

CHILD = Path(__file__).with_name("crash_child.py")
FOLDERS = 10
ROUNDS = 20
"""Per folder: each recovers from what the kill before has left."""
SANDBOXES = ("app-1", "app-2", "app-3", "app-4")
LINES_MAX = 120
"""How far a child may come before it is killed; a round is a few dozen changes."""

Ports = dict[int, str]
"""{port: token} of a sandbox that exists."""

pytestmark = pytest.mark.slow


class Server:
    """`crash_child` as a process."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )

    def begin(self, folder: Path, seed: int) -> int:
        """Start a child; return its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder} {seed}\n".encode())
        self._process.stdin.flush()
        pid = self.read()["pid"]
        assert isinstance(pid, int)
        return pid

    def read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the server ended: {Path(self._errors.name).read_text()[-2000:]}"
        told: dict[str, object] = json.loads(line)
        return told

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("crash") / "errors")
    yield running
    running.close()


class Told:
    """What a child has acknowledged about one sandbox, and what it was about to do."""

    def __init__(self, ports: Ports | None) -> None:
        self.ports = ports
        """None: there is no such sandbox."""
        self.intent: dict[str, object] | None = None

    def hear(self, line: dict[str, object]) -> None:
        if "intent" in line:
            self.intent = line
            return
        assert self.intent is not None, "an answer follows a question"
        if line["done"] == "nothing":
            assert self.ports is None, "a sandbox that exists is found"
        else:
            assert line["done"] == self.intent["intent"]
            self.ports = self.carried_out()
        self.intent = None

    def carried_out(self) -> Ports | None:
        """What there is once the intent has been carried out."""
        assert self.intent is not None
        port, token = self.intent["port"], self.intent["token"]
        assert isinstance(port, int)
        assert isinstance(token, str)
        if self.intent["intent"] == "create":
            return self.ports or {}
        if self.ports is None or self.intent["intent"] == "destroy":
            return None
        kept = {number: old for number, old in self.ports.items() if number != port}
        return {**kept, port: token} if self.intent["intent"] == "expose" else kept

    def check(self, found: Ports | None) -> None:
        """Compare with what is there: all that was acknowledged, and the intent wholly or not at all."""
        possible = [self.ports, *([self.carried_out()] if self.intent is not None else [])]
        assert found in possible, f"acknowledged {self.ports}, intended {self.intent}, found {found}"
        self.ports, self.intent = found, None


async def read_states(folder: Path) -> dict[str, SandboxState | None]:
    """Read the logs as they lie there, without recovering anything."""
    states: dict[str, SandboxState | None] = {}
    async with FileStore(folder, read_only=True) as store:
        for sandbox in SANDBOXES:
            try:
                moments = await read_history(store, SandboxId(sandbox))
            except SandboxNotFoundError:
                moments = []
            states[sandbox] = moments[-1].state if moments else None
    return states


def ports_of(state: SandboxState | None) -> Ports | None:
    # One that is destroyed and not cleared away yet is gone for everybody who asks.
    if state is None or state.status is Status.DESTROYED:
        return None
    assert state.auth is not None, "a sandbox that was created with a gate is never without it"
    return {int(port): exposure.token.reveal() for port, exposure in state.ports.items()}


def live_and_die(server: Server, folder: Path, seed: int, told: dict[str, Told]) -> int:
    """Let one child live until a moment that `seed` names; return how many changes it acknowledged."""
    choose = random.Random(seed)
    pid = server.begin(folder, seed)
    acknowledged = 0
    lines_left = choose.randrange(LINES_MAX)
    killed = False
    while True:
        if not killed and lines_left <= 0:
            # A little later than a line that was read: the child is somewhere in between.
            for _ in range(choose.randrange(20_000)):
                pass
            os.kill(pid, signal.SIGKILL)
            killed = True
        line = server.read()
        lines_left -= 1
        if "gone" in line:
            assert line["gone"] == signal.SIGKILL, "a child ended by itself"
            return acknowledged
        if "found" in line:
            found = line["found"]
            assert isinstance(found, dict)
            for sandbox, ports in found.items():
                after = None if ports is None else {int(port): token for port, token in ports.items()}
                assert after == told[sandbox].ports, f"recovery changed {sandbox}"
        else:
            told[str(line["sandbox"])].hear(line)
            acknowledged += "done" in line


@pytest.mark.parametrize("number", range(FOLDERS))
def test_killed_runtime_has_kept_what_it_acknowledged_and_nothing_by_halves(
    number: int, server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    told = {sandbox: Told(None) for sandbox in SANDBOXES}
    acknowledged = 0
    for round_ in range(ROUNDS):
        acknowledged += live_and_die(server, folder, number * 1000 + round_, told)
        states = trio.run(read_states, folder) if folder.exists() else {}
        for sandbox in SANDBOXES:
            told[sandbox].check(ports_of(states.get(sandbox)))
    assert acknowledged > ROUNDS, "children were killed before they could do anything"
