"""One exchange through the whole engine, and its cord is pulled: what each side then sees, and when."""

from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
import trio_websocket

from actors import CutBecause, Runtime, SandboxId, Visit, VisitRequest
from actors.testing.containers import FakeRun
from proxy.testing import (
    CutOffError,
    PreviewEngine,
    events,
    reset_mid_body,
    respond,
    silence,
    websocket_echo,
)
from tests.proxy.ways import OpenEngine


def host_of(url: str) -> str:
    return urlsplit(url).netloc


def close_reason(closed: trio_websocket.ConnectionClosed) -> tuple[int, str | None]:
    assert closed.reason is not None
    return closed.reason.code, closed.reason.reason


# The cord.


async def test_unexpose_cuts_a_live_stream_before_it_returns(preview_engine: PreviewEngine) -> None:
    _told, source = trio.open_memory_channel[str](0)
    url = await preview_engine.expose(events(source))
    sandbox = await preview_engine.sandbox()
    async with preview_engine.open("GET", url) as one, preview_engine.open("GET", url) as other:
        for client in (one, other):
            await client.read_head()
        assert await sandbox.unexpose_port(8080) == 2
        assert preview_engine.runtime.statistics().visits == 0
        for client in (one, other):
            with pytest.raises(CutOffError):
                await client.read_some()
    assert await sandbox.unexpose_port(8080) == 0


async def test_unexpose_closes_websockets_with_going_away(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    async with preview_engine.websocket(url) as connection:
        await connection.send_message("hello")
        await connection.get_message()
        assert await (await preview_engine.sandbox()).unexpose_port(8080) == 1
        assert preview_engine.runtime.statistics().visits == 0
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert close_reason(closed.value) == (1001, "unexposed")


async def test_end_of_the_run_closes_websockets_with_service_restart(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine() as engine:
        url = await engine.expose(websocket_echo())
        async with engine.websocket(url) as connection:
            await connection.send_message("hello")
            await connection.get_message()
            await engine.runtime.aclose()
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await connection.get_message()
            assert close_reason(closed.value) == (1012, "run ended")


async def test_what_a_cut_client_still_sends_does_not_reset_its_connection(preview_engine: PreviewEngine) -> None:
    """A reset might overtake the close frame."""
    host = host_of(await preview_engine.expose(websocket_echo()))
    client = preview_engine.connect()
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    asks = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), key]
    await client.send_request("GET", "/", host, headers=asks)
    assert (await client.read_head()).status == 101
    await preview_engine.settle()
    assert await (await preview_engine.sandbox()).unexpose_port(8080) == 1
    await client.send(b"sent before the close frame was read")
    assert (await client.read_to_end()).endswith(b"unexposed")
    await client.aclose()


async def test_stopped_sandbox_closes_its_websockets(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    async with preview_engine.websocket(url) as connection:
        assert await (await preview_engine.sandbox()).stop() == 1
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await connection.get_message()
        assert close_reason(closed.value) == (1001, "stopped")


@pytest.mark.parametrize("body", [None, b"content"])
async def test_request_that_is_cut_before_its_answer_gets_the_answer_of_now(
    body: bytes | None, preview_engine: PreviewEngine
) -> None:
    host = host_of(await preview_engine.expose(silence()))
    client = preview_engine.connect()
    await client.send_request("GET" if body is None else "POST", "/", host, body=body)
    await preview_engine.settle()
    sandbox = await preview_engine.sandbox()
    assert await sandbox.unexpose_port(8080) == 1
    response = await client.read_response()
    assert (response.status, response.code) == (404, "INVALID_TOKEN")

    # Nothing of an answer had been sent, so the client's connection goes on.
    preview_engine.container().handlers[8080] = respond(b"hello")
    await client.send_request("GET", "/", host_of(await preview_engine.expose()))
    assert (await client.read_response()).body == b"hello"


class NeverWaits(trio.abc.HalfCloseableStream):
    """A service whose socket is always ready, so that no cancellation is ever noticed there."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None: ...

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...


async def test_request_that_is_cut_in_the_moment_of_its_admission_does_not_reach_the_service(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = NeverWaits()

    async def dial(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        return service

    monkeypatch.setattr(FakeRun, "dial", dial)
    url = await preview_engine.expose()
    assert (await preview_engine.get(url)).body == b"secret"
    admit = Runtime.admit_nowait

    def admit_and_cut(runtime: Runtime, sandbox: SandboxId, request: VisitRequest) -> Visit:
        visit = admit(runtime, sandbox, request)
        assert isinstance(visit, Visit)
        visit.pull(CutBecause.UNEXPOSED)
        return visit

    monkeypatch.setattr(Runtime, "admit_nowait", admit_and_cut)
    assert (await preview_engine.get(url)).code == "INVALID_TOKEN"
    assert len(service.sent) == 1


async def test_cut_answer_of_unknown_length_is_seen_as_cut_by_an_old_client(open_engine: OpenEngine) -> None:
    """HTTP/1.0 knows no chunks: where the connection's end is the body's, a cut has to be a reset."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_engine() as engine, trio.open_nursery() as nursery:
        url = await engine.expose(reset_mid_body(b"half"))

        async def accept() -> None:
            await engine.router.handle(await listeners[0].accept(), scheme="https")

        nursery.start_soon(accept)
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        async with stream, listeners[0]:
            await stream.send_all(f"GET / HTTP/1.0\r\nHost: {host_of(url)}\r\n\r\n".encode())

            async def read_to_end() -> None:
                while await stream.receive_some():
                    pass

            with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
                await read_to_end()
