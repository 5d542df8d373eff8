"""Links on custom hostnames at the door: who holds one comes in, by that name alone, and until something of it ends."""

from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing
import trio_websocket

from actors import DomainBinding, Proof, Share
from proxy.core.gate import PLAIN_SHARE_COOKIE, SECURE_COOKIE, SECURE_SHARE_COOKIE
from proxy.core.tries import TRIES_MAX
from proxy.testing import PreviewEngine, Response, mirror, websocket_echo

NAME = "preview.my-app.com"
URL = f"https://{NAME}/"
TOKEN = "preview-token-of-the-owner"  # of this test
BEARER = ("Authorization", f"Bearer {TOKEN}")
NAVIGATION = ("Sec-Fetch-Mode", "navigate")


async def gated(engine: PreviewEngine, *, sandbox: str = "my-app", name: str = NAME, port: int = 8080) -> DomainBinding:
    """Lead a hostname to a mirror behind a gate."""
    await engine.expose(mirror(), sandbox=sandbox, port=port)
    owned = await engine.sandbox(sandbox)
    await owned.set_preview_auth(TOKEN)
    return await engine.runtime.domains.verify(await owned.bind_domain(name, port))


async def share(engine: PreviewEngine, *, name: str = NAME, once: bool = False, port: int = 8080) -> Share:
    return await (await engine.sandbox()).share(port, expires_in=600, once=once, custom_hostname=name)


def cookies_of(response: Response) -> list[str]:
    """The cookies as a browser sends them back."""
    return [field.partition(";")[0] for field in response.header_values("set-cookie")]


async def opened(engine: PreviewEngine, link: Share) -> tuple[str, str]:
    assert link.url is not None
    response = await engine.get(link.url, headers=[NAVIGATION])
    assert (response.status, response.header("location")) == (303, URL)
    (cookie,) = cookies_of(response)
    return "Cookie", cookie


async def test_browser_follows_the_link_and_is_in_and_the_service_hears_nothing_of_it(
    preview_engine: PreviewEngine,
) -> None:
    await gated(preview_engine)
    link = await share(preview_engine)
    assert link.url is not None
    assert preview_engine.container().starts == []
    response = await preview_engine.get(link.url, headers=[NAVIGATION])
    (cookie,) = response.header_values("set-cookie")
    assert cookie.startswith(f"{SECURE_SHARE_COOKIE.decode()}={link.id}.")
    assert cookie.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600")
    assert response.header("referrer-policy") == "no-referrer"
    assert preview_engine.container().starts == [], "a link wakes nothing"
    shown = await preview_engine.get(URL, headers=[("Cookie", f"a=1; {cookies_of(response)[0]}"), NAVIGATION])
    mirrored = shown.json()
    assert isinstance(mirrored, dict)
    assert [value for name, value in mirrored["headers"] if name.lower() == "cookie"] == ["a=1"]
    assert link.id not in str(mirrored)


async def test_cookie_over_plain_http_is_one_that_every_browser_takes(preview_engine: PreviewEngine) -> None:
    await gated(preview_engine)
    link = await share(preview_engine)
    assert link.url is not None
    response = await preview_engine.get(link.url.replace("https:", "http:"))
    (cookie,) = cookies_of(response)
    assert cookie.startswith(f"{PLAIN_SHARE_COOKIE.decode()}=")
    assert (await preview_engine.get(f"http://{NAME}/", headers=[("Cookie", cookie)])).status == 200


async def test_program_sends_the_last_part_of_the_link(preview_engine: PreviewEngine) -> None:
    await gated(preview_engine)
    link = await share(preview_engine)
    assert link.url is not None
    secret = link.url.rpartition("/")[2]
    response = await preview_engine.get(URL, headers=[("Portico-Share", secret)])
    assert response.status == 200
    assert secret not in response.body.decode()
    for wrong in (secret[:-1], secret.partition(".")[2], f"0000000000000000.{secret.partition('.')[2]}"):
        assert (await preview_engine.get(URL, headers=[("Portico-Share", wrong)])).code == "AUTH_INVALID"
    assert (await preview_engine.get(URL)).code == "AUTH_REQUIRED"


async def test_link_that_opens_once_asks_first_and_opens_one_session(preview_engine: PreviewEngine) -> None:
    await gated(preview_engine)
    link = await share(preview_engine, once=True)
    assert link.url is not None
    assert (await preview_engine.get(link.url, headers=[NAVIGATION])).status == 200
    assert (await preview_engine.get(link.url)).status == 405
    first = await preview_engine.request("POST", link.url, body=b"")
    assert (await preview_engine.request("POST", link.url, body=b"")).code == "SHARE_SPENT"
    (cookie,) = cookies_of(first)
    assert (await preview_engine.get(URL, headers=[("Cookie", cookie)])).status == 200


