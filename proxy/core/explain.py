"""Why a preview URL gets the answer it gets: the decision chain, told to whoever may see the sandbox.

A stranger is told as little as possible: a wrong token and a port that was taken back are the same 404. An owner who
asks why must be told more, and the same as what the router does. So nothing is decided here: the host is read by the
router's own `Matcher`, the visit is judged by the actor's own `admit`, the answer is taken from the one table of
answers. What is added is the account: which step of *host, sandbox, credential, gate, run, wake* decided, and what in
the state made it do so.

No text here holds a token. It says who holds the right one, though, so an `Explanation` is for owners only.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from msgspec import structs

from actors import (
    SHARE_PATH,
    Admission,
    Exposure,
    Grant,
    NeedsWake,
    Port,
    RefusedBecause,
    SandboxId,
    SandboxState,
    ShareNotFoundError,
    ShareSpentError,
    Sharing,
    Status,
    VisitRequest,
    admit,
    judge_share,
    read_named,
)
from proxy.core.diagnosis import Target
from proxy.core.gate import share_path_secret
from proxy.core.headers import MASK
from proxy.core.hostname import BaseHost, BuiltInHost, CustomHost, NotOurs, PreviewHost, TokenHost
from proxy.core.pages import Answer, Code, refusal

ADMITTED: Final = "ADMITTED"
"""The code of a visit that enters: what it is answered is the service's affair, so there is no status."""

WAKES: Final = "WAKES"
"""The code of a visit that wakes its sandbox and is then served; if that takes too long, it gets 503 ``WAKING``."""

NOT_A_PREVIEW: Final = "NOT_A_PREVIEW"
"""The code of a base domain: the management API answers there."""


OWN_PAGE: Final = "OWN_PAGE"
"""The code of a path below ``/.portico/``: the preview's host answers it itself, and no service sees it."""

SHARE_OPENS: Final = "SHARE_OPENS"
"""The code of a share's link that opens: a browser gets a session for it, and is sent to the preview."""


class Question(StrEnum):
    """The steps, in order of judgement."""

    HOST = "host"
    PAGE = "page"
    """Whether the path is one that a preview's host answers itself; told only of those."""
    SANDBOX = "sandbox"
    CREDENTIAL = "credential"
    GATE = "gate"
    RUN = "run"
    WAKE = "wake"
    SERVICE = "service"
    """Whether something listens where the visit is to go; told only by who has knocked there."""


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """One step that was taken; the last of an explanation is the one that decided."""

    question: Question
    answer: str
    """A word or two."""
    because: str
    """The fact behind it, in plain words."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a GET of a URL meets, and why."""

    url: str
    """As it may be shown: without token and query."""
    sandbox: SandboxId | None
    """The one that the host names, whether it exists or not."""
    steps: tuple[ExplainedStep, ...]
    status: int | None
    """Of the router's own answer; None if the answer is not the router's."""
    code: str
    """Of that answer; else one of those above."""
    outcome: str
    """The answer in words."""
    enters: Port | None = None
    """Whose service the visit is handed to at once; None if none, or only after a wake."""


_NOT_ASKED: Final = "not been asked (portico doctor URL asks)"
"""Of a service: a page of it may do anything, so none is fetched to explain how a visit gets there."""

_DECIDES: Final[Mapping[RefusedBecause, Question]] = MappingProxyType(
    {
        RefusedBecause.SANDBOX_NOT_FOUND: Question.SANDBOX,
        RefusedBecause.INVALID_TOKEN: Question.CREDENTIAL,
        RefusedBecause.AUTH_REQUIRED: Question.GATE,
        RefusedBecause.AUTH_INVALID: Question.GATE,
        RefusedBecause.SANDBOX_STOPPED: Question.RUN,
        RefusedBecause.STALE_PREVIEW_URL: Question.WAKE,
        RefusedBecause.ASLEEP: Question.WAKE,
    }
)
"""Where the chain ends for each refusal; of an unknown sandbox, it ends there whatever the refusal is called."""


