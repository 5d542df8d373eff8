"""The async face, on trio and on asyncio, against a server of answers written beforehand."""

import inspect
import os
from collections.abc import Awaitable, Callable

import anyio
import pytest

import actors
from actors import DomainNotVerifiedError, PorticoError, ProcessNotFoundError, SandboxNotFoundError, SandboxStoppedError
from proxy.client import AsyncClient, AsyncProcess, AsyncSandbox, KeyRefusedError, ServerUnreachableError
from proxy.client.calls import Call, logs
from tests.proxy.client.conftest import KEY, Script

SANDBOX = {
    "id": "my-app",
    "status": "running",
    "container": "process",
    "open_ports": False,
    "when_asleep": "wake",
    "sleep_after": 600.0,
    "preview_auth": False,
    "ports": [],
}
PORT = {
    "port": 8000,
    "url": "http://8000-my-app-k3v9x0q2m7t1z8aa.localhost:8787/",
    "name": "web",
    "token": "k3v9x0q2m7t1z8aa",
    "host_header": "localhost",
    "status": "active",
}
PROCESS = {"id": "p-1", "command": "sleep 1", "pid": 7, "status": "running", "exit_code": None}
EXITED = {**PROCESS, "status": "exited", "exit_code": -15}


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest, script: Script) -> Callable[[Callable[[AsyncClient], Awaitable[None]]], None]:
    """Run a coroutine function with a client of the scripted server, on either event loop."""

    def run(main: Callable[[AsyncClient], Awaitable[None]]) -> None:
        async def with_client() -> None:
            async with AsyncClient(script.url, api_key=KEY) as client:
                await main(client)

        anyio.run(with_client, backend=request.param)
        assert not script.answers, "the client did not ask for all that it was expected to"

    return run


Run = Callable[[Callable[[AsyncClient], Awaitable[None]]], None]


def test_sandbox_is_made_its_service_started_and_its_port_exposed(run: Run, script: Script) -> None:
    script.answer(201, {**SANDBOX, "preview_auth_token": "told-this-once"})
    script.answer(201, PROCESS)
    script.answer(200, PROCESS)
    script.answer(201, PORT)

    async def main(client: AsyncClient) -> None:
        sandbox = await client.get_sandbox("My-App", container="process", preview_auth="auto")
        assert (sandbox.id, sandbox.preview_auth_token) == ("my-app", "told-this-once")
        assert "told-this-once" not in repr(sandbox)
        process = await sandbox.start_process("sleep 1", env={"A": "b"}, id="p-1")
        assert (process.id, process.pid, process.status, process.exit_code) == ("p-1", 7, "running", None)
        await process.wait_for_port(8000)
        exposed = await sandbox.expose_port(8000, name="web")
        assert exposed.url == PORT["url"]

    run(main)
    made, started, waited, exposed = script.asked
    assert made.headers["authorization"] == f"Bearer {KEY}"
    assert isinstance(made.json, dict)
    assert made.json["id"] == "my-app"
    assert "sleep_after" not in made.json
    assert started.json == {"command": "sleep 1", "cwd": None, "env": {"A": "b"}, "id": "p-1", "restart": "never"}
    assert waited.target == "/v1/sandboxes/my-app/processes/p-1/wait-for-port"
    assert (exposed.method, exposed.target) == ("PUT", "/v1/sandboxes/my-app/ports/8000")


def test_change_that_broke_off_is_sent_again_with_the_same_key(run: Run, script: Script) -> None:
    script.answer(0, None)
    script.refuse(503, "OVERLOADED", Retry_After="0")
    script.answer(200, {"closed": 2})

    async def main(client: AsyncClient) -> None:
        script.asked.clear()
        assert await _sandbox(client).unexpose_port(8000) == 2

    run(main)
    assert len({asked.headers["idempotency-key"] for asked in script.asked}) == 1
    assert len(script.asked) == 3


