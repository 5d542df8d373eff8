"""The client for tests: what it sends, and how it reads responses of every framing."""

import pytest
import trio
import trio.testing

from proxy.testing import Client, CutOffError, Response


def talking() -> tuple[Client, trio.abc.HalfCloseableStream]:
    """A client, and the stream at its other end."""
    ours, theirs = trio.testing.memory_stream_pair()
    return Client(ours), theirs


async def test_request_is_written_as_asked() -> None:
    client, server = talking()
    await client.send_request("POST", "/a?b", "host.example", headers=[("X-Own", "1")], body=b"content")

    assert await server.receive_some() == (
        b"POST /a?b HTTP/1.1\r\nHost: host.example\r\nX-Own: 1\r\nContent-Length: 7\r\n\r\ncontent"
    )


async def test_request_without_body_has_no_length_and_an_empty_one_has() -> None:
    client, server = talking()
    await client.send_request("GET", "/", "h")
    assert await server.receive_some() == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    await client.send_request("POST", "/", "h", body=b"")
    assert await server.receive_some() == b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"


async def test_responses_are_read_one_after_another() -> None:
    client, server = talking()
    await server.send_all(
        b"HTTP/1.1 103 Early Hints\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 3\r\n\r\none"
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nX-Sum: 9\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\n"
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
    )
    await server.send_eof()

    first = await client.read_response()
    assert (first.status, first.body, first.informational) == (200, b"one", (103,))
    assert (first.header("SET-COOKIE"), first.header_values("set-cookie")) == ("a=1", ["a=1", "b=2"])
    assert first.header("x-other") is None
    second = await client.read_response()
    assert (second.status, second.body, second.trailers) == (404, b"two", (("x-sum", "9"),))
    assert (await client.read_response("HEAD")).header("content-length") == "5"
    assert (await client.read_response()).status == 204
    assert (await client.read_response()).body == b"until the end"
    with pytest.raises(CutOffError) as cut:
        await client.read_response()
    assert cut.value.partial is None


async def test_body_is_given_as_it_comes() -> None:
    client, server = talking()
    await server.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
    assert (await client.read_head()).status == 200
    assert await client.read_some() == b"one"
    await server.send_all(b"3\r\ntwo\r\n0\r\n\r\nmore")
    assert await client.read_some() == b"two"
    assert await client.read_some() == b""
    assert await client.read_some() == b""
    assert await client.receive() == b"more"


async def test_response_that_breaks_off_is_told_with_what_had_come() -> None:
    client, server = talking()
    await server.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    await server.send_eof()
    with pytest.raises(CutOffError) as cut:
        await client.read_response()
    assert cut.value.partial == Response(200, (("content-length", "9"),), b"half")


async def test_bytes_after_a_switch_are_the_other_protocols() -> None:
    client, server = talking()
    await server.send_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: upgrade\r\n\r\nraw")
    assert (await client.read_response()).status == 101
    assert await client.receive() == b"raw"
    await client.send(b"up")
    assert await server.receive_some() == b"up"
    await client.send_eof()
    assert await server.receive_some() == b""
    await server.send_all(b"down")
    await server.send_eof()
    assert await client.read_to_end() == b"down"


async def test_reset_counts_as_the_end() -> None:
    client, _ = talking()

    async def reset() -> None:
        raise trio.BrokenResourceError

    assert isinstance(client.stream, trio.StapledStream)
    client.stream.receive_stream.receive_some_hook = reset
    assert await client.read_to_end() == b""
    with pytest.raises(CutOffError):
        await client.read_head()


def test_code_is_that_of_an_answer_of_the_routers_own() -> None:
    json_type = (("content-type", "application/json"),)

    assert Response(404, json_type, b'{"error": "no", "code": "INVALID_TOKEN"}').code == "INVALID_TOKEN"
    assert Response(200, json_type, b"[1]").code is None
    assert Response(200, (), b"hello").code is None
    assert Response(200, json_type, b'{"a": 1}').json() == {"a": 1}


async def test_closed_client_is_gone_for_the_other_side() -> None:
    client, server = talking()
    await client.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
