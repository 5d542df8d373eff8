"""Connecting to a port: what is tried, what is said, and whom a connection never reaches."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from actors.containers import dial as module
from actors.containers.dial import LOOPBACK, dial
from actors.errors import NotListeningError


@contextmanager
def listener(family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        sock.listen()
        yield sock


def up() -> bool:
    return True


async def test_listening_port_is_connected_without_delay_of_small_writes() -> None:
    with listener() as sock:
        stream = await dial(sock.getsockname()[1], LOOPBACK, up)
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted, _ = sock.accept()
        await stream.send_all(b"hello")
        assert accepted.recv(5) == b"hello"
        accepted.close()
        await stream.aclose()


async def test_service_on_ipv6_only_is_found_second() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with listener(socket.AF_INET6, "::1") as sock:
            stream = await dial(sock.getsockname()[1], LOOPBACK, up)
            assert stream.socket.getpeername()[0] == "::1"
            await stream.aclose()
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
        pytest.skip("no IPv6 loopback here")


async def test_silent_port_is_refused_with_every_address_named() -> None:
    with pytest.raises(NotListeningError) as caught:
        await dial(1, LOOPBACK, up)
    assert caught.value.port == 1
    assert caught.value.tried[0] == ("127.0.0.1", "connection refused")
    assert caught.value.tried[1][0] == "::1"


async def test_stopped_run_connects_to_nobody() -> None:
    with listener() as sock:
        with pytest.raises(NotListeningError, match="the run has stopped"):
            await dial(sock.getsockname()[1], LOOPBACK, lambda: False)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()


async def test_run_that_stops_while_connecting_gets_no_connection() -> None:
    answers = iter([True, False, False, False])
    with listener() as sock:
        with pytest.raises(NotListeningError, match="the run has stopped"):
            await dial(sock.getsockname()[1], LOOPBACK, lambda: next(answers))
        accepted, _ = sock.accept()
        assert accepted.recv(1) == b""
        accepted.close()


async def test_socket_connected_to_itself_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert await module._attempt(sock, ("127.0.0.1", port)) == errno.ECONNREFUSED
        assert sock.getpeername() == ("127.0.0.1", port), "it was to be connected to itself"


async def test_slow_connection_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(socket.socket):
        """Says twice that it has not connected yet."""

        calls = 0

        def connect_ex(self, address: object) -> int:
            self.calls += 1
            if self.calls == 1:
                super().connect_ex(address)  # type: ignore[arg-type]  # typeshed wants its own alias
            return errno.EINPROGRESS if self.calls == 1 else errno.EALREADY

    monkeypatch.setattr(socket, "socket", Slow)
    with listener() as sock:
        stream = await dial(sock.getsockname()[1], LOOPBACK, up)
        await stream.aclose()


async def test_cancelled_dial_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    class Stuck(socket.socket):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            made.append(self)

        def connect_ex(self, address: object) -> int:
            return errno.EINPROGRESS

    async def never(_sock: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(socket, "socket", Stuck)
    monkeypatch.setattr(trio.lowlevel, "wait_writable", never)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, 1, LOOPBACK, up)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert [sock.fileno() for sock in made] == [-1]
