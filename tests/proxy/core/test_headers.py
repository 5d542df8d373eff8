"""Fields on their way through: towards the service, and back to the client."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import Domain, HostHeader, Port, PortToken, SandboxId
from proxy.core.exchange import Exchange
from proxy.core.headers import (
    GATE_COOKIE_PREFIXES,
    Bearer,
    Credential,
    Forwarding,
    bearer_credential,
    is_gate_cookie,
    is_preflight,
    narrowed_cookie,
    public_scheme,
    without_gate_cookies,
)
from proxy.core.hostname import BuiltInHost, PreviewHost, TokenHost, parse_host
from proxy.core.http1 import NO_BODY, Field, RequestHead, values
from proxy.core.lines import LineMemo
from proxy.errors import AmbiguousCredentialError

TOKEN = "k3v9x0q2m7t1z8aa"
DOMAIN = Domain("example.com")
TOKEN_HOST = TokenHost(SandboxId("my-app"), Port(8080), PortToken(TOKEN), DOMAIN)
PUBLIC = b"8080-my-app-k3v9x0q2m7t1z8aa.example.com"
GATE_COOKIE = GATE_COOKIE_PREFIXES[0] + b"8080=secret"


def fields(*pairs: tuple[str, str | bytes]) -> list[Field]:
    return [
        (name.lower().encode(), name.encode(), value.encode() if isinstance(value, str) else value)
        for name, value in pairs
    ]


def forwarding(
    public: bytes = PUBLIC,
    preview: PreviewHost = TOKEN_HOST,
    *,
    scheme: str = "https",
    client: str = "192.0.2.7",
    trusted: bool = False,
    host_header: HostHeader = HostHeader.LOCALHOST,
) -> Forwarding:
    return Forwarding(
        preview,
        parse_host(public),
        scheme=scheme,
        client_address=client,
        trusted=trusted,
        host_header=host_header,
    )


def passed(*pairs: tuple[str, str | bytes], by: Forwarding | None = None, target: bytes = b"/") -> dict[str, str]:
    """The request fields that reach the service; each name must occur once."""
    sent = (by or forwarding()).forward_request(fields(*pairs), target)
    names = [lower.decode() for lower, _, _ in sent]
    assert len(set(names)) == len(names)
    assert all(received.lower() == lower for lower, received, _ in sent)
    return {lower.decode(): value.decode("latin-1") for lower, _, value in sent}


def answered(*pairs: tuple[str, str | bytes], by: Forwarding | None = None) -> list[tuple[str, str]]:
    out = (by or forwarding()).forward_response(fields(*pairs))
    return [(received.decode(), value.decode("latin-1")) for _, received, value in out]


def test_request_tells_the_service_where_it_came_from() -> None:
    sent = forwarding().forward_request(
        fields(("hOST", PUBLIC), ("User-Agent", "x"), ("X-B", "1"), ("x-b", "2")), b"/a%2Fb?c=%20"
    )
    assert [(received, value) for _, received, value in sent] == [
        (b"Host", b"localhost:8080"),
        (b"User-Agent", b"x"),
        (b"X-B", b"1"),
        (b"x-b", b"2"),
        (b"X-Forwarded-Host", PUBLIC),
        (b"X-Forwarded-Proto", b"https"),
        (b"X-Sandbox-Name", b"my-app"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"Forwarded", b"for=192.0.2.7;host=" + PUBLIC + b";proto=https"),
        (b"X-Original-URL", b"https://8080-my-app-****.example.com/a%2Fb?c=%20"),
    ]


def test_port_of_the_public_host_is_told_unless_it_is_the_default_one() -> None:
    local = forwarding(
        b"8080-my-app-tok.localhost:8787", TOKEN_HOST._replace(domain=Domain("localhost")), scheme="http"
    )
    sent = passed(by=local)
    assert sent["x-forwarded-host"] == "8080-my-app-tok.localhost:8787"
    assert sent["forwarded"] == 'for=192.0.2.7;host="8080-my-app-tok.localhost:8787";proto=http'
    assert sent["x-original-url"] == "http://8080-my-app-****.localhost:8787/"
    assert passed(by=forwarding(PUBLIC + b":443"))["x-forwarded-host"] == PUBLIC.decode()
    assert passed(by=forwarding(PUBLIC + b":80"))["x-forwarded-host"] == PUBLIC.decode() + ":80"


def test_built_in_hostname_has_nothing_to_mask() -> None:
    preview = BuiltInHost(SandboxId("sb-1a2b3c4d"), Port(80), DOMAIN)
    sent = passed(by=forwarding(b"sb-1a2b3c4d-p80.example.com", preview))
    assert sent["x-original-url"] == "https://sb-1a2b3c4d-p80.example.com/"
    assert sent["host"] == "localhost:80"
    assert sent["x-sandbox-name"] == "sb-1a2b3c4d"


def test_options_asterisk_has_an_original_url_without_a_path_of_that_name() -> None:
    assert passed(target=b"*")["x-original-url"].endswith(".example.com/")


@pytest.mark.parametrize(
    ("client", "address", "node"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7", '"[2001:db8::7]"'),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1", '"[fe80::1]"'),
        ("", "unknown", "unknown"),
        ("/run/portico.sock", "unknown", "unknown"),
    ],
)
def test_client_is_named_as_both_fields_want_it(client: str, address: str, node: str) -> None:
    """RFC 7239 section 6: an IPv6 node is bracketed and quoted."""
    sent = passed(by=forwarding(client=client))
    assert sent["x-forwarded-for"] == address
    assert sent["forwarded"].startswith(f"for={node};host=")


SPOOFED = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil"),
    ("X-Forwarded-Proto", "gopher"),
    ("X-Forwarded-Port", "1"),
    ("X-Forwarded-Prefix", "/evil"),
    ("X-Forwarded-User", "admin"),
    ("Forwarded", "for=6.6.6.6;host=evil"),
    ("X-Real-IP", "6.6.6.6"),
    ("X-Client-IP", "6.6.6.6"),
    ("True-Client-IP", "6.6.6.6"),
    ("CF-Connecting-IP", "6.6.6.6"),
    ("X-Envoy-External-Address", "6.6.6.6"),
    ("Remote-User", "evil"),
    ("X-Forwarded_For", "6.6.6.6"),
    ("x_forwarded_for", "6.6.6.6"),
    ("x_real_ip", "6.6.6.6"),
    ("X-Sandbox-Name", "evil"),
    ("X-Sandbox-Id", "evil"),
    ("x_sandbox_id", "evil"),
    ("X-Original-URL", "/evil"),
    ("X_Original_URL", "/evil"),
    ("X-Rewrite-URL", "/evil"),
    ("X-HTTP-Host-Override", "evil"),
    ("Portico-Preview", "8080-evil-tok"),
    ("X-Portico-Anything", "evil"),
    ("x_oc_preview_token", "evil"),
    ("Proxy", "http://evil"),
    ("Proxy-Authorization", "evil"),
    ("Transfer_Encoding", "evil"),
    ("Content_Length", "666"),
    ("X-Sendfile-Type", "X-Accel-Redirect"),
    ("X-Accel-Mapping", "/=/"),
    ("x_accel_mapping", "/=/"),
]


@pytest.mark.parametrize(("name", "value"), SPOOFED)
def test_claims_of_a_client_never_reach_the_service(name: str, value: str) -> None:
    assert passed((name, value), ("Accept", "*/*")) == passed(("Accept", "*/*"))


def test_claims_of_a_trusted_proxy_are_kept_and_added_to() -> None:
    sent = passed(
        ("X-Forwarded-For", "198.51.100.1"),
        ("Forwarded", "for=198.51.100.1"),
        ("X-Real-IP", "198.51.100.1"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Host", "evil"),
        ("X-Forwarded-Proto", "http"),
        by=forwarding(trusted=True),
    )
    assert sent["x-forwarded-for"] == "198.51.100.1, 192.0.2.7"
    assert sent["forwarded"] == f"for=198.51.100.1, for=192.0.2.7;host={PUBLIC.decode()};proto=https"
    assert sent["x-real-ip"] == "198.51.100.1"
    assert sent["x-forwarded-port"] == "443"
    # Of host and scheme there is one truth: what we route and link by.
    assert sent["x-forwarded-host"] == PUBLIC.decode()
    assert sent["x-forwarded-proto"] == "https"


def test_forwarded_that_a_trusted_proxy_only_let_pass_does_not_name_the_client() -> None:
    """nginx and HAProxy append to X-Forwarded-For, and pass a client's own Forwarded on."""
    by = forwarding(trusted=True)
    sent = passed(("X-Forwarded-For", "1.2.3.4, 198.51.100.1"), ("Forwarded", "for=1.2.3.4"), by=by)
    assert sent["x-forwarded-for"] == "1.2.3.4, 198.51.100.1, 192.0.2.7"
    assert sent["forwarded"].startswith("for=1.2.3.4, for=198.51.100.1, for=192.0.2.7;host=")


