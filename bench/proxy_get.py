"""What does one proxied GET cost the server, over real sockets? ``python -m bench.proxy_get [--quick]``

Three processes: a service that does next to nothing, the server under test in front of it, and here the clients,
which keep their connections alive. Only the server's CPU time is counted, as the kernel reports it, so the other
two may be as slow as they like. On a noisy machine the best round is what the code costs.
"""

import argparse
import logging
import selectors
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import trio

from actors import ContainerSpec, MemoryStore, open_runtime
from bench._figure import Figure
from proxy import Server

CONNECTIONS = 32
REQUESTS = 16_000
ROUNDS = 7

# Ten fields beside Host, as a browser sends them.
FIELDS = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: http://example.com/\r\n"
    b"Connection: keep-alive\r\n"
    b"Cookie: session=4f067f0c84a92f88; theme=dark\r\n"
    b"Sec-Fetch-Dest: script\r\n"
    b"Sec-Fetch-Mode: no-cors\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: bench\r\n"
    b"Date: Sat, 01 Nov 2025 10:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: 13\r\n"
    b"\r\n"
    b"Hello, world!"
)


def serve_plainly() -> None:
    """Be the service: answer every head with the same bytes. Prints its port."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listener.getsockname()[1], flush=True)
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(sock, selectors.EVENT_READ)
            elif isinstance(key.fileobj, socket.socket):
                if data := key.fileobj.recv(65536):
                    key.fileobj.sendall(RESPONSE * data.count(b"\r\n\r\n"))
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            else:
                return


async def serve_previews(service_port: int) -> None:
    """Be the server under test. Prints its port and the Host of the preview; ends with its standard input."""
    # Standard output is for the two values alone.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("bench", container=ContainerSpec("address", {"host": "127.0.0.1"}))
        exposed = await sandbox.expose_port(service_port, hostname="example.com")
        async with Server(runtime, domains=["example.com"], listen="127.0.0.1:0") as server:
            print(server.port, exposed.url.split("/")[2], flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)


@contextmanager
def process(*args: str, module: str = "bench.proxy_get") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a part of a benchmark in a process of its own; give its first line. It ends when its input does."""
    command = [sys.executable, "-m", module, *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.stdin.close()


def cpu_ns(pid: int) -> int:
    """Give the time that all threads of a process have been on a CPU, in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def drive(port: int, request: bytes, count: int, connections: int) -> None:
    """Send `count` requests, one at a time on each of `connections`, and check every answer by its end."""
    selector = selectors.DefaultSelector()
    received: dict[socket.socket, bytes] = {}
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ)
        received[sock] = b""
        sock.sendall(request)
    to_send = count - connections
    to_come = count
    while to_come:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            sock = key.fileobj
            received[sock] += sock.recv(65536)
            if not received[sock].endswith(b"Hello, world!"):
                assert b"200 OK" in received[sock][:20], received[sock][:200]
                continue
            received[sock] = b""
            to_come -= 1
            if to_send:
                to_send -= 1
                sock.sendall(request)
    for sock in received:
        sock.close()


def run(quick: bool = False) -> list[Figure]:
    """Measure, in three processes."""
    count = REQUESTS // 8 if quick else REQUESTS
    with process("service") as (_, service_port), process("server", service_port) as (server, line):
        port, host = line.split()
        request = b"GET /assets/app.js?v=20 HTTP/1.1\r\nHost: " + host.encode() + b"\r\n" + FIELDS + b"\r\n"
        drive(int(port), request, count // 4, CONNECTIONS)
        costs = []
        for _ in range(ROUNDS):
            before = cpu_ns(server.pid)
            drive(int(port), request, count, CONNECTIONS)
            costs.append((cpu_ns(server.pid) - before) / count / 1000)
    return [
        Figure("proxied GET, CPU of the server, best round", min(costs), "us", "< 150"),
        Figure("proxied GET, CPU of the server, median round", statistics.median(costs), "us"),
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("part", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.part:
        case ["service"]:
            serve_plainly()
        case ["server", port]:
            trio.run(serve_previews, int(port))
        case _:
            for name, value, unit, goal in run(options.quick):
                print(f"{name:<45} {value:>10.1f} {unit:<3} {goal}")


if __name__ == "__main__":
    main()
