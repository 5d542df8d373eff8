"""Our own answers: the table, who gets a page, and what no answer may hold."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from actors import NotListeningError
from proxy.core.http1 import Field, values
from proxy.core.pages import Answer, Code, refusal, render, wants_html

COMMON = {"cache-control": "no-store", "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def fields(*pairs: tuple[str, str]) -> list[Field]:
    return [(name.lower().encode(), name.encode(), value.encode("latin-1")) for name, value in pairs]


def any_answer(code: Code) -> Answer:
    return refusal(code, sandbox="my-app", port=8080)


def as_dict(given: list[Field]) -> dict[str, str]:
    assert len({lower for lower, _, _ in given}) == len(given)
    return {lower.decode(): value.decode() for lower, _, value in given}


@pytest.mark.parametrize(
    ("code", "status", "error", "extra"),
    [
        ("INVALID_TOKEN", 404, "Access denied: Invalid token or port not exposed", {}),
        ("SANDBOX_NOT_FOUND", 404, "sandbox my-app not found", {}),
        (
            "AUTH_REQUIRED",
            401,
            "preview URL requires authentication",
            {"www-authenticate": 'Bearer realm="preview"'},
        ),
        (
            "AUTH_INVALID",
            401,
            "invalid preview token",
            {"www-authenticate": 'Bearer realm="preview", error="invalid_token"'},
        ),
        ("STALE_PREVIEW_URL", 410, "Preview URL is stale because the sandbox runtime is not active", {}),
        ("WAKING", 503, None, {"retry-after": "2"}),
        ("SANDBOX_STOPPED", 410, "sandbox my-app has been stopped", {}),
        ("UPSTREAM_CLOSED", 502, None, {}),
        ("UPSTREAM_TIMEOUT", 504, None, {}),
        ("BAD_RESPONSE", 502, None, {}),
        ("OVERLOADED", 503, None, {"retry-after": "1"}),
        ("QUARANTINED", 503, None, {"retry-after": "30"}),
        ("SHUTTING_DOWN", 503, None, {"retry-after": "5"}),
        ("TOO_MANY_REQUESTS", 429, None, {"retry-after": "1"}),
        ("BAD_HOST", 400, None, {}),
        ("METHOD_NOT_ALLOWED", 405, None, {"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}),
        ("MISDIRECTED_REQUEST", 421, None, {}),
        ("UPGRADE_REQUIRED", 426, None, {"upgrade": "websocket"}),
        ("HEAD_TOO_LARGE", 431, None, {}),
    ],
)
def test_refusal_is_that_of_the_table(code: str, status: int, error: str | None, extra: dict[str, str]) -> None:
    answer = refusal(code, sandbox="my-app")
    given, body = render(answer, as_html=False)
    said = json.loads(body)
    assert answer.status == status
    assert said == {"error": error or answer.error, "code": code}
    assert as_dict(given) == COMMON | {"content-type": "application/json"} | extra


def test_not_listening_says_port_and_addresses() -> None:
    failure = NotListeningError(8080, [("127.0.0.1", "connection refused"), ("::1", "timed out")])
    answer = refusal(failure.code, port=failure.port, detail=str(failure))
    _, body = render(answer, as_html=False)
    assert answer.status == 502
    assert json.loads(body) == {
        "error": "nothing answers on port 8080 (127.0.0.1: connection refused; ::1: timed out)",
        "code": "NOT_LISTENING",
        "port": 8080,
    }
    assert refusal("NOT_LISTENING", port=8080).error == "nothing answers on port 8080"


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_whole_answer_in_both_formats(code: Code) -> None:
    answer = any_answer(code)
    assert 400 <= answer.status <= 599
    assert "{" not in answer.error
    for as_html in (False, True):
        given, body = render(answer, as_html=as_html)
        assert set(COMMON.items()) <= set(as_dict(given).items())
        assert body
        # Framing is written by whoever sends it.
        assert not values(given, b"content-length") + values(given, b"connection")
    # RFC 9110: a 401 has a challenge, a 405 says what is allowed, a 426 what to upgrade to; a 503 says when.
    wanted = {401: b"www-authenticate", 405: b"allow", 426: b"upgrade", 503: b"retry-after", 429: b"retry-after"}
    if answer.status in wanted:
        assert values(answer.fields, wanted[answer.status])


@pytest.mark.parametrize(
    ("code", "given"),
    [
        ("NO_SUCH_CODE", {}),
        ("SANDBOX_NOT_FOUND", {}),
        ("SANDBOX_STOPPED", {"port": 8080}),
        ("NOT_LISTENING", {}),
        ("INTERNAL", {"detail": "/etc/secret: permission denied"}),
        ("INVALID_TOKEN", {"detail": "no such sandbox"}),
    ],
)
def test_wrong_use_is_an_error(code: str, given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"NO_SUCH_CODE|wants|takes no detail"):
        refusal(code, **given)  # type: ignore[arg-type]  # the cases differ in what they give


def test_detail_is_bounded_and_printable() -> None:
    answer = refusal("BAD_REQUEST", detail="a\r\nb\x1b[31m\u202e" + "x" * 5000)
    assert answer.error.startswith("a  b [31m xxx")
    assert len(answer.error) == 600


class Page(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("code", Code)
def test_page_stands_alone_and_says_what_happened(code: Code) -> None:
    given, body = render(any_answer(code), as_html=True)
    page = Page(body.decode())
    assert as_dict(given)["content-type"] == "text/html; charset=utf-8"
    assert not {"script", "img", "link", "iframe", "form", "a", "base"} & set(page.tags)
    assert not {"src", "href", "onload", "style"} & {name for name, _ in page.attributes}
    assert ("lang", "en") in page.attributes
    assert page.tags.count("h1") == page.tags.count("main") == page.tags.count("title") == 1
    assert code.value in page.text
    assert "url(" not in body.decode()


def test_policy_admits_the_one_style_sheet_and_nothing_else() -> None:
    """CSP level 3: a hash source is the digest of the text between the tags."""
    given, body = render(any_answer(Code.INVALID_TOKEN), as_html=True)
    style = re.findall(rb"<style>(.*?)</style>", body, re.DOTALL)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0]).digest()).decode()
    assert as_dict(given)["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("code", Code)
def test_only_the_waking_page_refreshes_itself(code: Code) -> None:
    _, body = render(any_answer(code), as_html=True)
    assert (b'http-equiv="refresh" content="2"' in body) is (code is Code.WAKING)


def test_words_from_outside_are_escaped() -> None:
    _, body = render(refusal("BAD_REQUEST", detail='"><svg onload=1>&<script>'), as_html=True)
    assert b"<svg onload" not in body
    assert b"<script" not in body
    assert b"&quot;&gt;&lt;svg onload=1&gt;&amp;&lt;script&gt;" in body


def test_unknown_sandbox_and_wrong_token_look_the_same() -> None:
    assert render(refusal("INVALID_TOKEN"), as_html=True) == render(
        refusal("INVALID_TOKEN", sandbox="other"), as_html=True
    )


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("text/html, */*", True),
        ("*/*, text/html", True),
        ("text/*", True),
        ("application/xhtml+xml", True),
        ("application/json", False),
        ("application/json, text/plain, */*", False),
        ("application/*", False),
        ("text/html, application/json", False),
        ("application/json;q=0.9, text/html", True),
        ("application/json, text/html;q=0.9", False),
        ("text/html;q=0.9, */*", False),
        ("text/html;q=0", False),
        ("text/html;q=0, text/*, application/json;q=0.1", False),
        ("text/html;q=0.001", True),
        ("text/html; charset=utf-8 ; Q=0.5, application/json;q=0.4", True),
        ("text/html;q=0.50001, application/json;q=0.1", False),
        ("text/html;q=nan, application/json;q=0.1", False),
        ("text/html;q=2", False),
        ("text/htmlx", False),
        (",,;,=;q=", False),
        ("text/event-stream", False),
        ("\xff", False),
    ],
)
def test_accept_decides_by_quality_and_then_by_specificity(accept: str | None, expected: bool) -> None:
    """RFC 9110 section 12.5.1."""
    assert wants_html(fields() if accept is None else fields(("Accept", accept))) is expected


def test_several_accept_fields_are_one_list() -> None:
    assert wants_html(fields(("Accept", "application/json;q=0.5"), ("Accept", "text/html")))
    assert not wants_html(fields(("Accept", "text/html;q=0.5"), ("Accept", "application/json")))


@pytest.mark.parametrize(("mode", "expected"), [("navigate", True), ("Navigate", True), ("cors", False)])
def test_navigation_gets_a_page_whatever_it_accepts(mode: str, expected: bool) -> None:
    assert wants_html(fields(("Sec-Fetch-Mode", mode), ("Accept", "*/*"))) is expected


def test_endless_accept_is_read_in_linear_time() -> None:
    """64 KiB of the worst that a quadratic reader could be given; it would take minutes."""
    for part in ('"', ';q="', "; ", " ;", ",", 'a;b="\\', ";q= "):
        assert not wants_html(fields(("Accept", part * (65536 // len(part)))))
