"""`portico domain`, against a server of answers written beforehand."""

import json

from tests.proxy.cli.conftest import Command
from tests.proxy.client.conftest import Script

DOMAIN = {
    "hostname": "preview.my-app.com",
    "sandbox": "my-app",
    "port": 8080,
    "verified": False,
    "challenge": {
        "txt_name": "_portico-challenge.preview.my-app.com",
        "txt_value": "portico=proof",
        "http_path": "/.well-known/portico-challenge/drawn",
        "http_body": "proof",
    },
}


def test_hostname_that_is_asked_for_is_told_how_to_show_whose_it_is(server: Script, portico: Command) -> None:
    server.answer(201, DOMAIN)
    said = portico("domain", "bind", "my-app", "Preview.my-app.com", "8080")
    assert said.code == 0
    for text in ("_portico-challenge.preview.my-app.com", "portico=proof", "/.well-known/portico-challenge/drawn"):
        assert text in said.out
    assert "portico domain verify" in said.err
    assert server.asked[0].target == "/v1/domains/preview.my-app.com"
    assert server.asked[0].json == {"sandbox": "my-app", "port": 8080}


def test_hostname_that_is_not_verified_yet_is_exit_code_1(server: Script, portico: Command) -> None:
    server.refuse(409, "DOMAIN_NOT_VERIFIED")
    server.answer(200, {**DOMAIN, "verified": True})
    said = portico("domain", "verify", "my-app", "preview.my-app.com")
    assert (said.code, "DOMAIN_NOT_VERIFIED" in said.err) == (1, True)
    said = portico("domain", "verify", "my-app", "preview.my-app.com")
    assert (said.code, said.err, "TXT" in said.out) == (0, "", False)
    assert server.asked[1].target == "/v1/domains/preview.my-app.com/verify?sandbox=my-app"


def test_hostnames_are_listed_of_all_or_of_one(server: Script, portico: Command) -> None:
    server.answer(200, {"domains": [DOMAIN], "next": "preview.my-app.com/my-app"})
    server.answer(200, {"domains": [{**DOMAIN, "hostname": "q.my-app.com"}], "next": None})
    server.answer(200, {"domains": [DOMAIN], "next": None})
    _, first, second = portico("domain", "list").out.splitlines()
    assert first.split() == ["preview.my-app.com", "my-app", "8080", "no"]
    assert second.split()[0] == "q.my-app.com"
    assert json.loads(portico("domain", "list", "my-app", "--json").out) == [DOMAIN]
    assert [asked.target.partition("&")[2] for asked in server.asked] == [
        "",
        "after=preview.my-app.com%2Fmy-app",
        "sandbox=my-app",
    ]


def test_hostname_given_back_says_what_it_cut(server: Script, portico: Command) -> None:
    server.answer(200, {"closed": 2})
    said = portico("domain", "unbind", "my-app", "preview.my-app.com")
    assert (said.code, said.out, "ended: 2" in said.err) == (0, "", True)
    assert (server.asked[0].method, server.asked[0].target) == (
        "DELETE",
        "/v1/domains/preview.my-app.com?sandbox=my-app",
    )


def test_what_is_no_hostname_is_exit_code_2(server: Script, portico: Command) -> None:
    assert portico("domain", "bind", "my-app", "../keys", "8080").code == 2
    assert server.asked == []
