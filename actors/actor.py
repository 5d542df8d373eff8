"""The task of one sandbox: claims its log, takes turns, gives up its memory, recovers.

One message at a time, and nothing slow inside a turn: bringing a container up, ending visits and clearing a
destroyed sandbox away run as children and come back as messages, so a revocation never queues behind a wake.

Two gates keep promises on disk and promises to people together. *Input*: while a turn is under way, which
includes the wait for its append, nothing else is judged. *Output*: replies, pulled cords and calls to the
container leave after the append, or never. When an append fails, what is on disk is unknown: this activation
is broken, everything it knew is dropped, and the next one reads the log anew.

Most messages never become one. Admitting a visit changes no state, so when no turn is under way and nothing
waits, `admit_nowait` judges it as a plain call in the caller's own task. That is the same as a turn of its
own: in trio nothing else runs during a call without an await.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from actors.children import Children
from actors.containers.base import Container, ContainerContext, Run
from actors.core.lifecycle import Happening, Phase, after
from actors.core.mailbox import Lane, Mailbox
from actors.core.supervision import WINDOW_S, Breakages
from actors.errors import (
    ActorBrokenError,
    ContainerStartError,
    LogCorruptError,
    MailboxFullError,
    PorticoError,
    QuarantinedError,
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
    Reply,
    Report,
    RunFailed,
    RunGone,
    RunReady,
)
from actors.sandbox.admission import CutBecause, Grant, NeedsWake, RefusedBecause, VisitRequest, admit
from actors.sandbox.decide import (
    REVOCATIONS,
    BeginRun,
    Command,
    CreateSandbox,
    DestroySandbox,
    EndRun,
    FireAlarm,
    Refusal,
    decide,
)
from actors.sandbox.events import ContainerSpec, Event, RunEnd, decode, encode
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SNAPSHOT_VERSION, SandboxState, Status, evolve, fold, next_alarm, restore, snapshot
from actors.store import Entry, History, Tenure
from actors.surroundings import Surroundings
from actors.visits import Visit, VisitBook, wait_all_ended

log = structlog.get_logger("portico.actor")


class _BrokenError(Exception):
    """This activation is over; `cause` says why. Never leaves this module."""

    def __init__(self, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.cause: Final = cause


class Actor:
    """One sandbox in memory. `run` is its task; everything else is called from other tasks."""

    def __init__(self, sandbox: SandboxId, around: Surroundings) -> None:
        self.sandbox: Final = sandbox
        self.phase = Phase.DORMANT
        self.state: SandboxState | None = None
        """Durable, always: it is replaced only after an append has succeeded."""
        self._around: Final = around
        self._mailbox: Final[Mailbox[Message]] = Mailbox(around.limits.mailbox_room, around.limits.mailbox_reserve)
        self._room_lot = trio.lowlevel.ParkingLot()
        self._book: Final = VisitBook()
        self._leases: set[Lease] = set()
        self._children: Final = Children(around.nursery)
        self._breakages: Final = Breakages()
        self._tenure: Tenure | None = None
        self._container: Container | None = None
        self._run: Run | None = None
        # Invariant: None, or a run whose id is `state.run_id`.
        self._coming_up: trio.CancelScope | None = None
        self._watching: trio.CancelScope | None = None
        self._held: deque[Admit | NeedRun] = deque()
        # Creations that arrived while the destroyed sandbox of the same name is still being cleared away.
        self._after_clearing: list[Message] = []
        self._settled = False
        # True when no turn is under way, so that a plain call may judge. Invariant: implies ACTIVE.
        self._cleared = False
        self._closing = False
        # How to refuse everything, while QUARANTINED.
        self._sentence: Callable[[], PorticoError] | None = None
        self._parked: trio.lowlevel.Task | None = None
        self._last_turn = trio.current_time()

    # What other tasks call.

    def admit_nowait(self, request: VisitRequest) -> Visit | RefusedBecause | None:
        """Judge a visit as a plain call, or return None if it must wait its turn (`admit`).

        Raises:
            TooManyVisitsError: The sandbox has all the visits it may have.
        """
        if not self._settled or self._mailbox:
            return None
        return self._judge(request)

    async def admit(self, request: VisitRequest) -> Visit | RefusedBecause:
        """Judge a visit, after all that waits already; wakes the container if that is what it takes.

        The caller owns the visit and must `end` it. Cancelling this admits nothing.

        Raises:
            RetryableError: Too much waits, or the actor broke.
            ContainerStartError: The container did not come up.
            StoreError: The log cannot be read.
        """
        judged = self.admit_nowait(request)
        if judged is not None:
            return judged
        reply: Reply[Visit | RefusedBecause] = Reply()
        self._post(Admit(request, reply), Lane.ORDINARY)
        return await reply.wait()

    async def call(self, command: Command, *, drain: float = 0.0) -> Done:
        """Have a command decided, made durable and carried out; return once all of that is true.

        Revocations return after the visits that leaned on what was revoked have ended. Cancelling a command
        whose turn has come does not undo it.

        Args:
            command: What is wanted.
            drain: Seconds that visits under way may go on after a revocation.

        Raises:
            PorticoError: It was refused; see `decide`.
            RetryableError: Too much waits, or the actor broke: ask `look` what became of it.
            RevocationIncompleteError: Visits that were cut did not end in time.
        """
        reply: Reply[Done] = Reply()
        message = Call(command, reply, drain)
        if isinstance(command, REVOCATIONS):
            while not self._offer(message, Lane.REVOCATION):
                await self._room_lot.park()
        else:
            self._post(message, Lane.ORDINARY)
        return await reply.wait()

    async def lease_run(self) -> Lease:
        """Return the current run, brought up first if need be. The caller must release the lease.

        Raises: as `admit`; also SandboxNotFoundError and SandboxStoppedError.
        """
        reply: Reply[Lease] = Reply()
        self._post(NeedRun(reply), Lane.ORDINARY)
        return await reply.wait()

    async def look(self) -> SandboxState | None:
        """Return the state after everything that waits already; None if there is no sandbox."""
        if self._settled and not self._mailbox:
            return self.state
        reply: Reply[SandboxState | None] = Reply()
        self._post(Look(reply), Lane.ORDINARY)
        return await reply.wait()

    def close(self) -> None:
        """Have the actor end its visits and its run, let go of the log, and take no more messages."""
        self._closing = True
        self._settled = False
        self._wake()

    @property
    def visits(self) -> int:
        """How many visits are under way."""
        return len(self._book)

    @property
    def live_run(self) -> Run | None:
        """The run that is up, if one is; for those who only look."""
        return self._run

    def _post(self, message: Asked | Report, lane: Lane) -> None:
        if not self._offer(message, lane):
            raise MailboxFullError(f"too many messages wait for sandbox {self.sandbox}")

    def _offer(self, message: Asked | Report, lane: Lane) -> bool:
        if lane is not Lane.INTERNAL:
            if self._closing:
                raise ShuttingDownError("the runtime is shutting down")
            if self._sentence is not None:
                raise self._sentence()
        taken = self._mailbox.offer(message, lane)
        if taken:
            self._wake()
        return taken

    def _quarantined(self) -> QuarantinedError:
        return QuarantinedError(f"sandbox {self.sandbox} failed too often and is left alone for a while")

    # The task.

    async def run(self) -> None:
        """Live until there is nothing to do. Messages posted before this is running wait for it."""
        try:
            while True:
                self._step(Happening.CALLED)
                try:
                    await self._load()
                    await self._live()
                except _BrokenError as broken:
                    await self._mend(broken.cause)
                except Exception:
                    # A bug, or a container that failed where it must not. It must not take the neighbours down.
                    log.exception("actor failed", sandbox=self.sandbox)
                    await self._mend(StoreError("an internal error; the log says more"))
                else:
                    self._step(Happening.RESTED)
                    await self._drop_memory()
                    self._step(Happening.RELEASED)
                if self._closing or not self._mailbox:
                    return
        finally:
            # Without an await between the last look at the mailbox and this, no message can fall between two
            # activations. What is left here waits for an actor that is being cancelled, or is closing.
            self._around.forget(self.sandbox)
            self._settled = False
            self._children.cancel()
            self._refuse_everything(lambda: ShuttingDownError("the runtime is shutting down"))

    def _step(self, happening: Happening) -> None:
        self.phase = after(self.phase, happening)

    async def _load(self) -> None:
        """Claim the log and fold it."""
        try:
            self._tenure = await self._around.store.claim(self.sandbox)
            self.state = _recover(self._tenure.history)
            self._tenure.history = None
            if self.state is not None:
                self._container = self._make_container(self.state)
                if self.state.status is Status.DESTROYED:
                    await self._finish_clearing()
        except StoreError as error:
            raise _BrokenError(error) from error
        self._step(Happening.LOADED)
        self._last_turn = trio.current_time()
        self._settled = True

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

    async def _live(self) -> None:
        """Take turns until it is time to rest."""
        while True:
            while self._mailbox and not self._cleared:
                message = self._mailbox.take()
                self._room_lot.unpark()
                await self._turn(message)
            if self._cleared or self._may_rest():
                return
            if self._closing:
                await self._wind_up()
                return
            await self._park()

    async def _park(self) -> None:
        """Wait for a message, an alarm, or the time to rest."""
        now = trio.current_time()
        deadline = max(self._last_turn, self._book.last_end) + self._around.limits.rest_after_s
        if deadline <= now:
            # Something else than the time keeps it awake; look again when that may have changed.
            deadline = now + self._around.limits.rest_after_s
        due = next_alarm(self.state)
        if due is not None:
            # Never early: `decide` judges by the wall clock, and a clock that lags is asked again.
            deadline = min(deadline, now + max(due - self._around.clock(), 0.001))
        await self._park_until(deadline)
        if due is not None and due <= self._around.clock():
            await self._turn(Call(FireAlarm(), Reply()))

    async def _park_until(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            self._parked = trio.lowlevel.current_task()
            try:
                await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)
            finally:
                self._parked = None

    def _wake(self) -> None:
        if self._parked is not None:
            task, self._parked = self._parked, None
            trio.lowlevel.reschedule(task)

    def _may_rest(self) -> bool:
        """Say whether nothing would be lost by leaving memory now."""
        if self.state is None:
            return not self._children
        if self._book or self._leases or self._held or self._children or next_alarm(self.state) is not None:
            return False
        if self._run is not None and not self._run.detachable:
            return False
        quiet_since = max(self._last_turn, self._book.last_end)
        return trio.current_time() - quiet_since >= self._around.limits.rest_after_s

    # Turns.

    async def _turn(self, message: Message) -> None:
        """Deal with one message. A turn that fails changes nothing and tells its caller."""
        self._settled = False
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
            await self._compact_if_grown()
        except _BrokenError:
            if isinstance(message, Asked):
                message.reply.fail(self._broken())
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
        self._settled = not (self._cleared or self._closing)

    async def _on_call(self, message: Call) -> None:
        if isinstance(message.command, CreateSandbox):
            if self.state is not None and self.state.status is Status.DESTROYED:
                self._after_clearing.append(message)
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
            raise _BrokenError(error) from error
        self.state = state

    async def _compact_if_grown(self) -> None:
        if self._tenure is None or self.state is None or self._mailbox or self._cleared:
            return
        records, size = self._around.store.size_since_snapshot(self._tenure)
        limits = self._around.limits
        if records < limits.compact_records or size < limits.compact_bytes:
            return
        try:
            entry = Entry(self._around.clock(), "snapshot", SNAPSHOT_VERSION, snapshot(self.state))
            await self._around.store.compact(self._tenure, entry)
        except StoreError as error:
            raise _BrokenError(error) from error

    def _carry_out(self, message: Call) -> None:
        """Do what a command, durable now, entails outside the state."""
        groundless = self._book.groundless(self.state, self._around.clock())
        run = self._take_ended_run()
        destroyed = self.state is None or self.state.status is Status.DESTROYED
        clearing = destroyed and isinstance(message.command, DestroySandbox) and self._container is not None
        if not (groundless or run or clearing):
            message.reply.resolve(Done(self.state))
            return
        if message.drain <= 0:
            _pull(groundless)
        self._children.start(self._finish_revocation, message, groundless, run, clearing)

    def _take_ended_run(self) -> Run | None:
        """Return the live run if the state no longer has it, and forget it; stop one that is still coming up."""
        current = self.state.run_id if self.state is not None else None
        if self._coming_up is not None and current is None:
            self._coming_up.cancel()
        if self._run is None or self._run.run_id == current:
            return None
        run, self._run = self._run, None
        return run

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
                await self._children.wait_only(self._bring_up)
                assert self._container is not None
                await self._container.remove()
        except Exception as error:
            # The container's doing: the state has changed all the same, and the caller hears why it is untidy.
            log.exception("container not cleared", sandbox=self.sandbox)
            failure: Exception | None = error
        else:
            failure = None
        if clearing:
            self._post(Cleared(message.reply, cut, failure), Lane.INTERNAL)
        elif failure is not None:
            message.reply.fail(failure)
        elif remaining:
            text = f"{remaining} visits of sandbox {self.sandbox} were told to end and have not yet"
            message.reply.fail(RevocationIncompleteError(text, remaining=remaining))
        else:
            message.reply.resolve(Done(self.state, cut))

    # The container.

    def _judge(self, request: VisitRequest) -> Visit | RefusedBecause | None:
        """Return a visit, a reason to refuse it, or None if it takes a run and none is up."""
        admission = admit(self.state, request, self._around.clock())
        if isinstance(admission, Grant):
            run = self._run
            if run is None:
                return None
            if len(self._book) >= self._around.limits.visits_max:
                raise TooManyVisitsError(f"sandbox {self.sandbox} has {len(self._book)} visits under way")
            return self._book.open(admission, run)
        return None if isinstance(admission, NeedsWake) else admission

    async def _on_run_wanted(self, message: Admit | NeedRun) -> None:
        """Answer if the run is up or nothing can come of it; otherwise hold the message and bring the run up."""
        if message.reply.abandoned:
            return
        if isinstance(message, Admit):
            judged = self._judge(message.request)
            if judged is not None:
                message.reply.resolve(judged)
                return
        else:
            self._check_active()
            if self._run is not None:
                message.reply.resolve(Lease(self._run, self._leases))
                return
        if len(self._held) >= self._around.limits.held_max:
            raise TooManyVisitsError(f"too many requests wait for sandbox {self.sandbox} to wake")
        self._held.append(message)
        if self._coming_up is None:
            await self._come_up()

    def _check_active(self) -> None:
        if self.state is None or self.state.status is Status.DESTROYED:
            raise SandboxNotFoundError(f"there is no sandbox {self.sandbox}")
        if self.state.status is Status.STOPPED:
            raise SandboxStoppedError(f"sandbox {self.sandbox} has been stopped")

    async def _come_up(self) -> None:
        """Begin a run, or look for the one that the log says is up. Single flight."""
        assert self.state is not None
        found = self.state.run_id
        if found is None:
            run_id = self._around.new_run_id()
            begun = decide(self.state, BeginRun(run_id), self._around.clock())
            assert not isinstance(begun, Refusal)
            await self._commit(begun)
        else:
            run_id = found
        self._coming_up = trio.CancelScope()
        self._children.start(self._bring_up, run_id, found is not None, self._coming_up)

    async def _bring_up(self, run_id: str, reattach: bool, scope: trio.CancelScope) -> None:
        """Child: bring the container up, or find it up, and report."""
        assert self._container is not None
        report: Report = RunFailed(run_id, ContainerStartError("it was stopped while it came up"))
        try:
            with scope, trio.fail_after(self._around.limits.wake_timeout_s):
                if reattach:
                    run = await self._container.reattach(run_id, self._around.nursery)
                    report = RunGone(run_id, RunEnd.LOST) if run is None else RunReady(run)
                else:
                    report = RunReady(await self._container.start(run_id, self._around.nursery))
        except trio.TooSlowError:
            report = RunFailed(run_id, ContainerStartError("the container was not up in time"))
        except Exception as error:  # noqa: BLE001 - other people's code: whatever it was, the run did not come up
            log.warning("container did not start", sandbox=self.sandbox, error=str(error))
            report = RunFailed(run_id, error)
        if scope.cancel_called and isinstance(report, RunReady):
            # It came up and was called off in the same moment.
            await _stop(report.run)
            report = RunFailed(run_id, ContainerStartError("it was stopped while it came up"))
        self._post(report, Lane.INTERNAL)

    async def _watch(self, run: Run, scope: trio.CancelScope) -> None:
        """Child: report when the run ends by itself."""
        with scope:
            reason = await run.wait_stopped()
            log.info("run ended", sandbox=self.sandbox, run=run.run_id, reason=reason)
            self._post(RunGone(run.run_id, RunEnd.EXITED), Lane.INTERNAL)

    async def _on_report(self, report: Report) -> None:
        match report:
            case RunReady(run):
                self._coming_up = None
                if self.state is None or self.state.run_id != run.run_id:
                    # Stopped or destroyed meanwhile; nobody was ever admitted to it.
                    self._children.start(_stop, run)
                    await self._release_held(ContainerStartError("it was stopped while it came up"))
                    return
                self._run = run
                self._watching = trio.CancelScope()
                self._children.start_unminded(self._watch, run, self._watching)
                await self._release_held(None)
            case RunFailed(run_id, error):
                self._coming_up = None
                await self._end_run(run_id, RunEnd.FAILED)
                await self._release_held(error)
            case RunGone(run_id, reason):
                if reason is RunEnd.LOST:
                    self._coming_up = None
                await self._end_run(run_id, reason)
                await self._release_held(None)
            case Cleared():
                await self._on_cleared(report)

    async def _end_run(self, run_id: str, reason: RunEnd) -> None:
        ended = decide(self.state, EndRun(run_id, reason), self._around.clock())
        assert not isinstance(ended, Refusal)
        await self._commit(ended)
        _pull(self._book.groundless(self.state, self._around.clock()))
        run = self._take_ended_run()
        if run is not None:
            # It has ended, but may have left things behind.
            self._children.start(_stop, run)

    async def _release_held(self, error: Exception | None) -> None:
        """Judge the held messages again, in order of arrival, or fail them all."""
        held, self._held = self._held, deque()
        for message in held:
            if error is not None:
                message.reply.fail(error)
                continue
            try:
                await self._on_run_wanted(message)
            except _BrokenError:
                for unanswered in held:
                    unanswered.reply.fail(self._broken())
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
        self._cleared = True
        self._mailbox.put_back(self._after_clearing)
        self._after_clearing = []

    # The end of an activation.

    async def _wind_up(self) -> None:
        """The runtime is closing: end visits and run, on the record."""
        for visit in self._book:
            visit.pull(CutBecause.RUN_ENDED)
        await wait_all_ended(self._book, self._around.limits.cut_timeout_s)
        run = self._run
        if run is not None and not run.detachable:
            self._settled = False
            await self._end_run(run.run_id, RunEnd.STOPPED)
        if self._coming_up is not None:
            self._coming_up.cancel()
        await self._children.wait_none()

    async def _drop_memory(self) -> None:
        """Give up everything that the log, and containers that can be found again, make up for."""
        self._settled = False
        self._cleared = False
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self._run = self._container = self.state = None
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            await self._around.store.release(tenure)

    async def _mend(self, cause: StoreError) -> None:
        """Drop a broken activation; wait before the next one, or quarantine the sandbox."""
        log.error("actor broken", sandbox=self.sandbox, error=str(cause), code=cause.code)
        self._step(Happening.LOAD_FAILED if self.phase is Phase.LOADING else Happening.APPEND_FAILED)
        self._settled = False
        permanent = isinstance(cause, LogCorruptError | UnknownRecordError)
        # Memory may be ahead of the log: visits were admitted on what was durable, but nobody can say what is now.
        for visit in self._book:
            visit.pull(CutBecause.RUN_ENDED)
        await wait_all_ended(self._book, self._around.limits.cut_timeout_s)
        if self._coming_up is not None:
            self._coming_up.cancel()
        await self._children.wait_none()
        self._coming_up = None
        if self._run is not None and not self._run.detachable:
            await _stop(self._run)
        self._refuse_held(self._broken)
        await self._drop_memory()
        delay = None if permanent else self._breakages.note(trio.current_time())
        if delay is not None:
            self._step(Happening.RELEASED)
            if self._mailbox and not self._closing:
                await trio.sleep(delay)
            return
        self._step(Happening.BROKE_TOO_OFTEN)
        self._sentence = (lambda: _again(cause)) if permanent else self._quarantined
        self._refuse_everything(self._sentence)
        served = trio.current_time() + WINDOW_S
        while not self._closing and trio.current_time() < served:
            await self._park_until(served)
        self._sentence = None
        self._breakages.forget()
        self._step(Happening.SERVED_TIME)

    def _broken(self) -> ActorBrokenError:
        return ActorBrokenError(f"sandbox {self.sandbox} could not store a change and is being rebuilt; try again")

    def _refuse_held(self, error: Callable[[], Exception]) -> None:
        held, self._held = self._held, deque()
        for message in held:
            message.reply.fail(error())

    def _refuse_everything(self, error: Callable[[], Exception]) -> None:
        self._refuse_held(error)
        self._mailbox.put_back(self._after_clearing)
        self._after_clearing = []
        while self._mailbox:
            message = self._mailbox.take()
            if isinstance(message, Asked | Cleared):
                message.reply.fail(error())
        self._room_lot.unpark_all()


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


def _again(cause: StoreError) -> StoreError:
    """Return an error like `cause` for another caller: one exception object must not gather many tracebacks."""
    if isinstance(cause, LogCorruptError):
        return LogCorruptError(str(cause), offset=cause.offset)
    return type(cause)(str(cause))


def _pull(groundless: list[tuple[Visit, CutBecause]]) -> None:
    for visit, reason in groundless:
        visit.pull(reason)


async def _stop(run: Run) -> None:
    """Child: end a run that nobody needs any more."""
    try:
        await run.stop()
    except Exception:
        # Other people's code; there is nobody left to tell but the log.
        log.exception("run did not stop", run=run.run_id)
