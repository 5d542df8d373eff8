"""What does a wake add to the time that a service needs by itself?

A process sandbox with a small service in it is put to sleep and visited, over and over; the time from the visitor's
connection to its answer is what a person at a browser waits for. Beside it, the same service is started by hand, the
same way and as often, and the time is taken from its start until it has answered. The rounds are interleaved, and the
difference of the medians is what Portico adds: the wake's record on disk, a keeper, the services' record, and the pause
between two knocks.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

import trio

from actors import FileStore, Sandbox, open_runtime
from actors.surroundings import Limits
from bench._figure import Figure
from proxy import Options, Server

ROUNDS: Final = 30
ROUNDS_QUICK: Final = 7
PORT: Final = 9_871
"""Below the ephemeral range, where nobody else's connection can sit on it."""

GOAL_MS: Final = 50

# As little as a service in Python can be, so that what is added shows.
SERVICE: Final = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), reuse_port=False)
while True:
    client, _ = listener.accept()
    with client:
        if client.recv(65536):
            client.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""

COMMAND: Final = [sys.executable, "-I", "-S", "-c", SERVICE, str(PORT)]


def run(*, quick: bool = False) -> list[Figure]:
    """Measure, and return the figures."""
    return trio.run(_run, ROUNDS_QUICK if quick else ROUNDS)


async def _run(rounds: int) -> list[Figure]:
    woken: list[float] = []
    alone: list[float] = []
    with tempfile.TemporaryDirectory(prefix="portico-bench-") as folder:
        # The owner's own wakes are not counted; these are a visitor's.
        limits = Limits(wakes_per_minute=1_000_000)
        async with (
            open_runtime(FileStore(Path(folder)), limits=limits) as runtime,
            Server(runtime, listen="127.0.0.1:0", options=Options(drain_timeout_s=0)) as server,
        ):
            sandbox = await runtime.get_sandbox("bench")
            process = await sandbox.start_process(COMMAND, id="web")
            await process.wait_for_port(PORT)
            host = urlsplit((await sandbox.expose_port(PORT)).url).netloc
            await _get(server.port, host)
            for _ in range(rounds):
                woken.append(await _wake(sandbox, server.port, host))
                await sandbox.hibernate()
                alone.append(await _start_by_hand())
    wake_ms, alone_ms = statistics.median(woken) * 1000, statistics.median(alone) * 1000
    return [
        Figure("a service started by hand, until it has answered", alone_ms, "ms"),
        Figure("a visit that wakes it, until it is answered", wake_ms, "ms"),
        Figure("added by the wake", wake_ms - alone_ms, "ms", f"<= {GOAL_MS}"),
    ]


async def _wake(sandbox: Sandbox, port: int, host: str) -> float:
    await sandbox.hibernate()
    began = perf_counter()
    await _get(port, host)
    return perf_counter() - began


async def _start_by_hand() -> float:
    """Start the service and ask it as soon as it listens, knocking every millisecond."""
    began = perf_counter()
    process = await trio.lowlevel.open_process(COMMAND, stdin=subprocess.DEVNULL)
    try:
        while True:
            try:
                await _get(PORT, "localhost")
            except OSError:
                await trio.sleep(0.001)
            else:
                return perf_counter() - began
    finally:
        process.kill()
        await process.wait()


async def _get(port: int, host: str) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([bytes(data) async for data in stream])
    if not answer.endswith(b"\r\n\r\nok"):
        raise RuntimeError(f"no right answer: {answer[:200]!r}")


if __name__ == "__main__":
    for figure in run(quick="--quick" in sys.argv):
        print(f"{figure.name}: {figure.value:.1f} {figure.unit} {figure.goal}")
