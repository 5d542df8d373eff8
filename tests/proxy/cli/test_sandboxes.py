"""`portico sandbox`, `run`, `exec` and `logs`, against a server of answers written beforehand."""

import json

import pytest

from tests.proxy.cli.conftest import Command
from tests.proxy.cli.test_remote import SANDBOX
from tests.proxy.client.conftest import Script

URL = "http://8000-my-app-k3v9x0q2m7t1z8aa.localhost:8787/"
PORT = {"port": 8000, "url": URL, "name": None, "token": "t", "host_header": "localhost", "status": "active"}
PROCESS = {"id": "p-1", "command": "sleep 1", "pid": 7, "status": "running", "exit_code": None}
ENDED = {"exit_code": 0, "stdout": "out\n", "stderr": "err\n", "truncated": False}


def test_sandbox_is_made_and_its_token_told_once(server: Script, portico: Command) -> None:
    server.answer(201, {**SANDBOX, "preview_auth": True, "preview_auth_token": "told-this-once"})
    server.answer(200, {**SANDBOX, "preview_auth": True})
    said = portico("sandbox", "create", "my-app", "--preview-auth", "--sleep-after", "60", "--when-asleep", "stale")
    assert said.code == 0
    assert "told-this-once" in said.out
    assert "not shown again" in said.err
    asked = server.asked[0].json
    assert isinstance(asked, dict)
    assert (asked["id"], asked["sleep_after"], asked["when_asleep"]) == ("my-app", 60, "stale")
    assert asked["preview_auth"]["token"] == "auto"


@pytest.mark.parametrize(("flag", "sent"), [((), "absent"), (("--never-sleeps",), None)])
def test_sleep_that_is_not_named_is_left_as_it_is(
    flag: tuple[str, ...], sent: object, server: Script, portico: Command
) -> None:
    server.answer(201, SANDBOX)
    server.answer(200, SANDBOX)
    assert portico("sandbox", "create", *flag).code == 0
    asked = server.asked[0].json
    assert isinstance(asked, dict)
    assert asked.get("sleep_after", "absent") == sent
    assert asked["id"] is None


def test_sandbox_is_to_be_frozen_if_that_is_asked_for(server: Script, portico: Command) -> None:
    for _ in range(4):
        server.answer(200, SANDBOX)
    assert portico("sandbox", "create", "my-app", "--freeze").code == 0
    assert portico("sandbox", "create", "my-app").code == 0
    frozen, plain = (asked.json for asked in server.asked if asked.method == "POST")
    assert isinstance(frozen, dict)
    assert isinstance(plain, dict)
    assert frozen["container"] == {"kind": "process", "options": {"sleep": "freeze"}}
    assert plain.get("container") is None


def test_list_is_a_table(server: Script, portico: Command) -> None:
    server.answer(200, {"sandboxes": [{**SANDBOX, "ports": [PORT]}], "next": None})
    head, row = portico("sandbox", "list").out.splitlines()
    assert head.split() == ["sandbox", "status", "container", "ports", "preview", "auth"]
    assert row.split() == ["my-app", "running", "process", "8000", "no"]


def test_show_has_whole_urls(server: Script, portico: Command) -> None:
    server.answer(200, {**SANDBOX, "ports": [PORT]})
    assert URL in portico("sandbox", "show", "my-app").out


@pytest.mark.parametrize(("command", "method"), [("hibernate", "POST"), ("wake", "POST")])
def test_sleep_and_wake_show_what_came_of_it(command: str, method: str, server: Script, portico: Command) -> None:
    server.answer(200, SANDBOX)
    said = portico("sandbox", command, "my-app")
    assert (said.code, "running" in said.out) == (0, True)
    assert (server.asked[0].method, server.asked[0].target) == (method, f"/v1/sandboxes/my-app/{command}")


def test_destroying_what_is_not_there_is_said_and_is_no_failure(server: Script, portico: Command) -> None:
    for _ in range(2):
        server.answer(200, {"closed": 0, "existed": False})
    said = portico("sandbox", "destroy", "my-app")
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith("portico: there is no sandbox my-app: nothing was destroyed")
    said = portico("sandbox", "destroy", "my-app", "--json")
    assert (said.code, said.out, said.err) == (0, '{"closed":0,"existed":false}\n', "")


@pytest.mark.parametrize("command", ["stop", "destroy"])
def test_ends_say_how_many_visits_they_cut(command: str, server: Script, portico: Command) -> None:
    server.answer(200, {"closed": 3})
    server.answer(200, {"closed": 3})
    assert portico("sandbox", command, "my-app").err.endswith("live visits that were ended: 3\n")
    assert json.loads(portico("sandbox", command, "my-app", "--json").out)["closed"] == 3


def test_service_is_started_waited_for_and_its_url_is_all_of_stdout(server: Script, portico: Command) -> None:
    for answer in (SANDBOX, PROCESS, PROCESS, PORT):
        server.answer(200, answer)
    said = portico("run", "my-app", "--port", "8000", "--", "python", "-m", "http.server", "8000")
    assert (said.code, said.out) == (0, URL + "\n")
    started = server.asked[1].json
    assert isinstance(started, dict)
    assert started["command"] == ["python", "-m", "http.server", "8000"]


