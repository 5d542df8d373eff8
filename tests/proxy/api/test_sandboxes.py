"""Calls about sandboxes, their ports and their gate: what they do, and what they answer."""

import pytest
import trio.testing

from actors import Moment, Port, PortToken, Runtime, SandboxId, Visit, VisitRequest
from proxy.testing import respond
from tests.proxy.api.stage import SPEC, Stage

AT = "/v1/sandboxes/my-app"


async def test_sandbox_is_made_once_and_agreed_upon_after_that(stage: Stage) -> None:
    made = await stage.make(open_ports=False, when_asleep="stale", sleep_after=60)
    assert made == {
        "id": "my-app",
        "status": "asleep",
        "container": "fake",
        "open_ports": False,
        "when_asleep": "stale",
        "sleep_after": 60.0,
        "preview_auth": False,
        "ports": [],
        "created_at": made["created_at"],
        "preview_auth_token": None,
    }
    again = await stage.got("POST", "/v1/sandboxes", {"id": "MY-APP", "when_asleep": "stale"})
    assert again == made
    shown = await stage.got("GET", AT)
    assert shown["created_at"].startswith("2025-")
    assert shown == made
    await stage.refused(409, "SANDBOX_MISMATCH", "POST", "/v1/sandboxes", {"id": "my-app", "open_ports": True})


async def test_id_is_made_up_if_none_is_given(stage: Stage) -> None:
    made = await stage.got("POST", "/v1/sandboxes", {"container": SPEC}, status=201)
    assert SandboxId(made["id"]).startswith("sb-")


async def test_private_sandbox_tells_its_token_once(stage: Stage) -> None:
    made = await stage.make(preview_auth={})
    assert made["preview_auth"]
    assert len(made["preview_auth_token"]) == 43
    assert (await stage.got("GET", AT))["preview_auth_token"] is None
    # Whoever asks for another token for it must be told that it has one.
    await stage.refused(409, "SANDBOX_MISMATCH", "POST", "/v1/sandboxes", {"id": "my-app", "preview_auth": {}})


async def test_unknown_kind_of_container_is_refused_before_anything_is_made(stage: Stage) -> None:
    for spec in ({"kind": "nonsense"}, {"kind": "fake", "options": {"n": 2**70}}):
        await stage.refused(400, "INVALID_REQUEST", "POST", "/v1/sandboxes", {"id": "my-app", "container": spec})
    await stage.refused(404, "SANDBOX_NOT_FOUND", "GET", AT)


async def test_list_goes_page_by_page(stage: Stage) -> None:
    for name in "cab":
        await stage.make(name)
    first = await stage.got("GET", "/v1/sandboxes?limit=2")
    assert ([shown["id"] for shown in first["sandboxes"]], first["next"]) == (["a", "b"], "b")
    second = await stage.got("GET", f"/v1/sandboxes?limit=2&after={first['next']}")
    assert ([shown["id"] for shown in second["sandboxes"]], second["next"]) == (["c"], None)


async def test_list_shows_a_key_its_own_sandbox_only(stage: Stage) -> None:
    await stage.make("one")
    await stage.make("two")
    shown = await stage.got("GET", "/v1/sandboxes", key=stage.key("sandbox:two"))
    assert [sandbox["id"] for sandbox in shown["sandboxes"]] == ["two"]


async def test_exposed_port_serves_at_the_url_that_is_told_until_it_is_unexposed(stage: Stage) -> None:
    await stage.make()
    port = await stage.got("PUT", f"{AT}/ports/8080", {"name": "web", "host_header": "preserve"}, status=201)
    assert (port["port"], port["name"], port["host_header"], port["status"]) == (8080, "web", "preserve", "asleep")
    stage.engine.container().handlers[8080] = respond()
    assert (await stage.engine.get(port["url"])).status == 200
    again = await stage.got("PUT", f"{AT}/ports/8080")
    assert (again["url"], again["host_header"], again["status"]) == (port["url"], "preserve", "active")
    assert (await stage.got("GET", f"{AT}/ports"))["ports"] == [again]
    assert await stage.got("DELETE", f"{AT}/ports/8080?drain=0") == {"closed": 0}
    assert (await stage.engine.get(port["url"])).code == "INVALID_TOKEN"
    assert await stage.got("DELETE", f"{AT}/ports/8080") == {"closed": 0}


