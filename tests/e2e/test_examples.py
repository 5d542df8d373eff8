"""Every example, as its reader runs it: a program that prints a URL, answers there, and ends with Ctrl-C."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Final
from urllib.parse import urlsplit

import pytest
import trio
from trio_websocket import wrap_client_stream

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT: Final = Path(__file__).resolve().parents[2]
START_S: Final = 30.0
STOP_S: Final = 10.0
"""Prompt, for a machine that may be busy: each example gives what is open at most a second or two."""


# Below the range from which the kernel hands them out, so that nobody is given one by chance between our look and
# its use; and begun elsewhere by each test run.
_PORTS: Final = iter(range(20_000 + os.getpid() % 5_000, 32_000))


def free_port() -> int:
    """Return a port that nobody listens on, another one each time."""
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Example:
    """A running example."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed: list[str] = []
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.printed.append(line)
                self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the first line from now on that matches."""
        while (line := self._lines.get(timeout=START_S)) is not None:
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"ended without printing {pattern!r}:\n{''.join(self.printed)}")

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait_ended(self) -> None:
        """Wait for its end, which must be a clean one."""
        code = self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        printed = "".join(self.printed)
        assert code == 0, printed
        assert "Traceback" not in printed, printed


@contextmanager
def running(folder: Path, name: str, *arguments: str, ends_by_itself: bool = False) -> Iterator[Example]:
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "examples" / name), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    example = Example(process)
    try:
        yield example
        if not ends_by_itself:
            example.press_ctrl_c()
        example.wait_ended()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def get(url: str, path: str = "/", *, host: str | None = None) -> tuple[int, bytes]:
    """Ask like a client that knows ``*.localhost``: dial the loopback address, name the host."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=START_S)
    try:
        connection.request("GET", path, headers={"Host": host or parts.netloc})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def assert_stands_for_a_preview(url: str) -> None:
    """What a right URL and a wrong one are answered by whatever routes to the service."""
    status, body = get(url)
    assert status == 200
    assert b"Directory listing" in body
    wrong = re.sub(r"-[a-z0-9]{16}\.", "-aaaaaaaaaaaaaaaa.", urlsplit(url).netloc)
    status, body = get(url, host=wrong)
    assert status == 404
    assert b"INVALID_TOKEN" in body


def test_embed_server_serves_and_keeps_its_url(tmp_path: Path) -> None:
    arguments = ["--listen", f"127.0.0.1:{free_port()}", "--service-port", str(free_port())]
    with running(tmp_path, "embed_server.py", *arguments) as example:
        url = example.wait_for(r"http://\S+")[0]
        assert_stands_for_a_preview(url)
    with running(tmp_path, "embed_server.py", *arguments) as example:
        assert example.wait_for(r"http://\S+")[0] == url


def test_own_trio_server_hands_connections_to_the_router(tmp_path: Path) -> None:
    with running(tmp_path, "own_trio_server.py", "--port", "0", "--service-port", str(free_port())) as example:
        assert_stands_for_a_preview(example.wait_for(r"http://\S+")[0])


def test_address_container_reaches_a_service_that_runs_elsewhere(tmp_path: Path) -> None:
    port = str(free_port())
    service = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", port, "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with (
            service,
            running(tmp_path, "address_container.py", "--service-port", port, "--listen", "127.0.0.1:0") as it,
        ):
            assert service.stdout is not None
            assert "Serving HTTP" in service.stdout.readline()
            assert_stands_for_a_preview(it.wait_for(r"http://\S+")[0])
            service.terminate()
    finally:
        service.kill()


def test_proxy_to_sandbox_answers_previews_and_leaves_the_rest_to_the_server(tmp_path: Path) -> None:
    with running(tmp_path, "proxy_to_sandbox.py", "--port", "0", "--service-port", str(free_port())) as example:
        url = example.wait_for(r"http://\S+")[0]
        assert_stands_for_a_preview(url)
        assert get(url, host="localhost") == (200, b"This is the server's own page.\n")


def test_bring_your_own_proxy_relays_bytes_for_a_visit(tmp_path: Path) -> None:
    with running(tmp_path, "bring_your_own_proxy.py", "--port", "0", "--service-port", str(free_port())) as example:
        status, body = get(example.wait_for(r"http://\S+")[0])
        assert status == 200
        assert b"Directory listing" in body


def test_websocket_from_owner_hears_its_echo(tmp_path: Path) -> None:
    arguments = ["--service-port", str(free_port())]
    with running(tmp_path, "websocket_from_owner.py", *arguments, ends_by_itself=True) as example:
        assert example.wait_for("the service says: (.*)")[1] == "hello"


async def test_own_app_with_previews_serves_app_events_and_websockets(tmp_path: Path) -> None:
    with running(tmp_path, "own_app_with_previews.py", "--port", "0", "--service-port", str(free_port())) as example:
        url = (await trio.to_thread.run_sync(example.wait_for, r"http://\S+"))[0]
        parts = urlsplit(url)
        assert parts.port is not None
        own = await trio.to_thread.run_sync(lambda: get(url, host="localhost"))
        assert own == (200, b"This is the app's own page.\n")
        status, page = await trio.to_thread.run_sync(get, url)
        assert (status, page[:15]) == (200, b"<!doctype html>")
        await read_two_events(parts.netloc, parts.port)
        await echo_text_and_bytes(parts.netloc, parts.port)
        assert await trio.to_thread.run_sync(get, url, "/health") == (200, b'{"status": "ok"}\n')


async def read_two_events(host: str, port: int) -> None:
    """Read the demo's clock until its second event: each must come when it is sent, or this takes for ever."""
    with trio.fail_after(START_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"GET /clock HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("ascii"))
            seen = b""
            while seen.count(b"data: ") < 2:
                data = await stream.receive_some()
                assert data, seen
                seen += data
    assert b"text/event-stream" in seen


async def echo_text_and_bytes(host: str, port: int) -> None:
    with trio.fail_after(START_S):
        async with trio.open_nursery() as nursery:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with await wrap_client_stream(nursery, stream, host, "/echo") as websocket:
                await websocket.send_message("grüße")
                assert await websocket.get_message() == "grüße"
                await websocket.send_message(b"\x00\xff" * 50_000)
                assert await websocket.get_message() == b"\x00\xff" * 50_000
