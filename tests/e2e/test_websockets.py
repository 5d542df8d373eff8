"""WebSockets through a real server, spoken by other people's libraries at both ends: `websockets` and trio-websocket.

After the 101 the bytes are theirs, so what they negotiate must hold as if nothing were in between; before it, a
handshake that Portico refuses is answered by plain HTTP; and when the preview ends under them, they are told why.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pytest
import trio
from trio_websocket import ConnectionClosed as TrioConnectionClosed
from trio_websocket import WebSocketRequest, serve_websocket, wrap_client_stream
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.e2e.preview import STEP_S, Preview, end_of, preview_server, scene

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BIG: Final = 16 * 2**20
KEY: Final = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
"""The example of RFC 6455 section 1.3."""
UPGRADE: Final = b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + KEY
SWITCHING: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)

Handler = Callable[[ServerConnection], None]


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preview]:
    with preview_server(tmp_path_factory.mktemp("preview")) as running:
        yield running


@pytest.fixture
def own_preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preview]:
    """A server of the test's own: for what ends a sandbox, or its runs."""
    with preview_server(tmp_path_factory.mktemp("preview")) as running:
        yield running


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@contextmanager
def websocket_service(handler: Handler = echo, *, subprotocols: list[Subprotocol] | None = None) -> Iterator[int]:
    """Serve with `websockets` on a port of the loopback, and yield that port."""
    with serve(handler, "127.0.0.1", 0, subprotocols=subprotocols, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.socket.getsockname()[1])
        finally:
            server.shutdown()
            thread.join(STEP_S)


