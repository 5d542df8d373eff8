"""One wait for many sockets: who is called, when, and that nothing is called for a socket that has gone."""

import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_trio
import trio
import trio.testing

from proxy.pump import BATCH_MAX, READABLE, WRITABLE, Pump


class Reader:
    """Notes what it is called with; does `then` each time."""

    def __init__(self, sock: socket.socket, then: Callable[[], None] | None = None) -> None:
        self.sock = sock
        self.received: list[bytes] = []
        self.bugs = 0
        self.then = then

    def on_ready(self, mask: int) -> None:
        assert mask & READABLE
        self.received.append(self.sock.recv(10))
        if self.then is not None:
            self.then()

    def on_bug(self) -> None:
        self.bugs += 1


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def pump() -> AsyncIterator[Pump]:
    pump = Pump()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        yield pump
        nursery.cancel_scope.cancel()
    pump.close()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3)]
    for pair in made:
        for sock in pair:
            sock.setblocking(False)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


Pairs = list[tuple[socket.socket, socket.socket]]


async def test_those_are_called_whose_sockets_are_ready(pump: Pump, pairs: Pairs) -> None:
    readers = [Reader(ours) for ours, _ in pairs]
    for reader in readers:
        pump.add(reader.sock, reader, READABLE)
    await trio.testing.wait_all_tasks_blocked()
    pairs[1][1].send(b"hello")
    await trio.testing.wait_all_tasks_blocked()
    assert [reader.received for reader in readers] == [[], [b"hello"], []]


async def test_what_one_call_leaves_unread_brings_the_next(pump: Pump, pairs: Pairs) -> None:
    reader = Reader(pairs[0][0])
    pairs[0][1].send(b"x" * 25)
    pump.add(reader.sock, reader, READABLE)
    await trio.testing.wait_all_tasks_blocked()
    assert [len(data) for data in reader.received] == [10, 10, 5]


async def test_nobody_is_called_after_its_removal_and_a_removed_one_may_come_back(pump: Pump, pairs: Pairs) -> None:
    reader = Reader(pairs[0][0])
    pump.add(reader.sock, reader, READABLE)
    pump.remove(reader.sock)
    pump.remove(reader.sock)
    pairs[0][1].send(b"hello")
    await trio.testing.wait_all_tasks_blocked()
    assert (reader.received, len(pump)) == ([], 0)
    pump.add(reader.sock, reader, READABLE)
    await trio.testing.wait_all_tasks_blocked()
    assert reader.received == [b"hello"]


async def test_removal_of_a_socket_that_is_closed_or_unknown_harms_nobody(pump: Pump) -> None:
    # Made after the pump's own descriptors, so that these numbers are the highest.
    closed = socket.socket()
    theirs, ours = sorted(socket.socketpair(), key=socket.socket.fileno)
    with ours, theirs, socket.socket() as unknown:
        reader = Reader(ours)
        pump.add(ours, reader, READABLE)
        closed.close()
        pump.remove(closed)
        pump.remove(unknown)
        assert len(pump) == 1
        theirs.send(b"hello")
        await trio.testing.wait_all_tasks_blocked()
        assert reader.received == [b"hello"]
        pump.remove(ours)


async def test_other_wish_takes_effect(pump: Pump, pairs: Pairs) -> None:
    reader = Reader(pairs[0][0])
    pump.add(reader.sock, reader, READABLE)
    pump.change(reader.sock, 0)
    pairs[0][1].send(b"hello")
    await trio.testing.wait_all_tasks_blocked()
    assert not reader.received
    pump.change(reader.sock, READABLE)
    await trio.testing.wait_all_tasks_blocked()
    assert reader.received == [b"hello"]


