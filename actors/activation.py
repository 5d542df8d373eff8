"""One activation of a sandbox: its state in memory, from the claim of its log until that memory is given up.

It takes turns. Two gates keep promises on disk and promises to people together. *Input*: while a turn is under
way, which includes the wait for its append, nothing else is judged. *Output*: replies, pulled cords and calls to
the container leave after the append, or never. When an append fails, what is on disk is unknown: the activation is
broken, its actor drops it, and the next one reads the log anew.

Nothing slow happens inside a turn: bringing a container up, ending visits and clearing a destroyed sandbox away run
as children and come back as messages, so a revocation never queues behind a wake.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from actors.children import Children
from actors.containers.base import Container, ContainerContext, Run
from actors.errors import (
    ActorBrokenError,
    ContainerStartError,
    PorticoError,
    RevocationIncompleteError,
    SandboxNotFoundError,
    SandboxStoppedError,
    ShuttingDownError,
    StoreError,
    TooManyVisitsError,
    UnknownRecordError,
)
from actors.messages import (
    Admit,
    Asked,
    Call,
    Cleared,
    Done,
    Lease,
    Look,
    Message,
    NeedRun,
    Report,
    RunFailed,
    RunGone,
    RunReady,
)
from actors.runs import RunKeeper, stop
from actors.sandbox.admission import CutBecause, Grant, NeedsWake, RefusedBecause, VisitRequest, admit
from actors.sandbox.decide import BeginRun, CreateSandbox, DestroySandbox, EndRun, Refusal, decide
from actors.sandbox.events import ContainerSpec, Event, RunEnd, decode, encode
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SNAPSHOT_VERSION, SandboxState, Status, evolve, fold, next_alarm, restore, snapshot
from actors.store import Entry, History, Tenure
from actors.surroundings import Surroundings
from actors.visits import Visit, VisitBook, wait_all_ended

log = structlog.get_logger("portico.activation")


class BrokenError(Exception):
    """This activation is over; `cause` says why. Never leaves this package."""

    def __init__(self, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.cause: Final = cause


class Activation:
    """A sandbox in memory. `load` it, give it one message after another, then `let_go` or `abandon` it."""

    def __init__(self, sandbox: SandboxId, around: Surroundings, report: Callable[[Report], None]) -> None:
        """Begin without a state.

        Args:
            sandbox: Whose.
            around: What all actors share.
            report: Puts a child's message into the mailbox.
        """
        self.sandbox: Final = sandbox
        self.state: SandboxState | None = None
        """Durable, always: it is replaced only after an append has succeeded."""
        self.settled = False
        """True when no turn is under way, so that a plain call may judge."""
        self.cleared = False
        """The sandbox was destroyed and nothing of it is left: this activation has nothing more to say."""
        self.postponed: list[Message] = []
        """Creations that arrived while the destroyed sandbox of the same name is still being cleared away."""
        self.book: Final = VisitBook()
        self._around: Final = around
        self._report: Final = report
        self._children: Final = Children(around.nursery)
        self.runs: Final = RunKeeper(sandbox, self._children, around.nursery, report, around.limits.wake_timeout_s)
        self._leases: set[Lease] = set()
        self._held: deque[Admit | NeedRun] = deque()
        self._tenure: Tenure | None = None
        self._container: Container | None = None
        self._last_turn = trio.current_time()

    async def load(self) -> None:
        """Claim the log and fold it.

        Raises:
            BrokenError: It cannot be read, or another process of ours failed to finish what it began.
        """
        try:
            self._tenure = await self._around.store.claim(self.sandbox)
            self.state = _recover(self._tenure.history)
            self._tenure.history = None
            if self.state is not None:
                self._container = self._make_container(self.state)
                if self.state.status is Status.DESTROYED:
                    await self._finish_clearing()
        except StoreError as error:
            raise BrokenError(error) from error
        self._last_turn = trio.current_time()
        self.settled = True

    async def _finish_clearing(self) -> None:
        """Finish what a crash interrupted between the destruction and its end."""
        assert self._container is not None
        assert self._tenure is not None
        await self._container.remove()
        await self._around.store.bury(self._tenure)
        self._tenure = await self._around.store.claim(self.sandbox)
        self._tenure.history = None
        self.state = self._container = None

    def _make_container(self, state: SandboxState) -> Container:
        factory = self._around.containers.get(state.container.kind)
        if factory is None:
            raise UnknownRecordError(f"sandbox {self.sandbox} needs containers of kind {state.container.kind!r}")
        context = ContainerContext(self.sandbox, self._around.folder_of(self.sandbox))
        return factory(context, state.container.options)

    # Turns.

    async def turn(self, message: Message) -> None:
        """Deal with one message. A turn that fails changes nothing and tells its caller."""
        self.settled = False
        self._last_turn = trio.current_time()
        try:
            match message:
                case Call():
                    if not message.reply.abandoned:
                        await self._on_call(message)
                case Admit() | NeedRun():
                    await self._on_run_wanted(message)
                case Look():
                    message.reply.resolve(self.state)
                case _:
                    await self._on_report(message)
        except BrokenError:
            if isinstance(message, Asked):
                message.reply.fail(self.broken())
            raise
        except Exception as error:
            # A safety net for bugs and for refusals alike: the caller hears of it, the actor goes on.
            if not isinstance(message, Asked):
                raise
            if not isinstance(error, PorticoError):
                log.exception("turn failed", sandbox=self.sandbox, message=type(message).__name__)
            message.reply.fail(error)
        except BaseException:
            if isinstance(message, Asked):
                message.reply.fail(ShuttingDownError("the runtime is shutting down"))
            raise
        self.settled = not self.cleared

    async def _on_call(self, message: Call) -> None:
        if isinstance(message.command, CreateSandbox):
            if self.state is not None and self.state.status is Status.DESTROYED:
                self.postponed.append(message)
                return
            if self.state is None:
                self._check_container(message.command.container or ContainerSpec())
        decided = decide(self.state, message.command, self._around.clock(), self._around.rules)
        if isinstance(decided, Refusal):
            raise decided.to_error()
        await self._commit(decided)
        if self.state is not None and self._container is None:
            self._container = self._make_container(self.state)
        self._carry_out(message)

    def _check_container(self, spec: ContainerSpec) -> None:
        """Refuse a container that could not be made before anything is stored."""
        factory = self._around.containers.get(spec.kind)
        if factory is None:
            known = ", ".join(sorted(self._around.containers))
            raise ValueError(f"no containers of kind {spec.kind!r} here; there are: {known}")
        factory(ContainerContext(self.sandbox, self._around.folder_of(self.sandbox)), spec.options)

    async def _commit(self, events: Sequence[Event]) -> None:
        """Make events durable, then true. The output gate: what they cause may leave once this returns."""
        if not events:
            return
        assert self._tenure is not None
        now = self._around.clock()
        state = self.state
        for event in events:
            state = evolve(state, event)
        entries = [Entry(now, *encode(event)) for event in events]
        try:
            await self._around.store.append(self._tenure, entries)
        except StoreError as error:
            raise BrokenError(error) from error
        self.state = state

    async def compact_if_grown(self) -> None:
        """Replace a log that has grown long by a snapshot; a turn of its own, for when nothing else waits.

        Raises:
            BrokenError: It could not be stored.
        """
        if self._tenure is None or self.state is None or self.cleared:
            return
        records, size = self._around.store.size_since_snapshot(self._tenure)
        limits = self._around.limits
        if records < limits.compact_records or size < limits.compact_bytes:
            return
        try:
            entry = Entry(self._around.clock(), "snapshot", SNAPSHOT_VERSION, snapshot(self.state))
            await self._around.store.compact(self._tenure, entry)
        except StoreError as error:
            raise BrokenError(error) from error

    def _carry_out(self, message: Call) -> None:
        """Do what a command, durable now, entails outside the state."""
        groundless = self.book.groundless(self.state, self._around.clock())
        run = self.runs.part_with(self._current_run_id())
        destroyed = self.state is None or self.state.status is Status.DESTROYED
        clearing = destroyed and isinstance(message.command, DestroySandbox) and self._container is not None
        if not (groundless or run or clearing):
            message.reply.resolve(Done(self.state))
            return
        if message.drain <= 0:
            _pull(groundless)
        self._children.start(self._finish_revocation, message, groundless, run, clearing)

    def _current_run_id(self) -> str | None:
        return None if self.state is None else self.state.run_id

    async def _finish_revocation(
        self, message: Call, groundless: list[tuple[Visit, CutBecause]], run: Run | None, clearing: bool
    ) -> None:
        """Child: wait until what was revoked has ended, then answer."""
        try:
            await self._see_out(message, groundless, run, clearing)
        finally:
            # Ignored if it was answered; if this was cancelled, the process is ending.
            if not clearing:
                message.reply.fail(ShuttingDownError("the runtime is shutting down"))

    async def _see_out(
        self, message: Call, groundless: list[tuple[Visit, CutBecause]], run: Run | None, clearing: bool
    ) -> None:
        visits = [visit for visit, _ in groundless]
        if message.drain > 0:
            await wait_all_ended(visits, message.drain)
            _pull(groundless)
        cut = sum(visit.cut_because is not None for visit in visits)
        remaining = await wait_all_ended(visits, self._around.limits.cut_timeout_s)
        try:
            if run is not None:
                await run.stop()
            if clearing:
                await self.runs.wait_called_off()
                assert self._container is not None
                await self._container.remove()
        except Exception as error:
            # The container's doing: the state has changed all the same, and the caller hears why it is untidy.
            log.exception("container not cleared", sandbox=self.sandbox)
            failure: Exception | None = error
        else:
            failure = None
        if clearing:
            self._report(Cleared(message.reply, cut, failure))
        elif failure is not None:
            message.reply.fail(failure)
        elif remaining:
            text = f"{remaining} visits of sandbox {self.sandbox} were told to end and have not yet"
            message.reply.fail(RevocationIncompleteError(text, remaining=remaining))
        else:
            message.reply.resolve(Done(self.state, cut))

    # The container.

    def judge(self, request: VisitRequest) -> Visit | RefusedBecause | None:
        """Return a visit, a reason to refuse it, or None if it takes a run and none is up."""
        admission = admit(self.state, request, self._around.clock())
        if isinstance(admission, Grant):
            run = self.runs.run
            if run is None:
                return None
            if len(self.book) >= self._around.limits.visits_max:
                raise TooManyVisitsError(f"sandbox {self.sandbox} has {len(self.book)} visits under way")
            return self.book.open(admission, run)
        return None if isinstance(admission, NeedsWake) else admission

    async def _on_run_wanted(self, message: Admit | NeedRun) -> None:
        """Answer if the run is up or nothing can come of it; otherwise hold the message and bring the run up."""
        if message.reply.abandoned:
            return
        if isinstance(message, Admit):
            judged = self.judge(message.request)
            if judged is not None:
                message.reply.resolve(judged)
                return
        else:
            self._check_active()
            if self.runs.run is not None:
                message.reply.resolve(Lease(self.runs.run, self._leases))
                return
        if len(self._held) >= self._around.limits.held_max:
            raise TooManyVisitsError(f"too many requests wait for sandbox {self.sandbox} to wake")
        self._held.append(message)
        if self.runs.coming_up is None:
            await self._come_up()

    def _check_active(self) -> None:
        if self.state is None or self.state.status is Status.DESTROYED:
            raise SandboxNotFoundError(f"there is no sandbox {self.sandbox}")
        if self.state.status is Status.STOPPED:
            raise SandboxStoppedError(f"sandbox {self.sandbox} has been stopped")

    async def _come_up(self) -> None:
        """Begin a run, or look for the one that the log says is up. Single flight."""
        assert self.state is not None
        assert self._container is not None
        run_id = self.state.run_id
        if run_id is not None:
            self.runs.bring_up(self._container, run_id, reattach=True)
            return
        run_id = self._around.new_run_id()
        begun = decide(self.state, BeginRun(run_id), self._around.clock())
        assert not isinstance(begun, Refusal)
        await self._commit(begun)
        self.runs.bring_up(self._container, run_id, reattach=False)

    async def _on_report(self, report: Report) -> None:
        match report:
            case RunReady(run):
                self.runs.coming_up = None
                if self._current_run_id() == run.run_id:
                    self.runs.welcome(run)
                    await self._release_held(None)
                else:
                    # Stopped or destroyed meanwhile; nobody was ever admitted to it.
                    self.runs.stop_soon(run)
                    await self._release_held(ContainerStartError("it was stopped while it came up"))
            case RunFailed(run_id, error):
                self.runs.coming_up = None
                await self._end_run(run_id, RunEnd.FAILED)
                await self._release_held(error)
            case RunGone(run_id, reason):
                if reason is RunEnd.LOST:
                    self.runs.coming_up = None
                await self._end_run(run_id, reason)
                await self._release_held(None)
            case Cleared():
                await self._on_cleared(report)

    async def _end_run(self, run_id: str, reason: RunEnd) -> None:
        ended = decide(self.state, EndRun(run_id, reason), self._around.clock())
        assert not isinstance(ended, Refusal)
        await self._commit(ended)
        _pull(self.book.groundless(self.state, self._around.clock()))
        run = self.runs.part_with(self._current_run_id())
        if run is not None:
            # It has ended, but may have left things behind.
            self.runs.stop_soon(run)

    async def _release_held(self, error: Exception | None) -> None:
        """Judge the held messages again, in order of arrival, or fail them all."""
        held, self._held = self._held, deque()
        for message in held:
            if error is not None:
                message.reply.fail(error)
                continue
            try:
                await self._on_run_wanted(message)
            except BrokenError:
                for unanswered in held:
                    unanswered.reply.fail(self.broken())
                raise
            except Exception as failure:  # noqa: BLE001 - each of them hears of it
                message.reply.fail(failure)

    async def _on_cleared(self, report: Cleared) -> None:
        if report.error is not None:
            report.reply.fail(report.error)
        else:
            assert self._tenure is not None
            try:
                await self._around.store.bury(self._tenure)
            except StoreError as error:
                # The next activation finds the sandbox destroyed and tries again.
                report.reply.fail(error)
            else:
                report.reply.resolve(Done(None, report.cut))
        self.cleared = True

    # Rest.

    @property
    def quiet_since(self) -> float:
        """When the last turn was taken or the last visit ended, on trio's clock."""
        return max(self._last_turn, self.book.last_end)

    def may_rest(self) -> bool:
        """Say whether nothing would be lost by leaving memory now."""
        if self.state is None:
            return not self._children
        if self.book or self._leases or self._held or self._children or next_alarm(self.state) is not None:
            return False
        if self.runs.must_end:
            return False
        return trio.current_time() - self.quiet_since >= self._around.limits.rest_after_s

    # The end.

    async def wind_up(self) -> None:
        """The runtime is closing: end visits and run, on the record.

        Raises:
            BrokenError: The end of the run could not be stored.
        """
        self.settled = False
        await self._end_visits()
        run = self.runs.run
        if run is not None and self.runs.must_end:
            await self._end_run(run.run_id, RunEnd.STOPPED)
        self.runs.call_off()
        await self._children.wait_none()

    async def let_go(self) -> None:
        """Give up memory that the log, and containers that can be found again, make up for."""
        self.settled = False
        self.runs.let_go()
        if self._tenure is not None:
            await self._around.store.release(self._tenure)

    async def abandon(self) -> None:
        """Give up memory that may not be true: visits were admitted on what was durable, but nobody knows what is."""
        self.settled = False
        await self._end_visits()
        self.runs.call_off()
        await self._children.wait_none()
        if self.runs.run is not None and self.runs.must_end:
            await stop(self.runs.run)
        self.refuse_held(self.broken)
        await self.let_go()

    def cancel(self) -> None:
        """Cancel the children; the process is ending."""
        self.settled = False
        self._children.cancel()

    async def _end_visits(self) -> None:
        for visit in self.book:
            visit.pull(CutBecause.RUN_ENDED)
        await wait_all_ended(self.book, self._around.limits.cut_timeout_s)

    def broken(self) -> ActorBrokenError:
        """Return what callers are told whose turn could not be made durable."""
        return ActorBrokenError(f"sandbox {self.sandbox} could not store a change and is being rebuilt; try again")

    def refuse_held(self, error: Callable[[], Exception]) -> None:
        """Fail everything that waits for the container."""
        held, self._held = self._held, deque()
        for message in held:
            message.reply.fail(error())


def _recover(history: History | None) -> SandboxState | None:
    """Fold a history.

    Raises:
        UnknownRecordError: It holds something that this version does not know, or that cannot have happened.
    """
    assert history is not None
    state = None
    if history.snapshot is not None:
        state = restore(history.snapshot.version, history.snapshot.fields)
    return fold((decode(record.name, record.version, record.fields) for record in history.records), state)


def _pull(groundless: list[tuple[Visit, CutBecause]]) -> None:
    for visit, reason in groundless:
        visit.pull(reason)
