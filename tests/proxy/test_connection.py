"""One client connection: keep-alive, pipelining, time limits, refusals, and that no secret is ever written down."""

from contextlib import suppress
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from actors import Visit
from actors.testing.containers import FakeRun
from proxy.connection import Connection
from proxy.core.headers import Forwarding
from proxy.core.http1 import Limits
from proxy.door import Admitted, Door
from proxy.farewell import LINGER_BYTES_MAX, LINGER_S
from proxy.options import Options
from proxy.testing import (
    Asked,
    Caller,
    Client,
    PreviewEngine,
    early_answer,
    mirror,
    reset_mid_body,
    respond,
    service,
    silence,
    slow_head,
    websocket_echo,
)
from proxy.testing import preview_engine as make_engine
from tests.proxy.ways import OpenEngine

TOKEN = "preview-token-of-the-owner"


def host_of(url: str) -> str:
    return urlsplit(url).netloc


async def assert_ended(client: Client) -> None:
    """Check that nothing more comes but the end."""
    with trio.fail_after(5):
        assert await client.receive() == b""


# Keep-alive and pipelining.


async def test_connection_carries_one_request_after_another(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(mirror()))
    client = preview_engine.connect()
    for number in range(5):
        await client.send_request("POST", f"/{number}", host, body=b"x" * number)
        response = await client.read_response()
        shown = response.json()
        assert isinstance(shown, dict)
        assert (response.status, shown["target"], len(shown["body"])) == (200, f"/{number}", number)
    assert preview_engine.router.connections == 1