async def test_number_used_again_within_a_round_is_not_taken_for_the_one_before(pump: Pump, pairs: Pairs) -> None:
    """The round still has news of the number; they are of a socket that is gone."""
    (one, to_one), (other, to_other), (fresh, _) = pairs
    new = Reader(fresh)

    def swap(victim: socket.socket) -> None:
        if new.sock is fresh:
            number = victim.fileno()
            pump.remove(victim)
            victim.close()
            new.sock = socket.socket(fileno=socket.dup(fresh.fileno()))
            assert new.sock.fileno() == number
            new.sock.setblocking(False)
            pump.add(new.sock, new, READABLE)

    # Whichever is called first puts the new one in the other's place.
    first, second = Reader(one, lambda: swap(other)), Reader(other, lambda: swap(one))
    for reader in (first, second):
        pump.add(reader.sock, reader, READABLE)
    to_one.send(b"1")
    to_other.send(b"2")
    await trio.testing.wait_all_tasks_blocked()
    # It would have raised BlockingIOError.
    assert (new.received, new.bugs) == ([], 0)
    assert len(first.received) + len(second.received) == 1
    pump.remove(new.sock)
    new.sock.close()


async def test_bug_is_told_to_the_one_who_has_it_and_the_others_go_on(
    pump: Pump, pairs: Pairs, logged: list[dict[str, object]]
) -> None:
    def broken() -> None:
        pump.remove(bad.sock)
        raise ValueError("a bug")

    bad, good = Reader(pairs[0][0], broken), Reader(pairs[1][0])
    for reader, (_, theirs) in zip((bad, good), pairs, strict=False):
        pump.add(reader.sock, reader, READABLE)
        theirs.send(b"hello")
    await trio.testing.wait_all_tasks_blocked()
    assert (bad.bugs, good.bugs, good.received) == (1, 0, [b"hello"])
    assert [event["error"] for event in logged] == ["ValueError"]


async def test_bug_in_what_is_due_soon_is_told_likewise(
    pump: Pump, pairs: Pairs, logged: list[dict[str, object]]
) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    reader, called = Reader(pairs[0][0]), trio.Event()
    await trio.testing.wait_all_tasks_blocked()
    pump.soon(reader, broken)
    pump.soon(reader, called.set)
    await called.wait()
    assert (reader.bugs, [event["error"] for event in logged]) == (1, ["ValueError"])


async def test_bug_in_the_care_for_a_bug_stops_nobody(
    pump: Pump, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, object]]
) -> None:
    def broken() -> None:
        raise ValueError("a bug")

    reader, called = Reader(pairs[0][0]), trio.Event()
    monkeypatch.setattr(reader, "on_bug", broken)
    pump.soon(reader, broken)
    pump.soon(reader, called.set)
    await called.wait()
    assert len(logged) == 2


async def test_what_is_due_soon_wakes_the_task_and_waits_for_its_round(pump: Pump, pairs: Pairs) -> None:
    order: list[str] = []

    def note_and_call_soon() -> None:
        order.append("ready")
        pump.soon(first, lambda: order.append("soon"))

    first = Reader(pairs[0][0], note_and_call_soon)
    second = Reader(pairs[1][0], lambda: order.append("ready"))
    for reader, (_, theirs) in zip((first, second), pairs, strict=False):
        pump.add(reader.sock, reader, READABLE)
        theirs.send(b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert order == ["ready", "ready", "soon"]
    for _ in range(2):
        pump.soon(first, lambda: order.append("rung"))
    await trio.testing.wait_all_tasks_blocked()
    assert order[3:] == ["rung", "rung"]


async def test_others_have_their_turn_while_sockets_are_always_ready(pump: Pump) -> None:
    class Writer:
        calls = 0

        def on_ready(self, mask: int) -> None:
            assert mask & WRITABLE
            self.calls += 1

        def on_bug(self) -> None:
            raise AssertionError("unreachable")

    made = [socket.socketpair() for _ in range(BATCH_MAX + 10)]
    writers = [Writer() for _ in made]
    for writer, (ours, _) in zip(writers, made, strict=True):
        pump.add(ours, writer, WRITABLE)
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    # All of them have been served, although one round does not take them all.
    assert all(writer.calls for writer in writers)
    assert max(writer.calls for writer in writers) <= 12
    for ours, theirs in made:
        pump.remove(ours)
        ours.close()
        theirs.close()
