"""`proxy.client` against a real server, on trio, on asyncio and without async."""

import http.client
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import pytest

from actors import NotListeningError, ProcessNotFoundError, SandboxMismatchError, SandboxNotFoundError, SecurityError
from proxy.client import AsyncClient, Client, InvalidRequestError, KeyRefusedError, TooSlowError

if TYPE_CHECKING:
    # For its types; pytest finds the fixtures by name.
    from tests.e2e.conftest import StartProgram

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")
KEY = "key-of-the-owner-0123456789"
TOKEN = "preview-token-of-the-owner"


@pytest.fixture
def url(start_python: "StartProgram", tmp_path: Path) -> Iterator[str]:
    """The URL of a server whose data folder is empty."""
    server = start_python(
        *(PORTICO, "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--log-format", "json"),
        ready=r"(\{.*\"listening\".*)",
        env={**os.environ, "PORTICO_API_KEY": KEY},
    )
    yield f"http://{json.loads(server.ready[1])['address']}"
    server.stop()
    assert KEY not in "".join(server.output)
    assert TOKEN not in "".join(server.output)


def visit(preview: str, token: str | None = None) -> int:
    """GET a preview as a browser would, with the address dialled and not looked up; return the status."""
    parts = urlsplit(preview)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
    headers = {"Host": parts.netloc} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    connection.request("GET", parts.path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def service(port: int) -> list[str]:
    return [sys.executable, "-u", "-m", "http.server", str(port), "--bind", "127.0.0.1"]


def test_service_that_fails_once_is_started_again_and_says_so(url: str, tmp_path: Path) -> None:
    mark = tmp_path / "has-failed"
    with Client(url, api_key=KEY) as client:
        process = client.get_sandbox("my-app").start_process(
            f"test -e {mark} && exit 0; touch {mark}; exit 3", restart="on-failure"
        )
        assert process.wait() == 0
        assert process.restarts == 1


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_sandbox_lives_its_life_over_http(backend: str, url: str, free_port: int) -> None:
    async def main() -> None:
        async with AsyncClient(url, api_key=KEY) as client:
            assert (await client.health()).status == "ok"
            sandbox = await client.get_sandbox("my-app", container="process")
            assert [found.id for found in await client.list_sandboxes()] == ["my-app"]

            process = await sandbox.start_process(service(free_port), env={"GREETING": "hello"}, id="web")
            await process.wait_for_port(free_port)
            exposed = await sandbox.expose_port(free_port, name="web")
            assert exposed.url is not None
            assert exposed.token is not None
            assert await anyio.to_thread.run_sync(visit, exposed.url) == 200
            assert (await sandbox.expose_port(free_port)).url == exposed.url
            assert await sandbox.is_port_exposed(free_port)
            assert await sandbox.validate_port_token(free_port, exposed.token)

            assert (await sandbox.set_preview_auth(TOKEN)).token == TOKEN
            assert await anyio.to_thread.run_sync(visit, exposed.url) == 401
            assert await anyio.to_thread.run_sync(visit, exposed.url, TOKEN) == 200
            explained = await client.explain(exposed.url)
            assert (explained.outcome.status, explained.outcome.code) == (401, "AUTH_REQUIRED")
            rotated = await sandbox.rotate_preview_auth()
            assert await anyio.to_thread.run_sync(visit, exposed.url, TOKEN) == 401
            assert await anyio.to_thread.run_sync(visit, exposed.url, rotated.token) == 200

            shared = await sandbox.share(free_port, expires_in=60)
            assert shared.url is not None
            assert (await client.explain(shared.url)).outcome.code == "SHARE_OPENS"
            assert await anyio.to_thread.run_sync(visit, shared.url) == 303
            assert [one.id for one in await sandbox.list_shares()] == [shared.id]
            assert await sandbox.revoke_share(shared.id) == 0
            assert await anyio.to_thread.run_sync(visit, shared.url) == 404
            assert await sandbox.revoke_share(shared.id) == 0

            assert (await sandbox.hibernate()).status == "asleep"
            assert (await client.explain(exposed.url)).outcome.code == "AUTH_REQUIRED"
            assert (await sandbox.wake()).status == "running"

            assert await sandbox.unexpose_port(free_port) == 0
            assert await sandbox.get_exposed_ports() == []
            assert await anyio.to_thread.run_sync(visit, exposed.url, rotated.token) == 404

            ended = await sandbox.exec("echo out; echo err >&2; exit 3")
            assert (ended.exit_code, ended.stdout, ended.stderr) == (3, "out\n", "err\n")
            talker = await sandbox.start_process("for i in 1 2 3; do echo line $i; sleep 0.1; done", id="talker")
            async with talker.follow_logs() as pieces:
                assert b"".join([piece async for piece in pieces]) == b"line 1\nline 2\nline 3\n"
            assert await talker.logs() == b"line 1\nline 2\nline 3\n"
            assert await talker.wait() == 0

            preview = await sandbox.create_preview_url(free_port)
            assert [one.id for one in await sandbox.list_preview_urls()] == [preview.id]
            assert await sandbox.delete_preview_url(free_port)
            assert not await sandbox.delete_preview_url(free_port)

            sleeper = await sandbox.start_process("sleep 60", id="sleeper")
            async with sleeper.follow_logs():
                # Left while it runs: nobody is kept by it.
                pass
            await (await sandbox.get_process("sleeper")).kill()
            assert await sleeper.wait() == -15
            assert "sleeper" in [one.id for one in await sandbox.list_processes()]
            assert {moment.event for moment in await sandbox.history()} >= {"sandbox_created", "port_exposed"}

            assert await sandbox.destroy() == 0
            with pytest.raises(SandboxNotFoundError):
                await sandbox.state()
            assert await sandbox.destroy() == 0

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_refusals_are_the_exceptions_of_the_embedding_api(backend: str, url: str, free_port: int) -> None:
    async def main() -> None:
        async with AsyncClient(url, api_key=KEY) as client:
            sandbox = await client.get_sandbox("my-app")
            with pytest.raises(SandboxMismatchError):
                await client.get_sandbox("my-app", open_ports=True)
            for reserved in (3000, 80):
                with pytest.raises(SecurityError):
                    await sandbox.expose_port(reserved)
            with pytest.raises(InvalidRequestError):
                await sandbox.expose_port(free_port, host_header="localhost", token="not a token")
            with pytest.raises(ProcessNotFoundError):
                await sandbox.get_process("no-such")
            sleeper = await sandbox.start_process("sleep 60")
            with pytest.raises(TooSlowError):
                await sleeper.wait_for_port(free_port, timeout=0.05)
            with pytest.raises(NotListeningError):
                await (await sandbox.start_process("exit 1")).wait_for_port(free_port)
        async with AsyncClient(url, api_key="wrong-key-of-nobody-0123456789") as stranger:
            with pytest.raises(KeyRefusedError) as raised:
                await stranger.list_sandboxes()
            assert "wrong-key" not in str(raised.value)

    anyio.run(main, backend=backend)


def test_keys_open_what_their_scope_says(url: str) -> None:
    with Client(url, api_key=KEY) as client:
        client.get_sandbox("one")
        client.get_sandbox("two")
        made = client.create_key("of one", "sandbox:one")
        with Client(url, api_key=made.key) as narrow:
            assert [found.id for found in narrow.list_sandboxes()] == ["one"]
            with pytest.raises(KeyRefusedError):
                narrow.find_sandbox("two")
            assert "of one" in [key.name for key in client.list_keys()]
            client.revoke_key(made.id)
            with pytest.raises(KeyRefusedError):
                narrow.find_sandbox("one")


def test_code_without_async_does_the_same(url: str, free_port: int) -> None:
    with Client(url, api_key=KEY) as client:
        sandbox = client.get_sandbox(preview_auth="auto")
        assert sandbox.id.startswith("sb-")
        assert sandbox.preview_auth_token is not None
        process = sandbox.start_process(service(free_port))
        process.wait_for_port(free_port)
        exposed = sandbox.expose_port(free_port)
        assert exposed.url is not None
        assert visit(exposed.url) == 401
        assert visit(exposed.url, sandbox.preview_auth_token) == 200
        assert sandbox.stop() == 0
        assert visit(exposed.url) != 200
        assert sandbox.state().status == "stopped"
        assert sandbox.destroy() == 0
