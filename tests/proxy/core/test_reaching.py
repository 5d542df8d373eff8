"""Name, DNS, connection, TLS, server: what was seen, and what is to be mended."""

import json

import pytest

from proxy.core.diagnosis import NoReply, Outcome, Reply, Silence, Target
from proxy.core.reaching import (
    PROBE_LABEL,
    Attempt,
    TLSFailure,
    judge_dialling,
    judge_lookup,
    judge_name,
    judge_server,
    judge_tls,
)

TOKEN = "k3v9x0q2m7t1z8aa"
TARGET = Target.read(f"https://8080-my-app-{TOKEN}.example.com/")
PLAIN = Target.read(f"http://8080-my-app-{TOKEN}.localhost:8787/")


def ours(status: int, code: str) -> Reply:
    body = json.dumps({"error": "…", "code": code}).encode()
    return Reply(status, (("content-type", "application/json"),), body)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("192.0.2.7", "an IP address"),
        ("example.com", "begins with no port"),
        ("www.example.com", "begins with no port"),
        ("sb-1a2b3c4d.example.com", "does not end in -p<port>"),
        ("8080-app.example.com", "not port, sandbox and token"),
        ("08080-my-app-token.example.com", "none that can exist"),
        ("99999-my-app-token.example.com", "none that can exist"),
        ("8080-www-token.example.com", "none that can exist"),
    ],
)
def test_host_that_is_no_previews_is_told_why(host: str, why: str) -> None:
    found = judge_name(Target.read(f"http://{host}/"))
    assert found.outcome is Outcome.FAILED
    assert why in found.text
    assert "expose_port()" in found.mend


@pytest.mark.parametrize("label", [f"8080-my-app-{TOKEN}", "sb-1a2b3c4d-p8080", PROBE_LABEL])
def test_host_of_either_form_is_a_previews(label: str) -> None:
    found = judge_name(Target.read(f"https://{label}.example.com/"))
    assert found.outcome is Outcome.OK
    assert "port 8080" in found.text


def test_missing_wildcard_is_told_from_a_missing_domain() -> None:
    assert judge_lookup(TARGET, ["192.0.2.1"], domain_resolves=True).outcome is Outcome.OK
    wildcard = judge_lookup(TARGET, [], domain_resolves=True)
    assert wildcard.mend.startswith("add a wildcard record to the DNS: *.example.com")
    domain = judge_lookup(TARGET, [], domain_resolves=False)
    assert "nor example.com resolves" in domain.text
    assert "--via HOST:PORT" in domain.mend


def test_connection_refused_names_every_address_and_the_command() -> None:
    found = judge_dialling(TARGET, 443, [Attempt("192.0.2.1", "connection refused"), Attempt("::1", "no answer")])
    assert found.text == "nobody takes connections at port 443 (192.0.2.1: connection refused; ::1: no answer)"
    assert "portico serve --domain example.com --listen 0.0.0.0:443" in found.mend
    assert "--listen 127.0.0.1:8787" in judge_dialling(PLAIN, 8787, []).mend


@pytest.mark.parametrize(
    ("failure", "mend"),
    [
        (TLSFailure.NO_TLS, "http://8080-my-app-****.example.com:443/"),
        (TLSFailure.OTHER_NAME, "a certificate for *.example.com"),
        (TLSFailure.EXPIRED, "renew the certificate of *.example.com"),
        (TLSFailure.NOT_YET, "clock"),
        (TLSFailure.UNKNOWN_ISSUER, "SSL_CERT_FILE"),
        (TLSFailure.OTHER, "openssl s_client -connect example.com:443"),
    ],
)
def test_each_way_for_tls_to_fail_has_its_own_remedy(failure: TLSFailure, mend: str) -> None:
    found = judge_tls(TARGET, failure)
    assert mend in found.mend
    assert found.text == failure.value


@pytest.mark.parametrize(
    ("said", "text", "mend"),
    [
        (ours(421, "MISDIRECTED_REQUEST"), "not for localhost", "portico serve --domain localhost"),
        (ours(404, "NOT_FOUND"), "not for localhost", "proxy_set_header Host $host"),
        (ours(503, "SHUTTING_DOWN"), "shutting down", "portico serve"),
        (ours(400, "BAD_HOST"), "400 BAD_HOST", "log"),
        (Reply(200, (("server", "nginx/1.22"),), b"Welcome"), "no Portico: 200 from nginx/1.22", "Host included"),
        (Reply(404, (), b""), "no Portico: 404", "correct the DNS"),
        (
            Reply(301, (("location", "https://x.localhost/"),)),
            "to https (301)",
            "portico doctor https://8080-my-app-****.",
        ),
        (NoReply(Silence.TIMEOUT, 10.0), "within 10 s", "hangs"),
        (NoReply(Silence.CLOSED, 0.1), "without an answer", "--connections-per-address-max"),
        (NoReply(Silence.NOT_HTTP, 0.1), "does not speak HTTP", "portico doctor https://"),
    ],
)
def test_what_answers_for_nobodys_preview_tells_who_it_is(said: Reply | NoReply, text: str, mend: str) -> None:
    found = judge_server(PLAIN, said)
    assert found.outcome is Outcome.FAILED
    assert text in found.text
    assert mend in found.mend
    assert TOKEN not in found.mend


def test_refusal_of_a_wrong_token_is_a_porticos() -> None:
    assert judge_server(TARGET, ours(404, "INVALID_TOKEN")).outcome is Outcome.OK


def test_https_port_that_does_not_speak_http_is_not_sent_to_https() -> None:
    assert "https" not in judge_server(TARGET, NoReply(Silence.NOT_HTTP, 0.1)).mend
