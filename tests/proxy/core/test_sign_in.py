"""Pages with a form: what they say, what they keep, and that nothing of the request can break out of them."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.gate import SIGN_IN_PATH, SIGN_OUT_PATH, safe_target
from proxy.core.http1 import Field
from proxy.core.pages import Code, refusal
from proxy.core.sign_in import ASKS_FOR_TOKEN, once_page, sign_in_page, sign_out_page


class Page(HTMLParser):
    """The tags of a page."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def one(self, tag: str, **attributes: str) -> dict[str, str | None]:
        (found,) = [held for name, held in self.tags if name == tag and attributes.items() <= held.items()]
        return found


def field(fields: list[Field], name: bytes) -> bytes:
    (found,) = [value for key, _, value in fields if key == name]
    return found


@given(st.text(st.characters(codec="utf-8"), max_size=50).map(lambda text: "/" + text))
def test_target_is_kept_in_the_form_and_cannot_break_out_of_it(target: str) -> None:
    _, body = sign_in_page(refusal(Code.AUTH_REQUIRED), target)
    page = Page(body)
    assert page.one("input", type="hidden")["value"] == safe_target(target)
    assert [tag for tag, _ in page.tags].count("input") == 2
    assert page.one("form") == {"method": "post", "action": SIGN_IN_PATH}
    assert not any(tag in ("script", "img", "iframe", "a") for tag, _ in page.tags)


@pytest.mark.parametrize("code", sorted(ASKS_FOR_TOKEN))
def test_page_says_what_went_wrong_only_after_a_try(code: Code) -> None:
    answer = refusal(code)
    fields, body = sign_in_page(answer, "/")
    assert b'class="said"' not in body
    assert code.value.encode() in body
    assert set(answer.fields) <= set(fields)
    tried = sign_in_page(answer, "/", tried=True)[1]
    assert (b'class="said"' in tried) == (code is not Code.AUTH_REQUIRED)


@pytest.mark.parametrize("page", [sign_in_page(refusal(Code.AUTH_REQUIRED), "/"), sign_out_page(), once_page()])
def test_page_with_a_form_is_kept_by_nobody_and_framed_by_nobody_else(page: tuple[list[Field], bytes]) -> None:
    fields, _ = page
    policy = field(fields, b"content-security-policy")
    assert b"form-action 'self'; frame-ancestors 'self'" in policy
    assert b"default-src 'none'" in policy
    assert field(fields, b"cache-control") == b"no-store"
    # With "no-referrer" browsers send "Origin: null", which is nobody's.
    assert field(fields, b"referrer-policy") == b"origin"


def test_buttons_lead_where_they_should() -> None:
    assert Page(sign_out_page()[1]).one("form")["action"] == SIGN_OUT_PATH
    assert "action" not in Page(once_page()[1]).one("form"), "the secret is in the address alone"
