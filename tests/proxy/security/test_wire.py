"""The strict reader, which all other tests here lean on: it must refuse what the proxy might get wrong."""

import pytest

from tests.proxy.security.wire import Reading, read_requests, read_responses

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_requests_are_read_one_after_another() -> None:
    reading = read_requests(GET + POST + CHUNKED + b"5\r\nhello\r\n0\r\nX-T: t\r\n\r\n" + GET)
    assert [message.body for message in reading.messages] == [b"", b"hello", b"hello", b""]
    assert reading.messages[2].trailers == ((b"x-t", b"t"),)
    assert (reading.rest, reading.fault) == (b"", None)
    assert all(message.rebuilt() for message in reading.messages)


@pytest.mark.parametrize("cut", [1, len(GET) - 1, len(GET) + 3])
def test_cut_off_head_is_the_rest(cut: int) -> None:
    reading = read_requests((GET + POST)[:cut])
    assert len(reading.messages) == cut // len(GET)
    assert (reading.rest, reading.fault) == ((GET + POST)[:cut][len(GET) * (cut // len(GET)) :], None)


@pytest.mark.parametrize("stream", [POST[:-1], CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n0\r\n", CHUNKED + b"5"])
def test_cut_off_body_is_an_incomplete_message(stream: bytes) -> None:
    reading = read_requests(stream)
    assert [message.complete for message in reading.messages] == [False]
    assert reading.complete == []


@pytest.mark.parametrize(
    "stream",
    [
        b"GET /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET  /a HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /a HTTP/1.1\nHost: h\n\n",
        b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\r\n x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\x00\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: h\rX: x\r\n\r\n",
        POST.replace(b": 5", b": +5"),
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
        CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
        CHUNKED + b"5;a\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello!\n0\r\n\r\n",
        CHUNKED + b"0\r\nbad line\r\n\r\n",
        GET + b"garbage\r\n\r\n",
    ],
)
def test_anything_else_is_a_fault(stream: bytes) -> None:
    assert read_requests(stream).fault is not None


def test_extensions_are_read_where_they_may_stand() -> None:
    reading = read_requests(CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n", extensions=True)
    assert (reading.complete[0].body, reading.fault) == (b"hello", None)


@pytest.mark.parametrize("head", [b"X:a", b"X:  a", b"X: a ", b"X:\ta"])
def test_field_as_a_copy_would_have_it_is_not_rebuilt(head: bytes) -> None:
    assert not read_requests(GET.replace(b"\r\n\r\n", b"\r\n" + head + b"\r\n\r\n")).messages[0].rebuilt()


def statuses(reading: Reading) -> list[int]:
    return [message.status for message in reading.messages]


def test_responses_are_read_one_after_another() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    headed = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    reading = read_responses(interim + OK + headed + OK, [b"GET", b"HEAD"])
    assert statuses(reading) == [103, 200, 200, 200]
    assert (reading.rest, reading.fault) == (b"", None)


def test_response_without_a_length_ends_with_the_connection() -> None:
    data = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    assert read_responses(data).messages[0].complete
    assert not read_responses(data, ended=False).messages[0].complete


def test_what_follows_a_switch_of_protocols_is_not_http() -> None:
    reading = read_responses(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x00")
    assert (statuses(reading), reading.rest) == ([101], b"\x81\x00")


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 x\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        OK + b"garbage\r\n\r\n",
        OK.replace(b": 2", b": 2, 2"),
    ],
)
def test_response_that_no_proxy_should_write_is_a_fault(stream: bytes) -> None:
    assert read_responses(stream).fault is not None
