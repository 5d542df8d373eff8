"""One connection of a load test, against a peer that does as the test says."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import h11
import pytest
import trio
import trio.testing

from proxy.loadtest.client import Answer, LoadConnection, LoadFailureError, build_request, dial
from proxy.loadtest.tally import Failure
from proxy.loadtest.target import LoadTarget

TARGET = LoadTarget("8080-my-app-token.localhost", 8787, "/path?query")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

# What the peer sends for each request of a connection, one list a connection; None closes it.
Script = list[list[bytes | None]]


class Peer:
    """Answers each request with the next part of a script, and remembers what it was sent."""

    def __init__(self, nursery: trio.Nursery, script: Script) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._nursery = nursery
        self._script = script

    async def dial(self) -> trio.abc.Stream:
        if self.connections == len(self._script):
            raise OSError("refused")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs, self._script[self.connections])
        self.connections += 1
        return ours

    async def _serve(self, stream: trio.abc.HalfCloseableStream, answers: list[bytes | None]) -> None:
        async with stream:
            for answer in answers:
                if answer is None:
                    return
                request = b""
                while b"\r\n\r\n" not in request:
                    data = bytes(await stream.receive_some())
                    if not data:
                        return
                    request += data
                self.requests.append(request)
                if answer:
                    await stream.send_all(answer)
            if answers and answers[-1] == b"":
                await trio.sleep_forever()


def request_of(headers: tuple[tuple[str, str], ...] = ()) -> h11.Request:
    return build_request(TARGET, headers)


async def test_request_names_the_preview_and_its_answer_is_read_to_the_end(nursery: trio.Nursery) -> None:
    peer = Peer(nursery, [[OK]])
    async with LoadConnection(peer.dial, request_of((("X-One", "1"),))) as connection:
        assert await connection.ask() == Answer(200, 5)
    lines = peer.requests[0].split(b"\r\n")
    assert lines[0] == b"GET /path?query HTTP/1.1"
    assert {b"Host: 8080-my-app-token.localhost:8787", b"X-One: 1"} <= {*lines}


async def test_connection_is_used_again(nursery: trio.Nursery) -> None:
    chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    peer = Peer(nursery, [[OK, chunked, OK]])
    async with LoadConnection(peer.dial, request_of()) as connection:
        assert [await connection.ask() for _ in range(3)] == [Answer(200, 5), Answer(404, 3), Answer(200, 5)]
    assert peer.connections == 1


@pytest.mark.parametrize(
    "last", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"HTTP/1.0 200 OK\r\n\r\nhello"]
)
async def test_connection_that_the_server_ends_is_replaced(last: bytes, nursery: trio.Nursery) -> None:
    peer = Peer(nursery, [[last, None], [OK]])
    async with LoadConnection(peer.dial, request_of()) as connection:
        assert [await connection.ask() for _ in range(2)] == [Answer(200, 5)] * 2
    assert peer.connections == 2


async def test_kept_connection_closed_while_idle_costs_no_answer(nursery: trio.Nursery) -> None:
    peer = Peer(nursery, [[OK, None], [OK]])
    async with LoadConnection(peer.dial, request_of()) as connection:
        await connection.ask()
        await trio.testing.wait_all_tasks_blocked()
        assert await connection.ask() == Answer(200, 5)


async def test_new_connection_closed_without_an_answer_is_a_failure_and_not_tried_again(
    nursery: trio.Nursery,
) -> None:
    peer = Peer(nursery, [[None], [OK]])
    async with LoadConnection(peer.dial, request_of()) as connection:
        with pytest.raises(LoadFailureError) as caught:
            await connection.ask()
        assert caught.value.failure is Failure.CLOSED
        assert peer.connections == 1
        assert await connection.ask() == Answer(200, 5)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", Failure.CLOSED),
        (b"HTTP/1.1 200 OK\r\nContent-", Failure.CLOSED),
        (b"220 mail.example.com ESMTP\r\n\r\n", Failure.MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Failure.MALFORMED),
    ],
)
async def test_answer_that_breaks_off_or_is_not_http_is_a_failure(
    answer: bytes, failure: Failure, nursery: trio.Nursery
) -> None:
    peer = Peer(nursery, [[OK, answer], [OK]])
    async with LoadConnection(peer.dial, request_of()) as connection:
        await connection.ask()
        with pytest.raises(LoadFailureError) as caught:
            await connection.ask()
        assert caught.value.failure is failure
        # Where the next answer would begin is not known, so it gets a connection of its own.
        assert await connection.ask() == Answer(200, 5)
    assert peer.connections == 2


async def test_server_that_does_not_accept_is_a_failure(nursery: trio.Nursery) -> None:
    async with LoadConnection(Peer(nursery, []).dial, request_of()) as connection:
        with pytest.raises(LoadFailureError) as caught:
            await connection.ask()
    assert caught.value.failure is Failure.NOT_ACCEPTED


async def test_cancelled_request_leaves_no_answer_for_the_next_one(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    peer = Peer(nursery, [[b""], [OK]])
    async with LoadConnection(peer.dial, request_of()) as connection:
        with trio.move_on_after(1) as scope:
            await connection.ask()
        assert scope.cancelled_caught
        assert await connection.ask() == Answer(200, 5)
    assert peer.connections == 2
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ((("Content-Length", "5"),), "framed"),
        ((("connection", "close"),), "framed"),
        ((("X", "secret\r\nY: z"),), "HTTP does not allow"),
        ((("a b", "secret"),), "HTTP does not allow"),
    ],
)
def test_header_that_cannot_be_sent_is_refused_without_repeating_it(
    headers: tuple[tuple[str, str], ...], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        request_of(headers)
    assert "secret" not in str(caught.value)


def test_header_replaces_what_would_be_sent_by_itself() -> None:
    request = request_of((("host", "other.example.com"), ("User-Agent", "mine")))
    assert dict(request.headers) == {b"host": b"other.example.com", b"user-agent": b"mine", b"accept": b"*/*"}


async def test_first_address_that_accepts_is_taken() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        # Nobody listens at the first on this port.
        stream = await dial(("127.0.0.2", "127.0.0.1"), LoadTarget("localhost", port, "/"))
        await stream.aclose()


async def test_error_of_the_last_address_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await dial(("127.0.0.2", "127.0.0.1"), LoadTarget("localhost", port, "/"))


Certificate = Callable[..., tuple[Path, Path]]


async def ask_over_tls(key: Path, chain: Path, *, trusted: bool, host: str = "8080-my-app.example.com") -> Answer:
    """Ask a server with that certificate, which a context trusts or not."""
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(chain, key)
    theirs = ssl.create_default_context(cafile=str(chain) if trusted else None)

    async def answer(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, ours, server_side=True, https_compatible=True)
        # Expected to break where the client does not like what it sees.
        with suppress(trio.BrokenResourceError):
            await secured.receive_some()
            await secured.send_all(OK)
        await trio.aclose_forcefully(secured)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        target = LoadTarget(host, listener.socket.getsockname()[1], "/", "https")
        try:
            async with LoadConnection(partial(dial, ("127.0.0.1",), target, theirs), request_of()) as connection:
                return await connection.ask()
        finally:
            nursery.cancel_scope.cancel()


async def test_https_is_spoken_to_whom_the_certificate_is_for(certificate: Certificate) -> None:
    assert await ask_over_tls(*certificate(), trusted=True) == Answer(200, 5)


@pytest.mark.parametrize(("trusted", "host"), [(False, "8080-my-app.example.com"), (True, "other.example.net")])
async def test_certificate_that_is_not_trusted_is_a_failure_of_its_own(
    certificate: Certificate, trusted: bool, host: str
) -> None:
    with pytest.RaisesGroup(LoadFailureError) as caught:
        await ask_over_tls(*certificate(), trusted=trusted, host=host)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, LoadFailureError)
    assert failure.failure is Failure.TLS
