"""Finds the actor of a sandbox, starts one if none lives, and closes them all in order.

The runtime holds nothing that is not in some log: a table of the actors in memory, and what they share.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import structlog
import trio
from msgspec import UNSET, UnsetType

from actors.actor import Actor
from actors.containers import address_containers, process_containers
from actors.containers.base import ContainerFactory, Run
from actors.core.budget import WakeBudget
from actors.domains import Domains
from actors.errors import SandboxNotFoundError, ShuttingDownError
from actors.handle import Sandbox
from actors.history import Moment, read_history
from actors.messages import ActorGoneError, Done
from actors.sandbox.admission import RefusedBecause, VisitRequest, sign_in
from actors.sandbox.decide import (
    DEFAULT_RULES,
    Command,
    CreateSandbox,
    Rules,
    check_exposable,
)
from actors.sandbox.domains import DomainBinding
from actors.sandbox.events import AsleepPolicy, ContainerSpec
from actors.sandbox.ids import SEAL_BYTES, Port, PreviewToken, SandboxId, Seal
from actors.sandbox.urls import PublicAddress
from actors.store import Store
from actors.surroundings import Limits, Surroundings
from actors.visits import Visit

log = structlog.get_logger("portico.runtime")

DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class RuntimeStatistics:
    """A moment's view, for dashboards and tests."""

    actors: int
    """In memory now; the others are logs only."""
    visits: int
    runs: int


