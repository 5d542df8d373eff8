"""Who is let in, and what is read of a request: key, path, scope and content, in that order."""

import json
from contextlib import suppress

import pytest
import trio
import trio.testing

from proxy.api.entrance import BODY_BYTES_MAX, key_text
from proxy.api.keys import FILE_NAME
from proxy.api.problems import ProblemError
from tests.proxy.api.stage import ADMIN, Stage

AT = "/v1/sandboxes/my-app"


async def test_without_a_key_nothing_is_said(stage: Stage) -> None:
    response = await stage.call("GET", AT, key=None)
    assert response.json() == {"error": "missing API key", "code": "MISSING_API_KEY"}
    assert (response.status, response.header("www-authenticate")) == (401, 'Bearer realm="api"')
    await stage.refused(403, "INVALID_API_KEY", "GET", AT, key="nobody's key")


async def test_key_comes_in_either_field(stage: Stage) -> None:
    await stage.got("GET", "/v1/sandboxes", key=None, headers={"Authorization": f"Bearer {ADMIN}"})
    await stage.got("GET", "/v1/sandboxes", key=None, headers={"authorization": f"bearer  {ADMIN}"})


def test_key_is_read_strictly() -> None:
    assert key_text([" k "], []) == "k"
    assert key_text(["k"], ["Bearer other"]) == "k"
    assert key_text([" "], ["Bearer k"]) == "k"
    assert key_text([], ["Basic k"]) is None
    assert key_text([], ["Bearer"]) is None
    assert key_text([], []) is None
    for own, authorization in ((["a", "b"], []), ([], ["Bearer a", "Bearer b"])):
        with pytest.raises(ProblemError):
            key_text(own, authorization)


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("read", {"look"}),
        ("sandbox:my-app", {"look", "change"}),
        ("sandbox:another", set()),
        ("admin", {"look", "change", "make", "keys"}),
    ],
)
async def test_key_may_do_what_its_scope_says(stage: Stage, scope: str, may: set[str]) -> None:
    await stage.make()
    key = stage.key(scope)
    calls = {
        "look": ("GET", AT, None),
        "change": ("PUT", f"{AT}/ports/8080", None),
        "make": ("POST", "/v1/sandboxes", {"container": {"kind": "fake"}}),
        "keys": ("GET", "/v1/keys", None),
    }
    for what, (method, path, body) in calls.items():
        response = await stage.call(method, path, body, key=key)
        assert (response.status < 300) is (what in may), what
        if what not in may:
            assert response.code == "FORBIDDEN"


async def test_who_may_not_look_cannot_tell_whether_a_sandbox_is_there(stage: Stage) -> None:
    await stage.make()
    key = stage.key("sandbox:another")
    answers = [await stage.call("GET", f"/v1/sandboxes/{name}", key=key) for name in ("my-app", "nobody")]
    assert answers[0].body == answers[1].body


@pytest.mark.parametrize("name", ["www", "-a", "a_b", "a" * 41, "%C3%A4"])
async def test_id_that_cannot_be_is_refused_with_the_rule(stage: Stage, name: str) -> None:
    assert "sandbox id" in await stage.refused(400, "INVALID_NAME", "GET", f"/v1/sandboxes/{name}")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"nonsense": 1}', b'{"open_ports": 1}', b"\xff", b'{"id": "x"}}', b"[" * 100_000],
)
async def test_content_that_is_not_of_its_form_is_refused(stage: Stage, body: bytes) -> None:
    response = await stage.raw("POST", "/v1/sandboxes", body)
    assert (response.status, response.code) == (400, "INVALID_REQUEST")


async def test_whole_number_is_one_however_it_is_written(stage: Stage) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    response = await stage.raw("POST", f"{AT}/processes/web/kill", b'{"signal": 1.5e1}')
    assert response.status == 200
    response = await stage.raw("POST", f"{AT}/processes/web/kill", b'{"signal": 15.5}')
    assert (response.status, response.code) == (400, "INVALID_REQUEST")


