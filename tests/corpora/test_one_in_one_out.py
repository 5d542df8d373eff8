"""One in, one out, for every input of the corpora; and the judge of it finds what it is there to find."""

import base64
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.corpora import one_in_one_out
from tests.corpora.one_in_one_out import Outcome, judge, read_inputs, run, spellings
from tests.corpora.strict_reader import read_requests

FOLDER = Path(__file__).parents[1] / "data" / "corpora"
CORPORA = ("gunicorn-requests", "llhttp-request-md", "http-garden-trophies")

# What the source accepts and we refuse: {corpus: {reason: ids}}.
STRICTER: Mapping[str, Mapping[str, Sequence[str]]] = {
    "gunicorn-requests": {
        "a fragment is never sent (RFC 9112 section 3.2)": ["valid/005"],
        "two lengths are how requests are smuggled (RFC 9112 section 6.3)": ["valid/009"],
        "no transfer coding but chunked: we would have to decode the other (RFC 9112 section 7.4)": [
            "valid/025",
            "valid/025_line",
            "valid/029",
            "valid/030",
            "valid/rfc9112_smuggle_gzip_chunked_01",
            "valid/rfc9112_smuggle_te_identity_chunked_01",
        ],
        "a target is visible ASCII (RFC 3986)": ["valid/027"],
        "space before the colon must be refused (RFC 9112 section 5.1)": ["valid/028"],
        "Transfer_Encoding and Content_Length pass for the framing fields in CGI and WSGI": [
            "valid/040",
            "valid/040_compat",
        ],
        "the file has fewer bytes of content than its Content-Length says": ["valid/099"],
        "obs-fold may be refused (RFC 9112 section 5.2)": ["valid/compat_obs_fold", "valid/compat_obs_fold_huge"],
        "the PROXY protocol is not spoken here": ["valid/pp_01", "valid/pp_02", "valid/pp_04", "valid/pp_05"],
        "user information is an error in a request (RFC 9110 section 4.2.4)": [
            "valid/rfc9112_target_absolute_userinfo_01"
        ],
        "CONNECT would make a tunnel of us": [
            "valid/rfc9112_target_authority_connect_01",
            "valid/rfc9112_target_authority_ipv6_01",
        ],
    },
    "llhttp-request-md": {
        "accepted in a lenient mode only": [
            "content-length#7 No error on simultaneous `Content-Length` and `Transfer-Encoding: identity` (lenient)",
            "content-length#17 Missing CRLF-CRLF before body (lenient)",
            "invalid#21 Only LFs present (lenient)",
            "invalid#23 Spaces before headers (lenient)",
            "lenient-header-value-relaxed#0 Control char in header value (relaxed)",
            "lenient-headers#0 Header value (lenient)",
            "lenient-headers#1 Second request header value (lenient)",
            "lenient-headers#3 Empty headers separated by CR (lenient)",
            "lenient-version#0 Invalid HTTP version (lenient)",
            "sample#10 Line folding in header value with CRLF",
            "sample#13 No LF after CR (lenient)",
            "sample#17 X-SSL-Nonsense",
            "transfer-encoding#13 POST with `Transfer-Encoding` and `Content-Length` (lenient)",
            "transfer-encoding#17 POST with `chunked` before other transfer-coding (lenient)",
            "transfer-encoding#18 POST with `chunked` and duplicate transfer-encoding (lenient)",
            "transfer-encoding#26 Chunk header not terminated by CRLF (lenient)",
            "transfer-encoding#28 Chunk data not terminated by CRLF (lenient)",
            "transfer-encoding#30 Space after chunk header (lenient)",
        ],
        "the input ends in the middle of a request": [
            "content-length#9 Spaces in `Content-Length` (surrounding)",
            "content-length#10 Tabs in `Content-Length` (surrounding)",
            "content-length#15 Content-Length reset when no body is received",
            "finish#1 It should be unsafe to finish after incomplete PUT request",
            "finish#2 It should be unsafe to finish inside of the header",
            "pipelining#0 Should parse multiple events",
            "transfer-encoding#0 Parsing and setting flag",
            "transfer-encoding#6 Chunk extensions",
            "transfer-encoding#9 Chunk extensions quoting",
        ],
        "a line ends in CRLF (RFC 9112 section 2.2 lets us refuse a bare LF)": [
            "sample#1 Request with method starting with `H`",
            "sample#15 Extended Characters",
            "sample#16 255 ASCII in header value",
        ],
        "another protocol": [
            "method#11 SOURCE request with ICE",
            "method#12 OPTIONS request with RTSP",
            "method#13 ANNOUNCE request with RTSP",
            "sample#9 No HTTP version",
        ],
        "only OPTIONS has the target * (RFC 9112 section 3.2.4)": ["method#4 M-SEARCH request"],
        "no transfer coding but chunked: we would have to decode the other (RFC 9112 section 7.4)": [
            "transfer-encoding#19 POST with `chunked` as last transfer-encoding",
            "transfer-encoding#20 POST with `chunked` as last transfer-encoding (multiple headers)",
        ],
        "a fragment is never sent (RFC 9112 section 3.2)": ["uri#7 Fragment in URI"],
        "user information is an error in a request (RFC 9110 section 4.2.4)": ["uri#9 `host:port` and basic auth"],
    },
}

