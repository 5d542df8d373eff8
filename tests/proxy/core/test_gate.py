"""Cookies of the gate: which are read, when they count, and where a visitor may be sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.gate import (
    NAMED_SESSION_BYTES,
    PLAIN_COOKIE,
    PLAIN_SHARE_COOKIE,
    SECURE_COOKIE,
    SECURE_SHARE_COOKIE,
    SESSIONS_MAX,
    Form,
    clear_cookie,
    is_from_here,
    is_own,
    read_form,
    safe_target,
    set_cookie,
    share_path_secret,
    shown_by,
)
from proxy.core.headers import is_gate_cookie, without_gate_cookies
from proxy.core.http1 import Field, RequestHead

ORIGIN, PLAIN_ORIGIN = b"https://8080-a-t.example.com", b"http://8080-a-t.localhost:8787"
SESSION, OTHER = b"s" * 43, b"o" * 43


def fields(*pairs: tuple[str, bytes | str]) -> list[Field]:
    return [
        (name.lower().encode(), name.encode(), value.encode() if isinstance(value, str) else value)
        for name, value in pairs
    ]


def shown(
    *pairs: tuple[str, bytes | str], method: bytes = b"GET", origin: bytes = ORIGIN, upgrade: bool = False
) -> tuple[bytes, ...]:
    if upgrade:
        pairs = (*pairs, ("Upgrade", "websocket"))
    found = shown_by(RequestHead(method, b"/", b"1.1", fields(*pairs)), origin)
    return found.sessions if found is not None else ()


def cookie(session: bytes = SESSION, name: bytes = SECURE_COOKIE) -> tuple[str, bytes]:
    return "Cookie", name + b"=" + session


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (SECURE_COOKIE + b"=" + SESSION, (SESSION,)),
        (b"a=1;" + SECURE_COOKIE + b"=" + SESSION + b";b=2", (SESSION,)),
        (SECURE_COOKIE + b"=" + SESSION + b"; " + SECURE_COOKIE + b"=" + OTHER, (SESSION, OTHER)),
        (SECURE_COOKIE.upper() + b"=" + SESSION, ()),
        (SECURE_COOKIE + b"x=" + SESSION, ()),
        (SECURE_COOKIE + b"=" + SESSION + b"=", ()),
        (SECURE_COOKIE + b'="' + SESSION + b'"', ()),
        (SECURE_COOKIE + b"=short", ()),
        (SECURE_COOKIE, ()),
        (PLAIN_COOKIE + b"=" + SESSION, ()),
        (b"", ()),
    ],
)
def test_sessions_are_read_by_their_exact_name_and_length(value: bytes, found: tuple[bytes, ...]) -> None:
    assert shown(("Cookie", value)) == found


def test_each_scheme_has_its_own_cookie() -> None:
    assert shown(cookie(name=PLAIN_COOKIE), origin=PLAIN_ORIGIN) == (SESSION,)
    assert shown(cookie(), origin=PLAIN_ORIGIN) == ()


def cookies(value: bytes) -> RequestHead:
    return RequestHead(b"GET", b"/", b"1.1", fields(("Cookie", value)))


def test_cookie_of_a_share_is_read_at_custom_hostnames_beside_the_gates() -> None:
    named = b"k3v9x0q2m7t1z8aa." + SESSION
    assert len(named) == NAMED_SESSION_BYTES
    for origin, secure in ((ORIGIN, True), (PLAIN_ORIGIN, False)):
        gate, share = (SECURE_COOKIE, SECURE_SHARE_COOKIE) if secure else (PLAIN_COOKIE, PLAIN_SHARE_COOKIE)
        request = cookies(b"a=1; " + share + b"=" + named + b"; " + gate + b"=" + SESSION)
        for is_custom, found in ((True, {SESSION, named}), (False, {SESSION})):
            seen = shown_by(request, origin, is_custom=is_custom)
            assert seen is not None
            assert {*seen.sessions} == found
        # Neither under the other's name.
        wrong = cookies(share + b"=" + SESSION + b"; " + gate + b"=" + named)
        assert shown_by(wrong, origin, is_custom=True) is None
        for value in (set_cookie(origin, named, of_share=True), clear_cookie(origin, of_share=True)):
            assert value.startswith(share + b"=")
            assert (b"; Secure" in value) is secure
            assert is_gate_cookie(value), "no service sees it or sets it"


def test_number_of_sessions_is_bounded() -> None:
    assert len(shown(*[cookie()] * 100)) == SESSIONS_MAX


@pytest.mark.parametrize("place", [0, 100])
def test_tossed_cookies_of_one_kind_hide_none_of_the_other(place: int) -> None:
    named = b"k3v9x0q2m7t1z8aa." + SESSION
    gate, share = PLAIN_COOKIE + b"=" + SESSION, PLAIN_SHARE_COOKIE + b"=" + named
    for tossed, own, session in ((gate, share, named), (share, gate, SESSION)):
        pairs = [tossed] * 100
        pairs.insert(place, own)
        seen = shown_by(cookies(b"; ".join(pairs)), PLAIN_ORIGIN, is_custom=True)
        assert seen is not None
        assert seen.sessions.count(session) == 1
        assert len(seen.sessions) == SESSIONS_MAX + 1


@pytest.mark.parametrize(
    ("pairs", "method", "upgrade", "counts"),
    [
        ([], b"GET", False, True),
        ([], b"POST", False, True),
        ([("Origin", "https://8080-a-t.example.com")], b"POST", False, True),
        ([("Origin", "https://8080-a-t.example.com")], b"GET", True, True),
        ([("Origin", "http://8080-a-t.example.com")], b"GET", True, False),
        ([("Origin", "https://8080-a-t.example.com:8443")], b"GET", True, False),
        ([("Origin", "https://8080-b-t.example.com")], b"GET", False, False),
        ([("Origin", "null")], b"POST", False, False),
        ([("Origin", "https://8080-a-t.example.com"), ("Origin", "https://evil")], b"POST", False, False),
        ([("Sec-Fetch-Site", "same-origin")], b"DELETE", False, True),
        ([("Sec-Fetch-Site", "none")], b"GET", False, True),
        ([("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "navigate")], b"GET", False, True),
        ([("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")], b"POST", False, False),
        ([("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")], b"GET", False, False),
        ([("Sec-Fetch-Site", "cross-site")], b"GET", False, False),
        ([("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "websocket")], b"GET", True, False),
        ([("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "navigate")], b"GET", True, False),
        ([("Sec-Fetch-Site", "unheard-of")], b"GET", False, False),
        (
            [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Mode", "cors")],
            b"GET",
            False,
            False,
        ),
    ],
)
def test_cookie_counts_for_the_previews_own_pages_and_plain_navigations(
    pairs: list[tuple[str, str]], method: bytes, upgrade: bool, counts: bool
) -> None:
    assert shown(cookie(), *pairs, method=method, upgrade=upgrade) == ((SESSION,) if counts else ())


@pytest.mark.parametrize(
    ("pairs", "here"),
    [
        ([], True),
        ([("Origin", "https://8080-a-t.example.com")], True),
        ([("Origin", "HTTPS://8080-a-t.example.com")], True),
        ([("Origin", "null")], False),
        ([("Origin", "")], False),
        ([("Sec-Fetch-Site", "same-site")], False),
        ([("Sec-Fetch-Site", "same-origin"), ("Origin", "https://b.example.com")], False),
    ],
)
def test_change_is_asked_for_by_a_page_of_the_preview_or_by_no_page(pairs: list[tuple[str, str]], here: bool) -> None:
    assert is_from_here(fields(*pairs), ORIGIN) is here


@pytest.mark.parametrize("origin", [ORIGIN, PLAIN_ORIGIN])
def test_cookie_that_is_set_is_read_again_and_is_no_business_of_the_services(origin: bytes) -> None:
    value = set_cookie(origin, SESSION, max_age_s=60)
    pair = value.partition(b";")[0]
    assert shown(("Cookie", pair), origin=origin) == (SESSION,)
    assert without_gate_cookies(b"a=1; " + pair) == b"a=1"
    assert is_gate_cookie(value)
    assert is_gate_cookie(clear_cookie(origin))
    assert (b"; Secure" in value) == origin.startswith(b"https")
    assert b"Domain" not in value
    assert value.endswith(b"; HttpOnly; SameSite=Lax; Max-Age=60")
    assert b"; Path=/;" in value


def test_own_paths_are_known_by_their_bytes() -> None:
    assert is_own(b"/.portico/sign-in?x=1")
    assert not any(is_own(target) for target in (b"/.portico", b"/.Portico/", b"/a/.portico/", b"/%2eportico/", b"*"))
    assert share_path_secret(b"/.portico/share/abc") == b"abc"
    assert share_path_secret(b"/.portico/share/") is None
    assert share_path_secret(b"/.portico/sign-in") is None


def test_share_secret_is_sent_once_or_not_at_all() -> None:
    def secret(*pairs: tuple[str, bytes | str]) -> bytes | None:
        found = shown_by(RequestHead(b"GET", b"/", b"1.1", fields(*pairs)), ORIGIN)
        assert "abc" not in repr(found)
        return found.share_secret if found is not None else None

    assert secret(("Portico-Share", " abc ")) == b"abc"
    assert secret(("Portico-Share", "abc"), ("Portico-Share", "abc")) is None
    assert secret(("Portico-Share", "")) is None
    assert secret() is None


@given(st.text() | st.from_regex(r"[/\\]{0,3}[a-z./?#@:\\\t\n]{0,20}", fullmatch=True))
def test_visitors_are_sent_to_paths_of_the_preview_only(text: str) -> None:
    target = safe_target(text)
    assert target.startswith("/")
    assert not target.startswith(("//", "/.portico/"))
    assert target.isascii()
    assert not set(target) & set("\\ \t\r\n\0")
    assert target in (text, "/")


@pytest.mark.parametrize("target", ["/", "/a?b=c&d=%2F", "/a//b", "/~x;y", "/a?u=https://b/"])
def test_target_that_is_a_path_is_kept(target: str) -> None:
    assert safe_target(target) == target


def test_form_is_read_strictly_and_never_printed() -> None:
    form = read_form(b"token=+secret%20%0A&to=%2Fa%3Fb%3D1")
    assert form == Form("secret", "/a?b=1")
    assert "secret" not in repr(form)
    for body in (b"", b"to=/", b"token=a&token=b", b"\xff", b"token=%ff", b"&".join([b"token=a"] * 9)):
        assert read_form(body) is None
    assert read_form(b"token=") == Form("", "/")


@given(st.binary(max_size=200))
def test_any_form_can_be_posted(body: bytes) -> None:
    form = read_form(body)
    assert form is None or safe_target(form.target) == form.target
