"""The sandbox and its service, by the answer to one plain request: token, run, port, Host check, redirects.

An answer of Portico's own names its cause by its code. Anything else is the service's, and then a visitor's trouble is
mostly one of two: a development server that refuses the Host it is asked by, or a redirect that leads nowhere.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from proxy.core.diagnosis import Finding, NoReply, Reply, Silence, Step, Target, failed, ok, skipped
from proxy.core.pages import Code

_REFUSED: Final = frozenset({400, 403, 421})
"""What Host checks answer with."""


class _Cause(NamedTuple):
    """What a code of ours means to whoever owns the preview."""

    step: Step
    text: str
    mend: Callable[[Target], str]


def _port(target: Target) -> int:
    return 0 if target.preview is None else int(target.preview.port)


def _sandbox(target: Target) -> str:
    return "" if target.preview is None else str(target.preview.sandbox)


def _new_link(target: Target, *, once: bool = False) -> str:
    more = ", once=True" if once else ""
    return f"(await sandbox.share({_port(target)}, expires_in=3600{more})).url"


_SOON: Final = "ask again in a moment: portico doctor URL"

# {code: what it means}; every other code is about the request itself.
_CAUSES: Final = {
    Code.INVALID_TOKEN: _Cause(
        Step.TOKEN,
        "the server knows no such preview: the token is wrong, or the port is not exposed (any more)",
        lambda target: f"take the URL as it is now: (await sandbox.expose_port({_port(target)})).url",
    ),
    Code.SANDBOX_NOT_FOUND: _Cause(
        Step.TOKEN,
        "the server knows no such sandbox, or its ports are not open",
        lambda target: (
            f"get_sandbox({_sandbox(target)!r}, open_ports=True) answers on this form of name, "
            f"or take a URL with a token: (await sandbox.expose_port({_port(target)})).url"
        ),
    ),
    Code.AUTH_REQUIRED: _Cause(
        Step.TOKEN,
        "the sandbox has preview auth, and no preview token was sent",
        lambda target: (
            "send it: PORTICO_PREVIEW_TOKEN=... portico doctor URL; a client sends Authorization: Bearer ..., "
            f"a browser is asked for it on a page; whoever is not to have it gets a link: {_new_link(target)}"
        ),
    ),
    Code.AUTH_INVALID: _Cause(
        Step.TOKEN,
        "the sandbox has preview auth, and the preview token that was sent is not, or no longer, the right one",
        lambda _: "take the present one; who has lost it draws another: await sandbox.rotate_preview_auth()",
    ),
    Code.NOT_FOUND: _Cause(
        Step.TOKEN,
        "below /.portico/ the preview's host answers itself, and there is no such page",
        lambda target: f"ask for a page of the service's own: portico doctor {target.shown_origin}/",
    ),
    Code.STALE_PREVIEW_URL: _Cause(
        Step.RUN,
        "the sandbox is asleep, and visits are not to wake it",
        lambda target: (
            f"wake it as its owner (start_process(...), or async with sandbox.running()), or make it one that "
            f"visits wake: get_sandbox({_sandbox(target)!r}, when_asleep='wake')"
        ),
    ),
    Code.ASLEEP: _Cause(
        Step.RUN,
        "the sandbox is asleep, and a WebSocket handshake does not wake it",
        lambda target: (
            f"load the page first, or let it: await sandbox.expose_port({_port(target)}, wake_on_websocket=True)"
        ),
    ),
    Code.WAKING: _Cause(
        Step.RUN,
        "the sandbox did not wake within the time that a request is held for",
        lambda _: "look at what its start takes so long for, or raise --wake-timeout-s",
    ),
    Code.SANDBOX_STOPPED: _Cause(
        Step.RUN,
        "the sandbox has been stopped for good",
        lambda target: f"destroy it, and make it anew: get_sandbox({_sandbox(target)!r})",
    ),
    Code.CONTAINER_START: _Cause(
        Step.RUN,
        "the sandbox's container does not start",
        lambda _: "look at the server's log: `container did not start` says why",
    ),
    Code.QUARANTINED: _Cause(
        Step.RUN,
        "the sandbox failed several times in a row, or its log cannot be read",
        lambda target: f"portico log {_sandbox(target)} --verify --data FOLDER, and the server's log, say why",
    ),
    Code.ACTOR_BROKEN: _Cause(Step.RUN, "the sandbox is being recovered", lambda _: _SOON),
    Code.TRY_AGAIN: _Cause(Step.RUN, "the sandbox could not be asked just now", lambda _: _SOON),
    Code.SHUTTING_DOWN: _Cause(Step.RUN, "the server is shutting down", lambda _: "start it again: portico serve"),
    Code.OVERLOADED: _Cause(
        Step.RUN,
        "the sandbox has as many visits as it may have",
        lambda _: "end some (open WebSockets and event streams count), or raise --visits-per-sandbox-max",
    ),
    Code.NOT_LISTENING: _Cause(
        Step.PORT,
        "nothing listens",
        lambda target: (
            f"start the service on port {_port(target)}, listening on 127.0.0.1 or on every address, "
            "0.0.0.0 (development servers: --host)"
        ),
    ),
    Code.UPSTREAM_CLOSED: _Cause(
        Step.PORT,
        "the service hangs up before it has answered",
        lambda _: (
            "look at the service's output: (await sandbox.get_process(ID)).logs(); does it speak TLS there? "
            "Portico speaks plain HTTP to it"
        ),
    ),
    Code.UPSTREAM_TIMEOUT: _Cause(
        Step.PORT,
        "the service takes too long",
        lambda _: "look at what the service waits for, or raise --response-timeout-s",
    ),
    Code.BAD_RESPONSE: _Cause(
        Step.PORT,
        "what the service answers is not valid HTTP/1.1",
        lambda target: f"expose the port that speaks plain HTTP; port {_port(target)} speaks something else",
    ),
}

_BEFORE_SERVICE: Final = (Step.TOKEN, Step.RUN, Step.PORT)


def judge_reply(target: Target, said: Reply | NoReply) -> list[Finding]:
    """Say what the answer to a GET of the preview means, for every step up to the service."""
    if isinstance(said, NoReply):
        return [_judge_silence(said)]
    cause = _CAUSES.get(said.code) if said.code is not None else None
    if cause is None:
        if said.code is not None:
            return [failed(Step.TOKEN, f"the server answers {said.status} {said.code}", "look at the server's log")]
        findings = [ok(step, text) for step, text in _sound(target, said)]
        return [*findings, judge_service(target, said)]
    before = _BEFORE_SERVICE[: _BEFORE_SERVICE.index(cause.step)]
    text = cause.text
    if cause.step is Step.PORT:
        # Only there do the words know more than the code: which addresses were tried, what took too long.
        text = f"{text} (the server says: {said.error})"
    return [*(ok(step, _SOUND[step]) for step in before), failed(cause.step, text, cause.mend(target))]


def judge_link(target: Target, said: Reply | NoReply) -> list[Finding]:
    """Say what the answer to a GET of a share's link means for the link.

    A sound one gives a session and sends its visitor on; then the preview itself is to be asked. One that opens once is
    not opened by being looked at, so what lies behind it is not looked at either.
    """
    if isinstance(said, NoReply):
        return [_judge_silence(said)]
    step = Step.TOKEN
    if said.status == 303 and said.code is None:
        return [ok(step, "the link opens")]
    match said.code:
        case Code.METHOD_NOT_ALLOWED:
            behind = (Step.RUN, Step.PORT, Step.SERVICE, Step.WEBSOCKET, Step.EVENTS)
            why = "looking would open the link, which opens once"
            return [ok(step, "the link opens one session, and has not yet"), *(skipped(one, why) for one in behind)]
        case Code.SHARE_SPENT:
            text = "the link has opened the one session that it opens"
            return [failed(step, text, f"make another: {_new_link(target, once=True)}")]
        case Code.INVALID_TOKEN:
            text = "the server knows no such link: it has ended, by time or by its owner, or its port is not exposed"
            return [failed(step, text, f"make another: {_new_link(target)}")]
        case Code.TOO_MANY_TRIES:
            text = "too many wrong links or tokens came from this address of late"
            return [failed(step, text, "ask again in a minute: portico doctor URL")]
    return judge_reply(target, said)


_SOUND: Final = {Step.TOKEN: "opens", Step.RUN: "the sandbox is up"}


def _sound(target: Target, said: Reply) -> list[tuple[Step, str]]:
    answered = f"the service on port {_port(target)} answers {said.status}, in {said.elapsed_s * 1000:.0f} ms"
    return [*_SOUND.items(), (Step.PORT, answered)]


def _judge_silence(said: NoReply) -> Finding:
    if said.why is Silence.TIMEOUT:
        return failed(
            Step.RUN,
            f"no answer within {said.waited_s:.0f} s",
            "wait longer, as a sandbox may take time to wake: portico doctor --timeout-s 200 URL",
        )
    return failed(
        Step.PORT,
        "the connection ended without an answer",
        "look at what stands between here and the server: Portico answers, even when a service does not",
    )


# The service itself.


class HostCheck(NamedTuple):
    """A framework's guard against requests for other hosts than its own."""

    framework: str
    pattern: re.Pattern[str]
    """Finds its refusal in a body."""
    setting: str
    """Which lets previews in; ``{domain}`` is the base domain."""


