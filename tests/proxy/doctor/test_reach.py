"""Names, connections and TLS, on real sockets of this machine."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from proxy.core.reaching import Attempt, TLSFailure
from proxy.doctor import reach
from proxy.doctor.reach import Route, TLSError, check_tls, dialled, find_route, look_up

HOST = "8080-my-app-k3v9x0q2m7t1z8aa.example.com"


@asynccontextmanager
async def serving(key: Path, chain: Path) -> AsyncIterator[int]:
    """Shake hands for TLS at a port of this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)

    async def shake_hands(stream: trio.SocketStream) -> None:
        try:
            await trio.SSLStream(stream, context, server_side=True).do_handshake()
            await stream.receive_some()
        except trio.BrokenResourceError:
            # Expected: the client does not like what it sees.
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, shake_hands, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def trusting(chain: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(chain))


async def test_certificate_that_covers_the_name_is_fine(certificate: Callable[..., tuple[Path, Path]]) -> None:
    key, chain = certificate()
    async with serving(key, chain) as port:
        assert await check_tls(Route("127.0.0.1", port, trusting(chain)), HOST, 5) is None


async def test_certificate_for_other_names_is_told(certificate: Callable[..., tuple[Path, Path]]) -> None:
    key, chain = certificate("DNS:example.com")
    async with serving(key, chain) as port:
        assert await check_tls(Route("127.0.0.1", port, trusting(chain)), HOST, 5) is TLSFailure.OTHER_NAME


async def test_issuer_that_nobody_knows_is_told(certificate: Callable[..., tuple[Path, Path]]) -> None:
    key, chain = certificate()
    async with serving(key, chain) as port:
        route = Route("127.0.0.1", port, ssl.create_default_context())
        assert await check_tls(route, HOST, 5) is TLSFailure.UNKNOWN_ISSUER


async def test_failure_of_tls_names_no_host(certificate: Callable[..., tuple[Path, Path]]) -> None:
    """OpenSSL's own text holds the hostname, and with it the token."""
    key, chain = certificate("DNS:example.com")
    async with serving(key, chain) as port:
        with pytest.raises(TLSError) as failed:
            async with dialled(Route("127.0.0.1", port, trusting(chain)), HOST, 5):
                pytest.fail("it was let in")
    assert HOST not in str(failed.value)
    assert failed.value.__cause__ is None


async def test_port_without_tls_is_told() -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        route = Route("127.0.0.1", listener.socket.getsockname()[1], ssl.create_default_context())
        assert await check_tls(route, HOST, 5) is TLSFailure.NO_TLS
        nursery.cancel_scope.cancel()


async def test_first_address_that_takes_connections_is_the_route() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        found = await find_route(["127.0.0.2", "127.0.0.1"], port, None)
    assert found == Route("127.0.0.1", port, None, (Attempt("127.0.0.2", "connection refused"),))
    assert await find_route(["127.0.0.1"], port, None) == [Attempt("127.0.0.1", "connection refused")]


async def test_address_that_says_nothing_is_given_up(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_host: str, _port: int) -> trio.SocketStream:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", hang)
    assert await find_route(["192.0.2.1"], 80, None) == [Attempt("192.0.2.1", "no answer within 5 s")]
    with pytest.raises(trio.BrokenResourceError):
        async with dialled(Route("192.0.2.1", 80, None), HOST, 5):
            pytest.fail("it was let in")


async def test_names_of_this_machine_need_no_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 6761 section 6.3: many resolvers do not know them, browsers and curl do."""

    async def ask(*_: object, **__: object) -> list[object]:
        raise AssertionError("a resolver was asked")

    monkeypatch.setattr(trio.socket, "getaddrinfo", ask)
    assert await look_up("8080-my-app-token.localhost") == ["127.0.0.1", "::1"]


async def test_name_that_does_not_resolve_has_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(*_: object, **__: object) -> list[object]:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", ask)
    assert await look_up("nowhere.example") == []
    monkeypatch.undo()
    assert await look_up("127.0.0.1") == ["127.0.0.1"]
    assert reach.CONNECT_TIMEOUT_S > 3
