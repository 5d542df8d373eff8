"""Commands in the shape of OpenComputer's API, over real processes and WebSockets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_trio
import trio
import trio_websocket
from structlog.testing import capture_logs

from actors.containers import process_containers
from tests.proxy.api.stage import ADMIN, Stage, open_stage

WAIT_S = 20


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def at(tmp_path: Path) -> AsyncIterator[tuple[Stage, str]]:
    """The API over real processes, and the path of a sandbox's commands."""
    async with open_stage(tmp_path / "keys") as stage:
        stage.engine.runtime._around.containers["process"] = process_containers()  # type: ignore[index]  # a dict, in fact
        made = await stage.got("POST", "/api/sandboxes", {}, status=201)
        yield stage, f"/api/sandboxes/{made['sandboxID']}/exec"


async def frames(socket: trio_websocket.WebSocketConnection) -> list[tuple[int, bytes]]:
    """Return all that comes, outputs joined."""
    found: list[tuple[int, bytes]] = []
    with trio.fail_after(WAIT_S):
        while True:
            try:
                message = await socket.get_message()
            except trio_websocket.ConnectionClosed:
                return found
            assert isinstance(message, bytes)
            if found and found[-1][0] == message[0]:
                found[-1] = (message[0], found[-1][1] + message[1:])
            else:
                found.append((message[0], message[1:]))


async def test_command_is_run_to_its_end(at: tuple[Stage, str]) -> None:
    stage, path = at
    body = {"cmd": "sh", "args": ["-c", "echo $A; echo err >&2; exit 3"], "timeout": 60, "envs": {"A": "b"}}
    assert await stage.got("POST", f"{path}/run", body) == {"exitCode": 3, "stdout": "b\n", "stderr": "err\n"}
    await stage.refused(504, "TIMEOUT", "POST", f"{path}/run", {"cmd": "sleep", "args": ["100"], "timeout": 0.1})


async def test_command_that_takes_longer_is_polled(at: tuple[Stage, str]) -> None:
    stage, path = at
    quick = await stage.got("POST", f"{path}/run-async", {"cmd": "echo", "args": ["hi"]})
    assert quick == {"exitCode": 0, "stdout": "hi\n", "stderr": ""}
    script = "echo begun; while [ ! -e go ]; do sleep 0.02; done; echo done; exit 4"
    slow = await stage.got("POST", f"{path}/run-async", {"cmd": "sh", "args": ["-c", script]}, status=202)
    assert slow["running"]
    polled = await stage.got("GET", f"{path}/{slow['execId']}/result")
    assert polled == {"running": True, "stdout": "begun\n", "stderr": ""}
    await stage.got("POST", f"{path}/run", {"cmd": "touch", "args": ["go"]})
    await _until_ended(stage, f"{path}/{slow['execId']}/result")
    assert await stage.got("GET", f"{path}/{slow['execId']}/result") == {
        "running": False,
        "stdout": "begun\ndone\n",
        "stderr": "",
        "exitCode": 4,
    }


async def _until_ended(stage: Stage, path: str) -> Any:
    with trio.fail_after(WAIT_S):
        while (polled := await stage.got("GET", path))["running"]:
            await trio.lowlevel.checkpoint()
    return polled


async def test_command_that_ran_out_of_time_says_so(at: tuple[Stage, str]) -> None:
    stage, path = at
    body = {"cmd": "sleep", "args": ["100"], "timeout": 0.1}
    begun = await stage.got("POST", f"{path}/run-async", body, status=202)
    polled = await _until_ended(stage, f"{path}/{begun['execId']}/result")
    assert (polled["exitCode"], polled["error"]) == (-9, "command timed out")


async def test_session_is_talked_with_and_told_again_to_who_comes_late(at: tuple[Stage, str]) -> None:
    stage, path = at
    body = {"cmd": "sh", "args": ["-c", "read line; echo got $line; exit 7"]}
    session = await stage.got("POST", path, body, status=201)
    assert session == {
        "sessionID": session["sessionID"],
        "sandboxID": session["sandboxID"],
        "command": "sh",
        "args": body["args"],
        "running": True,
        "startedAt": session["startedAt"],
        "attachedClients": 0,
    }
    url = f"wss://example.com{path}/{session['sessionID']}"
    async with stage.engine.websocket(f"{url}?api_key={ADMIN}") as socket:
        assert await socket.get_message() == b"\x04"
        await socket.send_message(b"\x00hello\n")
        assert await frames(socket) == [(1, b"got hello\n"), (3, (7).to_bytes(4, "big"))]
    async with stage.engine.websocket(url, headers=[("X-API-Key", ADMIN)]) as socket:
        assert await frames(socket) == [(1, b"got hello\n"), (4, b""), (3, (7).to_bytes(4, "big"))]
    [listed] = await stage.got("GET", path)
    assert (listed["running"], listed["exitCode"], listed["attachedClients"]) == (False, 7, 0)