# As these servers write it; {project: where}. Case is ignored.
#   vite: packages/vite/src/node/server/middlewares/hostCheck.ts      webpack-dev-server: lib/Server.js
#   django: django/http/request.py (DisallowedHost), django/views/defaults.py (bad_request, without DEBUG)
#   rails: actionpack, action_dispatch/middleware/host_authorization.rb
#   starlette: starlette/middleware/trustedhost.py                    werkzeug: src/werkzeug/sansio/utils.py
# Next.js says this in its own output; its answer is often a bare 403, to its WebSocket and scripts (see `flow`).
HOST_CHECKS: Final = (
    HostCheck(
        "Vite",
        re.compile(r"blocked request\. this host|(?:server|preview)\.allowedHosts", re.IGNORECASE),
        'server.allowedHosts in vite.config: server: {{ allowedHosts: [".{domain}"] }}',
    ),
    HostCheck(
        "webpack-dev-server",
        re.compile(r"\s*invalid (?:host(?:/origin)?|origin) header\s*", re.IGNORECASE),
        'devServer.allowedHosts in webpack.config: devServer: {{ allowedHosts: [".{domain}"] }}; '
        'of Starlette, TrustedHostMiddleware(allowed_hosts=["*.{domain}"])',
    ),
    HostCheck(
        "Django",
        re.compile(r"DisallowedHost|invalid http_host header|<h1>bad request \(400\)</h1>", re.IGNORECASE),
        'ALLOWED_HOSTS in settings.py: ALLOWED_HOSTS = [".{domain}"]',
    ),
    HostCheck(
        "Rails",
        re.compile(r"blocked hosts?:|config\.hosts", re.IGNORECASE),
        'config.hosts in config/environments/development.rb: config.hosts << ".{domain}"',
    ),
    HostCheck(
        "Flask",
        re.compile(r"host '?[^']{0,253}'? is not trusted", re.IGNORECASE),
        'TRUSTED_HOSTS in its config: TRUSTED_HOSTS = [".{domain}"]',
    ),
    HostCheck(
        "Next.js",
        re.compile(r"allowedDevOrigins|blocked cross-origin request", re.IGNORECASE),
        'allowedDevOrigins in next.config: allowedDevOrigins: ["*.{domain}"]',
    ),
    HostCheck(
        "the service",
        re.compile(
            r"(?:invalid|blocked|disallowed|untrusted|unknown|bad|forbidden)[ :]{1,3}host\b"
            r"|\bhost(?:name)?\b.{0,60}\bnot (?:allowed|trusted|permitted)",
            re.IGNORECASE,
        ),
        "its list of allowed hosts: .{domain}",
    ),
)

