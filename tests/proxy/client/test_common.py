"""Where the client goes, and what it takes along."""

import errno
import socket
import ssl

import httpx2
import pytest

from proxy.api import schemas
from proxy.client.common import (
    KEY_VARIABLE,
    SERVER_VARIABLE,
    Address,
    describe,
    find_address,
    is_this_machine,
    token_fits,
    transport_options,
)

KEY = "key-of-the-owner-0123456789"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SERVER_VARIABLE, KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "http://elsewhere:1")
    monkeypatch.setenv(KEY_VARIABLE, "key-of-the-environment")
    assert find_address(None, None) == Address("http://elsewhere:1", "key-of-the-environment")
    assert find_address("http://localhost:8787/", KEY) == Address("http://localhost:8787", KEY)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=SERVER_VARIABLE):
        find_address(None, KEY)
    with pytest.raises(ValueError, match=KEY_VARIABLE):
        find_address("http://localhost:8787", None)


def test_key_is_in_no_repr() -> None:
    address = find_address("http://localhost:8787", KEY)
    assert KEY not in repr(address)


@pytest.mark.parametrize("server", ["http://localhost:1", "http://127.0.0.1:1", "http://127.8.0.1", "http://[::1]:1"])
def test_this_machine_is_reached_without_a_proxy_of_the_environment(server: str) -> None:
    assert is_this_machine(server)
    assert transport_options(Address(server, KEY))["trust_env"] is False


@pytest.mark.parametrize("server", ["https://example.com", "http://192.0.2.1", "http://localhost.example.com"])
def test_other_machines_are_reached_as_the_environment_says(server: str) -> None:
    assert not is_this_machine(server)
    assert transport_options(Address(server, KEY))["trust_env"] is True


def test_answer_that_is_followed_may_pause() -> None:
    address = Address("http://localhost", KEY)
    assert address.timeout(30.0, follow=True).read is None
    assert address.timeout(30.0, follow=False).read == 30.0
    assert address.timeout(30.0, follow=True).connect == 5.0


def test_token_fits_its_port_only() -> None:
    ports = [
        schemas.Port(port=8080, url="u", name=None, token="right", host_header="localhost", status="active"),
        schemas.Port(port=8081, url=None, name=None, token=None, host_header="localhost", status="active"),
    ]
    assert token_fits(ports, 8080, "right")
    assert not token_fits(ports, 8080, "wrong")
    assert not token_fits(ports, 8081, "right")
    assert not token_fits(ports, 8082, "right")
    assert not token_fits(
        [schemas.Port(port=1, url=None, name=None, token="x", host_header="localhost", status="active")], True, "x"
    )


def test_what_went_wrong_on_the_way_is_told_in_words() -> None:
    refused = OSError(errno.ECONNREFUSED, "Error connecting to ('127.0.0.1', 1): Connection refused")
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    # Its number is OpenSSL's, and no errno: 1 would be "operation not permitted".
    untrusted = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1)")
    untrusted.verify_message = "self-signed certificate"
    garbled = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)")
    garbled.reason = "WRONG_VERSION_NUMBER"
    for cause, words in (
        (untrusted, "the certificate is not trusted: self-signed certificate"),
        (garbled, "tls: wrong version number"),
        (ssl.SSLZeroReturnError(6, "closed (EOF)"), "tls: closed (EOF)"),
        (refused, "connection refused"),
        (ExceptionGroup("all attempts failed", [refused, refused]), "connection refused"),
        (unknown, "name or service not known"),
        (None, "it broke"),
    ):
        error = httpx2.ConnectError("it broke")
        error.__cause__ = cause
        assert describe(error) == words