async def test_end_of_a_session_is_no_failed_connection(at: tuple[Stage, str]) -> None:
    stage, path = at
    session = await stage.got("POST", path, {"cmd": "sh", "args": ["-c", "read line; exit 7"]}, status=201)
    url = f"wss://example.com{path}/{session['sessionID']}"
    with capture_logs() as logged:
        async with stage.engine.websocket(f"{url}?api_key={ADMIN}") as socket:
            assert await socket.get_message() == b"\x04"
            await socket.send_message(b"\x00hello\n")
            assert await frames(socket) == [(3, (7).to_bytes(4, "big"))]
            assert socket.closed is not None
            assert socket.closed.code == 1000
        await stage.engine.settle()
    assert [event for event in logged if event["log_level"] not in ("debug", "info")] == []


async def test_session_is_killed_and_goes_on_without_its_client(at: tuple[Stage, str]) -> None:
    stage, path = at
    session = await stage.got("POST", path, {"cmd": "sleep", "args": ["100"]}, status=201)
    one = f"{path}/{session['sessionID']}"
    async with stage.engine.websocket(f"wss://example.com{one}?api_key={ADMIN}") as socket:
        await socket.get_message()
    assert (await stage.got("GET", path))[0]["running"]
    await stage.refused(400, "INVALID_REQUEST", "POST", f"{one}/kill", {"signal": 65})
    async with stage.engine.websocket(f"wss://example.com{one}?api_key={ADMIN}") as socket:
        await stage.got("POST", f"{one}/kill", {}, status=204)
        assert (await frames(socket))[-1] == (3, (-9).to_bytes(4, "big", signed=True))


@pytest.mark.parametrize(
    ("query", "status"), [("", 401), ("?api_key=", 401), ("?api_key=nobody", 403), (f"?api_key={ADMIN}", 404)]
)
async def test_handshake_is_refused_like_any_call(at: tuple[Stage, str], query: str, status: int) -> None:
    stage, path = at
    with pytest.raises(trio_websocket.ConnectionRejected) as refused:
        async with stage.engine.websocket(f"wss://example.com{path}/es-nobody{query}"):
            pass
    assert refused.value.status_code == status
    assert refused.value.body is not None
    assert b'"code"' in refused.value.body


async def test_key_that_may_only_look_may_not_talk(at: tuple[Stage, str]) -> None:
    stage, path = at
    session = await stage.got("POST", path, {"cmd": "true"}, status=201)
    key = stage.key("read")
    with pytest.raises(trio_websocket.ConnectionRejected) as refused:
        async with stage.engine.websocket(f"wss://example.com{path}/{session['sessionID']}?api_key={key}"):
            pass
    assert refused.value.status_code == 403
    await stage.refused(403, "FORBIDDEN", "POST", f"{path}/run", {"cmd": "true"}, key=key)
    await stage.refused(404, "NOT_FOUND", "GET", f"{path}/es-nobody/result")
    await stage.refused(404, "NOT_FOUND", "POST", f"{path}/es-nobody/kill")


async def test_key_that_was_revoked_talks_no_more(at: tuple[Stage, str]) -> None:
    stage, path = at
    session = await stage.got("POST", path, {"cmd": "cat"}, status=201)
    record, key = stage.ring.create("talker", "admin")
    url = f"wss://example.com{path}/{session['sessionID']}"
    async with stage.engine.websocket(f"{url}?api_key={key}") as socket:
        assert await socket.get_message() == b"\x04"
        await stage.got("DELETE", f"/v1/keys/{record.id}", status=204)
        await socket.send_message(b"\x00too late\n")
        assert await frames(socket) == []
        assert socket.closed is not None
        assert socket.closed.code == 1008
    assert (await stage.got("GET", path))[0]["running"]
    await stage.got("POST", f"{path}/{session['sessionID']}/kill", {}, status=204)


async def test_commands_of_a_destroyed_sandbox_are_not_told_to_the_next_of_its_name(at: tuple[Stage, str]) -> None:
    stage, path = at
    for name, destroy in (("my-app", "/v1/sandboxes/my-app"), ("other", "/api/sandboxes/other")):
        path = f"/api/sandboxes/{name}/exec"
        await stage.got("POST", "/v1/sandboxes", {"id": name}, status=201)
        session = await stage.got("POST", path, {"cmd": "echo", "args": ["a secret"]}, status=201)
        await _until_ended(stage, f"{path}/{session['sessionID']}/result")
        assert (await stage.call("DELETE", destroy)).status in (200, 204)
        assert session["sessionID"] not in stage.api.ground.sessions._sessions
        await stage.got("POST", "/v1/sandboxes", {"id": name}, status=201)
        assert await stage.got("GET", path) == []
        await stage.refused(404, "NOT_FOUND", "GET", f"{path}/{session['sessionID']}/result")
