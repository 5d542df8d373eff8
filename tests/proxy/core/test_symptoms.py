"""Every code has its step and its remedy; a service's own answers are told apart."""

import json

import pytest

from proxy.core.diagnosis import NoReply, Outcome, Reply, Silence, Step, Target
from proxy.core.pages import Code, refusal
from proxy.core.symptoms import host_check, judge_host_check, judge_link, judge_reply

TOKEN = "k3v9x0q2m7t1z8aa"
LABEL = f"8080-my-app-{TOKEN}"
TARGET = Target.read(f"https://{LABEL}.example.com/")


def ours(code: Code, error: str = "…") -> Reply:
    status = refusal(code, port=8080, sandbox="my-app").status
    body = json.dumps({"error": error, "code": code}).encode()
    return Reply(status, (("content-type", "application/json"),), body)


def page(status: int, body: str, **fields: str) -> Reply:
    return Reply(status, tuple(fields.items()), body.encode())


def test_sound_answer_is_four_steps_ok() -> None:
    found = judge_reply(TARGET, page(200, "<h1>hello</h1>"))
    assert [(one.step, one.outcome) for one in found] == [
        (step, Outcome.OK) for step in (Step.TOKEN, Step.RUN, Step.PORT, Step.SERVICE)
    ]


@pytest.mark.parametrize(
    ("code", "step", "mend"),
    [
        (Code.INVALID_TOKEN, Step.TOKEN, "expose_port(8080)"),
        (Code.SANDBOX_NOT_FOUND, Step.TOKEN, "open_ports=True"),
        (Code.AUTH_REQUIRED, Step.TOKEN, "PORTICO_PREVIEW_TOKEN"),
        (Code.AUTH_INVALID, Step.TOKEN, "rotate_preview_auth()"),
        (Code.STALE_PREVIEW_URL, Step.RUN, "when_asleep='wake'"),
        (Code.WAKING, Step.RUN, "--wake-timeout-s"),
        (Code.SANDBOX_STOPPED, Step.RUN, "get_sandbox('my-app')"),
        (Code.CONTAINER_START, Step.RUN, "log"),
        (Code.QUARANTINED, Step.RUN, "portico log my-app --verify"),
        (Code.ACTOR_BROKEN, Step.RUN, "again"),
        (Code.TRY_AGAIN, Step.RUN, "again"),
        (Code.SHUTTING_DOWN, Step.RUN, "portico serve"),
        (Code.OVERLOADED, Step.RUN, "--visits-per-sandbox-max"),
        (Code.NOT_LISTENING, Step.PORT, "0.0.0.0"),
        (Code.UPSTREAM_CLOSED, Step.PORT, "logs()"),
        (Code.UPSTREAM_TIMEOUT, Step.PORT, "--response-timeout-s"),
        (Code.BAD_RESPONSE, Step.PORT, "plain HTTP"),
    ],
)
def test_each_code_breaks_its_step_and_those_before_are_sound(code: Code, step: Step, mend: str) -> None:
    *before, last = judge_reply(TARGET, ours(code))
    assert {one.outcome for one in before} <= {Outcome.OK}
    assert (last.step, last.outcome) == (step, Outcome.FAILED)
    assert mend in last.mend


@pytest.mark.parametrize("code", list(Code))
def test_no_code_is_taken_for_a_services_answer(code: Code) -> None:
    assert judge_reply(TARGET, ours(code))[-1].outcome is Outcome.FAILED


def test_addresses_that_were_tried_are_told() -> None:
    tried = "nothing answers on port 8080 (127.0.0.1: connection refused; ::1: connection refused)"
    assert tried in judge_reply(TARGET, ours(Code.NOT_LISTENING, tried))[-1].text


@pytest.mark.parametrize(("why", "step"), [(Silence.TIMEOUT, Step.RUN), (Silence.CLOSED, Step.PORT)])
def test_no_answer_at_all_is_a_failure(why: Silence, step: Step) -> None:
    (found,) = judge_reply(TARGET, NoReply(why, 100.0))
    assert (found.step, found.outcome) == (step, Outcome.FAILED)


def test_failure_of_the_service_itself_is_the_services() -> None:
    found = judge_reply(TARGET, page(500, "oops"))[-1]
    assert (found.step, found.outcome) == (Step.SERVICE, Outcome.FAILED)
    assert "answers 500" in found.text


# Host checks, as these servers refuse.

REFUSALS = [
    (
        "Vite",
        403,
        f'Blocked request. This host ("{LABEL}.example.com") is not allowed.\nTo allow this host, add it',
        'allowedHosts: [".example.com"]',
    ),
    ("webpack-dev-server", 403, "Invalid Host header", "devServer.allowedHosts"),
    ("webpack-dev-server", 403, "Invalid Host/Origin header", "devServer.allowedHosts"),
    (
        "Django",
        400,
        f"<title>DisallowedHost at /</title>Invalid HTTP_HOST header: '{LABEL}.example.com'. You may need to add it",
        'ALLOWED_HOSTS = [".example.com"]',
    ),
    (
        "Django",
        400,
        '<!doctype html><html lang="en"><head><title>Bad Request</title></head><body><h1>Bad Request (400)</h1><p></p>',
        "ALLOWED_HOSTS",
    ),
    ("Rails", 403, f"<h1>Blocked hosts: {LABEL}.example.com</h1>", 'config.hosts << ".example.com"'),
    ("Flask", 400, f"Host '{LABEL}.example.com' is not trusted.", "TRUSTED_HOSTS"),
    ("Next.js", 403, "Blocked cross-origin request to /_next/*", 'allowedDevOrigins: ["*.example.com"]'),
    ("the service", 421, "This hostname is not permitted here", ".example.com"),
]


