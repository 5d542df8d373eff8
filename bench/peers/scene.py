"""The previews that every proxy serves, and the request heads that are sent to them. Pure.

Tokens and cookies are digests of names, so that two runs send the same bytes. What must never have been sent before is
a run of tildes here, which the load replaces.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

DOMAIN: Final = "example.com"
SANDBOXES: Final = 100
FRESH: Final = "~" * 16
"""Replaced in each head sent by sixteen digits that were never sent before; `load.c` calls it a mark."""

CONNECTIONS: Final = 32
PATHS: Final = 2_000
COOKIES: Final = 200
FRESH_EVERY: Final = 10
"""On varied traffic, one head in so many has a line never seen."""

WEBSOCKET_KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="
"""Of RFC 6455, section 1.3; its answer is known."""

Heads = Callable[[Sequence["Preview"]], Iterable[bytes]]
"""Writes the heads to be sent to these previews."""

LABEL: Final = re.compile(r"([0-9]+)-([a-z0-9-]+)-([a-z0-9_]+)")


@dataclass(frozen=True)
class Preview:
    """One exposed port."""

    port: int
    sandbox: str
    token: str

    @property
    def label(self) -> str:
        """The first label of its hostname."""
        return f"{self.port}-{self.sandbox}-{self.token}"

    @property
    def host(self) -> str:
        """Its hostname."""
        return f"{self.label}.{DOMAIN}"


def previews(ports: Sequence[int], sandboxes: int = SANDBOXES) -> tuple[Preview, ...]:
    """Give each of so many sandboxes every one of the ports."""
    return tuple(
        Preview(port, sandbox, _digits(f"{sandbox}:{number}"))
        for sandbox in (f"app-{number:03}" for number in range(sandboxes))
        for number, port in enumerate(ports)
    )


def wrong(preview: Preview) -> Preview:
    """Give the same preview with a token that differs in its last character."""
    last = "0" if preview.token[-1] != "0" else "1"
    return Preview(preview.port, preview.sandbox, preview.token[:-1] + last)


def _digits(name: str, count: int = 16) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:count]


def head(
    host: str,
    target: str = "/assets/app.js?v=20",
    *,
    method: str = "GET",
    connection: str = "keep-alive",
    cookie: str = _digits("cookie"),
    more: Sequence[str] = (),
) -> bytes:
    """Write a request head with ten fields beside Host, as a browser sends them, and perhaps some more."""
    lines = (
        f"{method} {target} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language: en-GB,en;q=0.5",
        "Accept-Encoding: gzip, deflate, br, zstd",
        f"Referer: http://{host}/",
        f"Connection: {connection}",
        f"Cookie: session={cookie}; theme=dark",
        "Sec-Fetch-Dest: script",
        "Sec-Fetch-Mode: no-cors",
        "Sec-Fetch-Site: same-origin",
        *more,
    )
    return "\r\n".join([*lines, "", ""]).encode()


def websocket_head(host: str) -> bytes:
    """Write a WebSocket handshake, as a browser sends it (RFC 6455, 4.1)."""
    more = (
        f"Origin: http://{host}",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {WEBSOCKET_KEY}",
    )
    return head(host, "/socket", connection="Upgrade", more=more)


def same_heads(served: Sequence[Preview]) -> Iterator[bytes]:
    """One head, for ever."""
    yield head(served[0].host)


def varied_heads(served: Sequence[Preview]) -> Iterator[bytes]:
    """`PATHS` paths and `COOKIES` cookies, one line in one head of ten never seen; each connection at one preview.

    The load gives head ``i`` to connection ``i % CONNECTIONS``, so a connection stays with its preview as a browser's
    does, and sees different paths and cookies.
    """
    # Odd strides, prime to the counts, so that paths, cookies and connections do not fall into step.
    for number in range(CONNECTIONS * PATHS // 8):
        more = (f"X-Request-Id: {FRESH}{FRESH}",) if (number // CONNECTIONS) % FRESH_EVERY == 0 else ()
        path = number * 7 % PATHS
        yield head(
            served[number % CONNECTIONS * 3 % len(served)].host,
            f"/assets/{_digits(f'path-{path}', 6)}/module-{path}.js?v={path % 7}",
            cookie=_digits(f"cookie-{number * 11 % COOKIES}"),
            more=more,
        )


def new_heads(served: Sequence[Preview]) -> Iterator[bytes]:
    """Lines never seen in every head: a trace, a request id and a cookie of its own."""
    more = (f"Traceparent: 00-{FRESH}{FRESH}-{FRESH}-01", f"X-Request-Id: {FRESH}{FRESH}")
    for number in range(CONNECTIONS):
        yield head(served[number * 3 % len(served)].host, f"/api/items/{FRESH}", cookie=FRESH, more=more)


def closing_heads(served: Sequence[Preview]) -> Iterator[bytes]:
    """The same head, on a connection that ends with it."""
    yield head(served[0].host, connection="close")


def handshakes(served: Sequence[Preview]) -> Iterator[bytes]:
    """A WebSocket handshake for each preview."""
    for preview in served:
        yield websocket_head(preview.host)


def one_each(served: Sequence[Preview]) -> Iterator[bytes]:
    """A head for each preview: with as many connections, each is at a preview of its own."""
    for preview in served:
        yield head(preview.host)


def downloads(served: Sequence[Preview], count: int) -> Iterator[bytes]:
    """Ask for so many bytes."""
    yield head(served[0].host, f"/bytes/{count}")


def uploads(served: Sequence[Preview], count: int) -> Iterator[bytes]:
    """Announce so many bytes, which the load sends."""
    length = (f"Content-Length: {count}", "Content-Type: application/octet-stream")
    yield head(served[0].host, "/upload", method="POST", more=length)