def test_addresses_from_several_fields_are_joined_in_order() -> None:
    sent = passed(("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "198.51.100.2"), by=forwarding(trusted=True))
    assert sent["x-forwarded-for"] == "198.51.100.1, 198.51.100.2, 192.0.2.7"


@pytest.mark.parametrize("name", [name for name, _ in SPOOFED if name.startswith(("X-S", "x_", "Portico", "Proxy"))])
def test_our_own_names_are_not_even_a_trusted_proxys_to_set(name: str) -> None:
    by = forwarding(trusted=True)
    assert passed((name, "evil"), by=by) == passed(by=by)


def test_hop_by_hop_fields_and_what_connection_names_are_dropped() -> None:
    """RFC 9110 section 7.6.1."""
    sent = passed(
        ("Connection", "close, X-Hop , X-NAMED"),
        ("X-Hop", "1"),
        ("X-Named", "2"),
        ("X-Kept", "3"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
        ("Trailer", "X-Sum"),
    )
    assert sent == passed(("X-Kept", "3"), ("Trailer", "X-Sum"))


PROTECTED = ["Authorization", "Cookie", "Origin", "Referer", "Content-Type", "Sec-Fetch-Site", "Sec-WebSocket-Key"]


@pytest.mark.parametrize("name", [*PROTECTED, "X-OC-Preview-Token", "Access-Control-Request-Method"])
def test_connection_cannot_remove_what_security_rests_on(name: str) -> None:
    assert passed(("Connection", f"close, {name}"), (name, "x"))[name.lower()] == "x"


def test_connection_cannot_remove_what_we_set() -> None:
    ours = "Host, X-Forwarded-For, Forwarded, X-Forwarded-Host, X-Original-URL, X-Sandbox-Name"
    assert passed(("Connection", ours)) == passed()


@pytest.mark.parametrize("value", ["trailers", "gzip, Trailers", "trailers;q=0.5, trailers"])
def test_te_is_reduced_to_trailers(value: str) -> None:
    assert passed(("TE", value), ("Connection", "TE"))["te"] == "trailers"


def test_te_without_trailers_is_dropped() -> None:
    assert "te" not in passed(("TE", "gzip"))


def test_websocket_fields_pass() -> None:
    sent = passed(
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "vite-hmr"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
    )
    assert {name for name in sent if name.startswith("sec-")} == {
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
    }


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://" + PUBLIC.decode(), "http://localhost:8080"),
        ("HTTPS://" + PUBLIC.decode().upper(), "http://localhost:8080"),
        ("http://" + PUBLIC.decode(), None),
        ("https://" + PUBLIC.decode() + ":444", None),
        ("https://" + PUBLIC.decode() + ".evil.example", None),
        ("https://evil.example", None),
        ("null", None),
    ],
)
def test_origin_is_rewritten_only_if_it_is_the_public_one(origin: str, expected: str | None) -> None:
    assert passed(("Origin", origin))["origin"] == (expected or origin)


def test_preserved_host_goes_with_the_origin_as_it_came() -> None:
    by = forwarding(PUBLIC + b":8443", host_header=HostHeader.PRESERVE)
    sent = passed(("Host", "ignored"), ("Origin", f"https://{PUBLIC.decode()}:8443"), by=by)
    assert sent["host"] == f"{PUBLIC.decode()}:8443"
    assert sent["origin"] == f"https://{PUBLIC.decode()}:8443"


def test_referer_is_left_alone() -> None:
    assert passed(("Referer", f"https://{PUBLIC.decode()}/x"))["referer"] == f"https://{PUBLIC.decode()}/x"


@pytest.mark.parametrize(
    ("opened_by", "left"),
    [
        (None, {"authorization", "x-oc-preview-token"}),
        (Credential.AUTHORIZATION, {"x-oc-preview-token"}),
        (Credential.PREVIEW_TOKEN, {"authorization"}),
        (Credential.COOKIE, {"authorization", "x-oc-preview-token"}),
    ],
)
def test_only_the_credential_that_opened_the_door_is_removed(opened_by: Credential | None, left: set[str]) -> None:
    sent = forwarding().forward_request(
        fields(("Authorization", "Bearer x"), ("X-OC-Preview-Token", "y")), b"/", opened_by=opened_by
    )
    assert {lower.decode() for lower, _, _ in sent} & {"authorization", "x-oc-preview-token"} == left


@pytest.mark.parametrize(
    ("cookie", "left"),
    [
        (b"a=1; b=2", b"a=1; b=2"),
        (b"a=1; " + GATE_COOKIE + b"; b=2", b"a=1; b=2"),
        (GATE_COOKIE + b";b=2", b"b=2"),
        (b"portico-gate=secret; b=2; Portico-Gate=x; my-portico-gate=3", b"b=2; my-portico-gate=3"),
        (b"a=1;" + GATE_COOKIE.upper(), b"a=1"),
        (b"a=1; b=" + GATE_COOKIE, b"a=1; b=" + GATE_COOKIE),
        (GATE_COOKIE, b""),
    ],
)
def test_cookies_of_the_gate_never_reach_the_service(cookie: bytes, left: bytes) -> None:
    assert without_gate_cookies(cookie) == left
    assert values(forwarding().forward_request(fields(("Cookie", cookie)), b"/"), b"cookie") == ([left] if left else [])


def test_response_passes_in_order_and_byte_for_byte() -> None:
    pairs = [
        ("content-TYPE", "text/plain"),
        ("Content-Length", "5"),
        ("X-Latin", "\xe4"),
        ("Set-Cookie", "a=1; Path=/; HttpOnly"),
        ("Set-Cookie", "b=2; Expires=Wed, 21 Oct 2026 07:28:00 GMT"),
        ("Access-Control-Allow-Origin", "https://a.example"),
        ("Strict-Transport-Security", "max-age=1; includeSubDomains"),
        ("Clear-Site-Data", '"cache", "storage"'),
        ("X-Accel-Buffering", "no"),
        ("Upgrade", "websocket"),
    ]
    assert answered(*((name, value.encode("latin-1")) for name, value in pairs)) == pairs


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Transfer-Encoding",
        "X-Accel-Redirect",
        "X-Accel-Expires",
        "X-Sendfile",
        "X-Lighttpd-Send-File",
        "X-Reproxy-URL",
        "Alt-Svc",
        "Portico-Anything",
        "X-Portico-Anything",
    ],
)
def test_orders_to_proxies_do_not_reach_the_client(name: str) -> None:
    assert answered((name, "x"), ("Server", "y")) == [("Server", "y")]


