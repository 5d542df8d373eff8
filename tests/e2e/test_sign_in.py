"""A private preview in a real Chromium: signing in, what then works, what ends it; and links that are shared.

The hosts are ``*.localhost`` over plain http, as on the machine of whoever tries Portico.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.preview import Preview, preview_server

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TOKEN_FIELD: Final = "#token"
REACH: Final = """async ([url, method]) => {
    // Whether the page may read the answer does not matter here.
    try { await fetch(url, {method, credentials: "include", mode: "no-cors"}); } catch (error) { }
}"""
OPEN_SOCKET: Final = """url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => { socket.close(); resolve("open"); };
    socket.onerror = () => resolve("refused");
})"""


@pytest.fixture
def preview(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preview]:
    with preview_server(tmp_path_factory.mktemp("preview")) as running:
        yield running


@pytest.fixture
def app_port(start_python: "StartProgram") -> int:
    """The demo app, with its clock (Server-Sent Events) and its echo (WebSocket)."""
    program = start_python("-m", "proxy.demo.app", "--port", "0", ready=r"listening on http://[^:]+:([0-9]+)")
    return int(program.ready[1])


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that may meet refusals."""
    with browser.new_context() as context:
        yield context.new_page()


def sign_in(page: Page, token: str) -> None:
    page.fill(TOKEN_FIELD, token)
    page.click("button")


def expect_live(page: Page) -> None:
    expect(page.locator("#clock-status")).to_have_text("live")
    page.fill("#echo-input", "hello")
    page.click("#echo-send")
    expect(page.locator("#echo-output li").first).to_have_text(re.compile("hello"))


def cookies_of(context: BrowserContext) -> list[tuple[str, bool, str]]:
    return [
        (cookie["name"], cookie["httpOnly"], cookie["sameSite"])
        for cookie in context.cookies()
        if "portico" in cookie["name"]
    ]


def test_visitor_signs_in_and_is_asked_again_after_a_rotation(page: Page, preview: Preview, app_port: int) -> None:
    host = preview.expose(app_port)
    token = str(preview.tell("gate"))
    asked = page.goto(f"http://{host}/?from=a%20link")
    assert asked is not None
    assert asked.status == 401
    expect(page.locator(TOKEN_FIELD)).to_be_focused()

    sign_in(page, "not-the-right-token-at-all")
    expect(page.locator("p.said")).to_be_visible()
    sign_in(page, token)
    expect(page).to_have_url(f"http://{host}/?from=a%20link")
    expect_live(page)
    assert cookies_of(page.context) == [("portico-gate", True, "Lax")]
    assert "portico-gate" not in page.evaluate("document.cookie")
    # What the service was told of the visit.
    expect(page.locator("#headers tbody")).not_to_contain_text("portico-gate")

    renewed, closed = cast("tuple[str, int]", preview.tell("rotate"))
    assert closed >= 2, "the clock and the echo"
    expect(page.locator("#echo-status")).not_to_have_text("live")
    page.reload()
    expect(page.locator(TOKEN_FIELD)).to_be_visible()
    sign_in(page, renewed)
    expect_live(page)

    page.goto(f"http://{host}/.portico/sign-out")
    page.click("button")
    expect(page.locator(TOKEN_FIELD)).to_be_visible()
    assert cookies_of(page.context) == []


def test_page_of_a_sibling_preview_cannot_use_the_cookie(browser: Browser, preview: Preview, app_port: int) -> None:
    # The demo's own policy would keep its page from trying.
    with browser.new_context(bypass_csp=True) as context:
        try_from_a_sibling(context.new_page(), preview, app_port)


def try_from_a_sibling(page: Page, preview: Preview, app_port: int) -> None:
    host, sibling = cast("tuple[str, str]", preview.tell("expose as siblings", app_port))
    token = str(preview.tell("gate"))
    page.goto(f"http://{host}/")
    sign_in(page, token)
    expect_live(page)
    assert page.evaluate(OPEN_SOCKET, f"ws://{host}/echo") == "open"

    page.goto(f"http://{sibling}/")
    expect_live(page)
    assert page.evaluate(OPEN_SOCKET, f"ws://{sibling}/echo") == "open"
    assert page.evaluate(OPEN_SOCKET, f"ws://{host}/echo") == "refused"
    statuses: list[int] = []
    page.on("response", lambda response: statuses.append(response.status) if host in response.url else None)
    for method in ("GET", "POST"):
        page.evaluate(REACH, [f"http://{host}/", method])
    assert statuses == [401, 401]
    # A link is no attack.
    page.evaluate("url => { location.href = url; }", f"http://{host}/")
    expect_live(page)


def test_link_opens_in_a_fresh_browser_until_it_is_revoked(
    page: Page, browser: Browser, preview: Preview, app_port: int
) -> None:
    preview.expose(app_port)
    preview.tell("gate")
    share, url = cast("tuple[str, str]", preview.tell("share", app_port, False))
    secret = url.rpartition("/")[2]
    page.goto(url)
    expect(page).to_have_url(re.compile(r"^http://[^/]+/$"))
    expect_live(page)
    assert secret not in page.content()
    assert secret not in str(page.evaluate("document.referrer"))

    assert cast("int", preview.tell("revoke", share)) >= 2
    expect(page.locator("#echo-status")).not_to_have_text("live")
    gone = page.reload()
    assert gone is not None
    assert gone.status == 404
    with browser.new_context() as other:
        answer = other.new_page().goto(url)
        assert answer is not None
        assert answer.status == 404


def test_link_that_opens_once_opens_in_one_browser(
    page: Page, browser: Browser, preview: Preview, app_port: int
) -> None:
    preview.expose(app_port)
    _, url = cast("tuple[str, str]", preview.tell("share", app_port, True))
    with browser.new_context() as other:
        looking = other.new_page()
        looking.goto(url)
        page.goto(url)
        page.click("button")
        expect_live(page)
        looking.click("button")
        expect(looking.locator("h1")).to_have_text("This link has been used")
    page.reload()
    expect_live(page)