async def test_cookie_opens_nothing_that_its_link_does_not(preview_engine: PreviewEngine) -> None:
    """Not another hostname, port or sandbox, nor the names below the base domain; nor, revoked, by another's link."""
    await gated(preview_engine)
    link, other = await share(preview_engine), await share(preview_engine)
    cookie, others = await opened(preview_engine, link), await opened(preview_engine, other)
    own = await preview_engine.expose()
    sandbox = await preview_engine.sandbox()
    await gated(preview_engine, name="second.my-app.com")
    await gated(preview_engine, name="third.my-app.com", port=9090)
    await gated(preview_engine, name="other.my-app.com", sandbox="other")
    label = f"https://8080-my-app-{link.id}.example.com/"
    value = cookie[1].partition("=")[2]
    for url in ("https://second.my-app.com/", "https://third.my-app.com/", "https://other.my-app.com/", own, label):
        for name in (SECURE_SHARE_COOKIE, SECURE_COOKIE):
            for session in (value, value.partition(".")[2]):
                headers = [("Cookie", f"{name.decode()}={session}")]
                assert (await preview_engine.get(url, headers=headers)).status in (401, 404), url
    for secret in (urlsplit(link.url or "").path, urlsplit(link.url or "").path.replace(f"{link.id}.", "")):
        for url in ("https://second.my-app.com", own[:-1], label[:-1]):
            assert (await preview_engine.get(f"{url}{secret}")).code == "INVALID_TOKEN"
    await sandbox.revoke_share(link.id)
    assert (await preview_engine.get(URL, headers=[cookie])).code == "AUTH_INVALID"
    assert (await preview_engine.get(URL, headers=[others])).status == 200
    # Neither can be made from the other.
    mixed = ("Cookie", f"{SECURE_SHARE_COOKIE.decode()}={other.id}.{value.partition('.')[2]}")
    assert (await preview_engine.get(URL, headers=[mixed])).code == "AUTH_INVALID"


async def test_page_of_a_sibling_cannot_use_the_cookie(preview_engine: PreviewEngine) -> None:
    await gated(preview_engine)
    cookie = await opened(preview_engine, await share(preview_engine))
    headers = [cookie, ("Origin", "https://evil.my-app.com"), ("Sec-Fetch-Site", "same-site")]
    assert (await preview_engine.request("POST", URL, headers=headers, body=b"")).status == 401


async def test_who_has_signed_in_stays_so_when_a_link_ends_and_signs_out_of_both(preview_engine: PreviewEngine) -> None:
    await gated(preview_engine)
    link = await share(preview_engine)
    signed_in = await preview_engine.request(
        "POST",
        f"{URL}.portico/sign-in",
        headers=[("Content-Type", "application/x-www-form-urlencoded")],
        body=f"token={TOKEN}".encode(),
    )
    both = ("Cookie", "; ".join([*cookies_of(signed_in), (await opened(preview_engine, link))[1]]))
    sandbox = await preview_engine.sandbox()
    await sandbox.revoke_share(link.id)
    assert (await preview_engine.get(URL, headers=[both])).status == 200
    fresh = await opened(preview_engine, await share(preview_engine))
    again = ("Cookie", "; ".join([*cookies_of(signed_in), fresh[1]]))
    await sandbox.rotate_preview_auth()
    assert (await preview_engine.get(URL, headers=[both])).code == "AUTH_INVALID"
    assert (await preview_engine.get(URL, headers=[again])).status == 200, "a share is not the gate's"
    out = await preview_engine.request("POST", f"{URL}.portico/sign-out", body=b"")
    names = [cookie.partition("=")[0].encode() for cookie in cookies_of(out)]
    assert names == [SECURE_COOKIE, SECURE_SHARE_COOKIE]
    assert all("Max-Age=0" in field for field in out.header_values("set-cookie"))


async def test_guesses_at_links_are_counted(preview_engine: PreviewEngine) -> None:
    await gated(preview_engine)
    link = await share(preview_engine)
    wrongs = [f"{URL}.portico/share/{link.id}.{'x' * 43}", f"{URL}.portico/share/{'x' * 43}"]
    statuses = [(await preview_engine.get(wrongs[n % 2])).status for n in range(TRIES_MAX + 1)]
    assert statuses == [404] * TRIES_MAX + [429]


@pytest.mark.parametrize("how", ["unbind", "lead", "taken over", "revoke", "unexpose", "expire", "destroy"])
async def test_live_websocket_is_cut_with_what_its_link_leans_on(
    how: str, preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    await gated(preview_engine)
    preview_engine.container().handlers[8080] = websocket_echo()
    sandbox = await preview_engine.sandbox()
    link = await share(preview_engine)
    cookie = await opened(preview_engine, link)
    async with preview_engine.websocket(URL, headers=[cookie]) as connection:
        await connection.send_message("hello")
        assert await connection.get_message() == "hello"
        async with trio.open_nursery() as nursery:
            match how:
                case "unbind":
                    nursery.start_soon(sandbox.unbind_domain, NAME)
                case "lead":
                    nursery.start_soon(sandbox.bind_domain, NAME, 9090)
                case "taken over":
                    other = await preview_engine.sandbox("other")
                    asked = await other.bind_domain(NAME, 8080)
                    nursery.start_soon(preview_engine.runtime.domains.verify, asked, Proof.DNS)
                case "revoke":
                    nursery.start_soon(sandbox.revoke_share, link.id)
                case "unexpose":
                    nursery.start_soon(sandbox.unexpose_port, 8080)
                case "expire":
                    await trio.sleep(600)
                case "destroy":
                    nursery.start_soon(sandbox.destroy)
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await connection.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1001
    with suppress(trio_websocket.ConnectionRejected):
        async with preview_engine.websocket(URL, headers=[cookie]):
            pytest.fail("the cookie has outlived its link")


async def test_request_whose_link_is_revoked_before_there_is_an_answer_is_asked_for_a_token(
    preview_engine: PreviewEngine,
) -> None:
    await gated(preview_engine)

    async def never(_stream: trio.abc.HalfCloseableStream) -> None:
        await trio.sleep_forever()

    preview_engine.container().handlers[8080] = never
    link = await share(preview_engine)
    cookie = await opened(preview_engine, link)
    async with preview_engine.open("GET", URL, headers=[cookie]) as client:
        await preview_engine.settle()
        assert await (await preview_engine.sandbox()).revoke_share(link.id) == 1
        assert (await client.read_response()).code == "AUTH_INVALID"
