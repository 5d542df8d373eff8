"""Whole programs and a real browser.

Browser tests are plain functions: Playwright's synchronous interface runs an event loop of its own in the thread, and
trio must not run inside it. The server under test is a subprocess, as it is for users.
"""

import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Protocol

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

START_S = 20.0
"""For a program to print the line that says it is ready; Python starts in well under a second."""
STOP_S = 20.0

CHROMIUM_ARGUMENTS = (
    # Chromium refuses to run as root with its sandbox, and containers do not let it build one.
    "--no-sandbox",
    "--disable-gpu",
    # Everything below keeps the browser from talking to anybody but the server under test.
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def free_port() -> int:
    """A port where nobody listens, for a service of a sandbox, which shares this machine's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@dataclass
class Program:
    """A running program and what it has printed."""

    process: subprocess.Popen[str]
    reader: threading.Thread
    ready: re.Match[str]
    """The line that said it was ready, matched."""
    output: list[str]
    """Lines of stdout and stderr together, in order, the ready line included; complete after `stop`."""

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code; a program that has ended is left in peace."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"SIGTERM did not end it within {STOP_S} s:\n{''.join(self.output)}")
        # Ends with the last process that holds the program's stdout: one that it left behind would show here.
        self.reader.join(STOP_S)
        assert not self.reader.is_alive(), "something that the program started still holds its output"
        return code


class StartProgram(Protocol):
    """Runs Python with `arguments` until it prints a line that matches `ready`."""

    def __call__(self, *arguments: str, ready: str, env: Mapping[str, str] | None = None) -> Program: ...


@pytest.fixture
def start_python() -> Iterator[StartProgram]:
    """Start programs; at the end of the test each gets SIGTERM and must exit with 0."""
    programs: list[Program] = []

    def start(*arguments: str, ready: str, env: Mapping[str, str] | None = None) -> Program:
        process = subprocess.Popen(
            [sys.executable, "-u", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        assert process.stdout is not None
        output: list[str] = []
        matches: queue.SimpleQueue[re.Match[str] | None] = queue.SimpleQueue()
        # Read to the end, or the program would block on a full pipe.
        pattern = re.compile(ready)
        reader = threading.Thread(target=_read, args=(process.stdout, pattern, output, matches), daemon=True)
        reader.start()
        try:
            match = matches.get(timeout=START_S)
        except queue.Empty:
            match = None
        if match is None:
            process.kill()
            process.wait()
            pytest.fail(f"never printed a line like {ready!r}:\n{''.join(output)}")
        programs.append(Program(process, reader, match, output))
        return programs[-1]

    yield start
    codes = [(program.stop(), program) for program in reversed(programs)]
    for code, program in codes:
        assert code == 0, f"exit code {code}:\n{''.join(program.output)}"


def _read(
    stream: IO[str],
    ready: re.Pattern[str],
    output: list[str],
    matches: "queue.SimpleQueue[re.Match[str] | None]",
) -> None:
    with stream:
        for line in stream:
            output.append(line)
            if match := ready.search(line):
                matches.put(match)
    matches.put(None)


@pytest.fixture(scope="module")
def browser(require_program: Callable[[str], str]) -> Iterator[Browser]:
    """A headless Chromium. One per module: Playwright's event loop must be gone before trio tests run again."""
    chromium = require_program("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """A page without history, cookies or cache; an exception that no script caught fails the test."""
    errors: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
    assert not errors, "uncaught in the page:\n" + "\n".join(errors)
