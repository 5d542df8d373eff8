"""Calls about sandboxes and previews in the shape of OpenComputer's API: their statuses and bodies."""

from typing import Any

import pytest
import trio.testing

from actors import Port, PortToken, SandboxId, Visit, VisitRequest
from proxy.testing import respond
from tests.proxy.api.stage import Stage

ALL = "/api/sandboxes"


async def create(stage: Stage, **body: object) -> Any:
    return await stage.got("POST", ALL, {"templateID": "base", "timeout": 0, **body}, status=201)


async def test_sandbox_is_up_once_it_is_made(stage: Stage) -> None:
    made = await create(stage, metadata={"a": "b"}, cpuCount=4)
    name = made["sandboxID"]
    assert name.startswith("sb-")
    assert made == {
        "sandboxID": name,
        "templateID": "base",
        "status": "running",
        "region": "local",
        "workerID": "portico",
        "token": "",
        "sandboxDomain": "example.com",
    }
    assert await stage.got("GET", f"{ALL}/{name}") == made
    assert await stage.got("GET", ALL) == [made]
    await stage.got("DELETE", f"{ALL}/{name}", status=204)
    await stage.refused(404, "SANDBOX_NOT_FOUND", "DELETE", f"{ALL}/{name}")
    assert await stage.got("GET", ALL) == []


async def test_private_sandbox_tells_its_token(stage: Stage) -> None:
    for given in ({"scheme": "bearer", "token": ""}, {"scheme": "bearer", "token": "auto"}, {}):
        assert len((await create(stage, previewAuth=given))["previewAuthToken"]) == 43
    own = "my-supersecret-token-1234567890abcdef"
    assert (await create(stage, previewAuth={"token": own}))["previewAuthToken"] == own


@pytest.mark.parametrize("token", ["short", "123456789012345"])
async def test_weak_token_is_refused_before_a_sandbox_is_made(stage: Stage, token: str) -> None:
    error = await stage.refused(400, "INVALID_REQUEST", "POST", ALL, {"previewAuth": {"token": token}})
    assert error == 'previewAuth.token must be omitted, "auto", or a string of at least 16 characters'
    await stage.refused(400, "INVALID_REQUEST", "POST", ALL, {"previewAuth": {"scheme": "basic"}})
    assert await stage.got("GET", ALL) == []


async def test_environment_that_would_be_forgotten_is_refused(stage: Stage) -> None:
    await stage.refused(400, "UNSUPPORTED", "POST", ALL, {"envs": {"A": "b"}})


async def test_what_is_not_there_or_not_json_is_told_so(stage: Stage) -> None:
    for name in ("sb-doesnotexist", "Not_An_Id"):
        await stage.refused(404, "SANDBOX_NOT_FOUND", "GET", f"{ALL}/{name}")
    assert (await stage.raw("POST", ALL, b"not json at all")).status == 400
    assert (await stage.call("GET", ALL, key=None)).json() == {"error": "missing API key", "code": "MISSING_API_KEY"}
    assert (await stage.call("GET", ALL, key="K")).json() == {"error": "invalid API key", "code": "INVALID_API_KEY"}


async def test_previews_are_recorded_by_port(stage: Stage) -> None:
    name = (await create(stage))["sandboxID"]
    at = f"{ALL}/{name}/preview"
    made = await stage.got("POST", at, {"port": 3000, "authConfig": {}}, status=201)
    assert made == {
        "id": made["id"],
        "sandboxId": name,
        "orgId": "",
        "hostname": f"{name}-p3000.example.com",
        "port": 3000,
        "sslStatus": "active",
        "authConfig": {},
        "createdAt": made["createdAt"],
    }
    assert await stage.got("POST", at, {"port": 3000}, status=200) == made
    await stage.got("POST", at, {"port": 80}, status=201)
    assert [preview["port"] for preview in await stage.got("GET", at)] == [80, 3000]
    for port in (0, 65536, -1):
        error = await stage.refused(400, "INVALID_REQUEST", "POST", at, {"port": port})
        assert error == "port must be between 1 and 65535"
    await stage.got("DELETE", f"{at}/3000", status=204)
    assert await stage.refused(404, "NOT_FOUND", "DELETE", f"{at}/9999") == "no preview URL for this port"
    for text in ("0", "65536", "x", "3000abc", "%D9%A3"):
        assert await stage.refused(400, "INVALID_REQUEST", "DELETE", f"{at}/{text}") == "invalid port"


