"""The security cases that do not begin with an HTTP/1.1 request to a preview: names, addresses, TLS, HTTP/2."""

import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from actors import (
    ContainerSpec,
    FileStore,
    InvalidNameError,
    NotListeningError,
    Port,
    Visit,
    VisitRequest,
    address_containers,
    open_runtime,
)
from tests.proxy.security.cases import DATA, Case, covers
from tests.proxy.security.stage import Outcome, memory_stage

# Names of sandboxes: what is not of their form is refused before anything is stored.


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@covers("Y01", "Y02", "Y03", "Y06", "Y11", "Y17", "Y19")
async def test_name_that_is_none_makes_no_sandbox_and_no_file(case: Case, tmp_path: Path) -> None:
    assert case.api is not None
    folder = tmp_path / "data"
    async with open_runtime(FileStore(folder), containers={"address": address_containers()}) as runtime:
        before = files_in(tmp_path)
        for name in (case.api["id"], case.api["id"] + "\n"):
            with pytest.raises(InvalidNameError):
                await runtime.get_sandbox(name, container=ContainerSpec("address", {"host": "192.0.2.1"}))
        assert files_in(tmp_path) == before


@covers("Y15")
async def test_name_that_other_systems_reserve_is_a_name_and_its_files_are_in_the_folder(
    case: Case, tmp_path: Path
) -> None:
    assert case.api is not None
    assert "api_ok" in {one.class_ for one in case.alternatives}
    folder = tmp_path / "data"
    async with open_runtime(FileStore(folder), containers={"address": address_containers()}) as runtime:
        await runtime.get_sandbox(case.api["id"], container=ContainerSpec("address", {"host": "192.0.2.1"}))
    assert all(path.is_relative_to(folder) for path in files_in(tmp_path))


# Addresses of services.


@covers("Y30", "Y31", "Y33", "Y35", "Y37", "Y39")
async def test_address_that_is_no_host_makes_no_sandbox(case: Case, tmp_path: Path) -> None:
    assert case.api is not None
    async with open_runtime(FileStore(tmp_path / "data"), containers={"address": address_containers()}) as runtime:
        with pytest.raises(ValueError, match="host"):
            await runtime.get_sandbox("a", container=ContainerSpec("address", {"host": case.api["address"]}))


@covers("Y30", "Y33")
async def test_address_where_no_sandbox_may_be_makes_none(case: Case, tmp_path: Path) -> None:
    assert case.api is not None
    host = case.api["address"].partition(":")[0]
    async with open_runtime(FileStore(tmp_path / "data"), containers={"address": address_containers()}) as runtime:
        for spelling in (host, f"::ffff:{host}", f"64:ff9b::{host}"):
            with pytest.raises(ValueError, match="where no sandbox may be"):
                await runtime.get_sandbox("a", container=ContainerSpec("address", {"host": spelling}))


class MetadataResolver(trio.abc.HostnameResolver):
    """Names lead to the metadata service of a cloud."""

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002  # trio's own signature, long and unused here
        return [(2, 1, 6, "", ("169.254.169.254", port))]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]  # never asked
        raise NotImplementedError


@covers("Y37")
async def test_name_that_leads_to_cloud_metadata_is_not_dialled(case: Case, tmp_path: Path) -> None:
    assert case.api is not None
    host = case.api["address"].partition(":")[0]
    trio.socket.set_custom_hostname_resolver(MetadataResolver())
    async with open_runtime(FileStore(tmp_path / "data"), containers={"address": address_containers()}) as runtime:
        spec = ContainerSpec("address", {"host": host})
        sandbox = await runtime.get_sandbox("a", container=spec, open_ports=True)
        visit = await runtime.admit(sandbox.id, VisitRequest(Port(80), None))
        assert isinstance(visit, Visit)
        with pytest.raises(NotListeningError, match="metadata"):
            await visit.run.dial(Port(80))
        visit.end()


# TLS. What ends it stands in front of us, or is the program that embeds us.


@covers("V02")
async def test_name_in_the_tls_handshake_routes_nothing(case: Case, autojump_clock: trio.testing.MockClock) -> None:
    expected = case.alternatives[1]
    ours, theirs = trio.testing.memory_stream_pair()
    server_side, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    server_side.load_cert_chain(DATA / "tls_example.pem")
    client_side.check_hostname, client_side.verify_mode = False, ssl.CERT_NONE
    async with memory_stage() as stage, trio.open_nursery() as nursery:
        served = trio.SSLStream(theirs, server_side, server_side=True)
        nursery.start_soon(stage.router.handle, served)
        async with trio.SSLStream(ours, client_side, server_hostname=stage.hosts["A"]) as client:
            await client.send_all(f"GET /p HTTP/1.1\r\nHost: {stage.hosts['B']}\r\n\r\n".encode())
            received = bytes(await client.receive_some())
            outcome = Outcome(stage.services, stage.hosts, received)
            outcome.assert_in_step()
            assert len(stage.services[expected.to].requests) == expected.n
            assert not stage.services["A"].dialled
            with trio.CancelScope() as leaving:
                leaving.cancel()
                await client.aclose()


# HTTP/2: not spoken. What a client sends that takes it for granted is refused at its preface, whatever follows.

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA_FRAME, HEADERS, SETTINGS, CONTINUATION = 0, 1, 4, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    """Write a frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Write a field without indexing and without Huffman (RFC 7541 section 6.2.2); both shorter than 127."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(host: bytes, method: bytes = b"GET", path: bytes = b"/p", *more: tuple[bytes, bytes]) -> bytes:
    pairs = ((b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", host), *more)
    return b"".join(literal(name, value) for name, value in pairs)


def http2_of(case: Case, host: bytes) -> bytes:
    """Return the frames that the case is about, behind a preface and settings."""
    frames = {
        "E03": frame(HEADERS, END_STREAM, request(host)) + frame(CONTINUATION, 0, literal(b"a", b"b")) * 10_000,
        "E04": frame(HEADERS, END_STREAM, request(host)) + frame(CONTINUATION, 4, literal(b"a", b"b" * 120) * 2_000),
        "E06": frame(HEADERS, END_HEADERS, request(host, b"POST", b"/p", (b"content-length", b"10")))
        + frame(DATA_FRAME, END_STREAM, b"hello"),
        "E08": frame(HEADERS, END_HEADERS, request(host, b"CONNECT", b"/p", (b":protocol", b"websocket"))),
        "E10": frame(HEADERS, END_STREAM | END_HEADERS, request(host, b"GET", b"/p HTTP/1.1\r\nX: y\r\n\r\nGET /")),
    }
    return PREFACE + frame(SETTINGS, 0, b"", 0) + frames[case.id]


@covers("E03", "E04", "E06", "E08", "E10")
async def test_http2_is_refused_before_any_of_its_frames_is_read(
    case: Case, autojump_clock: trio.testing.MockClock
) -> None:
    async with memory_stage() as stage:
        host = stage.hosts["A"].encode("ascii")
        outcome = await stage.play(http2_of(case, host))
    assert [message.status for message in outcome.finals] == [505]
    assert outcome.closed
    assert not any(service.dialled for service in outcome.services.values())


async def test_http2_is_not_offered_to_a_service_either(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_stage() as stage:
        upgrade = f"GET /p HTTP/1.1\r\nHost: {stage.hosts['A']}\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        outcome = await stage.play(upgrade.encode() + PREFACE)
    assert [(message.target, message.all("upgrade")) for message in outcome.requests] == [(b"/p", [])]
    assert [message.status for message in outcome.finals] == [200, 505]
    assert outcome.closed
    outcome.assert_in_step()