def test_refusal_is_the_embedding_apis_exception(run: Run, script: Script) -> None:
    script.refuse(404, "SANDBOX_NOT_FOUND")
    script.refuse(410, "SANDBOX_STOPPED")
    script.refuse(403, "FORBIDDEN")
    script.refuse(404, "PROCESS_NOT_FOUND")

    async def main(client: AsyncClient) -> None:
        with pytest.raises(SandboxNotFoundError):
            await client.find_sandbox("my-app")
        with pytest.raises(SandboxStoppedError):
            await _sandbox(client).wake()
        with pytest.raises(KeyRefusedError):
            await client.list_keys()
        with pytest.raises(ProcessNotFoundError):
            await _sandbox(client).get_process("p-1")

    run(main)


def test_destroying_what_is_gone_is_no_error(run: Run, script: Script) -> None:
    script.refuse(404, "SANDBOX_NOT_FOUND")

    async def main(client: AsyncClient) -> None:
        assert await _sandbox(client).destroy() == 0

    run(main)


def test_list_is_asked_for_page_by_page(run: Run, script: Script) -> None:
    script.answer(200, {"sandboxes": [SANDBOX], "next": "my-app"})
    script.answer(200, {"sandboxes": [{**SANDBOX, "id": "other"}], "next": None})

    async def main(client: AsyncClient) -> None:
        assert [found.id for found in await client.list_sandboxes()] == ["my-app", "other"]

    run(main)
    assert [asked.target for asked in script.asked] == [
        "/v1/sandboxes?limit=100",
        "/v1/sandboxes?limit=100&after=my-app",
    ]


def test_ports_are_looked_up(run: Run, script: Script) -> None:
    for _ in range(4):
        script.answer(200, {"ports": [PORT]})

    async def main(client: AsyncClient) -> None:
        sandbox = _sandbox(client)
        assert await sandbox.is_port_exposed(8000)
        assert not await sandbox.is_port_exposed(8001)
        assert await sandbox.validate_port_token(8000, "k3v9x0q2m7t1z8aa")
        assert not await sandbox.validate_port_token(8000, "wrong")
        assert not await sandbox.is_port_exposed(True)

    run(main)


def test_share_is_revoked_by_its_id_alone(run: Run, script: Script) -> None:
    script.answer(200, {"closed": 1})
    script.refuse(404, "SHARE_NOT_FOUND")

    async def main(client: AsyncClient) -> None:
        assert await _sandbox(client).revoke_share("sh-1") == 1
        assert await _sandbox(client).revoke_share("sh-2") == 0

    run(main)
    assert [asked.target for asked in script.asked] == [f"/v1/sandboxes/my-app/shares/sh-{n}" for n in (1, 2)]


def test_share_may_be_on_a_custom_hostname(run: Run, script: Script) -> None:
    shown = {"id": "sh-1", "port": 8080, "expires_at": "then", "once": False, "custom_hostname": "preview.my-app.com"}
    script.answer(201, {**shown, "url": "https://preview.my-app.com/secret"})

    async def main(client: AsyncClient) -> None:
        share = await _sandbox(client).share(8080, expires_in=60, custom_hostname="preview.my-app.com")
        assert share.custom_hostname == "preview.my-app.com"

    run(main)
    assert script.asked[0].json == {"expires_in": 60, "once": False, "custom_hostname": "preview.my-app.com"}


def test_preview_that_a_port_has_not_is_not_deleted(run: Run, script: Script) -> None:
    shown = {"id": "p", "sandboxId": "my-app", "orgId": "o", "hostname": "h", "port": 80, "createdAt": "t", "new": 1}
    script.answer(201, shown)
    script.answer(200, [shown])
    script.answer(204, b"")
    script.refuse(404, "NOT_FOUND")
    script.refuse(404, "SANDBOX_NOT_FOUND")

    async def main(client: AsyncClient) -> None:
        sandbox = _sandbox(client)
        made = await sandbox.create_preview_url(80)
        assert (made.sandbox, made.hostname, made.port, made.created_at) == ("my-app", "h", 80, "t")
        assert await sandbox.list_preview_urls() == [made]
        assert await sandbox.delete_preview_url(80)
        assert not await sandbox.delete_preview_url(80)
        with pytest.raises(SandboxNotFoundError):
            await sandbox.delete_preview_url(80)

    run(main)
    assert script.asked[0].json == {"port": 80}


