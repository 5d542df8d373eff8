"""What `portico doctor` has found, step by step, and the one thing to mend.

A preview URL is a chain: a name, an address, perhaps TLS, a Portico, a sandbox, a port, a service. What breaks one link
breaks all that come after it, so the steps are walked in order, the first that fails is the one to mend, and those that
could not be looked at any more say so instead of failing too.

Here are the words: steps, findings, what was observed. `reaching`, `symptoms` and `flow` turn what was observed into
findings, `facts` adds what the sandbox's log knows. None of them does I/O, and none of their texts holds a token: a
finding names a preview by `Target.shown`, and `Target.scrub` goes over everything before it is printed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from actors import SHARE_PATH, CustomDomainRequiredError, Domain, InvalidNameError
from proxy.core.gate import share_path_secret
from proxy.core.headers import MASK
from proxy.core.hostname import (
    DEFAULT_PORTS,
    BuiltInHost,
    Host,
    HostKind,
    Matcher,
    PreviewHost,
    TokenHost,
    parse_host,
)
from proxy.core.pages import Code, refusal
from proxy.errors import BadHostError

# {scheme as written: scheme of the HTTP connection under it}
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

SCRUBBED_TOKEN_LENGTH_MIN: Final = 6
"""A token shorter than this occurs in ordinary words; it is scrubbed as part of its label only."""


class Step(StrEnum):
    """The links of the chain, in order."""

    NAME = "name"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    SERVER = "server"
    RECORD = "record"
    TOKEN = "token"  # noqa: S105  the name of a step
    RUN = "run"
    PORT = "port"
    SERVICE = "service"
    WEBSOCKET = "websocket"
    EVENTS = "events"


class Outcome(StrEnum):
    """What came of a step."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step, looked at. Made by `ok`, `failed` and `skipped`."""

    step: Step
    outcome: Outcome
    text: str
    """What was seen; of a skipped step, why it was not looked at."""
    mend: str = ""
    """What to do about it, with the command or setting. Invariant: there is one exactly if the step failed."""


def ok(step: Step, text: str) -> Finding:
    """Return a finding that needs nothing."""
    return Finding(step, Outcome.OK, text)


def failed(step: Step, text: str, mend: str) -> Finding:
    """Return a finding that breaks the chain."""
    return Finding(step, Outcome.FAILED, text, mend)