def test_what_the_services_connection_names_is_dropped() -> None:
    assert answered(("Connection", "X-Hop, Set-Cookie"), ("X-Hop", "1"), ("Set-Cookie", "a=1")) == [
        ("Set-Cookie", "a=1")
    ]


@pytest.mark.parametrize(
    "beginning", ["http://localhost:8080", "HTTP://LocalHost:8080", "http://127.0.0.1:8080", "//localhost:8080"]
)
@pytest.mark.parametrize("rest", ["", "/", "/a?b#c", "?b", "#c"])
def test_redirect_to_the_masked_origin_becomes_public(beginning: str, rest: str) -> None:
    assert answered(("Location", beginning + rest)) == [("Location", f"https://{PUBLIC.decode()}{rest}")]


@pytest.mark.parametrize(
    "location",
    [
        "/dashboard",
        "login",
        "?x",
        "",
        "https://evil.example/",
        "http://localhost:80800/",
        "http://localhost:808/",
        "http://localhost/",
        "https://localhost:8080/",
        "http://localhost:8080.evil.example/",
        "http://localhost:8080@evil.example/",
        "http://localhost:8080\\@evil.example/",
        "http://localhost.evil.example:8080/",
        "http://user@localhost:8080/",
        "http://xlocalhost:8080/",
        "http://127x0x0x1:8080/",
        "/http://localhost:8080/",
    ],
)
def test_redirect_elsewhere_is_left_alone(location: str) -> None:
    assert answered(("Location", location)) == [("Location", location)]