def test_logs_are_followed_as_they_come_and_left_half_way(run: Run, script: Script) -> None:
    script.answer(200, b"a" * 100_000)
    script.answer(200, PROCESS)
    script.answer(200, b"one line\n")
    script.refuse(404, "PROCESS_NOT_FOUND")

    async def main(client: AsyncClient) -> None:
        process = await _start(client, script)
        async with process.follow_logs() as pieces:
            async for piece in pieces:
                assert piece.startswith(b"a")
                break
        await process.refresh()
        assert await process.logs() == b"one line\n"
        with pytest.raises(ProcessNotFoundError):
            async with process.follow_logs():
                pytest.fail("it was refused")

    run(main)
    assert script.asked[1].target.endswith("/logs?follow=true")


def test_stream_that_breaks_off_says_so(run: Run, script: Script) -> None:
    script.answer(200, b"half", Content_Length="100", Connection="close")

    async def main(client: AsyncClient) -> None:
        process = await _start(client, script)
        with pytest.raises(ServerUnreachableError, match="broke off"):
            await _read_all(process)

    run(main)


def test_exit_is_waited_for(run: Run, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.client.aio.POLL_FIRST_S", 0.0)
    script.answer(200, PROCESS)
    script.answer(200, EXITED)

    async def main(client: AsyncClient) -> None:
        assert await (await _start(client, script)).wait() == -15

    run(main)


def test_server_that_is_not_there_is_unreachable(run: Run, script: Script) -> None:
    async def main(_: AsyncClient) -> None:
        async with AsyncClient("http://127.0.0.1:1", api_key=KEY) as nobody:
            with pytest.raises(ServerUnreachableError) as raised:
                await nobody.health()
            with pytest.raises(ServerUnreachableError):
                async with nobody.stream(_logs()):
                    pytest.fail("nobody answered")
        assert_no_key(raised.value)

    run(main)


def test_redirect_is_not_followed_with_the_key(run: Run, script: Script) -> None:
    script.answer(302, b"", Location=f"{script.url}/elsewhere")

    async def main(client: AsyncClient) -> None:
        with pytest.raises(PorticoError):
            await client.health()

    run(main)
    assert len(script.asked) == 1


def test_answer_without_end_is_not_held(run: Run, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.client.aio.ANSWER_BYTES_MAX", 1000)
    script.answer(200, b"x" * 100_000)

    async def main(client: AsyncClient) -> None:
        with pytest.raises(PorticoError, match="larger than"):
            await client.health()

    run(main)


def test_key_is_in_no_repr(script: Script) -> None:
    client = AsyncClient(script.url, api_key=KEY)
    assert KEY not in repr(client)
    assert KEY not in repr(client._http.headers)
    assert os.environ.get("PORTICO_API_KEY") is None


def assert_no_key(error: BaseException | None) -> None:
    while error is not None:
        assert KEY not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _sandbox(client: AsyncClient) -> AsyncSandbox:
    return AsyncSandbox(client, "my-app")


async def _start(client: AsyncClient, script: Script) -> AsyncProcess:
    """Start a process without its being on the record of the test."""
    script.answers.insert(0, (201, PROCESS, {}))
    return await _sandbox(client).start_process("sleep 1")


async def _read_all(process: AsyncProcess) -> None:
    async with process.follow_logs() as pieces:
        async for piece in pieces:
            assert piece == b"half"


def test_hostname_is_bound_verified_listed_and_given_back(run: Run, script: Script) -> None:
    challenge = {"txt_name": "_x.a.example.org", "txt_value": "v", "http_path": "/p", "http_body": "b"}
    domain = {"hostname": "a.example.org", "sandbox": "my-app", "port": 8080, "verified": False, "challenge": challenge}
    script.answer(201, domain)
    script.refuse(409, "DOMAIN_NOT_VERIFIED")
    script.answer(200, {**domain, "verified": True})
    script.answer(200, {"domains": [domain], "next": "a.example.org/my-app"})
    script.answer(200, {"domains": [domain], "next": None})
    script.answer(200, {"closed": 2})

    async def main(client: AsyncClient) -> None:
        sandbox = _sandbox(client)
        assert (await sandbox.bind_domain("A.example.org", 8080)).challenge.txt_value == "v"
        with pytest.raises(DomainNotVerifiedError):
            await sandbox.verify_domain("a.example.org")
        assert (await sandbox.verify_domain("a.example.org")).verified
        assert len(await sandbox.get_domains()) == 2
        assert await sandbox.unbind_domain("a.example.org") == 2

    run(main)
    assert script.asked[-1].target == "/v1/domains/a.example.org?sandbox=my-app"


def test_sleep_is_changed(run: Run, script: Script) -> None:
    script.answer(200, {**SANDBOX, "sleep_after": None})

    async def main(client: AsyncClient) -> None:
        assert (await _sandbox(client).set_sleep_after(None)).sleep_after is None

    run(main)
    assert (script.asked[0].method, script.asked[0].json) == ("PATCH", {"sleep_after": None})


def test_service_that_is_started_again_has_not_ended(run: Run, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.client.aio.POLL_FIRST_S", 0.0)
    script.answer(201, PROCESS)
    script.answer(200, {**PROCESS, "status": "restarting", "exit_code": 1, "restarts": 1})
    script.answer(200, {**PROCESS, "status": "exited", "exit_code": 3, "restarts": 1})

    async def main(client: AsyncClient) -> None:
        process = await _sandbox(client).start_process("sleep 1", restart="on-failure")
        assert await process.wait() == 3
        assert process.restarts == 1

    run(main)
    assert isinstance(script.asked[0].json, dict)
    assert script.asked[0].json["restart"] == "on-failure"


def _logs() -> Call[bytes]:
    return logs("my-app", "p-1", follow=True)


# What the embedding API has and HTTP has not, or not yet: {class: {name: why}}.
NOT_OVER_HTTP: dict[type, dict[str, str]] = {
    actors.Sandbox: {
        "running": "a hold on the container, for code beside it",
        "check_port": "the server checks",
        "domain": "worked out from what only the server knows",
        "get_preview_domain": "worked out from what only the server knows",
    },
    actors.Process: {},
}
# {name: arguments that only the embedding API takes}
ARGUMENTS_NOT_OVER_HTTP = {
    "get_exposed_ports": {"hostname"},
    "list_preview_urls": {"domain"},
    "share": {"hostname"},
}


def public(of: type) -> dict[str, object]:
    return {name: found for name, found in inspect.getmembers(of) if not name.startswith("_")}


@pytest.mark.parametrize(("ours", "theirs"), [(AsyncSandbox, actors.Sandbox), (AsyncProcess, actors.Process)])
def test_names_are_those_of_the_embedding_api(ours: type, theirs: type) -> None:
    """Code moves between the two: a name or argument that is new there comes here, or says here why not."""
    missing = public(theirs).keys() - public(ours).keys() - {"id"}
    assert missing == NOT_OVER_HTTP[theirs].keys()
    for name in public(theirs).keys() & public(ours).keys():
        mine, embedded = public(ours)[name], public(theirs)[name]
        if inspect.isfunction(mine) and inspect.isfunction(embedded):
            taken = inspect.signature(mine).parameters
            wanted = inspect.signature(embedded).parameters
            assert set(wanted) - set(taken) == ARGUMENTS_NOT_OVER_HTTP.get(name, set()), name
            assert all(taken[found].kind == wanted[found].kind for found in set(taken) & set(wanted)), name