def test_service_without_a_port_is_named(server: Script, portico: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "from here")
    server.answer(200, SANDBOX)
    server.answer(201, PROCESS)
    said = portico("run", "my-app", "--env", "A=b=c", "-e", "SECRET", "--id", "p-1", "--", "sleep 1 && true")
    assert (said.code, said.out) == (0, "p-1\n")
    assert server.asked[1].json == {
        "command": "sleep 1 && true",
        "cwd": None,
        "env": {"A": "b=c", "SECRET": "from here"},
        "id": "p-1",
        "restart": "never",
    }


def test_service_that_does_not_come_up_says_so(server: Script, portico: Command) -> None:
    server.answer(200, SANDBOX)
    server.answer(201, PROCESS)
    server.refuse(409, "NOT_LISTENING")
    said = portico("run", "my-app", "--port", "8000", "--", "false")
    assert (said.code, said.out, said.err) == (
        1,
        "",
        "portico: this is NOT_LISTENING\nportico: p-1 was started, and is left as it is: portico logs my-app p-1\n",
    )


@pytest.mark.parametrize(("exit_code", "code"), [(0, 0), (3, 3), (-9, 137)])
def test_exec_ends_as_its_command_did(exit_code: int, code: int, server: Script, portico: Command) -> None:
    server.answer(200, {**ENDED, "exit_code": exit_code})
    said = portico("exec", "my-app", "--timeout", "5", "--", "ls", "-l")
    assert (said.code, said.out, said.err) == (code, "out\n", "err\n")
    asked = server.asked[0].json
    assert isinstance(asked, dict)
    assert (asked["command"], asked["timeout"]) == (["ls", "-l"], 5)


def test_exec_that_was_not_run_is_125(server: Script, portico: Command) -> None:
    server.refuse(404, "SANDBOX_NOT_FOUND")
    assert portico("exec", "my-app", "--", "ls").code == 125


def test_exec_says_that_it_is_not_all(server: Script, portico: Command) -> None:
    server.answer(200, {**ENDED, "truncated": True})
    assert portico("exec", "my-app", "--", "ls").err.endswith("more was printed than is kept\n")


def test_logs_are_passed_on_as_they_are(server: Script, portico: Command) -> None:
    server.answer(200, PROCESS)
    server.answer(200, b"\x1b[31mred\x1b[0m\n")
    assert portico("logs", "my-app", "p-1").out == "\x1b[31mred\x1b[0m\n"
    server.answer(200, {"processes": [PROCESS]})
    server.answer(200, b"followed\n")
    assert portico("logs", "my-app", "-f").out == "followed\n"
    assert server.asked[-1].target.endswith("/processes/p-1/logs?follow=true")


def test_logs_of_many_ask_which(server: Script, portico: Command) -> None:
    server.answer(200, {"processes": [PROCESS, {**PROCESS, "id": "p-2"}]})
    said = portico("logs", "my-app")
    assert (said.code, said.err) == (2, "portico: which process? p-1, p-2\n")
    server.answer(200, {"processes": []})
    assert portico("logs", "my-app").code == 1


@pytest.mark.parametrize(("flags", "sent"), [(("--sleep-after", "60"), 60.0), (("--never-sleeps",), None)])
def test_sleep_is_changed(flags: tuple[str, ...], sent: object, server: Script, portico: Command) -> None:
    server.answer(200, {**SANDBOX, "sleep_after": sent})
    said = portico("sandbox", "set", "my-app", *flags)
    assert said.code == 0
    assert ("never" if sent is None else "60 s") in said.out
    assert (server.asked[0].method, server.asked[0].json) == ("PATCH", {"sleep_after": sent})


@pytest.mark.parametrize("flags", [(), ("--sleep-after", "60", "--never-sleeps")])
def test_change_that_says_nothing_or_two_things_is_exit_code_2(
    flags: tuple[str, ...], server: Script, portico: Command
) -> None:
    assert portico("sandbox", "set", "my-app", *flags).code == 2
    assert server.asked == []


def test_service_is_restarted_as_asked_and_its_restarts_are_shown(server: Script, portico: Command) -> None:
    server.answer(200, SANDBOX)
    server.answer(201, PROCESS)
    server.answer(200, {"processes": [{**PROCESS, "restarts": 3}]})
    assert portico("run", "my-app", "--restart", "on-failure", "--", "sleep 1").code == 0
    asked = server.asked[1].json
    assert isinstance(asked, dict)
    assert asked["restart"] == "on-failure"
    head, row = portico("ps", "my-app").out.splitlines()
    assert head.split() == ["process", "pid", "status", "exit", "code", "restarts", "command"]
    assert row.split() == ["p-1", "7", "running", "-", "3", "sleep", "1"]
    assert portico("run", "my-app", "--restart", "sometimes", "--", "sleep 1").code != 0
