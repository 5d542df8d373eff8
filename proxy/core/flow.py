"""What has to flow: a WebSocket both ways, and an event stream piece by piece."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from proxy.core.diagnosis import Finding, NoReply, Reply, Silence, Step, Target, failed, ok, skipped
from proxy.core.served import shown_path
from proxy.core.symptoms import host_check, judge_host_check

APART_S: Final = 0.05
"""Pieces that come with so much between them were not held back to come together."""

HELD_S: Final = 1.0
"""A stream that takes so long and then comes whole was held somewhere, or sent only when it was complete."""

_NGINX_UPGRADE: Final = (
    "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
)

WEBPACK_PATH: Final = "/ws"
"""Where webpack-dev-server has its WebSocket unless told otherwise (its ``lib/Server.js``)."""
_WEBPACK_CLIENT: Final = (
    "if pages ask for it elsewhere all the same, at a port of its own, it is webpack-dev-server: "
    'devServer.client.webSocketURL = "auto://0.0.0.0:0/ws" lets them ask where they came from'
)


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A WebSocket handshake that was accepted."""

    pong: bool
    """Whether a ping was answered in time, so that bytes flow both ways."""
    closed: bool = False
    """Whether it was closed before that."""


@dataclass(frozen=True, slots=True)
class BadAccept:
    """A 101 that does not fit its request (RFC 6455 section 4.1)."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An event stream, as it came."""

    head: Reply
    pieces: tuple[tuple[float, int], ...]
    """When each came, in seconds from the request, and how many events were complete with it."""
    ended: bool
    watched_s: float


def judge_websocket(target: Target, said: Upgraded | BadAccept | Reply | NoReply, *, path: str, named: bool) -> Finding:
    """Say whether a WebSocket goes through.

    Args:
        target: The preview.
        said: What came of the handshake.
        path: Where it was tried.
        named: Whether somebody said that there is one; if not, an ordinary answer means nothing.
    """
    where = shown_path(path.encode())
    step = Step.WEBSOCKET
    match said:
        case Upgraded(pong=True):
            text = f"opens at {where}, and a ping comes back"
            return ok(step, f"{text}; {_WEBPACK_CLIENT}" if where == WEBPACK_PATH else text)
        case Upgraded(closed=True):
            # It passed through us in both directions; what a service does with strangers is its own affair.
            return ok(
                step,
                f"opens at {where}; the service closes it by itself (webpack-dev-server: when Host or Origin is wrong)",
            )
        case Upgraded():
            return failed(
                step,
                f"opens at {where}, but no ping comes back",
                "look at what stands between here and Portico: it passes the handshake and holds back what follows; "
                "asked past it, does it work? portico doctor --via HOST:PORT URL",
            )
        case BadAccept():
            return failed(
                step,
                f"the 101 at {where} answers another handshake",
                "look at what stands between here and Portico: it answers from a cache, or for itself",
            )
        case NoReply(why=Silence.TIMEOUT) if not named:
            return skipped(step, f"no answer to a handshake at {where}; name the path of one: --websocket PATH")
        case NoReply():
            return failed(
                step,
                f"the handshake at {where} gets no answer",
                f"let what stands in front pass Upgrade and Connection ({_NGINX_UPGRADE})",
            )
        case Reply():
            return _judge_refusal(target, said, where, named=named)


def _judge_refusal(target: Target, said: Reply, where: str, *, named: bool) -> Finding:
    step = Step.WEBSOCKET
    check = host_check(said)
    if check is not None:
        found = judge_host_check(target, said, check)
        return failed(step, found.text, found.mend)
    if not named:
        return skipped(step, f"none at {where} ({said.status}); name the path of one: --websocket PATH")
    if said.code is not None:
        return failed(step, f"refused at {where}: {said.status} {said.code}", "look at the server's log")
    if said.status in (401, 403):
        return failed(
            step,
            f"the service refuses the handshake at {where} ({said.status}): most likely its check of Origin",
            f"allow https://*.{target.domain} there: Next.js allowedDevOrigins, Vite server.allowedHosts, webpack "
            "allowedHosts, Django CSRF_TRUSTED_ORIGINS or AllowedHostsOriginValidator, "
            "Rails config.action_cable.allowed_request_origins",
        )
    return failed(
        step,
        f"the handshake at {where} is answered as a plain request: {said.status}",
        f"if a proxy stands in front of Portico, let it pass Upgrade ({_NGINX_UPGRADE}); "
        "if none does, the service has no WebSocket at that path",
    )


def judge_events(target: Target, said: Stream | Reply | NoReply, *, path: str, named: bool) -> Finding:
    """Say whether an event stream arrives piece by piece; `path` and `named` as of `judge_websocket`."""
    where = shown_path(path.encode())
    step = Step.EVENTS
    match said:
        case Stream():
            return _judge_stream(said, where)
        case _ if not named:
            seen = f"{said.status} {said.header('content-type')[:40]}".rstrip() if isinstance(said, Reply) else said.why
            return skipped(step, f"no event stream at {where} ({seen}); name the path of one: --events PATH")
        case NoReply(why=Silence.TIMEOUT):
            return failed(
                step,
                f"not even a response head from {where} within {said.waited_s:.0f} s",
                "let the service send the head at once, and a comment line with it (`: hello`); if it does, "
                + _unbuffer(None),
            )
        case NoReply():
            return failed(step, f"{where} breaks off", "look at the service's output: it ends the stream")
        case Reply():
            kind = said.header("content-type")[:40] or "no type"
            return failed(
                step,
                f"{target.at(where)} is no event stream: {said.status} {kind}",
                "name the path that answers with Content-Type: text/event-stream, as --events PATH",
            )


def _judge_stream(stream: Stream, where: str) -> Finding:
    step = Step.EVENTS
    times = [time for time, _ in stream.pieces]
    events = sum(count for _, count in stream.pieces)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    coding = stream.head.header("content-encoding")
    if any(gap >= APART_S for gap in gaps):
        return ok(step, f"flows at {where}: {len(times)} pieces, the first after {times[0] * 1000:.0f} ms")
    if not times:
        if stream.ended:
            return skipped(step, f"the stream at {where} ended without an event")
        return skipped(step, f"the stream at {where} is open, but no event came within {stream.watched_s:.0f} s")
    # A service may well send two events in one go, and pause before them; but hardly a whole stream, or its head too.
    whole = stream.ended and (events > 1 or coding)
    if times[0] >= HELD_S and (whole or (stream.head.elapsed_s >= HELD_S and events > 2)):
        return failed(
            step,
            f"all came at once, after {times[0]:.1f} s: something holds events back",
            _unbuffer(coding or None),
        )
    return ok(step, f"open at {where}, {events} events so far; one piece is too little to tell whether they flow")


def _unbuffer(coding: str | None) -> str:
    if coding is not None:
        return f"switch off compression ({coding[:20]}) for text/event-stream: it waits for more to compress"
    return (
        "switch off buffering in what stands between (nginx: proxy_buffering off; or let the service send "
        "X-Accel-Buffering: no), and let the service flush after every event"
    )
