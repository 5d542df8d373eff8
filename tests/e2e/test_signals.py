"""How a server ends: told to, told twice, and not told at all."""

import json
import os
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import Program, StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")
OWNER = os.path.join(os.path.dirname(__file__), "owner_server.py")
PROMPT_S = 5.0
"""Where waiting for streams would take the drain timeout of 30 s, or for ever."""


@pytest.fixture
def demo(start_python: "StartProgram", tmp_path: Path) -> "Program":
    return start_python(
        PORTICO, "demo", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", ready=r"^ *(http://\S+)$"
    )


def open_stream(url: str) -> socket.socket:
    """Return a connection on which the demo's clock ticks."""
    parts = urlsplit(url)
    stream = socket.create_connection(("127.0.0.1", parts.port or 80), timeout=10)
    stream.sendall(b"GET /clock HTTP/1.1\r\nHost: %b\r\n\r\n" % parts.netloc.encode("ascii"))
    received = b""
    while b"data: " not in received:
        received += stream.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")
    return stream


@asynccontextmanager
async def open_echo(url: str) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket, which has echoed once."""
    parts = urlsplit(url)
    # Python does not resolve *.localhost.
    stream = await trio.open_tcp_stream("127.0.0.1", parts.port or 80)
    async with stream, trio.open_nursery() as nursery:
        connection = await wrap_client_stream(nursery, stream, parts.netloc, "/echo")
        await connection.send_message("ping")
        assert await connection.get_message() == "ping"
        yield connection
        nursery.cancel_scope.cancel()


async def close_code(connection: WebSocketConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        await connection.get_message()
    assert closed.value.reason is not None
    return int(closed.value.reason.code)


async def test_unexposed_port_closes_its_websocket_with_1001(start_python: "StartProgram", tmp_path: Path) -> None:
    owner = await trio.to_thread.run_sync(
        lambda: start_python(OWNER, str(tmp_path / "data"), ready=r"ready (\S+) (\S+)")
    )
    with trio.fail_after(10):
        async with open_echo(owner.ready[1]) as connection:
            owner.process.send_signal(signal.SIGUSR1)
            assert await close_code(connection) == 1001


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
async def test_demo_ends_promptly_with_streams_open_and_leaves_no_process(how: signal.Signals, demo: "Program") -> None:
    services = psutil.Process(demo.process.pid).children(recursive=True)
    assert services
    async with open_echo(demo.ready[1]) as connection:
        with open_stream(demo.ready[1]):
            begun = time.monotonic()
            demo.process.send_signal(how)
            assert await trio.to_thread.run_sync(demo.process.wait, 20) == 0
            assert time.monotonic() - begun < PROMPT_S
        await close_code(connection)
    assert not [service for service in services if service.is_running()]


def test_server_killed_outright_leaves_no_process_and_a_folder_that_opens(
    start_python: "StartProgram", tmp_path: Path
) -> None:
    folder = str(tmp_path / "data")
    # Not by the fixture, which wants every program to exit with 0.
    command = [PORTICO, "demo", "--data", folder, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        url = next(line.strip() for line in killed.stdout if "http://" in line)
        services = psutil.Process(killed.pid).children(recursive=True)
        assert services
        killed.kill()
    _, alive = psutil.wait_procs(services, timeout=10)
    assert not alive
    port = urlsplit(url).port
    again = start_python(PORTICO, "demo", "--data", folder, "--listen", f"127.0.0.1:{port}", ready=r"^ *(http://\S+)$")
    assert again.ready[1] == url


# Draining.


@pytest.fixture
def slow_service() -> Iterator[socket.socket]:
    """A listening socket: the test itself answers what arrives there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


@pytest.fixture
def folder(tmp_path: Path, slow_service: socket.socket) -> tuple[str, str]:
    """A data folder that holds a sandbox whose service is `slow_service`; and that preview's first label."""
    port = slow_service.getsockname()[1]
    code = (
        "import sys, trio\n"
        "from actors import ContainerSpec, FileStore, open_runtime\n"
        "async def main():\n"
        "    async with open_runtime(FileStore(sys.argv[1])) as runtime:\n"
        "        spec = ContainerSpec('address', {'host': '127.0.0.1'})\n"
        "        sandbox = await runtime.get_sandbox('served', container=spec)\n"
        "        print((await sandbox.expose_port(int(sys.argv[2]))).token)\n"
        "trio.run(main)\n"
    )
    made = subprocess.run(
        [os.path.join(sysconfig.get_path("scripts"), "python"), "-c", code, str(tmp_path / "data"), str(port)],
        capture_output=True,
        text=True,
        check=True,
    )
    return str(tmp_path / "data"), f"{port}-served-{made.stdout.strip()}"


@pytest.fixture
def server(start_python: "StartProgram", folder: tuple[str, str]) -> "Program":
    return start_python(
        PORTICO,
        "serve",
        "--data",
        folder[0],
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
        ready=r"(\{.*listening.*)",
    )


def port_of(server: "Program") -> int:
    return int(json.loads(server.ready[1])["address"].rpartition(":")[2])


def ask(server: "Program", label: str) -> HTTPConnection:
    """Return a connection on which a request has been sent."""
    connection = HTTPConnection("127.0.0.1", port_of(server), timeout=10)
    connection.request("GET", "/", headers={"Host": f"{label}.localhost"})
    return connection


def take(service: socket.socket) -> socket.socket:
    """Return the connection of the request that has reached the service."""
    connection, _ = service.accept()
    connection.settimeout(10)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536)
    return connection


def answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow")


def wait_refused(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # It was in the listener's queue when that was closed.
    pytest.fail("it still accepts connections")


def test_response_under_way_is_completed_idle_connections_end_and_new_ones_are_refused(
    server: "Program", folder: tuple[str, str], slow_service: socket.socket
) -> None:
    label = folder[1]
    idle = ask(server, label)
    with take(slow_service) as first:
        answer(first)
        assert idle.getresponse().read() == b"slow"
    waiting = ask(server, label)
    with take(slow_service) as second:
        server.process.send_signal(signal.SIGTERM)
        assert idle.sock is not None
        assert idle.sock.recv(1) == b""
        wait_refused(port_of(server))
        assert server.process.poll() is None
        answer(second)
        response = waiting.getresponse()
        assert (response.status, response.read()) == (200, b"slow")
    assert server.process.wait(PROMPT_S) == 0
    idle.close()
    waiting.close()


def test_second_signal_cuts_what_is_under_way(
    server: "Program", folder: tuple[str, str], slow_service: socket.socket
) -> None:
    waiting = ask(server, folder[1])
    with take(slow_service) as service:
        server.process.send_signal(signal.SIGTERM)
        wait_refused(port_of(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PROMPT_S) == 0
        assert service.recv(1) == b""
    assert waiting.sock is not None
    assert waiting.sock.recv(65536) == b""
    waiting.close()
    server.stop()
    # The first start prints its API key too, which is no line of the log.
    events = [json.loads(line)["event"] for line in server.output if line.startswith("{")]
    assert events[-2:] == ["closing: requests under way may end", "closing at once"]
