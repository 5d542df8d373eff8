"""Custom hostnames over the API."""

import pytest

from tests.proxy.api.stage import Stage

NAME = "preview.my-app.com"
AT = f"/v1/domains/{NAME}"
MINE = {"sandbox": "my-app", "port": 8080}


async def test_hostname_is_asked_for_verified_and_given_back(stage: Stage) -> None:
    await stage.make()
    made = await stage.got("PUT", "/v1/domains/Preview.My-App.com", MINE, status=201)
    assert made["challenge"].keys() == {"txt_name", "txt_value", "http_path", "http_body"}
    assert made["challenge"]["txt_name"] == f"_portico-challenge.{NAME}"
    assert {key: made[key] for key in ("hostname", "sandbox", "port", "verified")} == {
        "hostname": NAME,
        "sandbox": "my-app",
        "port": 8080,
        "verified": False,
    }
    said = await stage.refused(409, "DOMAIN_NOT_VERIFIED", "POST", f"{AT}/verify")
    assert "nothing is there" in said
    stage.published.add(NAME)
    verified = await stage.got("POST", f"{AT}/verify?sandbox=my-app")
    assert verified == {**made, "verified": True}
    assert await stage.got("GET", "/v1/domains") == {"domains": [verified], "next": None}
    assert (await stage.got("PUT", AT, {**MINE, "port": 8081}))["port"] == 8081
    for _ in range(2):
        assert await stage.got("DELETE", AT) == {"closed": 0}
    assert await stage.got("GET", "/v1/domains") == {"domains": [], "next": None}
    await stage.refused(404, "DOMAIN_NOT_FOUND", "POST", f"{AT}/verify")


async def test_hostname_that_was_verified_serves_and_is_cut_when_given_back(stage: Stage) -> None:
    await stage.make()
    await stage.got("PUT", "/v1/sandboxes/my-app/ports/8080", status=201)
    await stage.got("PUT", AT, MINE, status=201)
    assert (await stage.engine.request("GET", f"https://{NAME}/")).status == 421
    stage.published.add(NAME)
    await stage.got("POST", f"{AT}/verify")
    assert (await stage.engine.request("GET", f"https://{NAME}/")).status != 421
    await stage.got("DELETE", AT)
    assert (await stage.engine.request("GET", f"https://{NAME}/")).status == 421


async def test_hostname_that_several_ask_for_wants_a_sandbox_named(stage: Stage) -> None:
    for name in ("my-app", "other"):
        await stage.make(name)
        await stage.got("PUT", AT, {"sandbox": name, "port": 8080}, status=201)
    for method, path in (("POST", f"{AT}/verify"), ("DELETE", AT)):
        await stage.refused(409, "SANDBOX_WANTED", method, path)
    stage.published.add(NAME)
    await stage.got("POST", f"{AT}/verify?sandbox=other")
    # Its own key can mean only one.
    await stage.refused(409, "SECURITY", "POST", f"{AT}/verify", key=stage.key("sandbox:my-app"))
    await stage.got("DELETE", f"{AT}?sandbox=my-app")
    assert [found["sandbox"] for found in (await stage.got("GET", "/v1/domains"))["domains"]] == ["other"]


async def test_key_of_a_sandbox_has_its_own_hostnames_only(stage: Stage) -> None:
    for name in ("my-app", "other"):
        await stage.make(name)
        await stage.got("PUT", f"/v1/domains/{name}.example.org", {"sandbox": name, "port": 8080}, status=201)
    key = stage.key("sandbox:my-app")
    other = "/v1/domains/other.example.org"
    assert [found["sandbox"] for found in (await stage.got("GET", "/v1/domains", key=key))["domains"]] == ["my-app"]
    await stage.refused(403, "FORBIDDEN", "GET", "/v1/domains?sandbox=other", key=key)
    await stage.refused(403, "FORBIDDEN", "PUT", other, {"sandbox": "other", "port": 8080}, key=key)
    await stage.refused(403, "FORBIDDEN", "PUT", other, {"sandbox": "nobody", "port": 8080}, key=key)
    await stage.refused(403, "FORBIDDEN", "POST", f"{other}/verify?sandbox=other", key=key)
    await stage.refused(403, "FORBIDDEN", "DELETE", f"{other}?sandbox=other", key=key)
    # Without a name it can only mean its own, which has not asked for this one.
    await stage.refused(404, "DOMAIN_NOT_FOUND", "POST", f"{other}/verify", key=key)
    assert await stage.got("DELETE", other, key=key) == {"closed": 0}
    assert len((await stage.got("GET", "/v1/domains"))["domains"]) == 2
    await stage.got("PUT", AT, MINE, status=201, key=key)
    await stage.got("DELETE", AT, key=key)


async def test_key_that_may_look_looks(stage: Stage) -> None:
    await stage.make()
    await stage.got("PUT", AT, MINE, status=201)
    key = stage.key("read")
    assert len((await stage.got("GET", "/v1/domains", key=key))["domains"]) == 1
    for method, path, body in (("PUT", AT, MINE), ("POST", f"{AT}/verify", None), ("DELETE", AT, None)):
        await stage.refused(403, "FORBIDDEN", method, path, body, key=key)


async def test_hostnames_are_listed_page_by_page_and_of_one_sandbox(stage: Stage) -> None:
    for sandbox in ("my-app", "other"):
        await stage.make(sandbox)
        for name in ("a.example.org", "b.example.org"):
            await stage.got("PUT", f"/v1/domains/{name}", {"sandbox": sandbox, "port": 8080}, status=201)
    found: list[tuple[str, str]] = []
    after: str | None = ""
    while after is not None:
        page = await stage.got("GET", f"/v1/domains?limit=3&after={after}")
        assert len(page["domains"]) <= 3
        found += [(one["hostname"], one["sandbox"]) for one in page["domains"]]
        after = page["next"]
    assert found == [(f"{name}.example.org", sandbox) for name in "ab" for sandbox in ("my-app", "other")]
    mine = (await stage.got("GET", "/v1/domains?sandbox=other"))["domains"]
    assert {one["sandbox"] for one in mine} == {"other"}


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "a..b", "-a.com", "ab--c.com", "a_b.com"])
async def test_what_is_no_hostname_is_refused(stage: Stage, name: str) -> None:
    await stage.make()
    await stage.refused(400, "INVALID_NAME", "PUT", f"/v1/domains/{name}", MINE)
    await stage.refused(400, "INVALID_NAME", "POST", f"/v1/domains/{name}/verify")
    await stage.refused(400, "INVALID_NAME", "DELETE", f"/v1/domains/{name}")


async def test_what_may_not_be_had_is_refused(stage: Stage) -> None:
    await stage.refused(404, "SANDBOX_NOT_FOUND", "PUT", AT, MINE)
    await stage.make()
    await stage.refused(409, "SECURITY", "PUT", "/v1/domains/a.example.com", MINE)
    await stage.refused(409, "SECURITY", "PUT", AT, {**MINE, "port": 22})
