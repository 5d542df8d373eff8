"""The custom hostnames of all sandboxes: looked up at each request, changed seldom, kept in a log of their own.

A look-up is a plain call on what is in memory. A change takes its turn, is made durable in the log `SYSTEM` of the
same store, and only then seen by look-ups and acknowledged; taking something back returns after the streams that
leaned on it have ended. So it is with a sandbox's own state, and for the same reasons; but there is one table, so a
lock is all the mailbox that it needs.

If the log cannot be read or written, no sandbox is out of order for it. What was known goes on serving, changes are
refused, and the next change reads the log anew.
"""

import base64
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import structlog
import trio

from actors.errors import (
    AppendFailedError,
    DomainNotFoundError,
    FencedError,
    PorticoError,
    SandboxNotFoundError,
    StoreError,
)
from actors.sandbox.decide import Refusal
from actors.sandbox.domains import (
    CHALLENGE_BYTES,
    SNAPSHOT_VERSION,
    BindDomain,
    CustomHostname,
    DomainBinding,
    DomainCommand,
    DomainTable,
    DomainUnbound,
    Proof,
    UnbindDomain,
    UnbindSandbox,
    VerifyDomain,
    decide_domains,
    decode_domain_event,
    encode_domain_event,
    evolve_domains,
    restore_domains,
    snapshot_domains,
)
from actors.sandbox.ids import SYSTEM, Port, SandboxId
from actors.sandbox.urls import Domain
from actors.store import Entry, History, Store, Tenure

log = structlog.get_logger("portico.domains")

COMPACT_RECORDS: Final = 1_000
"""A log that has grown by so many records is replaced by one snapshot; reading them takes some milliseconds."""


class Claimant:
    """Somebody who is about to ask for a hostname, for one life of a sandbox; see `Domains.claimant`."""

    __slots__ = ("gone", "sandbox")

    def __init__(self, sandbox: SandboxId) -> None:
        self.sandbox: Final = sandbox
        self.gone = False
        """That life is over, and what it had was given back: a next one may have begun."""


Cut = Callable[[SandboxId, frozenset[int]], Awaitable[int]]
"""Ends the visits of a sandbox that came by bindings of these numbers; returns how many there were."""