# What the source refuses and we forward, once its Host is ours: {corpus: {reason: ids}}.
TAKEN: Mapping[str, Mapping[str, Sequence[str]]] = {
    "gunicorn-requests": {
        "a method is any token (RFC 9110 section 9.1)": ["invalid/003c"],
        "over a limit of gunicorn's (lines of 4 or 8 KiB, or one that the case sets), within ours of 64 KiB": [
            "invalid/006",
            "invalid/007",
            "invalid/008",
            "invalid/010",
            "invalid/011",
            "invalid/012",
            "invalid/017",
            "invalid/limit_header_default_01",
        ],
        "fields that contradict each other about TLS: both are dropped, and ours set": ["invalid/019"],
    },
    "llhttp-request-md": {
        "the first request is in order, and nothing after it is forwarded": [
            "connection#2 No restart when keep-alive is off (1.0)",
            "connection#4 CRLF between requests, implicit `keep-alive`",
        ],
        "`error` stands for the pause at an upgrade; here the service declines it": [
            "connection#9 Multiple tokens with folding and LWS",
            "connection#13 Setting a flag and pausing",
            "connection#15 Upgrade GET request",
            "connection#16 Upgrade POST request",
        ],
        "a method is any token (RFC 9110 section 9.1)": [
            "invalid#3 HTTP protocol and ANNOUNCE method",
            "invalid#13 Invalid method",
        ],
    },
}


@cache
def found(corpus: str) -> Sequence[Outcome]:
    return run(read_inputs(FOLDER / f"{corpus}.jsonl"))


def by_input(corpus: str) -> Mapping[str, Sequence[Outcome]]:
    grouped: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in found(corpus):
        grouped[outcome.input.id].append(outcome)
    return grouped


@pytest.mark.parametrize("corpus", CORPORA)
def test_each_request_behind_the_proxy_is_one_answer_before_it(corpus: str) -> None:
    broken = [f"{outcome.name}: {violation}" for outcome in found(corpus) for violation in outcome.violations]
    assert not broken
    assert any(len(outcome.behind) > 1 for outcome in found(corpus)) or corpus == "http-garden-trophies"


def test_nothing_that_gunicorn_rejects_is_forwarded_as_it_is() -> None:
    rejected = [outcome for outcome in found("gunicorn-requests") if outcome.input.expect == "reject"]
    assert len({outcome.input.id for outcome in rejected}) == 74
    assert not [outcome.name for outcome in rejected if outcome.spelling == "as it is" and outcome.behind]


@pytest.mark.parametrize("corpus", list(TAKEN))
def test_what_the_source_refuses_is_forwarded_only_for_a_reason(corpus: str) -> None:
    taken = [
        name
        for name, outcomes in by_input(corpus).items()
        if outcomes[0].input.expect in ("reject", "error") and any(outcome.behind for outcome in outcomes)
    ]
    assert sorted(taken) == sorted(name for names in TAKEN[corpus].values() for name in names)


