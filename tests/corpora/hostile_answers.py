"""One in, one out, from the other side: whatever a service answers, a client gets one answer to one request.

    python -m tests.corpora.hostile_answers FILE.jsonl ...

lets a service answer with each line's ``raw`` (each character a byte) to GET, HEAD and POST, and then close or stay.
A second request waits right behind the first, or comes when all has been said. The law, judged by `strict_reader` on
what the service sent and what the client got:

- what the client got is strict HTTP, whole or visibly cut off, with no more final answers than requests;
- an answer of the service that arrived whole is the one that a strict reader sees first in what it sent;
- the second request's answer is its own, so nothing that came with the first, or after it on a connection at rest,
  is ever taken for it.

What a service sends on a connection after it was given the second request *is* an answer to that, whatever it meant;
so where the second waits behind the first, the service says everything at once. The connections are sockets: whether
one at rest has something to read, only the kernel can tell.
"""

import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from unittest.mock import patch

import trio
import trio.testing

from actors.testing.containers import FakeRun
from proxy.testing.engine import PreviewEngine, preview_engine, split_url
from tests.corpora.one_in_one_out import MARK, converse, cuts, over_files
from tests.corpora.strict_reader import HOP_BY_HOP, Response, Responses, Stop, read_responses

METHODS: Final = (b"GET", b"HEAD", b"POST")
SECOND: Final = b"GET /second HTTP/1.1\r\nHost: %b\r\n\r\n"
SECOND_ANSWER: Final = b"HTTP/1.1 200 OK\r\nX-Mark: 2\r\nContent-Length: 6\r\n\r\nsecond"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One line of a file."""

    id: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one answer to one method."""

    hostile: Hostile
    method: bytes
    way: str
    answers: Responses
    violations: tuple[str, ...]

    @property
    def relayed(self) -> bool:
        """Whether the client has a whole answer of the service's to its first request."""
        return bool(self.answers.whole) and not _is_ours(self.answers.whole[0])

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.hostile.id} ({self.method.decode()}, {self.way})"


class HostileService:
    """Answers the first request of each conversation with `pieces`, and every other one soundly."""

    def __init__(self) -> None:
        self.start((), closes=False)

    def start(self, pieces: Sequence[bytes], *, closes: bool) -> None:
        """Prepare for another conversation; open connections stay, as the proxy may use them again."""
        self._pieces = pieces
        self._closes = closes
        self._answered = False
        self.said = trio.Event()
        """Everything has been said, or nobody listens any more."""

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection."""
        kept = b""
        try:
            while data := await stream.receive_some(65536):
                kept += data
                # Requests come from the proxy here, and those are judged elsewhere: looking for their end will do.
                while b"\r\n\r\n" in kept and (not kept.startswith(b"POST") or kept.endswith(b"content")):
                    kept = b"" if kept.startswith(b"POST") else kept.partition(b"\r\n\r\n")[2]
                    if self._answered:
                        await stream.send_all(SECOND_ANSWER)
                    elif not await self._answer(stream):
                        return
        except trio.BrokenResourceError:
            # The proxy has had enough of this service.
            pass

    async def _answer(self, stream: trio.abc.HalfCloseableStream) -> bool:
        """Say what there is to say; False if the connection is then to end."""
        self._answered = True
        try:
            for piece in self._pieces:
                await stream.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
        finally:
            self.said.set()
        return not self._closes


@asynccontextmanager
async def _dialled_by_sockets() -> AsyncIterator[None]:
    """Put a pair of sockets between the proxy and each service of a fake container."""
    dial_in_memory = FakeRun.dial

    async def dial(run: FakeRun, port: int) -> trio.SocketStream:
        service = await dial_in_memory(run, port)
        ours, theirs = trio.socket.socketpair()
        nursery.start_soon(_pass_on, trio.SocketStream(theirs), service)
        return trio.SocketStream(ours)

    async with trio.open_nursery() as nursery:
        with patch.object(FakeRun, "dial", dial):
            yield
        nursery.cancel_scope.cancel()


async def _pass_on(proxy: trio.SocketStream, service: trio.abc.HalfCloseableStream) -> None:
    """Pass bytes both ways until the service ends, or the proxy does."""

    async def pump(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream, both: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(65536):
                await sink.send_all(data)
        except trio.BrokenResourceError:
            # One side is gone, and so is the connection.
            pass
        both.cancel()

    async with proxy, service, trio.open_nursery() as nursery:
        nursery.start_soon(pump, proxy, service, nursery.cancel_scope)
        nursery.start_soon(pump, service, proxy, nursery.cancel_scope)


def read_hostile(path: Path) -> list[Hostile]:
    """Read a file of answers."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Hostile(row["id"], row["raw"].encode("latin-1")) for row in rows]


