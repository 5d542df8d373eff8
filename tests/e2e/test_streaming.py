"""Bodies through a real server over real sockets: each piece leaves as it came, both ways, and nothing is stored up.

The tests that are about order move in lock-step: the next piece is sent only once the other side has the last one, so
a proxy that keeps anything back does not pass late, it does not pass at all. The two of 1 GiB measure the server's
process.
"""

import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
import trio

from tests.e2e.preview import Preview, Scene, Wire, end_of, preview_server, scene, service

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MIB: Final = 2**20
GROWTH_MAX: Final = 16 * MIB
"""What 1 GiB may add to the server's resident memory at its peak. One exchange is to hold two pieces of 64 KiB; the
rest is the allocator's."""
BETWEEN_MAX: Final = 64 * MIB
"""What may be under way between a writer and a reader that has stopped: the buffers of four sockets, which Linux lets
grow to 4 and 6 MiB each (tcp_wmem, tcp_rmem), and a good deal for other kernels."""
ANSWER_MAX_S: Final = 2.0
"""For a small request beside 1 GiB. It takes milliseconds; the machine may be busy, a proxy that waits for the slow
reader never answers."""


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preview]:
    with preview_server(tmp_path_factory.mktemp("preview")) as running:
        yield running


# One GiB, and a reader that stops and starts.

