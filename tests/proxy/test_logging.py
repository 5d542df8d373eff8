"""Log lines: one an event, parseable, without secrets, and no danger to who writes them."""

import io
import json
import sys
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from actors import PortToken
from proxy.logging import configure_logging

TOKEN = "k3v9x0q2m7t1z8aa"


@pytest.fixture(autouse=True)
def default_again() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def fail_holding_a_secret() -> None:
    secret = TOKEN
    raise RuntimeError("went wrong" if secret else "")


@pytest.mark.parametrize("style", ["json", "console"])
def test_exception_shows_the_traceback_and_no_local_variable(
    style: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", style)
    try:
        fail_holding_a_secret()
    except RuntimeError:
        structlog.get_logger("portico.test").exception("failed")
    printed = capsys.readouterr().err
    assert "RuntimeError: went wrong" in printed
    assert "in fail_holding_a_secret" in printed
    assert TOKEN not in printed


@pytest.mark.parametrize("style", ["json", "console"])
def test_token_as_a_field_is_masked(style: Literal["json", "console"], capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", style)
    structlog.get_logger().info("exposed", token=PortToken(TOKEN))
    printed = capsys.readouterr().err
    assert "PortToken" in printed
    assert TOKEN not in printed


def test_json_is_one_object_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")
    log = structlog.get_logger("portico.test")
    log.info("first\nof two", port=8080)
    log.warning("second")
    captured = capsys.readouterr()
    first, second = map(json.loads, captured.err.splitlines())
    assert first["event"] == "first\nof two"
    assert (first["level"], first["port"]) == ("info", 8080)
    assert first["timestamp"].endswith("Z")
    assert second["level"] == "warning"
    assert captured.out == ""


def test_console_has_no_colours_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    structlog.get_logger().error("plain", port=8080)
    printed = capsys.readouterr().err
    assert "plain" in printed
    assert "port=8080" in printed
    assert "\x1b" not in printed


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", "json")
    log = structlog.get_logger()
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)(level)
    levels = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert levels == ["warning", "error", "critical"]


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def closed() -> io.StringIO:
    file = io.StringIO()
    file.close()
    return file


@pytest.mark.parametrize("stderr", [Broken(), Full(), closed()], ids=["broken pipe", "full disk", "closed"])
def test_stderr_that_fails_does_not_fail_who_logs(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("info", "json")
    monkeypatch.setattr(sys, "stderr", stderr)
    structlog.get_logger().error("nobody hears this")
