"""The order of judgement: host, sandbox, credential, run state, wake; and what each refusal looks like."""

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import pytest
import trio
import trio_websocket

from actors import CutBecause, LogCorruptError, MemoryStore, SandboxId
from actors import Limits as SandboxLimits
from actors.sandbox.admission import Grant
from actors.sandbox.ids import Port, PortToken
from actors.store import Tenure
from actors.testing.containers import FakeRun
from actors.visits import VisitBook
from proxy.core.hostname import BuiltInHost, Host, HostKind, TokenHost
from proxy.door import Preview, answer_to_cut
from proxy.options import Options
from proxy.testing import PreviewEngine, Response, mirror, respond, silence
from tests.proxy.ways import OpenEngine

TOKEN = "preview-token-of-the-owner"
BEARER = ("Authorization", f"Bearer {TOKEN}")
NAVIGATION = ("Sec-Fetch-Mode", "navigate")

DENIED = {"error": "Access denied: Invalid token or port not exposed", "code": "INVALID_TOKEN"}


def with_token(url: str, token: str) -> str:
    """The URL with another port token in its hostname."""
    label, _, domain = urlsplit(url).netloc.partition(".")
    return f"https://{label.rpartition('-')[0]}-{token}.{domain}/"


async def assert_refused(
    engine: PreviewEngine,
    url: str,
    status: int,
    body: Mapping[str, object],
    *,
    headers: tuple[tuple[str, str], ...] = (),
) -> Response:
    """Check the answer for programs and for people, and that a WebSocket gets it too; return the first."""
    answer = await engine.get(url, headers=headers)
    assert (answer.status, answer.json()) == (status, body)
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    page = await engine.get(url, headers=[*headers, NAVIGATION])
    assert page.status == status
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert str(body["code"]) in page.body.decode()
    with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
        async with engine.websocket(url, headers=headers):
            pass
    assert rejected.value.status_code == status
    assert answer.header("location") is None
    return answer


