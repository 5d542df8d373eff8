"""The walk along the chain: what is asked, in which order, and where it ends.

It asks as a visitor would, so a sandbox that is asleep wakes, and each question is a visit. Beyond GET, a WebSocket
handshake and a ping it does nothing to a service.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from proxy.config import HostPort
from proxy.core.diagnosis import (
    Diagnosis,
    Finding,
    NoReply,
    Outcome,
    Reply,
    Step,
    Target,
    diagnose,
    failed,
    ok,
    skipped,
)
from proxy.core.facts import Facts, judge_record, sharpen
from proxy.core.flow import judge_events, judge_websocket
from proxy.core.pages import Code
from proxy.core.reaching import (
    PROBE_LABEL,
    judge_dialling,
    judge_lookup,
    judge_name,
    judge_server,
    judge_tls,
)
from proxy.core.symptoms import judge_link, judge_reply
from proxy.doctor.asking import Question, ask, open_websocket, watch_events
from proxy.doctor.reach import Route, TLSError, check_tls, find_route, look_up

ANSWER_TIMEOUT_S: Final = 100.0
"""For the preview's own answer: a little more than the 90 s for which a request is held while a sandbox wakes."""
QUICK_TIMEOUT_S: Final = 10.0
"""For what nobody has to wake up for."""
WATCH_S: Final = 5.0
"""For an event stream to show that it flows."""

_COMMON_FIELDS: Final = (("User-Agent", "portico-doctor"),)


@dataclass(frozen=True, slots=True)
class Record:
    """What could be read beside the server."""

    folder: str
    facts: Facts | None
    listening: Sequence[str] = ()
    """Addresses of this machine where something listens on the preview's port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What to look at."""

    target: Target
    via: HostPort | None = None
    """Where to connect instead of what the DNS says."""
    preview_token: str | None = field(default=None, repr=False)
    """Shown only when the gate asks for one: a service without a gate has no business knowing it."""
    websocket_path: str | None = None
    """None: try the URL's own, where no WebSocket is no failure."""
    events_path: str | None = None
    """The same of an event stream."""
    record: Record | None = None
    timeout_s: float = ANSWER_TIMEOUT_S
    watch_s: float = WATCH_S


async def examine(errand: Errand, say: Callable[[Finding], None] = lambda _: None) -> Diagnosis:
    """Walk until something fails or everything has been looked at.

    Args:
        errand: What to look at.
        say: Hears of each finding as it is made, in order; not of steps that nobody gets to.
    """
    walk = _Walk(errand, say)
    try:
        await walk.run()
    except TLSError as error:
        # It went well a moment ago; what stands there has several faces.
        walk.add(judge_tls(errand.target, error.failure))
    return diagnose(walk.findings)