async def test_content_of_another_type_is_refused(stage: Stage) -> None:
    response = await stage.raw("POST", "/v1/sandboxes", b"{}", headers={"Content-Type": "text/plain"})
    assert (response.status, response.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_content_where_none_is_taken_or_none_where_some_is_wanted_is_refused(stage: Stage) -> None:
    await stage.make()
    await stage.refused(400, "INVALID_REQUEST", "POST", f"{AT}/stop", {"now": True})
    await stage.refused(400, "INVALID_REQUEST", "POST", f"{AT}/exec")


async def test_too_much_content_is_refused_however_it_comes(stage: Stage) -> None:
    for head in (
        f"Content-Length: {BODY_BYTES_MAX + 1}\r\n\r\n",
        f"Transfer-Encoding: chunked\r\n\r\n{BODY_BYTES_MAX + 1:x}\r\n",
    ):
        client = stage.engine.connect()
        request = f"POST /v1/sandboxes HTTP/1.1\r\nHost: example.com\r\nX-API-Key: {ADMIN}\r\n{head}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send, client.stream, request.encode() + b" " * (BODY_BYTES_MAX + 1))
            response = await client.read_response("POST")
        assert (response.status, response.code) == (413, "CONTENT_TOO_LARGE")


async def _send(stream: trio.abc.SendStream, data: bytes) -> None:
    # It need not take all of it.
    with trio.move_on_after(1), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(data)


async def test_content_that_does_not_come_is_not_waited_for(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    client = stage.engine.connect()
    fields = f"Host: example.com\r\nX-API-Key: {ADMIN}\r\nContent-Length: 9\r\n\r\n"
    await client.send(f"POST /v1/sandboxes HTTP/1.1\r\n{fields}{{".encode())
    response = await client.read_response("POST")
    assert (response.status, response.code, response.header("connection")) == (408, "TIMEOUT", "close")


async def test_nothing_is_read_for_who_has_no_key(stage: Stage) -> None:
    client = stage.engine.connect()
    await client.send(b"POST /v1/sandboxes HTTP/1.1\r\nHost: example.com\r\nContent-Length: 9\r\n\r\n")
    assert (await client.read_response("POST")).status == 401


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1&limit=2", "nonsense=1", "limit=1.5"])
async def test_query_that_is_not_of_its_form_is_refused(stage: Stage, query: str) -> None:
    await stage.refused(400, "INVALID_REQUEST", "GET", f"/v1/sandboxes?{query}")


async def test_times_that_are_no_numbers_are_refused(stage: Stage) -> None:
    await stage.make()
    for drain in ("nan", "inf", "-1", "1e999"):
        await stage.refused(400, "INVALID_REQUEST", "DELETE", f"{AT}/ports/8080?drain={drain}")


async def test_keys_that_cannot_be_read_let_nobody_in(stage: Stage) -> None:
    key = stage.key("admin")
    folder = stage.ring._folder
    (folder / FILE_NAME).write_text("nonsense")
    error = await stage.refused(503, "KEYS_UNREADABLE", "GET", "/v1/sandboxes", key=key)
    assert str(folder) not in error


async def test_revoked_key_is_refused_from_then_on(stage: Stage) -> None:
    made = await stage.got("POST", "/v1/keys", {"name": "ci", "scope": "read"}, status=201)
    await stage.got("GET", "/v1/sandboxes", key=made["key"])
    await stage.got("DELETE", f"/v1/keys/{made['id']}", status=204)
    await stage.refused(403, "INVALID_API_KEY", "GET", "/v1/sandboxes", key=made["key"])


async def test_no_answer_echoes_a_secret_of_the_request(stage: Stage) -> None:
    body = {"id": "my-app", "preview_auth": {"token": "short-secret"}}
    assert "short-secret" not in json.dumps(await stage.refused(400, "INVALID_REQUEST", "POST", "/v1/sandboxes", body))
