"""What an explanation is made from: the state as it is now, or as the log has it at some time past.

Nothing is woken and no visit is admitted. The present is asked of the sandbox's actor, the past of the logs of all
sandboxes that have had that name, so a URL that worked last week is explained by whoever had it then.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from actors import (
    Domain,
    DomainBinding,
    FileStore,
    Moment,
    PorticoError,
    Runtime,
    SandboxId,
    SandboxNotFoundError,
    SandboxState,
    state_at,
    unfold,
)
from proxy.core.diagnosis import Target
from proxy.core.explain import Explanation, explain_elsewhere, explain_failure, explain_own_page, explain_visit
from proxy.core.gate import is_own
from proxy.core.hostname import BaseHost, CustomHost, HostMatch, Matcher, NotOurs
from proxy.door import Preview, answer_to_error

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
