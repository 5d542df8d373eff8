"""What we answer ourselves, when no service does: which status, and which words for whom.

`refusal` chooses an answer by its code, `render` puts it into JSON for programs or a small page for people. `code`
is stable; the words are for people and may change. No answer holds a token, an internal error's text, or anything
that the request brought along, so nothing can be reflected. The refusals of the token form do not tell an unknown
sandbox from a wrong token, and must not come to.

Pages are answered on the hostname of a preview, whose service owns everything of that origin: they carry nothing
worth stealing, load nothing and run nothing.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from proxy.core.http1 import Field, values

DETAIL_LENGTH_MAX: Final = 600
"""Of a text given to `refusal`; holds a good dozen addresses that were tried."""

WAKING_REFRESH_S: Final = 2
"""How often the waking page asks again, in seconds: each asking waits for the wake itself."""


ASLEEP_RETRY_S: Final = 30
"""When a WebSocket that wakes nothing is to ask again, in seconds. 503 and not 410: the preview will be back, and
clients that give up at 410 would have to be told."""


class Code(StrEnum):
    """Every code that an answer of ours to preview traffic can have."""

    INVALID_TOKEN = "INVALID_TOKEN"  # noqa: S105  a code, not a password
    SANDBOX_NOT_FOUND = "SANDBOX_NOT_FOUND"
    AUTH_REQUIRED = "AUTH_REQUIRED"
    AUTH_INVALID = "AUTH_INVALID"
    STALE_PREVIEW_URL = "STALE_PREVIEW_URL"
    ASLEEP = "ASLEEP"
    WAKING = "WAKING"
    SANDBOX_STOPPED = "SANDBOX_STOPPED"
    NOT_LISTENING = "NOT_LISTENING"
    UPSTREAM_CLOSED = "UPSTREAM_CLOSED"
    UPSTREAM_TIMEOUT = "UPSTREAM_TIMEOUT"
    BAD_RESPONSE = "BAD_RESPONSE"
    OVERLOADED = "OVERLOADED"
    TRY_AGAIN = "TRY_AGAIN"
    ACTOR_BROKEN = "ACTOR_BROKEN"
    QUARANTINED = "QUARANTINED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    CONTAINER_START = "CONTAINER_START"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    TOO_MANY_TRIES = "TOO_MANY_TRIES"
    SHARE_SPENT = "SHARE_SPENT"
    CROSS_ORIGIN = "CROSS_ORIGIN"
    BAD_REQUEST = "BAD_REQUEST"
    BAD_HOST = "BAD_HOST"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    REQUEST_TIMEOUT = "REQUEST_TIMEOUT"
    CONTENT_TOO_LARGE = "CONTENT_TOO_LARGE"
    URI_TOO_LONG = "URI_TOO_LONG"
    EXPECTATION_FAILED = "EXPECTATION_FAILED"
    MISDIRECTED_REQUEST = "MISDIRECTED_REQUEST"
    UPGRADE_REQUIRED = "UPGRADE_REQUIRED"
    HEAD_TOO_LARGE = "HEAD_TOO_LARGE"
    VERSION_NOT_SUPPORTED = "VERSION_NOT_SUPPORTED"
    INTERNAL = "INTERNAL"


class _Entry(NamedTuple):
    """One row of the table."""

    status: int
    error: str
    """For programs' logs. May hold ``{sandbox}`` and ``{port}``."""
    title: str
    """For the page's reader."""
    advice: str
    fields: tuple[tuple[str, str], ...] = ()
    takes_detail: bool = False
    """Whether `error` may be replaced by words from whoever knows more."""


def _retry(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(seconds)),)


_LINK_ADVICE: Final = (
    "Check the address for typing errors. If it is right, its owner may have taken it back: ask for a new link."
)
_SOON_ADVICE: Final = "This usually passes by itself. Try again in a moment."
_REQUEST_ADVICE: Final = "The request was refused before it reached the preview."

