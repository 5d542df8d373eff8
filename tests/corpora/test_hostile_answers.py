"""One answer to one request, whatever the service says; and the judge of it finds what it is there to find."""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.corpora import hostile_answers
from tests.corpora.hostile_answers import Told, judge, read_hostile, run

FILE = Path(__file__).parents[1] / "data" / "corpora" / "hostile-answers.jsonl"
NOTES = {row["id"]: row["note"] for row in map(json.loads, FILE.read_text(encoding="utf-8").splitlines())}


@cache
def found() -> Sequence[Told]:
    return run(read_hostile(FILE))


def test_client_gets_one_answer_to_one_request_whatever_the_service_says() -> None:
    assert not [f"{told.name}: {violation}" for told in found() for violation in told.violations]


def test_sound_answers_are_relayed_however_they_are_cut() -> None:
    sound = [told for told in found() if NOTES[told.hostile.id].startswith("sound") and told.way.endswith("the end")]
    assert not [told.name for told in sound if not told.relayed]
    assert len({told.hostile.id for told in sound}) > 10


def test_second_request_is_answered_by_the_service_wherever_the_first_left_the_client_in_step() -> None:
    answered: dict[str, int] = defaultdict(int)
    for told in found():
        answered[told.hostile.id] += len(told.answers.whole) == 2
    # Behind an excess of bytes a fresh connection is dialled: that is no reason to fail the next request.
    assert all(answered[name] for name in NOTES if name.startswith("excess/"))


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SECOND = b"HTTP/1.1 200 OK\r\nX-Mark: 2\r\nContent-Length: 6\r\n\r\nsecond"
REFUSAL = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("sent", "received", "violation"),
    [
        (LENGTH, LENGTH + SECOND, None),
        (LENGTH, REFUSAL + SECOND, None),
        (b"nonsense", REFUSAL, None),
        (b"", SECOND + SECOND, None),
        (LENGTH[:-1], LENGTH[:-1], None),
        (b"nonsense", LENGTH, "sees none in what the service sent"),
        (LENGTH, LENGTH.replace(b"hello", b"hallo"), "another answer"),
        (LENGTH, LENGTH.replace(b"C", b"Keep-Alive: 1\r\nC"), "another answer"),
        (LENGTH + LENGTH, LENGTH + LENGTH, "that was not given to it"),
        (LENGTH, LENGTH + SECOND + SECOND, "3 answers"),
        (LENGTH, LENGTH + SECOND + b"HTTP/1.1 2", "2 answers"),
        (LENGTH, b"HTTP/1.1 103 \r\n\r\n" + LENGTH, "interim answers (103,)"),
        (LENGTH, b"HTTP/1.1 101 \r\n\r\nx", "interim answers (101,)"),
        (LENGTH, b"HTTP/1.0 200 OK\r\n\r\n", "cannot read"),
        (LENGTH, REFUSAL.replace(b"502", b"500"), "status 500"),
    ],
)
def test_judge_finds_what_is_amiss(sent: bytes, received: bytes, violation: str | None) -> None:
    _, violations = judge(sent, b"GET", True, received)
    if violation is None:
        assert violations == []
    else:
        assert violation in " ".join(violations)


def test_program_reads_any_file_and_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"id": "one", "raw": LENGTH.decode()}) + "\n", encoding="utf-8")
    assert hostile_answers.main([str(file)]) == 0
    assert "answers.jsonl: 1 answers" in capsys.readouterr().out
    monkeypatch.setattr(hostile_answers, "judge", lambda *given: (judge(*given)[0], ["no"]))
    assert hostile_answers.main([str(file)]) == 1
    assert "one (GET, pipelined, then the end): no" in capsys.readouterr().out
