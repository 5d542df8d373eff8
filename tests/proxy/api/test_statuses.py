"""Every status that the document promises of a call is one that the call gives, and here it gives no other.

One long visit to the API, over real processes: what each call is asked stands in tables, what was answered is noted
where the API answers, and at the end the two are compared. A call that is new, or a status, fails here until it is
reached.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from starlette.requests import Request
from starlette.responses import Response

from actors import Limits, Port, PortToken, SandboxId, Visit, VisitRequest
from actors.containers import process_containers
from proxy.api.calls import Need, Operation
from tests.proxy.api.stage import ADMIN, Stage, open_stage

NAME: Final = "preview.my-app.com"
NOWHERE: Final = "/nowhere/at/all"

BODIES: Final[Mapping[str, object]] = {
    "createSandbox": {"id": "stopped", "preview_auth": {}},
    "changeSandbox": {"sleep_after": 60},
    "createShare": {"expires_in": 60},
    "startProcess": {"command": "sleep 100", "id": "web"},
    "waitForPort": {"port": 1, "timeout": 0.05},
    "exec": {"command": "true"},
    "bindDomain": {"sandbox": "my-app", "port": 8080},
    "createKey": {"name": "ci", "scope": "read"},
    "ocCreate": {},
    "ocSetTimeout": {"timeout": 60},
    "ocCreatePreview": {"port": 3001},
    "ocRun": {"cmd": "true"},
    "ocRunAsync": {"cmd": "true"},
    "ocStartExec": {"cmd": "sleep", "args": ["100"]},
}
"""What is sent where the call itself is not what matters."""

PLACES: Final[Mapping[str, str]] = {
    "id": "my-app",
    "port": "8080",
    "process": "web",
    "share": "none",
    "key": "none",
    "exec": "none",
    "hostname": NAME,
}


class Census:
    """Makes calls by their names, and notes what the API answers."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.operations = {operation.name: operation for operation in stage.api.operations}
        self.seen: set[tuple[str, int]] = set()
        answer = stage.api.answer

        async def noted(operation: Operation, request: Request) -> Response:
            response = await answer(operation, request)
            self.seen.add((operation.name, response.status_code))
            return response

        stage.api.answer = noted  # type: ignore[method-assign]  # every call passes there

    def documented(self) -> set[tuple[str, int]]:
        return {
            (name, status)
            for name, operation in self.operations.items()
            for status in (
                *operation.answers,
                *operation.problems,
                *(() if operation.need is Need.NOTHING else (400, 401, 403)),
            )
        }

    async def ask(self, name: str, status: int, body: object = None, **places: str) -> Any:
        """Make a call that must be answered with `status`; ``query`` is put behind the path."""
        operation = self.operations[name]
        query = places.pop("query", "")
        path = re.sub(r"{(\w+)}", lambda found: {**PLACES, **places}[found[1]], operation.path) + query
        response = await self.stage.call(operation.method, path, BODIES.get(name) if body is None else body)
        assert response.status == status, (name, response.body)
        return response.json() if response.body.startswith((b"{", b"[")) else None

    async def ask_of_a_stubborn_visit(
        self, name: str, request: VisitRequest, body: object = None, *, sandbox: str = "my-app", **places: str
    ) -> Any:
        """Make a call that revokes what a visit leans on, while that does not end."""
        visit = await self.stage.engine.runtime.admit(SandboxId(sandbox), request)
        assert isinstance(visit, Visit), visit
        answer = await self.ask(name, 504, body, **places)
        visit.end()
        assert answer["remaining"] == 1
        return answer


async def test_every_documented_status_is_reached_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No visit of this one ends late but where it says so, and then nobody waits to see whether it does.
    async with open_stage(tmp_path / "keys", Limits(cut_timeout_s=1e-9)) as stage:
        stage.engine.runtime._around.containers["process"] = process_containers()  # type: ignore[index]  # a dict, in fact
        census = Census(stage)
        await _ask_as_nobody(census)
        await _ask_of_the_server(census, monkeypatch)
        await _ask_of_a_sandbox(census)
        await _ask_of_domains(census)
        await _ask_of_commands(census)
        await _ask_what_is_gone(census)
        await _end(census)
        assert sorted(census.documented() - census.seen) == []
        assert sorted(census.seen - census.documented()) == []