async def test_right_url_reaches_the_service(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    response = await preview_engine.get(url)

    assert (response.status, response.body) == (200, b"hello")


async def test_sandbox_that_does_not_exist_costs_no_actor(preview_engine: PreviewEngine) -> None:
    await assert_refused(preview_engine, "https://8080-no-such-k3v9x0q2m7t1z8aa.example.com/", 404, DENIED)
    await assert_refused(
        preview_engine,
        "https://sb-00000000-p8080.example.com/",
        404,
        {"error": "sandbox sb-00000000 not found", "code": "SANDBOX_NOT_FOUND"},
    )
    assert preview_engine.runtime.statistics().actors == 0


async def test_wrong_token_and_wrong_port_are_denied_alike_and_wake_nothing(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    for denied in (with_token(url, "0000000000000000"), url.replace("8080-", "8081-"), with_token(url, "0")):
        await assert_refused(preview_engine, denied, 404, DENIED)

    container = preview_engine.container()
    assert container.starts == []
    assert not container.dials


async def test_url_is_denied_after_unexpose_and_the_new_one_works(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    sandbox = await preview_engine.sandbox()
    await sandbox.unexpose_port(8080)
    await assert_refused(preview_engine, url, 404, DENIED)

    again = await preview_engine.expose()
    assert again != url
    await assert_refused(preview_engine, url, 404, DENIED)
    assert (await preview_engine.get(again)).status == 200


async def test_url_is_denied_after_destroy(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    await (await preview_engine.sandbox()).destroy()

    await assert_refused(preview_engine, url, 404, DENIED)


async def test_built_in_form_reaches_open_ports_only(preview_engine: PreviewEngine) -> None:
    await preview_engine.sandbox("sb-open", open_ports=True)
    preview_engine.container("sb-open").handlers[80] = respond(b"open")
    await preview_engine.sandbox("sb-closed")

    assert (await preview_engine.get("https://sb-open-p80.example.com/")).body == b"open"
    await assert_refused(preview_engine, "https://sb-closed-p80.example.com/", 404, DENIED)


async def test_gate_asks_for_a_token_and_tells_a_wrong_one(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    await (await preview_engine.sandbox()).set_preview_auth(TOKEN)

    missing = await assert_refused(
        preview_engine, url, 401, {"error": "preview URL requires authentication", "code": "AUTH_REQUIRED"}
    )
    assert missing.header("www-authenticate") == 'Bearer realm="preview"'
    wrong = await assert_refused(
        preview_engine,
        url,
        401,
        {"error": "invalid preview token", "code": "AUTH_INVALID"},
        headers=(("Authorization", "Bearer not-this-one-but-long"),),
    )
    assert wrong.header("www-authenticate") == 'Bearer realm="preview", error="invalid_token"'
    assert preview_engine.container().starts == []


@pytest.mark.parametrize("field", ["Authorization", "X-OC-Preview-Token"])
async def test_right_token_opens_the_gate_and_goes_no_further(field: str, preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    await (await preview_engine.sandbox()).set_preview_auth(TOKEN)
    value = f"Bearer {TOKEN}" if field == "Authorization" else TOKEN
    response = await preview_engine.get(url, headers=[(field, value)])

    assert response.status == 200
    assert TOKEN.encode() not in response.body


async def test_credential_of_the_service_itself_passes_beside_that_of_the_gate(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    own = ("Authorization", "Bearer the-services-own")
    assert b"the-services-own" in (await preview_engine.get(url, headers=[own])).body

    await (await preview_engine.sandbox()).set_preview_auth(TOKEN)
    response = await preview_engine.get(url, headers=[own, ("X-OC-Preview-Token", TOKEN)])
    assert b"the-services-own" in response.body
    assert TOKEN.encode() not in response.body


async def test_preflight_needs_the_port_token_only(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(status=204, headers=[("Access-Control-Allow-Origin", "*")]))
    await (await preview_engine.sandbox()).set_preview_auth(TOKEN)
    preflight = [("Origin", "https://elsewhere.example"), ("Access-Control-Request-Method", "PUT")]

    # While the sandbox sleeps it passes no further: it bears nothing that may wake anybody.
    assert (await preview_engine.request("OPTIONS", url, headers=preflight)).status == 401
    assert not preview_engine.container().starts
    await preview_engine.get(url, headers=[("X-OC-Preview-Token", TOKEN)])
    allowed = await preview_engine.request("OPTIONS", url, headers=preflight)
    assert (allowed.status, allowed.header("access-control-allow-origin")) == (204, "*")
    denied = await preview_engine.request("OPTIONS", with_token(url, "wrong"), headers=preflight)
    assert denied.status == 404
    plain = await preview_engine.request("OPTIONS", url)
    assert plain.status == 401


async def test_token_sent_with_a_preflight_does_not_reach_the_service(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    await (await preview_engine.sandbox()).set_preview_auth(TOKEN)
    preflight = [BEARER, ("Access-Control-Request-Method", "PUT")]

    assert TOKEN.encode() not in (await preview_engine.request("OPTIONS", url, headers=preflight)).body


async def test_credential_sent_twice_is_refused(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    response = await preview_engine.get(url, headers=[BEARER, ("Authorization", "Bearer other-token-altogether")])

    assert (response.status, response.code) == (400, "BAD_REQUEST")


async def test_sleeping_sandbox_that_must_not_wake_is_stale(preview_engine: PreviewEngine) -> None:
    await preview_engine.sandbox(when_asleep="stale")
    url = await preview_engine.expose(respond(b"hello"))

    await assert_refused(
        preview_engine,
        url,
        410,
        {
            "error": "Preview URL is stale because the sandbox runtime is not active",
            "code": "STALE_PREVIEW_URL",
        },
    )
    assert preview_engine.container().starts == []


async def test_websocket_wakes_nothing_unless_its_port_says_so(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror(), wake_on_websocket=False)
    sandbox = await preview_engine.sandbox()
    await sandbox.wake()
    await sandbox.hibernate()
    with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
        async with preview_engine.websocket(url):
            pass
    assert rejected.value.status_code == 503
    assert (rejected.value.body or b"").startswith(b'{"error": "the sandbox is asleep')
    assert len(preview_engine.container().starts) == 1
    await sandbox.expose_port(8080, wake_on_websocket=True)
    with pytest.raises(trio_websocket.ConnectionRejected) as rejected:
        async with preview_engine.websocket(url):
            pass
    assert rejected.value.status_code == 200, "it has reached the service, which speaks no WebSocket"
    assert len(preview_engine.container().starts) == 2


async def test_client_that_had_too_much_woken_is_told_to_come_later(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    sandbox = await preview_engine.sandbox()
    for _ in range(SandboxLimits().wakes_per_minute):
        assert (await preview_engine.get(url)).status == 200
        await sandbox.hibernate()
    answer = await preview_engine.get(url)
    assert (answer.status, answer.code) == (503, "OVERLOADED")
    assert answer.header("retry-after") is not None
    assert len(preview_engine.container().starts) == SandboxLimits().wakes_per_minute


async def test_stopped_sandbox_is_gone_for_good(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    await (await preview_engine.sandbox()).stop()

    await assert_refused(
        preview_engine, url, 410, {"error": "sandbox my-app has been stopped", "code": "SANDBOX_STOPPED"}
    )
    await assert_refused(preview_engine, with_token(url, "wrong"), 404, DENIED)


async def test_requests_wait_for_one_wake_and_are_then_served(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    container = preview_engine.container()
    container.hold_starts()
    bodies: list[object] = []

    async def post(number: int) -> None:
        response = await preview_engine.request("POST", url, body=b"%d" % number)
        shown = response.json()
        assert isinstance(shown, dict)
        bodies.append(shown["body"])

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(post, number)
            await preview_engine.settle()
        assert not bodies
        container.release_starts()
    assert len(container.starts) == 1
    assert sorted(map(str, bodies)) == ["0", "1", "2", "3", "4"]


async def test_wake_that_takes_too_long_is_told(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(options=Options(wake_timeout_s=20)) as engine:
        url = await engine.expose(respond(b"hello"))
        engine.container().hold_starts()
        asked = trio.current_time()
        answer = await engine.get(url)
        assert trio.current_time() - asked == 20
        assert (answer.status, answer.code, answer.header("retry-after")) == (503, "WAKING", "2")
        page = await engine.get(url, headers=[NAVIGATION])
        assert page.status == 503
        assert b'<meta http-equiv="refresh" content="2">' in page.body
        engine.container().release_starts()
        assert (await engine.get(url)).status == 200


async def test_container_that_does_not_start_is_told_without_its_reason(
    preview_engine: PreviewEngine, logged: list[dict[str, object]]
) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    preview_engine.container().start_error = "no room on host-17"
    answer = await preview_engine.get(url)

    assert (answer.status, answer.code, answer.header("retry-after")) == (503, "CONTAINER_START", "10")
    assert b"host-17" not in answer.body
    assert any("host-17" in str(event.get("error")) for event in logged)


async def test_too_many_visits_are_told_to_come_back(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock
) -> None:
    async with open_engine(limits=SandboxLimits(visits_max=1)) as engine:
        url = await engine.expose(silence())
        async with engine.open("GET", url):
            await engine.settle()
            answer = await engine.get(url)
            assert (answer.status, answer.code, answer.header("retry-after")) == (503, "OVERLOADED", "1")


async def test_log_that_cannot_be_read_is_told_to_the_operator_only(
    open_engine: OpenEngine, autojump_clock: trio.testing.MockClock, logged: list[dict[str, object]]
) -> None:
    class Damaged(MemoryStore):
        async def claim(self, sandbox: SandboxId) -> Tenure:
            raise LogCorruptError("record 3 is damaged", offset=123)

        def exists(self, sandbox: SandboxId) -> bool:
            return True

    async with open_engine(store=Damaged()) as engine:
        answer = await engine.get("https://8080-my-app-k3v9x0q2m7t1z8aa.example.com/")
        assert (answer.status, answer.code) == (503, "QUARANTINED")
        assert b"damaged" not in answer.body
        assert any(event.get("code") == "LOG_CORRUPT" for event in logged)


async def test_preview_field_on_the_base_domain_stands_for_a_hostname(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror())
    label = urlsplit(url).netloc.partition(".")[0]
    response = await preview_engine.get("https://example.com/path", headers=[("Portico-Preview", label)])

    assert response.status == 200
    assert b"portico-preview" not in response.body.lower()
    assert label.rpartition("-")[2].encode() not in response.body


@pytest.mark.parametrize(
    "labels",
    [
        ("8080-my-app-wrong",),
        ("nonsense",),
        ("8080-my-app-k3v9.example.com",),
        ("",),
    ],
)
async def test_preview_field_that_names_no_preview_is_denied(
    labels: tuple[str, ...], preview_engine: PreviewEngine
) -> None:
    await preview_engine.expose(mirror())
    fields = [("Portico-Preview", label) for label in labels]

    assert (await preview_engine.get("https://example.com/", headers=fields)).json() == DENIED


async def test_preview_field_that_is_sent_twice_is_denied(preview_engine: PreviewEngine) -> None:
    label = urlsplit(await preview_engine.expose(mirror())).netloc.partition(".")[0]
    fields = [("Portico-Preview", label)] * 2

    assert (await preview_engine.get("https://example.com/", headers=fields)).json() == DENIED


async def test_preview_field_counts_nowhere_else(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(mirror(), port=8081)
    label = urlsplit(await preview_engine.expose(respond(b"other"))).netloc.partition(".")[0]
    field = ("Portico-Preview", label)

    on_preview = await preview_engine.get(url, headers=[field])
    assert on_preview.status == 200
    assert label.encode() not in on_preview.body
    assert (await preview_engine.get("https://elsewhere.net/", headers=[field])).status == 421


@pytest.mark.parametrize(
    ("host", "status", "code"),
    [
        ("example.com", 404, "NOT_FOUND"),
        ("localhost:8787", 404, "NOT_FOUND"),
        ("127.0.0.1", 404, "NOT_FOUND"),
        ("[::1]:80", 404, "NOT_FOUND"),
        ("www.example.com", 421, "MISDIRECTED_REQUEST"),
        ("elsewhere.net", 421, "MISDIRECTED_REQUEST"),
        ("a b", 400, "BAD_HOST"),
        ("127.1", 400, "BAD_HOST"),
    ],
)
async def test_hosts_of_no_preview(host: str, status: int, code: str, preview_engine: PreviewEngine) -> None:
    client = preview_engine.connect()
    await client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    response = await client.read_response()

    assert (response.status, response.code) == (status, code)


async def test_absolute_target_must_agree_with_host(preview_engine: PreviewEngine) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    host = urlsplit(url).netloc
    for target, status in ((url, 200), (f"https://{host}:443/", 200), ("https://example.com/", 400)):
        client = preview_engine.connect()
        await client.send_request("GET", target, host)
        assert (await client.read_response()).status == status


@pytest.mark.parametrize("spelling", [str.upper, lambda host: f"{host}.", lambda host: f"{host}:443"])
async def test_other_spellings_of_a_hostname_lead_to_the_same_preview(
    spelling: Callable[[str], str], preview_engine: PreviewEngine
) -> None:
    url = await preview_engine.expose(respond(b"hello"))
    client = preview_engine.connect()
    await client.send_request("GET", "/", spelling(urlsplit(url).netloc))

    assert (await client.read_response()).body == b"hello"


def _preview(host: TokenHost | BuiltInHost) -> Preview:
    return Preview(host, Host(HostKind.NAME, "any.example.com", None))


@pytest.mark.parametrize(
    ("reason", "generation", "code"),
    [
        (CutBecause.UNEXPOSED, None, "INVALID_TOKEN"),
        (CutBecause.DESTROYED, None, "INVALID_TOKEN"),
        (CutBecause.ROTATED, 1, "AUTH_INVALID"),
        (CutBecause.ROTATED, None, "AUTH_REQUIRED"),
        (CutBecause.STOPPED, None, "SANDBOX_STOPPED"),
        (CutBecause.RUN_ENDED, None, "UPSTREAM_CLOSED"),
    ],
)
def test_visit_that_was_cut_is_told_what_it_would_be_told_now(
    reason: CutBecause, generation: int | None, code: str
) -> None:
    run = FakeRun("run-1", None)  # type: ignore[arg-type]  # never dialled
    visit = VisitBook().open(Grant(Port(8080), "run-1", 1, generation), run)
    visit.pull(reason)
    host = TokenHost(SandboxId("my-app"), Port(8080), PortToken("k3v9"), "example.com")  # type: ignore[arg-type]  # read as text

    assert answer_to_cut(visit, _preview(host)).code == code
    if reason is CutBecause.DESTROYED:
        built_in = BuiltInHost(SandboxId("sb-1"), Port(8080), "example.com")  # type: ignore[arg-type]  # read as text
        assert answer_to_cut(visit, _preview(built_in)).code == "SANDBOX_NOT_FOUND"
