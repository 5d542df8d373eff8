"""What finds no room in a socket is kept, in order, and sent when there is room."""

import socket
from collections.abc import Iterator

import pytest

from proxy.outlet import Outlet
from proxy.pump import READABLE, WRITABLE, Pump

BIG = bytes(range(256)) * 8192


class Nobody:
    def on_ready(self, mask: int) -> None:
        raise AssertionError(mask)

    def on_bug(self) -> None:
        raise AssertionError


def kept(outlet: Outlet) -> bytes:
    return b"" if outlet.unsent is None else bytes(outlet.unsent)


@pytest.fixture
def ends() -> Iterator[tuple[Outlet, socket.socket, Pump]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    pump = Pump()
    outlet = Outlet(pump, ours)
    outlet.join(Nobody())
    yield outlet, theirs, pump
    outlet.leave()
    pump.close()
    ours.close()
    theirs.close()


def test_what_there_is_room_for_is_sent_at_once(ends: tuple[Outlet, socket.socket, Pump]) -> None:
    outlet, theirs, _ = ends
    assert outlet.send(b"hello")
    assert theirs.recv(100) == b"hello"
    assert (outlet.unsent, outlet.mask) == (None, READABLE)


def test_the_rest_is_kept_waited_for_and_sent_in_order(ends: tuple[Outlet, socket.socket, Pump]) -> None:
    outlet, theirs, _ = ends
    assert not outlet.send(BIG)
    assert outlet.mask == WRITABLE
    received = b""
    while len(received) < len(BIG):
        received += theirs.recv(65536)
        done = outlet.flush()
        assert done is (outlet.unsent is None)
    assert received == BIG
    assert outlet.flush()


def test_a_full_socket_keeps_everything(ends: tuple[Outlet, socket.socket, Pump]) -> None:
    outlet, _, _ = ends
    assert not outlet.send(BIG)
    outlet.unsent = None
    assert not outlet.send(b"more")
    assert not outlet.flush()
    assert kept(outlet) == b"more"


def test_a_peer_that_has_gone_is_told_by_an_error(ends: tuple[Outlet, socket.socket, Pump]) -> None:
    outlet, theirs, _ = ends
    theirs.close()
    with pytest.raises(OSError, match=r"[Bb]roken pipe"):
        outlet.send(b"hello")


def test_leaving_is_idempotent_and_joining_again_waits_for_reading(ends: tuple[Outlet, socket.socket, Pump]) -> None:
    outlet, _, pump = ends
    outlet.want(WRITABLE)
    outlet.leave()
    outlet.leave()
    assert len(pump) == 0
    outlet.join(Nobody())
    assert (len(pump), outlet.mask) == (1, READABLE)
