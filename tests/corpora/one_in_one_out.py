"""One in, one out: whatever a client sends, the requests behind the proxy are the answers that it gets.

    python -m tests.corpora.one_in_one_out FILE.jsonl ...

sends each input of each file through the real router to a service that writes down every byte, and exits with 1 if
an input breaks the law. A file has one JSON object a line: ``id``, ``raw_b64`` (what a client sends), and perhaps
``expect`` and ``note``. The law, judged by `strict_reader`, which shares nothing with the proxy:

- behind the proxy there are whole requests in one spelling, and nothing else; what is unfinished is ended by closing;
- each of them is one that a strict reader sees in what the client sent, in that order, with the same body;
- each has exactly one answer, which reached the client whole and in order; whatever else the client was told is a
  refusal of ours, and there are no more answers than requests, plus one for what is no request.

Every input goes as it is, which most often names a host that is not ours, and with our preview in the place of its
Host fields; each of these at once, byte by byte, and a line at a time: where it is cut must not matter.
"""

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
import trio.testing

from proxy.testing.engine import PreviewEngine, preview_engine, split_url
from tests.corpora.strict_reader import Request, Requests, Responses, Stop, read_requests, read_responses

MARK: Final = b"x-mark"
"""By this field of its answers the service numbers the requests that it saw."""

BYTES_EACH_ALONE_MAX: Final = 2048
"""Longer inputs are not sent byte by byte: they are long by one field or body, and each byte is a turn of the loop."""

_HOST_LINE: Final = re.compile(rb"(?im)^(host):[ \t]*([!-~]+)[ \t]*(?=\r\n)")
_AUTHORITY: Final = re.compile(rb"(?m)^([^ \r\n]+ https?://)[^/?#@ \r\n]+(?=[^@\r\n]* HTTP/1\.[01]\r\n)")
_REQUEST_LINE: Final = re.compile(rb"(?m)^[^ \r\n]+ [^ \r\n]+ HTTP/1\.[01]\r\n")


@dataclass(frozen=True, slots=True)
class Input:
    """One line of a file."""

    id: str
    raw: bytes = field(repr=False)
    expect: str | None = None
    """What its source says of it: ``accept`` or ``ok``, ``reject`` or ``error``."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one way of sending one input."""

    input: Input
    spelling: str
    cut: str
    behind: tuple[Request, ...]
    """The whole requests that the service saw."""
    answers: Responses
    violations: tuple[str, ...]

    @property
    def refused(self) -> bool:
        """Whether some of it was answered by a refusal of ours."""
        return any(answer.value(MARK) is None for answer in self.answers.whole)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.input.id} ({self.spelling}, {self.cut})"


def read_inputs(path: Path) -> list[Input]:
    """Read a file of inputs."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Input(row["id"], base64.b64decode(row["raw_b64"]), row.get("expect"), row.get("note")) for row in rows]


def spellings(raw: bytes, host: bytes) -> dict[str, bytes]:
    """Return the ways to send an input; those that would send the same bytes only once.

    An embedded request may be content of the first, whose length must then not change, or one of its own: so a Host
    is added to the first head alone, and to every one.
    """
    ours = _AUTHORITY.sub(rb"\g<1>" + host, _HOST_LINE.sub(rb"\1: " + host, raw))
    line = rb"\g<0>Host: " + host + rb"\r\n"
    found = {"as it is": raw, "our host": ours, "host added": ours, "hosts added": ours}
    first = _REQUEST_LINE.search(ours)
    if first is not None and b"\nhost" not in ours.partition(b"\r\n\r\n")[0].lower():
        found["host added"] = _REQUEST_LINE.sub(line, ours, count=1)
    found["hosts added"] = b"\r\n\r\n".join(
        head if b"\nhost" in head.lower() else _REQUEST_LINE.sub(line, head + b"\r\n")[:-2]
        for head in ours.split(b"\r\n\r\n")
    )
    return {
        name: sent for position, (name, sent) in enumerate(found.items()) if sent not in [*found.values()][:position]
    }


def cuts(sent: bytes) -> dict[str, list[bytes]]:
    """Return the ways to cut what is sent into pieces."""
    ways = {"at once": [sent], "by lines": sent.splitlines(keepends=True)}
    if len(sent) <= BYTES_EACH_ALONE_MAX:
        ways["by bytes"] = [sent[position : position + 1] for position in range(len(sent))]
    return ways


class Recorder:
    """A service that reads strictly, answers what it read, and remembers all."""

    def __init__(self) -> None:
        self.seen: list[Request] = []
        """The whole requests since `start`, over all connections."""
        self.violations: list[str] = []
        self._open: list[bytearray] = []
        """What each open connection has brought since its last whole request."""

    def start(self) -> None:
        """Forget what was seen; open connections stay, as the proxy may use them again."""
        self.seen.clear()
        self.violations.clear()

    def unfinished(self) -> int:
        """Return how many open connections are in the middle of a request."""
        return sum(1 for kept in self._open if kept)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection."""
        kept = bytearray()
        self._open.append(kept)
        continued = False
        try:
            while data := await stream.receive_some(65536):
                kept += data
                reading = read_requests(bytes(kept), rewritten=True)
                del kept[: reading.read]
                for request in reading.whole:
                    self.seen.append(request)
                    continued = False
                    await stream.send_all(_answer(request, len(self.seen)))
                if reading.stop is Stop.VIOLATION:
                    self.violations.append(f"behind the proxy: {reading.why}")
                    return
                head, end, _ = bytes(kept).partition(b"\r\n\r\n")
                if end and not continued and b"\r\nExpect: 100-continue" in head:
                    continued = True
                    await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        except trio.BrokenResourceError:
            # Closed by the proxy, which is how it ends a request that its client did not.
            pass
        finally:
            self._open[:] = [other for other in self._open if other is not kept]


