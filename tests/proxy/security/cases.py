"""The security cases of tests/data, read into types, made into bytes, and judged.

What each case is and what its outcome classes mean stands in the file's own ``meta``. `Expectation` knows every key
that the file uses and refuses others, so that no part of a case goes unjudged unnoticed.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.proxy.security.stage import BASE, UNKNOWN, Outcome
from tests.proxy.security.wire import Message

DATA: Final = Path(__file__).resolve().parents[2] / "data"

AFTER_101: Final = "{{AFTER101}}"
_REPEATED: Final = re.compile(r"\{\{REP:(.*?):(\d+)\}\}", re.DOTALL)


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field and a value that it must not have."""

    name: str
    value: str


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"class_": "class"}):
    """One acceptable outcome."""

    class_: str
    status: tuple[int, ...] = ()
    conn_close: bool = False
    bare_close_ok: bool = False
    to: str = ""
    n: int = 0
    absent: tuple[str, ...] = ()
    has: tuple[str, ...] = ()
    header: dict[str, str] = {}
    body: str | None = None
    target: str | None = None
    host: str | None = None
    never_bytes: str = ""
    contains_bytes: str = ""
    ci: bool = False
    not_value: Value | None = None
    crlf: bool = False
    """Held by the strict reader."""
    rechunk: bool = False
    never_to: tuple[str, ...] = ()
    """Implied by its class: to none at all."""
    never_response_bytes: str = ""
    final_status: tuple[int, ...] = ()
    within_s: float | None = None
    A: int = 0
    B: int = 0
    note: str = ""


class AnyOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Acceptable outcomes."""

    any_of: tuple[Expectation, ...]


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case."""

    id: str
    category: str
    title: str
    expect: AnyOf
    ref: str
    best_practice: str
    tier: str
    raw: str | None = None
    upstream_raw: str | None = None
    check: str | None = None
    cmd: str | None = None
    api: Mapping[str, str] | None = None
    steps: tuple[Mapping[str, object], ...] = ()
    slow: bool = False
    manual: bool = False
    route_strict: bool = False
    stream_ok: bool = False
    peers_measured: Mapping[str, str] | None = None

    @property
    def alternatives(self) -> tuple[Expectation, ...]:
        return self.expect.any_of

    @property
    def asserted(self) -> bool:
        """Its outcome takes more than a judge of bytes: what to check is said in words."""
        return not {one.class_ for one in self.alternatives} <= JUDGES.keys()


