"""Calls about shares."""

from actors import Domain
from proxy.testing import respond
from tests.proxy.api.stage import Stage

AT = "/v1/sandboxes/my-app/ports/8080"


async def test_share_opens_a_private_preview_until_it_is_revoked(stage: Stage) -> None:
    await stage.make(preview_auth={})
    await stage.got("PUT", AT, status=201)
    stage.engine.container().handlers[8080] = respond()
    share = await stage.got("POST", f"{AT}/shares", {"expires_in": 60, "once": True}, status=201)
    assert (share["port"], share["once"]) == (8080, True)
    # The link signs its holder in, and leads to the preview from there.
    opened = await stage.engine.request("POST", share["url"], body=b"")
    assert opened.status == 303, opened
    [listed] = (await stage.got("GET", f"{AT}/shares"))["shares"]
    assert listed == {**share, "url": None}
    assert await stage.got("DELETE", f"{AT}/shares/{share['id']}") == {"closed": 0}
    assert (await stage.got("GET", f"{AT}/shares"))["shares"] == []
    await stage.refused(404, "SHARE_NOT_FOUND", "DELETE", f"{AT}/shares/{share['id']}")


async def test_share_of_a_port_that_is_open_but_not_exposed_is_found_and_revoked(stage: Stage) -> None:
    await stage.make("sb-1a2b3c4d", open_ports=True)
    await stage.make("other")
    at = "/v1/sandboxes/sb-1a2b3c4d"
    share = await stage.got("POST", f"{at}/ports/8080/shares", {"expires_in": 60}, status=201)
    assert (await stage.got("GET", f"{at}/shares"))["shares"] == [{**share, "url": None}]
    await stage.refused(404, "SHARE_NOT_FOUND", "DELETE", f"{at}/ports/8081/shares/{share['id']}")
    await stage.refused(404, "SHARE_NOT_FOUND", "DELETE", f"/v1/sandboxes/other/shares/{share['id']}")
    assert await stage.got("DELETE", f"{at}/shares/{share['id']}") == {"closed": 0}
    assert (await stage.got("GET", f"{at}/shares"))["shares"] == []
    await stage.refused(404, "SHARE_NOT_FOUND", "DELETE", f"{at}/shares/{share['id']}")


async def test_share_on_a_custom_hostname_is_one_that_leads_here_and_is_private(stage: Stage) -> None:
    await stage.make()
    await stage.got("PUT", AT, status=201)
    name = "preview.my-app.com"
    wanted = {"expires_in": 60, "custom_hostname": name}
    await stage.refused(404, "DOMAIN_NOT_FOUND", "POST", f"{AT}/shares", wanted)
    await stage.got("PUT", f"/v1/domains/{name}", {"sandbox": "my-app", "port": 8080}, status=201)
    await stage.refused(409, "DOMAIN_NOT_VERIFIED", "POST", f"{AT}/shares", wanted)
    stage.published.add(name)
    await stage.got("POST", f"/v1/domains/{name}/verify")
    await stage.refused(400, "INVALID_NAME", "POST", f"{AT}/shares", wanted)
    await stage.got("PUT", "/v1/sandboxes/my-app/preview-auth", {"token": "auto"})
    stage.engine.container().handlers[8080] = respond()
    share = await stage.got("POST", f"{AT}/shares", wanted, status=201)
    assert share["custom_hostname"] == name
    assert share["url"].startswith(f"https://{name}/")
    assert (await stage.engine.get(share["url"])).status == 303
    assert (await stage.got("GET", f"{AT}/shares"))["shares"] == [{**share, "url": None}]
    await stage.refused(400, "INVALID_REQUEST", "POST", f"{AT}/shares", {**wanted, "custom_hostname": "a b"})
    await stage.got("DELETE", f"/v1/domains/{name}")
    assert (await stage.got("GET", f"{AT}/shares"))["shares"] == []


async def test_link_on_a_hostname_that_does_not_serve_just_now_is_revoked_for_good(stage: Stage) -> None:
    name = "preview.my-app.com"
    await stage.make(preview_auth={})
    await stage.got("PUT", AT, status=201)
    await stage.got("PUT", f"/v1/domains/{name}", {"sandbox": "my-app", "port": 8080}, status=201)
    stage.published.add(name)
    await stage.got("POST", f"/v1/domains/{name}/verify")
    share = await stage.got("POST", f"{AT}/shares", {"expires_in": 60, "custom_hostname": name}, status=201)
    # As after a start with another base domain; the next start may be without it.
    stage.engine.runtime.domains.reserve([Domain("my-app.com")])
    assert (await stage.got("GET", f"{AT}/shares"))["shares"] == []
    await stage.refused(404, "SHARE_NOT_FOUND", "DELETE", f"/v1/sandboxes/my-app/ports/9090/shares/{share['id']}")
    assert await stage.got("DELETE", f"{AT}/shares/{share['id']}") == {"closed": 0}
    assert (await (await stage.engine.sandbox()).state()).shares == {}


async def test_port_that_is_not_exposed_cannot_be_shared(stage: Stage) -> None:
    await stage.make()
    await stage.refused(409, "NOT_EXPOSED", "POST", f"{AT}/shares", {"expires_in": 60})
