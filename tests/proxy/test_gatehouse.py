"""Signing in, signing out and a share's link, as browsers and programs meet them; and what must not open anything."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_network
from urllib.parse import urlencode, urlsplit

import pytest
import structlog
import trio
import trio.testing
import trio_websocket

from actors import MailboxFullError, Share
from proxy.core.gate import FORM_BYTES_MAX, PLAIN_COOKIE, SECURE_COOKIE
from proxy.core.http1 import RequestHead
from proxy.core.tries import TRIES_MAX, UNTOLD_TRIES_MAX, WINDOW_S
from proxy.door import Admitted, Preview
from proxy.options import Options
from proxy.testing import PreviewEngine, Response, mirror, respond, websocket_echo
from proxy.testing import preview_engine as make_engine

TOKEN = "preview-token-of-the-owner"
NAVIGATION = ("Sec-Fetch-Mode", "navigate")
Fields = Sequence[tuple[str, str]]


def origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


async def gated(engine: PreviewEngine, *, sandbox: str = "my-app", port: int = 8080) -> str:
    """Expose a mirror behind a gate; return its URL."""
    url = await engine.expose(mirror(), port=port, sandbox=sandbox)
    await (await engine.sandbox(sandbox)).set_preview_auth(TOKEN)
    return url


async def post(
    engine: PreviewEngine, url: str, form: dict[str, str], headers: Fields = (), body: bytes | None = None
) -> Response:
    content = urlencode(form).encode() if body is None else body
    sent = [("Content-Type", "application/x-www-form-urlencoded"), NAVIGATION, *headers]
    return await engine.request("POST", url, headers=sent, body=content)


def cookie_of(response: Response) -> str:
    """The cookie as a browser sends it back."""
    (field,) = response.header_values("set-cookie")
    return field.partition(";")[0]


async def sign_in(engine: PreviewEngine, url: str, token: str = TOKEN) -> tuple[str, str]:
    response = await post(engine, f"{url}.portico/sign-in", {"token": token, "to": "/"})
    assert response.status == 303, response.body
    return "Cookie", cookie_of(response)


async def test_preview_learns_how_its_visitors_come_and_is_the_same_value(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    cookie = await sign_in(preview_engine, url)
    door = preview_engine.router._door
    fields = [(b"host", b"Host", urlsplit(url).netloc.encode())]
    shown = RequestHead(b"GET", b"/", b"1.1", [*fields, (b"cookie", b"Cookie", cookie[1].encode())])
    await preview_engine.get(url, headers=[cookie])  # so that the sandbox is up
    first, second = (door.locate(shown, "https") for _ in range(2))
    assert isinstance(first, Preview)
    assert isinstance(second, Preview)
    for head, expected in ((shown, True), (shown, True), (replace(shown, fields=fields), False), (shown, True)):
        judged = door.admit_nowait(first, head)
        assert isinstance(judged, Admitted) is expected
        if isinstance(judged, Admitted):
            judged.visit.end()
        assert first.habit.by_session is expected
        assert not second.habit.by_session, "what one has learnt is its own"
        assert first == second


# Signing in.


async def test_navigation_without_the_token_gets_a_page_to_sign_in_on_and_wakes_nothing(
    preview_engine: PreviewEngine,
) -> None:
    url = await gated(preview_engine)
    page = await preview_engine.get(f"{url}deep/page?a=1&b=%22%3E", headers=[NAVIGATION])
    assert page.status == 401
    assert page.header("www-authenticate") == 'Bearer realm="preview"'
    text = page.body.decode()
    assert 'action="/.portico/sign-in"' in text
    assert 'value="/deep/page?a=1&amp;b=%22%3E"' in text
    policy = page.header("content-security-policy")
    assert policy is not None
    assert "form-action 'self'" in policy
    assert "frame-ancestors 'self'" in policy
    assert page.header("cache-control") == "no-store"
    assert preview_engine.container().starts == []


async def test_program_without_the_token_is_answered_in_json(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    answer = await preview_engine.get(url)
    assert (answer.status, answer.code) == (401, "AUTH_REQUIRED")


async def test_right_token_gives_a_cookie_and_leads_to_where_the_visitor_was_going(
    preview_engine: PreviewEngine,
) -> None:
    url = await gated(preview_engine)
    response = await post(preview_engine, f"{url}.portico/sign-in", {"token": f" {TOKEN}\n", "to": "/deep?x=1"})
    assert (response.status, response.header("location")) == (303, f"{url}deep?x=1")
    (cookie,) = response.header_values("set-cookie")
    name, _, attributes = cookie.partition("=")
    assert name == SECURE_COOKIE.decode()
    assert attributes.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
    assert TOKEN not in cookie
    assert preview_engine.container().starts == [], "signing in wakes nothing"

    shown = await preview_engine.get(f"{url}deep", headers=[("Cookie", f"a=1; {cookie_of(response)}; b=2"), NAVIGATION])
    assert shown.status == 200
    mirrored = shown.json()
    assert isinstance(mirrored, dict)
    assert ["cookie", "a=1; b=2"] in [[name.lower(), value] for name, value in mirrored["headers"]]


async def test_cookie_over_plain_http_is_one_that_every_browser_takes(preview_engine: PreviewEngine) -> None:
    url = (await gated(preview_engine)).replace("https:", "http:")
    response = await post(preview_engine, f"{url}.portico/sign-in", {"token": TOKEN})
    (cookie,) = response.header_values("set-cookie")
    assert cookie.startswith(PLAIN_COOKIE.decode() + "=")
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
    assert response.header("location") == url
    assert (await preview_engine.get(url, headers=[("Cookie", cookie_of(response))])).status == 200


async def test_wrong_token_is_asked_for_again_and_never_shown(
    preview_engine: PreviewEngine, logged: list[structlog.typing.EventDict]
) -> None:
    url = await gated(preview_engine)
    wrong = "wrong-token-of-somebody"
    response = await post(preview_engine, f"{url}.portico/sign-in", {"token": wrong, "to": "/deep"})
    assert response.status == 401
    assert response.header_values("set-cookie") == []
    text = response.body.decode()
    assert "AUTH_INVALID" in text
    assert 'value="/deep"' in text
    assert wrong not in text
    assert wrong not in repr(logged)
    assert TOKEN not in repr(logged)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example/",
        "/\\evil.example",
        "https://evil.example/",
        "evil",
        "/a\r\nSet-Cookie: x=1",
        "/.portico/sign-out",
        "/ü",
        "/" + "a" * 5000,
    ],
)
async def test_redirect_leads_nowhere_else(target: str) -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        response = await post(engine, f"{url}.portico/sign-in", {"token": TOKEN, "to": target})
        assert (response.status, response.header("location")) == (303, url)
        page = await engine.get(f"{url}.portico/sign-in", headers=[NAVIGATION])
        assert "evil" not in page.body.decode()


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (("Origin", "https://evil.example"), 403),
        (("Origin", "null"), 403),
        (("Sec-Fetch-Site", "same-site"), 403),
        (("Sec-Fetch-Site", "cross-site"), 403),
        (("Sec-Fetch-Site", "same-origin"), 303),
    ],
)
async def test_page_of_another_site_signs_nobody_in_or_out(field: tuple[str, str], status: int) -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        sibling = await gated(engine, sandbox="sibling")
        for path in ("sign-in", "sign-out"):
            response = await post(engine, f"{url}.portico/{path}", {"token": TOKEN}, [field])
            assert response.status == status
            assert bool(response.header_values("set-cookie")) == (status == 303)
        sent = [("Origin", origin_of(sibling)), ("Sec-Fetch-Site", "same-site")]
        assert (await post(engine, f"{url}.portico/sign-in", {"token": TOKEN}, sent)).status == 403
        sent = [("Origin", origin_of(url)), ("Sec-Fetch-Site", "same-origin")]
        assert (await post(engine, f"{url}.portico/sign-in", {"token": TOKEN}, sent)).status == 303


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"to=/", 400),
        (b"token=a&token=b", 400),
        (b"\xff\xfe", 400),
        (b"token=" + b"a" * FORM_BYTES_MAX, 413),
        (b"token=%FF%FE", 400),
        (b"token=", 401),
    ],
)
async def test_form_that_makes_no_sense_is_refused(preview_engine: PreviewEngine, body: bytes, status: int) -> None:
    url = await gated(preview_engine)
    assert (await post(preview_engine, f"{url}.portico/sign-in", {}, body=body)).status == status


async def test_form_that_does_not_arrive_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        client = engine.connect()
        host = urlsplit(url).netloc
        await client.send(f"POST /.portico/sign-in HTTP/1.1\r\nHost: {host}\r\nContent-Length: 30\r\n\r\n".encode())
        assert (await client.read_response()).status == 408


async def test_guessing_is_bounded_by_address_and_sandbox(autojump_clock: trio.testing.MockClock) -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        other = await gated(engine, sandbox="other")

        async def try_it(url: str, token: str, peer: str = "192.0.2.7") -> int:
            client = engine.connect(peer=peer)
            body = urlencode({"token": token}).encode()
            await client.send_request("POST", "/.portico/sign-in", urlsplit(url).netloc, body=body)
            status = (await client.read_response()).status
            await client.aclose()
            return status

        assert [await try_it(url, "wrong-token-of-mine") for _ in range(TRIES_MAX)] == [401] * TRIES_MAX
        assert await try_it(url, TOKEN) == 429, "not even the right one is looked at"
        assert await try_it(other, TOKEN) == 303
        assert await try_it(url, TOKEN, "192.0.2.8") == 303
        await trio.sleep(WINDOW_S)
        assert await try_it(url, TOKEN) == 303


async def try_from(engine: PreviewEngine, url: str, token: str, peer: str, trail: Sequence[str] = ()) -> int:
    """Try to sign in from an address, by way of proxies that say where the request came from; return the status."""
    client = engine.connect(peer=peer)
    body = urlencode({"token": token}).encode()
    said = [("X-Forwarded-For", member) for member in trail]
    await client.send_request("POST", "/.portico/sign-in", urlsplit(url).netloc, headers=said, body=body)
    status = (await client.read_response()).status
    await client.aclose()
    return status


async def test_many_guesses_held_ready_are_not_all_looked_at() -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        body = urlencode({"token": "wrong-token-of-mine"}).encode()
        head = (
            f"POST /.portico/sign-in HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        clients = [engine.connect(peer="192.0.2.7") for _ in range(3 * TRIES_MAX)]
        for client in clients:
            await client.send(head + body[:-1])
        await engine.settle()
        for client in clients:
            await client.send(body[-1:])
        statuses = [(await client.read_response("POST")).status for client in clients]
        assert statuses.count(401) == TRIES_MAX
        assert statuses.count(429) == 2 * TRIES_MAX
        for client in clients:
            await client.aclose()


async def test_right_tokens_are_not_counted_and_made_up_sandboxes_push_nobody_out() -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        for _ in range(TRIES_MAX + 1):
            assert await try_from(engine, url, TOKEN, "192.0.2.7") == 303
        for _ in range(TRIES_MAX):
            assert await try_from(engine, url, "wrong-token-of-mine", "192.0.2.7") == 401
        tries = engine.router._gatehouse._tries
        for number in range(3):
            made_up = f"https://8080-made-up-{number}-k3v9x0q2m7t1z8aa.example.com/"
            assert await try_from(engine, made_up, TOKEN, "192.0.2.7") == 404
        assert len(tries) == 1
        assert await try_from(engine, url, TOKEN, "192.0.2.7") == 429


async def test_secrets_that_nobody_could_look_at_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_arguments: object, **_settings: object) -> None:
        raise MailboxFullError("too many messages wait")

    async with make_engine() as engine:
        share = await shared(engine)
        url = (await (await engine.sandbox()).expose_port(8080, hostname=engine.domain)).url
        for place in ("actors.Runtime.sign_in", "proxy.gatehouse.find_share", "proxy.gatehouse.redeem_share"):
            with monkeypatch.context() as patched:
                patched.setattr(place, busy)
                for _ in range(TRIES_MAX):
                    if place.endswith("sign_in"):
                        assert await try_from(engine, url, TOKEN, "192.0.2.7") == 503
                    else:
                        assert (await engine.get(link(share))).status == 503
            assert len(engine.router._gatehouse._tries) == 0
        assert await try_from(engine, url, TOKEN, "192.0.2.7") == 303


@pytest.mark.parametrize(
    ("trail", "same", "others"),
    [
        (["203.0.113.9"], ["198.51.100.1, 203.0.113.9"], ["203.0.113.10"]),
        (["203.0.113.9, 192.0.2.8"], ["203.0.113.9"], ["203.0.113.10, 192.0.2.8"]),
        (["203.0.113.9:4000"], ["203.0.113.9:4001"], ["203.0.113.10:4000"]),
        (["2001:db8:1:2::3"], ["[2001:db8:1:2::4]:80"], ["2001:db8:1:3::3"]),
    ],
)
async def test_guesses_behind_trusted_proxies_are_counted_by_the_address_that_can_be_believed(
    trail: list[str], same: list[str], others: list[str]
) -> None:
    async with make_engine(options=Options(trusted_proxies=(ip_network("192.0.2.0/24"),))) as engine:
        url = await gated(engine)
        for _ in range(TRIES_MAX):
            assert await try_from(engine, url, "wrong-token-of-mine", "192.0.2.7", trail) == 401
        assert await try_from(engine, url, TOKEN, "192.0.2.7", same) == 429
        assert await try_from(engine, url, TOKEN, "192.0.2.7", others) == 303


async def test_client_that_is_not_trusted_does_not_say_who_is_counted() -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        for number in range(TRIES_MAX):
            trail = [f"203.0.113.{number}"]
            assert await try_from(engine, url, "wrong-token-of-mine", "192.0.2.7", trail) == 401
        assert await try_from(engine, url, TOKEN, "192.0.2.7", ["203.0.113.99"]) == 429


UNTOLD = pytest.mark.parametrize(
    ("peer", "trail"),
    [("127.0.0.1", []), ("::1", []), ("", []), ("192.0.2.7", []), ("192.0.2.7", ["unknown"]), ("192.0.2.7", ["x"])],
)
"""Clients that cannot be told apart; 192.0.2.7 is a trusted proxy that does not say who they are."""


@UNTOLD
async def test_who_cannot_be_told_apart_is_not_kept_out_by_the_few_guesses_of_one(peer: str, trail: list[str]) -> None:
    async with make_engine(options=Options(trusted_proxies=(ip_network("192.0.2.0/24"),))) as engine:
        url = await gated(engine)
        for _ in range(TRIES_MAX + 1):
            assert await try_from(engine, url, "wrong-token-of-mine", peer, trail) == 401
        assert await try_from(engine, url, TOKEN, peer, trail) == 303


@UNTOLD
async def test_guesses_of_those_who_cannot_be_told_apart_have_an_end(
    peer: str, trail: list[str], autojump_clock: trio.testing.MockClock, logged: list[structlog.typing.EventDict]
) -> None:
    async with make_engine(options=Options(trusted_proxies=(ip_network("192.0.2.0/24"),))) as engine:
        url, other = await gated(engine), await gated(engine, sandbox="other")
        for _ in range(UNTOLD_TRIES_MAX):
            assert await try_from(engine, url, "wrong-token-of-mine", peer, trail) == 401
        assert await try_from(engine, url, TOKEN, peer, trail) == 429
        assert [entry for entry in logged if "trusted_proxies" in str(entry.get("client"))]
        # Who can be told, or comes to another sandbox, is not kept out; nor anybody for longer than the minute.
        assert await try_from(engine, url, TOKEN, "198.51.100.1") == 303
        assert await try_from(engine, other, TOKEN, peer, trail) == 303
        await trio.sleep(WINDOW_S)
        assert await try_from(engine, url, TOKEN, peer, trail) == 303


async def test_page_to_sign_in_on_is_shown_to_those_alone_who_have_to(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    asked = f"{url}.portico/sign-in"
    assert (await preview_engine.get(asked, headers=[NAVIGATION])).status == 401
    cookie = await sign_in(preview_engine, url)
    assert (await preview_engine.get(asked, headers=[cookie, NAVIGATION])).status == 303
    assert (await preview_engine.request("PUT", asked, headers=[NAVIGATION])).header("allow") == "GET, HEAD, POST"

    open_to_all = await preview_engine.expose(mirror(), sandbox="open")
    answer = await preview_engine.get(f"{open_to_all}.portico/sign-in", headers=[NAVIGATION])
    assert (answer.status, answer.header("location")) == (303, open_to_all)
    nobody = "https://8080-no-such-k3v9x0q2m7t1z8aa.example.com/.portico/sign-in"
    assert (await preview_engine.get(nobody, headers=[NAVIGATION])).status == 404
    assert (await post(preview_engine, nobody, {"token": TOKEN})).status == 404


async def test_nothing_below_our_path_reaches_a_service(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    for path in (".portico/", ".portico/else", ".portico/share/", ".portico/sign-in/more"):
        answer = await preview_engine.get(f"{url}{path}")
        assert (answer.status, answer.code) == (404, "NOT_FOUND"), path
    assert not preview_engine.container().dials


async def test_signing_out_takes_the_cookie_away(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    page = await preview_engine.get(f"{url}.portico/sign-out", headers=[NAVIGATION])
    assert (page.status, "Sign out" in page.body.decode()) == (200, True)
    assert page.header_values("set-cookie") == []
    response = await post(preview_engine, f"{url}.portico/sign-out", {})
    assert response.status == 303
    assert (
        response.header("set-cookie") == f"{SECURE_COOKIE.decode()}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"
    )


async def test_handshake_below_our_path_is_refused(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    for path in (".portico/sign-in", ".portico/else"):
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            async with preview_engine.websocket(f"{url}{path}"):
                pass
        assert rejected.value.status_code >= 400
    assert not preview_engine.container().dials


async def test_secrets_are_in_no_log_and_no_answer(
    preview_engine: PreviewEngine, logged: list[structlog.typing.EventDict]
) -> None:
    share = await shared(preview_engine)
    url = await preview_engine.expose()
    secret = link(share).rpartition("/")[2]
    answers = [
        await post(preview_engine, f"{url}.portico/sign-in", {"token": token, "to": f"/?token={TOKEN}"})
        for token in (TOKEN, f"{TOKEN}x", *["another-wrong-token"] * TRIES_MAX)
    ]
    answers += [await preview_engine.get(f"{link(share)}{wrong}") for wrong in ("", "x", "/y", "?z")]
    answers += [await preview_engine.get(f"{url}.portico/share/{secret}")]
    shown = repr([(answer.status, answer.header("set-cookie"), answer.body) for answer in answers]) + repr(logged)
    for hidden in (secret, "another-wrong-token", f"{TOKEN}x"):
        assert hidden not in shown
    assert TOKEN not in repr(logged)
    assert any("too many wrong" in event["event"] for event in logged)


# Where the cookie opens, and where it does not.


async def test_rotation_ends_a_session_at_once_and_what_it_had_under_way(
    preview_engine: PreviewEngine,
) -> None:
    url = await gated(preview_engine)
    cookie = await sign_in(preview_engine, url)
    assert (await preview_engine.get(url, headers=[cookie])).status == 200
    await (await preview_engine.sandbox()).rotate_preview_auth()
    answer = await preview_engine.get(url, headers=[cookie])
    assert (answer.status, answer.code) == (401, "AUTH_INVALID")
    page = await preview_engine.get(url, headers=[cookie, NAVIGATION])
    assert 'action="/.portico/sign-in"' in page.body.decode()


async def test_cookie_opens_no_other_port_sandbox_or_life(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    cookie = await sign_in(preview_engine, url)
    other_port = await preview_engine.expose(mirror(), port=8081)
    other_sandbox = await gated(preview_engine, sandbox="other")
    for elsewhere in (other_port, other_sandbox):
        assert (await preview_engine.get(elsewhere, headers=[cookie])).code == "AUTH_INVALID"
    sandbox = await preview_engine.sandbox()
    token = urlsplit(url).netloc.partition(".")[0].rpartition("-")[2]
    await sandbox.destroy()
    again = await preview_engine.sandbox()
    await again.expose_port(8080, token=token)
    await again.set_preview_auth(TOKEN)
    assert (await preview_engine.get(url, headers=[cookie])).code == "AUTH_INVALID"


async def test_forged_and_tossed_cookies_open_nothing_and_hide_nothing(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    _, right = await sign_in(preview_engine, url)
    name = SECURE_COOKIE.decode()
    forged = f"{name}={'A' * 43}"
    assert (await preview_engine.get(url, headers=[("Cookie", forged)])).code == "AUTH_INVALID"
    assert (await preview_engine.get(url, headers=[("Cookie", f"{name}=short")])).code == "AUTH_REQUIRED"
    # The name that plain http has, which a sibling could set for all.
    plain = right.replace(name, PLAIN_COOKIE.decode())
    assert (await preview_engine.get(url, headers=[("Cookie", plain)])).code == "AUTH_REQUIRED"
    for cookies in (f"{forged}; {right}", f"{right}; {forged}"):
        assert (await preview_engine.get(url, headers=[("Cookie", cookies)])).status == 200
    both = [("Cookie", forged), ("Cookie", right)]
    assert (await preview_engine.get(url, headers=both)).status == 200


async def test_app_with_bearer_tokens_of_its_own_is_usable_behind_the_gate(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    cookie = await sign_in(preview_engine, url)
    shown = await preview_engine.get(url, headers=[cookie, ("Authorization", "Bearer the-apps-own")])
    assert (shown.status, b"the-apps-own" in shown.body) == (200, True)
    shown = await preview_engine.get(url, headers=[cookie, ("Authorization", f"Bearer {TOKEN}")])
    assert (shown.status, TOKEN.encode() in shown.body) == (200, False)
    wrong = await preview_engine.get(url, headers=[cookie, ("X-OC-Preview-Token", "not-the-right-token")])
    assert wrong.code == "AUTH_INVALID"


@pytest.mark.parametrize(
    ("method", "fields", "enters"),
    [
        ("GET", [("Sec-Fetch-Site", "same-origin")], True),
        ("GET", [("Sec-Fetch-Site", "none"), NAVIGATION], True),
        ("GET", [("Sec-Fetch-Site", "cross-site"), NAVIGATION], True),
        ("GET", [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "no-cors")], False),
        (
            "GET",
            [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "cors"), ("Origin", "https://b.example.com")],
            False,
        ),
        ("POST", [("Sec-Fetch-Site", "same-origin"), ("Origin", "SELF")], True),
        ("POST", [("Sec-Fetch-Site", "same-site"), NAVIGATION, ("Origin", "https://b.example.com")], False),
        ("POST", [("Origin", "https://b.example.com")], False),
        ("POST", [("Origin", "null")], False),
        ("POST", [("Origin", "SELF")], True),
        ("POST", [], True),
    ],
)
async def test_cookie_speaks_for_the_previews_own_pages_alone(method: str, fields: Fields, enters: bool) -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        cookie = await sign_in(engine, url)
        sent = [(name, origin_of(url) if value == "SELF" else value) for name, value in fields]
        body = b"" if method == "POST" else None
        response = await engine.request(method, url, headers=[cookie, *sent], body=body)
        assert response.status == (200 if enters else 401)


async def test_websocket_opens_by_the_cookie_from_the_previews_own_pages_alone(
    preview_engine: PreviewEngine,
) -> None:
    url = await preview_engine.expose(websocket_echo())
    sandbox = await preview_engine.sandbox()
    await sandbox.set_preview_auth(TOKEN)
    cookie = await sign_in(preview_engine, url)
    sibling = await preview_engine.expose(mirror(), port=8081)
    for origin in (origin_of(sibling), "null", "https://evil.example"):
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            async with preview_engine.websocket(url, headers=[cookie, ("Origin", origin)]):
                pass
        assert rejected.value.status_code == 401
    async with preview_engine.websocket(url, headers=[cookie, ("Origin", origin_of(url))]) as socket:
        await socket.send_message("hello")
        assert await socket.get_message() == "hello"
        assert (await sandbox.rotate_preview_auth()).closed == 1
        with pytest.raises(trio_websocket.ConnectionClosed):
            await socket.get_message()


async def test_connection_may_be_with_and_without_a_session_in_any_order(preview_engine: PreviewEngine) -> None:
    url = await gated(preview_engine)
    host = urlsplit(url).netloc
    cookie = await sign_in(preview_engine, url)
    bearer = ("Authorization", f"Bearer {TOKEN}")
    client = preview_engine.connect()
    for headers, status in (
        ([cookie], 200),
        ([cookie], 200),
        ([], 401),
        ([], 401),
        ([bearer], 200),
        ([cookie], 200),
        ([bearer], 200),
        ([("X-OC-Preview-Token", "not-the-right-one"), cookie], 401),
        ([cookie], 200),
    ):
        await client.send_request("GET", "/", host, headers=headers)
        assert (await client.read_response()).status == status, headers


async def test_cookie_is_good_for_a_sandbox_that_has_to_be_loaded_or_woken() -> None:
    async with make_engine() as engine:
        url = await gated(engine)
        cookie = await sign_in(engine, url)
        # Asleep until now.
        assert engine.container().starts == []
        assert (await engine.get(url, headers=[cookie])).status == 200


async def test_service_sets_none_of_our_cookies(preview_engine: PreviewEngine) -> None:
    tossed = [
        ("Set-Cookie", f"{PLAIN_COOKIE.decode()}={'A' * 43}; Path=/"),
        ("Set-Cookie", f"{SECURE_COOKIE.decode().upper()}={'A' * 43}; Path=/; Secure"),
        ("Set-Cookie", "own=1"),
    ]
    url = await preview_engine.expose(respond(b"", headers=tossed))
    assert (await preview_engine.get(url)).header_values("set-cookie") == ["own=1"]


# Shares.


async def shared(engine: PreviewEngine, *, once: bool = False, gate: bool = True) -> Share:
    if gate:
        await gated(engine)
    else:
        await engine.expose(mirror())
    return await (await engine.sandbox()).share(8080, expires_in=600, once=once, hostname=engine.domain)


def link(share: Share) -> str:
    assert share.url is not None
    return share.url


@pytest.mark.parametrize("gate", [True, False], ids=["gate", "no gate"])
async def test_link_gives_a_cookie_and_leads_to_the_preview_without_its_secret(
    preview_engine: PreviewEngine, gate: bool
) -> None:
    share = await shared(preview_engine, gate=gate)
    response = await preview_engine.get(link(share), headers=[NAVIGATION, ("Sec-Fetch-Site", "cross-site")])
    home = f"{origin_of(link(share))}/"
    assert (response.status, response.header("location")) == (303, home)
    assert response.header("referrer-policy") == "no-referrer"
    (cookie,) = response.header_values("set-cookie")
    assert cookie.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600")
    secret = link(share).rpartition("/")[2]
    assert secret not in repr(response)

    shown = await preview_engine.get(home, headers=[("Cookie", cookie_of(response)), NAVIGATION])
    assert shown.status == 200
    assert secret.encode() not in shown.body
    assert cookie_of(response).encode() not in shown.body
    assert (await preview_engine.get(home)).code == "INVALID_TOKEN"


async def test_program_without_cookies_sends_the_secret_in_a_field(preview_engine: PreviewEngine) -> None:
    share = await shared(preview_engine)
    home, secret = f"{origin_of(link(share))}/", link(share).rpartition("/")[2]
    shown = await preview_engine.get(home, headers=[("Portico-Share", secret)])
    assert (shown.status, secret.encode() in shown.body) == (200, False)
    assert (await preview_engine.get(home, headers=[("Portico-Share", "x" * 43)])).code == "INVALID_TOKEN"
    twice = [("Portico-Share", secret), ("Portico-Share", secret)]
    assert (await preview_engine.get(home, headers=twice)).code == "INVALID_TOKEN"
    assert (await preview_engine.get(home, headers=[("Authorization", f"Bearer {TOKEN}")])).code == "INVALID_TOKEN"


async def test_link_that_opens_once_is_used_up_by_a_button_and_not_by_looking(preview_engine: PreviewEngine) -> None:
    share = await shared(preview_engine, once=True)
    for _ in range(2):
        page = await preview_engine.get(link(share), headers=[NAVIGATION])
        assert (page.status, b"<button>" in page.body) == (200, True)
        assert link(share).rpartition("/")[2].encode() not in page.body
        looked = await preview_engine.get(link(share))
        assert (looked.status, looked.header("allow")) == (405, "POST")
    sent = [("Origin", "https://evil.example")]
    assert (await post(preview_engine, link(share), {}, sent)).status == 403

    opened = await post(preview_engine, link(share), {}, [("Origin", origin_of(link(share)))])
    assert opened.status == 303
    again = await post(preview_engine, link(share), {})
    assert (again.status, b"SHARE_SPENT" in again.body) == (410, True)
    assert (await preview_engine.get(link(share))).code == "SHARE_SPENT"
    home, secret = f"{origin_of(link(share))}/", link(share).rpartition("/")[2]
    assert (await preview_engine.get(home, headers=[("Cookie", cookie_of(opened))])).status == 200
    assert (await preview_engine.get(home, headers=[("Portico-Share", secret)])).code == "INVALID_TOKEN"


async def test_revoked_share_cuts_its_streams_and_opens_no_more(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(websocket_echo())
    sandbox = await preview_engine.sandbox()
    share = await sandbox.share(8080, expires_in=600, hostname=preview_engine.domain)
    opened = await preview_engine.get(link(share), headers=[NAVIGATION])
    home, cookie = f"{origin_of(link(share))}/", ("Cookie", cookie_of(opened))
    async with (
        preview_engine.websocket(home, headers=[cookie, ("Origin", origin_of(home))]) as socket,
        preview_engine.websocket(url) as owners,
    ):
        await socket.send_message("hello")
        assert await socket.get_message() == "hello"
        assert await sandbox.revoke_share(share.id) == 1
        with pytest.raises(trio_websocket.ConnectionClosed):
            await socket.get_message()
        await owners.send_message("still here")
        assert await owners.get_message() == "still here"
    assert (await preview_engine.get(home, headers=[cookie])).code == "INVALID_TOKEN"
    assert (await preview_engine.get(link(share))).code == "INVALID_TOKEN"


async def test_share_ends_by_itself_under_its_streams(autojump_clock: trio.testing.MockClock) -> None:
    async with make_engine() as engine:
        await engine.expose(websocket_echo())
        share = await (await engine.sandbox()).share(8080, expires_in=600, hostname=engine.domain)
        secret = ("Portico-Share", link(share).rpartition("/")[2])
        home = f"{origin_of(link(share))}/"
        async with engine.websocket(home, headers=[secret]) as socket:
            await trio.sleep(590)
            await socket.send_message("hello")
            assert await socket.get_message() == "hello"
            with pytest.raises(trio_websocket.ConnectionClosed):
                await socket.get_message()
            assert trio.current_time() == pytest.approx(600, abs=5)
        assert (await engine.get(home, headers=[secret])).code == "INVALID_TOKEN"


async def test_guessing_links_is_bounded(preview_engine: PreviewEngine) -> None:
    share = await shared(preview_engine)
    wrong = link(share)[:-4] + "AAAA"
    statuses = [(await preview_engine.get(wrong)).status for _ in range(TRIES_MAX + 1)]
    assert statuses == [404] * TRIES_MAX + [429]
    assert (await preview_engine.get(link(share))).status == 429


async def test_share_is_of_no_use_on_the_built_in_form(preview_engine: PreviewEngine) -> None:
    await preview_engine.sandbox("sb-open", open_ports=True)
    answer = await preview_engine.get("https://sb-open-p80.example.com/.portico/share/secret")
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


async def test_preview_named_by_a_field_has_the_same_pages(preview_engine: PreviewEngine) -> None:
    share = await shared(preview_engine)
    label = urlsplit(link(share)).netloc.partition(".")[0]
    named = [("Portico-Preview", label), ("Portico-Share", link(share).rpartition("/")[2])]
    assert (await preview_engine.get("https://example.com/", headers=named)).status == 200
