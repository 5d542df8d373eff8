"""How many changes a second does the management API make, on one core?

Run by itself: ``python -m bench.api [--quick]``. A whole `portico serve`, held to one core, with its data folder on
this disk; sixteen clients on kept connections, each of which exposes and unexposes ports of its own sandbox. Every
change is durable before it is answered, so the disk is measured too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

from bench._figure import Figure

CLIENTS = 16
KEY = "a-key-for-the-benchmark"
SERVER_CORE = 0


def _change(connection: HTTPConnection, method: str, path: str, body: object = None) -> None:
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"X-API-Key": KEY, "Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status < 300, answer


def _client(port: int, number: int, until: threading.Event, took: list[float]) -> None:
    connection = HTTPConnection("127.0.0.1", port)
    name = f"bench-{number}"
    spec = {"kind": "address", "options": {"host": "127.0.0.1"}}
    _change(connection, "POST", "/v1/sandboxes", {"id": name, "container": spec})
    while not until.is_set():
        for method in ("PUT", "DELETE"):
            began = time.perf_counter()
            _change(connection, method, f"/v1/sandboxes/{name}/ports/8080")
            took.append(time.perf_counter() - began)
    connection.close()


def run(*, quick: bool = False) -> list[Figure]:
    """Measure."""
    seconds = 2.0 if quick else 10.0
    command = [os.path.join(sysconfig.get_path("scripts"), "portico"), "serve", "--listen", "127.0.0.1:0"]
    with tempfile.TemporaryDirectory(prefix="portico-bench-", dir=Path.cwd()) as folder:
        server = subprocess.Popen(
            [*command, "--data", folder, "--log-format", "json"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PORTICO_API_KEY": KEY},
        )
        try:
            os.sched_setaffinity(server.pid, {SERVER_CORE})
            assert server.stderr is not None
            port = int(json.loads(server.stderr.readline())["address"].rpartition(":")[2])
            until, took = threading.Event(), list[float]()
            clients = [threading.Thread(target=_client, args=(port, n, until, took)) for n in range(CLIENTS)]
            for client in clients:
                client.start()
            until.wait(seconds)
            until.set()
            for client in clients:
                client.join()
        finally:
            server.terminate()
            server.wait()
    return [
        Figure("durable changes a second, server on one core", len(took) / seconds, "/s", ">= 200"),
        Figure("median of one change, 16 clients at once", statistics.median(took) * 1000, "ms"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    for figure in run(quick=parser.parse_args().quick):
        sys.stdout.write(f"{figure.name}: {figure.value:.1f} {figure.unit}  {figure.goal}\n")
