"""The demo app, spoken to as an ASGI server would, and once over a real socket."""

import hashlib
import json
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import trio
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, ConnectionState, HTTPScope, WebsocketScope
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, wrap_client_stream

from proxy.demo.app import UPLOAD_BYTES_MAX, DemoApp

START = datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)


def http_scope(method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = (), query: bytes = b"") -> HTTPScope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": ConnectionState({}),
        "extensions": {},
    }


def websocket_scope(path: str) -> WebsocketScope:
    base = http_scope("GET", path)
    return {
        "type": "websocket",
        "asgi": base["asgi"],
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": (),
        "client": base["client"],
        "server": base["server"],
        "subprotocols": (),
        "state": base["state"],
        "extensions": {},
    }


class Talk:
    """The server's side of one ASGI call: `say` gives the app an event, `sent` holds what it sent."""

    def __init__(self) -> None:
        self._to_app, self._events = trio.open_memory_channel[ASGIReceiveEvent](math.inf)
        self.sent: list[ASGISendEvent] = []

    def say(self, event: ASGIReceiveEvent) -> None:
        self._to_app.send_nowait(event)

    async def receive(self) -> ASGIReceiveEvent:
        return await self._events.receive()

    async def send(self, event: ASGISendEvent) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(event)

    @property
    def status(self) -> int:
        (start,) = (event for event in self.sent if event["type"] == "http.response.start")
        return start["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        (start,) = (event for event in self.sent if event["type"] == "http.response.start")
        return dict(start["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(event["body"] for event in self.sent if event["type"] == "http.response.body")


@asynccontextmanager
async def talking(app: DemoApp, scope: HTTPScope | WebsocketScope) -> AsyncIterator[Talk]:
    """Run the app on one scope; leaving waits for it to return, which must not take for ever."""
    talk = Talk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, scope, talk.receive, talk.send)
        yield talk
        nursery.cancel_scope.deadline = trio.current_time() + 60
    assert not nursery.cancel_scope.cancelled_caught, "the app did not return"


async def ask(
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    body: Sequence[bytes] = (b"",),
    app: DemoApp | None = None,
) -> Talk:
    async with talking(app or DemoApp(lambda: START), http_scope(method, path, headers)) as talk:
        for number, chunk in enumerate(body, 1):
            talk.say({"type": "http.request", "body": chunk, "more_body": number < len(body)})
    return talk


class TestRoutes:
    @pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/headers", "/health"])
    async def test_head_answers_as_get_without_the_content(self, path: str) -> None:
        get, head = await ask("GET", path), await ask("HEAD", path)
        assert get.status == head.status == 200
        assert get.headers[b"content-type"] == head.headers[b"content-type"]
        assert len(get.body) == int(get.headers[b"content-length"]) > 0
        assert head.body == b""

    @pytest.mark.parametrize("path", ["/nothing", "//", "/Health", "/upload/", "/page.html"])
    async def test_unknown_path_is_404(self, path: str) -> None:
        assert (await ask("GET", path)).status == 404

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [
            ("POST", "/", b"GET, HEAD"),
            ("DELETE", "/clock", b"GET, HEAD"),
            ("GET", "/upload", b"POST, PUT"),
            ("HEAD", "/upload", b"POST, PUT"),
        ],
    )
    async def test_wrong_method_is_405_and_names_the_right_ones(self, method: str, path: str, allow: bytes) -> None:
        talk = await ask(method, path)
        assert (talk.status, talk.headers[b"allow"]) == (405, allow)

    async def test_health_is_200(self) -> None:
        talk = await ask("GET", "/health")
        assert (talk.status, json.loads(talk.body)) == (200, {"status": "ok"})

    async def test_echo_without_an_upgrade_is_426_and_names_websocket(self) -> None:
        talk = await ask("GET", "/echo")
        assert (talk.status, talk.headers[b"upgrade"]) == (426, b"websocket")

    async def test_lifespan_is_answered(self) -> None:
        talk = Talk()
        talk.say({"type": "lifespan.startup"})
        talk.say({"type": "lifespan.shutdown"})
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await DemoApp()(scope, talk.receive, talk.send)  # type: ignore[arg-type]  # a literal of TypedDict
        assert [event["type"] for event in talk.sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]


class TestPage:
    async def test_page_has_the_elements_that_browser_tests_look_for(self) -> None:
        page = (await ask("GET", "/")).body.decode()
        for name in ("clock", "echo-input", "echo-send", "echo-output", "upload-file", "upload-result"):
            assert page.count(f'id="{name}"') == 1

    async def test_page_shows_the_time_and_the_received_headers_without_script(self) -> None:
        headers = [(b"accept", b"*/*"), (b"x-forwarded-proto", b"https"), (b"host", b"localhost:8080")]
        page = (await ask("GET", "/", headers)).body.decode()
        assert '<time id="clock" datetime="2026-01-02T03:04:05Z">2026-01-02T03:04:05Z</time>' in page
        # What a proxy set comes first.
        order = [page.index(f'<th scope="row">{name}</th>') for name in ("x-forwarded-proto", "host", "accept")]
        assert order == sorted(order)
        assert "{{" not in page

    async def test_markup_in_a_header_is_shown_and_not_run(self) -> None:
        page = (await ask("GET", "/", [(b"x-a", b"<script>alert(1)</script>{{headers}}")])).body
        assert b"<script>alert" not in page
        assert b"&lt;script&gt;alert(1)&lt;/script&gt;{{headers}}" in page

    async def test_page_may_load_nothing_from_elsewhere(self) -> None:
        talk = await ask("GET", "/")
        assert talk.headers[b"content-security-policy"].startswith(b"default-src 'none'")
        for path in ("/", "/page.css", "/page.js"):
            body = (await ask("GET", path)).body.replace(b"http://www.w3.org/2000/svg", b"")
            assert b"http://" not in body
            assert b"https://" not in body

    async def test_headers_are_shown_in_order_with_repeats_and_odd_bytes(self) -> None:
        headers = [(b"x-a", b"1"), (b"x-b", b"\xff"), (b"x-a", b"2")]
        scope = http_scope("GET", "/headers", headers, query=b"q=%2F")
        async with talking(DemoApp(), scope) as talk:
            pass
        shown = json.loads(talk.body)
        assert shown["headers"] == [["x-a", "1"], ["x-b", "\xff"], ["x-a", "2"]]
        assert (shown["method"], shown["target"]) == ("GET", "/headers?q=%2F")


def app_on(clock: MockClock) -> DemoApp:
    return DemoApp(lambda: START + timedelta(seconds=clock.current_time()))


class TestClock:
    async def test_events_come_on_every_full_second_until_the_client_goes(self, autojump_clock: MockClock) -> None:
        async with talking(app_on(autojump_clock), http_scope("GET", "/clock")) as talk:
            talk.say({"type": "http.request", "body": b"", "more_body": False})
            await trio.sleep(1.9)
            talk.say({"type": "http.disconnect"})
        assert talk.headers[b"content-type"] == b"text/event-stream"
        seconds = int(START.timestamp())
        assert [event["body"] for event in talk.sent if event["type"] == "http.response.body"] == [
            b"retry: 2000\nid: %d\ndata: 2026-01-02T03:04:05Z\n\n" % seconds,
            b"id: %d\ndata: 2026-01-02T03:04:06Z\n\n" % (seconds + 1),
            b"id: %d\ndata: 2026-01-02T03:04:07Z\n\n" % (seconds + 2),
            b"",
        ]

    async def test_stream_ends_properly_when_the_app_closes(self, autojump_clock: MockClock) -> None:
        app = app_on(autojump_clock)
        async with talking(app, http_scope("GET", "/clock")) as talk:
            await wait_all_tasks_blocked()
            app.closing.set()
        assert trio.current_time() == 0
        assert talk.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    async def test_head_of_the_clock_ends_at_once(self, autojump_clock: MockClock) -> None:
        assert (await ask("HEAD", "/clock", app=app_on(autojump_clock))).body == b""
        assert trio.current_time() == 0


class TestUpload:
    @pytest.mark.parametrize("method", ["POST", "PUT"])
    async def test_upload_answers_length_and_hash_of_all_chunks(self, method: str) -> None:
        talk = await ask(method, "/upload", body=[b"one", b"", b"two"])
        digest = hashlib.sha256(b"onetwo").hexdigest()
        assert (talk.status, json.loads(talk.body)) == (200, {"bytes": 6, "sha256": digest})

    async def test_empty_upload_is_an_upload(self) -> None:
        assert json.loads((await ask("PUT", "/upload")).body)["bytes"] == 0

    async def test_declared_length_beyond_the_limit_is_refused_before_a_byte_is_read(self) -> None:
        length = (b"content-length", b"%d" % (UPLOAD_BYTES_MAX + 1))
        async with talking(DemoApp(), http_scope("POST", "/upload", [length])) as talk:
            pass
        assert talk.status == 413

    async def test_body_beyond_the_limit_is_refused_when_it_gets_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("proxy.demo.app.UPLOAD_BYTES_MAX", 5)
        assert (await ask("POST", "/upload", body=[b"123", b"45"])).status == 200
        assert (await ask("POST", "/upload", body=[b"123", b"456", b"7"])).status == 413

    async def test_client_that_goes_away_gets_no_answer(self) -> None:
        async with talking(DemoApp(), http_scope("POST", "/upload")) as talk:
            talk.say({"type": "http.request", "body": b"1", "more_body": True})
            talk.say({"type": "http.disconnect"})
        assert talk.sent == []


class TestEcho:
    async def test_text_and_bytes_come_back_as_they_were(self) -> None:
        async with talking(DemoApp(), websocket_scope("/echo")) as talk:
            talk.say({"type": "websocket.connect"})
            talk.say({"type": "websocket.receive", "text": "héllo", "bytes": None})
            talk.say({"type": "websocket.receive", "text": None, "bytes": b"\x00\xff"})
            talk.say({"type": "websocket.receive", "text": "", "bytes": None})
            talk.say({"type": "websocket.disconnect", "code": 1000})
        assert talk.sent == [
            {"type": "websocket.accept", "subprotocol": None, "headers": []},
            {"type": "websocket.send", "text": "héllo", "bytes": None},
            {"type": "websocket.send", "text": None, "bytes": b"\x00\xff"},
            {"type": "websocket.send", "text": "", "bytes": None},
        ]

    async def test_socket_is_closed_as_going_away_when_the_app_closes(self) -> None:
        app = DemoApp()
        async with talking(app, websocket_scope("/echo")) as talk:
            talk.say({"type": "websocket.connect"})
            await wait_all_tasks_blocked()
            app.closing.set()
        assert talk.sent[-1] == {"type": "websocket.close", "code": 1001, "reason": None}

    async def test_socket_on_another_path_is_refused(self) -> None:
        async with talking(DemoApp(), websocket_scope("/")) as talk:
            talk.say({"type": "websocket.connect"})
        assert [event["type"] for event in talk.sent] == ["websocket.close"]


# The program, on a real socket.


async def fetch(port: int, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        return b"".join([chunk async for chunk in stream])


class TestProgram:
    @pytest.mark.e2e
    async def test_program_says_its_port_serves_and_ends_cleanly_on_sigterm(self, nursery: trio.Nursery) -> None:
        command = [sys.executable, "-W", "error", "-m", "proxy.demo.app", "--port", "0"]
        start = partial(trio.run_process, command, stdout=subprocess.PIPE, capture_stderr=True, check=False)
        process: trio.Process = await nursery.start(start)
        with trio.fail_after(20):
            assert process.stdout is not None
            line = await process.stdout.receive_some()
            assert line.startswith(b"demo app listening on http://127.0.0.1:")
            port = int(line.rsplit(b":", 1)[1])
            answer = await fetch(port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b'{"status": "ok"}\n')
            # Our own stream: trio-websocket leaves its socket open when the server is first to close.
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                socket = await wrap_client_stream(nursery, stream, "localhost", "/echo")
                await socket.send_message("over the wire")
                assert await socket.get_message() == "over the wire"
                process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed):
                    await socket.get_message()
                assert socket.closed is not None
                assert socket.closed.code == 1001
            assert await process.wait() == 0

    @pytest.mark.e2e
    async def test_port_in_use_is_one_line_and_exit_1(self) -> None:
        with trio.socket.socket() as taken:
            await taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            command = [sys.executable, "-m", "proxy.demo.app", "--port", str(port)]
            with trio.fail_after(20):
                done = await trio.run_process(command, capture_stderr=True, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"demo app: cannot listen on 127.0.0.1 port {port}: ")
