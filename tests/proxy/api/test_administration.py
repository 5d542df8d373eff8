"""Keys, history, why, health."""

import pytest

from actors import Runtime
from proxy.core.explain import Explanation
from proxy.explain import knock
from tests.proxy.api.stage import Stage

AT = "/v1/sandboxes/my-app"


async def test_keys_are_made_listed_and_revoked(stage: Stage) -> None:
    made = await stage.got("POST", "/v1/keys", {"name": "ci", "scope": "sandbox:my-app"}, status=201)
    assert made["key"].startswith("pk_")
    listed = (await stage.got("GET", "/v1/keys"))["keys"]
    assert [(key["name"], key["scope"]) for key in listed] == [("PORTICO_API_KEY", "admin"), ("ci", "sandbox:my-app")]
    assert made["key"] not in str(listed)
    await stage.got("DELETE", f"/v1/keys/{made['id']}", status=204)
    await stage.refused(404, "NOT_FOUND", "DELETE", f"/v1/keys/{made['id']}")
    await stage.refused(409, "KEY_NOT_KEPT", "DELETE", "/v1/keys/environment")


async def test_keys_are_limited_in_number(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.api.keys.KEYS_MAX", 0)
    await stage.refused(409, "TOO_MANY_KEYS", "POST", "/v1/keys", {"name": "ci", "scope": "read"})


async def test_history_tells_what_happened_without_secrets(stage: Stage) -> None:
    await stage.make()
    token = (await stage.got("PUT", f"{AT}/ports/8080", status=201))["token"]
    events = (await stage.got("GET", f"{AT}/history"))["events"]
    assert [event["event"] for event in events][-1] == "port_exposed"
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert token not in str(events)
    assert (await stage.got("GET", f"{AT}/history?at=0"))["events"] == []
    await stage.refused(400, "INVALID_REQUEST", "GET", f"{AT}/history?at=yesterday")


async def test_url_is_explained_to_who_may_know(stage: Stage) -> None:
    await stage.make()
    url = (await stage.got("PUT", f"{AT}/ports/8080", status=201))["url"]
    told = await stage.got("GET", f"/v1/explain?url={url}")
    assert (told["sandbox"], told["outcome"]["code"]) == ("my-app", "WAKES")
    wrong = await stage.got("GET", "/v1/explain?url=https://8080-my-app-nonsense.example.com/")
    assert (wrong["outcome"]["status"], wrong["outcome"]["code"]) == (404, "INVALID_TOKEN")
    before = await stage.got("GET", f"/v1/explain?url={url}&at=1")
    assert before["outcome"]["status"] == 404
    for scope in ("read", "sandbox:another"):
        await stage.refused(403, "FORBIDDEN", "GET", f"/v1/explain?url={url}", key=stage.key(scope))
    await stage.got("GET", f"/v1/explain?url={url}", key=stage.key("sandbox:my-app"))


async def test_port_where_nothing_listens_is_found_out_by_who_may_know_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    knocked: list[Explanation] = []

    async def listen(explained: Explanation, runtime: Runtime) -> Explanation:
        knocked.append(explained)
        return await knock(explained, runtime)

    monkeypatch.setattr("proxy.api.administration.knock", listen)
    await stage.make()
    url = (await stage.got("PUT", f"{AT}/ports/8080", status=201))["url"]
    async with (await stage.engine.runtime.find_sandbox("my-app")).running():
        told = await stage.got("GET", f"/v1/explain?url={url}")
        assert (told["outcome"]["status"], told["outcome"]["code"]) == (502, "NOT_LISTENING")
        assert (told["steps"][-1]["question"], told["steps"][-1]["answer"]) == ("service", "does not listen")
        await stage.refused(403, "FORBIDDEN", "GET", f"/v1/explain?url={url}", key=stage.key("sandbox:another"))
        # Nor can the past be knocked at.
        await stage.got("GET", f"/v1/explain?url={url}&at=1")
    assert len(knocked) == 1


async def test_custom_hostname_is_explained_at_the_present(stage: Stage) -> None:
    await stage.make()
    await stage.got("PUT", f"{AT}/ports/8080", status=201)
    sandbox = await stage.engine.runtime.find_sandbox("my-app")
    await stage.engine.runtime.domains.verify(await sandbox.bind_domain("preview.my-app.com", 8080))
    url = "https://preview.my-app.com/"
    assert (await stage.got("GET", f"/v1/explain?url={url}"))["outcome"]["code"] == "WAKES"
    # Which hostnames led here then is not looked up.
    before = await stage.got("GET", f"/v1/explain?url={url}&at=1")
    assert before["outcome"]["code"] == "MISDIRECTED_REQUEST"


async def test_what_is_no_url_is_not_explained(stage: Stage) -> None:
    await stage.refused(400, "INVALID_REQUEST", "GET", "/v1/explain?url=nonsense%20x")
    await stage.refused(400, "INVALID_REQUEST", "GET", "/v1/explain")


async def test_health_needs_no_key(stage: Stage) -> None:
    for path in ("/healthz", "/readyz"):
        assert await stage.got("GET", path, key=None) == {"status": "ok"}


async def test_server_that_does_not_listen_is_not_ready(stage: Stage) -> None:
    stage.engine.runtime.public_address = None
    await stage.refused(503, "NOT_LISTENING", "GET", "/readyz", key=None)
    assert await stage.got("GET", "/healthz", key=None) == {"status": "ok"}
