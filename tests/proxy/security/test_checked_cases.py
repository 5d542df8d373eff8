"""The security cases whose outcome is said in words: gates, isolation, time, and what passes after a 101."""

import hmac
import json
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog
import trio
import trio.testing

from proxy.logging import configure_logging
from proxy.options import Options
from tests.proxy.security.cases import AFTER_101, CASES, Case, covers, expanded
from tests.proxy.security.stage import (
    BASE,
    PORT,
    SANDBOXES,
    UNKNOWN,
    Outcome,
    Service,
    Stage,
    honest,
    memory_stage,
    socket_stage,
)
from tests.proxy.security.wire import Message

TOKEN = "good-preview-token-of-a"
OTHER_TOKEN = "good-preview-token-of-b"


def get(host: str, target: str = "/p", *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")


async def close_gate(stage: Stage, name: str, token: str) -> None:
    """Have every visit of a preview bear a token from now on."""
    sandbox = await stage.runtime.find_sandbox(SANDBOXES[name])
    await sandbox.set_preview_auth(token)


def assert_refused(outcome: Outcome, status: int) -> Message:
    """Check that nothing was dialled and that the one answer has that status; return it."""
    assert not any(service.dialled for service in outcome.services.values())
    (answer,) = outcome.finals
    assert answer.status == status
    return answer


def port_token(host: str) -> str:
    return host.partition(".")[0].rpartition("-")[2]


# Tokens.


@covers("A01")
async def test_unknown_sandbox_and_wrong_token_are_told_apart_by_nothing(
    case: Case, autojump_clock: trio.testing.MockClock
) -> None:
    async with memory_stage() as stage:
        wrong_token = stage.hosts["A"].replace(port_token(stage.hosts["A"]), "a" * 16)
        wrong_port = stage.hosts["A"].replace(f"{PORT}-", f"{PORT + 1}-", 1)
        answers = [assert_refused(await stage.play(get(host)), 404) for host in (UNKNOWN, wrong_token, wrong_port)]
    assert {(answer.head, answer.body) for answer in answers} == {(answers[0].head, answers[0].body)}


@covers("A02")
async def test_tokens_are_compared_whole_and_in_constant_time(
    case: Case, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[object, object]] = []
    compare = hmac.compare_digest

    def watched(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return compare(left, right)

    async with memory_stage() as stage:
        await close_gate(stage, "A", TOKEN)
        assert_refused(await stage.play(get(stage.hosts["A"])), 401)
        right = port_token(stage.hosts["A"])
        monkeypatch.setattr(hmac, "compare_digest", watched)
        for wrong in ("a" * 16, right[:-1] + "_", "_"):
            compared.clear()
            assert_refused(await stage.play(get(stage.hosts["A"].replace(right, wrong))), 404)
            assert compared == [(right, wrong)]
        for bad in (TOKEN[:-1] + "x", "x" + TOKEN[1:]):
            compared.clear()
            assert_refused(await stage.play(get(stage.hosts["A"], "/p", f"Authorization: Bearer {bad}")), 401)
            # The second pair is digests: how much of the token is right shows in none of their bytes.
            assert len(str(compared[0][0])) == len(right)
            assert all(isinstance(half, bytes) and len(half) == 32 for half in compared[1])


@covers("A03")
async def test_token_in_the_query_is_no_credential(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    async with memory_stage() as stage:
        await close_gate(stage, "A", TOKEN)
        for name in ("token", "access_token", "preview_token", "auth"):
            outcome = await stage.play(get(stage.hosts["A"], f"/p?{name}={TOKEN}&x=1"))
            answer = assert_refused(outcome, 401)
            assert not answer.all("set-cookie")
            assert not answer.all("location")
            assert TOKEN.encode("ascii") not in outcome.received


@pytest.fixture
def default_logging_again() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@covers("A04")
async def test_no_token_is_logged_or_shown(
    case: Case,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    default_logging_again: None,
) -> None:
    configure_logging("debug", "json")
    caplog.set_level(logging.DEBUG)
    shown = b""
    async with memory_stage() as stage:
        host = stage.hosts["A"]
        await close_gate(stage, "A", TOKEN)
        heads = [
            get(host, f"/p?token={TOKEN}"),
            get(host, "/p", f"Authorization: Bearer {TOKEN}x"),
            get(host, "/p", f"X-OC-Preview-Token: {TOKEN}", f"X-OC-Preview-Token: {TOKEN}"),
            get(host, "/p", f"Authorization: Bearer {TOKEN}", "Content-Length: x"),
            get(host + "x", "/p", "Accept: text/html"),
            get(host + "@evil"),
        ]
        for head in heads:
            shown += (await stage.play(head)).received
        secrets = (TOKEN, port_token(host))
    written = capsys.readouterr()
    everything = written.out + written.err + caplog.text + shown.decode("latin-1")
    assert "WWW-Authenticate" in everything
    assert not [secret for secret in secrets if secret in everything]


@covers("A05")
async def test_no_answer_of_ours_redirects(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    ways = ("//evil.example", "https://evil.example", "/\\\\evil.example", "/%09/evil.example", "javascript:1")
    async with memory_stage() as stage:
        await close_gate(stage, "A", TOKEN)
        for way in ways:
            for path in ("/", "/login", "/.portico/sign-in"):
                answer = assert_refused(await stage.play(get(stage.hosts["A"], f"{path}?next={way}")), 401)
                assert not answer.all("location")
                assert not answer.all("refresh")
                assert b"evil.example" not in answer.body


@covers("A06")
async def test_token_opens_its_own_door_only(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    async with memory_stage() as stage:
        sandbox = await stage.runtime.find_sandbox(SANDBOXES["A"])
        other_port = (await sandbox.expose_port(PORT + 1, hostname=BASE)).url[len("https://") : -1]
        a, b = (port_token(stage.hosts[name]) for name in "AB")
        nobody = assert_refused(await stage.play(get(UNKNOWN)), 404)
        for host in (stage.hosts["B"].replace(b, a), other_port.replace(port_token(other_port), a)):
            answer = assert_refused(await stage.play(get(host)), 404)
            assert (answer.head, answer.body) == (nobody.head, nobody.body)
        await close_gate(stage, "A", TOKEN)
        await close_gate(stage, "B", OTHER_TOKEN)
        for field in ("Authorization: Bearer ", "X-OC-Preview-Token: "):
            assert_refused(await stage.play(get(stage.hosts["B"], "/p", field + TOKEN)), 401)
        outcome = await stage.play(get(stage.hosts["B"], "/p", "Authorization: Bearer " + OTHER_TOKEN))
        assert [message.all("authorization") for message in outcome.requests] == [[]]


@covers("A07")
async def test_websocket_goes_through_the_same_gate(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    assert case.raw is not None
    async with memory_stage(Tunnel()) as stage:
        await close_gate(stage, "A", TOKEN)
        assert_refused(await stage.play(expanded(case.raw, stage.hosts)), 401)
        wrong = case.raw.replace("Connection: Upgrade", f"Authorization: Bearer {TOKEN}x\r\nConnection: Upgrade")
        assert_refused(await stage.play(expanded(wrong, stage.hosts)), 401)
        right = case.raw.replace("Connection: Upgrade", f"Authorization: Bearer {TOKEN}\r\nConnection: Upgrade")
        outcome = await stage.play(expanded(right, stage.hosts))
    assert [message.status for message in outcome.finals] == [101]


# Origins.


@covers("O06")
async def test_no_two_previews_share_an_origin(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    async with memory_stage() as stage:
        urls = []
        for name in SANDBOXES.values():
            sandbox = await stage.runtime.find_sandbox(name)
            urls += [(await sandbox.expose_port(port, hostname=BASE)).url for port in (PORT, PORT + 1, PORT + 2)]
        assert len(set(urls)) == 6
        assert all(url.endswith(f".{BASE}/") for url in urls)
        # No path of one leads to another.
        b = stage.hosts["B"]
        for path in (f"/{b}/", f"/{b.partition('.')[0]}/", f"/{SANDBOXES['B']}/{PORT}/", f"//{b}/p"):
            outcome = await stage.play(get(stage.hosts["A"], path))
            outcome.assert_services_read_plainly()
            assert not outcome.services["B"].dialled


@covers("O07")
async def test_service_sets_no_cookie_for_the_base_domain(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    async def tosses(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        wide = b"Set-Cookie: a=1; Domain=%s\r\nSet-Cookie: b=1; Domain=.test\r\n" % BASE.encode("ascii")
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + wide + b"Content-Length: 0\r\n\r\n")

    async with memory_stage(tosses) as stage:
        outcome = await stage.play(get(stage.hosts["A"]))
    assert outcome.finals[0].all("set-cookie") == [b"a=1", b"b=1"]


# Time.


@covers("T02")
async def test_client_that_connects_and_says_nothing_is_let_go(
    case: Case, autojump_clock: trio.testing.MockClock
) -> None:
    (expected,) = case.alternatives
    assert expected.within_s is not None
    async with memory_stage() as stage:
        outcome = Outcome(stage.services, stage.hosts)
        async with stage.watched(outcome):
            await trio.sleep(expected.within_s)
            assert outcome.ended
    assert not outcome.finals or outcome.finals[0].status in expected.status


@covers("T04")
async def test_client_that_never_reads_costs_no_memory_and_is_let_go(case: Case) -> None:
    """Over sockets, as it is the kernel's buffers that fill: those are all that its service can send."""
    piece, sent = b"x" * 2**14, 0
    let_go = trio.Event()

    async def endless(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (100 * 2**20))
        try:
            for _ in range(100 * 2**6):
                await stream.send_all(piece)
                sent += len(piece)
        except trio.BrokenResourceError:
            let_go.set()

    # As short as can be: the watchman comes by once a second, in real time here.
    async with socket_stage(endless, options=Options(stalled_timeout_s=0.5)) as stage:
        client = await stage.connect()
        async with client:
            await client.send_all(get(stage.hosts["A"], "/big"))
            await stage.settle()
            tracemalloc.start()
            await stage.settle()
            grown, _peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            # And in the end it is closed, though it is still there.
            with trio.fail_after(20):
                await let_go.wait()
            await stage.settle()
            assert not stage.runtime.statistics().visits
        await stage.settle()
    assert 0 < sent < 50 * 2**20
    assert grown < 2**20


@covers("T07")
async def test_client_that_half_closes_gets_its_answer(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    (expected,) = case.alternatives
    async with memory_stage() as stage:
        outcome = Outcome(stage.services, stage.hosts)
        async with stage.watched(outcome) as client:
            await client.send_all(get(stage.hosts["A"]))
            await client.send_eof()
            await stage.settle()
    outcome.assert_in_step()
    assert [message.body for message in outcome.finals] == [b"ok"]
    assert len(outcome.services["A"].requests) == expected.n


class Reset(trio.abc.ReceiveStream):
    """Ends in a reset. Over streams in memory there are none, only ends."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        if not data:
            raise trio.BrokenResourceError
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


@covers("T08")
@pytest.mark.parametrize("quiet", [True, False])
async def test_service_is_let_go_when_its_client_leaves(
    case: Case, quiet: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Whether or not there is anything more to send it: an idle event stream is let go too."""
    (expected,) = case.alternatives
    assert expected.within_s is not None

    async def streams(service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        while not quiet:
            await trio.sleep(0.1)
            await stream.send_all(b"1\r\na\r\n")

    async with memory_stage(streams) as stage, trio.open_nursery() as nursery:
        client, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(stage.router.handle, trio.StapledStream(theirs.send_stream, Reset(theirs.receive_stream)))
        await client.send_all(get(stage.hosts["A"], "/stream"))
        await trio.sleep(1)
        await trio.aclose_forcefully(client)
        await trio.sleep(expected.within_s)
        assert [dialled.ended for dialled in stage.services["A"].dialled] == [True]


# After a 101.


class Tunnel:
    """Accepts any WebSocket, and keeps what comes through it."""

    def __init__(self) -> None:
        self.received = b""

    async def __call__(self, service: Service, request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        if not request.all("upgrade"):
            await honest(service, request, stream)
            return
        head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        # Of the key in RFC 6455 section 1.3, which all cases use.
        await stream.send_all(head + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                self.received += bytes(data)


@covers("W10", "W11", "W12", "W16")
async def test_frames_are_the_services_affair(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    """They pass as they come, whatever they announce: who reads frames is who must refuse them (RFC 6455 5.1)."""
    assert case.raw is not None
    before, _, after = case.raw.partition(AFTER_101)
    tunnel = Tunnel()
    async with memory_stage(tunnel) as stage:
        parts = [expanded(part, stage.hosts) for part in (before, after)]
        outcome = await stage.play(*parts)
    (answer,) = outcome.finals
    assert (answer.status, answer.all("sec-websocket-accept")) == (101, [b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="])
    assert tunnel.received == parts[1]
    assert not outcome.closed
    outcome.assert_services_read_plainly()


# Logs. That the request itself passes or is refused is played with the other raw cases.


@pytest.mark.parametrize("case_id", [name for name, case in CASES.items() if case.category == "log-injection"])
@pytest.mark.parametrize("style", ["json", "console"])
async def test_nothing_a_client_sends_begins_a_line_or_a_sequence_in_a_log(
    case_id: str,
    style: str,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    default_logging_again: None,
) -> None:
    configure_logging("debug", "json" if style == "json" else "console")
    raw = CASES[case_id].raw
    assert raw is not None
    async with memory_stage() as stage:
        await stage.play(expanded(raw, stage.hosts))
        # The same where its service is gone, so that there is something to say about it.
        await (await stage.runtime.find_sandbox(SANDBOXES["A"])).stop()
        await stage.play(expanded(raw, stage.hosts))
    written = capsys.readouterr().err
    assert all(character.isprintable() or character == "\n" for character in written)
    for line in written.splitlines() if style == "json" else ():
        assert isinstance(json.loads(line), dict)
    assert len(written.splitlines()) <= 4