@pytest.mark.parametrize("corpus", list(STRICTER))
def test_what_the_source_accepts_is_refused_only_for_a_reason(corpus: str) -> None:
    refused = [
        name
        for name, outcomes in by_input(corpus).items()
        if outcomes[0].input.expect in ("accept", "ok")
        and not any(outcome.behind and not outcome.refused for outcome in outcomes)
    ]
    assert sorted(refused) == sorted(name for names in STRICTER[corpus].values() for name in names)


@pytest.mark.parametrize("corpus", CORPORA)
def test_where_an_input_is_cut_changes_nothing_that_is_forwarded(corpus: str) -> None:
    for outcomes in by_input(corpus).values():
        for spelling in {outcome.spelling for outcome in outcomes}:
            ways = [outcome for outcome in outcomes if outcome.spelling == spelling]
            assert len({outcome.behind for outcome in ways}) == 1, ways[0].name


# The judge.

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nX-Mark: 1\r\nContent-Length: 2\r\n\r\nhi"
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@pytest.mark.parametrize(
    ("sent", "received", "behind", "violation"),
    [
        (GET, ANSWER, GET, None),
        (GET + b"x", ANSWER + REFUSAL, GET, None),
        (b"x", REFUSAL, b"", None),
        (GET, REFUSAL, b"", None),
        (GET, REFUSAL, GET, "the client saw the answers []"),
        (GET + GET, ANSWER, GET, "only 1 answers to 2 requests"),
        (GET, ANSWER + ANSWER, GET, "the client saw the answers [1, 1]"),
        (GET, ANSWER[:-1], GET, "cannot read its answers"),
        (GET, ANSWER + b"\r\n", GET, "cannot read its answers"),
        (GET, ANSWER, GET.replace(b"/a", b"/b"), "that a strict reader does not see"),
        (GET, ANSWER + ANSWER.replace(b"1\r\n", b"2\r\n", 1), GET + GET, "that a strict reader does not see"),
        (GET, ANSWER + REFUSAL, GET, "2 answers to 1 requests"),
        (GET + GET, REFUSAL + ANSWER, GET, "answers go on after the last one"),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", "neither the service gave nor refuses"),
    ],
)
def test_judge_finds_what_is_amiss(sent: bytes, received: bytes, behind: bytes, violation: str | None) -> None:
    requests = read_requests(behind, rewritten=True)
    _, violations = judge(sent, received, requests.whole)
    if violation is None:
        assert violations == []
    else:
        assert violation in " ".join(violations)


def test_host_is_put_right_without_touching_anything_else() -> None:
    ours = spellings(b"GET / HTTP/1.1\r\nhost: \tx \r\nA: Host: b\r\n\r\n", b"ours")
    assert ours["our host"] == b"GET / HTTP/1.1\r\nhost: ours\r\nA: Host: b\r\n\r\n"
    assert set(ours) == {"as it is", "our host"}
    two = b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nA: b\r\n\r\n"
    added = spellings(two, b"ours")
    assert added["host added"] == two.replace(b"/1 HTTP/1.1\r\n", b"/1 HTTP/1.1\r\nHost: ours\r\n")
    assert added["hosts added"] == two.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: ours\r\n")
    assert spellings(b"GET http://x:1/a HTTP/1.1\r\nHost: x:1\r\n\r\n", b"ours")["our host"].count(b"ours") == 2


def test_program_reads_any_file_and_tells_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "inputs.jsonl"
    file.write_text(json.dumps({"id": "one", "raw_b64": base64.b64encode(GET).decode()}) + "\n", encoding="utf-8")
    assert one_in_one_out.main([str(file)]) == 0
    assert "inputs.jsonl: 1 inputs" in capsys.readouterr().out
    monkeypatch.setattr(one_in_one_out, "judge", lambda sent, received, _behind: (judge(sent, received, ())[0], ["no"]))
    assert one_in_one_out.main([str(file)]) == 1
    assert "one (as it is, at once): no" in capsys.readouterr().out
