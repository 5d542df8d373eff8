"""A small web service with everything that a proxy can get wrong: a stream, a socket, an upload, headers.

    ``/``         a page that shows all of the below at work
    ``/clock``    Server-Sent Events, one a second, until the client goes
    ``/echo``     a WebSocket that sends back what it gets, text and binary
    ``/upload``   takes a body of up to 1 GiB as it streams in, answers its length and SHA-256
    ``/headers``  what this service received, after whatever stood in between
    ``/health``   200

`DemoApp` is plain ASGI with no server in it, so tests drive it in-process. Run it with
``python -m proxy.demo.app --port 8080``; ``--port 0`` takes any free port, and the first line printed says which.
"""

import argparse
import hashlib
import html
import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from typing import Final

import hypercorn.trio
import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope, WebsocketScope

UPLOAD_BYTES_MAX: Final = 2**30
"""Only a running hash is kept, so this bounds patience rather than memory."""

# Long enough for a handler that is not waiting for anybody; streams are told to end and need no time.
GRACE_S: Final = 2.0

# What the client should wait before it connects to the clock again; the default of browsers is about the same,
# but is theirs to choose.
_CLOCK_RETRY_MS: Final = 2000

# More than Portico lets through (64 KiB), so that a long cookie is never the demo's problem.
_HEAD_BYTES_MAX: Final = 96 * 1024

# Header fields that a proxy sets; the page lists them first. Lower case.
_PROXY_FIELDS: Final = frozenset({"forwarded", "host", "x-original-url", "x-sandbox-name"})

_HTML: Final = "text/html; charset=utf-8"
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"

# The page loads nothing from anywhere else, and what it shows of a request is text.
_CONTENT_SECURITY_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'"
)

Headers = Sequence[tuple[bytes, bytes]]
Handler = Callable[[HTTPScope, ASGIReceiveCallable, ASGISendCallable], Awaitable[None]]


def utc_now() -> datetime:
    return datetime.now(UTC)