async def tellings(answers: Sequence[Hostile]) -> list[Told]:
    """Let a service give every answer in every way."""
    found = []
    async with _dialled_by_sockets(), preview_engine() as engine:
        service = HostileService()
        host = split_url(await engine.expose(service.serve))[1].encode("ascii")
        for hostile in answers:
            for method in METHODS:
                body = b"Content-Length: 7\r\n\r\ncontent" if method == b"POST" else b"\r\n"
                first = b"%b /first HTTP/1.1\r\nHost: %b\r\n" % (method, host) + body
                for way, pieces, waits, closes in _ways(hostile.raw, method):
                    service.start(pieces, closes=closes)
                    if waits:
                        received = await _in_turn(engine, service, first, SECOND % host)
                    else:
                        received = await converse(engine, [first + SECOND % host])
                    got, violations = judge(hostile.raw, method, closes, received)
                    found.append(Told(hostile, method, way, got, tuple(violations)))
    return found


def _ways(raw: bytes, method: bytes) -> Iterator[tuple[str, Sequence[bytes], bool, bool]]:
    for closes in (True, False):
        ending = "the end" if closes else "silence"
        yield f"pipelined, then {ending}", [raw], False, closes
        for cut, pieces in cuts(raw).items():
            if cut == "by lines" or (cut == "by bytes" and method != b"GET"):
                # Nothing in between could tell apart what whole and bytes do not, nor could a method.
                continue
            yield f"{cut}, then {ending}", pieces, True, closes


async def _in_turn(engine: PreviewEngine, service: HostileService, first: bytes, second: bytes) -> bytes:
    """Send the second request once everything that comes of the first has come; return all that came back."""
    client = engine.connect()
    received = b""

    async def read() -> None:
        nonlocal received
        received = await client.read_to_end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        try:
            await client.send(first)
            await service.said.wait()
            await engine.settle()
            await client.send(second)
            await client.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The proxy has ended the connection after the first answer.
            pass
    await client.aclose()
    await engine.settle()
    return received


def judge(sent: bytes, method: bytes, closes: bool, received: bytes) -> tuple[Responses, list[str]]:
    """Say how the law is broken, if it is, and how the client reads what it got."""
    violations: list[str] = []
    got = read_responses(received, [method, b"GET"])
    meant = read_responses(sent, [method], ended=closes, rewritten=False)
    if got.stop is Stop.VIOLATION:
        violations.append(f"the client cannot read its answers: {got.why}")
    if len(got.whole) + (got.stop is Stop.UNFINISHED) > 2:
        violations.append(f"{len(got.whole)} answers to 2 requests")
    if 101 in got.interim or not _is_prefix(got.interim, meant.interim):
        violations.append(f"the interim answers {got.interim}, where the service gave {meant.interim}")
    if not got.whole:
        return got, violations
    first = got.whole[0]
    if _is_ours(first):
        if first.status not in (502, 504):
            violations.append(f"a refusal with status {first.status}")
    elif not sent and first.value(MARK) == b"2":
        # Ended without a word, on a connection kept from before: a request without effects was asked once more.
        pass
    elif not meant.whole:
        violations.append("a whole answer, where a strict reader sees none in what the service sent")
    elif not _same(first, meant.whole[0]):
        violations.append("another answer than a strict reader sees in what the service sent")
    for second in got.whole[1:]:
        if not _is_ours(second) and (second.value(MARK), second.body) != (b"2", b"second"):
            violations.append("an answer to the second request that was not given to it")
    return got, violations


def _is_ours(answer: Response) -> bool:
    return answer.value(b"content-type") == b"application/json" and answer.status >= 400


def _same(got: Response, meant: Response) -> bool:
    return (
        got.status == meant.status
        and got.body == meant.body
        and set(got.trailers) <= set(meant.trailers)
        and {name for name, _ in got.fields} <= {name for name, _ in meant.fields} - HOP_BY_HOP | _WRITTEN_BY_US
    )


_WRITTEN_BY_US: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})


def _is_prefix(got: Sequence[int], meant: Sequence[int]) -> bool:
    return list(got) == list(meant)[: len(got)]


def run(answers: Sequence[Hostile]) -> list[Told]:
    """Do the same where no trio runs yet; time passes by itself wherever everybody waits."""
    return trio.run(tellings, answers, clock=trio.testing.MockClock(autojump_threshold=0))


def report(path: Path, found: Sequence[Told]) -> Iterator[str]:
    """Say it in lines."""
    relayed = sum(1 for told in found if told.relayed)
    broken = sum(1 for told in found if told.violations)
    answers = len({told.hostile.id for told in found})
    yield f"{path.name}: {answers} answers, {len(found)} ways given, {relayed} relayed, {broken} violations"
    for told in found:
        for violation in told.violations:
            yield f"  {told.name}: {violation}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    return over_files("hostile_answers", "JSON lines with id and raw", _check, arguments)


def _check(path: Path) -> tuple[bool, Iterator[str]]:
    found = run(read_hostile(path))
    return any(told.violations for told in found), report(path, found)


if __name__ == "__main__":
    sys.exit(main())