def _answer(request: Request, number: int) -> bytes:
    content = b"mark %d" % number
    fields = b"X-Mark: %d\r\nContent-Length: %d\r\n" % (number, len(content))
    return b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + (b"" if request.method == b"HEAD" else content)


async def converse(engine: PreviewEngine, pieces: Sequence[bytes]) -> bytes:
    """Send the pieces, each when the one before it has been read, and then the end; return all that came back."""
    client = engine.connect(unbuffered=True)

    async def send() -> None:
        try:
            for piece in pieces:
                await client.stream.send_all(piece)
            await client.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The proxy has had enough.
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = await client.read_to_end()
        nursery.cancel_scope.cancel()
    await client.aclose()
    await engine.settle()
    return received


def in_sent(sent: bytes) -> Requests:
    """Return what a strict reader sees in what a client sent, up to the last request of its connection."""
    reading = read_requests(sent, rewritten=False)
    for number, request in enumerate(reading.whole, 1):
        if request.last:
            return Requests(reading.whole[:number], Stop.END, reading.read)
    return reading


def judge(sent: bytes, received: bytes, behind: Sequence[Request]) -> tuple[Responses, list[str]]:
    """Say how the law is broken, if it is, and how the client reads what it got."""
    # Which request an answer of ours is to, nobody can say who does not know what the proxy made of the input.
    methods = [b"?"] * (len(received) if b"HEAD" in sent else 0)
    answers = read_responses(received, methods)
    asked = in_sent(sent)
    violations: list[str] = []
    if answers.stop is not Stop.END:
        violations.append(f"the client cannot read its answers: {answers.stop} {answers.why}")
    marks = [int(mark) for answer in answers.whole if (mark := answer.value(MARK)) is not None]
    if marks != [*range(1, len(behind) + 1)]:
        violations.append(f"{len(behind)} requests behind the proxy, and the client saw the answers {marks}")
    if any(answer.status < 400 for answer in answers.whole if answer.value(MARK) is None):
        violations.append("an answer that neither the service gave nor refuses anything")
    rest = iter(asked.whole)
    for request in behind:
        if not any(_same(request, candidate) for candidate in rest):
            violations.append("a request behind the proxy that a strict reader does not see in what was sent")
    count = len(answers.whole)
    if count > len(asked.whole) + (asked.stop is not Stop.END):
        violations.append(f"{count} answers to {len(asked.whole)} requests")
    closing = [b"close" in (answer.value(b"connection") or b"") for answer in answers.whole]
    if any(closing[:-1]):
        violations.append("answers go on after the last one")
    if count < len(asked.whole) and not any(closing):
        violations.append(f"only {count} answers to {len(asked.whole)} requests")
    return answers, violations


def _same(behind: Request, asked: Request) -> bool:
    return (
        behind.method == asked.method
        and behind.target == asked.origin_form
        and behind.body == asked.body
        and set(behind.trailers) <= set(asked.trailers)
    )


async def outcomes(inputs: Sequence[Input]) -> list[Outcome]:
    """Send every input in every way."""
    recorder = Recorder()
    found = []
    async with preview_engine() as engine:
        url = await engine.expose(recorder.serve)
        host = split_url(url)[1].encode("ascii")
        for item in inputs:
            for spelling, sent in spellings(item.raw, host).items():
                for cut, pieces in cuts(sent).items():
                    recorder.start()
                    received = await converse(engine, pieces)
                    behind = tuple(recorder.seen)
                    answers, violations = judge(sent, received, behind)
                    violations += recorder.violations
                    if recorder.unfinished():
                        violations.append("a connection to the service stays open in the middle of a request")
                    found.append(Outcome(item, spelling, cut, behind, answers, tuple(violations)))
    return found


def run(inputs: Sequence[Input]) -> list[Outcome]:
    """Do the same where no trio runs yet; time passes by itself wherever everybody waits."""
    return trio.run(outcomes, inputs, clock=trio.testing.MockClock(autojump_threshold=0))


def summary(found: Sequence[Outcome]) -> Mapping[str, int]:
    """Count."""
    return {
        "inputs": len({outcome.input.id for outcome in found}),
        "ways sent": len(found),
        "requests behind the proxy": sum(len(outcome.behind) for outcome in found),
        "answers to the client": sum(len(outcome.answers.whole) for outcome in found),
        "violations": sum(1 for outcome in found if outcome.violations),
    }


def report(path: Path, found: Sequence[Outcome]) -> Iterator[str]:
    """Say it in lines."""
    yield f"{path.name}: " + ", ".join(f"{count} {what}" for what, count in summary(found).items())
    for outcome in found:
        for violation in outcome.violations:
            yield f"  {outcome.name}: {violation}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    return over_files("one_in_one_out", "JSON lines with id and raw_b64", _check, arguments)


def _check(path: Path) -> tuple[bool, Iterator[str]]:
    found = run(read_inputs(path))
    return any(outcome.violations for outcome in found), report(path, found)


def over_files(
    name: str, what: str, check: Callable[[Path], tuple[bool, Iterator[str]]], arguments: Sequence[str] | None
) -> int:
    """Check the files that a program was given, print what it says of each, and return the program's exit code.

    Args:
        name: The program's module in this folder.
        what: What is in its files.
        check: Returns whether a file's law is broken, and the lines to print.
        arguments: None: those of the process.
    """
    parser = argparse.ArgumentParser(prog=f"python -m tests.corpora.{name}")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=what)
    failed = False
    for path in parser.parse_args(arguments).files:
        broken, lines = check(path)
        failed = failed or broken
        sys.stdout.writelines(f"{line}\n" for line in lines)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
