"""What does the HTTP engine itself cost, without sockets or scheduling? ``python -m bench.engine``

Prints microseconds of CPU of this thread: the best slice, which is what the code costs on a quiet machine,
and the median slice, which is what a noisy one makes of it.
"""

import statistics
import time
from collections.abc import Callable

from bench._figure import Figure
from proxy.core.exchange import Exchange, ResponseContent, ResponseEnded, ResponseStarted
from proxy.core.http1 import read_request_head, read_response_head
from proxy.core.serving import RequestEnded, RequestStarted, ServerConnection

SLICES = 60
SLICE_CALLS = 500

REQUEST = (
    b"GET /assets/app.js?v=20 HTTP/1.1\r\n"
    b"Host: 8080-my-app-k3v9x0q2m7t1z8aa.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Referer: https://8080-my-app-k3v9x0q2m7t1z8aa.example.com/\r\n"
    b"Cookie: session=4f067f0c84a92f88; theme=dark\r\n"
    b"Sec-Fetch-Dest: script\r\n"
    b"Sec-Fetch-Mode: no-cors\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"\r\n"
)
RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"Server: nginx\r\n"
    b"Date: Sat, 01 Nov 2025 10:00:00 GMT\r\n"
    b"Content-Type: text/javascript\r\n"
    b"Content-Length: 13\r\n"
    b'ETag: "5f3c-1a2b"\r\n'
    b"\r\n"
)
RESPONSE = RESPONSE_HEAD + b"Hello, world!"


def exchange_get(client: ServerConnection) -> int:
    """Carry one kept-alive GET from client bytes to client bytes; return how many bytes were written."""
    client.receive(REQUEST)
    started = client.next_event()
    assert isinstance(started, RequestStarted)
    assert isinstance(client.next_event(), RequestEnded)
    exchange = Exchange(started.head, started.framing, upgrade=started.upgrade)
    written = len(exchange.start())
    for event in exchange.receive(RESPONSE):
        if isinstance(event, ResponseStarted):
            answer = client.respond(event.head, event.framing)
        elif isinstance(event, ResponseContent):
            answer += client.content(event.data)
        elif isinstance(event, ResponseEnded):
            answer += client.end(event.trailers)
    assert exchange.reusable
    client.start_next()
    return written + len(answer)


def measure(call: Callable[[], object], slices: int = SLICES) -> tuple[float, float]:
    """Give the best and the median slice, in microseconds a call."""
    taken = []
    for _ in range(slices):
        before = time.thread_time_ns()
        for _ in range(SLICE_CALLS):
            call()
        taken.append((time.thread_time_ns() - before) / SLICE_CALLS / 1000)
    return min(taken), statistics.median(taken)


def run(quick: bool = False) -> list[Figure]:
    """Measure every part, and the whole."""
    client = ServerConnection()
    request_fields = len(read_request_head(REQUEST).fields)
    response_fields = len(read_response_head(RESPONSE_HEAD).fields)
    parts: list[tuple[str, str, Callable[[], object]]] = [
        (f"request head, {request_fields} fields, h11 and the gate", "", lambda: read_request_head(REQUEST)),
        (f"response head, {response_fields} fields", "", lambda: read_response_head(RESPONSE_HEAD)),
        ("whole GET, client bytes to client bytes", "< 150", lambda: exchange_get(client)),
    ]
    figures = []
    for name, goal, call in parts:
        best, median = measure(call, SLICES // 6 if quick else SLICES)
        figures.append(Figure(f"{name}, best", best, "us CPU", goal))
        figures.append(Figure(f"{name}, median", median, "us CPU", goal))
    return figures


def main() -> None:
    """Print the figures."""
    for figure in run():
        print(f"{figure.name:52} {figure.value:8.1f} {figure.unit}")


if __name__ == "__main__":
    main()
