"""What waits in an actor's mailbox, and how its sender is answered."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import outcome
import trio

from actors.containers.base import ProcessExit, Run
from actors.errors import ShuttingDownError, StoreError
from actors.sandbox.admission import RefusedBecause, VisitRequest
from actors.sandbox.decide import Command
from actors.sandbox.events import RunEnd
from actors.sandbox.state import SandboxState
from actors.visits import Visit

T = TypeVar("T")


class Reply(Generic[T]):
    """An answer to come, for one waiting task.

    A third of the cost of a `trio.Event` and a field: the answer travels with the reschedule, and what was
    answered cannot be lost to a cancellation that comes later.
    """

    __slots__ = ("_outcome", "_task", "abandoned")

    def __init__(self) -> None:
        self._outcome: outcome.Outcome[T] | None = None
        self._task: trio.lowlevel.Task | None = None
        self.abandoned = False
        """True once the sender has stopped waiting: a message not yet begun is then dropped."""

    def resolve(self, value: T) -> None:
        """Answer. A second answer, or one that nobody waits for any more, is ignored."""
        self._settle(outcome.Value(value))

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        self._settle(outcome.Error(error))

    def _settle(self, result: outcome.Outcome[T]) -> None:
        if self._outcome is not None or self.abandoned:
            return
        self._outcome = result
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, result)

    async def wait(self) -> T:
        """Block until the answer is there; return it, or raise it. Cancelling this abandons the message."""
        if self._outcome is not None:
            return self._outcome.unwrap()
        self._task = trio.lowlevel.current_task()
        answer: T = await trio.lowlevel.wait_task_rescheduled(self._abandon)
        return answer

    def _abandon(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self.abandoned = True
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class ActorGoneError(Exception):
    """The actor left memory before the message was in its mailbox. Never leaves this package."""


class BrokenError(Exception):
    """The activation is over; `cause` says why. Never leaves this package."""

    def __init__(self, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.cause: Final = cause


def shutting_down() -> ShuttingDownError:
    """Return what everybody is told who waits while the runtime closes."""
    return ShuttingDownError("the runtime is shutting down")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    state: SandboxState | None
    """The state after it, durable."""
    cut: int = 0
    """How many live visits it ended."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A command for the state."""

    command: Command
    reply: Reply[Done]
    drain: float = 0.0
    """For an `UnexposePort`: seconds that visits under way may go on before they are cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Admit:
    """A visit that could not be judged at once."""

    request: VisitRequest
    reply: Reply[Visit | RefusedBecause]
    client: str | None = None
    """Who asks: an address, or the network of one subscriber; None is not counted."""
    size: int = 0
    """Bytes that are kept for the request while it waits."""


@dataclass(frozen=True, slots=True, eq=False)
class NeedRun:
    """The owner wants to use the container, woken if need be."""

    reply: Reply["Lease"]


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A reader wants the state as it stands after all that came before."""

    reply: Reply[SandboxState | None]


@dataclass(frozen=True, slots=True)
class RunReady:
    """A child reports: the container is up."""

    run: Run


@dataclass(frozen=True, slots=True)
class RunFailed:
    """A child reports: the container did not come up."""

    run_id: str
    reason: str
    """For people. Text rather than an exception: each of many callers gets one of its own."""


@dataclass(frozen=True, slots=True)
class RunGone:
    """A child reports: the run is over, or was not found again."""

    run_id: str
    reason: RunEnd


@dataclass(frozen=True, slots=True)
class RunDue:
    """A child reports: the pause is over after which a run that ended by itself is to be brought back."""

    run_id: str
    """Of the one that ended."""


@dataclass(frozen=True, slots=True)
class ProcessGone:
    """A container reports: a process has exited by itself."""

    exit: ProcessExit


@dataclass(frozen=True, slots=True)
class Cleared:
    """A child reports: nothing is left of a destroyed sandbox but its log, or why something is."""

    cut: int
    """How many live visits the destruction ended."""
    remaining: int
    """How many of them had been told to end and had not."""
    failure: str | None
    """Why its container is still there, for people; None: it is gone."""


Asked = Call | Admit | NeedRun | Look
"""Messages somebody waits for."""
Report = RunReady | RunFailed | RunGone | RunDue | ProcessGone | Cleared
"""Messages from the actor's own children."""
Message = Asked | Report


class Lease:
    """The right to use a run; while it is held the actor neither sleeps nor leaves memory."""

    __slots__ = ("_leases", "run")

    def __init__(self, run: Run, leases: "Leases") -> None:
        self.run = run
        self._leases = leases

    def release(self) -> None:
        """Give it back. Idempotent."""
        self._leases.strike(self)


class Leases:
    """The leases of one activation that are held."""

    __slots__ = ("_held", "last_end")

    def __init__(self) -> None:
        self._held: set[Lease] = set()
        self.last_end = -float("inf")
        """When one was last given back, on trio's clock."""

    def grant(self, run: Run) -> Lease:
        """Enter a new lease."""
        lease = Lease(run, self)
        self._held.add(lease)
        return lease

    def strike(self, lease: Lease) -> None:
        """Remove one that is given back; `Lease.release` calls this."""
        if lease in self._held:
            self._held.discard(lease)
            self.last_end = trio.current_time()

    def __len__(self) -> int:
        return len(self._held)
