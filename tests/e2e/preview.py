"""What the tests of traffic share: a preview server in a child process, and both ends of the wire, byte by byte.

Client and service are the test's own and write down their bytes themselves, so that nothing corrects what Portico
should have passed on, or passes over what it should not have. The server is `preview_child.py`.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TextIO, cast

import psutil
import trio

ROOT: Final = Path(__file__).resolve().parents[2]
CHILD: Final = ROOT / "tests" / "e2e" / "preview_child.py"
START_S: Final = 20.0
"""For the child to serve; Python starts in well under a second."""
STEP_S: Final = 20.0
"""For anything that a test waits for: what ought to end takes milliseconds, and this tells it from what never does."""
RECEIVE_BYTES: Final = 2**20


class Preview:
    """A running `preview_child.py`. Made by `preview_server`."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, control: TextIO) -> None:
        self.process: Final = process
        self.port: Final = port
        self._control = control

    def tell(self, *command: object) -> object:
        """Give a command and return the answer; see the child for which there are."""
        self._control.write(json.dumps(command) + "\n")
        self._control.flush()
        answer = self._control.readline()
        assert answer, f"the server has ended on {command}"
        return cast("object", json.loads(answer))

    def expose(self, port: int) -> str:
        """Return the hostname (with the server's port) under which a port of the loopback can be visited."""
        return str(self.tell("expose", port))

    def memory(self) -> int:
        """Return the resident memory of the server's process, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def forget_peak(self) -> None:
        """Let `peak_memory` begin anew."""
        # proc(5): 5 resets the peak resident set size.
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the most resident memory that it has had since `forget_peak`, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    async def connect(self) -> "Wire":
        """Return a new client connection."""
        return Wire(await trio.open_tcp_stream("127.0.0.1", self.port))

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Wire"]:
        """Open a client connection for the length of the block."""
        async with await self.connect() as wire:
            yield wire


@contextmanager
def preview_server(folder: Path) -> Iterator[Preview]:
    """Run a server for the length of the block; it must end by itself after it, and report no failure of its own."""
    printed = folder / "printed"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        printed.open("wb") as output,
        subprocess.Popen(
            [sys.executable, str(CHILD), str(folder / "data"), str(listener.getsockname()[1])],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            listener.settimeout(START_S)
            control, _ = listener.accept()
            with control, control.makefile("rw", encoding="ascii") as lines:
                port = lines.readline()
                assert port, f"the server did not start:\n{printed.read_text()}"
                yield Preview(process, int(port), lines)
            code = process.wait(STEP_S)
        finally:
            if process.poll() is None:
                process.kill()
    said = printed.read_text()
    assert code == 0, f"the server ended with code {code}:\n{said}"
    assert "failed" not in said, said
    assert "Traceback" not in said, said


class Wire:
    """One end of a connection: what is sent is sent as it is, what comes is read by its framing."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream: Final = stream
        self.buffered = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def send(self, data: bytes | memoryview) -> None:
        await self.stream.send_all(data)

    async def send_chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def more(self) -> bytes:
        """Return what comes next, b"" at the end of the stream."""
        if self.buffered:
            data = bytes(self.buffered)
            self.buffered.clear()
            return data
        return bytes(await self.stream.receive_some(RECEIVE_BYTES))

    async def until(self, mark: bytes) -> bytes:
        """Return everything up to and with `mark`."""
        while mark not in self.buffered:
            data = await self.stream.receive_some(RECEIVE_BYTES)
            assert data, f"ended before {mark!r}: {bytes(self.buffered)!r}"
            self.buffered += data
        return self._take(self.buffered.index(mark) + len(mark))

    async def exactly(self, count: int) -> bytes:
        while len(self.buffered) < count:
            data = await self.stream.receive_some(RECEIVE_BYTES)
            assert data, f"ended {count - len(self.buffered)} bytes early: {bytes(self.buffered)!r}"
            self.buffered += data
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self.buffered[:count])
        del self.buffered[:count]
        return taken

    async def rest(self) -> bytes:
        """Return everything up to the end of the stream."""
        whole = bytearray()
        while data := await self.more():
            whole += data
        return bytes(whole)

    async def head(self) -> "Head":
        return Head(await self.until(b"\r\n\r\n"))

    async def chunk(self) -> bytes:
        """Return the next chunk's data, b"" for the last one, whose trailers are then next: see `trailers`."""
        size = int((await self.until(b"\r\n"))[:-2], 16)
        if not size:
            return b""
        data = await self.exactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def chunked(self, count: int) -> bytes:
        """Return `count` bytes of a chunked body, however they were cut; they must end where a chunk does."""
        data = b""
        while len(data) < count:
            chunk = await self.chunk()
            assert chunk, f"the body ended after {data!r}"
            data += chunk
        assert len(data) == count, data
        return data

    async def trailers(self) -> list[bytes]:
        """Return the trailer lines after the last chunk."""
        lines = []
        while (line := await self.until(b"\r\n")) != b"\r\n":
            lines.append(line[:-2])
        return lines

    async def body(self, head: "Head") -> bytes:
        """Return the whole body of a message with this head, whose trailers must be none."""
        if head.values(b"transfer-encoding") == [b"chunked"]:
            data = b""
            while chunk := await self.chunk():
                data += chunk
            assert await self.trailers() == []
            return data
        lengths = head.values(b"content-length")
        return await self.exactly(int(lengths[0])) if lengths else await self.rest()


