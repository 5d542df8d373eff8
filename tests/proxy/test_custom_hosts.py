"""Custom hostnames at the door: foreign until verified, then a preview like any other, and cut when given back."""

from contextlib import suppress

import pytest
import trio
import trio.testing
import trio_websocket

from actors import DomainBinding
from proxy.testing import Asked, Caller, PreviewEngine, mirror, respond, service

NAME = "preview.my-app.com"
URL = f"https://{NAME}/"


async def bound(engine: PreviewEngine, *, sandbox: str = "my-app", name: str = NAME, port: int = 8080) -> DomainBinding:
    return await (await engine.sandbox(sandbox)).bind_domain(name, port)


async def served(engine: PreviewEngine, *, sandbox: str = "my-app", name: str = NAME) -> DomainBinding:
    return await engine.runtime.domains.verify(await bound(engine, sandbox=sandbox, name=name))


async def test_hostname_is_foreign_until_it_is_verified(preview_engine: PreviewEngine) -> None:
    await preview_engine.expose(respond(b"hello"))
    assert (await preview_engine.get(URL)).code == "MISDIRECTED_REQUEST"
    asked = await bound(preview_engine)
    assert (await preview_engine.get(URL)).code == "MISDIRECTED_REQUEST"
    # Nor do we answer its challenge: who has pointed a name here has not said for whom.
    assert (await preview_engine.get(URL[:-1] + asked.challenge.http_path)).status == 421
    assert preview_engine.container().starts == []
    await preview_engine.runtime.domains.verify(asked)
    for host in (NAME, NAME.upper(), f"{NAME}.", f"{NAME}:8443"):
        assert (await preview_engine.get(f"https://{host}/")).body == b"hello"


async def test_names_beside_and_below_it_are_foreign(preview_engine: PreviewEngine) -> None:
    await preview_engine.expose(respond(b"hello"))
    await served(preview_engine)
    for host in ("my-app.com", f"a.{NAME}", "preview.my-app.com.evil.example", "xpreview.my-app.com"):
        assert (await preview_engine.get(f"https://{host}/")).code == "MISDIRECTED_REQUEST"


async def test_port_must_be_exposed_and_the_gate_applies(preview_engine: PreviewEngine) -> None:
    sandbox = await preview_engine.sandbox()
    await served(preview_engine)
    assert (await preview_engine.get(URL)).code == "INVALID_TOKEN"
    await preview_engine.expose(respond(b"hello"))
    assert (await preview_engine.get(URL)).status == 200
    token = await sandbox.set_preview_auth()
    assert (await preview_engine.get(URL)).code == "AUTH_REQUIRED"
    headers = [("Authorization", f"Bearer {token.reveal()}")]
    assert (await preview_engine.get(URL, headers=headers)).body == b"hello"
    await sandbox.unexpose_port(8080)
    assert (await preview_engine.get(URL, headers=headers)).code == "INVALID_TOKEN"


async def test_service_sees_its_own_name_and_sets_cookies_for_it_alone(preview_engine: PreviewEngine) -> None:
    cookies = [("Set-Cookie", "a=1; Domain=preview.my-app.com"), ("Set-Cookie", "b=1; Domain=my-app.com")]
    location = ("Location", "http://localhost:8080/next")

    async def answer(caller: Caller, asked: Asked) -> None:
        seen = "|".join(asked.header(name) or "" for name in ("host", "x-forwarded-host", "x-original-url"))
        await caller.respond(302, seen.encode(), headers=[*cookies, location, ("Clear-Site-Data", '"cache"')])

    await preview_engine.expose(service(answer))
    await served(preview_engine)
    response = await preview_engine.get(f"{URL}p?q=1")
    assert response.body.decode() == f"localhost:8080|{NAME}|https://{NAME}/p?q=1"
    assert response.header_values("set-cookie") == ["a=1; Domain=preview.my-app.com", "b=1"]
    assert response.header("location") == f"https://{NAME}/next"
    assert response.header("clear-site-data") == '"cache"'


async def test_name_given_back_is_foreign_on_the_very_connection_that_it_served(preview_engine: PreviewEngine) -> None:
    await preview_engine.expose(mirror())
    await served(preview_engine)
    client = preview_engine.connect()
    for _ in range(3):
        await client.send_request("GET", "/", NAME)
        assert (await client.read_response()).status == 200
    await (await preview_engine.sandbox()).unbind_domain(NAME)
    await client.send_request("GET", "/", NAME)
    assert (await client.read_response()).code == "MISDIRECTED_REQUEST"


async def test_name_given_back_before_there_was_an_answer_is_foreign(preview_engine: PreviewEngine) -> None:
    async def never(_caller: Caller, _asked: Asked) -> None:
        await trio.sleep_forever()

    await preview_engine.expose(service(never))
    await served(preview_engine)
    async with preview_engine.open("GET", URL) as client:
        await preview_engine.settle()
        assert await (await preview_engine.sandbox()).unbind_domain(NAME) == 1
        assert (await client.read_response()).code == "MISDIRECTED_REQUEST"


@pytest.mark.parametrize("how", ["unbind", "unexpose", "destroy", "lead"])
async def test_live_websocket_is_cut_when_its_name_leads_nowhere_any_more(
    how: str, preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async def accept(stream: trio.abc.HalfCloseableStream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            connection = await request.accept()
            with suppress(trio_websocket.ConnectionClosed):
                while True:
                    await connection.send_message(await connection.get_message())

    await preview_engine.expose(accept)
    await served(preview_engine)
    sandbox = await preview_engine.sandbox()
    async with preview_engine.websocket(URL) as connection:
        await connection.send_message("hello")
        assert await connection.get_message() == "hello"
        async with trio.open_nursery() as nursery:
            match how:
                case "unbind":
                    nursery.start_soon(sandbox.unbind_domain, NAME)
                case "unexpose":
                    nursery.start_soon(sandbox.unexpose_port, 8080)
                case "destroy":
                    nursery.start_soon(sandbox.destroy)
                case "lead":
                    nursery.start_soon(sandbox.bind_domain, NAME, 9090)
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await connection.get_message()
    assert closed.value.reason is not None
    assert closed.value.reason.code == 1001


async def test_each_name_leads_to_its_own_sandbox(preview_engine: PreviewEngine) -> None:
    for name in ("one", "two"):
        await preview_engine.expose(respond(name.encode()), sandbox=name)
        await served(preview_engine, sandbox=name, name=f"{name}.my-app.com")
    for name in ("one", "two"):
        assert (await preview_engine.get(f"https://{name}.my-app.com/")).body == name.encode()
        # The field is for the base domain alone.
        headers = [("Portico-Preview", "8080-two-k3v9x0q2m7t1z8aa")]
        assert (await preview_engine.get(f"https://{name}.my-app.com/", headers=headers)).body == name.encode()


async def test_preflight_of_a_gated_custom_name_needs_the_token(preview_engine: PreviewEngine) -> None:
    """There is no token in its name, and one of the two is always required."""
    await preview_engine.expose(respond(b"hello"))
    await served(preview_engine)
    await (await preview_engine.sandbox()).set_preview_auth()
    headers = [("Origin", "https://a.example"), ("Access-Control-Request-Method", "PUT")]
    assert (await preview_engine.request("OPTIONS", URL, headers=headers)).code == "AUTH_REQUIRED"
