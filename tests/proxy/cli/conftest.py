"""The command, run within the test's process."""

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import structlog

from proxy.cli import app, checks, remote
from proxy.cli.waiting import Sign
from tests.proxy.client.conftest import Script, script

__all__ = ["script"]  # A fixture, which is taken by its name.


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with no settings in the environment, on a terminal of 80 columns."""
    for name in os.environ:
        if name.startswith("PORTICO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


@pytest.fixture
def portico(capsys: pytest.CaptureFixture[str]) -> "Command":
    return Command(capsys)


class Command:
    """Runs the command within this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        code: object = 0
        try:
            app(arguments)
        except SystemExit as exited:
            code = exited.code
        structlog.reset_defaults()
        captured = self._capsys.readouterr()
        assert isinstance(code, int)
        return Said(code, captured.out, captured.err)

    def settings(self, *arguments: str) -> dict[str, list[str]]:
        """Return ``{setting: [value, origin]}`` as --show-config prints it."""
        said = self("serve", "--show-config", *arguments)
        assert (said.code, said.err) == (0, "")
        head, *lines = said.out.splitlines()
        assert head.split() == ["setting", "value", "from", "means"]
        means = head.index("means")
        assert all(line[means:].rstrip().endswith(".") for line in lines)
        rows = [line[:means].split() for line in lines]
        return {row[0]: row[1:] for row in rows}


class Terminal(Sign):
    """A sign that is there from the first moment on, until it is taken away."""

    def __init__(self) -> None:
        self.shown = False
        self.spoilt: list[str] = []
        """What was printed beside it."""

    def heard(self) -> None:
        self.shown = False

    def write(self, write: Callable[[str], int], text: str) -> int:
        if self.shown:
            self.spoilt.append(text)
        return write(text)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Notes what is printed while commands wait, however short that is."""
    sign = Terminal()

    @asynccontextmanager
    async def waiting(_doing: str) -> AsyncIterator[Sign]:
        sign.shown = True
        with monkeypatch.context() as patched:
            for stream in (sys.stdout, sys.stderr):
                patched.setattr(stream, "write", partial(sign.write, stream.write))
            try:
                yield sign
            finally:
                sign.shown = False

    for module in (remote, checks):
        monkeypatch.setattr(module, "waiting", waiting)
    return sign


KEY = "key-of-the-owner-0123456789"


@pytest.fixture
def server(script: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A server of answers written beforehand, as the environment names it."""
    monkeypatch.setenv("PORTICO_SERVER", script.url)
    monkeypatch.setenv("PORTICO_API_KEY", KEY)
    return script