class Dispute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A case, or a part of one, that this project does not agree with or that is about something it does not have."""

    id: str
    part: str
    """What is disputed: ``all of it``, or which part; the rest is a test."""
    reason: str
    ref: str

    @property
    def wholly(self) -> bool:
        """Nothing is left to test."""
        return self.part == "all of it"


class _Cases(msgspec.Struct):
    cases: tuple[Case, ...]


CASES: Final = {
    case.id: case for case in msgspec.json.decode((DATA / "security_cases.json").read_bytes(), type=_Cases).cases
}
DISPUTES: Final = {
    dispute.id: dispute
    for dispute in msgspec.json.decode((DATA / "security_disputes.json").read_bytes(), type=tuple[Dispute, ...])
}


COVERED: Final[set[str]] = set()
"""Ids of the cases that a test of their own plays."""


def covers(*ids: str) -> pytest.MarkDecorator:
    """Mark a test as the one that plays these cases: it runs once for each, as its argument `case`."""
    COVERED.update(ids)
    return pytest.mark.parametrize("case", [CASES[one] for one in ids], ids=ids)


def expanded(template: str, hosts: Mapping[str, str]) -> bytes:
    """Return the bytes that a template stands for."""
    words = {
        "{{A}}": hosts["A"],
        "{{A:upper}}": hosts["A"].upper(),
        "{{B}}": hosts["B"],
        "{{U}}": UNKNOWN,
        "{{BASE}}": BASE,
        "{{API}}": BASE,
        "{{AUTHCOOKIE}}": "__Host-portico-aaaa1111",
        "{{TOKENPARAM}}": "token",
    }
    text = _REPEATED.sub(lambda match: match[1] * int(match[2]), template)
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    assert "{{" not in text, f"nothing is known about {text[text.index('{{') :][:20]}"
    return text.encode("latin-1")


def complaints(case: Case, outcome: Outcome) -> list[str]:
    """Return, for each acceptable outcome, the first reason why this is not it; empty if it is one of them."""
    found = []
    for expected in case.alternatives:
        complaint = JUDGES[expected.class_](expected, outcome)
        if complaint is None:
            return []
        found.append(f"{expected.class_}: {complaint}")
    return found


def _judge_reject(expected: Expectation, outcome: Outcome) -> str | None:
    if outcome.requests:
        return "a whole request reached a service"
    finals = outcome.finals
    if not finals and not (expected.bare_close_ok and outcome.closed):
        return "neither an answer nor a close"
    if finals and finals[0].status not in expected.status:
        return f"answered {finals[0].status}"
    if expected.conn_close and not outcome.closed:
        return "the connection was left open"
    never = expected.never_response_bytes.encode("latin-1")
    return f"the answer holds {never!r}" if never and never in outcome.received else None


def _judge_forward(expected: Expectation, outcome: Outcome) -> str | None:
    service = outcome.services[expected.to]
    if len(service.requests) != expected.n:
        return f"{expected.to} was asked {len(service.requests)} times"
    if len(outcome.requests) != expected.n:
        return "another service was asked too"
    return _judge_request(expected, service.requests[0], outcome) or _judge_bytes(expected, service.received)


def _judge_request(expected: Expectation, request: Message, outcome: Outcome) -> str | None:
    names = {name.decode("latin-1") for name, _ in request.fields}
    if there := names & set(expected.absent):
        return f"{there} reached the service"
    if missing := set(expected.has) - names:
        return f"{missing} did not reach the service"
    for name, value in expected.header.items():
        if request.all(name) != [value.encode("latin-1")]:
            return f"{name} is {request.all(name)}"
    if expected.not_value is not None:
        unwanted = expected.not_value
        carried = (*request.fields, *request.trailers)
        if (unwanted.name.encode("latin-1"), unwanted.value.encode("latin-1")) in carried:
            return f"{unwanted.name} is {unwanted.value}"
    if expected.body is not None and request.body != expected.body.encode("latin-1"):
        return f"the body is {request.body!r}"
    if expected.target is not None and request.target != expected.target.encode("latin-1"):
        return f"the target is {request.target!r}"
    if expected.host is not None and request.all("x-forwarded-host") != [expanded(expected.host, outcome.hosts)]:
        return "it was for another host"
    if expected.rechunk and any(line.startswith(b"0") for line in request.framing.split()[:-1]):
        return "chunk sizes came as they were sent"
    return None


def _judge_bytes(expected: Expectation, received: bytes) -> str | None:
    never = expected.never_bytes.encode("latin-1")
    if never and never in received:
        return f"{never!r} reached the service"
    wanted = expected.contains_bytes.encode("latin-1")
    if expected.ci:
        wanted, received = wanted.lower(), received.lower()
    return None if wanted in received else f"{wanted!r} did not reach the service"


def _judge_forward_multi(expected: Expectation, outcome: Outcome) -> str | None:
    asked = {name: len(service.requests) for name, service in outcome.services.items()}
    return None if asked == {"A": expected.A, "B": expected.B} else f"asked were {asked}"


def _judge_no_route(expected: Expectation, outcome: Outcome) -> str | None:
    if any(service.dialled for service in outcome.services.values()):
        return "a service was dialled"
    statuses = [message.status for message in outcome.finals]
    return None if statuses and statuses[0] in expected.status else f"answered {statuses}"


def _judge_response(expected: Expectation, outcome: Outcome) -> str | None:
    reading, wanted = outcome.reading, expected.status or expected.final_status
    if reading.fault is not None or reading.rest or len(outcome.finals) != 1:
        return f"the client was sent {len(outcome.finals)} answers, and {reading.fault}"
    (answer,) = outcome.finals
    if answer.status not in wanted:
        return f"answered {answer.status}"
    if expected.body is not None and answer.body != expected.body.encode("latin-1"):
        return f"the body is {answer.body!r}"
    never = expected.never_bytes.encode("latin-1")
    return f"the client was sent {never!r}" if never and never in outcome.received else None


def _judge_pending(_expected: Expectation, outcome: Outcome) -> str | None:
    if outcome.closed or outcome.requests:
        return "the request did not wait for its body"
    return None


JUDGES: Final[Mapping[str, Callable[[Expectation, Outcome], str | None]]] = {
    "reject": _judge_reject,
    "forward": _judge_forward,
    "forward_multi": _judge_forward_multi,
    "no_route": _judge_no_route,
    "response": _judge_response,
    "pending": _judge_pending,
}