@pytest.mark.parametrize("location", ["http://localhost/x", "http://localhost:80/x", "http://localhost:/x"])
def test_masked_origin_of_port_80_may_leave_it_out(location: str) -> None:
    by = forwarding(b"sb-a-p80.example.com", BuiltInHost(SandboxId("sb-a"), Port(80), DOMAIN))
    assert answered(("Location", location), by=by) == [("Location", "https://sb-a-p80.example.com/x")]
    assert answered(("Location", "http://localhost:8/x"), by=by) == [("Location", "http://localhost:8/x")]


@pytest.mark.parametrize(
    "wide",
    [
        "; Domain=example.com",
        "; domain = .EXAMPLE.com ",
        ";DOMAIN=example.com.",
        "; Domain=com",
        '; Domain="example.com"',
        "; Domain=example.com; Domain=" + PUBLIC.decode(),
        "; Domain=" + PUBLIC.decode() + "; Domain=example.com",
        "; Domain=example.com; Domain=",
        "; Domain=; domain=.example.com",
        "; Domain=localhost",
        "; Domain=127.0.0.1",
        "; Domain=%65xample.com",
        "; Domain=example\u3002com",
    ],
)
@pytest.mark.parametrize("after", ["", "; Path=/; Secure", ";HttpOnly"])
def test_cookie_for_siblings_becomes_one_for_this_host(wide: str, after: str) -> None:
    """RFC 6265 section 5.3: without a Domain a cookie is host-only."""
    assert answered(("Set-Cookie", "a=1; Max-Age=5" + wide + after)) == [("Set-Cookie", "a=1; Max-Age=5" + after)]


