"""The engine in a test: what is real about it, and that it notices what a test has left behind."""

from pathlib import Path

import pytest
import trio
import trio.testing
import trio_websocket

from actors import FileStore, Limits, Port, SandboxId, VisitRequest
from proxy.options import Options
from proxy.testing import preview_engine, respond, silence, websocket_echo
from proxy.testing.engine import EPOCH, split_url


async def test_example_of_the_documentation_works(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine() as engine:
        url = await engine.expose(respond(b"hello"))
        response = await engine.get(url)
        assert (response.status, response.body) == (200, b"hello")


async def test_sandboxes_and_containers_are_at_hand(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine(domains=["one.example", "two.example"]) as engine:
        url = await engine.expose(respond(b"hello"), port=9000, sandbox="other")
        assert url.endswith(".one.example/")
        sandbox = await engine.sandbox("other")
        assert [exposed.port for exposed in await sandbox.get_exposed_ports()] == [9000]
        assert engine.container("other").starts == []
        await engine.get(url)
        assert len(engine.container("other").starts) == 1
        assert (await engine.sandbox("sb-open", open_ports=True)).id == "sb-open"


async def test_wall_clock_of_the_actors_follows_the_tests(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine(limits=Limits(rest_after_s=5)) as engine:
        url = await engine.expose(respond())
        sandbox = await engine.sandbox()
        await sandbox.set_preview_auth("first-token-of-the-owner")
        await sandbox.rotate_preview_auth(grace=60, token="second-token-of-the-owner")
        first = [("Authorization", "Bearer first-token-of-the-owner")]
        assert (await engine.get(url, headers=first)).status == 200
        await trio.sleep(61)
        assert (await engine.get(url, headers=first)).status == 401
    assert EPOCH > 1_700_000_000


async def test_engine_runs_on_files(tmp_path: Path) -> None:
    async with preview_engine(store=FileStore(tmp_path)) as engine:
        url = await engine.expose(respond(b"first"))
    async with preview_engine(store=FileStore(tmp_path)) as engine:
        await engine.sandbox()
        engine.container().handlers[8080] = respond(b"again")
        assert (await engine.get(url)).body == b"again"


async def test_options_reach_the_router(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine(options=Options(response_timeout_s=1)) as engine:
        assert (await engine.get(await engine.expose(silence()))).status == 504


async def test_unbuffered_client_holds_up_its_sender(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine() as engine:
        client = engine.connect(unbuffered=True)
        await client.send(b"GET / HTTP/1.1\r\nHost: elsewhere.net\r\n\r\n")
        await engine.settle()
        assert (await client.read_response()).status == 421


async def test_websocket_is_one_of_trio_websocket(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine() as engine:
        url = await engine.expose(websocket_echo())
        async with engine.websocket(url.replace("https:", "wss:"), headers=[("X-Own", "1")]) as connection:
            await connection.send_message(b"bytes")
            assert await connection.get_message() == b"bytes"
        with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
            async with engine.websocket(url.replace("8080", "8081")):
                pass
        assert rejected.value.status_code == 404
        with pytest.raises(KeyError):
            async with engine.websocket(url):
                raise KeyError


async def test_failure_of_a_test_comes_out_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    async def fail() -> None:
        async with preview_engine() as engine, engine.open("GET", await engine.expose(silence())):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_what_is_under_way_at_the_end_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine() as engine:
        client = engine.connect()
        _, host, target = split_url(await engine.expose(silence()))
        await client.send_request("GET", target, host)
        await engine.settle()
        assert engine.runtime.statistics().visits == 1
    assert engine.runtime.statistics().visits == 0


async def test_visit_that_nobody_ends_fails_the_test(autojump_clock: trio.testing.MockClock) -> None:
    async def forget() -> None:
        async with preview_engine(limits=Limits(cut_timeout_s=0.1)) as engine:
            await engine.sandbox("sb-open", open_ports=True)
            await engine.runtime.admit(SandboxId("sb-open"), VisitRequest(Port(8080)))

    with pytest.raises(AssertionError, match="1 visits have not ended"):
        await forget()


def test_url_is_split_for_a_request() -> None:
    assert split_url("https://a.example/") == ("https", "a.example", "/")
    assert split_url("ws://a.example:81/b%20c?d=e") == ("http", "a.example:81", "/b%20c?d=e")
    assert split_url("wss://a.example") == ("https", "a.example", "/")
