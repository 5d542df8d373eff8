"""Sleep and wake with real processes on real sockets: nobody who comes is lost, and nothing is started twice."""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from actors import FileStore, Runtime, Sandbox, open_runtime, read_history
from actors.sandbox.events import RunEnd, RunEnded, RunStarted, ServiceExited
from proxy import Options, Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

REQUESTS = 500
PATIENCE_S = 60.0

# Answers with what was sent to it; takes its time before it listens, as real services do, and notes each start.
SERVICE = """
import os, socket, sys, threading, time
with open("starts", "a") as starts:
    starts.write("x")
time.sleep(0.5)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
def serve(client):
    with client, client.makefile("rb") as lines:
        length = 0
        for line in lines:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            if line == b"\\r\\n":
                break
        body = lines.read(length)
        client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Scene:
    def __init__(self, runtime: Runtime, store: FileStore, sandbox: Sandbox, server: Server, folder: Path) -> None:
        self.runtime = runtime
        self.store = store
        self.sandbox = sandbox
        self.server = server
        self.folder = folder
        self.host = ""

    @property
    def starts(self) -> int:
        """How often the service was started."""
        return len((self.folder / "containers" / "my-app" / "workspace" / "starts").read_bytes())

    async def post(self, body: bytes) -> bytes:
        """Return a whole answer."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.server.port)
        async with stream:
            head = f"POST / HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            await stream.send_all(head.encode() + body)
            return b"".join([bytes(data) async for data in stream])

    async def events(self, kind: type) -> list[object]:
        moments = await read_history(self.store, self.sandbox.id)
        return [moment.event for moment in moments if isinstance(moment.event, kind)]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Scene]:
    store = FileStore(folder)
    options = Options(drain_timeout_s=0)
    with trio.fail_after(PATIENCE_S):
        async with open_runtime(store) as runtime, Server(runtime, listen="127.0.0.1:0", options=options) as server:
            sandbox = await runtime.get_sandbox("my-app")
            yield Scene(runtime, store, sandbox, server, folder)


async def provision(scene: Scene, port: int) -> None:
    """Start the service and have it answer once."""
    process = await scene.sandbox.start_process([sys.executable, "-c", SERVICE, str(port)], id="web")
    await process.wait_for_port(port)
    exposed = await scene.sandbox.expose_port(port)
    scene.host = urlsplit(exposed.url).netloc
    assert (await scene.post(b"up")).endswith(b"\r\n\r\nup")


async def test_500_requests_at_once_to_a_sleeping_sandbox_cause_one_wake_and_500_right_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        await provision(scene, free_port())
        await scene.sandbox.hibernate()
        answers: dict[int, bytes] = {}

        async def come(number: int) -> None:
            answers[number] = await scene.post(b"body of %d" % number)

        async with trio.open_nursery() as nursery:
            for number in range(REQUESTS):
                nursery.start_soon(come, number)
        wrong = {number: answer for number, answer in answers.items() if not answer.endswith(b"\nbody of %d" % number)}
        assert not wrong
        assert len(answers) == REQUESTS
        assert scene.starts == 2
        assert len(await scene.events(RunStarted)) == 2
        assert [event.reason for event in await scene.events(RunEnded) if isinstance(event, RunEnded)] == [RunEnd.SLEPT]


async def test_a_wake_after_a_restart_of_the_server_brings_the_services_back(tmp_path: Path) -> None:
    port = free_port()
    async with serving(tmp_path) as scene:
        await provision(scene, port)
        host = scene.host
    async with serving(tmp_path) as scene:
        exposed = await scene.sandbox.expose_port(port)
        scene.host = urlsplit(exposed.url).netloc
        assert scene.host.partition(".")[0] == host.partition(".")[0]
        assert (await scene.post(b"again")).endswith(b"\r\n\r\nagain")
        # Whoever provisions it anew gets what is there.
        process = await scene.sandbox.start_process([sys.executable, "-c", SERVICE, str(port)], id="web")
        await process.wait_for_port(port)
        assert scene.starts == 2


async def test_a_process_that_dies_by_itself_is_on_the_record(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        process = await scene.sandbox.start_process("exit 7", id="job")
        assert await process.wait() == 7
        # Answered after all that waits already, the news of the exit too.
        await scene.sandbox.state()
        noted = await scene.events(ServiceExited)
        (event,) = noted
        assert isinstance(event, ServiceExited)
        assert (event.process, event.exit_code) == ("job", 7)