@pytest.mark.parametrize(
    "cookie",
    [
        "a=1",
        "a=1; Domain=" + PUBLIC.decode(),
        "a=1; Domain=." + PUBLIC.decode().upper(),
        "a=1; Domain=evil.example",
        "a=1; Domain=ample.com",
        "a=1; Domain=",
        "a=1; Domain",
        "Domain=example.com; Path=/",
        "a=Domain=example.com",
        "a=1; XDomain=example.com",
        'a="x; y"; Path=/',
        "",
    ],
)
def test_other_cookies_are_left_alone(cookie: str) -> None:
    assert answered(("Set-Cookie", cookie)) == [("Set-Cookie", cookie)]


@pytest.mark.parametrize(
    "cookie", [GATE_COOKIE + b"; Path=/", b" " + GATE_COOKIE.upper(), b"=" + GATE_COOKIE, b"= " + GATE_COOKIE]
)
def test_service_cannot_set_the_gates_cookie(cookie: bytes) -> None:
    assert is_gate_cookie(cookie)
    assert answered(("Set-Cookie", cookie), ("Set-Cookie", "a=1")) == [("Set-Cookie", "a=1")]


def test_preview_answering_on_the_base_domain_binds_nobody_else() -> None:
    """With `Portico-Preview` the public host is the base domain: what is harmless on a preview's own host is not."""
    by = forwarding(b"example.com")
    assert answered(
        ("Set-Cookie", "a=1; Domain=example.com"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Clear-Site-Data", "*"),
        ("Service-Worker-Allowed", "/"),
        ("Location", "http://localhost:8080/x"),
        by=by,
    ) == [("Set-Cookie", "a=1"), ("Location", "https://example.com/x")]
    assert passed(by=by)["x-original-url"] == "https://example.com/"
    assert narrowed_cookie(b"a=1;Domain=.example.com", host=b"example.com", domain=b"example.com") == b"a=1"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], None),
        ([("X-OC-Preview-Token", "from-x"), ("Authorization", "Bearer from-auth")], ("from-x", "PREVIEW_TOKEN")),
        ([("X-OC-Preview-Token", "  spaced-token  ")], ("spaced-token", "PREVIEW_TOKEN")),
        ([("x-oc-preview-token", "lower-name")], ("lower-name", "PREVIEW_TOKEN")),
        ([("X-OC-Preview-Token", "Bearer abc")], ("Bearer abc", "PREVIEW_TOKEN")),
        ([("X-OC-Preview-Token", "   "), ("Authorization", "Bearer good")], ("good", "AUTHORIZATION")),
        ([("Authorization", "BEARER abcdefghijklmnop")], ("abcdefghijklmnop", "AUTHORIZATION")),
        ([("Authorization", "Bearer   x ")], ("x", "AUTHORIZATION")),
        ([("Authorization", "Basic dXNlcjpwYXNz")], None),
        ([("Authorization", "Bearerabc")], None),
        ([("Authorization", "Bearer")], None),
        ([("Authorization", "Bearer ")], None),
        ([("Authorization", "")], None),
    ],
)
def test_bearer_credential_is_found(pairs: list[tuple[str, str]], expected: tuple[str, str] | None) -> None:
    found = bearer_credential(fields(*pairs))
    assert found == (None if expected is None else Bearer(expected[0].encode(), Credential[expected[1]]))


