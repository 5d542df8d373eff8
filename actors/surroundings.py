"""What an actor is given: limits, and the things it shares with all others of its runtime."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from actors.containers.base import Container, ContainerContext, ContainerFactory, ProcessExit
from actors.core.budget import WakeBudget
from actors.errors import UnknownRecordError
from actors.sandbox.decide import Rules
from actors.sandbox.events import ContainerSpec
from actors.sandbox.ids import SandboxId
from actors.store import Store


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sandbox may take up. All of it can be changed; none of it can be switched off."""

    mailbox_room: int = 1024
    """Messages that may wait before further ones are refused."""
    mailbox_reserve: int = 256
    """Revocations that may wait beyond that; later ones wait for room instead of being refused."""
    visits_max: int = 1_000
    """Visits under way at once, so that one sandbox cannot use up the connections of all."""
    held_max: int = 1_000
    """Requests held while the container comes up."""
    held_bytes_max: int = 64 * 2**20
    """What is kept for them in all: their heads, and what was read behind those."""
    held_per_client_max: int = 128
    """Of these, for one client address. Twenty people behind one NAT, with the six connections that a browser opens to
    a host; and it takes eight addresses to fill the room of one sandbox."""
    wakes_per_minute: int = 10
    """How often visitors may have one sandbox woken, at once and in each minute."""
    wakes_per_client_per_minute: int = 30
    """How often one client address may have sandboxes woken, over all of them."""
    rest_after_s: float = 30.0
    """Seconds without messages, visits or children after which an actor leaves memory."""
    wake_timeout_s: float = 90.0
    """How long a container may take to come up (BEHAVIOUR: the wake deadline)."""
    cut_timeout_s: float = 10.0
    """How long a revocation waits for cut visits to end before it says that some have not."""
    compact_records: int = 1_000
    compact_bytes: int = 256 * 1024
    """A log is compacted once it has grown by both since its last snapshot."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all actors of one runtime share."""

    store: Store
    nursery: trio.Nursery
    """Where children live; it outlives every actor."""
    containers: Mapping[str, ContainerFactory]
    folder_of: Callable[[SandboxId], Path]
    """Where a sandbox's container keeps its files."""
    new_run_id: Callable[[], str]
    clock: Callable[[], float]
    """Seconds since 1970-01-01 UTC. Not trio's clock: what is judged by it outlives the process."""
    rules: Rules
    limits: Limits
    wakes: WakeBudget
    give_back: Callable[[SandboxId], Awaitable[int]]
    """Gives back, durably, what a destroyed sandbox has outside its own log. Its name is free for another only then."""
    forget: Callable[[SandboxId], None]
    """Called in the step in which an actor's task ends."""

    def make_container(
        self, sandbox: SandboxId, spec: ContainerSpec, on_exit: Callable[[ProcessExit], None]
    ) -> Container:
        """Make a sandbox's place; touches nothing yet.

        Raises:
            ValueError, TypeError: There is no such kind, or it does not understand its options.
        """
        factory = self.containers.get(spec.kind)
        if factory is None:
            known = ", ".join(sorted(self.containers))
            raise ValueError(f"no containers of kind {spec.kind!r} here; there are: {known}")
        return factory(ContainerContext(sandbox, self.folder_of(sandbox), on_exit), spec.options)

    def remake_container(
        self, sandbox: SandboxId, spec: ContainerSpec, on_exit: Callable[[ProcessExit], None]
    ) -> Container:
        """Make the place of a sandbox as its log says.

        Raises:
            UnknownRecordError: That cannot be made here.
        """
        try:
            return self.make_container(sandbox, spec, on_exit)
        except (ValueError, TypeError) as error:
            raise UnknownRecordError(f"sandbox {sandbox} needs a container that cannot be made: {error}") from error
