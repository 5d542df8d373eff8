"""What an observer is told: each request once, when nothing of it is left, whichever hands it went through."""

from contextlib import aclosing
from urllib.parse import urlsplit

import pytest
import trio

from proxy.core.served import Served
from proxy.testing import CutOffError, respond, websocket_echo
from tests.proxy.ways import OpenEngine

HANDSHAKE = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


def host_of(url: str) -> str:
    return urlsplit(url).netloc


async def test_every_request_of_a_connection_is_told_once_and_in_order(open_engine: OpenEngine) -> None:
    told: list[Served] = []
    async with open_engine(observe=told.append) as engine:
        host = host_of(await engine.expose(respond(b"hello")))
        async with aclosing(engine.connect()) as client:
            for target in ("/first", "/second?token=hush", "/third"):
                await client.send_request("GET", target, host)
                await client.read_response()
            await client.send_request("POST", "/upload", host, body=b"some content")
            await client.read_response()
        await engine.settle()
    assert [(served.path, served.method, served.status) for served in told] == [
        ("/first", "GET", 200),
        ("/second", "GET", 200),
        ("/third", "GET", 200),
        ("/upload", "POST", 200),
    ]
    assert {(served.port, served.content_bytes, served.complete, served.code) for served in told} == {
        (8080, 5, True, None)
    }
    assert len({served.sandbox for served in told}) == 1
    assert "hush" not in repr(told)


async def test_our_own_answers_are_told_with_their_codes(open_engine: OpenEngine) -> None:
    told: list[Served] = []
    async with open_engine(observe=told.append) as engine:
        host = host_of(await engine.expose(respond(b"hello")))
        for wrong in ("8080-nobody-k3v9x0q2m7t1z8aa.example.com", "elsewhere.test", "no host"):
            async with aclosing(engine.connect()) as client:
                await client.send_request("GET", "/", wrong)
                await client.read_response()
        async with aclosing(engine.connect()) as client:
            await client.send(b"BREW / HTTP/9.9\r\n\r\n")
            await client.read_to_end()
        async with aclosing(engine.connect()) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: %b\r\n" % host.encode())
            await client.send_eof()
            await client.read_to_end()
        await engine.settle()
    assert [(served.status, served.code, served.method, served.sandbox) for served in told] == [
        (404, "INVALID_TOKEN", "GET", "nobody"),
        (421, "MISDIRECTED_REQUEST", "GET", None),
        (400, "BAD_HOST", "GET", None),
        (505, "VERSION_NOT_SUPPORTED", "", None),
        (400, "BAD_REQUEST", "", None),
    ]
    assert all(served.complete for served in told)


async def test_answer_that_is_cut_off_is_told_as_incomplete(open_engine: OpenEngine) -> None:
    told: list[Served] = []
    async with open_engine(observe=told.append) as engine:
        cut_off = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf"

        async def handler(stream: trio.abc.HalfCloseableStream) -> None:
            await stream.receive_some()
            await stream.send_all(cut_off)
            await stream.aclose()

        host = host_of(await engine.expose(handler))
        async with aclosing(engine.connect()) as client:
            await client.send_request("GET", "/", host)
            with pytest.raises(CutOffError):
                await client.read_response()
        await engine.settle()
    (served,) = told
    assert (served.status, served.content_bytes, served.complete) == (200, 4, False)


async def test_upgraded_connection_is_told_at_its_end(open_engine: OpenEngine) -> None:
    told: list[Served] = []
    async with open_engine(observe=told.append) as engine:
        host = host_of(await engine.expose(websocket_echo()))
        async with aclosing(engine.connect()) as client:
            await client.send_request("GET", "/socket", host, headers=HANDSHAKE)
            await client.read_head()
            await engine.settle()
            assert told == []
        await engine.settle()
    (served,) = told
    assert (served.status, served.path) == (101, "/socket")


async def test_upgraded_connection_that_is_cut_was_answered_completely_all_the_same(open_engine: OpenEngine) -> None:
    told: list[Served] = []
    async with open_engine(observe=told.append) as engine:
        host = host_of(await engine.expose(websocket_echo()))
        async with aclosing(engine.connect()) as client:
            await client.send_request("GET", "/socket", host, headers=HANDSHAKE)
            await client.read_head()
            await engine.settle()
            assert await (await engine.sandbox()).unexpose_port(8080) == 1
            await client.read_to_end()
    (served,) = told
    assert (served.status, served.complete) == (101, True)
