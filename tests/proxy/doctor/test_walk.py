"""The whole walk, against the real router in memory with services that misbehave, and fronts that do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from wsproto.connection import Connection as FrameConnection
from wsproto.connection import ConnectionType
from wsproto.events import Ping
from wsproto.utilities import generate_accept_token

from actors import Share
from proxy.config import HostPort
from proxy.core.diagnosis import Diagnosis, Finding, Outcome, Step, Target
from proxy.core.facts import Facts
from proxy.core.reaching import TLSFailure
from proxy.doctor import walk
from proxy.doctor.reach import TLSError
from proxy.doctor.walk import Errand, Record, examine
from proxy.testing import Asked, Caller, PreviewEngine, hangs_up, respond, service, silence
from proxy.testing import preview_engine as open_engine

VIA = HostPort("192.0.2.1", 80)
Stream = trio.abc.HalfCloseableStream


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PreviewEngine]:
    """Have whatever the doctor dials be this engine's router."""
    async with open_engine() as engine:

        async def dial(_host: str, _port: int) -> Stream:
            return engine.connect(scheme="http").stream

        monkeypatch.setattr(trio, "open_tcp_stream", dial)
        yield engine


@asynccontextmanager
async def standing_in_front(engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, hold: bytes) -> AsyncIterator[None]:
    """Stand in front of the engine, and hold whole responses back if the request has `hold` in it."""
    async with trio.open_nursery() as nursery:

        async def dial(_host: str, _port: int) -> Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(relay, theirs, engine.connect(scheme="http").stream)
            return ours

        async def relay(client: Stream, router: Stream) -> None:
            request = bytes(await client.receive_some())
            await router.send_all(request)
            held = b""
            while data := await router.receive_some():
                if hold in request:
                    held += data
                else:
                    await client.send_all(bytes(data))
            await client.send_all(held)
            await client.aclose()
            await router.aclose()

        monkeypatch.setattr(trio, "open_tcp_stream", dial)
        yield
        nursery.cancel_scope.cancel()


