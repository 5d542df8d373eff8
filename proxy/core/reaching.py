"""The links before the sandbox: the name, the DNS, a connection, TLS, and whether a Portico is at the other end."""

from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from actors import BUILT_IN_PREFIX
from proxy.core.diagnosis import Finding, NoReply, Reply, Silence, Step, Target, failed, ok
from proxy.core.hostname import HostKind, TokenHost
from proxy.core.pages import Code

PROBE_LABEL: Final = "8080-portico-doctor-0000000000000000"
"""The first label of a preview that nobody has. Every Portico answers it with INVALID_TOKEN, at no cost to anyone; what
answers otherwise is none, or does not serve that domain."""

LABEL_LENGTH_MAX: Final = 63
"""RFC 1035 section 2.3.4."""


class Attempt(NamedTuple):
    """A connection that was not made."""

    address: str
    why: str
    """As the system says it: ``connection refused``."""


class TLSFailure(Enum):
    """Why a TLS handshake failed."""

    NO_TLS = "the port answers, but does not speak TLS"
    OTHER_NAME = "the certificate is for other names"
    EXPIRED = "the certificate has expired"
    NOT_YET = "the certificate is not valid yet"
    UNKNOWN_ISSUER = "the certificate comes from nobody this machine trusts"
    OTHER = "the TLS handshake failed"


def judge_name(target: Target) -> Finding:
    """Say whether the host is a preview's."""
    preview = target.preview
    if preview is not None:
        form = "token form" if isinstance(preview, TokenHost) else "built-in form, no token"
        return ok(Step.NAME, f"port {preview.port:d} of sandbox {preview.sandbox} under {target.domain} ({form})")
    mend = (
        "take the URL as expose_port() returned it: https://8080-my-app-<token>.previews.example.com/; "
        "of a custom hostname, portico explain URL says where it leads, and what its links are worth"
    )
    if target.host.kind is not HostKind.NAME:
        return failed(Step.NAME, "the host is an IP address, and a preview is told by its name", mend)
    label = target.host.name.partition(".")[0]
    if label.startswith(BUILT_IN_PREFIX):
        why = f"it begins with {BUILT_IN_PREFIX} but does not end in -p<port>"
    elif not label[:1].isdigit():
        why = "its first label begins with no port"
    elif label.count("-") < 2:
        why = "its first label is not port, sandbox and token with hyphens between"
    else:
        why = "port, sandbox id or token in its first label is none that can exist"
    return failed(Step.NAME, f"that host is no preview's: {why}", mend)


def judge_lookup(target: Target, addresses: Sequence[str], *, domain_resolves: bool) -> Finding:
    """Say what the DNS gives.

    Args:
        target: Whose name was looked up.
        addresses: What came; none if it does not resolve.
        domain_resolves: Whether the base domain does, which tells a missing wildcard from a missing domain.
    """
    if addresses:
        return ok(Step.DNS, f"resolves to {', '.join(addresses)}")
    if domain_resolves:
        return failed(
            Step.DNS,
            f"{target.domain} resolves, but no name below it does",
            f"add a wildcard record to the DNS: *.{target.domain}, to where {target.domain} leads; "
            "to look further meanwhile, say where the server is: portico doctor --via HOST:PORT URL",
        )
    return failed(
        Step.DNS,
        f"neither {target.shown} nor {target.domain} resolves",
        f"add *.{target.domain} to the DNS, if the domain is spelt right; "
        "to look further meanwhile, say where the server is: portico doctor --via HOST:PORT URL",
    )


def judge_dialling(target: Target, port: int, attempts: Sequence[Attempt]) -> Finding:
    """Say why no address took a connection."""
    tried = "; ".join(f"{address}: {why}" for address, why in attempts)
    name = target.domain or target.host.name
    everywhere = "127.0.0.1" if name == "localhost" else "0.0.0.0"  # noqa: S104  # as a word of advice
    return failed(
        Step.CONNECT,
        f"nobody takes connections at port {port} ({tried})",
        f"start the server (portico serve --domain {name} --listen {everywhere}:{port}), or what stands before it, "
        f"and let the firewall pass port {port}",
    )