_TABLE: Final[Mapping[Code, _Entry]] = MappingProxyType(
    {
        Code.INVALID_TOKEN: _Entry(
            404, "Access denied: Invalid token or port not exposed", "There is no preview here", _LINK_ADVICE
        ),
        Code.SANDBOX_NOT_FOUND: _Entry(404, "sandbox {sandbox} not found", "There is no such sandbox", _LINK_ADVICE),
        Code.AUTH_REQUIRED: _Entry(
            401,
            "preview URL requires authentication",
            "This preview is private",
            "It opens only with the preview token that its owner has.",
            (("WWW-Authenticate", 'Bearer realm="preview"'),),
        ),
        Code.AUTH_INVALID: _Entry(
            401,
            "invalid preview token",
            "That preview token is not valid",
            "It may have been replaced by a newer one: ask the owner of the preview.",
            (("WWW-Authenticate", 'Bearer realm="preview", error="invalid_token"'),),
        ),
        Code.STALE_PREVIEW_URL: _Entry(
            410,
            "Preview URL is stale because the sandbox runtime is not active",
            "This preview is asleep",
            "Its owner has to start the sandbox again; then this address will work as before.",
        ),
        Code.ASLEEP: _Entry(
            503,
            "the sandbox is asleep, and a WebSocket does not wake it: load the page it belongs to",
            "This preview is asleep",
            "Load the page itself, and the sandbox wakes.",
            _retry(ASLEEP_RETRY_S),
        ),
        Code.WAKING: _Entry(
            503,
            "the sandbox is waking up",
            "Waking up",
            "The sandbox was asleep and is being started. This page refreshes by itself.",
            _retry(WAKING_REFRESH_S),
        ),
        Code.SANDBOX_STOPPED: _Entry(
            410,
            "sandbox {sandbox} has been stopped",
            "This sandbox has been stopped",
            "It will not come back at this address.",
        ),
        Code.NOT_LISTENING: _Entry(
            502,
            "nothing answers on port {port}",
            "Nothing answers on this port",
            "The sandbox is up, but no service accepts connections there. Is it started, and on the right port?",
            takes_detail=True,
        ),
        Code.UPSTREAM_CLOSED: _Entry(
            502,
            "the service closed the connection before it had answered",
            "The service hung up",
            "It closed the connection before it had answered. Its log may say why.",
        ),
        Code.UPSTREAM_TIMEOUT: _Entry(
            504,
            "the service took too long",
            "The service took too long",
            "It may be busy, or waiting for something. Its log may say more.",
            takes_detail=True,
        ),
        Code.BAD_RESPONSE: _Entry(
            502,
            "the service did not answer in valid HTTP/1.1",
            "The answer made no sense",
            "What came from this port is not valid HTTP. Is it another kind of service?",
        ),
        Code.OVERLOADED: _Entry(
            503, "too many requests for this sandbox at once", "Too busy right now", _SOON_ADVICE, _retry(1)
        ),
        Code.TRY_AGAIN: _Entry(503, "try again", "Not just now", _SOON_ADVICE, _retry(1)),
        Code.ACTOR_BROKEN: _Entry(503, "the sandbox is being recovered", "One moment, please", _SOON_ADVICE, _retry(1)),
        Code.QUARANTINED: _Entry(
            503,
            "the sandbox failed repeatedly and is left alone for a while",
            "This sandbox is taking a break",
            "It failed several times in a row. It will be tried again in a while.",
            _retry(30),
        ),
        Code.SHUTTING_DOWN: _Entry(503, "the server is shutting down", "Back in a moment", _SOON_ADVICE, _retry(5)),
        Code.CONTAINER_START: _Entry(
            503,
            "the sandbox could not be started",
            "The sandbox did not start",
            "Something went wrong while it was being started. Its owner can see what.",
            _retry(10),
        ),
        Code.TOO_MANY_REQUESTS: _Entry(
            429, "too many requests in flight on this tunnel", "Too busy right now", _SOON_ADVICE, _retry(1)
        ),
        Code.TOO_MANY_TRIES: _Entry(
            429,
            "too many wrong tokens from this address",
            "Too many tries",
            "Wait a minute, then try again.",
            _retry(60),
        ),
        Code.SHARE_SPENT: _Entry(
            410,
            "that link could be opened once, and has been",
            "This link has been used",
            "It could be opened once. Ask whoever sent it for a new one.",
        ),
        Code.CROSS_ORIGIN: _Entry(
            403, "refused: sent from a page of another site", "That came from another site", _REQUEST_ADVICE
        ),
        Code.BAD_REQUEST: _Entry(400, "bad request", "That request made no sense", _REQUEST_ADVICE, takes_detail=True),
        Code.BAD_HOST: _Entry(400, "invalid Host", "That is not a hostname", _REQUEST_ADVICE, takes_detail=True),
        Code.NOT_FOUND: _Entry(404, "not found", "There is nothing here", _LINK_ADVICE),
        Code.METHOD_NOT_ALLOWED: _Entry(
            405,
            "this method is not proxied",
            "That method is not allowed",
            _REQUEST_ADVICE,
            (("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),),
            takes_detail=True,
        ),
        Code.REQUEST_TIMEOUT: _Entry(
            408, "the request took too long to arrive", "The request took too long", _SOON_ADVICE
        ),
        Code.CONTENT_TOO_LARGE: _Entry(413, "content too large", "That is too large", _REQUEST_ADVICE),
        Code.URI_TOO_LONG: _Entry(
            414, "request target too long", "That address is too long", _REQUEST_ADVICE, takes_detail=True
        ),
        Code.EXPECTATION_FAILED: _Entry(
            417,
            "only 100-continue can be expected",
            "That cannot be expected",
            _REQUEST_ADVICE,
            takes_detail=True,
        ),
        Code.MISDIRECTED_REQUEST: _Entry(
            421, "no preview and no API at this host", "There is nothing at this address", _LINK_ADVICE
        ),
        Code.UPGRADE_REQUIRED: _Entry(
            426,
            "expected a WebSocket upgrade",
            "This address is for WebSockets",
            _REQUEST_ADVICE,
            (("Upgrade", "websocket"),),
        ),
        Code.HEAD_TOO_LARGE: _Entry(
            431,
            "request header fields too large",
            "The request's headers are too large",
            "Deleting the cookies of this site may help.",
            takes_detail=True,
        ),
        Code.VERSION_NOT_SUPPORTED: _Entry(
            505,
            "only HTTP/1.1 and HTTP/1.0 are spoken here",
            "That HTTP version is not spoken here",
            _REQUEST_ADVICE,
            takes_detail=True,
        ),
        Code.INTERNAL: _Entry(500, "internal error", "Something went wrong on our side", _SOON_ADVICE),
    }
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of our own, not yet in any format."""

    status: int
    code: Code
    error: str
    """For people; no secrets."""
    port: int | None = None
    fields: tuple[Field, ...] = ()
    """Those that belong to this answer whatever its format: WWW-Authenticate, Retry-After, Allow, Upgrade."""


def refusal(
    code: Code | str, *, port: int | None = None, sandbox: str | None = None, detail: str | None = None
) -> Answer:
    """Return the answer for `code`.

    Args:
        code: A `Code`, or the text of one, as errors carry it.
        port: Which port it is about: required by NOT_LISTENING, shown by those that are about a service.
        sandbox: Which sandbox; required by SANDBOX_NOT_FOUND and SANDBOX_STOPPED.
        detail: What to say instead of the usual words, for NOT_LISTENING (which addresses were tried),
            UPSTREAM_TIMEOUT (to connect, or to answer) and the refusals of malformed requests. It must be fit for
            strangers; it is cut to `DETAIL_LENGTH_MAX`, and whatever does not print becomes a space.

    Raises:
        ValueError: There is no such code, or something that it requires is missing or does not belong to it.
    """
    code = Code(code)
    entry = _TABLE[code]
    if detail is not None:
        if not entry.takes_detail:
            raise ValueError(f"{code} takes no detail")
        error = "".join(character if character.isprintable() else " " for character in detail[:DETAIL_LENGTH_MAX])
    else:
        if sandbox is None and "{sandbox}" in entry.error:
            raise ValueError(f"{code} wants the sandbox")
        error = entry.error.format(sandbox=sandbox, port=port)
    if port is None and code is Code.NOT_LISTENING:
        raise ValueError(f"{code} wants the port")
    fields = tuple(_field(name, value) for name, value in entry.fields)
    return Answer(entry.status, code, error, port, fields)


def _field(name: str, value: str) -> Field:
    received = name.encode("ascii")
    return received.lower(), received, value.encode("ascii")


# A quality (RFC 9110 section 12.4.2). Quoted parameters, which may hold commas, are not honoured: nobody sends them,
# all that hangs on it is the format of a refusal, and splitting at commas cannot be made slow.
_Q: Final = re.compile(r";\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*(?:;|\Z)", re.IGNORECASE)
_HAS_Q: Final = re.compile(r";\s*q\s*=", re.IGNORECASE)

_HTML_TYPES: Final = ("text/html", "application/xhtml+xml")
_JSON_TYPES: Final = ("application/json",)


def wants_html(fields: Sequence[Field]) -> bool:
    """Say whether a page serves the sender better than JSON.

    Yes for a navigation (Fetch Metadata, ``Sec-Fetch-Mode: navigate``). Else by ``Accept``: yes if HTML has the
    higher quality there, or the same by a more specific range. ``*/*`` and nothing at all mean JSON.
    """
    if any(mode.lower() == b"navigate" for mode in values(fields, b"sec-fetch-mode")):
        return True
    accept = b",".join(values(fields, b"accept")).decode("latin-1")
    ranges = [found for member in accept.split(",") if (found := _media_range(member)) is not None]
    return _preference(ranges, _HTML_TYPES) > _preference(ranges, _JSON_TYPES)


def _media_range(member: str) -> tuple[str, float] | None:
    """Give type and quality of one member; None if its quality cannot be read."""
    name, separator, parameters = member.partition(";")
    quality = _Q.search(separator + parameters)
    if quality is None and _HAS_Q.search(separator + parameters) is not None:
        return None
    return name.strip().lower(), float(quality[1]) if quality is not None else 1.0


def _preference(ranges: Iterable[tuple[str, float]], types: Sequence[str]) -> tuple[float, int]:
    """Give quality and specificity of the best of `types`; for each, the most specific range decides."""
    best = (0.0, 0)
    for name in types:
        specificity = {"*/*": 1, f"{name.partition('/')[0]}/*": 2, name: 3}
        fitting = [(specificity[found], quality) for found, quality in ranges if found in specificity]
        if fitting:
            rank, quality = max(fitting)
            # A quality of 0 means "not acceptable", however specifically it was said.
            best = max(best, (quality, rank if quality else 0))
    return best


_STYLE: Final = """
:root{color-scheme:light dark;--ground:#f6f7f9;--card:#fff;--line:#e3e6eb;--text:#1c2330;--soft:#596273;--mark:#3b6ea8}
@media(prefers-color-scheme:dark){
:root{--ground:#12151b;--card:#1a1f28;--line:#2b323e;--text:#e8ebf0;--soft:#a0a9b8;--mark:#8ab4e8}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;background:var(--ground);
color:var(--text);font:1rem/1.6 system-ui,-apple-system,"Segoe UI",sans-serif}
main{width:100%;max-width:33rem;padding:2.5rem 2.25rem 1.75rem;background:var(--card);border:1px solid var(--line);
border-radius:14px;box-shadow:0 1px 2px rgb(0 0 0/.04),0 12px 32px rgb(0 0 0/.06)}
svg{display:block;width:2.75rem;height:2.75rem;margin-bottom:1.25rem;color:var(--mark)}
h1{margin:0 0 .6rem;font-size:1.45rem;line-height:1.3;font-weight:620;letter-spacing:-.01em}
p{margin:0 0 1rem;color:var(--soft)}
p.said{padding:.7rem .9rem;border-left:3px solid var(--line);font-size:.92rem;overflow-wrap:anywhere}
footer{margin-top:1.75rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);font-size:.82rem}
code{font:.95em ui-monospace,SFMono-Regular,Menlo,monospace}
form{margin:1.25rem 0 0}
label{display:block;margin-bottom:.35rem;font-size:.92rem;color:var(--soft)}
input{width:100%;padding:.6rem .75rem;border:1px solid var(--line);border-radius:8px;background:var(--ground);
color:inherit;font:inherit}
button{margin-top:.9rem;padding:.6rem 1.2rem;border:0;border-radius:8px;background:var(--mark);color:var(--card);
font:inherit;font-weight:600;cursor:pointer}
.dot{animation:breathe 2.4s ease-in-out infinite}
@keyframes breathe{50%{opacity:.15}}
@media(prefers-reduced-motion:reduce){.dot{animation:none}}
"""

# A portico: roof, columns, step. The dot in the doorway breathes while a sandbox wakes.
_MARK: Final = (
    '<svg viewBox="0 0 44 44" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" '
    'stroke-linejoin="round" aria-hidden="true"><path d="M5 16 22 6l17 10zM9 20.5v13M17 20.5v13M27 20.5v13'
    'M35 20.5v13M5 38h34"/>{dot}</svg>'
)
_DOT: Final = '<circle class="dot" cx="22" cy="27" r="2.4" fill="currentColor" stroke="none"/>'

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex">
{refresh}<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{mark}
<h1>{title}</h1>
<p>{advice}</p>
{said}{form}<footer>{status} <code>{code}</code>{port}</footer>
</main>
</body>
</html>
"""

# No script, no image, no frame: only the one style sheet above, named by its hash (CSP level 3).
_ONLY_STYLE: Final = "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; ".format(
    base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")
)
# Nothing is said of framing, since editors show previews in frames, and this page has nothing to click on.
_POLICY: Final = _ONLY_STYLE + "form-action 'none'"
# Nor may anybody but the preview itself lay this one under a page of theirs.
_FORM_POLICY: Final = _ONLY_STYLE + "form-action 'self'; frame-ancestors 'self'"

_COMMON_FIELDS: Final = (
    # Also 404 and 410 may be kept by default (RFC 9111 section 4.2.2), and this one may be gone in a second.
    _field("Cache-Control", "no-store"),
    _field("X-Content-Type-Options", "nosniff"),
    # The URL holds the port token.
    _field("Referrer-Policy", "no-referrer"),
)
_JSON_FIELDS: Final = (*_COMMON_FIELDS, _field("Content-Type", "application/json"))
_HTML_FIELDS: Final = (
    *_COMMON_FIELDS,
    _field("Content-Type", "text/html; charset=utf-8"),
    _field("Content-Security-Policy", _POLICY),
)


_FORM_FIELDS: Final = (
    _field("Cache-Control", "no-store"),
    _field("X-Content-Type-Options", "nosniff"),
    # With none at all browsers send `Origin: null` with the form; the path, which may be a share's, stays out of it.
    _field("Referrer-Policy", "origin"),
    _field("Content-Type", "text/html; charset=utf-8"),
    _field("Content-Security-Policy", _FORM_POLICY),
)


def render_form(
    form: str, *, title: str, advice: str, said: str = "", status: int, code: str, fields: Sequence[Field] = ()
) -> tuple[list[Field], bytes]:
    """Return the fields and the body of a page with a form on it, which goes to the preview's own host.

    Args:
        form: The form in HTML, whatever it holds of others escaped.
        title: For the page's reader.
        advice: Under it.
        said: What went wrong, if something did.
        status: Shown at the foot.
        code: As well.
        fields: Further ones.
    """
    page = _PAGE.format(
        refresh="",
        title=html.escape(title),
        style=_STYLE,
        mark=_MARK.format(dot=""),
        advice=html.escape(advice),
        said=f'<p class="said">{html.escape(said)}</p>\n' if said else "",
        form=form,
        status=status,
        code=html.escape(code),
        port="",
    )
    return [*_FORM_FIELDS, *fields], page.encode("utf-8")


def render(answer: Answer, *, as_html: bool) -> tuple[list[Field], bytes]:
    """Return the fields and the body of `answer`. How the body is framed is for who writes the head."""
    if as_html:
        return [*_HTML_FIELDS, *answer.fields], _page(answer).encode("utf-8")
    body: dict[str, object] = {"error": answer.error, "code": answer.code.value}
    if answer.port is not None:
        body["port"] = int(answer.port)
    return [*_JSON_FIELDS, *answer.fields], json.dumps(body).encode("ascii")


def _page(answer: Answer) -> str:
    entry = _TABLE[answer.code]
    waking = answer.code is Code.WAKING
    # Title and advice say it already, unless whoever refused knew more.
    said = "" if answer.error == entry.error else f'<p class="said">{html.escape(answer.error)}</p>\n'
    return _PAGE.format(
        refresh=f'<meta http-equiv="refresh" content="{WAKING_REFRESH_S}">\n' if waking else "",
        title=html.escape(entry.title),
        style=_STYLE,
        mark=_MARK.format(dot=_DOT if waking else ""),
        advice=html.escape(entry.advice),
        said=said,
        form="",
        status=answer.status,
        code=answer.code.value,
        port="" if answer.port is None else f" &middot; port {answer.port:d}",
    )