BODY_LOOKED_AT: Final = 16 * 1024
"""Bytes; a framework's refusal says what it is in the first of them."""


def host_check(said: Reply) -> HostCheck | None:
    """Return whose Host check refused the request; None if none did."""
    if said.status not in _REFUSED:
        return None
    text = said.body[:BODY_LOOKED_AT].decode("utf-8", "replace")
    for check in HOST_CHECKS:
        # webpack's two or three words may stand in any page: there they must be all there is.
        whole = check.framework == "webpack-dev-server"
        if (check.pattern.fullmatch(text) if whole else check.pattern.search(text)) is not None:
            return check
    return None


def judge_service(target: Target, said: Reply) -> Finding:
    """Say whether the service's own answer is one that a visitor can use."""
    check = host_check(said)
    if check is not None:
        return judge_host_check(target, said, check)
    if 300 <= said.status < 400 and said.header("location"):
        return _judge_redirect(target, said)
    if said.status >= 500:
        return failed(
            Step.SERVICE,
            f"the service itself answers {said.status}",
            "look at the service's output: (await sandbox.get_process(ID)).logs(); if it is sound, at the time "
            "limits of what stands in front of Portico",
        )
    return ok(Step.SERVICE, f"no Host check refuses the name ({said.status})")


def judge_host_check(target: Target, said: Reply, check: HostCheck, *, preserved: bool | None = None) -> Finding:
    """Say how to get past a Host check.

    Args:
        target: The preview.
        said: The refusal.
        check: Whose.
        preserved: Whether the port is exposed with ``host_header="preserve"``; None: not known, so guessed from
            whether the refusal names the public host.
    """
    if preserved is None:
        preserved = target.domain.encode("ascii") in said.body
    setting = check.setting.format(domain=target.domain)
    text = f"{check.framework} refuses the Host it is asked by ({said.status})"
    localhost = f'await sandbox.expose_port({_port(target)}, host_header="localhost")'
    if preserved:
        return failed(
            Step.SERVICE, text, f"let the service see localhost, which it takes: {localhost}; or allow it: {setting}"
        )
    return failed(
        Step.SERVICE,
        text,
        f"set host_header=localhost if the port is exposed with another ({localhost}); if the service refuses even "
        f"localhost, allow that, or the public name: {setting}",
    )


