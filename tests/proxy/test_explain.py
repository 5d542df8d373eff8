"""Explanations of the present agree with what the router answers; those of the past come from the logs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from actors import (
    ContainerSpec,
    Domain,
    FileStore,
    MemoryStore,
    NotListeningError,
    Runtime,
    Sandbox,
    SandboxId,
    SandboxNotFoundError,
    StoreError,
    open_runtime,
)
from actors.store import Tenure
from actors.testing.containers import FakeRun
from proxy.core.diagnosis import BadURLError
from proxy.core.explain import Explanation
from proxy.explain import KNOCK_TIMEOUT_S, explain_url, knock, live_state, past_state
from proxy.testing import PreviewEngine, respond
from tests.proxy.ways import OpenEngine

DOMAINS = [Domain("example.com")]
APP = SandboxId("my-app")
SPEC = ContainerSpec("address", {"host": "127.0.0.1"})
URL = "https://8080-my-app-k3v9x0q2m7t1z8aa.example.com/"
TOKEN = "preview-token-of-the-owner"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


async def explain_now(runtime: Runtime, url: str, preview_token: str | None = None) -> Explanation:
    return await explain_url(url, DOMAINS, partial(live_state, runtime), 0.0, preview_token, runtime.domains.find)


async def assert_agrees(engine: PreviewEngine, url: str, preview_token: str | None = None) -> str:
    """Check that the router answers what is explained; return the code."""
    explained = await explain_now(engine.runtime, url, preview_token)
    headers = [] if preview_token is None else [("Authorization", f"Bearer {preview_token}")]
    answer = await engine.get(url, headers=headers)
    if explained.status is None:
        assert answer.status == 200
    else:
        assert (answer.status, answer.json()) == (
            explained.status,
            {"error": explained.outcome, "code": explained.code},
        )
    return explained.code


async def test_explanation_is_what_the_router_answers(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    other = url.replace(urlsplit(url).netloc.partition(".")[0].rpartition("-")[2], "wrong")
    assert await assert_agrees(preview_engine, url) in {"ADMITTED", "WAKES"}
    assert await assert_agrees(preview_engine, other) == "INVALID_TOKEN"
    assert await assert_agrees(preview_engine, "https://8080-no-such-tok.example.com/") == "INVALID_TOKEN"
    assert await assert_agrees(preview_engine, "https://sb-1a2b3c4d-p8080.example.com/") == "SANDBOX_NOT_FOUND"
    assert await assert_agrees(preview_engine, "https://elsewhere.org/") == "MISDIRECTED_REQUEST"

    sandbox = await preview_engine.runtime.find_sandbox("my-app")
    await sandbox.set_preview_auth(TOKEN)
    assert await assert_agrees(preview_engine, url) == "AUTH_REQUIRED"
    assert await assert_agrees(preview_engine, url, "wrong-token-of-somebody") == "AUTH_INVALID"
    assert await assert_agrees(preview_engine, url, TOKEN) in {"ADMITTED", "WAKES"}
    await sandbox.stop()
    assert await assert_agrees(preview_engine, url, TOKEN) == "SANDBOX_STOPPED"


async def test_service_is_knocked_at_and_nothing_is_sent_to_it(preview_engine: PreviewEngine) -> None:
    heard: list[bytes] = []
    closed = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        heard.append(bytes(await stream.receive_some()))
        closed.set()

    url = await preview_engine.expose(handler)
    asleep = await knock(await explain_now(preview_engine.runtime, url), preview_engine.runtime)
    assert (asleep.code, heard) == ("WAKES", [])
    sandbox = await preview_engine.sandbox()
    async with sandbox.running():
        up = await knock(await explain_now(preview_engine.runtime, url), preview_engine.runtime)
        assert (up.code, up.steps[-1].question, up.steps[-1].answer) == ("ADMITTED", "service", "listens")
        await closed.wait()
    assert heard == [b""]


async def test_port_where_nothing_listens_is_explained_as_the_router_answers_it(preview_engine: PreviewEngine) -> None:
    sandbox = await preview_engine.sandbox()
    url = (await sandbox.expose_port(8080, hostname="example.com")).url
    async with sandbox.running():
        explained = await knock(await explain_now(preview_engine.runtime, url), preview_engine.runtime)
        answer = await preview_engine.get(url)
    assert (explained.status, explained.code) == (502, "NOT_LISTENING")
    assert (answer.status, answer.json()) == (502, {"error": explained.outcome, "code": "NOT_LISTENING", "port": 8080})


async def test_service_that_a_wake_is_bringing_back_is_waited_for_as_a_visit_waits(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening: list[int] = []
    dial = FakeRun.dial

    async def dial_then(run: FakeRun, port: int) -> trio.abc.HalfCloseableStream:
        if port not in listening:
            raise NotListeningError(port, [("memory", "connection refused")])
        return await dial(run, port)

    async def wait_listening(_run: FakeRun, port: int) -> None:
        listening.append(port)

    url = await preview_engine.expose(respond(b"hello"))
    monkeypatch.setattr(FakeRun, "dial", dial_then)
    monkeypatch.setattr(FakeRun, "wait_listening", wait_listening)
    async with (await preview_engine.sandbox()).running():
        explained = await knock(await explain_now(preview_engine.runtime, url), preview_engine.runtime)
        assert (explained.code, explained.steps[-1].answer) == ("ADMITTED", "listens")


async def test_service_that_is_long_in_coming_back_does_not_listen_yet(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def wait_listening(_run: FakeRun, _port: int) -> None:
        await trio.sleep_forever()

    sandbox = await preview_engine.sandbox()
    url = (await sandbox.expose_port(8080, hostname="example.com")).url
    monkeypatch.setattr(FakeRun, "wait_listening", wait_listening)
    async with sandbox.running():
        began = trio.current_time()
        explained = await knock(await explain_now(preview_engine.runtime, url), preview_engine.runtime)
    assert trio.current_time() - began == pytest.approx(KNOCK_TIMEOUT_S)
    assert (explained.status, explained.code) == (502, "NOT_LISTENING")


async def test_service_that_does_not_accept_is_waited_for_so_long_and_no_longer(
    preview_engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def dial(_run: FakeRun, _port: int) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError

    sandbox = await preview_engine.sandbox()
    url = (await sandbox.expose_port(8080, hostname="example.com")).url
    monkeypatch.setattr(FakeRun, "dial", dial)
    async with sandbox.running():
        began = trio.current_time()
        explained = await knock(await explain_now(preview_engine.runtime, url), preview_engine.runtime)
    assert trio.current_time() - began == pytest.approx(KNOCK_TIMEOUT_S)
    assert (explained.status, explained.code) == (504, "UPSTREAM_TIMEOUT")
    assert explained.steps[-1].because == "the service did not accept a connection within 5 s"


async def test_custom_hostname_is_explained_as_the_router_answers_it(preview_engine: PreviewEngine) -> None:
    sandbox = await preview_engine.sandbox()
    url = "https://preview.my-app.com/"
    asked = await sandbox.bind_domain("preview.my-app.com", 8080)
    assert await assert_agrees(preview_engine, url) == "MISDIRECTED_REQUEST"
    await preview_engine.runtime.domains.verify(asked)
    assert await assert_agrees(preview_engine, url) == "INVALID_TOKEN"
    await preview_engine.expose(respond(b"hello"))
    assert await assert_agrees(preview_engine, url) in {"ADMITTED", "WAKES"}
    steps = (await explain_now(preview_engine.runtime, url)).steps
    assert steps[0].because == "preview.my-app.com is bound to it, and verified"
    assert steps[2].answer == "none needed"
    await sandbox.set_preview_auth(TOKEN)
    assert await assert_agrees(preview_engine, url) == "AUTH_REQUIRED"
    assert await assert_agrees(preview_engine, url, TOKEN) in {"ADMITTED", "WAKES"}


async def test_link_on_a_custom_hostname_is_explained_and_not_used_up(preview_engine: PreviewEngine) -> None:
    sandbox = await preview_engine.sandbox()
    await preview_engine.expose(respond(b"hello"))
    await sandbox.set_preview_auth(TOKEN)
    await preview_engine.runtime.domains.verify(await sandbox.bind_domain("preview.my-app.com", 8080))
    share = await sandbox.share(8080, expires_in=60, once=True, custom_hostname="preview.my-app.com")
    assert share.url is not None
    explained = await explain_now(preview_engine.runtime, share.url)
    assert (explained.code, [step.answer for step in explained.steps][1:]) == ("SHARE_OPENS", ["share", "right"])
    assert share.url.rpartition(".")[2] not in repr(explained)
    own = await preview_engine.expose(respond(b"hello"))
    part = share.url.partition(".com/")[2]
    for wrong in (
        share.url[:-1],
        share.url.replace(share.id, "0" * 16),
        share.url.replace(f"{share.id}.", ""),
        own + part,
    ):
        assert await assert_agrees(preview_engine, wrong) == "INVALID_TOKEN"
    assert (await preview_engine.request("POST", share.url, body=b"")).status == 303
    assert await assert_agrees(preview_engine, share.url) == "SHARE_SPENT"
    await sandbox.unbind_domain("preview.my-app.com")
    assert await assert_agrees(preview_engine, share.url) == "MISDIRECTED_REQUEST"


async def test_sandbox_that_cannot_be_loaded_is_answered_as_the_router_does(open_engine: OpenEngine) -> None:
    class Unreadable(MemoryStore):
        async def claim(self, sandbox: SandboxId, depose: int | None = None) -> Tenure:
            raise StoreError("the disk is gone")

        def exists(self, sandbox: SandboxId) -> bool:
            return True

    async with open_runtime(Unreadable()) as runtime:
        explained = await explain_now(runtime, URL)
    assert (explained.status, explained.code) == (503, "QUARANTINED")
    assert "the disk is gone" not in repr(explained)


async def test_explaining_starts_no_actor_for_a_sandbox_that_is_not() -> None:
    async with open_runtime(MemoryStore()) as runtime:
        assert (await explain_now(runtime, URL)).code == "INVALID_TOKEN"
        assert runtime.statistics().actors == 0


async def test_what_is_no_url_is_said_to_be_none() -> None:
    async with open_runtime(MemoryStore()) as runtime:
        with pytest.raises(BadURLError):
            await explain_now(runtime, "ftp://example.com/")


# The past.


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def runtime(folder: Path, clock: Clock) -> AsyncIterator[Runtime]:
    async with open_runtime(FileStore(folder, clock=clock), clock=clock) as runtime:
        yield runtime


async def make(runtime: Runtime) -> Sandbox:
    return await runtime.get_sandbox(APP, container=SPEC)


async def code_at(folder: Path, time: float) -> str:
    return (await explain_url(URL, DOMAINS, partial(past_state, folder, time), time)).code


async def test_past_is_read_beside_the_running_server(runtime: Runtime, folder: Path, clock: Clock) -> None:
    sandbox = await make(runtime)
    clock.now = 2000.0
    await sandbox.expose_port(8080, token="k3v9x0q2m7t1z8aa")
    clock.now = 3000.0
    await sandbox.set_preview_auth(TOKEN)
    clock.now = 4000.0
    await sandbox.unexpose_port(8080)
    said = [await code_at(folder, time) for time in (500.0, 1500.0, 2500.0, 3500.0, 4500.0)]
    assert said == ["INVALID_TOKEN", "INVALID_TOKEN", "WAKES", "AUTH_REQUIRED", "INVALID_TOKEN"]


async def test_lives_of_one_name_are_one_past(runtime: Runtime, folder: Path, clock: Clock) -> None:
    sandbox = await make(runtime)
    await sandbox.expose_port(8080, token="k3v9x0q2m7t1z8aa")
    clock.now = 2000.0
    await sandbox.destroy()
    clock.now = 3000.0
    await make(runtime)
    assert [await code_at(folder, time) for time in (1500.0, 2500.0, 3500.0)] == [
        "WAKES",
        "INVALID_TOKEN",
        "INVALID_TOKEN",
    ]
    explained = await explain_url(URL, DOMAINS, partial(past_state, folder, 2500.0), 2500.0)
    assert explained.steps[-1].because == "it was destroyed"


async def test_folder_that_is_not_there_is_an_error_and_no_explanation(tmp_path: Path) -> None:
    with pytest.raises(SandboxNotFoundError, match="no data folder"):
        await code_at(tmp_path / "nowhere", 0.0)