async def _ask_as_nobody(census: Census) -> None:
    """Without a key, with a wrong one, and with two, of which another program could read the other."""
    for operation in census.operations.values():
        if operation.need is Need.NOTHING:
            continue
        path = re.sub(r"{(\w+)}", lambda found: PLACES[found[1]], operation.path)
        keys: list[tuple[int, list[str]]] = [(401, []), (403, ["nobodys"]), (400, [ADMIN, ADMIN])]
        for status, given in keys:
            fields = [("X-API-Key", key) for key in given]
            response = await census.stage.engine.request(operation.method, f"https://example.com{path}", headers=fields)
            assert response.status == status, (operation.name, response.body)


async def _ask_of_the_server(census: Census, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("healthz", "readyz", "openapi", "docs", "listKeys", "listSandboxes", "ocList"):
        await census.ask(name, 200)
    runtime = census.stage.engine.runtime
    address, runtime.public_address = runtime.public_address, None
    await census.ask("readyz", 503)
    runtime.public_address = address
    made = await census.ask("createKey", 201)
    await census.ask("revokeKey", 204, key=made["id"])
    await census.ask("revokeKey", 404, key=made["id"])
    await census.ask("revokeKey", 409, key="environment")
    with monkeypatch.context() as patched:
        patched.setattr("proxy.api.keys.KEYS_MAX", 0)
        await census.ask("createKey", 409)


async def _ask_of_a_sandbox(census: Census) -> None:
    await census.ask("createSandbox", 201, {"id": "my-app"})
    await census.ask("createSandbox", 200, {"id": "my-app"})
    await census.ask("createSandbox", 409, {"id": "my-app", "open_ports": True})
    for name in ("getSandbox", "changeSandbox", "wakeSandbox", "hibernateSandbox", "getHistory", "ocGet"):
        await census.ask(name, 200)
    await census.ask("createShare", 409)
    exposed = await census.ask("exposePort", 201)
    await census.ask("exposePort", 200)
    await census.ask("exposePort", 409, port="22")
    await census.ask("explain", 200, query=f"?url={exposed['url']}")
    await census.ask("listPorts", 200)
    await census.ask("rotatePreviewAuth", 409)
    bearer: bytes | None = None
    for name in ("setPreviewAuth", "rotatePreviewAuth"):
        answer = await census.ask_of_a_stubborn_visit(name, _by_token(exposed, bearer))
        bearer = answer["token"].encode()
        await census.ask(name, 200, {"token": bearer.decode()})
    await census.ask_of_a_stubborn_visit("hibernateSandbox", _by_token(exposed, bearer))
    for name in ("revokeShare", "revokeAnyShare"):
        share = await census.ask("createShare", 201)
        await census.ask("listShares", 200)
        await census.ask("listAllShares", 200)
        await census.ask(name, 200, share=share["id"])
        share = await census.ask("createShare", 201)
        secret = share["url"].rpartition("/")[2].encode()
        request = VisitRequest(Port(8080), PortToken(share["id"]), share_secret=secret)
        await census.ask_of_a_stubborn_visit(name, request, share=share["id"])
    await census.ask_of_a_stubborn_visit("unexposePort", _by_token(exposed, bearer))
    await census.ask("unexposePort", 200)
    # The visits have woken it.
    await census.ask("hibernateSandbox", 200)
    await census.ask("ocWake", 200)
    await census.ask("ocHibernate", 200)
    await census.ask("ocSetTimeout", 204)
    await census.ask("ocCreatePreview", 409, {"port": 22})
    await census.ask("ocCreatePreview", 201)
    await census.ask("ocCreatePreview", 200)
    await census.ask("ocListPreviews", 200)
    await census.ask("ocDeletePreview", 204, port="3001")
    await census.ask("ocRotatePreview", 200)


async def _ask_of_domains(census: Census) -> None:
    await census.ask("verifyDomain", 404)
    await census.ask("bindDomain", 404, {"sandbox": "nobody", "port": 8080})
    await census.ask("bindDomain", 201)
    await census.ask("bindDomain", 200)
    await census.ask("bindDomain", 409, hostname="below.example.com")
    await census.ask("verifyDomain", 409)
    census.stage.published.add(NAME)
    await census.ask("verifyDomain", 200)
    await census.ask("listDomains", 200)
    await census.ask("createSandbox", 201, {"id": "other"})
    await census.ask("exposePort", 201)
    bearer = (await census.ask("rotatePreviewAuth", 200))["token"].encode()
    [binding] = census.stage.engine.runtime.domains.bindings(SandboxId("my-app"))
    request = VisitRequest(Port(8080), preview_token=bearer, binding=binding.number)
    await census.ask_of_a_stubborn_visit("unbindDomain", request)
    await census.ask("bindDomain", 201)
    await census.ask("unbindDomain", 200)
    for name in ("my-app", "other"):
        await census.ask("bindDomain", 201, {"sandbox": name, "port": 8080})
    await census.ask("unbindDomain", 409)


async def _ask_of_commands(census: Census) -> None:
    await census.ask("startProcess", 201)
    await census.ask("startProcess", 409)
    for name in ("listProcesses", "getProcess", "readLogs"):
        await census.ask(name, 200)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
    server = f"exec python -m http.server {port} --bind 127.0.0.1"
    await census.ask("startProcess", 201, {"command": server, "id": "server"})
    await census.ask("waitForPort", 200, {"port": port, "timeout": 30}, process="server")
    await census.ask("waitForPort", 504)
    await census.ask("killProcess", 200, {"signal": 9})
    await census.ask("waitForPort", 409)
    await census.ask("exec", 200)
    await census.ask("exec", 504, {"command": "sleep 100", "timeout": 0.05})
    await census.ask("exec", 409, {"command": "true", "cwd": NOWHERE})
    await census.ask("ocRun", 200)
    await census.ask("ocRun", 504, {"cmd": "sleep", "args": ["100"], "timeout": 0.05})
    await census.ask("ocRunAsync", 200)
    begun = await census.ask("ocRunAsync", 202, {"cmd": "sleep", "args": ["100"]})
    await census.ask("ocResult", 200, exec=begun["execId"])
    await census.ask("ocStartExec", 201)
    await census.ask("ocListExecs", 200)
    await census.ask("ocKillExec", 204, exec=begun["execId"])
    for name in ("ocRun", "ocRunAsync", "ocStartExec"):
        await census.ask(name, 409, {"cmd": "true", "cwd": NOWHERE})


async def _ask_what_is_gone(census: Census) -> None:
    """Of a sandbox that was stopped, and of one that never was."""
    await census.ask("createSandbox", 201)
    exposed = await census.ask("exposePort", 201, id="stopped")
    bearer = (await census.ask("rotatePreviewAuth", 200, id="stopped"))["token"].encode()
    request = _by_token(exposed, bearer)
    await census.ask_of_a_stubborn_visit("stopSandbox", request, sandbox="stopped", id="stopped")
    await census.ask("stopSandbox", 200, id="stopped")
    for operation in census.operations.values():
        if 410 in operation.problems:
            await census.ask(operation.name, 410, id="stopped")
        if 404 in operation.problems and "{id}" in operation.path:
            await census.ask(operation.name, 404, id="nobody")


async def _end(census: Census) -> None:
    exposed = await census.ask("exposePort", 200)
    bearer = (await census.ask("rotatePreviewAuth", 200))["token"].encode()
    await census.ask_of_a_stubborn_visit("destroySandbox", _by_token(exposed, bearer))
    await census.ask("destroySandbox", 200)
    await census.ask("ocKill", 204, id="other")
    await census.ask("ocCreate", 201)


def _by_token(exposed: Mapping[str, str], bearer: bytes | None) -> VisitRequest:
    """Return a visit by the URL of port 8080, past the gate if there is one."""
    return VisitRequest(Port(8080), PortToken(exposed["token"]), bearer)
