"""The judge of one in, one out is as strict as it must be, and no stricter."""

import pytest

from tests.corpora.strict_reader import Request, Stop, read_requests, read_responses

HEAD = b"POST /a HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def test_messages_are_read_one_after_the_other() -> None:
    data = CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n" + HEAD + b"Content-Length: 1\r\n\r\nx" + HEAD + b"\r\n"
    reading = read_requests(data + b"GET", rewritten=True)
    assert [(request.body, request.trailers) for request in reading.whole] == [
        (b"abc", ((b"a", b"b"),)),
        (b"x", ()),
        (b"", ()),
    ]
    assert reading.stop is Stop.UNFINISHED
    assert reading.read == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        HEAD + b"Host: a\r\n\r\n",
        HEAD + b"A : b\r\n\r\n",
        HEAD + b" folded\r\n\r\n",
        HEAD + b"A: b\0\r\n\r\n",
        HEAD + b"nocolon\r\n\r\n",
        HEAD + b": b\r\n\r\n",
        HEAD + b"Content-Length: +1\r\n\r\nx",
        HEAD + b"Content-Length:\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"1 \r\nx\r\n0\r\n\r\n",
        CHUNKED + b"1\nx\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nxy\r\n0\r\n\r\n",
        CHUNKED + b"1;\r\nx\r\n0\r\n\r\n",
        CHUNKED + b'1;a="b\r\nx\r\n0\r\n\r\n',
        CHUNKED + b"1;a=b c\r\nx\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nHost: b\r\n\r\n",
    ],
)
def test_nobody_may_send_this(data: bytes) -> None:
    for rewritten in (False, True):
        reading = read_requests(data, rewritten=rewritten)
        assert reading.stop is Stop.VIOLATION
        assert reading.why


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n" + HEAD + b"\r\n",
        b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        HEAD + b"A:b\r\n\r\n",
        HEAD + b"Keep-Alive: 1\r\n\r\n",
        HEAD + b"TE: trailers, deflate\r\n\r\n",
        HEAD + b"Connection: close\r\n\r\n",
        HEAD + b"Upgrade: a\r\n\r\n",
        HEAD + b"Connection: Upgrade\r\n\r\n",
        HEAD + b"Expect: b\r\n\r\n",
        HEAD + b"Content_Length: 5\r\n\r\n",
        CHUNKED + b"01\r\nx\r\n0\r\n\r\n",
        CHUNKED + b'1;a ; b = c;d="e\\"f"\r\nx\r\n0\r\n\r\n',
    ],
)
def test_a_client_may_send_this_and_a_proxy_has_no_need_to(data: bytes) -> None:
    assert read_requests(data, rewritten=False).stop is Stop.END
    assert read_requests(data, rewritten=True).stop is Stop.VIOLATION


@pytest.mark.parametrize(
    ("method", "target", "origin_form"),
    [
        (b"GET", b"/a?b", b"/a?b"),
        (b"GET", b"http://a/b?c", b"/b?c"),
        (b"GET", b"http://a?c", b"/?c"),
        (b"GET", b"HTTPS://a", b"/"),
        (b"OPTIONS", b"http://a", b"*"),
        (b"OPTIONS", b"*", b"*"),
    ],
)
def test_origin_form_of_a_target(method: bytes, target: bytes, origin_form: bytes) -> None:
    assert Request(method, target, b"HTTP/1.1", (), b"").origin_form == origin_form


@pytest.mark.parametrize(
    ("version", "connection", "last"),
    [(b"1.1", b"", False), (b"1.1", b"a, Close", True), (b"1.0", b"", True), (b"1.0", b"keep-alive", False)],
)
def test_whether_another_request_may_follow(version: bytes, connection: bytes, last: bool) -> None:
    assert Request(b"GET", b"/", b"HTTP/" + version, ((b"connection", connection),), b"").last is last


def test_responses_are_read_by_the_method_of_their_request() -> None:
    data = OK + b"Content-Length: 5\r\n\r\n" + b"HTTP/1.1 103 \r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx"
    for methods in ([b"HEAD"], [b"?", b"?"]):
        reading = read_responses(data, methods)
        assert [response.body for response in reading.whole] == [b"", b"x"]
        assert (reading.stop, reading.interim) == (Stop.END, (103,))
    assert read_responses(data, [b"GET"]).stop is Stop.VIOLATION
    assert read_responses(data[:-1], [b"HEAD"]).stop is Stop.UNFINISHED


def test_body_until_the_end_needs_an_end() -> None:
    assert read_responses(OK + b"\r\nabc", [b"GET"]).whole[0].body == b"abc"
    assert read_responses(OK + b"\r\nabc", [b"GET"], ended=False).stop is Stop.UNFINISHED


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n",
        OK + b"A:b\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n00\r\n\r\n",
    ],
)
def test_a_service_may_send_this_and_a_proxy_may_not(data: bytes) -> None:
    assert read_responses(data, [], rewritten=True).stop is Stop.VIOLATION
    if b" 20 " not in data:
        assert read_responses(data, [], rewritten=False).stop is Stop.END