def skipped(step: Step, why: str) -> Finding:
    """Return the finding of a step that nobody could or need look at."""
    return Finding(step, Outcome.SKIPPED, why)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All steps, each once and in order."""

    findings: tuple[Finding, ...]

    @property
    def mend(self) -> str | None:
        """The one thing to mend; None if nothing failed."""
        return next((found.mend for found in self.findings if found.outcome is Outcome.FAILED), None)


def diagnose(findings: Sequence[Finding]) -> Diagnosis:
    """Put findings in order, and say of each step without one why nobody got to it.

    Of several findings on a step the first failed one counts, else the last.
    """
    by_step: dict[Step, Finding] = {}
    for found in findings:
        before = by_step.get(found.step)
        if before is None or before.outcome is not Outcome.FAILED:
            by_step[found.step] = found
    broken = next((step for step in Step if step in by_step and by_step[step].outcome is Outcome.FAILED), None)
    why = "not looked at" if broken is None else f"{broken} comes first"
    return Diagnosis(tuple(by_step.get(step) or skipped(step, why) for step in Step))


class BadURLError(ValueError):
    """The text is no URL that could lead to a preview or anywhere else; says why, without quoting it."""


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A preview URL, taken apart. A secret, as its host may hold a port token."""

    scheme: str
    """``http`` or ``https``; of ``ws`` and ``wss``, the one under it."""
    host: Host
    """Without a port if it is the default one."""
    path: str
    """With the query."""
    preview: PreviewHost | None
    """None: the host has neither form of a preview's."""

    @classmethod
    def read(cls, url: str) -> Self:
        """Take a URL apart; without a scheme, it is ``http`` on a local domain and ``https`` elsewhere.

        Raises:
            BadURLError: There is no host in it, or none that could be one, or another scheme than HTTP's.
        """
        parts = _split(url.strip())
        if parts.scheme not in _SCHEMES:
            raise BadURLError("the URL of a preview begins with http:// or https://")
        if "@" in parts.netloc:
            raise BadURLError("the URL of a preview has no user and no password in it")
        try:
            host = parse_host(parts.netloc.encode("ascii"))
        except (BadHostError, UnicodeEncodeError) as error:
            raise BadURLError(f"that is not the URL of anything: {_reason(error)}") from None
        scheme = _SCHEMES[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        check_path(path)
        if host.port == DEFAULT_PORTS[scheme]:
            host = host._replace(port=None)
        return cls(scheme, host, path, _preview(host))

    @property
    def share_secret(self) -> str | None:
        """What opens, if this is the link of a share; it is the path's last part. None: it is no link."""
        secret = share_path_secret(self.path.partition("?")[0].encode("ascii"))
        return None if secret is None else secret.decode("ascii")

    @property
    def port(self) -> int:
        """Where to connect."""
        return self.host.port or DEFAULT_PORTS[self.scheme]

    @property
    def domain(self) -> str:
        """All of the host but its first label: the base domain, if this is a preview."""
        return self.host.name.partition(".")[2]

    @property
    def shown(self) -> str:
        """The host as it may be shown, without a port."""
        if not isinstance(self.preview, TokenHost):
            return self.host.name
        return f"{self.preview.port:d}-{self.preview.sandbox}-{MASK}.{self.domain}"

    @property
    def shown_origin(self) -> str:
        """Scheme, host and port as they may be shown."""
        port = "" if self.host.port is None else f":{self.host.port}"
        name = f"[{self.shown}]" if self.host.kind is HostKind.IPV6 else self.shown
        return f"{self.scheme}://{name}{port}"

    def probe_host(self, label: str) -> str:
        """Return the host with another first label, with the port."""
        name = f"{label}.{self.domain}"
        return name if self.host.port is None else f"{name}:{self.host.port}"

    def at(self, path: str) -> str:
        """Return the URL of another path, as it may be shown; a query is left out, as it may hold a secret."""
        return self.shown_origin + (SHARE_PATH + MASK if path.startswith(SHARE_PATH) else path.partition("?")[0])

    def scrub(self, text: str) -> str:
        """Return `text` fit for printing: without the token, should it have got in, and on one line."""
        if self.share_secret is not None:
            text = text.replace(self.share_secret, MASK)
        if isinstance(self.preview, TokenHost):
            label = self.host.name.partition(".")[0]
            text = text.replace(label, self.shown.partition(".")[0])
            token = self.preview.token.reveal()
            if len(token) >= SCRUBBED_TOKEN_LENGTH_MIN:
                text = text.replace(token, MASK)
        return "".join(character if character.isprintable() else " " for character in text)

    def __repr__(self) -> str:
        return f"Target({self.shown_origin!r})"


def check_path(path: str | None) -> None:
    """Refuse a path that no request line can hold; None is fine.

    Raises:
        BadURLError: With what to write instead.
    """
    if path is None:
        return
    if not path.startswith("/"):
        raise BadURLError("a path begins with /")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise BadURLError("write the path as it goes over the wire, with %20 for a space")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
    except ValueError:
        raise BadURLError("that is not a URL") from None
    if not parts.netloc:
        raise BadURLError("there is no host in that URL")
    if not parts.scheme:
        name = parts.netloc.partition(":")[0]
        parts = parts._replace(scheme="http" if name.lower().rstrip(".").endswith("localhost") else "https")
    return parts


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BadHostError) else "a hostname is written in ASCII (xn--...)"


def _preview(host: Host) -> PreviewHost | None:
    if host.kind is not HostKind.NAME or "." not in host.name:
        return None
    try:
        match = Matcher([Domain(host.name.partition(".")[2])]).match_host(host)
    except (InvalidNameError, CustomDomainRequiredError):
        # Expected: one label and a public suffix, or names that no base domain can have.
        return None
    return match if isinstance(match, TokenHost | BuiltInHost) else None


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, or the beginning of one."""

    status: int
    fields: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes = b""
    """As much as was read."""
    elapsed_s: float = 0.0
    """From the request to the head."""

    def header(self, name: str) -> str:
        """Return the value of a field, the first if there are several, ``""`` if there is none."""
        return next((value for found, value in self.fields if found == name), "")

    @property
    def code(self) -> Code | None:
        """The code of an answer of Portico's own; None for anything else.

        A service can forge one. All it can gain is to be told of in the wrong words.
        """
        said = self._json
        try:
            code = Code(str(said.get("code")))
        except ValueError:
            return None
        # The two that are answers about a thing want to hear which.
        return code if refusal(code, port=1, sandbox="any").status == self.status else None

    @property
    def error(self) -> str:
        """The words of an answer of Portico's own; cut, for whoever forged one."""
        return str(self._json.get("error", ""))[:300]

    @property
    def _json(self) -> dict[str, object]:
        if self.header("content-type") != "application/json":
            return {}
        try:
            said = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}


class Silence(StrEnum):
    """Why there is no reply."""

    TIMEOUT = "timeout"
    CLOSED = "closed"
    """The connection ended before a whole head."""
    NOT_HTTP = "not http"


@dataclass(frozen=True, slots=True)
class NoReply:
    """A request that got no response."""

    why: Silence
    waited_s: float