def explain_elsewhere(target: Target, place: BaseHost | NotOurs) -> Explanation:
    """Explain a host that names no preview."""
    if isinstance(place, BaseHost):
        step = ExplainedStep(Question.HOST, "base domain", f"{place.domain} itself is the management API's place")
        return Explanation(
            _shown(target), None, (step,), None, NOT_A_PREVIEW, "the management API answers, not a preview"
        )
    answer = refusal(Code.MISDIRECTED_REQUEST)
    step = ExplainedStep(
        Question.HOST, "not ours", "it has neither form of a preview's hostname under a base domain of this server"
    )
    return _refused(target, None, (step,), answer)


def explain_failure(target: Target, preview: PreviewHost, answer: Answer) -> Explanation:
    """Explain a visit that could not be judged: `answer` is what the router makes of the error."""
    step = ExplainedStep(Question.SANDBOX, "cannot be judged", f"its state is not to be had: {answer.error}")
    return _refused(target, preview.sandbox, (_host_step(preview), step), answer)


def explain_visit(
    target: Target, preview: PreviewHost, request: VisitRequest, state: SandboxState | None, now: float
) -> Explanation:
    """Explain a visit to a preview.

    Args:
        target: The URL.
        preview: What the router's `Matcher` reads its host as.
        request: The visit as the router puts it to the actor.
        state: Of the sandbox, at the time that is asked about; None: there was none.
        now: That time, in seconds since 1970.
    """
    judged = admit(state, request, now)
    steps = (_host_step(preview), *_steps(preview, request, state, judged, now))
    if isinstance(judged, Grant):
        text = f"the visit enters; what the service on port {preview.port:d} answers has {_NOT_ASKED}"
        return Explanation(_shown(target), preview.sandbox, steps, None, ADMITTED, text, preview.port)
    if isinstance(judged, NeedsWake):
        text = (
            f"the sandbox is woken, or 503 WAKING if that takes too long; "
            f"what the service on port {preview.port:d} then answers has {_NOT_ASKED}"
        )
        return Explanation(_shown(target), preview.sandbox, steps, None, WAKES, text)
    return _refused(target, preview.sandbox, steps, refusal(Code(judged.value), sandbox=preview.sandbox))


def explain_service(explained: Explanation, answer: Answer | None) -> Explanation:
    """Add to the explanation of a visit that enters what came of knocking at its service.

    Args:
        explained: With an `Explanation.enters`.
        answer: What the router answers where nothing takes the connection; None: something does.
    """
    assert explained.enters is not None
    if answer is None:
        step = ExplainedStep(Question.SERVICE, "listens", "it takes a connection; no request was sent to it")
        return replace(explained, steps=(*explained.steps, step))
    step = ExplainedStep(Question.SERVICE, "does not listen", answer.error)
    steps = (*explained.steps, step)
    return replace(explained, steps=steps, status=answer.status, code=answer.code.value, outcome=answer.error)


def explain_own_page(target: Target, preview: PreviewHost, state: SandboxState | None, now: float) -> Explanation:
    """Explain a path that a preview's host answers itself: a share's link, or a page for signing in or out.

    Args:
        target: The URL; `gate.is_own` says that its path is such a one.
        preview: As `explain_visit`.
        state: As `explain_visit`.
        now: As `explain_visit`.
    """
    secret = share_path_secret(target.path.partition("?")[0].encode("ascii"))
    if secret is None or isinstance(preview, BuiltInHost):
        page = ExplainedStep(
            Question.PAGE, "own", "what lies below /.portico/ is answered here, and no service sees it"
        )
        steps: tuple[ExplainedStep, ...] = (_host_step(preview), page)
        return Explanation(_shown(target), preview.sandbox, steps, None, OWN_PAGE, "a page about signing in, or none")
    page = ExplainedStep(Question.PAGE, "share", "the path is that of a share's link")
    try:
        if isinstance(preview, TokenHost):
            share = judge_share(state, preview.token.reveal(), preview.port, secret, now)
        else:
            name, rest = read_named(secret) or ("", secret)
            share = judge_share(state, name, preview.port, rest, now, binding=preview.binding)
    except ShareNotFoundError:
        where = "the link" if isinstance(preview, CustomHost) else "the host"
        because = f"{where} names no share that stands, or the secret is not its own"
        answer = refusal(Code.INVALID_TOKEN)
    except ShareSpentError:
        because = "it opened one session, and has"
        answer = refusal(Code.SHARE_SPENT)
    else:
        because = f"the secret is that of share {share.id}" + (", which opens one session" if share.once else "")
        steps = (_host_step(preview), page, ExplainedStep(Question.CREDENTIAL, "right", because))
        text = "the link opens: it gives a browser a session, and sends it to the preview"
        return Explanation(_shown(target), preview.sandbox, steps, None, SHARE_OPENS, text)
    steps = (_host_step(preview), page, ExplainedStep(Question.CREDENTIAL, "refused", because))
    return _refused(target, preview.sandbox, steps, answer)


