"""Does a proxy do what it should? Asked of each before anything is measured.

A proxy that answers fast and wrongly would win. Each check raises `SmokeError` with what came instead.
"""

import base64
import hashlib
import http.client
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from bench.peers.scene import DOMAIN, WEBSOCKET_KEY, Preview, websocket_head, wrong

TIMEOUT_S: Final = 10.0
UPLOAD_BYTES: Final = 300_000
FLUSH_S: Final = 0.1
"""The service sends its second event 0.3 s after the first; one that comes so much earlier was not held back."""

_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""


class SmokeError(Exception):
    """A proxy does not do what it should."""


def check(port: int, served: Sequence[Preview]) -> None:
    """Ask everything of the proxy at that port.

    Raises:
        SmokeError: With what it got wrong.
    """
    first, last = served[0], served[-1]
    steps: list[tuple[str, Callable[[], None]]] = [
        ("a request to the first preview", lambda: _reaches(port, first)),
        ("a request to the last preview", lambda: _reaches(port, last)),
        ("a wrong token", lambda: _refuses(port, wrong(first).host)),
        ("an unknown sandbox", lambda: _refuses(port, f"{first.port}-nobody-{first.token}.{DOMAIN}")),
        ("a host of no preview", lambda: _refuses(port, f"www.{DOMAIN}")),
        ("an upload", lambda: _uploads(port, first)),
        ("a WebSocket", lambda: _echoes(port, first)),
        ("a WebSocket with a wrong token", lambda: _refuses_websocket(port, wrong(first))),
        ("server-sent events", lambda: _streams(port, first)),
    ]
    for what, step in steps:
        try:
            step()
        except (OSError, http.client.HTTPException) as error:
            raise SmokeError(f"{what}: {str(error) or type(error).__name__}") from error
        except SmokeError as error:
            raise SmokeError(f"{what}: {error}") from error


def _ask(port: int, host: str, target: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, target, body, {"Host": host})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise SmokeError(f"{found!r} instead of {wanted!r}")


def _reaches(port: int, preview: Preview) -> None:
    _expect(_ask(port, preview.host, "/port"), (200, str(preview.port).encode()))
    _expect(_ask(port, preview.host, "/"), (200, b"Hello, world!"))


def _refuses(port: int, host: str) -> None:
    status, _ = _ask(port, host, "/port")
    if not 400 <= status < 500:
        raise SmokeError(f"answered with {status}")


def _uploads(port: int, preview: Preview) -> None:
    answer = _ask(port, preview.host, "/upload", "POST", bytes(UPLOAD_BYTES))
    _expect(answer, (200, f"received {UPLOAD_BYTES}".encode()))


def _shake_hands(port: int, preview: Preview) -> tuple[socket.socket, bytes]:
    sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    try:
        sock.sendall(websocket_head(preview.host))
        answer = b""
        while b"\r\n\r\n" not in answer and (data := sock.recv(65536)):
            answer += data
    except BaseException:
        sock.close()
        raise
    # A connection closed without an answer is none, and no status either.
    return sock, answer or b"closed, without an answer"


def _echoes(port: int, preview: Preview) -> None:
    sock, answer = _shake_hands(port, preview)
    with sock:
        _expect(answer.split(b" ")[1], b"101")
        accept = base64.b64encode(hashlib.sha1(f"{WEBSOCKET_KEY}{_GUID}".encode()).digest())
        if accept not in answer:
            raise SmokeError(f"no {accept!r} in {answer!r}")
        message = b"hello through a proxy"
        mask = b"\x01\x02\x03\x04"
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(message))
        sock.sendall(bytes((0x81, 0x80 | len(message))) + mask + masked)
        wanted = bytes((0x81, len(message))) + message
        received = b""
        while len(received) < len(wanted) and (data := sock.recv(65536)):
            received += data
        _expect(received, wanted)


def _refuses_websocket(port: int, preview: Preview) -> None:
    sock, answer = _shake_hands(port, preview)
    sock.close()
    if not answer.split(b" ")[1].startswith(b"4"):
        raise SmokeError(f"answered with {answer[:40]!r}")


def _streams(port: int, preview: Preview) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/events", headers={"Host": preview.host, "Accept": "text/event-stream"})
        response = connection.getresponse()
        _expect(response.readline(), b"data: 0\n")
        first = time.monotonic()
        response.readline()
        _expect(response.readline(), b"data: 1\n")
        if time.monotonic() - first < FLUSH_S:
            raise SmokeError("the first event was held back until the second")
        response.read()
    finally:
        connection.close()