def _judge_redirect(target: Target, said: Reply) -> Finding:
    here = f"{target.scheme}://{target.host.authority}{target.path}"
    try:
        leads = urlsplit(urljoin(here, said.header("location")))
        name, port = leads.hostname or "", leads.port
    except ValueError:
        return failed(
            Step.SERVICE, f"the service redirects ({said.status}) to what is no URL", "let it redirect to a path"
        )
    there = f"{leads.scheme}://{leads.netloc.lower()}{leads.path or '/'}{f'?{leads.query}' if leads.query else ''}"
    if there == here:
        return failed(
            Step.SERVICE,
            f"the service redirects ({said.status}) to the very URL that was asked for, without end",
            "tell Portico who ends TLS in front of it, so that the service hears of https: "
            "portico serve --trusted-proxies NETWORK, with X-Forwarded-Proto set there; "
            "or switch off the service's own redirect to https",
        )
    if name in ("localhost", "127.0.0.1", "::1") and name != target.host.name:
        return failed(
            Step.SERVICE,
            f"the service redirects ({said.status}) visitors to their own machine, {name}"
            + (f":{port}" if port else ""),
            "let it redirect to a path, or see its public name: "
            f'await sandbox.expose_port({_port(target)}, host_header="preserve")',
        )
    if name == target.host.name:
        if target.scheme == "http" and leads.scheme == "https":
            return failed(
                Step.SERVICE,
                f"the service sends visitors to https ({said.status})",
                f"use the URL with https: portico doctor https://{target.shown}/",
            )
        return ok(Step.SERVICE, f"redirects ({said.status}) to another page of its own")
    return ok(Step.SERVICE, f"redirects ({said.status}) to {name}")
