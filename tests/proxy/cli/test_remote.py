"""Which server is asked, with which key, and what is shown of what it says."""

import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from proxy.cli.base import plain
from proxy.cli.waiting import Sign
from proxy.cli.waiting import waiting as waiting_for_real
from proxy.local import FILE_NAME, LocalServer, announced
from tests.proxy.cli.conftest import KEY, Command, Terminal
from tests.proxy.client.conftest import Script

NOTHING: dict[str, object] = {"sandboxes": [], "next": None}
SANDBOX = {
    "id": "my-app",
    "status": "running",
    "container": "process",
    "open_ports": False,
    "when_asleep": "wake",
    "sleep_after": None,
    "preview_auth": False,
    "ports": [],
}

# Port 1 of this machine: nobody listens there.
NOBODY = "http://127.0.0.1:1"


def bearer(script: Script) -> str:
    return script.asked[-1].headers["authorization"].removeprefix("Bearer ")


def test_server_of_the_environment_is_asked_with_its_key(server: Script, portico: Command) -> None:
    server.answer(200, NOTHING)
    said = portico("sandbox", "list")
    assert (said.code, said.out, said.err) == (0, "", "no sandboxes\n")
    assert bearer(server) == KEY


def test_key_as_a_flag_wins_and_is_warned_of(server: Script, portico: Command) -> None:
    server.answer(200, NOTHING)
    said = portico("sandbox", "list", "--json", "--api-key", "another-key-0123456789")
    assert (said.code, said.out) == (0, "[]\n")
    assert said.err == "portico: warning: --api-key shows in the list of processes; PORTICO_API_KEY does not\n"
    assert bearer(server) == "another-key-0123456789"


def test_server_of_the_data_folder_is_asked_with_the_key_of_its_run(
    script: Script, portico: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which may be another server's, and must not be sent to this one.
    monkeypatch.setenv("PORTICO_API_KEY", KEY)
    script.answer(200, NOTHING)
    with announced(tmp_path, LocalServer(script.url, "key-of-this-run-0123456789")):
        assert portico("sandbox", "list", "--data", str(tmp_path)).code == 0
    assert bearer(script) == "key-of-this-run-0123456789"


def test_folder_that_nobody_serves_says_what_to_do(portico: Command) -> None:
    said = portico("sandbox", "list")
    assert said.code == 1
    assert "no server serves portico-data: start one (portico serve), or name one" in said.err


def test_file_that_others_may_read_is_not_trusted(portico: Command, tmp_path: Path) -> None:
    with announced(tmp_path, LocalServer("http://127.0.0.1:1", "key-of-this-run-0123456789")):
        (tmp_path / FILE_NAME).chmod(0o644)
        said = portico("sandbox", "list", "--data", str(tmp_path))
    assert (said.code, "not trusted" in said.err) == (1, True)


def test_server_that_has_gone_is_named_as_such(portico: Command, tmp_path: Path) -> None:
    with announced(tmp_path, LocalServer("http://127.0.0.1:1", "key-of-this-run-0123456789")):
        said = portico("sandbox", "list", "--data", str(tmp_path))
    assert said.code == 1
    assert said.err.endswith("is portico serve still running?\n")
    assert "key-of-this-run" not in said.err


def test_key_in_clear_over_the_network_is_warned_of(
    portico: Command, monkeypatch: pytest.MonkeyPatch, server: Script
) -> None:
    monkeypatch.setattr("proxy.cli.remote.is_this_machine", lambda _: False)
    server.answer(200, NOTHING)
    assert "goes over the network in clear" in portico("sandbox", "list").err


@pytest.mark.parametrize("server_url", ["localhost:8787", "http://localhost:1/v1"])
def test_server_that_is_no_url_is_exit_code_2(
    server_url: str, portico: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTICO_API_KEY", KEY)
    said = portico("sandbox", "list", "--server", server_url)
    assert (said.code, "a URL such as" in said.err) == (2, True)


def test_refusal_is_a_line_and_exit_code_1(server: Script, portico: Command) -> None:
    server.refuse(404, "SANDBOX_NOT_FOUND")
    said = portico("sandbox", "show", "my-app")
    assert (said.code, said.out, said.err) == (
        1,
        "",
        "portico: this is SANDBOX_NOT_FOUND; portico sandbox list names those there are\n",
    )
    server.refuse(403, "FORBIDDEN")
    said = portico("sandbox", "list")
    assert (said.code, said.err) == (
        1,
        "portico: this is FORBIDDEN; portico key create makes one, on the server's machine\n",
    )


def test_request_that_makes_no_sense_is_exit_code_2(server: Script, portico: Command) -> None:
    server.refuse(400, "INVALID_REQUEST")
    assert portico("sandbox", "show", "my-app").code == 2
    assert portico("sandbox", "show", "no/id").code == 2
    assert portico("sandbox", "create", "my-app", "--when-asleep", "never").code == 2


def test_words_of_others_cannot_steer_the_terminal(server: Script, portico: Command) -> None:
    evil = "web\x1b]0;owned\x07"
    port = {
        "port": 8000,
        "url": "http://x/",
        "name": evil,
        "token": "t",
        "host_header": "localhost",
        "status": "active",
    }
    server.answer(200, {"ports": [port]})
    server.answer(404, {"error": evil, "code": "SANDBOX_NOT_FOUND"})
    server.answer(200, {**SANDBOX, "container": evil})
    for arguments in (("port", "list", "my-app"), ("sandbox", "show", "my-app"), ("sandbox", "show", "my-app")):
        said = portico(*arguments)
        assert "web" in said.out + said.err
        assert "\x1b" not in said.out + said.err
        assert "\x07" not in said.out + said.err
    assert plain("ünïcode stays\n") == "ünïcode stays\N{REPLACEMENT CHARACTER}"


def test_json_is_one_document(server: Script, portico: Command) -> None:
    server.answer(200, SANDBOX)
    assert json.loads(portico("sandbox", "show", "my-app", "--json").out)["id"] == "my-app"


def test_question_that_lasts_says_so_but_not_in_the_middle_of_its_output(
    server: Script, portico: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def waiting(doing: str) -> AbstractAsyncContextManager[Sign]:
        said.append(doing)
        return waiting_for_real(doing)

    monkeypatch.setattr("proxy.cli.remote.waiting", waiting)
    server.answer(200, NOTHING)
    portico("sandbox", "list")
    server.answer(200, SANDBOX)
    portico("sandbox", "wake", "my-app")
    server.refuse(404, "SANDBOX_NOT_FOUND")
    portico("logs", "--follow", "my-app", "web")
    assert said == ["waiting for the server's answer", "waking my-app"]


def test_why_there_is_no_answer_is_not_printed_beside_what_is_waited_for(
    server: Script, portico: Command, terminal: Terminal
) -> None:
    for status, code in ((404, "SANDBOX_NOT_FOUND"), (401, "UNAUTHORIZED"), (400, "INVALID")):
        server.refuse(status, code)
        assert code in portico("sandbox", "show", "my-app").err
    assert "no answer" in portico("sandbox", "show", "my-app", "--server", NOBODY).err
    assert terminal.spoilt == []


def test_lines_of_a_table_end_with_their_last_word(server: Script, portico: Command) -> None:
    server.answer(200, {"sandboxes": [SANDBOX, {**SANDBOX, "id": "another", "preview_auth": True}], "next": None})
    server.answer(200, SANDBOX)
    lines = portico("sandbox", "list").out.splitlines() + portico("sandbox", "show", "my-app").out.splitlines()
    assert len(lines) > 6
    assert [line for line in lines if line != line.rstrip()] == []
