"""What each operation asks, and that no name leads elsewhere."""

import inspect
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import ContainerSpec, InvalidNameError
from proxy.api import schemas
from proxy.client import calls
from proxy.client.calls import Call, segment

SAMPLES: list[tuple[Call[object], str, str]] = [
    (calls.create_sandbox("My-App", None, None, None, None, None), "POST", "/v1/sandboxes"),
    (calls.show_sandbox("my-app"), "GET", "/v1/sandboxes/my-app"),
    (calls.list_sandboxes(None), "GET", "/v1/sandboxes"),
    (calls.hibernate("my-app"), "POST", "/v1/sandboxes/my-app/hibernate"),
    (calls.set_sleep_after("my-app", 60.0), "PATCH", "/v1/sandboxes/my-app"),
    (calls.bind_domain("my-app", "A.example.org", 8080), "PUT", "/v1/domains/a.example.org"),
    (calls.verify_domain("my-app", "a.example.org"), "POST", "/v1/domains/a.example.org/verify"),
    (calls.unbind_domain("my-app", "a.example.org"), "DELETE", "/v1/domains/a.example.org"),
    (calls.list_domains("my-app", "a.example.org/my-app"), "GET", "/v1/domains"),
    (calls.wake("my-app"), "POST", "/v1/sandboxes/my-app/wake"),
    (calls.stop("my-app"), "POST", "/v1/sandboxes/my-app/stop"),
    (calls.destroy("my-app"), "DELETE", "/v1/sandboxes/my-app"),
    (calls.history("my-app", 1.5), "GET", "/v1/sandboxes/my-app/history"),
    (calls.expose_port("my-app", 8080, None, "web", None, None, None), "PUT", "/v1/sandboxes/my-app/ports/8080"),
    (calls.unexpose_port("my-app", 8080, 2), "DELETE", "/v1/sandboxes/my-app/ports/8080"),
    (calls.list_ports("my-app"), "GET", "/v1/sandboxes/my-app/ports"),
    (calls.share("my-app", 8080, 60, True), "POST", "/v1/sandboxes/my-app/ports/8080/shares"),
    (calls.list_shares("my-app", None), "GET", "/v1/sandboxes/my-app/shares"),
    (calls.revoke_share("my-app", "sh-1"), "DELETE", "/v1/sandboxes/my-app/shares/sh-1"),
    (calls.create_preview_url("my-app", 80, None), "POST", "/api/sandboxes/my-app/preview"),
    (calls.list_preview_urls("my-app"), "GET", "/api/sandboxes/my-app/preview"),
    (calls.delete_preview_url("my-app", 80), "DELETE", "/api/sandboxes/my-app/preview/80"),
    (calls.set_preview_auth("my-app", None), "PUT", "/v1/sandboxes/my-app/preview-auth"),
    (calls.rotate_preview_auth("my-app", 0.0, None), "POST", "/v1/sandboxes/my-app/preview-auth/rotate"),
    (calls.start_process("my-app", ("ls", "-l"), None, None, None, "always"), "POST", "/v1/sandboxes/my-app/processes"),
    (calls.list_processes("my-app"), "GET", "/v1/sandboxes/my-app/processes"),
    (calls.show_process("my-app", "web"), "GET", "/v1/sandboxes/my-app/processes/web"),
    (calls.kill("my-app", "web", 9), "POST", "/v1/sandboxes/my-app/processes/web/kill"),
    (calls.logs("my-app", "web", follow=True), "GET", "/v1/sandboxes/my-app/processes/web/logs"),
    (calls.wait_for_port("my-app", "web", 8080, 5.0), "POST", "/v1/sandboxes/my-app/processes/web/wait-for-port"),
    (calls.run_exec("my-app", "ls", None, {"A": "b"}, 5.0), "POST", "/v1/sandboxes/my-app/exec"),
    (calls.explain("https://x/", None), "GET", "/v1/explain"),
    (calls.create_key("laptop", "read"), "POST", "/v1/keys"),
    (calls.list_keys(), "GET", "/v1/keys"),
    (calls.revoke_key("k-1"), "DELETE", "/v1/keys/k-1"),
    (calls.health(), "GET", "/healthz"),
]


@pytest.mark.parametrize(("call", "method", "path"), SAMPLES, ids=[f"{method} {path}" for _, method, path in SAMPLES])
def test_operation_asks_its_resource(call: Call[object], method: str, path: str) -> None:
    assert (call.method, call.path, call.changes) == (method, path, method != "GET")
    assert call.timeout_s >= calls.CALL_TIMEOUT_S or call.path.endswith("wait-for-port")


@pytest.mark.parametrize("call", [call for call, _, _ in SAMPLES if call.body is not None])
def test_body_is_what_the_api_takes(call: Call[object]) -> None:
    """The structs are checked only when they are read, so what is sent is read back as strictly as the server does."""
    assert call.body is not None
    assert msgspec.json.decode(msgspec.json.encode(call.body), type=type(call.body)) == call.body


def test_every_operation_has_a_sample() -> None:
    made = [
        name
        for name, function in inspect.getmembers(calls, inspect.isfunction)
        if function.__module__ == calls.__name__ and not name.startswith("_") and name != "segment"
    ]
    assert len(made) == len(SAMPLES)


def test_links_of_one_port_are_asked_for_at_the_port() -> None:
    assert calls.list_shares("my-app", 8080).path == "/v1/sandboxes/my-app/ports/8080/shares"


def test_container_may_be_a_kind_or_a_spec() -> None:
    for given_as in ("address", ContainerSpec("address", {"host": "127.0.0.1"})):
        body = calls.create_sandbox("a", given_as, None, "stale", 60.0, "auto").body
        assert isinstance(body, schemas.CreateSandbox)
        assert body.container is not None
        assert body.container.kind == "address"


def test_no_secret_is_in_the_repr() -> None:
    secret = "preview-token-of-the-owner"
    for call in (
        calls.set_preview_auth("a", secret),
        calls.expose_port("a", 8080, None, None, "k3v9x0q2m7t1z8aa", None, None),
        calls.run_exec("a", "ls", None, {"PASSWORD": secret}, 1.0),
        calls.explain("https://8080-a-k3v9x0q2m7t1z8aa.example.com/", None),
    ):
        assert secret not in repr(call)
        assert "k3v9x0q2m7t1z8aa" not in repr(call)


BAD: list[Callable[[], object]] = [
    lambda: calls.show_sandbox("a/ports"),
    lambda: calls.show_sandbox(".."),
    lambda: calls.list_ports("a?b"),
    lambda: calls.unexpose_port("a", 70000, 0),
    lambda: calls.expose_port("a", True, None, None, None, None, None),
]


@pytest.mark.parametrize("ask", BAD)
def test_names_of_no_form_are_refused_before_anything_is_sent(ask: Callable[[], object]) -> None:
    with pytest.raises(InvalidNameError):
        ask()


@pytest.mark.parametrize("text", ["", ".", ".."])
def test_segment_that_means_another_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an id is not"):
        segment(text)


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..")))
def test_segment_stays_one_segment(text: str) -> None:
    try:
        quoted = segment(text)
    except UnicodeEncodeError:
        return  # A lone surrogate is no text.
    assert not set(quoted) & set("/?#% \r\n") - {"%"}
