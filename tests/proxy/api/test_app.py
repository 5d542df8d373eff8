"""What all calls have in common: methods, repetition, limits, and that a bug is told to nobody but the log."""

from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio
import trio.testing
from starlette.responses import Response as StarletteResponse

from proxy.api import app as app_module
from proxy.api.app import STRANGER_S, Api
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.core.addresses import Addresses
from proxy.options import Options
from proxy.testing import Client
from tests.proxy.api.stage import SPEC, Stage, open_stage

AT = "/v1/sandboxes/my-app"


def use(stage: Stage, *operations: Operation) -> None:
    """Serve other operations instead."""
    other = Api(stage.api.ground, operations)
    stage.api._router = other._router
    other._answers = stage.api._answers


async def test_other_methods_are_told_which_there_are(stage: Stage) -> None:
    response = await stage.call("PUT", AT)
    assert (response.status, response.code, response.header("allow")) == (
        405,
        "METHOD_NOT_ALLOWED",
        "DELETE, GET, HEAD, PATCH",
    )
    # No page of another origin may call this.
    preflight = await stage.call("OPTIONS", AT, headers={"Origin": "https://evil.example"})
    assert preflight.status == 405
    assert not [name for name, _ in preflight.headers if name.startswith("access-control")]


async def test_other_paths_hold_nothing(stage: Stage) -> None:
    for path in ("/", "/v1", "/v1/sandboxes/", f"{AT}/", "/v1/sandboxes/a/b/c", "/%00"):
        await stage.refused(404, "NOT_FOUND", "GET", path)


async def test_answers_are_not_to_be_stored(stage: Stage) -> None:
    for path in ("/v1/sandboxes", "/nothing", "/healthz"):
        assert (await stage.call("GET", path)).header("cache-control") == "no-store"


async def test_change_with_a_key_is_made_once_and_answered_alike(stage: Stage) -> None:
    body, headers = {"container": SPEC, "preview_auth": {}}, {"Idempotency-Key": "k1"}
    first = await stage.call("POST", "/v1/sandboxes", body, headers=headers)
    second = await stage.call("POST", "/v1/sandboxes", body, headers=headers)
    assert (first.status, first.body) == (second.status, second.body)
    assert (first.header("idempotency-replayed"), second.header("idempotency-replayed")) == (None, "true")
    assert len((await stage.got("GET", "/v1/sandboxes"))["sandboxes"]) == 1
    await stage.refused(422, "IDEMPOTENCY_KEY_REUSED", "POST", "/v1/sandboxes", {"container": SPEC}, headers=headers)


async def test_refusal_is_repeated_too_until_another_key_is_used(stage: Stage) -> None:
    headers = {"Idempotency-Key": "k1"}
    await stage.refused(404, "SANDBOX_NOT_FOUND", "PUT", f"{AT}/ports/8080", headers=headers)
    await stage.make()
    await stage.refused(404, "SANDBOX_NOT_FOUND", "PUT", f"{AT}/ports/8080", headers=headers)
    await stage.got("PUT", f"{AT}/ports/8080", headers={"Idempotency-Key": "k2"}, status=201)


async def test_change_of_one_sandbox_is_no_answer_for_the_next_of_its_name(stage: Stage) -> None:
    opened, ended = {"Idempotency-Key": "k1"}, {"Idempotency-Key": "k2"}
    await stage.make()
    port = await stage.got("PUT", f"{AT}/ports/8080", headers=opened, status=201)
    gone = await stage.got("DELETE", AT, headers=ended)
    # What was answered while it was there may have been lost on its way.
    assert await stage.got("PUT", f"{AT}/ports/8080", headers=opened, status=201) == port
    assert await stage.got("DELETE", AT, headers=ended) == gone
    await stage.make()
    for method, path, headers in (("PUT", f"{AT}/ports/8080", opened), ("DELETE", AT, ended)):
        text = await stage.refused(422, "IDEMPOTENCY_KEY_REUSED", method, path, headers=headers)
        assert "sandbox before this one" in text
    await stage.got("GET", AT)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_idempotency_key_has_a_form(stage: Stage, key: str) -> None:
    await stage.refused(400, "INVALID_REQUEST", "POST", "/v1/sandboxes", {}, headers={"Idempotency-Key": key})


async def test_bug_is_told_to_the_log_only(stage: Stage, logged: list[dict[str, object]]) -> None:
    secret = "hunter2"

    async def fail(_call: Call) -> Reply:
        raise KeyError(secret)

    use(stage, Operation("GET", "/fail", "fail", "Fail.", fail, Need.LOOK, {200: None}))
    error = await stage.refused(500, "INTERNAL", "GET", "/fail")
    assert secret not in error
    assert secret not in str(logged)
    assert len(logged) == 1