@pytest.mark.parametrize(("framework", "status", "body", "mend"), REFUSALS)
def test_host_check_is_told_with_its_setting_by_name(framework: str, status: int, body: str, mend: str) -> None:
    found = judge_reply(TARGET, page(status, body))[-1]
    assert (found.step, found.outcome) == (Step.SERVICE, Outcome.FAILED)
    assert found.text == f"{framework} refuses the Host it is asked by ({status})"
    assert mend in found.mend
    assert 'host_header="localhost"' in found.mend
    assert TOKEN not in found.text + found.mend


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "Invalid Host header"),
        (404, "Blocked hosts: x"),
        (403, "Forbidden"),
        (403, "<p>Our docs say: Invalid Host header</p><p>and more</p>" * 3),
        (403, "The host of the party"),
        (400, "\xff" * 100_000),
    ],
)
def test_other_refusals_are_no_host_check(status: int, body: str) -> None:
    said = page(status, body)
    check = host_check(said)
    # A page that only quotes the words may still pass for a Host check of an unknown service, never for webpack's.
    assert check is None or (check.framework == "the service" and "docs" in body)


def test_what_the_port_is_exposed_with_decides_over_the_guess() -> None:
    said = page(403, "Invalid Host header")
    check = host_check(said)
    assert check is not None
    preserved = judge_host_check(TARGET, said, check, preserved=True)
    assert preserved.mend.startswith("let the service see localhost")
    assert judge_host_check(TARGET, said, check, preserved=False).mend != preserved.mend
    # Not known: the refusal names what it saw.
    named = page(403, "Blocked request. This host (x.example.com) is not allowed")
    vite = host_check(named)
    assert vite is not None
    assert judge_host_check(TARGET, named, vite).mend.startswith("let the service see localhost")


# Redirects.


@pytest.mark.parametrize(
    ("location", "outcome", "text"),
    [
        ("/login", Outcome.OK, "another page of its own"),
        (f"https://{LABEL}.example.com/login", Outcome.OK, "another page of its own"),
        ("https://accounts.example.org/", Outcome.OK, "to accounts.example.org"),
        (f"https://{LABEL}.example.com/", Outcome.FAILED, "without end"),
        (f"https://{LABEL.upper()}.example.com", Outcome.FAILED, "without end"),
        ("/", Outcome.FAILED, "without end"),
        ("http://localhost:5173/", Outcome.FAILED, "their own machine, localhost:5173"),
        ("https://127.0.0.1/", Outcome.FAILED, "their own machine, 127.0.0.1"),
        ("http://[::1/", Outcome.FAILED, "no URL"),
        ("https://x:99999/", Outcome.FAILED, "no URL"),
    ],
)
def test_redirect_is_judged_by_where_it_leads(location: str, outcome: Outcome, text: str) -> None:
    found = judge_reply(TARGET, page(302, "", location=location))[-1]
    assert (found.step, found.outcome) == (Step.SERVICE, outcome)
    assert text in found.text
    assert TOKEN not in found.text + found.mend


def test_service_that_wants_https_is_heard() -> None:
    plain = Target.read(f"http://{LABEL}.example.com/")
    found = judge_reply(plain, page(301, "", location=f"https://{LABEL}.example.com/"))[-1]
    assert found.outcome is Outcome.FAILED
    assert found.mend == "use the URL with https: portico doctor https://8080-my-app-****.example.com/"


# Links.

LINK = Target.read("https://8080-my-app-share00000000001.example.com/.portico/share/secret-of-a-link")


@pytest.mark.parametrize(
    ("said", "outcome", "words"),
    [
        (
            Reply(303, (("location", "https://elsewhere.example.com/"),)),
            Outcome.OK,
            "the link opens",
        ),
        (ours(Code.METHOD_NOT_ALLOWED), Outcome.OK, "one session, and has not yet"),
        (
            ours(Code.SHARE_SPENT),
            Outcome.FAILED,
            "make another: (await sandbox.share(8080, expires_in=3600, once=True",
        ),
        (ours(Code.INVALID_TOKEN), Outcome.FAILED, "make another: (await sandbox.share(8080, expires_in=3600)).url"),
        (ours(Code.TOO_MANY_TRIES), Outcome.FAILED, "in a minute"),
        (NoReply(Silence.CLOSED, 1.0), Outcome.FAILED, "without an answer"),
    ],
)
def test_answer_to_a_link_says_what_the_link_is_worth(said: Reply | NoReply, outcome: Outcome, words: str) -> None:
    first, *rest = judge_link(LINK, said)
    assert first.outcome is outcome
    assert words in f"{first.text} {first.mend}"
    assert all(found.outcome is Outcome.SKIPPED for found in rest)
    # One that opens once is not looked behind.
    assert bool(rest) is (isinstance(said, Reply) and said.code is Code.METHOD_NOT_ALLOWED)


def test_link_that_cannot_be_judged_is_as_any_other_answer() -> None:
    assert [found.step for found in judge_link(LINK, ours(Code.QUARANTINED))][-1] is Step.RUN


def test_who_lacks_the_token_is_told_of_links_too() -> None:
    assert "(await sandbox.share(8080, expires_in=3600)).url" in judge_reply(LINK, ours(Code.AUTH_REQUIRED))[0].mend


def test_page_of_ours_that_is_not_there_is_told_from_the_services() -> None:
    (found,) = judge_reply(LINK, ours(Code.NOT_FOUND))
    assert (found.step, "no such page" in found.text) == (Step.TOKEN, True)
    assert found.mend.endswith("portico doctor https://8080-my-app-****.example.com/")
