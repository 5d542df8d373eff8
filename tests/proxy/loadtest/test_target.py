"""What may be loaded: URLs taken apart, names resolved, and the one check."""

import pytest
import trio

from proxy.loadtest.target import LoadTarget, Word, parse_headers, read_target, refusal, resolve

TOKEN = "0d9q4w1x7y2z5b8c"


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        (
            f"http://8080-my-app-{TOKEN}.localhost:8787/",
            LoadTarget(f"8080-my-app-{TOKEN}.localhost", 8787, "/"),
            f"8080-my-app-{TOKEN}.localhost:8787",
        ),
        ("http://LOCALHOST", LoadTarget("localhost", 80, "/"), "localhost"),
        ("http://127.0.0.1:8787/a%2Fb?c=d#e", LoadTarget("127.0.0.1", 8787, "/a%2Fb?c=d"), "127.0.0.1:8787"),
        ("http://[::1]:8787/", LoadTarget("::1", 8787, "/"), "[::1]:8787"),
        ("http://localhost.:8787/", LoadTarget("localhost", 8787, "/"), "localhost:8787"),
        ("https://localhost/", LoadTarget("localhost", 443, "/", "https"), "localhost"),
        ("https://localhost:80/", LoadTarget("localhost", 80, "/", "https"), "localhost:80"),
    ],
)
def test_url_is_taken_apart(url: str, target: LoadTarget, authority: str) -> None:
    assert read_target(url) == target
    assert read_target(url).authority == authority


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"ws://8080-my-app-{TOKEN}.example.com/", "a URL is wanted"),
        ("localhost:8787", "a URL is wanted"),
        ("http:///path", "a URL is wanted"),
        ("http://me:secret@localhost/", "credentials"),
        ("http://localhost:99999/", "[Pp]ort"),
        ("http://localhost/a b", "no spaces"),
        ("http://localhost/ü", "only ASCII"),
    ],
)
def test_url_that_cannot_be_loaded_is_refused_without_repeating_it(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        read_target(url)
    assert TOKEN not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_token_does_not_show_in_a_repr() -> None:
    assert TOKEN not in repr(read_target(f"http://8080-my-app-{TOKEN}.localhost:8787/.portico/share/{TOKEN}"))


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("127.0.0.1", "::1"), ("127.8.8.8",), ("::ffff:127.0.0.1",), ("::1%lo",)]
)
def test_this_machine_may_be_loaded(addresses: tuple[str, ...]) -> None:
    assert refusal(addresses) is None


@pytest.mark.parametrize(
    "addresses",
    [
        ("203.0.113.7",),
        ("127.0.0.1", "203.0.113.7"),
        ("0.0.0.0",),
        ("::ffff:203.0.113.7",),
        ("10.0.0.1",),
        ("fe80::1%eth0",),
        ("::",),
    ],
)
def test_target_with_any_address_elsewhere_is_refused_with_the_reason(addresses: tuple[str, ...]) -> None:
    why = refusal(addresses)
    assert why is not None
    assert addresses[-1] in why
    assert "only servers on this machine" in why
    assert "PORTICO_API_KEY" in why


SERVER = "previews.example.com"


@pytest.mark.parametrize("code", ["ADMITTED", "WAKES", "AUTH_REQUIRED"])
def test_preview_of_a_server_one_holds_a_key_of_may_be_loaded_anywhere(code: str) -> None:
    word = Word(SERVER, ("203.0.113.7", "2001:db8::7"), code)
    assert refusal(("203.0.113.7",), word) is None
    assert refusal(("203.0.113.7", "2001:db8::7", "127.0.0.1"), word) is None


@pytest.mark.parametrize(
    ("addresses", "code", "text"),
    [
        (("203.0.113.7",), "INVALID_TOKEN", "lets nobody in at that URL (INVALID_TOKEN)"),
        (("203.0.113.7",), "MISDIRECTED_REQUEST", "lets nobody in"),
        (("203.0.113.7",), "NOT_A_PREVIEW", "lets nobody in"),
        (("203.0.113.8",), "ADMITTED", "203.0.113.8, which is no address of previews.example.com"),
        (("203.0.113.7", "203.0.113.8"), "ADMITTED", "203.0.113.8"),
    ],
)
def test_what_the_server_does_not_own_to_is_refused(addresses: tuple[str, ...], code: str, text: str) -> None:
    why = refusal(addresses, Word(SERVER, ("203.0.113.7",), code))
    assert why is not None
    assert text in why


def test_name_without_an_address_is_refused() -> None:
    assert refusal(()) == "the URL's name has no address"


@pytest.mark.parametrize("host", ["localhost", "8080-my-app.localhost"])
async def test_names_in_localhost_are_this_machine_whatever_a_resolver_says(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> object:
        raise AssertionError("nobody is to be asked")

    monkeypatch.setattr(trio.socket, "getaddrinfo", never)
    assert await resolve(host, 80) == ("127.0.0.1", "::1")


async def test_every_address_of_another_name_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("previews.example.com", 8787)
        found = [("127.0.0.1", port), ("203.0.113.7", port), ("127.0.0.1", port)]
        return [(0, 0, 0, "", sockaddr) for sockaddr in found]

    monkeypatch.setattr(trio.socket, "getaddrinfo", answer)
    addresses = await resolve("previews.example.com", 8787)
    assert addresses == ("127.0.0.1", "203.0.113.7")
    assert refusal(addresses) is not None


async def test_name_that_nobody_knows_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> object:
        raise OSError("no such name")

    monkeypatch.setattr(trio.socket, "getaddrinfo", fail)
    assert await resolve("nobody.example.com", 80) == ()


def test_headers_are_taken_apart_and_the_preview_token_joins_them() -> None:
    assert parse_headers(["X-A: b: c", "X-Empty:"], None) == [("X-A", "b: c"), ("X-Empty", "")]
    assert parse_headers([], "secret") == [("Authorization", "Bearer secret")]
    assert parse_headers(["authorization: Bearer mine"], "secret") == [("authorization", "Bearer mine")]


@pytest.mark.parametrize("text", ["no colon in this secret", ": secret"])
def test_header_that_is_none_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="NAME: VALUE") as caught:
        parse_headers([text], None)
    assert "secret" not in str(caught.value)
