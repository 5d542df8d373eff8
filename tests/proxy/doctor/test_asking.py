"""One question at a time, and every way for it to go unanswered."""

from collections.abc import Callable

import pytest
import trio
import trio.testing
from wsproto.utilities import generate_accept_token

from proxy.core.diagnosis import NoReply, Reply, Silence
from proxy.core.flow import BadAccept, Stream, Upgraded
from proxy.core.symptoms import BODY_LOOKED_AT
from proxy.doctor.asking import BODY_TIMEOUT_S, Question, ask, events_in, open_websocket, watch_events
from proxy.doctor.reach import Route

ROUTE = Route("192.0.2.1", 80, None)
QUESTION = Question("8080-my-app-token.example.com:80", "/", (("Accept", "*/*"),))
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

Answers = Callable[..., None]


@pytest.fixture
def answers(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Return a function that says what the peer answers: pieces, with pauses in seconds between them; then it closes.

    With ``accept`` in a piece, the right Sec-WebSocket-Accept is put there.
    """
    script: list[bytes | float] = []

    async def play(stream: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]) -> None:
        asked = bytes(await stream.receive_some())
        key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        try:
            for part in script:
                if isinstance(part, float):
                    await trio.sleep(part)
                else:
                    await stream.send_all(part.replace(b"{accept}", generate_accept_token(key)))
            await stream.aclose()
        except trio.BrokenResourceError:
            # Expected: the doctor has seen enough.
            await trio.aclose_forcefully(stream)

    async def dial(_host: str, _port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(play, theirs)
        return ours

    monkeypatch.setattr(trio, "open_tcp_stream", dial)

    def say(*parts: bytes | float) -> None:
        script[:] = parts

    return say


async def test_reply_is_read_with_the_beginning_of_its_body(answers: Answers) -> None:
    answers(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n", b"x" * BODY_LOOKED_AT, b"y")
    said = await ask(ROUTE, QUESTION, 5)
    assert isinstance(said, Reply)
    assert (said.status, said.header("a"), said.body[:1]) == (200, "b", b"x")
    assert len(said.body) >= BODY_LOOKED_AT


async def test_body_that_never_ends_is_not_waited_for(answers: Answers, autojump_clock: trio.testing.MockClock) -> None:
    answers(b"HTTP/1.1 200 OK\r\n\r\n", b"some", 1000.0)
    began = trio.current_time()
    said = await ask(ROUTE, QUESTION, 5)
    assert isinstance(said, Reply)
    assert said.body == b"some"
    assert trio.current_time() - began == pytest.approx(BODY_TIMEOUT_S)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((), Silence.CLOSED),
        ((b"HTTP/1.1 200 OK\r\nA:",), Silence.CLOSED),
        ((b"SSH-2.0-OpenSSH_9.6\r\n\r\n",), Silence.NOT_HTTP),
        ((b"\x15\x03\x01\x00\x02\x02\x16",), Silence.NOT_HTTP),
        ((b"HTTP/1.1 101 Switching Protocols\r\n\r\n",), Silence.NOT_HTTP),
        ((10.0, b"HTTP/1.1 200 OK\r\n\r\n"), Silence.TIMEOUT),
    ],
)
async def test_what_is_no_answer_is_told_apart(
    parts: tuple[bytes | float, ...], why: Silence, answers: Answers, autojump_clock: trio.testing.MockClock
) -> None:
    answers(*parts)
    said = await ask(ROUTE, QUESTION, 5)
    assert isinstance(said, NoReply)
    assert said.why is why


async def test_body_that_breaks_off_is_a_reply_all_the_same(answers: Answers) -> None:
    answers(b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\nhalf")
    said = await ask(ROUTE, QUESTION, 5)
    assert isinstance(said, Reply)
    assert said.body == b"half"


# Event streams.


async def test_pieces_of_a_stream_are_dated(answers: Answers, autojump_clock: trio.testing.MockClock) -> None:
    answers(EVENTS_HEAD, 1.0, b"data: a\n\n", 1.0, b"data: b\n\ndata: c\n\n")
    said = await watch_events(ROUTE, QUESTION, 5, 60)
    assert isinstance(said, Stream)
    assert [(round(time), count) for time, count in said.pieces] == [(1, 1), (2, 2)]
    assert said.ended


async def test_stream_is_watched_for_so_long_and_no_longer(
    answers: Answers, autojump_clock: trio.testing.MockClock
) -> None:
    answers(EVENTS_HEAD, 1000.0, b"data: a\n\n")
    began = trio.current_time()
    said = await watch_events(ROUTE, QUESTION, 5, 7)
    assert isinstance(said, Stream)
    assert (said.pieces, said.ended) == ((), False)
    assert trio.current_time() - began == pytest.approx(7)


async def test_what_is_no_stream_is_a_reply(answers: Answers) -> None:
    answers(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>")
    assert isinstance(await watch_events(ROUTE, QUESTION, 5, 5), Reply)


@pytest.mark.parametrize(
    ("piece", "count"), [(b"", 0), (b"data: a\n", 0), (b"data: a\n\n: b\n\n", 2), (b"a\r\n\r\n", 1), (b"a\r\r", 1)]
)
def test_events_end_in_an_empty_line_of_any_kind(piece: bytes, count: int) -> None:
    assert events_in(piece) == count


# WebSockets.

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
PONG = b"\x8a\x0eportico doctor"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n", PONG, 1.0), Upgraded(pong=True)),
        # Behind the head, and among other frames.
        ((SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n\x81\x02hi\x89\x00" + PONG, 1.0), Upgraded(pong=True)),
        ((SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n", b"\x88\x02\x03\xe9"), Upgraded(pong=False, closed=True)),
        ((SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n",), Upgraded(pong=False, closed=True)),
        ((SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n", b"\xff\xff\xff"), Upgraded(pong=False, closed=True)),
        ((SWITCH + b"Sec-WebSocket-Accept: {accept}\r\n\r\n", 60.0), Upgraded(pong=False)),
        ((SWITCH + b"Sec-WebSocket-Accept: of-another\r\n\r\n",), BadAccept()),
        ((SWITCH + b"\r\n",), BadAccept()),
    ],
)
async def test_handshake_and_ping_are_told_apart(
    parts: tuple[bytes | float, ...],
    expected: Upgraded | BadAccept,
    answers: Answers,
    autojump_clock: trio.testing.MockClock,
) -> None:
    answers(*parts)
    assert await open_websocket(ROUTE, QUESTION, 30) == expected


async def test_handshake_that_is_refused_is_a_reply(answers: Answers) -> None:
    answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno!\n")
    said = await open_websocket(ROUTE, QUESTION, 5)
    assert isinstance(said, Reply)
    assert (said.status, said.body) == (403, b"no!\n")


def test_question_shows_no_host() -> None:
    assert "token" not in repr(QUESTION)
