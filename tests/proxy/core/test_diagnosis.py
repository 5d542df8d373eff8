"""URLs taken apart, replies recognised, findings put in order; and no token in any of it."""

import json

import pytest

from proxy.core.diagnosis import (
    BadURLError,
    Outcome,
    Reply,
    Step,
    Target,
    check_path,
    diagnose,
    failed,
    ok,
    skipped,
)
from proxy.core.hostname import BuiltInHost, TokenHost
from proxy.core.pages import Code

TOKEN = "k3v9x0q2m7t1z8aa"
URL = f"https://8080-my-app-{TOKEN}.example.com/"


def reply(status: int, body: object, kind: str = "application/json") -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, (("content-type", kind),), content)


# URLs.


@pytest.mark.parametrize(
    ("url", "scheme", "port", "path"),
    [
        (URL, "https", 443, "/"),
        (f"http://8080-my-app-{TOKEN}.localhost:8787/a?b=c#d", "http", 8787, "/a?b=c"),
        (f"  wss://8080-my-app-{TOKEN}.example.com/ws", "https", 443, "/ws"),
        (f"HTTP://8080-My-App-{TOKEN.upper()}.Example.com.", "http", 80, "/"),
        # As people paste it.
        (f"8080-my-app-{TOKEN}.example.com/x", "https", 443, "/x"),
        (f"8080-my-app-{TOKEN}.localhost:8787", "http", 8787, "/"),
    ],
)
def test_url_is_taken_apart(url: str, scheme: str, port: int, path: str) -> None:
    target = Target.read(url)
    assert (target.scheme, target.port, target.path) == (scheme, port, path)
    assert isinstance(target.preview, TokenHost)
    assert (target.preview.sandbox, target.preview.port) == ("my-app", 8080)


def test_built_in_name_is_a_preview_without_a_token() -> None:
    target = Target.read("https://sb-1a2b3c4d-p8080.example.com/")
    assert isinstance(target.preview, BuiltInHost)
    assert target.shown == "sb-1a2b3c4d-p8080.example.com"


@pytest.mark.parametrize("host", ["example.com", "localhost", "192.0.2.7", "[::1]", "quiet-amber.example.com", "x.com"])
def test_host_that_is_no_previews_is_read_all_the_same(host: str) -> None:
    assert Target.read(f"http://{host}/").preview is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://x",
        "https://user:secret@x.example.com",
        "http://a b/",
        "http://[::1",
        "http://x/\u00e9",
        "http://h/a b",
    ],
)
def test_what_is_no_url_is_said_without_quoting_it(url: str) -> None:
    with pytest.raises(BadURLError) as refused:
        Target.read(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["ws", "/a b", "/\u00e9", "/\r\nX: y"])
def test_path_that_no_request_line_holds_is_refused(path: str) -> None:
    with pytest.raises(BadURLError):
        check_path(path)


def test_token_shows_nowhere() -> None:
    target = Target.read(f"{URL}some?key=secret")
    shown = (repr(target), target.shown, target.shown_origin, target.at(target.path), str(target))
    assert not [text for text in shown if TOKEN in text or "secret" in text]
    assert target.at(target.path) == "https://8080-my-app-****.example.com/some"
    assert target.scrub(f"a {TOKEN} in 8080-my-app-{TOKEN}.x\r\nand more") == "a **** in 8080-my-app-****.x  and more"


def test_token_of_one_letter_is_scrubbed_as_part_of_its_label_only() -> None:
    target = Target.read("https://8080-my-app-a.example.com/")
    assert target.scrub("a cat at 8080-my-app-a.example.com") == "a cat at 8080-my-app-****.example.com"


def test_probe_has_the_domain_and_the_port() -> None:
    assert Target.read("http://8080-a-b.localhost:8787/").probe_host("x") == "x.localhost:8787"
    assert Target.read("https://8080-a-b.example.com/").probe_host("x") == "x.example.com"


# Replies.


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (reply(404, {"error": "…", "code": "INVALID_TOKEN"}), Code.INVALID_TOKEN),
        (reply(502, {"error": "…", "code": "NOT_LISTENING", "port": 8080}), Code.NOT_LISTENING),
        (reply(410, {"error": "…", "code": "SANDBOX_STOPPED"}), Code.SANDBOX_STOPPED),
        # Of services.
        (reply(200, {"error": "…", "code": "INVALID_TOKEN"}), None),
        (reply(404, {"error": "…", "code": "invalid"}), None),
        (reply(404, {"error": "…"}), None),
        (reply(404, ["code"]), None),
        (reply(404, b"{"), None),
        (reply(404, b"\xff"), None),
        (reply(404, b"[" * 100_000), None),
        (reply(404, {"error": "…", "code": "INVALID_TOKEN"}, "text/html"), None),
    ],
)
def test_answers_of_our_own_are_told_by_code_and_status(said: Reply, code: Code | None) -> None:
    assert said.code is code


def test_first_of_several_fields_counts() -> None:
    said = Reply(200, (("a", "1"), ("a", "2")))
    assert (said.header("a"), said.header("b")) == ("1", "")


# Findings.


def test_first_failure_in_the_order_of_steps_is_the_one_to_mend() -> None:
    diagnosis = diagnose([failed(Step.PORT, "p", "mend p"), ok(Step.NAME, "n"), failed(Step.TOKEN, "t", "mend t")])
    assert diagnosis.mend == "mend t"
    assert [found.step for found in diagnosis.findings] == list(Step)


def test_steps_that_nobody_got_to_say_what_comes_first() -> None:
    diagnosis = diagnose([ok(Step.NAME, "n"), failed(Step.DNS, "d", "mend d")])
    later = diagnosis.findings[2:]
    assert {found.outcome for found in later} == {Outcome.SKIPPED}
    assert {found.text for found in later} == {"dns comes first"}


def test_nothing_failed_is_nothing_to_mend() -> None:
    assert diagnose([ok(Step.NAME, "n"), skipped(Step.TLS, "plain http")]).mend is None


def test_of_two_findings_on_a_step_the_failed_one_counts() -> None:
    diagnosis = diagnose([ok(Step.TLS, "well"), failed(Step.TLS, "not any more", "mend"), ok(Step.TLS, "well")])
    assert diagnosis.mend == "mend"


@pytest.mark.parametrize("host", ["8080-my-app-share00000000001.example.com", "preview.my-app.com"])
def test_secret_of_a_link_is_scrubbed(host: str) -> None:
    target = Target.read(f"https://{host}/.portico/share/secret-of-a-link?x=1")
    assert target.share_secret == "secret-of-a-link"
    assert "secret-of-a-link" not in target.scrub("it says: /.portico/share/secret-of-a-link") + target.at(target.path)
    assert Target.read(f"https://{host}/.portico/share/").share_secret is None
    assert Target.read(f"https://{host}/").share_secret is None