async def test_ports_that_may_not_be_exposed_are_named_as_such(stage: Stage) -> None:
    await stage.make()
    for port in (80, 3000):
        assert str(port) in await stage.refused(409, "SECURITY", "PUT", f"{AT}/ports/{port}")
    for text in ("0", "65536", "08080", "x", "-1", "%38%30%38%30%20"):
        await stage.refused(400, "INVALID_NAME", "PUT", f"{AT}/ports/{text}")


async def test_token_of_another_port_is_refused(stage: Stage) -> None:
    await stage.make()
    await stage.got("PUT", f"{AT}/ports/8080", {"token": "shared"}, status=201)
    await stage.refused(409, "SECURITY", "PUT", f"{AT}/ports/8081", {"token": "shared"})


async def test_sandbox_is_put_to_sleep_and_woken(stage: Stage) -> None:
    assert (await stage.make(sleep_after=None))["sleep_after"] is None
    for _ in range(2):
        assert (await stage.got("POST", f"{AT}/wake"))["status"] == "running"
    for _ in range(2):
        assert (await stage.got("POST", f"{AT}/hibernate"))["status"] == "asleep"
    await stage.got("POST", f"{AT}/stop")
    await stage.refused(410, "SANDBOX_STOPPED", "POST", f"{AT}/wake")


async def test_url_is_built_on_the_domain_that_is_asked_for(stage: Stage) -> None:
    await stage.make()
    port = await stage.got("PUT", f"{AT}/ports/8080", {"domain": "other.example", "token": "t"}, status=201)
    assert port["url"] == "https://8080-my-app-t.other.example/"
    await stage.refused(400, "INVALID_REQUEST", "PUT", f"{AT}/ports/8080", {"domain": "1.2.3.4"})
    await stage.refused(400, "CUSTOM_DOMAIN_REQUIRED", "PUT", f"{AT}/ports/8080", {"domain": "a.workers.dev"})


