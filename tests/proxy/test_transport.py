"""The socket transport on real sockets: bytes, ends, resets, waiting, fairness."""

import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from proxy.transport import KEEPALIVE_S, READY_RUN_MAX, UNTAKEN_S, SocketTransport

BIG = b"x" * 4_000_000
HELD_BYTES = 256 * 1024


@pytest.fixture
def pair() -> Iterator[tuple[SocketTransport, socket.socket]]:
    """A transport, and the plain socket at its other end."""
    listener = socket.create_server(("127.0.0.1", 0))
    # What the kernel holds by itself may be more than `BIG`; then nobody would ever wait.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HELD_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HELD_BYTES)
    theirs = socket.socket()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HELD_BYTES)
    theirs.connect(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    theirs.setblocking(False)
    transport = SocketTransport(ours)
    yield transport, theirs
    theirs.close()
    ours.close()


async def test_bytes_pass_both_ways(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    theirs.send(b"ping")

    assert await transport.receive_some() == b"ping"
    await transport.send_all(b"pong")
    await trio.lowlevel.wait_readable(theirs)
    assert theirs.recv(100) == b"pong"


async def test_receive_waits_for_what_has_not_come(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await transport.receive_some(3))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            assert not received
            theirs.send(b"later")
    assert received == [b"lat"]


async def test_answer_that_came_before_it_was_waited_for_is_received(
    pair: tuple[SocketTransport, socket.socket],
) -> None:
    transport, theirs = pair
    await transport.send_all(b"question")
    theirs.send(b"answer")

    with trio.fail_after(5):
        assert await transport.receive_some() == b"answer"


async def test_big_send_waits_for_room_and_arrives_whole(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    received = bytearray()

    async def drain() -> None:
        while len(received) < len(BIG):
            await trio.lowlevel.wait_readable(theirs)
            received.extend(theirs.recv(1_000_000))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.send_all, BIG)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(drain)
    assert received == BIG


async def test_half_close_ends_one_direction(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    await transport.send_eof()
    await trio.lowlevel.wait_readable(theirs)
    assert theirs.recv(10) == b""

    theirs.send(b"still here")
    assert await transport.receive_some() == b"still here"
    theirs.shutdown(socket.SHUT_WR)
    assert await transport.receive_some() == b""


async def test_reset_breaks_both_directions(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    SocketTransport(theirs).abort()

    with pytest.raises(trio.BrokenResourceError):
        await transport.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await transport.send_all(b"hello?")
    # The other side is gone: that our direction ends is no news.
    await transport.send_eof()


async def test_reset_while_a_big_send_waits_breaks_it(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await transport.send_all(BIG)

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            SocketTransport(theirs).abort()


async def test_close_wakes_whoever_waits_and_may_be_repeated(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, _ = pair
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await transport.receive_some()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await transport.send_all(b"hello")
            await transport.aclose()
    transport.close()
    transport.abort()
    for use in (
        transport.receive_some(),
        transport.send_all(b"x"),
        transport.send_eof(),
        transport.wait_send_all_might_not_block(),
    ):
        with pytest.raises(trio.ClosedResourceError):
            await use


async def test_abort_is_seen_as_an_error_and_close_as_an_end(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    transport.abort()
    await trio.lowlevel.wait_readable(theirs)
    with pytest.raises(ConnectionResetError):
        theirs.recv(10)


async def test_quiet_means_neither_data_nor_an_end(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    assert transport.is_quiet()
    theirs.send(b"unasked for")
    await transport.receive_some(1)
    assert not transport.is_quiet()
    assert await transport.receive_some() == b"nasked for"
    assert transport.is_quiet()
    theirs.close()
    await trio.lowlevel.wait_readable(transport.socket)
    assert not transport.is_quiet()


async def test_connection_that_was_reset_is_not_quiet(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    SocketTransport(theirs).abort()
    await trio.lowlevel.wait_readable(transport.socket)

    assert not transport.is_quiet()


async def test_cancelled_receive_loses_nothing(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    for _ in range(READY_RUN_MAX * 3):
        theirs.send(b"a")
        with trio.CancelScope() as scope:
            scope.cancel()
            data = await transport.receive_some()
            assert data == b"a"
            continue
        assert scope.cancelled_caught
        assert await transport.receive_some() == b"a"


async def test_stream_that_is_always_ready_can_be_cancelled(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    theirs.setblocking(True)
    theirs.send(b"x" * 1000)
    received = 0
    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(1000):
            received += len(await transport.receive_some(1))
    assert received <= READY_RUN_MAX

    sent = 0
    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(1000):
            await transport.send_all(b"x")
            sent += 1
    assert sent <= READY_RUN_MAX


async def test_stream_that_is_always_ready_lets_others_have_their_turn(
    pair: tuple[SocketTransport, socket.socket],
) -> None:
    transport, theirs = pair
    theirs.send(b"x" * 1000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        for _ in range(1000):
            await transport.receive_some(1)
        nursery.cancel_scope.cancel()
    assert turns > 1000 // (2 * READY_RUN_MAX)


async def test_peer_is_the_address_of_the_other_side(pair: tuple[SocketTransport, socket.socket]) -> None:
    assert pair[0].peer == "127.0.0.1"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert SocketTransport(ours).peer == ""


async def test_connection_that_is_gone_already_can_be_taken_up() -> None:
    unconnected = socket.socket()
    with unconnected:
        assert SocketTransport(unconnected).peer == ""


async def test_trio_stream_is_taken_over_with_its_socket(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    taken = SocketTransport.take_over(stream)
    await taken.send_all(b"hello")

    assert await transport.receive_some() == b"hello"
    assert stream.socket.fileno() == -1
    taken.close()


async def test_there_is_room_to_send_on_a_new_connection(pair: tuple[SocketTransport, socket.socket]) -> None:
    with trio.fail_after(5):
        await pair[0].wait_send_all_might_not_block()


async def test_kernel_is_asked_to_give_up_peers_that_are_gone_or_do_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        SocketTransport(ours)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_S
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNTAKEN_S * 1000
