"""Whether a WebSocket goes through and an event stream flows, by what came and when."""

import json

import pytest

from proxy.core.diagnosis import NoReply, Outcome, Reply, Silence, Target
from proxy.core.flow import BadAccept, Stream, Upgraded, judge_events, judge_websocket

TARGET = Target.read("https://8080-my-app-k3v9x0q2m7t1z8aa.example.com/")
STREAM_FIELDS = (("content-type", "text/event-stream"),)

WebSocketSaid = Upgraded | BadAccept | Reply | NoReply
EventsSaid = Stream | Reply | NoReply


def stream(*pieces: tuple[float, int], ended: bool = False, head_s: float = 0.01, coding: str = "") -> Stream:
    fields = (*STREAM_FIELDS, ("content-encoding", coding)) if coding else STREAM_FIELDS
    return Stream(Reply(200, fields, b"", head_s), pieces, ended, 5.0)


@pytest.mark.parametrize(
    ("said", "named", "outcome", "words"),
    [
        (Upgraded(pong=True), False, Outcome.OK, "a ping comes back"),
        (Upgraded(pong=False, closed=True), True, Outcome.OK, "closes it by itself"),
        (Upgraded(pong=False), False, Outcome.FAILED, "portico doctor --via"),
        (BadAccept(), False, Outcome.FAILED, "cache"),
        (Reply(404, ()), False, Outcome.SKIPPED, "--websocket PATH"),
        (Reply(404, ()), True, Outcome.FAILED, "proxy_set_header Upgrade"),
        (Reply(200, ()), True, Outcome.FAILED, "as a plain request: 200"),
        (Reply(403, ()), True, Outcome.FAILED, "allowedDevOrigins"),
        (Reply(403, (), b"Invalid Host header"), False, Outcome.FAILED, "allowedHosts"),
        (NoReply(Silence.TIMEOUT, 10.0), False, Outcome.SKIPPED, "--websocket PATH"),
        (NoReply(Silence.TIMEOUT, 10.0), True, Outcome.FAILED, "Upgrade"),
        (NoReply(Silence.CLOSED, 1.0), True, Outcome.FAILED, "gets no answer"),
    ],
)
def test_websocket_is_judged_by_what_came_of_the_handshake(
    said: WebSocketSaid, named: bool, outcome: Outcome, words: str
) -> None:
    found = judge_websocket(TARGET, said, path="/ws?token=secret", named=named)
    assert found.outcome is outcome
    assert words in f"{found.text} {found.mend}"
    assert "secret" not in f"{found.text} {found.mend}"


def test_websocket_at_webpacks_path_comes_with_what_webpack_needs_behind_a_proxy() -> None:
    advice = 'webSocketURL = "auto://0.0.0.0:0/ws"'
    assert advice in judge_websocket(TARGET, Upgraded(pong=True), path="/ws?x=1", named=True).text
    assert advice not in judge_websocket(TARGET, Upgraded(pong=True), path="/hmr", named=True).text


def test_refusal_of_our_own_is_no_plain_answer_of_a_service() -> None:
    body = json.dumps({"error": "…", "code": "OVERLOADED"}).encode()
    said = Reply(503, (("content-type", "application/json"),), body)
    assert "503 OVERLOADED" in judge_websocket(TARGET, said, path="/ws", named=True).text


@pytest.mark.parametrize(
    ("said", "named", "outcome", "words"),
    [
        (stream((0.1, 1), (1.1, 1)), False, Outcome.OK, "flows"),
        # In a burst of its own, after the first: something did come by itself.
        (stream((0.1, 1), (3.0, 5), ended=True), True, Outcome.OK, "flows"),
        (stream((3.0, 5), ended=True, head_s=3.0), True, Outcome.FAILED, "proxy_buffering off"),
        (stream((3.0, 3), (3.01, 3), head_s=3.0), False, Outcome.FAILED, "after 3.0 s"),
        (stream((3.0, 0), ended=True, coding="gzip"), True, Outcome.FAILED, "compression (gzip)"),
        # Nothing that a slow service could not do by itself.
        (stream((3.0, 2)), True, Outcome.OK, "too little to tell"),
        (stream((0.1, 5), ended=True), True, Outcome.OK, "too little to tell"),
        (stream(), True, Outcome.SKIPPED, "no event came within 5 s"),
        (stream(ended=True), True, Outcome.SKIPPED, "without an event"),
        (Reply(200, (("content-type", "text/html"),)), False, Outcome.SKIPPED, "200 text/html"),
        (Reply(200, (("content-type", "text/html"),)), True, Outcome.FAILED, "--events PATH"),
        (NoReply(Silence.TIMEOUT, 10.0), False, Outcome.SKIPPED, "--events PATH"),
        (NoReply(Silence.TIMEOUT, 10.0), True, Outcome.FAILED, "not even a response head"),
        (NoReply(Silence.CLOSED, 1.0), True, Outcome.FAILED, "breaks off"),
    ],
)
def test_event_stream_is_judged_by_when_its_pieces_came(
    said: EventsSaid, named: bool, outcome: Outcome, words: str
) -> None:
    found = judge_events(TARGET, said, path="/events?key=secret", named=named)
    assert found.outcome is outcome
    assert words in f"{found.text} {found.mend}"
    assert "secret" not in f"{found.text} {found.mend}"


def test_secret_of_a_share_is_in_no_finding() -> None:
    link = "/.portico/share/hush?x=hush"
    for named in (False, True):
        for judge in (judge_websocket, judge_events):
            found = judge(TARGET, NoReply(Silence.TIMEOUT, 1.0), path=link, named=named)
            assert "hush" not in repr(found)