class Domains:
    """The custom hostnames of one runtime: `Runtime.domains`."""

    def __init__(self, store: Store, clock: Callable[[], float], cut: Cut) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._cut: Final = cut
        self._lock: Final = trio.Lock()
        self._tenure: Tenure | None = None
        self.known = False
        """Whether they have been read; if not, none stands, whatever there may be."""
        self._table = DomainTable()
        # {hostname: its verified binding}, and {number: whose} of these: what look-ups need of the table.
        self._serving: Mapping[str, DomainBinding] = {}
        self._numbers: Mapping[int, SandboxId] = {}
        self._reserved: tuple[Domain, ...] = ()
        self._claimants: Final[set[Claimant]] = set()

    # Look-ups.

    def find(self, hostname: str) -> DomainBinding | None:
        """Return where a hostname leads, if its owner has shown that it is theirs. In lower case, no trailing dot."""
        return self._serving.get(hostname)

    def stands(self, number: int) -> bool:
        """Say whether the verified binding of that number still stands."""
        return number in self._numbers

    def bindings(self, sandbox: SandboxId | None = None) -> Sequence[DomainBinding]:
        """Return the bindings of a sandbox, or of all, by name; those that are not verified too."""
        if sandbox is not None:
            return self._table.of_sandbox(sandbox)
        return sorted(self._table.bindings.values(), key=lambda one: (one.hostname, one.sandbox))

    def binding(self, hostname: str, sandbox: SandboxId) -> DomainBinding:
        """Return a sandbox's binding of a hostname.

        Raises:
            DomainNotFoundError: It has not asked for it.
            InvalidNameError: That is no hostname.
        """
        name = CustomHostname(hostname)
        found = self._table.bindings.get((str(name), sandbox))
        if found is None:
            raise DomainNotFoundError(f"sandbox {sandbox} has not asked for {name}")
        return found

    # Changes.

    def reserve(self, domains: Iterable[Domain]) -> None:
        """Take note of base domains of ours; whoever serves them calls this.

        Nothing may be bound under them, and what was bound when they were not ours does not serve.
        """
        self._reserved = tuple(dict.fromkeys((*self._reserved, *domains)))
        self._show(self._table)

    @contextmanager
    def claimant(self, sandbox: SandboxId) -> Iterator[Claimant]:
        """Return who may `bind` for the length of the block, if the sandbox is seen to exist inside of it.

        Otherwise it could be destroyed after that, and the next one of its name have what was asked for by this one.
        """
        claimant = Claimant(sandbox)
        self._claimants.add(claimant)
        try:
            yield claimant
        finally:
            self._claimants.discard(claimant)

    async def bind(self, hostname: str, claimant: Claimant, port: Port) -> DomainBinding:
        """Ask for a hostname; it serves once `verify` was called. Asked again with another port, it leads there.

        Whether the sandbox exists, and may expose that port, is for the caller to know.

        Raises:
            SandboxNotFoundError: It has been destroyed meanwhile.
            InvalidNameError: That is no hostname.
            SecurityError: It is under a base domain, or this sandbox has too many.
            StoreError: It is not known whether it is on disk: ask again.
        """
        minted = base64.urlsafe_b64encode(secrets.token_bytes(CHALLENGE_BYTES)).rstrip(b"=").decode("ascii")
        name = CustomHostname(hostname)
        await self._change(BindDomain(name, claimant.sandbox, port, minted), claimant)
        return self.binding(name, claimant.sandbox)

    async def verify(self, seen: DomainBinding, proof: Proof = Proof.SITE) -> DomainBinding:
        """Take note that the answer to the challenge of `seen` was seen by somebody who looked; from now on it serves.

        Args:
            seen: As it was when somebody looked.
            proof: Where. Seen in the DNS, it takes the hostname from another sandbox that has it: its streams have been
                told to end when this returns.

        Raises:
            DomainNotFoundError: It was given back meanwhile.
            SecurityError: Another sandbox has it, and it was seen at the site.
            StoreError: As `bind`.
        """
        name = CustomHostname(seen.hostname)
        await self._change(VerifyDomain(name, seen.sandbox, seen.token, proof))
        return self.binding(name, seen.sandbox)

    async def unbind(self, hostname: str, sandbox: SandboxId) -> int:
        """Give a hostname back; return how many live streams were cut. One that is not bound is left as it is.

        Raises:
            InvalidNameError: That is no hostname.
            RevocationIncompleteError: Streams did not end in time.
            StoreError: As `bind`.
        """
        return await self._change(UnbindDomain(CustomHostname(hostname), sandbox))

    async def unbind_all(self, sandbox: SandboxId) -> int:
        """Give back all that a sandbox has: its life is over, durably, and the next one of its name shall inherit none.

        Raises: as `unbind`.
        """
        for claimant in self._claimants:
            claimant.gone = claimant.gone or claimant.sandbox == sandbox
        # Without a tenure, the log may say more than memory does: a change that failed may have been written.
        known = self._tenure is not None or not self._store.exists(SYSTEM)
        if known and not self._table.of_sandbox(sandbox) and not self._lock.locked():
            return 0
        return await self._change(UnbindSandbox(sandbox))

    async def load(self) -> None:
        """Read the log, if there is one. A damaged one is logged: no custom hostname serves then.

        Bindings of sandboxes that are gone end here: a crash came between the two logs.
        """
        if not self._store.exists(SYSTEM):
            self.known = True
            return
        try:
            async with self._lock:
                await self._claim()
            for sandbox in {one.sandbox for one in self._table.bindings.values()}:
                if not self._store.exists(sandbox):
                    await self._change(UnbindSandbox(sandbox))
        except StoreError as error:
            log.error("the custom hostnames cannot be read", error=str(error), code=error.code)

    async def aclose(self) -> None:
        """Let go of the log. Idempotent."""
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            await self._store.release(tenure)

    async def _change(self, command: DomainCommand, claimant: Claimant | None = None) -> int:
        """Make a change, and end what has lost its ground; return how many streams of the command's sandbox that were.

        Others' lose it too if the log says more than memory did: a change of theirs failed that was written all the
        same. Their streams end here also if this change is refused, as nobody else may come to read the log.
        """
        failure: PorticoError | None = None
        # Whoever is cancelled while it is being written must not leave memory behind the log.
        with trio.CancelScope(shield=True):
            async with self._lock:
                before = self._numbers
                try:
                    if claimant is not None and claimant.gone:
                        raise SandboxNotFoundError(f"there is no sandbox {claimant.sandbox} (any more)")
                    await self._make(command)
                except PorticoError as error:
                    failure = error
                lost = {number: whose for number, whose in before.items() if number not in self._numbers}
        outcomes = await self._cut_lost(lost)
        if failure is not None:
            raise failure
        outcome = outcomes.get(command.sandbox, 0)
        if isinstance(outcome, PorticoError):
            raise outcome
        return outcome

    async def _cut_lost(self, lost: Mapping[int, SandboxId]) -> Mapping[SandboxId, int | PorticoError]:
        """End what came by bindings that are over, each at its own sandbox; return how that went."""
        outcomes: dict[SandboxId, int | PorticoError] = {}

        async def cut(sandbox: SandboxId) -> None:
            try:
                outcomes[sandbox] = await self._cut(
                    sandbox, frozenset(n for n, whose in lost.items() if whose == sandbox)
                )
            except PorticoError as error:
                # For whoever has asked; others' streams have been told to end, which is all that can be done.
                outcomes[sandbox] = error

        # At once: who is slow to end its streams must not be what others' go on for.
        async with trio.open_nursery() as nursery:
            for sandbox in {*lost.values()}:
                nursery.start_soon(cut, sandbox)
        return outcomes

    async def _make(self, command: DomainCommand) -> None:
        """Decide, make durable, show."""
        tenure = self._tenure if self._tenure is not None else await self._claim()
        events = decide_domains(self._table, command, self._reserved)
        if isinstance(events, Refusal):
            raise events.to_error()
        if not events:
            return
        await self._append(tenure, [Entry(self._clock(), *encode_domain_event(one)) for one in events])
        table = self._table
        for event in events:
            table = evolve_domains(table, event)
            if isinstance(event, DomainUnbound) and event.sandbox != command.sandbox:
                # Its owner may wonder.
                log.warning("hostname taken over", hostname=event.hostname, of=event.sandbox, by=command.sandbox)
        self._show(table)
        await self._compact_if_grown(tenure)

    async def _claim(self) -> Tenure:
        tenure = await self._store.claim(SYSTEM)
        history, tenure.history = tenure.history, None
        assert history is not None
        self._show(_fold(history))
        self._tenure = tenure
        return tenure

    async def _append(self, tenure: Tenure, entries: list[Entry]) -> None:
        try:
            await self._store.append(tenure, entries)
        except (AppendFailedError, FencedError):
            # Nobody knows what the log holds now: the next change reads it.
            self._tenure = None
            raise

    async def _compact_if_grown(self, tenure: Tenure) -> None:
        if self._store.size_since_snapshot(tenure)[0] < COMPACT_RECORDS:
            return
        try:
            await self._store.compact(
                tenure, Entry(self._clock(), "domains", SNAPSHOT_VERSION, snapshot_domains(self._table))
            )
        except StoreError as error:
            # The change itself is durable; the next one reads the log anew.
            self._tenure = None
            log.error("the log of custom hostnames was not compacted", error=str(error), code=error.code)

    def _show(self, table: DomainTable) -> None:
        self.known = True
        self._table = table
        self._serving = {
            one.hostname: one
            for one in table.verified()
            if not any(CustomHostname(one.hostname).is_under(domain) for domain in self._reserved)
        }
        self._numbers = {one.number: one.sandbox for one in self._serving.values()}


def _fold(history: History) -> DomainTable:
    """Return what a log says.

    Raises:
        UnknownRecordError: A newer Portico wrote it.
    """
    table = DomainTable()
    if history.snapshot is not None:
        table = restore_domains(history.snapshot.version, history.snapshot.fields)
    for record in history.records:
        table = evolve_domains(table, decode_domain_event(record.name, record.version, record.fields))
    return table