def test_credential_sent_twice_is_refused() -> None:
    for name in ("Authorization", "X-OC-Preview-Token"):
        with pytest.raises(AmbiguousCredentialError) as caught:
            bearer_credential(fields((name, "Bearer good"), (name, "Bearer evil")))
        assert caught.value.status_code == 400
        assert "good" not in str(caught.value)


def test_bearer_is_not_shown() -> None:
    assert "hush" not in repr(bearer_credential(fields(("Authorization", "Bearer hush"))))


@pytest.mark.parametrize(
    ("said", "trusted", "expected"),
    [
        ([], True, "http"),
        (["https"], False, "http"),
        (["https"], True, "https"),
        (["HTTPS"], True, "https"),
        (["wss"], True, "https"),
        (["https, http"], True, "http"),
        (["http", "https"], True, "https"),
        (["gopher"], True, "http"),
    ],
)
def test_scheme_is_the_connections_unless_a_trusted_proxy_says(said: list[str], trusted: bool, expected: str) -> None:
    pairs = [("X-Forwarded-Proto", value) for value in said]
    assert public_scheme(fields(*pairs), "http", trusted=trusted) == expected
    assert public_scheme(fields(("X-Forwarded-Proto", "ws")), "https", trusted=True) == "http"


ORIGIN = ("Origin", "https://elsewhere.example")
ASKED = ("Access-Control-Request-Method", "PUT")