def judge_tls(target: Target, failure: TLSFailure) -> Finding:
    """Say why there is no TLS."""
    domain = target.domain
    match failure:
        case TLSFailure.NO_TLS:
            mend = f"put TLS in front of that port, or use the plain URL: http://{target.shown}:{target.port}/"
        case TLSFailure.OTHER_NAME:
            mend = f"get a certificate for *.{domain}: a wildcard stands for one label, so one for {domain} will not do"
        case TLSFailure.EXPIRED | TLSFailure.NOT_YET:
            mend = f"renew the certificate of *.{domain}, and look at this machine's clock"
        case TLSFailure.UNKNOWN_ISSUER:
            mend = (
                "serve the whole chain (fullchain.pem, not cert.pem); "
                "of an issuer of your own, name its certificate here: SSL_CERT_FILE=ca.pem portico doctor URL"
            )
        case TLSFailure.OTHER:
            mend = f"look at what ends TLS for *.{domain}: openssl s_client -connect {domain}:{target.port} says more"
    return failed(Step.TLS, failure.value, mend)


def judge_server(target: Target, said: Reply | NoReply) -> Finding:
    """Say whether a Portico answered for this domain, from what came back for `PROBE_LABEL`."""
    if isinstance(said, NoReply):
        return _judge_silence(target, said)
    if said.code is Code.INVALID_TOKEN:
        return ok(Step.SERVER, f"Portico answers for {target.domain}, and refuses a wrong token")
    if said.code in (Code.MISDIRECTED_REQUEST, Code.NOT_FOUND):
        return failed(
            Step.SERVER,
            f"Portico answers, but not for {target.domain} ({said.code})",
            f"serve that domain: portico serve --domain {target.domain}; "
            "if it does, let the proxy in front pass Host on (nginx: proxy_set_header Host $host;)",
        )
    if said.code is Code.SHUTTING_DOWN:
        return failed(Step.SERVER, "the server is shutting down", "start it again: portico serve")
    if said.code is not None:
        return failed(Step.SERVER, f"Portico answers {said.status} {said.code}", "look at the server's log")
    leads = _leads_to_https(target, said)
    if leads:
        return failed(
            Step.SERVER,
            f"what answers here sends everybody to https ({said.status})",
            f"use the URL with https: portico doctor https://{target.shown}/",
        )
    who = said.header("server")[:40]
    return failed(
        Step.SERVER,
        f"what answers is no Portico: {said.status}" + (f" from {who}" if who else ""),
        f"let what answers at port {target.port} pass *.{target.domain} on to Portico, Host included "
        "(nginx: server_name and proxy_pass, with proxy_set_header Host $host;), or correct the DNS",
    )


def _leads_to_https(target: Target, said: Reply) -> bool:
    return target.scheme == "http" and 300 <= said.status < 400 and said.header("location").startswith("https://")


def _judge_silence(target: Target, said: NoReply) -> Finding:
    match said.why:
        case Silence.TIMEOUT:
            return failed(
                Step.SERVER,
                f"takes connections, but does not answer within {said.waited_s:.0f} s",
                "look at the server: it hangs, or a proxy in front waits for it in vain",
            )
        case Silence.CLOSED:
            return failed(
                Step.SERVER,
                "takes connections, and closes them without an answer",
                "if this address holds many connections, raise --connections-per-address-max; "
                "if a proxy stands in front, name it with --trusted-proxies; else look at its log",
            )
        case Silence.NOT_HTTP:
            mend = (
                f"use the URL with https: portico doctor https://{target.shown}:{target.port}/"
                if target.scheme == "http"
                else "let that port speak HTTP/1.1"
            )
            return failed(Step.SERVER, "what answers does not speak HTTP", mend)