def visit(
    preview: Preview,
    host: str,
    *,
    subprotocols: list[Subprotocol] | None = None,
    compression: str | None = "deflate",
    bearer: str | None = None,
) -> ClientConnection:
    """Open a WebSocket with `websockets`."""
    return connect(
        f"ws://{host}/ws",
        # Python does not resolve *.localhost.
        sock=socket.create_connection(("127.0.0.1", preview.port), STEP_S),
        subprotocols=subprotocols,
        compression=compression,
        additional_headers=None if bearer is None else {"Authorization": f"Bearer {bearer}"},
        max_size=None,
        open_timeout=STEP_S,
        close_timeout=STEP_S,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What the two ends agree on holds.


def test_subprotocol_is_the_service_s_choice(preview: Preview) -> None:
    with websocket_service(subprotocols=[Subprotocol("chat.v2"), Subprotocol("chat.v1")]) as port:
        offered = [Subprotocol("chat.v1"), Subprotocol("chat.v2"), Subprotocol("other")]
        with visit(preview, preview.expose(port), subprotocols=offered) as client:
            assert client.subprotocol == "chat.v2"


def test_compression_is_negotiated_and_its_frames_are_read_by_the_other_end(preview: Preview) -> None:
    seen: list[object] = []

    def handler(connection: ServerConnection) -> None:
        seen.extend(connection.protocol.extensions)
        echo(connection)

    with websocket_service(handler) as port, visit(preview, preview.expose(port)) as client:
        text = "all work and no play " * 5000
        client.send(text)
        assert client.recv(STEP_S) == text
        # The window is shared by the messages of a connection: the second one refers to the first.
        client.send(text)
        assert client.recv(STEP_S) == text
        assert [type(extension) for extension in client.protocol.extensions] == [PerMessageDeflate]
        assert [type(extension) for extension in seen] == [PerMessageDeflate]


def test_pings_of_both_ends_are_answered_by_the_other(preview: Preview) -> None:
    answered = threading.Event()

    def handler(connection: ServerConnection) -> None:
        if connection.ping(b"from the service").wait(STEP_S):
            answered.set()
        echo(connection)

    with websocket_service(handler) as port, visit(preview, preview.expose(port)) as client:
        assert client.ping(b"from the client").wait(STEP_S)
        assert answered.wait(STEP_S)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_message_of_16_mib_passes_both_ways(preview: Preview, compression: str | None) -> None:
    with websocket_service() as port:
        message = os.urandom(BIG)
        with visit(preview, preview.expose(port), compression=compression) as client:
            client.send(message)
            assert client.recv(STEP_S) == message


def test_fragments_of_a_message_arrive_as_they_were_cut_before_the_message_ends(preview: Preview) -> None:
    pieces = ["one ", "two ", "three"]
    heard = threading.Semaphore(0)

    def handler(connection: ServerConnection) -> None:
        for fragment in connection.recv_streaming():
            connection.send(fragment)
        heard.release()

    with websocket_service(handler) as port, visit(preview, preview.expose(port), compression=None) as client:

        def talk() -> Iterator[str]:
            for piece in pieces:
                yield piece
                # The next is cut only once this one has been echoed: nobody may hold it back.
                assert client.recv(STEP_S) == piece

        sender = talk()
        client.send(sender)
        assert heard.acquire(timeout=STEP_S)


def test_close_code_and_reason_of_the_service_reach_the_client(preview: Preview) -> None:
    with (
        websocket_service(lambda connection: connection.close(4001, "go to bed")) as port,
        visit(preview, preview.expose(port)) as client,
    ):
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(STEP_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "go to bed")


async def test_trio_websocket_at_both_ends_talks_and_closes(preview: Preview) -> None:
    ended: list[int] = []

    async def serve_one(request: WebSocketRequest) -> None:
        connection = await request.accept(subprotocol="echo")
        try:
            while True:
                await connection.send_message(await connection.get_message())
        except TrioConnectionClosed as closed:
            if closed.reason is not None:
                ended.append(int(closed.reason.code))

    with trio.fail_after(STEP_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: serve_websocket(serve_one, "127.0.0.1", 0, None, task_status=task_status)
            )
            host = preview.expose(server.port)
            stream = await trio.open_tcp_stream("127.0.0.1", preview.port)
            connection = await wrap_client_stream(nursery, stream, host, "/ws", subprotocols=["echo"])
            assert connection.subprotocol == "echo"
            for message in ("grüße", b"\x00\xff" * 100_000):
                await connection.send_message(message)
                assert await connection.get_message() == message
            await connection.ping()
            await connection.aclose(4002, "enough")
            nursery.cancel_scope.cancel()
    assert ended == [4002]


# Raw bytes: what no library would send.


async def test_after_the_101_any_bytes_pass_both_ways_and_each_way_ends_alone(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(UPGRADE)
        assert head.values(b"sec-websocket-key") == [b"dGhlIHNhbXBsZSBub25jZQ=="]
        # Frames with reserved bits and opcodes; and what the service adds to its answer without a pause.
        up, down = b"\x7f\x00up" + os.urandom(1000), b"\xf3\x05dowN!" + os.urandom(1000)
        await wire.send(SWITCHING + down)
        assert (await it.client.head()).status == 101
        assert await it.client.exactly(len(down)) == down
        await it.client.send(up)
        await it.client.stream.send_eof()
        assert await wire.rest() == up
        await wire.send(down)
        assert await it.client.exactly(len(down)) == down
        await wire.stream.send_eof()
        assert await it.client.rest() == b""


async def test_service_that_ends_its_way_first_still_hears_the_client(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask(UPGRADE)
        await wire.send(SWITCHING)
        await wire.stream.send_eof()
        assert (await it.client.head()).status == 101
        assert await it.client.rest() == b""
        await it.client.send(b"still here")
        await it.client.stream.send_eof()
        assert await wire.rest() == b"still here"


async def test_other_protocols_are_switched_to_as_well(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: our-protocol/2")
        assert head.values(b"upgrade") == [b"our-protocol/2"]
        await wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: our-protocol/2\r\n\r\nhi")
        assert (await it.client.head()).status == 101
        assert await it.client.exactly(2) == b"hi"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: origin\r\n\r\nno",
        b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /login\r\n\r\n",
    ],
    ids=["403", "426", "302"],
)
async def test_handshake_refused_by_the_service_is_answered_in_its_words(preview: Preview, answer: bytes) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask(UPGRADE)
        await wire.send(answer)
        head = await it.client.head()
        assert head.start == answer.split(b"\r\n")[0]
        assert (head.values(b"x-why"), head.values(b"location")) in [([b"origin"], []), ([], [b"/login"]), ([], [])]
        assert await it.client.body(head) == (b"no" if head.status == 403 else b"")


# Handshakes refused by Portico.


def refusal(preview: Preview, host: str, *, bearer: str | None = None) -> tuple[int, str]:
    """Return status and code of the plain HTTP answer to a handshake."""
    with pytest.raises(InvalidStatus) as refused, visit(preview, host, bearer=bearer):
        pass
    response = refused.value.response
    assert response.headers["Content-Type"].startswith("application/json")
    assert response.body is not None
    return response.status_code, json.loads(response.body)["code"]


def test_wrong_token_is_refused_with_404(preview: Preview) -> None:
    with websocket_service() as port:
        first, dot, rest = preview.expose(port).partition(".")
        wrong = first[:-1] + ("a" if first[-1] != "a" else "b")
        assert refusal(preview, wrong + dot + rest) == (404, "INVALID_TOKEN")


def test_port_where_nothing_listens_is_refused_with_502(preview: Preview) -> None:
    assert refusal(preview, preview.expose(free_port())) == (502, "NOT_LISTENING")


def test_sandbox_that_sleeps_and_is_not_to_be_woken_is_refused_with_410(preview: Preview) -> None:
    assert refusal(preview, str(preview.tell("expose asleep", free_port()))) == (410, "STALE_PREVIEW_URL")


def test_sandbox_that_was_stopped_is_refused_with_410(own_preview: Preview) -> None:
    with websocket_service() as port:
        host = own_preview.expose(port)
        with visit(own_preview, host) as client:
            assert own_preview.tell("stop") == 1
            assert close_code(client) == 1001
        assert refusal(own_preview, host) == (410, "SANDBOX_STOPPED")


def test_gate_refuses_with_401_whoever_brings_no_token_or_a_wrong_one(own_preview: Preview) -> None:
    with websocket_service() as port:
        host = own_preview.expose(port)
        token = str(own_preview.tell("gate"))
        assert refusal(own_preview, host) == (401, "AUTH_REQUIRED")
        assert refusal(own_preview, host, bearer=token[::-1]) == (401, "AUTH_INVALID")
        with visit(own_preview, host, bearer=token) as client:
            client.send("in")
            assert client.recv(STEP_S) == "in"


# The preview ends under them.


def close_code(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(STEP_S)
    assert closed.value.rcvd is not None, "it ended without a close frame"
    return int(closed.value.rcvd.code)


def test_unexposed_port_closes_its_websockets_with_1001_and_no_others(preview: Preview) -> None:
    with websocket_service() as port, websocket_service() as other_port:
        host, other_host = preview.expose(port), preview.expose(other_port)
        with visit(preview, host) as first, visit(preview, host) as second, visit(preview, other_host) as other:
            for client in (first, second, other):
                client.send("there")
                assert client.recv(STEP_S) == "there"
            assert preview.tell("unexpose", port) == 2
            assert [close_code(first), close_code(second)] == [1001, 1001]
            other.send("still there")
            assert other.recv(STEP_S) == "still there"
        assert refusal(preview, host) == (404, "INVALID_TOKEN")


def test_restarted_sandbox_closes_its_websockets_with_1012_and_takes_new_ones(own_preview: Preview) -> None:
    with websocket_service() as port:
        host = own_preview.expose(port)
        with visit(own_preview, host) as client:
            client.send("before")
            assert client.recv(STEP_S) == "before"
            own_preview.tell("restart")
            assert close_code(client) == 1012
        with visit(own_preview, host) as client:
            client.send("after")
            assert client.recv(STEP_S) == "after"


async def test_websocket_cut_in_the_middle_of_a_frame_gets_no_frame_into_it(preview: Preview) -> None:
    """RFC 6455 section 5.4: a control frame stands between frames."""
    async with scene(preview) as it:
        wire, _ = await it.ask(UPGRADE)
        begun = b"\x82\x7e\x10\x00" + b"part"
        await wire.send(SWITCHING + begun)
        assert (await it.client.head()).status == 101
        assert await it.client.exactly(len(begun)) == begun
        assert preview.tell("unexpose", it.service.port) == 1
        assert await end_of(it.client) == b""
        assert await end_of(wire) == b""