SIZE: Final = 1024 * MIB
PIECE: Final = MIB
STOPS: Final = 4
POOL: Final = memoryview(b"".join(hashlib.sha256(b"%d" % n).digest() for n in range((PIECE + 8192) // 32)))


def piece(number: int) -> memoryview:
    """Return a piece of what flows. Each begins at another place of the pool: one lost or doubled would show."""
    start = number * 61 % 8192
    return POOL[start : start + PIECE]


def flows_at(position: int, data: bytes) -> bool:
    """Say whether `data` is what flows from `position` on."""
    done = 0
    while done < len(data):
        number, offset = divmod(position + done, PIECE)
        # As bytes: views are compared one item at a time.
        expected = bytes(piece(number)[offset : offset + len(data) - done])
        if not data.startswith(expected, done):
            return False
        done += len(expected)
    return True


class Flow:
    """One GiB under way: what the writer has handed over, and what the reader has got."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    async def write(self, wire: Wire, *, chunked: bool) -> None:
        for number in range(SIZE // PIECE):
            if chunked:
                await wire.send(b"%x\r\n" % PIECE)
            await wire.send(piece(number))
            if chunked:
                await wire.send(b"\r\n")
            self.sent += PIECE
        if chunked:
            await wire.send(b"0\r\n\r\n")

    async def read(self, wire: Wire, others: "Others", *, chunked: bool) -> None:
        """Read it all; now and then stop until the writer stands still, and others have been answered meanwhile."""
        stop_at = SIZE // (STOPS + 1)
        while self.received < SIZE:
            data = await wire.chunk() if chunked else await wire.more()
            assert data, f"ended after {self.received} bytes"
            assert flows_at(self.received, data), f"other bytes than were sent, after {self.received}"
            self.received += len(data)
            if self.received >= stop_at:
                await others.wait_until_still(self)
                assert self.sent - self.received < BETWEEN_MAX, "the writer went on while nobody read"
                stop_at += SIZE // (STOPS + 1)
        if chunked:
            assert await wire.chunk() == b""
            assert await wire.trailers() == []
        assert self.received == SIZE


class Others:
    """Another client, who asks another port of the same sandbox, one small request after the other."""

    STILL_ANSWERS: Final = 100
    """So many answers in which the writer has not moved count as its standing still."""

    def __init__(self) -> None:
        self.answered = 0
        self.slowest_s = 0.0
        self._heard = trio.Condition()

    async def ask(self, client: Wire, host: bytes) -> None:
        while True:
            asked = trio.current_time()
            await client.send(b"GET /small HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
            assert await client.body(await client.head()) == b"small"
            self.slowest_s = max(self.slowest_s, trio.current_time() - asked)
            async with self._heard:
                self.answered += 1
                self._heard.notify_all()

    async def wait_until_still(self, flow: Flow) -> None:
        seen, since = flow.sent, self.answered
        async with self._heard:
            while self.answered - since < self.STILL_ANSWERS:
                await self._heard.wait()
                if flow.sent != seen:
                    seen, since = flow.sent, self.answered


async def answer_small(wire: Wire) -> None:
    """Be the other port's service."""
    while True:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmall")


@asynccontextmanager
async def others_being_answered(preview: Preview) -> AsyncIterator[Others]:
    others = Others()
    async with service() as small, preview.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(others.ask, client, preview.expose(small.port).encode("ascii"))
        nursery.start_soon(answer_small, await small.accept())
        yield others
        nursery.cancel_scope.cancel()
    assert others.slowest_s < ANSWER_MAX_S
    assert others.answered > STOPS * Others.STILL_ANSWERS


@asynccontextmanager
async def within_bounds(preview: Preview) -> AsyncIterator[Others]:
    """Check for the length of the block that the server stays small and answers others."""
    async with others_being_answered(preview) as others:
        preview.forget_peak()
        before = preview.memory()
        yield others
        grown = preview.peak_memory() - before
        assert grown < GROWTH_MAX, f"{grown / MIB:.1f} MiB more at the peak"


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_gibibyte_comes_down_to_a_reader_that_stops_and_starts(preview: Preview, framing: str) -> None:
    chunked, flow = framing == "chunked", Flow()
    async with scene(preview) as it, within_bounds(preview) as others, trio.open_nursery() as nursery:
        wire, _ = await it.ask()
        how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % how)
        nursery.start_soon(lambda: flow.write(wire, chunked=chunked))
        assert (await it.client.head()).status == 200
        await flow.read(it.client, others, chunked=chunked)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_gibibyte_goes_up_to_a_service_that_stops_and_starts_reading(preview: Preview, framing: str) -> None:
    chunked, flow = framing == "chunked", Flow()
    async with scene(preview) as it, within_bounds(preview) as others, trio.open_nursery() as nursery:
        how = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
        wire, _ = await it.ask(b"PUT /upload HTTP/1.1\r\n" + how)
        nursery.start_soon(lambda: flow.write(it.client, chunked=chunked))
        await flow.read(wire, others, chunked=chunked)
        await wire.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        assert (await it.client.head()).status == 201


# Pieces leave as they come.


@pytest.mark.parametrize(
    ("media_type", "pieces"),
    [
        (b"text/event-stream", [b": hello\n\n", b"event: tick\ndata: 1\n\n", b"data: 2\n", b"\n"]),
        (b"application/x-ndjson", [b'{"n": 1}\n', b'{"n"', b": 2}\n", b"\n"]),
        (b"text/html", [b"<p>", b"slowly", b"</p>"]),
    ],
    ids=["sse", "ndjson", "html"],
)
@pytest.mark.parametrize("framing", ["chunked", "until the end", "length"])
async def test_each_piece_of_an_answer_arrives_before_the_next_is_sent(
    preview: Preview, media_type: bytes, pieces: list[bytes], framing: str
) -> None:
    how = {
        "chunked": b"Transfer-Encoding: chunked",
        "until the end": b"Connection: close",
        "length": b"Content-Length: %d" % sum(map(len, pieces)),
    }[framing]
    async with scene(preview) as it:
        wire, _ = await it.ask(b"GET /events HTTP/1.1\r\nAccept: " + media_type)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n" % (media_type, how))
        head = await it.client.head()
        assert head.values(b"content-type") == [media_type]
        chunked = head.values(b"transfer-encoding") == [b"chunked"]
        for sent in pieces:
            await (wire.send_chunk(sent) if framing == "chunked" else wire.send(sent))
            assert await (it.client.chunked(len(sent)) if chunked else it.client.exactly(len(sent))) == sent
        if framing == "until the end":
            await wire.stream.aclose()
        elif framing == "chunked":
            await wire.send(b"0\r\n\r\n")
        if chunked:
            assert await it.client.chunk() == b""
            assert await it.client.trailers() == []
        elif framing == "until the end":
            assert await it.client.rest() == b""


async def test_long_poll_is_answered_when_the_service_does_and_holds_up_nobody(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask(b"GET /poll?since=0 HTTP/1.1")
        for since in range(1, 4):
            async with scene(preview) as other:
                small, _ = await other.ask()
                await small.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                assert await other.client.body(await other.client.head()) == b"ok"
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnews")
            assert await it.client.body(await it.client.head()) == b"news"
            await it.client.send(it.head(b"GET /poll?since=%d HTTP/1.1" % since))
            assert (await wire.head()).target == b"/poll?since=%d" % since
        await wire.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await it.client.head()).status == 204


async def test_each_piece_of_an_upload_is_answered_before_the_next_is_sent(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked")
        assert head.values(b"transfer-encoding") == [b"chunked"]
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await it.client.head()).status == 200
        for number in range(20):
            sent = b"piece %d" % number
            await it.client.send_chunk(sent)
            assert await wire.chunked(len(sent)) == sent
            await wire.send_chunk(sent.upper())
            assert await it.client.chunked(len(sent)) == sent.upper()
        await it.client.send(b"0\r\n\r\n")
        assert await wire.chunk() == b""
        assert await wire.trailers() == []
        await wire.send(b"0\r\n\r\n")
        assert await it.client.chunk() == b""
        assert await it.client.trailers() == []


async def test_whole_answer_before_the_upload_ends_reaches_the_client_and_no_byte_is_taken_for_another(
    preview: Preview,
) -> None:
    """RFC 9112 section 9.3: a server may answer without having read the request."""
    async with scene(preview) as it:
        wire, _ = await it.ask(b"POST / HTTP/1.1\r\nContent-Length: 8")
        await wire.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nearly")
        assert await it.client.body(await it.client.head()) == b"early"
        await it.client.send(b"the rest")
        # Whether it still goes up is the proxy's choice; whatever comes there is the body, and never a request.
        assert b"the rest".startswith(await end_of(wire))
        assert await end_of(it.client) == b""


async def test_grpc_web_frames_arrive_one_by_one_and_its_trailers_are_body(preview: Preview) -> None:
    """The trailers of gRPC-Web are a frame of the body, with the high bit of its flags set."""
    message = b"\0" + (5).to_bytes(4, "big") + b"\x0a\x03abc"
    status = b"grpc-status: 0\r\ngrpc-message: \r\n"
    trailers = b"\x80" + len(status).to_bytes(4, "big") + status
    async with scene(preview) as it:
        wire, head = await it.ask(
            b"POST /echo.Echo/Stream HTTP/1.1\r\nContent-Type: application/grpc-web+proto\r\nX-Grpc-Web: 1\r\n"
            b"Content-Length: %d" % len(message)
        )
        assert head.values(b"content-type") == [b"application/grpc-web+proto"]
        await it.client.send(message)
        assert await wire.exactly(len(message)) == message
        await wire.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert (await it.client.head()).status == 200
        for frame in (message, message, trailers):
            await wire.send_chunk(frame)
            assert await it.client.chunked(len(frame)) == frame
        await wire.send(b"0\r\n\r\n")
        assert await it.client.chunk() == b""


async def test_trailers_pass_both_ways(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(b"PUT / HTTP/1.1\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked")
        assert head.values(b"trailer") == [b"X-Sum"]
        await it.client.send(b"4\r\nbody\r\n0\r\nX-Sum: up\r\n\r\n")
        assert await wire.chunked(4) == b"body"
        assert await wire.chunk() == b""
        assert [line.lower() for line in await wire.trailers()] == [b"x-sum: up"]
        await wire.send(
            b"HTTP/1.1 200 OK\r\nTrailer: Server-Timing\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"6\r\nanswer\r\n0\r\nServer-Timing: db;dur=53\r\nX-Sum: down\r\n\r\n"
        )
        assert (await it.client.head()).values(b"trailer") == [b"Server-Timing"]
        assert await it.client.chunked(6) == b"answer"
        assert await it.client.chunk() == b""
        down = [line.lower() for line in await it.client.trailers()]
        assert down == [b"server-timing: db;dur=53", b"x-sum: down"]


# Expectations, and answers before their time.


async def test_expectation_is_met_by_the_service_and_nobody_else(preview: Preview) -> None:
    """RFC 9110 section 10.1.1."""
    async with scene(preview) as it:
        wire, head = await it.ask(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4")
        assert head.values(b"expect") == [b"100-continue"]
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await it.client.head()).status == 100
        await it.client.send(b"body")
        assert await wire.exactly(4) == b"body"
        await wire.send(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        assert (await it.client.head()).status == 201


async def test_expectation_refused_by_the_service_costs_no_body(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1000000000")
        await wire.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 4\r\n\r\nnone")
        head = await it.client.head()
        assert (head.status, await it.client.body(head)) == (417, b"none")
        # It is not told to send after all, and the connection ends: nobody could tell a body from a next request.
        assert await it.client.rest() == b""


async def test_early_hints_pass_before_the_answer(preview: Preview) -> None:
    """RFC 8297."""
    async with scene(preview) as it:
        wire, _ = await it.ask()
        for number in (1, 2):
            await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </%d.css>; rel=preload\r\n\r\n" % number)
            hints = await it.client.head()
            assert (hints.status, hints.values(b"link")) == (103, [b"</%d.css>; rel=preload" % number])
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert await it.client.body(await it.client.head()) == b"ok"


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"])
async def test_upload_that_is_refused_on_the_way_is_answered(preview: Preview, framing: bytes) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask(b"PUT / HTTP/1.1\r\n" + framing)
        await (it.client.send(b"x" * 1000) if b"Length" in framing else it.client.send_chunk(b"x" * 1000))
        await wire.until(b"xxx")
        await wire.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await wire.stream.aclose()
        head = await it.client.head()
        assert (head.status, await it.client.body(head)) == (413, b"big")
        assert await it.client.rest() == b""


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_answer_cut_short_by_the_service_is_not_passed_off_as_whole(preview: Preview, framing: bytes) -> None:
    """RFC 9112 section 8."""
    async with scene(preview) as it:
        wire, _ = await it.ask()
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        await (wire.send(b"part") if b"Length" in framing else wire.send_chunk(b"part"))
        assert (await it.client.head()).status == 200
        assert await (it.client.exactly(4) if b"Length" in framing else it.client.chunked(4)) == b"part"
        await wire.stream.aclose()
        assert await end_of(it.client) == b"", "neither a last chunk nor another byte"


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
async def test_upload_cut_short_by_the_client_is_not_passed_off_as_whole(preview: Preview, framing: bytes) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask(b"PUT / HTTP/1.1\r\n" + framing)
        await (it.client.send(b"part") if b"Length" in framing else it.client.send_chunk(b"part"))
        assert await (wire.exactly(4) if b"Length" in framing else wire.chunked(4)) == b"part"
        await it.client.stream.aclose()
        assert await end_of(wire) == b""


async def test_client_that_leaves_ends_what_its_service_sends(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, _ = await it.ask()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await it.client.head()).status == 200
        await it.client.stream.aclose()
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                # Ends when its connection does, or the test's time.
                await wire.send_chunk(b"tick")


async def test_client_that_breaks_its_connection_ends_a_silent_stream(preview: Preview) -> None:
    """A close alone may be a client that waits for the rest of its answer; a reset is one that does not."""
    async with scene(preview) as it:
        wire, _ = await it.ask()
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await it.client.head()).status == 200
        it.client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await it.client.stream.aclose()
        assert await end_of(wire) == b""


# Messages without bodies, and old clients.


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 12345\r\n\r\n'),
    ],
    ids=["head with length", "head chunked", "204", "304"],
)
async def test_answer_without_body_is_followed_by_the_next(preview: Preview, method: bytes, answer: bytes) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(method + b" / HTTP/1.1")
        assert head.start.startswith(method + b" ")
        await wire.send(answer)
        got = await it.client.head()
        assert got.start == answer.split(b"\r\n")[0]
        if b"12345" in answer:
            assert got.values(b"content-length") == [b"12345"]
        await it.client.send(it.head(b"GET /next HTTP/1.1"))
        await answer_next(it, wire)
        assert await it.client.body(await it.client.head()) == b"next"


async def answer_next(it: Scene, wire: Wire) -> None:
    """Answer the next request, on the connection of the last one or on a new one."""
    wires = [wire]

    async def accept() -> None:
        wires.append(await it.service.accept())
        nursery.cancel_scope.cancel()

    async def wait_for_more() -> None:
        data = await wire.more()
        wire.buffered += data
        if data:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        nursery.start_soon(wait_for_more)
    assert (await wires[-1].head()).target == b"/next"
    await wires[-1].send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")


async def test_client_of_http_1_0_gets_an_answer_that_it_can_read(preview: Preview) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(b"GET / HTTP/1.0")
        assert head.start == b"GET / HTTP/1.1"
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        head = await it.client.head()
        assert head.values(b"transfer-encoding") == []
        assert await it.client.rest() == b"onetwo"


async def test_client_of_http_1_0_may_keep_its_connection_where_lengths_are_known(preview: Preview) -> None:
    async with scene(preview) as it:
        for number in range(2):
            await it.client.send(it.head(b"GET /%d HTTP/1.0\r\nConnection: keep-alive" % number))
            if not number:
                wire = await it.service.accept()
            assert (await wire.head()).target == b"/%d" % number
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
            head = await it.client.head()
            assert await it.client.body(head) == b"%d" % number
            if head.values(b"connection") != [b"keep-alive"]:
                assert await it.client.rest() == b""
                return


async def test_pipelined_requests_are_answered_in_their_order(preview: Preview) -> None:
    async with scene(preview) as it:
        await it.client.send(b"".join(it.head(b"GET /%d HTTP/1.1" % number) for number in range(5)))
        wire = await it.service.accept()
        for number in range(5):
            assert (await wire.head()).target == b"/%d" % number
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        for number in range(5):
            assert await it.client.body(await it.client.head()) == b"%d" % number


# Targets.


@pytest.mark.parametrize(
    "target",
    [
        b"/a%2Fb%2fc",
        b"/%7Euser/~user",
        b"/a/../b/./c//d",
        b"//double",
        b"/;p=1;q=%3B?x=a/b?c&&y=%00%0d%0a",
        b"/?q=%e4%b8%ad%FF",
        b"/!$&'()*+,;=:@",
        b"/?",
    ],
    ids=bytes.decode,
)
async def test_target_reaches_the_service_byte_for_byte(preview: Preview, target: bytes) -> None:
    async with scene(preview) as it:
        wire, head = await it.ask(b"GET %b HTTP/1.1" % target)
        assert head.start == b"GET %b HTTP/1.1" % target
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (await it.client.head()).status == 200
