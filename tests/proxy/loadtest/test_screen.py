"""What is shown and reported, and the whole way against a real server."""

import io
import json
import os
import signal
import socket

import pytest
import trio
import trio.testing
from rich.console import Console

from actors import MemoryStore, open_runtime
from actors.testing.containers import Handler, fake_containers
from proxy.loadtest import screen
from proxy.loadtest.drive import Plan
from proxy.loadtest.screen import Outcome, TargetRefusedError, load, print_json, print_report, progress
from proxy.loadtest.tally import Failure, Tally
from proxy.loadtest.target import LoadTarget, Word, read_target
from proxy.options import Options
from proxy.server import Server
from proxy.testing import respond, silence

TOKEN = "k3v9x0q2m7t1z8aa"


def console() -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(file=written, width=120, force_terminal=True, color_system=None), written


def outcome_of(tally: Tally, interrupted: bool = False) -> Outcome:
    return Outcome(tally.report(2.0), interrupted)


def test_progress_shows_how_far_it_is_and_how_it_goes() -> None:
    tally = Tally()
    for _ in range(50):
        tally.answered(200, 0.004, 10)
    tally.failed(Failure.CLOSED)
    shown, written = console()
    shown.print(progress(tally, Plan(connections=1, requests=100), 3.2, 1234.0))
    assert "3 s  50 requests  1,234/s  p50 4.00 ms  p99 4.00 ms  1 errors" in written.getvalue()


def test_report_for_people_has_everything_but_secrets() -> None:
    tally = Tally(under_way=2)
    tally.answered(200, 0.25, 1_000_000)
    tally.answered(503, 0.004, 0)
    shown, written = console()
    target = read_target(f"http://8080-my-app-{TOKEN}.localhost:8787/path?key={TOKEN}")
    print_report(outcome_of(tally, interrupted=True), target, Plan(connections=7, duration_s=9), shown)
    text = written.getvalue()
    assert "GET /path on port 8787: 7 connections, 2.0 s, stopped before its end" in text
    for part in (
        "1.0 a second",
        "250 ms",
        "1,000,000 bytes, 0.50 MB",
        "200: 1, 503: 1",
        "status 503: 1",
        "2 under way",
    ):
        assert part in text
    assert TOKEN not in text


def test_report_for_programs_is_one_line_of_json() -> None:
    tally = Tally()
    tally.failed(Failure.TIMEOUT)
    shown, written = console()
    print_json(outcome_of(tally), shown)
    assert written.getvalue().count("\n") == 1
    read = json.loads(written.getvalue())
    assert read["errors"] == {"no complete answer in time": 1}
    assert (read["requests"], read["p50_ms"], read["interrupted"]) == (0, None, False)


@pytest.mark.parametrize(("statuses", "clean"), [([], False), ([200, 302], True), ([200, 404], False)])
def test_outcome_is_clean_when_something_was_answered_and_all_of_it_well(statuses: list[int], clean: bool) -> None:
    tally = Tally()
    for status in statuses:
        tally.answered(status, 0.001, 0)
    assert outcome_of(tally).clean is clean


async def test_target_elsewhere_is_refused_before_anything_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> object:
        raise AssertionError("nothing is to be dialled")

    monkeypatch.setattr(screen, "dial", never)
    shown, _ = console()
    with pytest.raises(TargetRefusedError, match=r"only servers on this machine can be loaded.*203\.0\.113\.7"):
        await load(LoadTarget("203.0.113.7", 80, "/"), [], Plan(connections=1, requests=1), shown, live=False)


