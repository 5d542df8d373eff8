"""Calls about what runs in a sandbox, over fakes; tests/e2e/test_api.py has real ones."""

import pytest
import trio
import trio.testing

from actors.testing.containers import FakeProgram
from proxy.testing import respond
from tests.proxy.api.stage import Stage

AT = "/v1/sandboxes/my-app"


async def test_process_is_started_listed_and_killed(stage: Stage) -> None:
    await stage.make()
    assert await stage.got("GET", f"{AT}/processes") == {"processes": []}
    made = await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    assert made == {
        "id": "web",
        "command": "serve",
        "pid": made["pid"],
        "status": "running",
        "exit_code": None,
        "restarts": 0,
    }
    assert await stage.got("GET", f"{AT}/processes/web") == made
    assert (await stage.got("GET", f"{AT}/processes"))["processes"] == [made]
    killed = await stage.got("POST", f"{AT}/processes/web/kill", {"signal": 9})
    assert (killed["status"], killed["exit_code"]) == ("exited", -9)
    await stage.refused(404, "PROCESS_NOT_FOUND", "GET", f"{AT}/processes/other")
    await stage.refused(404, "NOT_FOUND", "GET", f"{AT}/processes/{'x' * 300}")


async def test_id_that_runs_already_is_refused(stage: Stage) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    await stage.refused(409, "CONTAINER", "POST", f"{AT}/processes", {"command": "serve", "id": "web"})


async def test_command_that_runs_to_its_end_tells_what_it_printed(stage: Stage) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve"}, status=201)
    stage.engine.container().programs["print it"] = FakeProgram(3, b"out \xff", b"err")
    ran = await stage.got("POST", f"{AT}/exec", {"command": ["print", "it"]})
    assert ran == {"exit_code": 3, "stdout": "out \ufffd", "stderr": "err", "truncated": False}
    await stage.refused(400, "INVALID_REQUEST", "POST", f"{AT}/exec", {"command": ["", "x"]})


async def test_what_takes_too_long_is_said_to(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    await stage.refused(504, "TIMEOUT", "POST", f"{AT}/exec", {"command": "for ever", "timeout": 5})
    await stage.refused(504, "TIMEOUT", "POST", f"{AT}/processes/web/wait-for-port", {"port": 8080, "timeout": 5})


async def test_port_is_waited_for(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)

    async def listen() -> None:
        await trio.sleep(3)
        stage.engine.container().handlers[8080] = respond()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        shown = await stage.got("POST", f"{AT}/processes/web/wait-for-port", {"port": 8080})
    assert shown["status"] == "running"
    await stage.got("POST", f"{AT}/processes/web/kill")
    await stage.refused(409, "NOT_LISTENING", "POST", f"{AT}/processes/web/wait-for-port", {"port": 8080})


@pytest.mark.parametrize("command", ["", " ", [], "a\0b", 5, None, ["a", 5]])
async def test_what_is_no_command_is_refused(stage: Stage, command: object) -> None:
    await stage.make()
    for path in ("processes", "exec"):
        await stage.refused(400, "INVALID_REQUEST", "POST", f"{AT}/{path}", {"command": command})
    assert (await stage.got("GET", AT))["status"] == "asleep"