async def test_domain_of_a_preview_is_one_that_is_served(stage: Stage) -> None:
    name = (await create(stage))["sandboxID"]
    at = f"{ALL}/{name}/preview"
    error = await stage.refused(400, "INVALID_REQUEST", "POST", at, {"port": 3000, "domain": "x.example.net"})
    assert error == "org has no custom domain configured"
    made = await stage.got("POST", at, {"port": 3000, "domain": "Example.com"}, status=201)
    assert made["customHostname"] == made["hostname"] == f"{name}-p3000.example.com"


async def test_sandbox_sleeps_and_wakes(stage: Stage) -> None:
    name = (await create(stage))["sandboxID"]
    at = f"{ALL}/{name}"
    for _ in range(2):
        assert await stage.got("POST", f"{at}/hibernate") == {"sandboxID": name, "status": "hibernated"}
    assert (await stage.got("GET", at))["status"] == "hibernated"
    response = await stage.raw("POST", f"{at}/wake", None, headers={"Content-Type": "application/json"})
    assert response.status == 200
    error = await stage.refused(404, "NOT_HIBERNATED", "POST", f"{at}/wake", {})
    assert error == "no active hibernation found"
    await stage.got("POST", f"{at}/hibernate")
    assert (await stage.got("POST", f"{at}/wake", {"timeout": 5}))["status"] == "running"
    assert (await stage.got("GET", f"/v1/sandboxes/{name}"))["sleep_after"] == 5
    await stage.got("POST", f"{at}/timeout", {"timeout": 0}, status=204)
    assert (await stage.got("GET", f"/v1/sandboxes/{name}"))["sleep_after"] is None
    await stage.refused(400, "INVALID_REQUEST", "POST", f"{at}/timeout", {"timeout": -1})


async def test_token_that_is_in_force_is_told_even_if_visits_did_not_end(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.make()
    port = await stage.got("PUT", "/v1/sandboxes/my-app/ports/8080", status=201)
    stage.engine.container().handlers[8080] = respond()
    bearer: bytes | None = None
    # The first one sets the gate, the second rotates it.
    for _ in range(2):
        request = VisitRequest(Port(8080), PortToken(port["token"]), bearer)
        stubborn = await stage.engine.runtime.admit(SandboxId("my-app"), request)
        assert isinstance(stubborn, Visit)
        rotated = await stage.got("POST", f"{ALL}/my-app/preview/rotate")
        assert (rotated["scheme"], rotated["remaining"]) == ("bearer", 1)
        stubborn.end()
        bearer = rotated["previewAuthToken"].encode()
        fields = [("Authorization", f"Bearer {rotated['previewAuthToken']}")]
        assert (await stage.engine.get(port["url"], headers=fields)).status == 200
    assert "remaining" not in await stage.got("POST", f"{ALL}/my-app/preview/rotate")


async def test_token_is_rotated_until_the_sandbox_is_stopped(stage: Stage) -> None:
    name = (await create(stage))["sandboxID"]
    at = f"{ALL}/{name}/preview/rotate"
    tokens = set()
    for _ in range(2):
        rotated = await stage.got("POST", at)
        assert rotated["scheme"] == "bearer"
        tokens.add(rotated["previewAuthToken"])
    assert len(tokens) == 2
    await stage.got("POST", f"/v1/sandboxes/{name}/stop")
    assert "not in a settable state" in await stage.refused(410, "SANDBOX_STOPPED", "POST", at)
    assert (await stage.got("GET", f"{ALL}/{name}"))["status"] == "stopped"