@pytest.mark.parametrize(
    ("method", "pairs", "expected"),
    [
        (b"OPTIONS", [ORIGIN, ASKED], True),
        (b"OPTIONS", [ORIGIN, ASKED, ("Content-Length", "0")], True),
        (b"OPTIONS", [ASKED], False),
        # What browsers never send with one would make it a request of its own, past the gate.
        (b"OPTIONS", [ORIGIN, ASKED, ("Content-Length", "5")], False),
        (b"OPTIONS", [ORIGIN, ASKED, ("Transfer-Encoding", "chunked")], False),
        (b"OPTIONS", [ORIGIN, ASKED, ("Upgrade", "websocket")], False),
        (b"OPTIONS", [ORIGIN, ASKED, ("Expect", "100-continue")], False),
        (b"OPTIONS", [ORIGIN, ASKED, ("Cookie", "a=b")], False),
        (b"OPTIONS", [("Origin", "https://a.example")], False),
        (b"GET", [ORIGIN, ASKED], False),
    ],
)
def test_preflight_is_known_by_method_and_field(method: bytes, pairs: list[tuple[str, str]], expected: bool) -> None:
    assert is_preflight(RequestHead(method, b"/", b"1.1", fields(*pairs))) is expected


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ('"cache", "cookies", "storage"', '"cache", "storage"'),
        ('"cookies"', None),
        ('"*"', None),
        ('"Cookies" , "executionContexts"', '"executionContexts"'),
    ],
)
def test_preview_clears_no_cookies_of_its_siblings(sent: str, kept: str | None) -> None:
    assert answered(("Clear-Site-Data", sent)) == ([] if kept is None else [("Clear-Site-Data", kept)])


# Plain requests, written in one step.

PLAIN_LINES = [
    b"Accept: */*",
    b"Origin: https://8080-my-app-k3v9x0q2m7t1z8aa.example.com",
    b"Origin: https://elsewhere.example",
    b"Cookie: a=b; __Host-portico-x=1; c=d",
    b"Cookie: __Host-portico-x=1",
    b"Authorization: Bearer abc",
    b"X-OC-Preview-Token: abc",
    b"X-Forwarded-For: 198.51.100.1",
    b"Forwarded: for=198.51.100.1;proto=http",
    b"X-Forwarded-Proto: http",
    b"X-Real-IP: 198.51.100.1",
    b"Proxy: http://evil.example",
    b"X-Sandbox-Name: other",
    b"Connection: keep-alive",
    b"Keep-Alive: timeout=5",
    b"X-Empty:",
]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(PLAIN_LINES), max_size=8),
    st.sampled_from([b"/", b"/a%2Fb?c=d"]),
    st.booleans(),
    st.sampled_from(HostHeader),
    st.sampled_from([None, Credential.AUTHORIZATION, Credential.PREVIEW_TOKEN]),
)
def test_plain_request_is_written_as_the_two_steps_together_write_it(
    lines: list[bytes], target: bytes, trusted: bool, host_header: HostHeader, opened_by: Credential | None
) -> None:
    preview = TokenHost(SandboxId("my-app"), Port(8080), PortToken("k3v9x0q2m7t1z8aa"), Domain("example.com"))
    public = parse_host(b"8080-my-app-k3v9x0q2m7t1z8aa.example.com")
    rules = Forwarding(
        preview, public, scheme="https", client_address="192.0.2.7", trusted=trusted, host_header=host_header
    )
    text = b"\r\n".join((b"GET " + target + b" HTTP/1.1", b"Host: " + public.authority.encode(), *lines, b"", b""))
    head = LineMemo().read_request(text)
    assert head.lines is not None
    fields = rules.forward_request(head.fields, head.target, opened_by=opened_by)
    in_two_steps = Exchange(RequestHead(head.method, head.target, b"1.1", fields), NO_BODY).start()
    assert rules.write_plain_request(head, opened_by=opened_by) == in_two_steps
