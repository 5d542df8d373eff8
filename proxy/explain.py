"""What an explanation is made from: the state as it is now, or as the log has it at some time past.

Nothing is woken, no visit is admitted and no service is asked for a page; `knock` tries whether one listens. The
present is asked of the sandbox's actor, the past of the logs of all sandboxes that have had that name, so a URL that
worked last week is explained by whoever had it then.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio
from msgspec.structs import replace

from actors import (
    Domain,
    DomainBinding,
    FileStore,
    Moment,
    NotListeningError,
    PorticoError,
    Runtime,
    SandboxId,
    SandboxNotFoundError,
    SandboxState,
    state_at,
    unfold,
)
from proxy.core.diagnosis import Target
from proxy.core.explain import (
    Explanation,
    explain_elsewhere,
    explain_failure,
    explain_own_page,
    explain_service,
    explain_visit,
)
from proxy.core.gate import is_own
from proxy.core.hostname import BaseHost, CustomHost, HostMatch, Matcher, NotOurs
from proxy.core.pages import Code, refusal
from proxy.door import Preview, answer_to_error
from proxy.options import DEFAULT_OPTIONS
from proxy.upstream import close_now

KNOCK_TIMEOUT_S: Final = DEFAULT_OPTIONS.connect_timeout_s
"""For a service to accept: what a visit is given too, unless the server is set otherwise."""

StateOf = Callable[[SandboxId], Awaitable[SandboxState | None]]
"""Gives the state of a sandbox at the time that is asked about; None: there was none of that name."""


async def explain_url(
    url: str,
    domains: Sequence[Domain],
    state_of: StateOf,
    now: float,
    preview_token: str | None = None,
    custom: Callable[[str], DomainBinding | None] = lambda _: None,
) -> Explanation:
    """Explain what a plain GET of `url` meets.

    Args:
        url: As somebody would open it; the scheme and the port do not matter.
        domains: The server's base domains.
        state_of: `live_state` or `past_state`, with their first arguments given.
        now: The time that is asked about, in seconds since 1970.
        preview_token: What the visit bears; None: nothing.
        custom: Says where a custom hostname leads now: `Domains.find` of a runtime.

    Raises:
        BadURLError: That is no URL.
    """
    target = Target.read(url)
    place: HostMatch | CustomHost = Matcher(domains).match_host(target.host)
    if isinstance(place, NotOurs) and (bound := custom(target.host.name)) is not None:
        place = CustomHost(bound.sandbox, bound.port, bound.hostname, bound.number)
    if isinstance(place, BaseHost | NotOurs):
        return explain_elsewhere(target, place)
    request = Preview(place, target.host).knock
    if preview_token is not None:
        request = replace(request, preview_token=preview_token.encode())
    try:
        state = await state_of(place.sandbox)
    except PorticoError as error:
        return explain_failure(target, place, answer_to_error(error, place.sandbox))
    if is_own(target.path.encode("ascii")):
        return explain_own_page(target, place, state, now)
    return explain_visit(target, place, request, state, now)


async def knock(explained: Explanation, runtime: Runtime) -> Explanation:
    """Add whether something listens where a visit that enters now would go; the rest stays as it is.

    A connection is made and closed. Nothing is sent, nothing is woken, and the sandbox is not in use by it. A service
    that a wake has just brought back is waited for as a visit waits, if not as long. That a port answers is noted as
    for a visit: the next wake expects it to answer again.

    Args:
        explained: Of the present. Who may not see it must not have it knocked for.
        runtime: Whose sandbox it is about.
    """
    port, sandbox = explained.enters, explained.sandbox
    run = None if sandbox is None else runtime.live_run(sandbox)
    if port is None or run is None:
        # Not a visit that enters, or the run has ended since.
        return explained
    not_listening: NotListeningError | None = None
    try:
        with trio.fail_after(KNOCK_TIMEOUT_S):
            try:
                stream = await run.dial(port)
            except NotListeningError as error:
                # As in `upstream.connect`.
                not_listening = error
                await run.wait_listening(port)
                stream = await run.dial(port)
    except NotListeningError as error:
        return _explain_not_listening(explained, port, error)
    except trio.TooSlowError:
        if not_listening is not None:
            # It may yet come; a visit would wait on, for as long as a wake may take.
            return _explain_not_listening(explained, port, not_listening)
        text = f"the service did not accept a connection within {KNOCK_TIMEOUT_S:g} s"
        return explain_service(explained, refusal(Code.UPSTREAM_TIMEOUT, port=port, detail=text))
    await close_now(stream)
    return explain_service(explained, None)


def _explain_not_listening(explained: Explanation, port: int, error: NotListeningError) -> Explanation:
    return explain_service(explained, refusal(Code.NOT_LISTENING, port=port, detail=str(error)))


async def live_state(runtime: Runtime, sandbox: SandboxId) -> SandboxState | None:
    """Return the state as it is now. Loads a sandbox that exists, and starts nothing for one that does not.

    Raises:
        RetryableError, StoreError: As the router would meet them.
    """
    try:
        return await (await runtime.find_sandbox(sandbox)).state()
    except SandboxNotFoundError:
        return None


async def past_state(folder: Path, time: float, sandbox: SandboxId) -> SandboxState | None:
    """Return the state at `time`, from the logs in a data folder; works beside a running server.

    Raises:
        SandboxNotFoundError: There is no such folder, or what the logs hold begins later, with a snapshot.
        LogCorruptError, UnknownRecordError, StoreError.
    """
    moments = await _read_all(folder, sandbox)
    state = state_at(moments, time)
    if state is None and moments and moments[0].event is None:
        # What a compaction has replaced is gone. "There was none" would be a guess.
        begins = datetime.fromtimestamp(moments[0].time, UTC).isoformat()
        raise SandboxNotFoundError(f"nothing is known of {sandbox} at that time: its log begins at {begins}")
    return state


async def _read_all(folder: Path, sandbox: SandboxId) -> list[Moment]:
    """Return all lives of a name, oldest first: it may have been destroyed and made again."""
    moments: list[Moment] = []
    async with _open(folder) as store:
        for report in await store.buried(sandbox):
            report.check()
            moments += unfold(report.scan.history)
        if store.exists(sandbox):
            moments += unfold(await store.read(sandbox))
    return moments


def _open(folder: Path) -> FileStore:
    if not folder.is_dir():
        raise SandboxNotFoundError(f"there is no data folder {folder}")
    return FileStore(folder, read_only=True)