def _refused(
    target: Target, sandbox: SandboxId | None, steps: tuple[ExplainedStep, ...], answer: Answer
) -> Explanation:
    return Explanation(_shown(target), sandbox, steps, answer.status, answer.code.value, answer.error)


def _shown(target: Target) -> str:
    # A share's link has its secret in the path.
    return target.at(SHARE_PATH + MASK if target.path.startswith(SHARE_PATH) else target.path)


def _host_step(preview: PreviewHost) -> ExplainedStep:
    if isinstance(preview, CustomHost):
        because = f"{preview.domain} is bound to it, and verified"
        return ExplainedStep(Question.HOST, f"port {preview.port:d} of {preview.sandbox}", because)
    form = "the built-in form" if isinstance(preview, BuiltInHost) else "the form with a token"
    because = f"its first label has {form}, under the base domain {preview.domain}"
    return ExplainedStep(Question.HOST, f"port {preview.port:d} of {preview.sandbox}", because)


def _steps(
    preview: PreviewHost, request: VisitRequest, state: SandboxState | None, judged: Admission, now: float
) -> Iterator[ExplainedStep]:
    """Yield the steps after the host, up to the one that decided."""
    if state is None or state.status is Status.DESTROYED:
        because = "none of that name is known" if state is None else "it was destroyed"
        yield ExplainedStep(Question.SANDBOX, "unknown", because)
        return
    yield ExplainedStep(Question.SANDBOX, "known", f"it is {state.status.value}, of kind {state.container.kind}")
    last = _DECIDES[judged] if isinstance(judged, RefusedBecause) else None
    yield _credential_step(preview, request, state, now, refused=last is Question.CREDENTIAL)
    if last is Question.CREDENTIAL:
        return
    yield _gate_step(request, state, judged, now)
    if last is Question.GATE:
        return
    yield _run_step(state)
    if state.run_id is None and last is not Question.RUN:
        yield _wake_step(state, judged)


def _credential_step(
    preview: PreviewHost, request: VisitRequest, state: SandboxState, now: float, *, refused: bool
) -> ExplainedStep:
    if isinstance(preview, BuiltInHost):
        if refused:
            return ExplainedStep(
                Question.CREDENTIAL, "refused", "the built-in form has no token, and open_ports is off for this sandbox"
            )
        return ExplainedStep(Question.CREDENTIAL, "none needed", "open_ports is on: every port answers by its number")
    exposure = state.ports.get(request.port)
    if exposure is not None and isinstance(preview, CustomHost):
        because = f"a custom hostname has no token, and port {request.port:d} is exposed"
        return ExplainedStep(Question.CREDENTIAL, "none needed", because)
    if exposure is not None and _is_token_of(exposure, request):
        name = "" if exposure.name is None else f" as {exposure.name!r}"
        return ExplainedStep(Question.CREDENTIAL, "right", f"port {request.port:d} is exposed{name} under this token")
    sharing = _named_share(state, request)
    if sharing is not None:
        return _share_step(sharing, now, refused=refused)
    if exposure is None:
        return ExplainedStep(Question.CREDENTIAL, "refused", f"port {request.port:d} is not exposed")
    return ExplainedStep(Question.CREDENTIAL, "refused", f"port {request.port:d} is exposed, but under another token")