@pytest.mark.parametrize("word", ["203.0.113.7", "203.0.113.8"])
async def test_server_that_vouches_is_asked_about_a_target_elsewhere(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[object] = []
    questions: list[str] = []

    async def refuse(addresses: tuple[str, ...], *_: object) -> trio.abc.Stream:
        dialled.append(addresses)
        raise OSError("refused")

    async def vouch() -> Word:
        questions.append("asked")
        return Word("previews.example.com", (word,), "ADMITTED")

    monkeypatch.setattr(screen, "dial", refuse)
    shown, _ = console()
    target = LoadTarget("203.0.113.7", 80, "/")
    plan = Plan(connections=1, requests=1)
    if word == target.host:
        outcome = await load(target, [], plan, shown, live=False, vouch=vouch)
        assert outcome.report.errors == {Failure.NOT_ACCEPTED.value: 1}
        assert dialled == [("203.0.113.7",)]
    else:
        with pytest.raises(TargetRefusedError, match=r"no address of previews\.example\.com"):
            await load(target, [], plan, shown, live=False, vouch=vouch)
        assert not dialled
    assert len(questions) == 1


async def test_another_host_than_the_one_that_was_judged_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> object:
        raise AssertionError("nothing is to be dialled")

    async def vouch() -> Word:
        return Word("previews.example.com", ("203.0.113.7",), "ADMITTED")

    monkeypatch.setattr(screen, "dial", never)
    shown, _ = console()
    target, plan = LoadTarget("203.0.113.7", 80, "/"), Plan(connections=1, requests=1)
    with pytest.raises(TargetRefusedError, match="another host"):
        await load(target, [("hOst", "victim.example")], plan, shown, live=False, vouch=vouch)


def test_secret_of_a_link_is_not_reported() -> None:
    shown, written = console()
    target = read_target(f"http://8080-my-app-{TOKEN}.localhost:8787/.portico/share/{TOKEN}")
    print_report(outcome_of(Tally()), target, Plan(connections=1, requests=1), shown)
    assert TOKEN not in written.getvalue()
    assert "GET /.portico/ on port 8787" in written.getvalue()


async def test_nobody_is_asked_about_this_machine() -> None:
    async def vouch() -> Word:
        raise AssertionError("nobody is to be asked")

    shown, _ = console()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    outcome = await load(
        LoadTarget("127.0.0.1", port, "/"), [], Plan(connections=1, requests=1), shown, live=False, vouch=vouch
    )
    assert outcome.report.errors == {Failure.NOT_ACCEPTED.value: 1}


async def loaded(handler: Handler, plan: Plan, *, right_token: bool = True, live: bool = False) -> tuple[Outcome, str]:
    """Load a real server, with that service behind it."""
    containers = fake_containers()
    containers.handlers[8080] = handler
    shown, written = console()
    async with (
        open_runtime(MemoryStore(), containers={"fake": containers}) as runtime,
        Server(runtime, listen="127.0.0.1:0", options=Options(drain_timeout_s=0)),
    ):
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        url = (await sandbox.expose_port(8080, token=TOKEN)).url
        target = read_target(url if right_token else url.replace(TOKEN, TOKEN[:-1] + "b"))
        return await load(target, [], plan, shown, live=live), written.getvalue()


async def test_real_server_answers_every_request() -> None:
    outcome, text = await loaded(respond(b"hello"), Plan(connections=4, requests=50))
    assert outcome.clean
    assert not outcome.interrupted
    assert (outcome.report.requests, outcome.report.bytes, outcome.report.statuses) == (50, 250, {"200": 50})
    # Nothing but the report is for a program's eyes, and that is printed later.
    assert text == ""


async def test_wrong_token_shows_as_errors_by_status() -> None:
    outcome, _ = await loaded(respond(b"hello"), Plan(connections=2, requests=5), right_token=False)
    assert outcome.report.errors == {"status 404": 5}
    assert not outcome.clean


async def test_interrupt_ends_it_with_a_report_of_what_was_done() -> None:
    answered = 0
    hello, hang = respond(b"hello"), silence()

    async def interrupting(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal answered
        answered += 1
        if answered > 1:
            os.kill(os.getpid(), signal.SIGINT)
            await hang(stream)
        await hello(stream)

    outcome, _ = await loaded(interrupting, Plan(connections=2, duration_s=600))
    assert outcome.interrupted
    assert outcome.report.unfinished >= 1


async def test_live_display_is_drawn_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "REDRAW_S", 0.001)
    _, text = await loaded(respond(b"hello"), Plan(connections=1, requests=100), live=True)
    assert "requests" in text