class _Walk:
    """One examination under way."""

    def __init__(self, errand: Errand, say: Callable[[Finding], None]) -> None:
        self._errand = errand
        self._target = errand.target
        self._say = say
        self._fields: tuple[tuple[str, str], ...] = _COMMON_FIELDS
        self.findings: list[Finding] = []

    def add(self, found: Finding) -> bool:
        """Take a finding down; False if the walk ends with it."""
        self.findings.append(found)
        self._say(found)
        return found.outcome is not Outcome.FAILED

    async def run(self) -> None:
        """Walk."""
        if not self.add(judge_name(self._target)):
            return
        route = await self._reach()
        if route is None:
            return
        if not await self._check_tls(route):
            return
        probe = Question(self._target.probe_host(PROBE_LABEL), "/", (*_COMMON_FIELDS, ("Accept", "application/json")))
        if not self.add(judge_server(self._target, await ask(route, probe, QUICK_TIMEOUT_S))):
            return
        record = self._errand.record
        if record is None:
            self.add(skipped(Step.RECORD, "say which data folder, to read the sandbox's log: --data FOLDER"))
        else:
            self.add(judge_record(record.facts, self._target, record.folder))
        if await self._look_in(route):
            await self._check_websocket(route)
            await self._check_events(route)

    async def _reach(self) -> Route | None:
        """Find where to connect."""
        target, via = self._target, self._errand.via
        if via is None:
            port = target.port
            addresses = await look_up(target.host.name)
            resolves = bool(addresses) or bool(await look_up(target.domain))
            if not self.add(judge_lookup(target, addresses, domain_resolves=resolves)):
                return None
        else:
            port = via.port
            addresses = await look_up(via.host)
            if not addresses:
                self.add(
                    failed(Step.DNS, f"{via.host}, of --via, does not resolve", "name an address: --via HOST:PORT")
                )
                return None
            self.add(skipped(Step.DNS, f"--via says where: {via}"))
        found = await find_route(addresses, port, ssl.create_default_context() if target.scheme == "https" else None)
        if not isinstance(found, Route):
            self.add(judge_dialling(target, port, found))
            return None
        in_vain = "".join(f"; not {address}: {why}" for address, why in found.attempts)
        self.add(ok(Step.CONNECT, f"{found.address} takes connections at port {port}{in_vain}"))
        return found

    async def _check_tls(self, route: Route) -> bool:
        if route.tls is None:
            return self.add(skipped(Step.TLS, "plain http"))
        failure = await check_tls(route, self._target.host.name, QUICK_TIMEOUT_S)
        if failure is not None:
            return self.add(judge_tls(self._target, failure))
        return self.add(ok(Step.TLS, "the certificate covers the name, and is trusted here"))

    async def _look_in(self, route: Route) -> bool:
        """Ask the preview itself; by its link first, if that is what was given."""
        errand, secret = self._errand, self._target.share_secret
        facts, listening = (None, ()) if errand.record is None else (errand.record.facts, errand.record.listening)
        if secret is not None:
            said = await ask(route, self._question(self._target.path, ("Accept", "*/*")), QUICK_TIMEOUT_S)
            judged = judge_link(self._target, said)
            reply = None if isinstance(said, NoReply) else said
            sound = [self.add(sharpen(one, facts, self._target, reply, listening)) for one in judged]
            if not all(sound) or len(judged) > 1:
                return False
            # From here on as a program that has the link.
            self._fields = (*self._fields, ("Portico-Share", secret))
            self._target = replace(self._target, path="/")
        said = await ask(route, self._question(self._target.path, ("Accept", "*/*")), errand.timeout_s)
        if isinstance(said, Reply) and said.code is Code.AUTH_REQUIRED and errand.preview_token is not None:
            self._fields = (*self._fields, ("X-OC-Preview-Token", errand.preview_token))
            said = await ask(route, self._question(self._target.path, ("Accept", "*/*")), errand.timeout_s)
        reply = None if isinstance(said, NoReply) else said
        going_on = True
        for found in judge_reply(self._target, said):
            if secret is not None and found.step is Step.TOKEN and found.outcome is Outcome.OK:
                # Said of the link already.
                continue
            going_on = self.add(sharpen(found, facts, self._target, reply, listening)) and going_on
        return going_on

    async def _check_websocket(self, route: Route) -> bool:
        named = self._errand.websocket_path
        path = named or self._target.path
        question = self._question(path, ("Origin", f"{self._target.scheme}://{self._target.host.authority}"))
        said = await open_websocket(route, question, QUICK_TIMEOUT_S)
        return self.add(judge_websocket(self._target, said, path=path, named=named is not None))

    async def _check_events(self, route: Route) -> bool:
        named = self._errand.events_path
        path = named or self._target.path
        # As browsers ask: a stream that is compressed on the way is held back by that.
        question = self._question(path, ("Accept", "text/event-stream"), ("Accept-Encoding", "gzip"))
        said = await watch_events(route, question, QUICK_TIMEOUT_S, self._errand.watch_s)
        return self.add(judge_events(self._target, said, path=path, named=named is not None))

    def _question(self, path: str, *fields: tuple[str, str]) -> Question:
        return Question(self._target.host.authority, path, (*self._fields, *fields))
