"""From a request head to an admitted visit, or to the answer that it gets instead.

This is where the router meets the runtime. Order of judgement: host, sandbox, credential, run state, wake; the
dialling comes after. Stateless: what it knows comes from the head and from some actor.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

import structlog
import trio
from msgspec.structs import replace

from actors import (
    ContainerError,
    CutBecause,
    Domain,
    PorticoError,
    RefusedBecause,
    RetryableError,
    Runtime,
    SandboxId,
    StoreError,
    Visit,
    VisitRequest,
)
from proxy.core.gate import is_own, shown_by
from proxy.core.headers import Credential, bearer_credential, is_preflight
from proxy.core.hostname import (
    DEFAULT_PORTS,
    BaseHost,
    BuiltInHost,
    CustomHost,
    Host,
    Matcher,
    NotOurs,
    PreviewHost,
    TokenHost,
    match_label,
    parse_host,
)
from proxy.core.http1 import RequestHead, values
from proxy.core.pages import Answer, Code, refusal
from proxy.core.websocket import is_websocket_upgrade
from proxy.errors import AmbiguousCredentialError, BadHostError

log = structlog.get_logger("portico.door")

LABEL_FIELD: Final = b"portico-preview"
"""Names a preview to programs that cannot resolve its hostname; honoured on the base domain only."""


READ_AHEAD_BYTES_MAX: Final = 64 * 1024
"""What is read from a client while its request waits, to notice its end; then its own sending is held up."""


@dataclass(slots=True, eq=False)
class Habit:
    """How the visitors of one preview have come of late. A matter of speed, and of nothing else."""

    by_session: bool = False
    """The last visit came by a session, so the next one may: whether to look for one before it is asked for."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The request is for a preview."""

    host: PreviewHost
    public: Host
    """As the client sent it."""
    scheme: str = "https"
    """By which the client reached the outermost proxy."""
    origin: bytes = field(init=False, repr=False, compare=False)
    """``https://host[:port]``, as browsers write it."""
    knock: VisitRequest = field(init=False, repr=False, compare=False)
    """How a visitor without a preview token asks to be let in: the same each time."""
    habit: Habit = field(default_factory=Habit, init=False, repr=False, compare=False)
    """The one thing about it that changes: what was learnt from its last visitor."""

    def __post_init__(self) -> None:
        host = self.host
        token = host.token if isinstance(host, TokenHost) else None
        binding = host.binding if isinstance(host, CustomHost) else None
        object.__setattr__(self, "knock", VisitRequest(host.port, token, binding=binding))
        port = None if self.public.port == DEFAULT_PORTS[self.scheme] else self.public.port
        authority = self.public._replace(port=port).authority
        object.__setattr__(self, "origin", f"{self.scheme}://{authority}".encode("ascii"))


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The request is for a sound host that is no preview's: the base domain, or not ours at all."""

    host: Host
    domain: Domain | None
    """The base domain, if it is one."""


class Admitted(NamedTuple):
    """The visit, which whoever receives this must `end`."""

    visit: Visit
    opened_by: Credential | None
    """The field whose credential opened the gate; the service must not see it."""


@dataclass(frozen=True, slots=True)
class MustWait:
    """Nobody can say at once: the sandbox has to be loaded, or to wake. Hand it to `Door.admit`."""

    sandbox: SandboxId
    request: VisitRequest = field(repr=False)
    credential: Credential | None
    size: int
    """Bytes that are kept for the request while it waits: its head, and what may be read behind it."""
    client: str | None = None
    """Who asks, as far as that is counted."""


class OwnPage(Enum):
    """The request is for what a preview's host answers itself; see `proxy.gatehouse`."""

    OWN_PAGE = auto()


OWN_PAGE: Final = OwnPage.OWN_PAGE

_ASK_FOR_MORE: Final = frozenset(
    {RefusedBecause.AUTH_REQUIRED, RefusedBecause.AUTH_INVALID, RefusedBecause.INVALID_TOKEN}
)
"""What a session, or a share's secret, may make good. Most visitors have neither, so nobody looks before that."""


