"""`portico log` and `portico doctor`, as far as they need no server. tests/e2e has the rest."""

import json
from pathlib import Path

import pytest

from proxy.loadtest import screen
from tests.proxy.cli.conftest import KEY, Command, Terminal
from tests.proxy.client.conftest import Script


def test_log_of_a_missing_folder_is_exit_code_1_and_makes_none(portico: Command, tmp_path: Path) -> None:
    said = portico("log", "demo")
    assert (said.code, said.out, said.err) == (1, "", "portico: there is no data folder portico-data\n")
    assert not list(tmp_path.iterdir())


def test_log_of_an_unknown_sandbox_is_exit_code_1(portico: Command, tmp_path: Path) -> None:
    said = portico("log", "demo", "--data", str(tmp_path))
    assert (said.code, said.err) == (1, f"portico: there is no log of sandbox demo in {tmp_path}\n")


# The doctor, as far as it needs no server. tests/e2e has the rest.

SECRET_URL = "http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:1/"


def test_doctor_names_the_one_thing_and_exits_with_1(portico: Command) -> None:
    said = portico("doctor", SECRET_URL, "--via", "127.0.0.1:1")
    assert (said.code, said.err) == (1, "")
    *steps, mend = said.out.splitlines()
    assert [line.split()[:2] for line in steps] == [["name", "ok"], ["dns", "skipped"], ["connect", "failed"]]
    assert mend.startswith("Mend this: start the server (portico serve")
    assert "k3v9x0q2m7t1z8aa" not in said.out


def test_doctor_tells_programs_in_json_without_the_token(portico: Command) -> None:
    said = portico("doctor", SECRET_URL, "--json", "--via", "127.0.0.1:1")
    assert said.code == 1
    answer = json.loads(said.out)
    assert (answer["url"], answer["sound"]) == ("http://8080-my-app-****.localhost:1/", False)
    assert {step["outcome"] for step in answer["steps"]} == {"ok", "failed", "skipped"}
    assert "k3v9x0q2m7t1z8aa" not in said.out


def test_doctor_looks_into_no_data_folder_that_nobody_named(portico: Command, tmp_path: Path) -> None:
    portico("doctor", SECRET_URL, "--via", "127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_doctor_takes_the_sign_of_waiting_away_before_each_finding(
    portico: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    monkeypatch.setattr("proxy.cli.waiting.Sign.heard", lambda _: heard.append(capsys.readouterr().out))
    said = portico("doctor", "http://127.0.0.1:1/")
    assert heard == [""]
    assert said.out.startswith("name      failed  ")


# The load test, as far as a server's word goes. The address is one that no machine has (RFC 5737).

ELSEWHERE = "http://203.0.113.7/"


@pytest.fixture
def nothing_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> object:
        raise AssertionError("nothing is to be dialled")

    monkeypatch.setattr(screen, "dial", never)


def explanation(code: str) -> dict[str, object]:
    outcome = {"status": None, "code": code, "text": "as the server says"}
    return {"url": ELSEWHERE, "sandbox": "my-app", "steps": [], "outcome": outcome}


@pytest.mark.usefixtures("nothing_is_dialled")
def test_server_that_is_named_is_asked_whether_a_target_elsewhere_is_its_own(server: Script, portico: Command) -> None:
    server.answer(200, explanation("INVALID_TOKEN"))
    said = portico("bench", ELSEWHERE)
    assert (said.code, said.out) == (1, "")
    assert said.err == ("portico: 127.0.0.1 lets nobody in at that URL (INVALID_TOKEN): portico explain says why\n")
    (asked,) = server.asked
    assert asked.target.startswith("/v1/explain?url=")


@pytest.mark.usefixtures("nothing_is_dialled")
def test_name_that_leads_elsewhere_than_its_server_is_not_loaded(server: Script, portico: Command) -> None:
    server.answer(200, explanation("ADMITTED"))
    said = portico("bench", ELSEWHERE)
    assert (said.code, said.out) == (1, "")
    assert "leads to 203.0.113.7, which is no address of 127.0.0.1" in said.err


@pytest.mark.usefixtures("nothing_is_dialled")
def test_key_that_may_not_see_the_sandbox_does_not_load_it(server: Script, portico: Command) -> None:
    server.refuse(403, "FORBIDDEN")
    said = portico("bench", ELSEWHERE)
    assert (said.code, said.out) == (1, "")
    assert "FORBIDDEN" in said.err


@pytest.mark.usefixtures("nothing_is_dialled")
def test_why_a_target_is_not_loaded_is_not_printed_beside_what_is_waited_for(
    server: Script, portico: Command, terminal: Terminal
) -> None:
    server.answer(200, explanation("ADMITTED"))
    assert "no address of 127.0.0.1" in portico("bench", ELSEWHERE).err
    # Port 1 of this machine: nobody listens there.
    said = portico("bench", ELSEWHERE, "--api-key", KEY, "--server", "http://127.0.0.1:1")
    assert "no answer" in said.err
    assert "shows in the list of processes" in said.err
    assert terminal.spoilt == []