async def test_when_it_was_made_is_told_without_reading_its_log(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await stage.make()

    async def read(_runtime: Runtime, _sandbox: str) -> list[Moment]:
        raise AssertionError("this reads a whole log")

    monkeypatch.setattr(Runtime, "history", read)
    assert (await stage.got("GET", AT))["created_at"] == made["created_at"]
    [listed] = (await stage.got("GET", "/v1/sandboxes"))["sandboxes"]
    assert listed["created_at"] == made["created_at"]


async def test_gate_is_set_and_rotated(stage: Stage) -> None:
    await stage.make()
    await stage.refused(409, "NO_PREVIEW_AUTH", "POST", f"{AT}/preview-auth/rotate")
    first = await stage.got("PUT", f"{AT}/preview-auth", {"token": "a-token-of-my-own"})
    assert first == {"token": "a-token-of-my-own"}
    second = await stage.got("POST", f"{AT}/preview-auth/rotate", {"grace": 0})
    assert second["closed"] == 0
    url = (await stage.got("PUT", f"{AT}/ports/8080", status=201))["url"]
    stage.engine.container().handlers[8080] = respond()
    for token, status in ((first["token"], 401), (second["token"], 200)):
        assert (await stage.engine.get(url, headers=[("Authorization", f"Bearer {token}")])).status == status


async def test_token_that_is_in_force_is_told_even_if_visits_did_not_end(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.make()
    port = await stage.got("PUT", f"{AT}/ports/8080", status=201)
    stage.engine.container().handlers[8080] = respond()
    bearer: bytes | None = None
    for method, path in (("PUT", f"{AT}/preview-auth"), ("POST", f"{AT}/preview-auth/rotate")):
        request = VisitRequest(Port(8080), PortToken(port["token"]), bearer)
        stubborn = await stage.engine.runtime.admit(SandboxId("my-app"), request)
        assert isinstance(stubborn, Visit)
        headers = {"Idempotency-Key": f"once-{method}"}
        first = await stage.call(method, path, headers=headers)
        told = first.json()
        assert isinstance(told, dict)
        assert (first.status, told["code"], told["remaining"]) == (504, "REVOCATION_INCOMPLETE", 1)
        # An answer that was lost on its way can be had again, and nothing is rotated by asking.
        again = await stage.call(method, path, headers=headers)
        assert (again.body, again.header("idempotency-replayed")) == (first.body, "true")
        stubborn.end()
        bearer = told["token"].encode()
        fields = [("Authorization", f"Bearer {told['token']}")]
        assert (await stage.engine.get(port["url"], headers=fields)).status == 200


async def test_other_revocations_tell_how_many_remain_and_are_made_anew_when_asked_again(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.make()
    port = await stage.got("PUT", f"{AT}/ports/8080", status=201)
    stage.engine.container().handlers[8080] = respond()
    request = VisitRequest(Port(8080), PortToken(port["token"]), None)
    stubborn = await stage.engine.runtime.admit(SandboxId("my-app"), request)
    assert isinstance(stubborn, Visit)
    headers = {"Idempotency-Key": "once"}
    response = await stage.call("DELETE", f"{AT}/ports/8080", headers=headers)
    told = response.json()
    assert isinstance(told, dict)
    assert (response.status, told["remaining"]) == (504, 1)
    assert told.keys() == {"error", "code", "remaining"}
    stubborn.end()
    assert await stage.got("DELETE", f"{AT}/ports/8080", headers=headers) == {"closed": 0}


async def test_stopped_sandbox_stays_stopped(stage: Stage) -> None:
    await stage.make()
    assert await stage.got("POST", f"{AT}/stop") == {"closed": 0}
    assert (await stage.got("GET", AT))["status"] == "stopped"
    await stage.refused(410, "SANDBOX_STOPPED", "PUT", f"{AT}/ports/8080")
    await stage.refused(410, "SANDBOX_STOPPED", "PUT", f"{AT}/preview-auth")


async def test_destroyed_sandbox_is_gone_and_may_be_destroyed_again(stage: Stage) -> None:
    await stage.make()
    for existed in (True, False):
        assert await stage.got("DELETE", AT) == {"closed": 0, "existed": existed}
    await stage.refused(404, "SANDBOX_NOT_FOUND", "GET", AT)
    await stage.make()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", "/stop"),
        ("GET", "/ports"),
        ("PUT", "/ports/8080"),
        ("DELETE", "/ports/8080"),
        ("PUT", "/preview-auth"),
        ("POST", "/preview-auth/rotate"),
        ("GET", "/processes"),
        ("GET", "/processes/x"),
        ("POST", "/processes/x/kill"),
        ("GET", "/history"),
    ],
)
async def test_unknown_sandbox_is_404(stage: Stage, method: str, path: str) -> None:
    await stage.refused(404, "SANDBOX_NOT_FOUND", method, f"{AT}{path}")


async def test_key_that_may_only_look_is_told_no_secret(stage: Stage) -> None:
    await stage.make()
    await stage.got("PUT", f"{AT}/ports/8080", status=201)
    reader = stage.key("read")
    for shown in (await stage.got("GET", AT, key=reader), await stage.got("GET", f"{AT}/ports", key=reader)):
        [port] = shown["ports"]
        assert (port["port"], port["url"], port["token"]) == (8080, None, None)


async def test_when_a_sandbox_sleeps_can_be_changed(stage: Stage) -> None:
    await stage.make(sleep_after=60)
    at = "/v1/sandboxes/my-app"
    assert (await stage.got("PATCH", at, {"sleep_after": 5}))["sleep_after"] == 5
    assert (await stage.got("PATCH", at, {}))["sleep_after"] == 5
    assert (await stage.got("PATCH", at, {"sleep_after": None}))["sleep_after"] is None
    assert (await stage.got("GET", at))["sleep_after"] is None
    wrong: object
    for wrong in (0, -1, "5", True, {}):
        await stage.refused(400, "INVALID_REQUEST", "PATCH", at, {"sleep_after": wrong})
    await stage.refused(400, "INVALID_REQUEST", "PATCH", at, {"open_ports": True})
    await stage.refused(403, "FORBIDDEN", "PATCH", at, {"sleep_after": 5}, key=stage.key("read"))
    await stage.refused(404, "SANDBOX_NOT_FOUND", "PATCH", "/v1/sandboxes/other", {"sleep_after": 5})
    await stage.got("POST", f"{at}/stop")
    await stage.refused(410, "SANDBOX_STOPPED", "PATCH", at, {"sleep_after": 5})