async def test_calls_beyond_the_limit_are_told_to_come_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "CALLS_MAX", 1)
    gate = trio.Event()

    async def wait(_call: Call) -> StarletteResponse:
        await gate.wait()
        return StarletteResponse(b"done")

    use(stage, Operation("GET", "/wait", "wait", "Wait.", wait, Need.LOOK, {200: None}))
    async with stage.engine.open("GET", "https://example.com/wait", headers=[("X-API-Key", "nobody's")]) as client:
        assert (await client.read_response()).status == 403
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.got_text, "/wait")
        await stage.engine.settle()
        response = await stage.call("GET", "/wait")
        assert (response.status, response.code, response.header("retry-after")) == (503, "OVERLOADED", "1")
        gate.set()


async def ask_and_read_nothing(
    stage: Stage, path: str, *, peer: str = "192.0.2.7", fields: Sequence[tuple[str, str]] = ()
) -> Client:
    """Ask for something, on a connection of which nothing is read; return it once the answer waits for room."""
    client = stage.engine.connect(unbuffered=True, peer=peer)
    await client.send_request("GET", path, "example.com", headers=fields)
    await stage.engine.settle()
    return client


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/v1/sandboxes", "/nothing"])
async def test_strangers_that_read_nothing_hold_up_nobody_with_a_key(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, path: str
) -> None:
    monkeypatch.setattr(app_module, "CALLS_MAX", 2)
    for number in range(20):
        await ask_and_read_nothing(stage, path, peer=f"192.0.2.{number}")
    assert stage.engine.router.connections == 20
    assert await stage.got("GET", "/v1/sandboxes") == {"sandboxes": [], "next": None}
    # Nor do they hold what they have for ever.
    await trio.sleep(STRANGER_S + 2)
    assert stage.engine.router.connections == 0


async def test_strangers_are_sent_so_many_documents_at_once_all_together_and_each(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(app_module, "DOCUMENTS_MAX", 3)
    stage.api._readers = Addresses(2)
    for peer in ("192.0.2.7", "192.0.2.7"):
        await ask_and_read_nothing(stage, "/openapi.json", peer=peer)
    # The stage's own calls come from that address too.
    response = await stage.call("GET", "/docs", key=None)
    assert (response.status, response.code, response.header("retry-after")) == (503, "OVERLOADED", "1")
    other = await ask_and_read_nothing(stage, "/openapi.json", peer="192.0.2.8")
    third = stage.engine.connect(peer="192.0.2.9")
    await third.send_request("GET", "/docs", "example.com")
    assert (await third.read_response()).code == "OVERLOADED"
    # What is no larger than a refusal is never refused for it, and whoever has a key is no stranger.
    assert (await stage.got("GET", "/healthz", key=None)) == {"status": "ok"}
    assert (await stage.got("GET", "/openapi.json"))["openapi"] == "3.1.0"
    assert (await other.read_response()).status == 200
    await third.send_request("GET", "/docs", "example.com")
    assert (await third.read_response()).status == 200
    await trio.sleep(STRANGER_S + 2)
    assert (await stage.call("GET", "/docs", key=None)).status == 200


@pytest.mark.parametrize("said", [True, False])
async def test_strangers_behind_a_trusted_proxy_are_not_taken_for_one(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, said: bool
) -> None:
    options = Options(trusted_proxies=(ip_network("192.0.2.7"),))
    async with open_stage(tmp_path, options=options) as stage:
        stage.api._readers = Addresses(1)
        for number in range(3):
            fields = [("X-Forwarded-For", f"203.0.113.{number}")] if said else []
            await ask_and_read_nothing(stage, "/openapi.json", fields=fields)
            assert stage.api._documents == number + 1
        if said:
            again = stage.engine.connect()
            await again.send_request("GET", "/docs", "example.com", headers=[("X-Forwarded-For", "203.0.113.1")])
            assert (await again.read_response()).code == "OVERLOADED"
        await trio.sleep(STRANGER_S + 2)


async def test_stranger_that_reads_its_document_slowly_has_so_much_time(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    client = await ask_and_read_nothing(stage, "/openapi.json")
    await trio.sleep(STRANGER_S - 1)
    assert (await client.read_response()).status == 200


async def test_head_is_get_without_content(stage: Stage) -> None:
    client = stage.engine.connect()
    await client.send_request("HEAD", "/healthz", "example.com")
    response = await client.read_response("HEAD")
    assert (response.status, response.body) == (200, b"")


@pytest.mark.parametrize("fields", [[], [("Idempotency-Key", "k1")]])
async def test_call_whose_key_is_revoked_while_its_content_comes_is_not_carried_out(
    stage: Stage, fields: list[tuple[str, str]]
) -> None:
    record, key = stage.ring.create("leaver", "admin")
    client = stage.engine.connect()
    body = b'{"name": "heir", "scope": "admin"}'
    headers = [("X-API-Key", key), ("Content-Length", str(len(body))), *fields]
    await client.send_request("POST", "/v1/keys", "example.com", headers=headers)
    await client.send(body[:5])
    await stage.engine.settle()
    await stage.got("DELETE", f"/v1/keys/{record.id}", status=204)
    await client.send(body[5:])
    response = await client.read_response()
    assert (response.status, response.code) == (403, "INVALID_API_KEY")
    assert [found.name for found in stage.ring.records()] == ["PORTICO_API_KEY"]