def _share_step(sharing: Sharing, now: float, *, refused: bool) -> ExplainedStep:
    if sharing.binding is not None:
        because = f"share {sharing.share}, which the host names, is for {sharing.hostname} alone"
        return ExplainedStep(Question.CREDENTIAL, "refused", because)
    if not refused:
        return ExplainedStep(
            Question.CREDENTIAL, "right", f"a credential of share {sharing.share}, whose id the host names"
        )
    if now >= sharing.expires_at:
        return ExplainedStep(
            Question.CREDENTIAL, "refused", f"share {sharing.share}, which the host names, has expired"
        )
    because = f"the host names share {sharing.share}, and the visit bears no right credential of it"
    return ExplainedStep(Question.CREDENTIAL, "refused", because)


def _named_share(state: SandboxState, request: VisitRequest) -> Sharing | None:
    sharing = state.shares.get(request.token.reveal()) if request.token is not None else None
    return sharing if sharing is not None and sharing.port == request.port else None


def _is_token_of(exposure: Exposure, request: VisitRequest) -> bool:
    return request.token is not None and exposure.token.matches(request.token.reveal())


def _gate_step(request: VisitRequest, state: SandboxState, judged: Admission, now: float) -> ExplainedStep:
    if state.auth is None:
        return ExplainedStep(Question.GATE, "none", "the sandbox has no preview auth")
    exposure = state.ports.get(request.port)
    if request.token is not None and (exposure is None or not _is_token_of(exposure, request)):
        return ExplainedStep(Question.GATE, "not asked", "a share opens past preview auth")
    if judged is RefusedBecause.AUTH_REQUIRED:
        return ExplainedStep(
            Question.GATE, "closed", "the sandbox has preview auth, and the visit bears no preview token"
        )
    if judged is RefusedBecause.AUTH_INVALID:
        return ExplainedStep(Question.GATE, "closed", "the preview token, or session, is not of the one in force")
    if _is_opened_by_share(request, state, now):
        because = "a credential of a share for this hostname opens past preview auth"
        return ExplainedStep(Question.GATE, "open", because)
    if request.preflight and not request.preview_token and not request.sessions:
        return ExplainedStep(Question.GATE, "open", "a preflight cannot bear a preview token, and passes")
    previous = state.auth.previous
    grace = previous is not None and now < previous.until
    which = "the one in force, or the one before it in its grace" if grace else "the one in force"
    return ExplainedStep(Question.GATE, "open", f"the preview token, or the session's, is {which}")


def _is_opened_by_share(request: VisitRequest, state: SandboxState, now: float) -> bool:
    """Say whether a visit that enters by a custom hostname does so by no other credential than a share's."""
    if request.binding is None:
        return False
    # What names a share is of a share; without that it is judged by the rest.
    others = tuple(session for session in request.sessions if read_named(session) is None)
    judged = admit(state, structs.replace(request, share_secret=None, sessions=others), now)
    return judged in (RefusedBecause.AUTH_REQUIRED, RefusedBecause.AUTH_INVALID)


def _run_step(state: SandboxState) -> ExplainedStep:
    if state.status is Status.STOPPED:
        return ExplainedStep(Question.RUN, "stopped", "it was stopped for good")
    if state.run_id is None:
        return ExplainedStep(Question.RUN, "asleep", "its container is not up")
    return ExplainedStep(Question.RUN, "up", f"its container is up, in {state.run_id}")


def _wake_step(state: SandboxState, judged: Admission) -> ExplainedStep:
    because = f"its policy when asleep is {state.when_asleep.value!r}"
    if judged is RefusedBecause.ASLEEP:
        because = "it was put to sleep, and a WebSocket handshake wakes it only where its port says so"
    return ExplainedStep(Question.WAKE, "wakes" if isinstance(judged, NeedsWake) else "stays asleep", because)