class Door:
    """Judges request heads against the sandboxes of one runtime."""

    __slots__ = ("_matcher", "_runtime", "_wake_timeout_s")

    def __init__(self, runtime: Runtime, domains: Sequence[Domain], wake_timeout_s: float) -> None:
        self._runtime = runtime
        self._matcher = Matcher(domains)
        self._wake_timeout_s = wake_timeout_s

    def locate(self, head: RequestHead, scheme: str) -> Preview | Elsewhere | Answer:
        """Say what a request is for. An `Answer` means that its host makes no sense: answer it and close."""
        hosts = values(head.fields, b"host")
        if len(hosts) != 1:
            return refusal(Code.BAD_HOST, detail="a request names exactly one host")
        try:
            public = parse_host(hosts[0])
            if head.authority is not None and not parse_host(head.authority).agrees_with(public, scheme):
                return refusal(Code.BAD_HOST, detail="the request target and the Host field name different hosts")
        except BadHostError as error:
            return refusal(Code.BAD_HOST, detail=str(error))
        match self._matcher.match_host(public):
            case TokenHost() | BuiltInHost() as preview:
                return Preview(preview, public, scheme)
            case BaseHost(domain):
                labels = values(head.fields, LABEL_FIELD)
                if not labels:
                    return Elsewhere(public, domain)
                named = match_label(labels[0], domain) if len(labels) == 1 else None
                return Preview(named, public, scheme) if named is not None else refusal(Code.INVALID_TOKEN)
            case NotOurs():
                bound = self._runtime.domains.find(public.name)
                if bound is not None:
                    return Preview(CustomHost(bound.sandbox, bound.port, bound.hostname, bound.number), public, scheme)
                return Elsewhere(public, None)

    def admit_nowait(self, preview: Preview, head: RequestHead) -> Admitted | Answer | MustWait | OwnPage:
        """Ask the sandbox to let the request in, if it can say so at once."""
        if is_own(head.target):
            return OWN_PAGE
        host = preview.host
        try:
            bearer = bearer_credential(head.fields if head.judged is None else head.judged)
        except AmbiguousCredentialError as error:
            return refusal(Code.BAD_REQUEST, detail=str(error))
        request, credential = preview.knock, None
        preflight = is_preflight(head)
        if bearer is not None or preflight:
            token = bearer.token if bearer is not None else None
            request = VisitRequest(request.port, request.token, token, preflight, binding=request.binding)
            credential = bearer.credential if bearer is not None else None
        if preview.habit.by_session:
            request = _with_sessions(request, preview, head, credential)
        try:
            judged = self._runtime.admit_nowait(host.sandbox, request)
            if isinstance(judged, Visit):
                pass
            elif preview.habit.by_session:
                # Looked for already. Whoever has lost it may have another kind of credential next time.
                preview.habit.by_session = False
            elif judged is None or judged in _ASK_FOR_MORE:
                more = _with_sessions(request, preview, head, credential)
                if more is not request:
                    request = more
                    judged = self._runtime.admit_nowait(host.sandbox, request)
                preview.habit.by_session = isinstance(judged, Visit)
        except PorticoError as error:
            return answer_to_error(error, host.sandbox)
        if judged is None:
            # Only now, as it matters to those alone who may wake something.
            if is_websocket_upgrade(head):
                request = replace(request, websocket=True)
            return MustWait(host.sandbox, request, credential, _head_size(head) + READ_AHEAD_BYTES_MAX)
        return _verdict(judged, host.sandbox, credential)

    async def admit(self, waiting: MustWait) -> Admitted | Answer:
        """Ask the sandbox to let the request in; wait for it to wake if that is what it takes.

        Cancelling this admits nothing.
        """
        judged: Visit | RefusedBecause | None = None
        try:
            with trio.move_on_after(self._wake_timeout_s):
                judged = await self._runtime.admit(
                    waiting.sandbox, waiting.request, client=waiting.client, size=waiting.size
                )
        except PorticoError as error:
            return answer_to_error(error, waiting.sandbox)
        if judged is None:
            return refusal(Code.WAKING)
        return _verdict(judged, waiting.sandbox, waiting.credential)


def _with_sessions(
    request: VisitRequest, preview: Preview, head: RequestHead, credential: Credential | None
) -> VisitRequest:
    """Return the request with what else its sender has to show; itself, if that is nothing."""
    # Whoever sends the preview token in our own field means it, and is told if it is wrong; another `Authorization`
    # may be the service's affair.
    shown = (
        None
        if credential is Credential.PREVIEW_TOKEN
        else shown_by(head, preview.origin, is_custom=isinstance(preview.host, CustomHost))
    )
    if shown is None:
        return request
    return replace(request, sessions=shown.sessions, share_secret=shown.share_secret)


def _head_size(head: RequestHead) -> int:
    return len(head.target) + sum(len(name) + len(value) for name, _, value in head.fields)


def answer_to_cut(visit: Visit, preview: Preview) -> Answer:
    """Return what a request gets whose visit was cut before it had an answer: what it would get now."""
    host = preview.host
    match visit.cut_because:
        case CutBecause.UNSHARED if isinstance(host, CustomHost):
            code = Code.AUTH_INVALID
        case CutBecause.UNEXPOSED | CutBecause.UNSHARED | CutBecause.DESTROYED:
            code = Code.SANDBOX_NOT_FOUND if isinstance(host, BuiltInHost) else Code.INVALID_TOKEN
        case CutBecause.UNBOUND:
            code = Code.MISDIRECTED_REQUEST
        case CutBecause.ROTATED:
            code = Code.AUTH_REQUIRED if visit.grant.auth_generation is None else Code.AUTH_INVALID
        case CutBecause.STOPPED:
            code = Code.SANDBOX_STOPPED
        case _:
            code = Code.UPSTREAM_CLOSED
    return refusal(code, sandbox=host.sandbox)


def _verdict(judged: Visit | RefusedBecause, sandbox: SandboxId, credential: Credential | None) -> Admitted | Answer:
    if isinstance(judged, RefusedBecause):
        return refusal(Code(judged.value), sandbox=sandbox)
    return Admitted(judged, credential if judged.grant.by_bearer else None)


def answer_to_error(error: PorticoError, sandbox: SandboxId) -> Answer:
    """Return what the client is told whose visit could not be judged; only an operator is told more."""
    if isinstance(error, RetryableError):
        return refusal(Code(error.code), sandbox=sandbox)
    if isinstance(error, ContainerError):
        log.warning("container did not start", sandbox=sandbox, error=str(error))
        return refusal(Code.CONTAINER_START, sandbox=sandbox)
    if isinstance(error, StoreError):
        log.error("sandbox cannot be loaded", sandbox=sandbox, error=str(error), code=error.code)
        return refusal(Code.QUARANTINED, sandbox=sandbox)
    raise error