class Runtime:
    """All sandboxes of one store. Made by `open_runtime`."""

    def __init__(
        self,
        store: Store,
        nursery: trio.Nursery,
        *,
        containers: Mapping[str, ContainerFactory],
        folder: Path,
        rules: Rules,
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._nursery = nursery
        # {sandbox: its actor}, from the first message until the actor's task ends.
        self._actors: dict[SandboxId, Actor] = {}
        self._all_gone = trio.lowlevel.ParkingLot()
        self._closing = False
        self.domains: Final = Domains(store, clock, self._cut_bound)
        """Custom hostnames."""
        self.public_address: PublicAddress | None = None
        """Where previews are reached if a call names no hostname; a `proxy.Server` sets it when it listens."""
        self.rules: Final = rules
        self._around: Final = Surroundings(
            store=store,
            nursery=nursery,
            containers=dict(containers),
            folder_of=lambda sandbox: folder / sandbox,
            new_run_id=lambda: f"run-{secrets.token_hex(8)}",
            clock=clock,
            rules=rules,
            limits=limits,
            wakes=WakeBudget(limits.wakes_per_minute, limits.wakes_per_client_per_minute),
            give_back=self.domains.unbind_all,
            forget=self._forget,
        )

    async def get_sandbox(
        self,
        sandbox: str | None = None,
        *,
        container: str | ContainerSpec | None = None,
        open_ports: bool | None = None,
        when_asleep: AsleepPolicy | str | None = None,
        preview_auth: PreviewToken | None = None,
        sleep_after: float | UnsetType | None = UNSET,
    ) -> Sandbox:
        """Return the sandbox of that name, made first if there is none.

        Args:
            sandbox: Its id, in any case; None makes one up.
            container: A kind (``"process"``), or a `ContainerSpec` with options. None: whatever it is, or
                ``"process"``.
            open_ports: Whether ``sb-…-p8080`` hostnames reach every port without a token. In a ``process`` container
                that is every port of this host's loopback, other programs' included: gate it with `preview_auth`.
            when_asleep: What a right credential meets while the container is not up.
            preview_auth: Make it private from its first moment: every visit must bear this token.
            sleep_after: Seconds without a visit or a call of its owner's that uses it, after which it goes to sleep;
                None: never. Unset: whatever it is, or what `Rules` say (ten minutes).

        Raises:
            InvalidNameError: The id is not of its form.
            ValueError: No such kind of container, or options it does not know.
            SandboxMismatchError: It exists, but otherwise than asked for.
            RetryableError, StoreError: As `Actor.call`.
        """
        name = SandboxId.mint(secrets.token_bytes(4)) if sandbox is None else SandboxId(sandbox)
        command = CreateSandbox(
            name,
            ContainerSpec(container) if isinstance(container, str) else container,
            open_ports,
            AsleepPolicy(when_asleep) if when_asleep is not None else None,
            preview_auth.digest() if preview_auth is not None else None,
            Seal(secrets.token_bytes(SEAL_BYTES)),
            sleep_after,
        )
        await self._actor(name).call(command)
        return Sandbox(name, self)

    async def find_sandbox(self, sandbox: str) -> Sandbox:
        """Return the sandbox of that name; SandboxNotFoundError if there is none."""
        name = SandboxId(sandbox)
        if not self.exists(name) or await self._actor(name).look() is None:
            raise SandboxNotFoundError(f"there is no sandbox {name}")
        return Sandbox(name, self)

    async def list_sandboxes(self) -> list[SandboxId]:
        """Return the ids of all sandboxes, sorted; reads the store's index, wakes and loads nothing."""
        return sorted(await self._store.sandboxes())

    def exists(self, sandbox: SandboxId) -> bool:
        """Say whether anything is known of the sandbox, without an actor: a stat at most."""
        return sandbox in self._actors or self._store.exists(sandbox)

    def admit_nowait(self, sandbox: SandboxId, request: VisitRequest) -> Visit | RefusedBecause | None:
        """Judge a visit as a plain call, if its actor is in memory and idle; None: use `admit`.

        Raises:
            TooManyVisitsError: The sandbox has all the visits it may have.
        """
        if request.binding is not None and not self.domains.stands(request.binding):
            return RefusedBecause.INVALID_TOKEN
        actor = self._actors.get(sandbox)
        return None if actor is None else actor.admit_nowait(request)

    async def admit(
        self, sandbox: SandboxId, request: VisitRequest, *, client: str | None = None, size: int = 0
    ) -> Visit | RefusedBecause:
        """Ask the sandbox's actor to let a visit in. The caller owns the visit and must `end` it.

        A sandbox that does not exist costs no actor. A refused visit wakes nothing.

        Args:
            sandbox: Whose.
            request: Somebody at the door.
            client: Who asks, for bounds on what one client may cause: an address, or the network of one subscriber;
                None is not counted.
            size: Bytes that are kept for the request while it waits for a wake.

        Raises:
            RetryableError: Overload, a breakage or shutdown: answer 503.
            ContainerStartError: The container did not come up: answer 503.
            StoreError: The sandbox's log cannot be read.
        """
        if not self.exists(sandbox):
            named = request.token is not None or request.binding is not None
            return RefusedBecause.INVALID_TOKEN if named else RefusedBecause.SANDBOX_NOT_FOUND
        # A hostname that leads here no more must not wake what it led to.
        if request.binding is not None and not self.domains.stands(request.binding):
            return RefusedBecause.INVALID_TOKEN
        judged = await self._actor(sandbox).admit(request, client=client, size=size)
        # It may have been unbound while the visit waited, when there was no visit yet to cut.
        if request.binding is not None and not self.domains.stands(request.binding):
            if isinstance(judged, Visit):
                judged.end()
            return RefusedBecause.INVALID_TOKEN
        return judged

    async def sign_in(self, sandbox: SandboxId, request: VisitRequest) -> bytes | RefusedBecause | None:
        """Return the session that a browser may show in place of the bearer token of `request`.

        Judged as a visit is, but for the run state: it admits nobody, and wakes nothing. A sandbox that does not exist
        costs no actor.

        Returns:
            The session, for `VisitRequest.sessions`; or why there is none; None if no gate asks for one.

        Raises:
            RetryableError, StoreError: As `admit`.
        """
        state = await self._actor(sandbox).look() if self.exists(sandbox) else None
        if request.binding is not None and not self.domains.stands(request.binding):
            return RefusedBecause.INVALID_TOKEN
        return sign_in(state, request, self.now())

    async def call(self, sandbox: SandboxId, command: Command, *, drain: float = 0.0) -> Done:
        """Have a command decided, made durable and carried out by the sandbox's actor.

        Raises: as `Actor.call`; SandboxNotFoundError if there is no such sandbox.
        """
        while True:
            try:
                return await self.actor(sandbox).call(command, drain=drain)
            except ActorGoneError:
                # Expected, if seldom: a revocation waited for room in a full mailbox. Its successor takes it.
                continue

    def actor(self, sandbox: SandboxId) -> Actor:
        """Return the actor of a sandbox that exists, started if need be; for `Sandbox` and its like.

        Raises:
            SandboxNotFoundError: There is none.
        """
        if not self.exists(sandbox):
            raise SandboxNotFoundError(f"there is no sandbox {sandbox}")
        return self._actor(sandbox)

    async def history(self, sandbox: str) -> list[Moment]:
        """Return what the log of a sandbox holds, oldest first; what was acknowledged before this call is in it.

        Raises:
            SandboxNotFoundError: There is no such sandbox.
            LogCorruptError, UnknownRecordError, StoreError.
        """
        return await read_history(self._store, SandboxId(sandbox))

    async def bind_domain(self, sandbox: SandboxId, hostname: str, port: int) -> DomainBinding:
        """Ask for a custom hostname that shall lead to a port; see `Sandbox.bind_domain`."""
        # From before it is seen to exist: destroyed after that, it asks for nothing any more.
        with self.domains.claimant(sandbox) as claimant:
            await self.find_sandbox(sandbox)
            refusal = check_exposable(port, self.rules)
            if refusal is not None:
                raise refusal.to_error()
            return await self.domains.bind(hostname, claimant, Port(port))

    async def _cut_bound(self, sandbox: SandboxId, bindings: frozenset[int]) -> int:
        actor = self._actors.get(sandbox)
        return 0 if actor is None else await actor.cut_bound(bindings)

    def live_run(self, sandbox: SandboxId) -> Run | None:
        """Return the run that is up in this process, if one is; for those who only look."""
        actor = self._actors.get(sandbox)
        return None if actor is None else actor.live_run

    def sleeping_run(self, sandbox: SandboxId) -> Run | None:
        """Return the run that sleeps in this process with its processes, if one does and its actor is in memory."""
        actor = self._actors.get(sandbox)
        return None if actor is None else actor.sleeping_run

    def now(self) -> float:
        """Return the time by which everything here is judged, in seconds since 1970."""
        return self._around.clock()

    def statistics(self) -> RuntimeStatistics:
        """Return a moment's view."""
        actors = self._actors.values()
        return RuntimeStatistics(
            len(self._actors),
            sum(actor.visits for actor in actors),
            sum(actor.live_run is not None for actor in actors),
        )

    async def aclose(self) -> None:
        """Refuse new work, end all visits and runs on the record, let go of all logs. Idempotent."""
        self._closing = True
        for actor in self._actors.values():
            actor.close()
        while self._actors:
            await self._all_gone.park()
        await self.domains.aclose()

    def _actor(self, sandbox: SandboxId) -> Actor:
        actor = self._actors.get(sandbox)
        if actor is None:
            if self._closing:
                raise ShuttingDownError("the runtime is shutting down")
            actor = self._actors[sandbox] = Actor(sandbox, self._around)
            # Its task runs at the next checkpoint: the caller posts its message first.
            self._nursery.start_soon(actor.run, name=f"actor {sandbox}")
        return actor

    def _forget(self, sandbox: SandboxId) -> None:
        self._actors.pop(sandbox, None)
        if not self._actors:
            self._all_gone.unpark_all()


@asynccontextmanager
async def open_runtime(
    store: Store,
    *,
    containers: Mapping[str, ContainerFactory] | None = None,
    rules: Rules = DEFAULT_RULES,
    limits: Limits = DEFAULT_LIMITS,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Runtime]:
    """Run sandboxes out of `store` for the length of the ``async with`` block.

    Leaving the block ends visits and runs on the record and lets go of the store; being cancelled does what
    can be done without waiting: processes are killed, and every log is as it was last acknowledged.

    Args:
        store: Entered here, and closed at the end.
        containers: Kinds by name; None: ``process`` and ``address``.
        rules: Which ports are reserved.
        limits: What one sandbox may take up.
        clock: Seconds since 1970-01-01 UTC, for records and expiry.

    Raises:
        StoreLockedError: Another process owns the data folder.
    """
    async with store, AsyncExitStack() as stack:
        # Containers keep their files beside the logs, or, with a store that has no folder, for this run only.
        folder = getattr(store, "folder", None)
        if isinstance(folder, Path):
            base = folder / "containers"
        else:
            base = Path(stack.enter_context(TemporaryDirectory(prefix="portico-")))
        if containers is None:
            containers = {"process": process_containers(), "address": address_containers()}
        try:
            async with trio.open_nursery() as nursery:
                runtime = Runtime(
                    store, nursery, containers=containers, folder=base, rules=rules, limits=limits, clock=clock
                )
                await runtime.domains.load()
                try:
                    yield runtime
                finally:
                    await runtime.aclose()
                    # What is left are tasks of runs that outlive their object.
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # The nursery is an affair of ours: what was raised in the block is raised as it was.
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from group.exceptions[0].__cause__
