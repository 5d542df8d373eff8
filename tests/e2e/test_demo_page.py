"""The demo app's page in a real browser, with nothing in between; what Portico must not break."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import Program, StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def demo(start_python: "StartProgram") -> "Program":
    return start_python("-m", "proxy.demo.app", "--port", "0", ready=r"listening on (http://\S+)")


def test_clock_runs_echo_answers_and_upload_arrives_intact(browser_page: Page, demo: "Program", tmp_path: Path) -> None:
    browser_page.goto(demo.ready[1])
    expect(browser_page.locator("#clock-status")).to_have_text("live")
    first = browser_page.locator("#clock").inner_text()
    expect(browser_page.locator("#clock")).not_to_have_text(first)

    browser_page.fill("#echo-input", "grüße")
    browser_page.click("#echo-send")
    expect(browser_page.locator("#echo-output li")).to_have_text(re.compile("grüße"))
    browser_page.click("#echo-bytes")
    expect(browser_page.locator("#echo-output li").first).to_have_text(re.compile("1024 bytes"))

    content = bytes(range(256)) * 4000
    file = tmp_path / "file.bin"
    file.write_bytes(content)
    browser_page.set_input_files("#upload-file", file)
    expect(browser_page.locator("#upload-status")).to_have_text("arrived intact")
    result = f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"
    expect(browser_page.locator("#upload-result")).to_have_text(result)


def test_lost_service_is_shown_as_lost(browser_page: Page, demo: "Program") -> None:
    browser_page.goto(demo.ready[1])
    expect(browser_page.locator("#echo-status")).to_have_text("live")
    demo.stop()
    expect(browser_page.locator("#echo-status")).not_to_have_text("live")
    expect(browser_page.locator("#echo-send")).to_be_disabled()
    expect(browser_page.locator("#clock-status")).to_have_text("reconnecting")


def test_page_without_script_still_says_what_the_service_received(browser: Browser, demo: "Program") -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(demo.ready[1])
        expect(page.locator("#headers tbody tr").first).to_contain_text("host")
        expect(page.locator("#echo-send")).to_be_disabled()
        expect(page.locator("noscript")).to_be_visible()
