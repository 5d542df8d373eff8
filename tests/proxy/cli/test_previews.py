"""`portico port`, `share` and `preview`, against a server of answers written beforehand."""

import json

import pytest

from tests.proxy.cli.conftest import Command, Terminal
from tests.proxy.cli.test_sandboxes import PORT, URL
from tests.proxy.client.conftest import Script

SHARE = {"id": "sh-1", "port": 8000, "expires_at": "2026-11-22T15:30:00+00:00", "once": True}


def test_exposed_port_is_its_url(server: Script, portico: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_PORT_TOKEN", "stable")
    server.answer(201, PORT)
    said = portico("port", "expose", "my-app", "8000", "--name", "web", "--wake-on-websocket")
    assert (said.code, said.out) == (0, URL + "\n")
    assert server.asked[0].json == {
        "name": "web",
        "token": "stable",
        "host_header": None,
        "domain": None,
        "wake_on_websocket": True,
    }


def test_port_taken_back_says_what_it_cut(server: Script, portico: Command) -> None:
    server.answer(200, {"closed": 2})
    said = portico("port", "unexpose", "my-app", "8000", "--drain", "2.5")
    assert (said.code, said.out) == (0, "")
    assert "ended: 2" in said.err
    assert server.asked[0].target == "/v1/sandboxes/my-app/ports/8000?drain=2.5"


def test_ports_are_listed_with_urls_where_the_key_may_see_them(server: Script, portico: Command) -> None:
    server.answer(200, {"ports": [PORT, {**PORT, "port": 8001, "url": None, "token": None}]})
    _, first, second = portico("port", "list", "my-app").out.splitlines()
    assert first.split() == ["8000", "-", "active", URL]
    assert second.rstrip().endswith("(a secret)")


def test_link_is_told_once_and_revoked_by_its_id(server: Script, portico: Command) -> None:
    server.answer(201, {**SHARE, "url": "http://x/secret"})
    said = portico("share", "create", "my-app", "8000", "--expires-in", "60", "--once")
    assert (said.code, said.out) == (0, "http://x/secret\n")
    assert "not shown again" in said.err
    server.answer(200, {"shares": [SHARE]})
    server.answer(200, {"closed": 1})
    assert json.loads(portico("share", "list", "my-app", "--json").out)[0]["id"] == "sh-1"
    assert "ended: 1" in portico("share", "revoke", "my-app", "sh-1").err


def test_link_may_be_on_a_custom_hostname(server: Script, portico: Command) -> None:
    shown = {**SHARE, "custom_hostname": "preview.my-app.com"}
    server.answer(201, {**shown, "url": "https://preview.my-app.com/secret"})
    said = portico("share", "create", "my-app", "8000", "--expires-in", "60", "--custom-hostname", "preview.my-app.com")
    assert (said.code, said.out) == (0, "https://preview.my-app.com/secret\n")
    assert server.asked[0].json == {"expires_in": 60.0, "once": False, "custom_hostname": "preview.my-app.com"}
    server.answer(200, {"shares": [shown]})
    assert "preview.my-app.com" in portico("share", "list", "my-app").out


@pytest.mark.parametrize("own", [None, "preview-token-of-the-owner"])
def test_preview_token_is_told_once_and_never_an_argument(
    own: str | None, server: Script, portico: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own is not None:
        monkeypatch.setenv("PORTICO_PREVIEW_TOKEN", own)
    server.answer(200, {"token": own or "minted"})
    server.answer(200, {"token": own or "minted", "closed": 4})
    assert portico("preview", "protect", "my-app").out == f"{own or 'minted'}\n"
    said = portico("preview", "rotate", "my-app", "--grace", "5")
    assert (said.out, "ended: 4" in said.err) == (f"{own or 'minted'}\n", True)
    assert server.asked[0].json == {"token": own or "auto"}
    assert server.asked[1].json == {"token": own or "auto", "grace": 5.0}


@pytest.mark.parametrize("command", ["protect", "rotate"])
def test_token_that_is_in_force_is_told_even_if_visits_did_not_end(
    command: str, server: Script, portico: Command
) -> None:
    told = {"error": "2 visits have not ended", "code": "REVOCATION_INCOMPLETE", "remaining": 2, "token": "x" * 43}
    server.answer(504, told)
    server.answer(504, told)
    server.answer(504, {**told, "token": None})
    said = portico("preview", command, "my-app")
    # What goes on reading the new token finds it; what looks at the exit code finds that the cut is not done.
    assert (said.code, said.out) == (1, "x" * 43 + "\n")
    assert "2 visits have not ended" in said.err
    said = portico("preview", command, "my-app", "--json")
    assert (said.code, json.loads(said.out)) == (1, {"token": "x" * 43, "remaining": 2})
    said = portico("preview", command, "my-app")
    assert (said.code, said.out) == (1, "")


@pytest.mark.parametrize("command", ["protect", "rotate"])
def test_token_is_not_printed_beside_what_is_waited_for(
    command: str, server: Script, portico: Command, terminal: Terminal
) -> None:
    told = {"error": "2 visits have not ended", "code": "REVOCATION_INCOMPLETE", "remaining": 2, "token": "x" * 43}
    server.answer(504, told)
    assert portico("preview", command, "my-app").out == "x" * 43 + "\n"
    assert terminal.spoilt == []


def test_previews_are_made_listed_and_deleted(server: Script, portico: Command) -> None:
    shown = {"id": "p", "sandboxId": "my-app", "hostname": "sb-1a2b3c4d-p80.localhost", "port": 80, "createdAt": "now"}
    server.answer(201, shown)
    server.answer(200, [shown])
    server.answer(204, b"")
    server.refuse(404, "NOT_FOUND")
    assert portico("preview", "create", "my-app", "80").out == "sb-1a2b3c4d-p80.localhost\n"
    assert "sb-1a2b3c4d-p80.localhost" in portico("preview", "list", "my-app").out
    assert portico("preview", "delete", "my-app", "80").code == 0
    assert portico("preview", "delete", "my-app", "80").code == 1