class DemoApp:
    """The ASGI app. One instance serves any number of connections."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        """Read the page's files.

        Args:
            now: Where the clock takes the time from, in UTC.
        """
        self.closing = trio.Event()
        """Set it to end streams and sockets that would otherwise last as long as their clients like."""
        self._now = now
        files = resources.files("proxy.demo")
        self._page = files.joinpath("page.html").read_text(encoding="utf-8")
        script = files.joinpath("page.js").read_bytes()
        style = files.joinpath("page.css").read_bytes()
        # {path: {method: what answers}}
        self._routes: Final[Mapping[str, Mapping[str, Handler]]] = {
            "/": {"GET": self._show_page},
            "/page.css": {"GET": partial(_show_file, style, "text/css; charset=utf-8")},
            "/page.js": {"GET": partial(_show_file, script, "text/javascript; charset=utf-8")},
            "/clock": {"GET": self._stream_clock},
            "/echo": {"GET": _ask_for_upgrade},
            "/upload": {"POST": _take_upload, "PUT": _take_upload},
            "/headers": {"GET": _show_headers},
            "/health": {"GET": partial(_show_file, b'{"status": "ok"}\n', _JSON)},
        }

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request, one WebSocket, or the server's lifespan."""
        if scope["type"] == "http":
            await self._route(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._echo(scope, receive, send)
        else:
            await _live(receive, send)

    async def _route(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        methods = self._routes.get(scope["path"])
        if methods is None:
            await _answer(scope, send, 404, _TEXT, b"There is nothing here.\n")
            return
        # RFC 9110 section 9.3.2: HEAD is GET without the content, which `_answer` leaves out.
        handler = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            allowed = [*methods, "HEAD"] if "GET" in methods else [*methods]
            allow = (b"allow", ", ".join(allowed).encode("ascii"))
            await _answer(scope, send, 405, _TEXT, b"That is not done here.\n", [allow])
            return
        await handler(scope, receive, send)

    async def _show_page(self, scope: HTTPScope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        rows = _header_rows(scope)
        page = self._page.replace("{{now}}", _iso(self._now())).replace("{{headers}}", rows)
        policy = (b"content-security-policy", _CONTENT_SECURITY_POLICY)
        await _answer(scope, send, 200, _HTML, page.encode("utf-8"), [policy])

    async def _stream_clock(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Send the time on every full second, as events of the HTML standard, section 9.2."""
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        over = trio.Event()

        async def end_after(condition: Callable[[], Awaitable[None]]) -> None:
            await condition()
            over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_after, self.closing.wait)
            nursery.start_soon(end_after, partial(_until_disconnect, receive))
            text = f"retry: {_CLOCK_RETRY_MS}\n"
            while not over.is_set() and scope["method"] != "HEAD":
                now = self._now()
                text += f"id: {int(now.timestamp())}\ndata: {_iso(now)}\n\n"
                await send({"type": "http.response.body", "body": text.encode("ascii"), "more_body": True})
                text = ""
                with trio.move_on_after(1 - self._now().microsecond / 1e6):
                    await over.wait()
            nursery.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _echo(self, scope: WebsocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()  # websocket.connect, always the first.
        if scope["path"] != "/echo":
            # Before the handshake is accepted this is an HTTP 403 (ASGI specification, "Close").
            await send({"type": "websocket.close", "code": 1008, "reason": None})
            return
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        gone = False
        async with trio.open_nursery() as nursery:

            async def end_when_closing() -> None:
                await self.closing.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_when_closing)
            while True:
                event = await receive()
                if event["type"] != "websocket.receive":
                    gone = True
                    break
                # Servers give both keys, or only the one that is used.
                text, data = event.get("text"), event.get("bytes")
                await send({"type": "websocket.send", "text": text, "bytes": data})
            nursery.cancel_scope.cancel()
        if not gone:
            # RFC 6455 section 7.4.1: 1001, going away.
            await send({"type": "websocket.close", "code": 1001, "reason": None})


async def _until_disconnect(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answer the lifespan protocol; there is nothing to start or to stop."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _take_upload(scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Hash the body as it comes; answer its length and SHA-256."""
    too_long = partial(_answer_json, scope, send, 413, {"error": f"at most {UPLOAD_BYTES_MAX} bytes"})
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    # The server has checked the field (RFC 9112 section 6.3), so this is digits.
    if int(declared) > UPLOAD_BYTES_MAX:
        await too_long()
        return
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return  # The client went away; nobody is left to answer.
        size += len(event["body"])
        if size > UPLOAD_BYTES_MAX:
            await too_long()
            return
        digest.update(event["body"])
        more = event["more_body"]
    await _answer_json(scope, send, 200, {"bytes": size, "sha256": digest.hexdigest()})


async def _show_headers(scope: HTTPScope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    received = {
        "method": scope["method"],
        "target": _target(scope),
        "http_version": scope["http_version"],
        "client": scope["client"],
        "headers": _pairs(scope),
    }
    await _answer_json(scope, send, 200, received)


async def _ask_for_upgrade(scope: HTTPScope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    # RFC 9110 section 15.5.22: 426 names the protocol that is wanted.
    text = b"This is a WebSocket: open it with the ws or wss scheme.\n"
    await _answer(scope, send, 426, _TEXT, text, [(b"upgrade", b"websocket")])


async def _show_file(
    content: bytes, kind: str, scope: HTTPScope, _: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    await _answer(scope, send, 200, kind, content)


async def _answer_json(scope: HTTPScope, send: ASGISendCallable, status: int, value: object) -> None:
    await _answer(scope, send, status, _JSON, json.dumps(value, indent=2).encode("ascii") + b"\n")


async def _answer(
    scope: HTTPScope, send: ASGISendCallable, status: int, kind: str, body: bytes, extra: Headers = ()
) -> None:
    """Send a whole response. Nothing may be stored: the next visitor of the URL may be somebody else."""
    headers = [
        (b"content-type", kind.encode("ascii")),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _target(scope: HTTPScope) -> str:
    query = scope["query_string"].decode("latin-1")
    return scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")


def _pairs(scope: HTTPScope) -> list[tuple[str, str]]:
    # Field values are octets (RFC 9110 section 5.5); Latin-1 shows each of them and never fails.
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


def _header_rows(scope: HTTPScope) -> str:
    """Return the rows of the page's table, as HTML: what proxies set first, then what the browser sent."""
    pairs = _pairs(scope)
    ours = [pair for pair in pairs if pair[0] in _PROXY_FIELDS or pair[0].startswith("x-forwarded-")]
    rows = [_header_row(name, value, "on the way") for name, value in ours]
    rows += [_header_row(name, value, "your browser") for name, value in pairs if (name, value) not in ours]
    return "\n".join(rows)


def _header_row(name: str, value: str, by: str) -> str:
    mark = ' class="ours"' if by == "on the way" else ""
    return (
        f'<tr{mark}><th scope="row">{html.escape(name)}</th>'
        f"<td><code>{html.escape(value)}</code></td><td>{by}</td></tr>"
    )


async def serve(listener: socket.socket, app: DemoApp) -> None:
    """Serve until SIGTERM or SIGINT; then end streams, give requests `GRACE_S`, and return.

    Args:
        listener: A listening socket, which is used up.
        app: What to serve.
    """
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    config.graceful_timeout = GRACE_S
    config.h11_max_incomplete_size = _HEAD_BYTES_MAX
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def until_told() -> None:
            await anext(signals)
            app.closing.set()

        async with trio.open_nursery() as nursery:
            start = partial(hypercorn.trio.serve, app, config, shutdown_trigger=until_told)
            urls: list[str] = await nursery.start(start)
            sys.stdout.write(f"demo app listening on {urls[0]}\n")
            sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the app as a program."""
    parser = argparse.ArgumentParser(prog="python -m proxy.demo.app", description="The demo app of Portico.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port; 0 takes a free one (%(default)s)")
    options = parser.parse_args(arguments)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family)
    except (OSError, OverflowError) as error:
        parser.exit(1, f"demo app: cannot listen on {options.host} port {options.port}: {error}\n")
    trio.run(serve, listener, DemoApp())


if __name__ == "__main__":
    main()