async def answer_everything(caller: Caller, asked: Asked) -> None:
    """Speak WebSocket at /ws, send an event a second at /events, and greet elsewhere."""
    if asked.target == "/ws" and asked.header("upgrade") == "websocket":
        key = (asked.header("sec-websocket-key") or "").encode()
        head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        await caller.send_raw(head + b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n\r\n")
        frames = FrameConnection(ConnectionType.SERVER)
        while data := await caller.stream.receive_some():
            frames.receive_data(bytes(data))
            for event in frames.events():
                if isinstance(event, Ping):
                    await caller.send_raw(frames.send(event.response()))
        raise trio.BrokenResourceError
    if asked.target == "/events":
        await caller.begin(200, [("Content-Type", "text/event-stream")])
        for number in range(4):
            await caller.send(f"data: {number}\n\n".encode())
            await trio.sleep(1)
        await caller.end()
    else:
        await caller.respond(200, b"hello")


def errand(url: str, **changes: object) -> Errand:
    target = Target.read(url.replace("https://", "http://"))
    return replace(Errand(target=target, via=VIA), **changes)  # type: ignore[arg-type]  # fields by name


def failed_step(diagnosis: Diagnosis) -> Finding:
    return next(found for found in diagnosis.findings if found.outcome is Outcome.FAILED)


def outcomes(diagnosis: Diagnosis) -> dict[str, str]:
    return {found.step.value: found.outcome.value for found in diagnosis.findings}


async def test_sound_preview_is_sound_in_every_step(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await engine.expose(service(answer_everything))
    said: list[Finding] = []
    diagnosis = await examine(errand(url, websocket_path="/ws", events_path="/events"), said.append)
    assert outcomes(diagnosis) == dict.fromkeys(Step, "ok") | {"dns": "skipped", "tls": "skipped", "record": "skipped"}
    assert diagnosis.mend is None
    assert tuple(said) == diagnosis.findings


async def test_preview_without_websocket_and_events_is_sound_if_nobody_names_any(engine: PreviewEngine) -> None:
    diagnosis = await examine(errand(await engine.expose(respond(b"hello"))))
    assert diagnosis.mend is None
    assert (outcomes(diagnosis)["websocket"], outcomes(diagnosis)["events"]) == ("skipped", "skipped")


async def test_service_without_the_websocket_that_was_named_fails(engine: PreviewEngine) -> None:
    diagnosis = await examine(errand(await engine.expose(respond(b"hello")), websocket_path="/ws"))
    assert failed_step(diagnosis).step is Step.WEBSOCKET


async def test_nothing_listening_is_the_ports_failure_and_says_where_it_was_tried(engine: PreviewEngine) -> None:
    found = failed_step(await examine(errand(await engine.expose())))
    assert found.step is Step.PORT
    assert "nothing answers on port 8080" in found.text


# Links.


async def shared(engine: PreviewEngine, *, once: bool = False) -> Share:
    share = await (await engine.sandbox()).share(8080, expires_in=600, once=once, hostname=engine.domain)
    assert share.url is not None
    return share


async def test_link_that_opens_is_walked_through_to_the_service(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    await engine.expose(service(answer_everything))
    await (await engine.sandbox()).set_preview_auth()
    url = (await shared(engine)).url or ""
    said: list[Finding] = []
    diagnosis = await examine(errand(url, websocket_path="/ws", events_path="/events"), said.append)
    assert outcomes(diagnosis) == dict.fromkeys(Step, "ok") | {"dns": "skipped", "tls": "skipped", "record": "skipped"}
    texts = {found.step: found.text for found in said}
    assert texts[Step.TOKEN] == "the link opens"
    assert "answers 200" in texts[Step.PORT]
    await (await engine.sandbox()).hibernate()
    engine.container().handlers.clear()
    assert failed_step(await examine(errand(url))).step is Step.PORT, "what lies behind a link is looked at"


async def test_link_that_opens_once_is_not_opened_by_the_doctor(engine: PreviewEngine) -> None:
    await engine.expose(respond(b"hello"))
    url = (await shared(engine, once=True)).url or ""
    diagnosis = await examine(errand(url))
    assert diagnosis.mend is None
    assert outcomes(diagnosis)["token"] == "ok"
    assert {outcomes(diagnosis)[step] for step in ("run", "port", "service", "websocket", "events")} == {"skipped"}
    assert engine.container().starts == []
    opened = await engine.request("POST", url.replace("https:", "http:"), body=b"")
    assert opened.status == 303
    found = failed_step(await examine(errand(url)))
    assert (found.step, found.text) == (Step.TOKEN, "the link has opened the one session that it opens")
    assert found.mend == "make another: (await sandbox.share(8080, expires_in=3600, once=True)).url"


@pytest.mark.parametrize("how", ["revoked", "expired", "unexposed", "wrong"])
async def test_link_that_has_ended_is_to_be_made_anew(
    how: str, engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    await engine.expose(respond(b"hello"))
    sandbox, share = await engine.sandbox(), await shared(engine)
    url = share.url or ""
    match how:
        case "revoked":
            await sandbox.revoke_share(share.id)
        case "expired":
            await trio.sleep(601)
        case "unexposed":
            await sandbox.unexpose_port(8080)
        case "wrong":
            url = f"{url[:-4]}AAAA"
    found = failed_step(await examine(errand(url)))
    assert found.step is Step.TOKEN
    assert "no such link" in found.text
    assert found.mend == "make another: (await sandbox.share(8080, expires_in=3600)).url"
    assert url.rpartition("/")[2] not in repr(found)


async def test_service_that_hangs_up_fails_at_the_port(engine: PreviewEngine) -> None:
    assert failed_step(await examine(errand(await engine.expose(hangs_up())))).step is Step.PORT


async def test_service_that_never_answers_is_given_up(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await engine.expose(silence())
    # First the doctor's own patience ends, then the server's.
    assert failed_step(await examine(errand(url))).step is Step.RUN
    slow = failed_step(await examine(errand(url, timeout_s=200.0)))
    assert (slow.step, "--response-timeout-s" in slow.mend) == (Step.PORT, True)


async def test_wrong_host_check_names_the_setting(engine: PreviewEngine) -> None:
    url = await engine.expose(respond(b"Invalid Host header", status=403))
    found = failed_step(await examine(errand(url)))
    assert found.step is Step.SERVICE
    assert "devServer.allowedHosts" in found.mend


async def test_wrong_token_and_port_taken_back_fail_at_the_token(engine: PreviewEngine) -> None:
    url = await engine.expose(respond())
    sandbox = await engine.sandbox()
    await sandbox.unexpose_port(8080)
    assert failed_step(await examine(errand(url))).step is Step.TOKEN


async def test_log_tells_which_of_the_two_it_was(engine: PreviewEngine) -> None:
    url = await engine.expose(respond())
    await (await engine.sandbox()).unexpose_port(8080)
    facts = Facts("active", 0.0, False, 5.0, False, None, False, None, None, "process", None)
    found = failed_step(await examine(errand(url, record=Record("portico-data", facts))))
    assert found.text == "port 8080 was taken back at 1970-01-01 00:00:05Z"


async def test_preview_token_is_shown_only_where_it_is_asked_for(engine: PreviewEngine) -> None:
    asked: list[str | None] = []

    async def answer(caller: Caller, request: Asked) -> None:
        asked.append(request.header("x-oc-preview-token"))
        await caller.respond(200, b"hello")

    url = await engine.expose(service(answer))
    assert (await examine(errand(url, preview_token="s" * 43))).mend is None
    assert set(asked) == {None}
    token = await (await engine.sandbox()).set_preview_auth()
    assert "PORTICO_PREVIEW_TOKEN" in failed_step(await examine(errand(url))).mend
    assert "rotate_preview_auth" in failed_step(await examine(errand(url, preview_token="s" * 43))).mend
    assert (await examine(errand(url, preview_token=token.reveal()))).mend is None
    assert set(asked) == {None}
    assert token.reveal() not in repr(errand(url, preview_token=token.reveal()))


async def test_stopped_sandbox_fails_at_the_run(engine: PreviewEngine) -> None:
    url = await engine.expose(respond())
    await (await engine.sandbox()).stop()
    assert failed_step(await examine(errand(url))).step is Step.RUN


async def test_domain_that_is_not_served_fails_at_the_server(engine: PreviewEngine) -> None:
    found = failed_step(await examine(errand("http://8080-my-app-token.example.org/")))
    assert found.step is Step.SERVER
    assert "--domain example.org" in found.mend


async def test_host_that_is_no_previews_ends_the_walk_before_anybody_is_asked(engine: PreviewEngine) -> None:
    diagnosis = await examine(errand("http://example.com/"))
    assert failed_step(diagnosis).step is Step.NAME
    assert engine.router.connections == 0


async def test_front_that_buffers_is_found_out(
    engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    url = await engine.expose(service(answer_everything))
    async with standing_in_front(engine, monkeypatch, hold=b"text/event-stream"):
        found = failed_step(await examine(errand(url, events_path="/events")))
    assert found.step is Step.EVENTS
    assert "proxy_buffering off" in found.mend


async def test_front_that_holds_frames_back_is_found_out(
    engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    url = await engine.expose(service(answer_everything))
    async with standing_in_front(engine, monkeypatch, hold=b"Upgrade: websocket"):
        found = failed_step(await examine(errand(url, websocket_path="/ws")))
    assert found.step is Step.WEBSOCKET


async def test_address_that_takes_no_connections_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_host: str, _port: int) -> Stream:
        raise OSError("all attempts failed") from ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(trio, "open_tcp_stream", refuse)
    found = failed_step(await examine(errand("http://8080-a-b.example.com/")))
    assert (found.step, "192.0.2.1: connection refused" in found.text) == (Step.CONNECT, True)


@pytest.mark.parametrize(("resolves", "words"), [({"example.com"}, "wildcard"), (set[str](), "spelt right")])
async def test_name_that_does_not_resolve_ends_the_walk(
    resolves: set[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(name: str) -> list[str]:
        return ["192.0.2.1"] if name in resolves else []

    monkeypatch.setattr(walk, "look_up", look_up)
    found = failed_step(await examine(errand("http://8080-a-b.example.com/", via=None)))
    assert (found.step, words in found.mend) == (Step.DNS, True)
    found = failed_step(await examine(errand("http://8080-a-b.example.com/", via=HostPort("nowhere", 80))))
    assert (found.step, "--via" in found.mend) == (Step.DNS, True)


async def test_tls_that_fails_later_on_is_not_raised(engine: PreviewEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(*_: object) -> None:
        raise TLSError(TLSFailure.EXPIRED)

    monkeypatch.setattr(walk, "ask", ask)
    found = failed_step(await examine(errand(await engine.expose(respond()))))
    assert found.step is Step.TLS


async def test_walk_can_be_cancelled_and_leaves_nothing_open(
    engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    url = await engine.expose(silence())
    with trio.move_on_after(30) as scope:
        await examine(errand(url))
    assert scope.cancelled_caught
    # One question was under way: its connection, the last one made, is closed on our side.
    with pytest.raises(trio.ClosedResourceError):
        await engine._clients[-1].stream.send_all(b"more")
