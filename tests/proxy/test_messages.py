"""Messages of other servers: what is refused of a request, and how a response is read."""

import pytest
import trio

from proxy.core.exchange import Exchange, UpstreamClosedError
from proxy.core.http1 import DEFAULT_LIMITS, NO_BODY, BadRequestError, RequestHead
from proxy.core.pages import Code, refusal
from proxy.messages import Request, ResponseCutError, ResponseReader, checked_head, own_response
from proxy.pipe import PipeEnd, open_pipe

HOST = (b"host", b"a.example.com")


def request(*headers: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = b"/") -> Request:
    return Request(method, target, [HOST, *headers])


@pytest.mark.parametrize(
    "lax",
    [
        request((b"x: y", b"z")),
        request((b"x y", b"z")),
        request((b"", b"z")),
        request((b"x", b"a\r\nhost: evil")),
        request((b"x", b"a\nb")),
        request((b"x", b"a\0b")),
        request((b"x", b"a\x1fb")),
        request((b":weird", b"1")),
        request((b"host", b"b.example.com")),
        request((b":authority", b"b.example.com")),
        request((b"content-length", b"1"), (b"transfer-encoding", b"chunked")),
        request((b"content-length", b"1"), (b"content-length", b"1")),
        request((b"content-length", b"+1")),
        request((b"transfer-encoding", b"gzip, chunked")),
        request(method=b"GET /x HTTP/1.1\r\nx:"),
        request(method=b"CONNECT"),
        request(method=b"G\xc3T"),
        request(target=b""),
        request(target=b"/a b"),
        request(target=b"/a\r\nx: y"),
        request(target=b"/\xff"),
        request(target=b"no-slash"),
        Request(b"GET", b"/", []),
    ],
)
def test_what_a_lax_server_let_through_is_refused(lax: Request) -> None:
    with pytest.raises(BadRequestError):
        checked_head(lax, DEFAULT_LIMITS)


def test_target_and_fields_arrive_as_received() -> None:
    head = checked_head(request((b"X-Thing", b"caf\xe9"), target=b"/a%2Fb?c=%20"), DEFAULT_LIMITS)
    assert (head.target, head.fields) == (b"/a%2Fb?c=%20", [(b"host", *HOST), (b"x-thing", b"X-Thing", b"caf\xe9")])


def test_pseudo_fields_become_one_host() -> None:
    headers = [(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"https"), (b":authority", HOST[1])]
    assert checked_head(Request(b"GET", b"/", headers), DEFAULT_LIMITS).fields == [(b"host", b"Host", HOST[1])]
    assert checked_head(Request(b"GET", b"/", [*headers, HOST]), DEFAULT_LIMITS).fields == [(b"host", *HOST)]


def test_cookies_that_http2_took_apart_are_joined() -> None:
    headers = [HOST, (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    joined = Request(b"GET", b"/", headers, http_version="2").fields()
    assert joined[-1] == (b"cookie", b"Cookie", b"a=1; b=2")
    assert len(Request(b"GET", b"/", headers).fields()) == 3


def test_repr_of_a_request_holds_no_secrets() -> None:
    text = repr(request((b"authorization", b"Bearer hunter2"), target=b"/?key=hunter2"))
    assert "hunter2" not in text
    assert "a.example.com" not in text


async def test_own_response_suits_its_client() -> None:
    answer = refusal(Code.INVALID_TOKEN)
    plain = own_response(answer, request())
    assert b"".join([piece async for piece in plain.body]).startswith(b'{"error"')
    page = own_response(answer, request((b"sec-fetch-mode", b"navigate")))
    assert b"".join([piece async for piece in page.body]).startswith(b"<!doctype html>")
    head = own_response(answer, request(method=b"HEAD"))
    assert [piece async for piece in head.body] == []
    assert dict(head.headers)[b"content-length"] == dict(plain.headers)[b"content-length"]


def reader() -> tuple[ResponseReader, PipeEnd]:
    ours, theirs = open_pipe()
    exchange = Exchange(RequestHead(b"GET", b"/", b"1.1", [(b"host", *HOST)]), NO_BODY)
    exchange.start()
    return ResponseReader(ours, exchange), theirs


async def send(stream: PipeEnd, *pieces: bytes) -> None:
    for piece in pieces:
        await stream.send_all(piece)
    stream.close()


async def test_response_gives_pieces_as_they_come_and_trailers_at_the_end(nursery: trio.Nursery) -> None:
    response_reader, service = reader()
    wire = [
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\none\r\n",
        b"3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n",
    ]
    nursery.start_soon(send, service, *wire)
    response = await response_reader.start()
    assert (response.status, response.headers, response.stream) == (200, [(b"x-a", b"1")], None)
    assert [piece async for piece in response.body] == [b"one", b"two"]
    assert response.trailers == [(b"x-sum", b"6")]


async def test_cut_off_response_raises_again_and_again(nursery: trio.Nursery) -> None:
    response_reader, service = reader()
    nursery.start_soon(send, service, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhal")
    response = await response_reader.start()
    assert await anext(response.body) == b"hal"
    for _ in range(2):
        with pytest.raises(ResponseCutError):
            await anext(response.body)


async def test_no_response_at_all_is_an_error(nursery: trio.Nursery) -> None:
    response_reader, service = reader()
    nursery.start_soon(send, service)
    with pytest.raises(UpstreamClosedError):
        await response_reader.start()
