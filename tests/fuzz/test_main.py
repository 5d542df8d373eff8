"""The program behind `make fuzz`: it counts, and it tells what it has found."""

import base64
import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fuzz import __main__ as program
from tests.fuzz import targets
from tests.fuzz.targets import Target


@pytest.fixture(autouse=True)
def kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    return tmp_path


def holds(_data: bytes) -> None:
    pass


def breaks(data: bytes) -> None:
    assert b"b" not in data, "a b"


def test_target_that_holds_is_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "TARGETS", {"one": Target(holds, lambda: [b"a"]), "two": Target(holds, lambda: [b""])})
    assert program.main(["--seconds", "0", "--engine", "hypothesis"]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one.split()[:3] == ["one", "200", "inputs"]
    assert two.startswith("two")
    assert two.endswith("every law holds")


def test_broken_law_is_told_with_the_smallest_input(
    kept_elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "TARGETS", {"one": Target(breaks, lambda: [b"abc"])})
    assert program.main(["one", "--seconds", "0", "--engine", "hypothesis"]) == 1
    printed = capsys.readouterr().out
    (kept,) = kept_elsewhere.iterdir()
    assert b"b" in kept.read_bytes()
    assert base64.b64encode(kept.read_bytes()).decode() in printed
    assert "AssertionError: a b" in printed


def test_without_atheris_it_says_so_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "TARGETS", {"one": Target(holds, lambda: [b"a"])})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "atheris" else object())
    assert program.main(["--seconds", "0"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("atheris is not installed")
    assert "by hypothesis" in last


def test_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["nonsense"])
    assert "there are request_head, response_head" in capsys.readouterr().err


def test_atheris_runs_in_a_process_of_its_own_whose_findings_are_read(
    kept_elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str], **_settings: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        broken = "events" in command
        if broken:
            (kept_elsewhere / "crash-1").write_bytes(b"bad")
        trace = " === Uncaught Python exception: ===\nAssertionError: why\n" if broken else ""
        return subprocess.CompletedProcess(command, 77 * broken, trace, "stat::number_of_executed_units: 1234\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert program.main(["label", "--seconds", "7"]) == 0
    assert list(commands[0])[-5:] == ["tests.fuzz", "label", "--child", "--seconds", "7.0"]
    assert "1234 inputs" in capsys.readouterr().out
    assert program.main(["events"]) == 1
    printed = capsys.readouterr().out
    assert "BROKEN by b'bad'" in printed
    assert "AssertionError: why" in printed
    assert not (kept_elsewhere / "crash-1").exists()


def test_process_that_fails_by_itself_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: Sequence[str], **_settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ImportError: no such thing")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    with pytest.raises(RuntimeError, match="no such thing"):
        program.main(["label"])