async def end_of(wire: Wire) -> bytes:
    """Return what still comes before the end; how it ends does not matter."""
    try:
        return await wire.rest()
    except trio.BrokenResourceError:
        return b""


class Head:
    """A request's or response's head, as it came."""

    def __init__(self, raw: bytes) -> None:
        self.raw: Final = raw
        self.start, *lines = raw[:-4].split(b"\r\n")
        self.fields: Final = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)
        ]

    def __repr__(self) -> str:
        return repr(self.raw)

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    def values(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.fields if found == name]


class Service:
    """A port of the loopback on which the test itself answers. Made by `service`."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.port: Final = int(listener.socket.getsockname()[1])
        self.wires: Final[list[Wire]] = []
        """What was accepted; closed at the end of the test."""

    async def accept(self) -> Wire:
        self.wires.append(Wire(await self._listener.accept()))
        return self.wires[-1]

    async def take(self) -> tuple[Wire, Head]:
        """Return the next connection and the request that came on it."""
        wire = await self.accept()
        return wire, await wire.head()


@asynccontextmanager
async def service() -> AsyncIterator[Service]:
    """Listen on a port for the length of the block."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        found = Service(listener)
        try:
            yield found
        finally:
            for wire in found.wires:
                await trio.aclose_forcefully(wire.stream)


@dataclass(frozen=True)
class Scene:
    """A client, a service of its own, and the preview between them. Made by `scene`."""

    preview: Preview
    host: bytes
    client: Wire
    service: Service

    async def ask(self, lines: bytes = b"GET / HTTP/1.1") -> tuple[Wire, Head]:
        """Send a request head, given without Host and its last empty line; return what reaches the service."""
        await self.client.send(self.head(lines))
        return await self.service.take()

    def head(self, lines: bytes = b"GET / HTTP/1.1") -> bytes:
        start, _, fields = lines.partition(b"\r\n")
        return b"\r\n".join([start, b"Host: " + self.host, *([fields] if fields else []), b"", b""])


@asynccontextmanager
async def scene(preview: Preview) -> AsyncIterator[Scene]:
    """Expose a new service, and connect a client to the preview; the whole block must end within `STEP_S`."""
    with trio.fail_after(STEP_S):
        async with service() as app, preview.client() as client:
            yield Scene(preview, preview.expose(app.port).encode("ascii"), client, app)
