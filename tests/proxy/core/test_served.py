"""What is told of a request: no secrets, and a line that is one line whatever a client sends."""

import json

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proxy.core.served import PATH_BYTES_MAX, Served, log_line, shown_path

SERVED = Served("192.0.2.7", "my-app", 8080, "GET", "/a", 200, None, 5, 0.001234, complete=True)


def test_line_tells_what_became_of_a_request() -> None:
    assert log_line(SERVED, "2026-11-22T20:37:01.123Z") == (
        b'{"time":"2026-11-22T20:37:01.123Z","client":"192.0.2.7","sandbox":"my-app","port":8080,"method":"GET",'
        b'"path":"/a","status":200,"code":null,"content_bytes":5,"seconds":0.001234,"complete":true}\n'
    )


def test_line_of_an_answer_of_ours_has_its_code_and_no_preview() -> None:
    line = json.loads(log_line(replace(SERVED, sandbox=None, port=None, code="BAD_HOST", complete=False), "now"))
    assert (line["code"], line["complete"]) == ("BAD_HOST", False)
    assert (line["sandbox"], line["port"]) == (None, None)


@given(st.binary(max_size=80).map(lambda junk: b"/" + junk), st.text(max_size=20), st.text(max_size=10))
def test_whatever_was_sent_makes_one_line_that_says_it(target: bytes, client: str, method: str) -> None:
    path = shown_path(target)
    line = log_line(replace(SERVED, path=path, client=client, method=method), "now")
    assert line.count(b"\n") == 1
    read = json.loads(line)
    assert (read["path"], read["client"], read["method"]) == (path, client, method)


def test_queries_and_shares_are_not_shown() -> None:
    assert shown_path(b"/a/b?token=hush") == "/a/b"
    assert shown_path(b"/.portico/share/hush?x") == "/.portico/"
    assert len(shown_path(b"/" + b"a" * 2 * PATH_BYTES_MAX)) == PATH_BYTES_MAX