async def test_pipelined_requests_are_answered_in_order(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def answer(caller: Caller, asked: Asked) -> None:
        # The first takes longest.
        await trio.sleep(3 - int(asked.target[1:]))
        await caller.respond(200, asked.target.encode())

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    request = f"GET /{{}} HTTP/1.1\r\nHost: {host}\r\n\r\n"
    await client.send("".join(request.format(number) for number in range(4)).encode())

    assert [(await client.read_response()).body for _ in range(4)] == [b"/0", b"/1", b"/2", b"/3"]


async def test_requests_of_one_connection_may_be_for_different_previews(preview_engine: PreviewEngine) -> None:
    first = host_of(await preview_engine.expose(respond(b"first"), port=8081))
    second = host_of(await preview_engine.expose(respond(b"second"), port=8082, sandbox="other"))
    client = preview_engine.connect()
    for host, body in ((first, b"first"), (second, b"second"), (first, b"first"), ("example.com", None)):
        await client.send_request("GET", "/", host)
        response = await client.read_response()
        assert response.body == body or response.status == 404


async def test_what_is_remembered_of_a_preview_is_not_its_admission(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    client = preview_engine.connect()
    await client.send_request("GET", "/", host_of(url))
    assert (await client.read_response()).status == 200
    sandbox = await preview_engine.sandbox()
    await sandbox.expose_port(8080, hostname="example.com", host_header="preserve")
    await client.send_request("GET", "/", host_of(url))
    assert f'["host", "{host_of(url)}"]'.encode() in (await client.read_response()).body
    await sandbox.unexpose_port(8080)
    await client.send_request("GET", "/", host_of(url))
    assert (await client.read_response()).code == "INVALID_TOKEN"


async def test_preview_that_a_field_named_is_not_that_of_the_next_request(preview_engine: PreviewEngine) -> None:
    first = host_of(await preview_engine.expose(respond(b"first"), port=8081)).partition(".")[0]
    second = host_of(await preview_engine.expose(respond(b"second"), port=8082)).partition(".")[0]
    client = preview_engine.connect()
    for label, status, body in ((first, 200, b"first"), (second, 200, b"second"), (None, 404, None)):
        fields = [("Portico-Preview", label)] if label is not None else []
        await client.send_request("GET", "/", "example.com", headers=fields)
        response = await client.read_response()
        assert response.status == status
        assert response.body == body or body is None


async def test_other_scheme_of_a_trusted_proxy_is_not_taken_from_the_request_before(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(options=Options(trusted_proxies=(ip_network("192.0.2.0/24"),))) as engine:
        host = host_of(await engine.expose(mirror()))
        client = engine.connect(scheme="http")
        for scheme in ("https", "http", "https"):
            await client.send_request("GET", "/", host, headers=[("X-Forwarded-Proto", scheme)])
            assert f'["x-forwarded-proto", "{scheme}"]'.encode() in (await client.read_response()).body


async def test_refusal_leaves_the_connection_usable(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    client = preview_engine.connect()
    await client.send_request("POST", "/", "elsewhere.net", body=b"content")
    assert (await client.read_response()).status == 421
    await client.send_request("GET", "/", host)
    assert (await client.read_response()).body == b"hello"


async def test_refusal_before_the_content_has_come_ends_the_connection(preview_engine: PreviewEngine) -> None:
    client = preview_engine.connect()
    await client.send(b"POST / HTTP/1.1\r\nHost: elsewhere.net\r\nContent-Length: 100\r\n\r\nsome")
    response = await client.read_response()
    assert (response.status, response.header("connection")) == (421, "close")
    await assert_ended(client)


async def test_service_that_is_too_slow_in_the_middle_of_an_upload_ends_the_connection(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()

    monkeypatch.setattr(FakeRun, "dial", hang)
    async with open_engine(options=Options(connect_timeout_s=3)) as engine:
        url = await engine.expose(respond(b"hello"))
        client = engine.connect()
        await client.send(f"POST / HTTP/1.1\r\nHost: {host_of(url)}\r\nContent-Length: 100\r\n\r\nsome".encode())
        response = await client.read_response()
        assert (response.status, response.header("connection")) == (504, "close")
        await assert_ended(client)


async def test_answer_to_a_host_that_makes_no_sense_says_that_it_is_the_last(preview_engine: PreviewEngine) -> None:
    client = preview_engine.connect()
    await client.send(b"GET / HTTP/1.1\r\nHost: 127.1\r\n\r\n")
    response = await client.read_response()
    assert (response.status, response.header("connection")) == (400, "close")
    await assert_ended(client)


async def test_client_that_asks_to_close_is_closed(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    client = preview_engine.connect()
    await client.send_request("GET", "/", host, headers=[("Connection", "close")])
    response = await client.read_response()

    assert (response.body, response.header("connection")) == (b"hello", "close")
    await assert_ended(client)


@pytest.mark.parametrize("keep_alive", [False, True])
async def test_old_clients_are_served_in_their_way(keep_alive: bool, preview_engine: PreviewEngine) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.begin()
        await caller.send(b"chunked for us")
        await caller.end()

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    option = "Connection: keep-alive\r\n" if keep_alive else ""
    await client.send(f"GET / HTTP/1.0\r\nHost: {host}\r\n{option}\r\n".encode())
    received = await client.read_to_end()

    assert b"chunked for us" in received
    assert b"Transfer-Encoding" not in received
    assert received.endswith(b"chunked for us")


async def test_old_client_that_keeps_alive_is_kept(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    client = preview_engine.connect()
    for _ in range(2):
        await client.send(f"GET / HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n".encode())
        response = await client.read_response()
        assert (response.body, response.header("connection")) == (b"hello", "keep-alive")


async def test_client_that_ends_between_requests_is_closed(preview_engine: PreviewEngine) -> None:
    client = preview_engine.connect()
    await client.send_eof()
    await assert_ended(client)
    await preview_engine.settle()
    assert preview_engine.router.connections == 0


# Time limits.


@pytest.mark.parametrize("after_a_request", [False, True])
async def test_silent_connection_just_ends(
    after_a_request: bool, preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    client = preview_engine.connect()
    if after_a_request:
        await client.send_request("GET", "/", host)
        await client.read_response()
    began = trio.current_time()
    patience_s = 75 if after_a_request else 30
    assert await client.receive() == b""
    assert patience_s <= trio.current_time() - began <= patience_s + 1


async def test_head_that_drips_is_given_its_time_and_no_more(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    client = preview_engine.connect()
    await trio.sleep(20)
    began = trio.current_time()

    async def drip() -> None:
        for letter in "GET / HTTP/1.1\r\n" + "X: " + "x" * 100:
            await client.send(letter.encode())
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        response = await client.read_response()
        assert 30 <= trio.current_time() - began <= 31
        assert (response.status, response.code, response.header("connection")) == (408, "REQUEST_TIMEOUT", "close")
        nursery.cancel_scope.cancel()
    await trio.sleep(LINGER_S + 1)
    assert preview_engine.router.connections == 0


async def test_second_head_has_its_own_time(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(slow_head(50)))
    client = preview_engine.connect()
    await client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\nGET /half".encode())
    assert (await client.read_response()).status == 200
    began = trio.current_time()
    assert (await client.read_response()).status == 408
    assert 30 <= trio.current_time() - began <= 31


async def test_time_for_a_head_ends_with_the_head(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(slow_head(100)))
    client = preview_engine.connect()
    await client.send(b"GET / HTTP/1.1\r\n")
    await trio.sleep(10)
    await client.send(f"Host: {host}\r\n\r\n".encode())
    assert (await client.read_response()).body == b"at last"


async def test_request_that_comes_in_the_moment_of_its_connections_end_is_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Over streams in memory: a lane reads and is struck in one and the same task."""
    async with make_engine() as preview_engine:
        url = await preview_engine.expose(respond(b"hello"))
        client = preview_engine.connect()
        await preview_engine.settle()
        [connection] = preview_engine.router._connections
        assert isinstance(connection, Connection)
        # As when a socket has become readable and the clock strikes before its task has had its turn.
        connection._ending = True
        await client.send_request("POST", "/", host_of(url), body=b"x")
        await assert_ended(client)
        assert preview_engine.container().starts == []


# Bad requests.


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "BAD_REQUEST"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "BAD_REQUEST"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "BAD_REQUEST"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "METHOD_NOT_ALLOWED"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n", 414, "URI_TOO_LONG"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431, "HEAD_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "HEAD_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417, "EXPECTATION_FAILED"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "VERSION_NOT_SUPPORTED"),
        (b"GET / HTTP/1.1\r\nHost", 400, "BAD_REQUEST"),
    ],
)
async def test_malformed_request_is_answered_and_its_connection_closed(
    head: bytes, status: int, code: str, preview_engine: PreviewEngine
) -> None:
    client = preview_engine.connect()
    await client.send(head)
    await client.send_eof()
    response = await client.read_response()

    assert (response.status, response.code, response.header("connection")) == (status, code, "close")
    await assert_ended(client)


async def test_malformed_content_is_answered_while_nothing_has_been(preview_engine: PreviewEngine) -> None:
    host = host_of(await preview_engine.expose(mirror()))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n".encode())
    response = await client.read_response()

    assert (response.status, response.code) == (400, "BAD_REQUEST")
    await assert_ended(client)
    assert preview_engine.runtime.statistics().visits == 0


async def test_malformed_content_after_the_answer_began_breaks_it_off(
    preview_engine: PreviewEngine, logged: list[dict[str, object]]
) -> None:
    async def answer(caller: Caller, _asked: Asked) -> None:
        await caller.begin()
        await caller.send(b"begun")
        await trio.sleep_forever()

    host = host_of(await preview_engine.expose(service(answer)))
    client = preview_engine.connect()
    await client.send(f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    await client.read_head()
    assert await client.read_some() == b"begun"
    await client.send(b"zzz\r\n")
    # No second answer in the middle of the first, and no attempt at one.
    await assert_ended(client)
    assert not [event for event in logged if event["log_level"] == "error"]


async def test_limits_on_heads_are_options(open_engine: OpenEngine, autojump_clock: trio.testing.MockClock) -> None:
    async with open_engine(options=Options(http=Limits(head_bytes_max=200))) as engine:
        client = engine.connect()
        await client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * 200)
        assert (await client.read_response()).status == 431


async def test_last_answer_is_not_overtaken_by_the_reset_of_unread_data(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    client = preview_engine.connect(unbuffered=True)
    await client.send(b"nonsense\r\n\r\n")
    assert (await client.read_response()).status == 400
    # Read by the router, and thrown away: an unbuffered send would wait otherwise.
    with trio.fail_after(1):
        for _ in range(3):
            await client.send(b"x" * 1000)


async def test_lingering_has_an_end(preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock) -> None:
    patient, chatty = preview_engine.connect(), preview_engine.connect(unbuffered=True)
    for client in (patient, chatty):
        await client.send(b"nonsense\r\n\r\n")
        await client.read_response()

    async def chatter() -> None:
        for _ in range(LINGER_BYTES_MAX // 1000 + 70):
            await chatty.send(b"x" * 1000)

    with pytest.raises(trio.BrokenResourceError):
        await chatter()
    await trio.sleep(LINGER_S + 1)
    assert preview_engine.router.connections == 0


# Waiting for a wake.


async def test_client_that_leaves_while_its_sandbox_wakes_is_not_served(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    container = preview_engine.container()
    container.hold_starts()
    async with preview_engine.open("GET", url):
        await preview_engine.settle()
        assert preview_engine.router.connections == 1
    await trio.sleep(6)
    assert preview_engine.router.connections == 0
    container.release_starts()
    await preview_engine.settle()
    assert not container.dials


async def test_request_that_waits_for_a_wake_is_told_when_the_server_will_not_wait_any_longer(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(options=Options(drain_timeout_s=2)) as engine:
        host = host_of(await engine.expose(respond(b"hello")))
        engine.container().hold_starts()
        client = engine.connect()
        await client.send_request("GET", "/", host)
        await engine.settle()
        await engine.router.drain()
        answer = await client.read_response()
        assert (answer.status, answer.code, answer.header("connection")) == (503, "SHUTTING_DOWN", "close")
        engine.container().release_starts()


async def test_client_that_does_not_read_our_own_answers_is_let_go(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(options=Options(head_timeout_s=10)) as engine:
        client = engine.connect(unbuffered=True)

        async def ask() -> None:
            with suppress(trio.BrokenResourceError):
                await client.send(b"GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n" * 300)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(5)
            assert engine.router.connections == 1
            await trio.sleep(10)
            assert engine.router.connections == 0
            nursery.cancel_scope.cancel()


async def test_what_comes_while_the_sandbox_wakes_is_kept(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(mirror()))
    container = preview_engine.container()
    container.hold_starts()
    client = preview_engine.connect()
    await client.send(f"POST /1 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n".encode())
    for _ in range(100):
        await client.send(b"x" * 1000)
        await trio.sleep(0.1)
    await client.send_request("GET", "/2", host)
    container.release_starts()

    assert b"x" * 100_000 in (await client.read_response()).body
    assert b'"target": "/2"' in (await client.read_response()).body


async def test_cancelled_in_the_moment_of_its_admission_a_visit_ends(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    admit = Door.admit
    visits: list[Visit] = []

    async def admit_and_cancel(self: Door, waiting: object) -> object:
        admitted = await admit(self, waiting)  # type: ignore[arg-type]  # passed on
        assert isinstance(admitted, Admitted)
        visits.append(admitted.visit)
        scope.cancel()
        return admitted

    monkeypatch.setattr(Door, "admit", admit_and_cancel)
    ours, routers = trio.testing.memory_stream_pair()
    await ours.send_all(f"GET / HTTP/1.1\r\nHost: {host_of(url)}\r\n\r\n".encode())
    with trio.CancelScope() as scope:
        await preview_engine.router.handle(routers)
    assert [visit.under_way for visit in visits] == [False]


# Bugs, and secrets.


async def test_bug_ends_one_connection_and_no_other(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    other = preview_engine.connect()
    await other.send_request("GET", "/", host_of(url))
    await other.read_response()

    def broken(*_: object, **__: object) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Forwarding, "forward_request", broken)
        patch.setattr(Forwarding, "write_plain_request", broken)
        response = await preview_engine.get(url)
    assert (response.status, response.code) == (500, "INTERNAL")
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_send_answer", broken)
        client = preview_engine.connect()
        await client.send(b"nonsense\r\n\r\n")
        await assert_ended(client)
    assert [event["error"] for event in logged if event["log_level"] == "error"] == ["ValueError", "ValueError"]
    assert preview_engine.runtime.statistics().visits == 0
    await other.send_request("GET", "/", host_of(url))
    assert (await other.read_response()).body == b"hello"


async def test_bug_beside_a_cancellation_is_logged_and_goes_no_further(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    async def broken(_self: Connection, _first: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.lowlevel.checkpoint()
            scope.cancel()
            raise ValueError("a bug")

    monkeypatch.setattr(Connection, "_serve", broken)
    _ours, routers = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        await preview_engine.router.handle(routers)
    assert [event["error"] for event in logged] == ["ValueError"]


async def test_no_secret_is_logged_or_shown(
    preview_engine: PreviewEngine,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[dict[str, object]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = await preview_engine.expose(mirror())
    sandbox = await preview_engine.sandbox()
    await sandbox.set_preview_auth(TOKEN)
    port_token = host_of(url).partition(".")[0].rpartition("-")[2]
    secrets = (port_token, TOKEN, "session-secret")
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Cookie", "a=session-secret")]
    shown: list[str] = []
    new_passage = Connection._new_passage

    def show(self: Connection, *args: object) -> object:
        passage = new_passage(self, *args)  # type: ignore[arg-type]  # passed on
        shown.extend(map(repr, (*args, passage, self, self._reception, self._reception._routes)))
        return passage

    monkeypatch.setattr(Connection, "_new_passage", show)
    for handler in (mirror(), early_answer(), silence(), reset_mid_body(), websocket_echo(), None):
        preview_engine.container().handlers.pop(8080, None)
        if handler is not None:
            preview_engine.container().handlers[8080] = handler
        await trio.sleep(10)
        async with preview_engine.open("GET", url, headers=headers) as client:
            with trio.move_on_after(200):
                await client.read_to_end()
    await preview_engine.get(url, headers=[("X-OC-Preview-Token", TOKEN + "-wrong")])
    preview_engine.container().start_error = "it is broken"
    assert preview_engine.container().run is not None
    preview_engine.container().run.end()  # type: ignore[union-attr]  # asserted above
    await preview_engine.settle()
    await preview_engine.get(url, headers=headers)

    def broken(*_: object) -> None:
        secret = headers
        raise ValueError(f"a bug that quotes {secret}")

    monkeypatch.setattr(Connection, "_visit", broken)
    assert (await preview_engine.get(url, headers=headers)).status == 500
    written = "".join(map(str, logged)) + "".join(shown) + capsys.readouterr().out
    assert logged
    assert shown
    assert not any(secret in written for secret in secrets)


async def test_request_for_a_host_that_makes_no_sense_is_the_last_of_its_connection(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    host = host_of(await preview_engine.expose(respond(b"hello")))
    client = preview_engine.connect()
    await client.send(f"GET http://elsewhere.example/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await client.send_request("GET", "/", host)
    answer = await client.read_response()
    assert (answer.status, answer.code) == (400, "BAD_HOST")
    await assert_ended(client)
    assert not preview_engine.container().dials


async def test_requests_behind_an_upload_are_answered_however_soon_its_answer_comes(
    preview_engine: PreviewEngine,
) -> None:
    host = host_of(await preview_engine.expose(respond(b"ok")))
    upload = f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc".encode()
    get = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    client = preview_engine.connect()
    # Which of the two tasks of an upload goes on first is left to chance.
    for _ in range(30):
        await client.send(upload + get)
        for method in ("POST", "GET"):
            assert (await client.read_response(method)).body == b"ok"
