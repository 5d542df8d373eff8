"""`portico demo` as its first user meets it: in a terminal, with curl, and in a browser."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import Program, StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")
OWNER = os.path.join(os.path.dirname(__file__), "owner_server.py")
URL_LINE = r"^ *(http://(\d+)-demo-([a-z0-9]{16})\.localhost:(\d+)/)$"

StartDemo = Callable[..., "Program"]


@pytest.fixture
def start_demo(start_python: "StartProgram", tmp_path: Path) -> StartDemo:
    def start(*, listen: str = "127.0.0.1:0") -> "Program":
        folder = str(tmp_path / "data")
        return start_python(PORTICO, "demo", "--data", folder, "--listen", listen, ready=URL_LINE)

    return start


@pytest.fixture
def curl(require_program: Callable[[str], str]) -> Callable[..., tuple[int, str]]:
    """Return a function that fetches a URL, as text, and gives its status too."""
    program = require_program("curl")

    def fetch(*arguments: str) -> tuple[int, str]:
        command = [program, "--silent", "--show-error", "--max-time", "10", "--write-out", "\n%{http_code}", *arguments]
        body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
        return int(status), body

    return fetch


def other_letter(token: str) -> str:
    return ("b" if token[0] == "a" else "a") + token[1:]


def test_printed_url_answers_and_with_one_letter_changed_does_not(
    start_demo: StartDemo, curl: Callable[..., tuple[int, str]]
) -> None:
    url, token = start_demo().ready.group(1, 3)
    status, page = curl(url)
    assert status == 200
    assert "<title>Portico demo</title>" in page
    status, body = curl(url.replace(token, other_letter(token)))
    assert status == 404
    assert json.loads(body)["code"] == "INVALID_TOKEN"


def test_url_is_the_same_at_the_next_start(start_demo: StartDemo, curl: Callable[..., tuple[int, str]]) -> None:
    first = start_demo()
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(10) == 0
    assert first.stop() == 0
    assert first.output[-1] == "Stopped. The same URL will work next time.\n"
    second = start_demo(listen=f"127.0.0.1:{first.ready[4]}")
    assert second.ready[1] == first.ready[1]
    assert curl(second.ready[1])[0] == 200


def test_port_taken_by_another_program_gets_no_url_that_leads_there(
    start_demo: StartDemo, curl: Callable[..., tuple[int, str]]
) -> None:
    first = start_demo()
    url, port, _, listener = first.ready.groups()
    first.stop()
    with socket.create_server(("127.0.0.1", int(port))) as other:
        second = start_demo(listen=f"127.0.0.1:{listener}")
        assert second.ready[2] != port
        assert curl(second.ready[1])[0] == 200
        assert curl(url)[0] == 404
        # Nobody has knocked at the other program's door.
        assert select.select([other], [], [], 0)[0] == []


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[str]:
    """What the demo shows on a terminal of 100 columns, until it waits for Ctrl-C."""
    master, slave = pty.openpty()
    command = [PORTICO, "demo", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "COLUMNS": "100", "LINES": "50", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    end = time.monotonic() + 20
    while b"Ctrl-C" not in shown and select.select([master], [], [], end - time.monotonic())[0]:
        shown += os.read(master, 65536)
    yield shown.decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    os.close(master)


def test_terminal_shows_the_url_in_a_panel_under_its_qr_code(terminal: str) -> None:
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal)
    code, _, panel = plain.partition("╭")
    assert "▄▄▄▄▄" in code
    assert re.search(r"│ +http://\d+-demo-[a-z0-9]{16}\.localhost:\d+/ +│", panel)
    assert "Traceback" not in plain


def test_folder_in_use_is_one_line_and_exit_code_1(start_demo: StartDemo, tmp_path: Path) -> None:
    demo = start_demo()
    command = [PORTICO, "demo", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr == (
        f"portico: {tmp_path / 'data'} is in use by process {demo.process.pid}: stop that one, or use another folder\n"
    )
    assert second.stdout == ""


# In a browser.


def test_browser_sees_clock_echo_and_upload_through_the_preview(
    start_demo: StartDemo, browser_page: Page, tmp_path: Path
) -> None:
    browser_page.goto(start_demo().ready[1])
    clock = browser_page.locator("#clock-count")
    expect(clock).to_have_text("2")
    browser_page.fill("#echo-input", "through the door")
    browser_page.click("#echo-send")
    expect(browser_page.locator("#echo-output li")).to_have_text(re.compile("through the door"))
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(range(256)) * 2000)
    browser_page.set_input_files("#upload-file", file)
    expect(browser_page.locator("#upload-status")).to_have_text("arrived intact")


def test_wrong_token_is_a_page_for_people(start_demo: StartDemo, browser_page: Page) -> None:
    url, token = start_demo().ready.group(1, 3)
    answer = browser_page.goto(url.replace(token, other_letter(token)))
    assert answer is not None
    assert answer.status == 404
    expect(browser_page).to_have_title("There is no preview here")
    expect(browser_page.locator("footer")).to_contain_text("INVALID_TOKEN")


@pytest.fixture
def owner(start_python: "StartProgram", tmp_path: Path) -> "Program":
    return start_python(OWNER, str(tmp_path / "data"), ready=r"ready (\S+) (\S+)")


def test_url_taken_back_ends_the_open_page_and_reloads_as_a_refusal(owner: "Program", browser_page: Page) -> None:
    browser_page.goto(owner.ready[1])
    expect(browser_page.locator("#clock-status")).to_have_text("live")
    expect(browser_page.locator("#echo-status")).to_have_text("live")
    # The page tries again a second later: all that it shows is kept.
    browser_page.evaluate(
        """() => {
            const status = document.getElementById("echo-status");
            window.seen = [];
            new MutationObserver(() => window.seen.push(status.textContent)).observe(status, {childList: true});
        }"""
    )
    owner.process.send_signal(signal.SIGUSR1)
    expect(browser_page.locator("#echo-send")).to_be_disabled()
    assert browser_page.evaluate("window.seen[0]") == "closed, code 1001"
    # An event source gives up for good when it is refused.
    expect(browser_page.locator("#clock-status")).to_have_text("refused", timeout=10_000)

    answer = browser_page.reload()
    assert answer is not None
    assert answer.status == 404
    expect(browser_page).to_have_title("There is no preview here")
    owner.stop()
    assert "unexposed, 2 cut\n" in owner.output


def test_port_where_nothing_listens_is_a_page_that_names_it(owner: "Program", browser_page: Page) -> None:
    url = owner.ready[2]
    answer = browser_page.goto(url)
    assert answer is not None
    assert answer.status == 502
    expect(browser_page).to_have_title("Nothing answers on this port")
    host = urlsplit(url).hostname
    assert host is not None
    port = host.partition("-")[0]
    expect(browser_page.locator("footer")).to_contain_text(f"port {port}")
    assert sys.executable not in browser_page.content()
