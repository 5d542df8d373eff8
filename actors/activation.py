"""One activation of a sandbox: its state in memory, from the claim of its log until that memory is given up.

It takes turns. Two gates keep promises on disk and promises to people together. *Input*: while a turn is under
way, which includes the wait for its append, nothing else is judged. *Output*: replies, pulled cords and calls to
the container leave after the append, or never. When an append fails, what is on disk is unknown: the activation is
broken, its actor drops it, and the next one reads the log anew.

Nothing slow happens inside a turn: bringing a container up, ending visits and clearing a destroyed sandbox away run
as children and come back as messages, so a revocation never queues behind a wake.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from actors.children import Children
from actors.containers.base import Container, ProcessExit, Run
from actors.endings import Endings
from actors.errors import (
    ActorBrokenError,
    ContainerError,
    ContainerStartError,
    PorticoError,
    StoreError,
    TooManyVisitsError,
    TooManyWakesError,
)
from actors.failures import where_raised
from actors.held import Held
from actors.messages import (
    Admit,
    Asked,
    BrokenError,
    Call,
    Cleared,
    Done,
    Leases,
    Look,
    Message,
    NeedRun,
    ProcessGone,
    Reply,
    Report,
    RunDue,
    RunFailed,
    RunGone,
    RunReady,
    shutting_down,
)
from actors.recovery import compact, has_grown, recover
from actors.runs import RunKeeper, lull, stop
from actors.sandbox.admission import CutBecause, Grant, NeedsWake, RefusedBecause, VisitRequest, admit
from actors.sandbox.decide import (
    BeginRun,
    CreateSandbox,
    DestroySandbox,
    EndRun,
    FireAlarm,
    Hibernate,
    NoteExit,
    Refusal,
    StopSandbox,
    UnexposePort,
    decide,
)
from actors.sandbox.events import ContainerSpec, Event, RunEnd, encode
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SandboxState, Status, check_active, evolve, next_alarm
from actors.store import Entry, Tenure
from actors.surroundings import Surroundings
from actors.visits import Ending, Visit, VisitBook, pull, wait_all_ended

log = structlog.get_logger("portico.activation")


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
        self.postponed: list[Call] = []
        """Creations that arrived while the destroyed sandbox of the same name is still being cleared away."""
        self.book: Final = VisitBook()
        self._around: Final = around
        self._report: Final = report
        self._children: Final = Children(around.nursery)
        self.runs: Final = RunKeeper(sandbox, self._children, around.nursery, report, around.limits.wake_timeout_s)
        self._leases: Final = Leases()
        # Wait for the container. Invariant: while there are any, something is coming up.
        self._held: Final = Held(around.limits)
        self.endings: Final = Endings(sandbox, self.book, self.runs, around)
        # Wait for the end of the clearing. Invariant: while there are any, a child clears.
        self._destroyers: list[Reply[Done]] = []
        self._tenure: Tenure | None = None
        # Invariant: not None whenever the state is not.
        self._container: Container | None = None
        self._last_turn = trio.current_time()
        self.dropped = False
        """The runtime was cancelled: whoever still takes a turn takes the last."""

    async def load(self) -> None:
        """Claim the log and fold it; finish what a crash left half done.

        Raises:
            BrokenError: It cannot be read, or it says something that cannot be done here.
        """
        try:
            self._tenure = await self._around.store.claim(self.sandbox)
            self.state = recover(self._tenure.history)
            self._tenure.history = None
            if self.state is not None:
                self._container = self._around.remake_container(self.sandbox, self.state.container, self._on_exit)
                if self.state.status is Status.DESTROYED:
                    await self._finish_clearing(self._container)
        except StoreError as error:
            raise BrokenError(error) from error
        self._last_turn = trio.current_time()
        self.settled = True

    async def _finish_clearing(self, container: Container) -> None:
        """Finish what a crash interrupted between the destruction and its end."""
        assert self._tenure is not None
        failure = (await self.endings.clear(container, [], None)).failure
        if failure is not None:
            # The sandbox is as good as broken: it can be neither used nor made anew.
            raise StoreError(f"what the destroyed sandbox {self.sandbox} has left behind cannot be removed: {failure}")
        await self._around.store.bury(self._tenure)
        self._tenure = await self._around.store.claim(self.sandbox)
        self._tenure.history = None
        self.state = self._container = None

    def _on_exit(self, gone: ProcessExit) -> None:
        self._report(ProcessGone(gone))

    @property
    def visible_state(self) -> SandboxState | None:
        """The state for those who ask: None also while a destroyed sandbox is being cleared away."""
        destroyed = self.state is not None and self.state.status is Status.DESTROYED
        return None if destroyed else self.state

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
                    message.reply.resolve(self.visible_state)
                case _:
                    await self._on_report(message)
        except BrokenError:
            # At once, not when the actor's task comes to mend: visits were admitted on what may not be durable.
            self.book.pull_all(CutBecause.RUN_ENDED)
            if isinstance(message, Asked):
                message.reply.fail(self.broken())
            raise
        except Exception as error:
            # A safety net for bugs and for refusals alike: the caller hears of it, the actor goes on.
            if not isinstance(message, Asked):
                raise
            # ValueError and TypeError are the caller's own mistakes, told to it and to nobody else.
            if not isinstance(error, PorticoError | ValueError | TypeError):
                log.error("turn failed", sandbox=self.sandbox, message=type(message).__name__, **where_raised(error))
            message.reply.fail(error)
        except BaseException:
            if isinstance(message, Asked):
                message.reply.fail(shutting_down())
            raise
        self.settled = not self.cleared

    async def _on_call(self, message: Call) -> None:
        command = message.command
        if isinstance(command, CreateSandbox):
            if self.state is not None and self.state.status is Status.DESTROYED:
                self.postponed.append(message)
                return
            if self.state is None:
                # Made first: a container that cannot be made is refused before anything is stored.
                spec = command.container or ContainerSpec()
                self._container = self._around.make_container(self.sandbox, spec, self._on_exit)
        decided = decide(self.state, command, self._around.clock(), self._around.rules)
        if isinstance(decided, Refusal):
            raise decided.to_error()
        run_before = self._current_run_id()
        await self._commit(decided)
        if self.dropped:
            # The runtime was cancelled while another task took this turn. The change stands; the next one finds it.
            raise shutting_down()
        self._carry_out(message, run_before)

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
        if not self._has_grown():
            return
        assert self.state is not None
        assert self._tenure is not None
        try:
            await compact(self._around.store, self._tenure, self.state, self._around.clock())
        except StoreError as error:
            raise BrokenError(error) from error

    def _has_grown(self) -> bool:
        return has_grown(self._around.store, self._tenure, self.state, self._around.limits)

    async def fire_due_alarm(self) -> None:
        """Do what has fallen due, if anything has; a turn of its own.

        Raises:
            BrokenError: It could not be stored.
        """
        due = next_alarm(self.state)
        if due is not None and due <= self._around.clock():
            await self.turn(Call(FireAlarm(), Reply()))

    def wants_attention(self) -> bool:
        """Say, after a turn that another task took, whether the actor's own task has something to do or to wait for."""
        if not self.settled:
            return self.cleared
        idle = self.sleep_at is not None and self.sleep_at <= trio.current_time()
        return next_alarm(self.state) is not None or idle or self._has_grown()

    # Revocations.

    def _carry_out(self, message: Call, run_before: str | None) -> None:
        """Do what a command, durable now, entails outside the state."""
        command = message.command
        self._answer_held()
        ended = self.book.losing(command, self.state, self._around.clock())
        attached = self.runs.run is not None or self.runs.coming_up is not None
        ending = lull if isinstance(command, Hibernate) else stop
        if isinstance(command, Hibernate | StopSandbox | DestroySandbox):
            self.runs.stay_down()
        run = self.runs.part_with(self._current_run_id(), ending)
        if run_before not in (None, self._current_run_id()) and not attached and self.state is not None:
            # It may be up all the same: an earlier activation has let go of it.
            assert self._container is not None
            assert run_before is not None
            self.runs.end_absent(self._container, run_before, ending)
        if isinstance(command, Hibernate):
            pull(ended)
            falling = self.runs.fall_asleep(run) if run is not None else None
            self._children.start(
                self.endings.finish_sleep, message.reply, self.state, ended, falling, self.runs.coming_up
            )
            return
        if isinstance(command, DestroySandbox) and self.state is not None:
            assert self._container is not None
            self._destroyers.append(message.reply)
            if len(self._destroyers) == 1:
                pull(ended)
                self._children.start(self._clear, self._container, ended, run)
            return
        if not (ended or run or isinstance(command, StopSandbox)):
            message.reply.resolve(Done(self.state))
            return
        drain = message.drain if isinstance(command, UnexposePort) else 0.0
        if drain > 0:
            self.book.let_linger(ended)
        else:
            pull(ended)
        self._children.start(
            self.endings.finish_revocation, message.reply, self.state, ended, run, self._container, drain
        )

    @property
    def sleeping_run(self) -> Run | None:
        """The run that sleeps with its processes still there, if one does."""
        return None if self._container is None else self._container.asleep

    def _current_run_id(self) -> str | None:
        return None if self.state is None else self.state.run_id

    async def _clear(self, container: Container, ended: list[Ending], run: Run | None) -> None:
        """Child: end and remove what a destroyed sandbox has left, and report."""
        self._report(await self.endings.clear(container, ended, run))

    async def _on_cleared(self, report: Cleared) -> None:
        assert self._tenure is not None
        failure = report.failure
        if failure is None:
            try:
                await self._around.store.bury(self._tenure)
            except StoreError as error:
                # The next activation finds the sandbox destroyed and tries again.
                failure = f"its log could not be put aside: {error}"
        destroyers, self._destroyers = self._destroyers, []
        for reply in destroyers:
            if failure is not None:
                reply.fail(ContainerError(f"sandbox {self.sandbox} is destroyed, but not cleared away: {failure}"))
            elif report.remaining:
                reply.fail(self.endings.incomplete(report.remaining))
            else:
                reply.resolve(Done(None, report.cut))
        self.cleared = True

    # The container.

    def judge(self, request: VisitRequest) -> Visit | RefusedBecause | None:
        """Return a visit, a reason to refuse it, or None if it takes a run and none is up."""
        admission = admit(self.state, request, self._around.clock())
        if isinstance(admission, Grant):
            run = self.runs.run
            if run is None:
                return None
            assert run.run_id == admission.run_id
            if len(self.book) >= self._around.limits.visits_max:
                raise TooManyVisitsError(f"sandbox {self.sandbox} has {len(self.book)} visits under way")
            return self.book.open(admission, run)
        return None if isinstance(admission, NeedsWake) else admission

    async def _on_run_wanted(self, message: Admit | NeedRun) -> None:
        """Answer if the run is up or nothing can come of it; otherwise hold the message and bring the run up."""
        if self._answered(message):
            return
        # Whoever waits for what others have begun costs no wake; the owner may wake as often as it likes.
        if isinstance(message, Admit) and self._current_run_id() is None and self.runs.coming_up is None:
            now = trio.current_time()
            if not self._around.wakes.take(self.sandbox, message.client, now):
                raise TooManyWakesError(f"sandbox {self.sandbox} has been woken too often of late")
        self._held.hold(message)
        await self._come_up()

    def _answered(self, message: Admit | NeedRun) -> bool:
        """Answer a message, if it can be; False: it takes a run."""
        # Nothing may be opened for somebody who has gone.
        if message.reply.abandoned:
            return True
        try:
            if isinstance(message, Admit):
                judged = self.judge(message.request)
                if judged is None:
                    return False
                message.reply.resolve(judged)
                return True
            check_active(self.sandbox, self.state)
        except PorticoError as refusal:
            message.reply.fail(refusal)
            return True
        if self.runs.run is None:
            return False
        message.reply.resolve(self._leases.grant(self.runs.run))
        return True

    def _answer_held(self) -> None:
        """Judge the held messages again, in order of arrival."""
        self._held.answer(self._answered)

    async def _come_up(self, *, by_policy: bool = False) -> None:
        """Begin a run, or look for the one that the log says is up, unless that is under way. Single flight."""
        if self.runs.coming_up is not None:
            return
        assert self.state is not None
        assert self._container is not None
        run_id = self.state.run_id
        if run_id is not None:
            self.runs.bring_up(self._container, run_id, reattach=True)
            return
        run_id = self._around.new_run_id()
        await self._record(BeginRun(run_id, by_policy))
        self.runs.bring_up(self._container, run_id, reattach=False, by_policy=by_policy)

    async def _record(self, command: BeginRun | EndRun | NoteExit) -> None:
        """Make durable what happens to a run; none of it can be refused."""
        decided = decide(self.state, command, self._around.clock())
        assert not isinstance(decided, Refusal)
        await self._commit(decided)

    async def _on_report(self, report: Report) -> None:
        match report:
            case RunReady(run):
                attempt = self.runs.came_up()
                if self._current_run_id() == run.run_id:
                    self.runs.welcome(run, by_policy=attempt is not None and attempt.by_policy)
                else:
                    # Stopped or destroyed meanwhile; nobody was ever admitted to it.
                    self.runs.stop_soon(run)
                await self._go_on_for_held()
            case RunFailed(run_id, _) if run_id != self._current_run_id():
                # Called off: put to sleep, stopped or destroyed meanwhile. Who still waits, waits for another run.
                self.runs.came_up()
                await self._go_on_for_held()
            case RunFailed(run_id, reason):
                self.runs.came_up()
                await self._end_run(run_id, RunEnd.FAILED)
                if self.runs.wanted_back:
                    self.runs.come_back(run_id, ran=False)
                # Some are refused now for a better reason.
                self._answer_held()
                self._held.refuse(lambda: ContainerStartError(reason))
            case RunGone(run_id, reason):
                if reason is RunEnd.LOST:
                    self.runs.came_up()
                ended = self.runs.run
                await self._end_run(run_id, reason)
                if ended is not None and ended.run_id == run_id and ended.comes_back:
                    self.runs.come_back(run_id, ran=True)
                # Who is waiting already does not wait for the pause.
                await self._go_on_for_held()
            case RunDue(run_id):
                if self.runs.take_due(run_id):
                    await self._come_up(by_policy=True)
            case ProcessGone(gone):
                log.info("process exited", sandbox=self.sandbox, process=gone.process, exit_code=gone.exit_code)
                await self._record(NoteExit(gone.run_id, gone.process, gone.exit_code))
            case Cleared():
                await self._on_cleared(report)

    async def _end_run(self, run_id: str, reason: RunEnd) -> None:
        await self._record(EndRun(run_id, reason))
        pull(self.book.groundless(self.state, self._around.clock()))
        run = self.runs.part_with(self._current_run_id())
        if run is not None:
            # It has ended, but may have left things behind.
            self.runs.stop_soon(run)

    async def _go_on_for_held(self) -> None:
        """Answer the held messages that can be answered, and bring the container up for the others."""
        self._answer_held()
        if self._held:
            await self._come_up()

    # Rest.

    @property
    def rest_at(self) -> float:
        """When there will have been neither a turn nor a visit for long enough, on trio's clock."""
        return max(self._last_turn, self.book.last_end) + self._around.limits.rest_after_s

    @property
    def sleep_at(self) -> float | None:
        """When it will have been without use for as long as its owner allows, on trio's clock.

        None while it is in use, is being brought up or is asleep, and for one that is never to sleep by itself.
        """
        state = self.state
        if state is None or state.run_id is None or state.sleep_after is None:
            return None
        if self.book or self._leases or self._held or self.runs.coming_up is not None:
            return None
        return max(self.book.last_end, self._leases.last_end, self.runs.wanted_since) + state.sleep_after

    async def sleep_if_idle(self) -> None:
        """Put the sandbox to sleep if it has been without use for long enough; a turn of its own.

        Raises:
            BrokenError: It could not be stored.
        """
        due = self.sleep_at
        if due is not None and due <= trio.current_time():
            log.info("sandbox idle, going to sleep", sandbox=self.sandbox)
            await self.turn(Call(Hibernate(), Reply()))

    def look_again_at(self, now: float) -> float:
        """Return when, on trio's clock, there may be something to do, if no message comes and no alarm falls due."""
        deadline = self.rest_at
        if deadline <= now:
            # Something else than the time keeps it awake: look again when that may have changed.
            deadline = now + self._around.limits.rest_after_s
        if self.state is not None and self.state.run_id is not None and self.state.sleep_after is not None:
            # The end of a visit is no turn: nobody says when it begins to be without use.
            deadline = min(deadline, now + self.state.sleep_after)
        due = self.sleep_at
        return deadline if due is None else min(deadline, due)

    def may_rest(self) -> bool:
        """Say whether nothing would be lost by leaving memory now."""
        if self._children:
            return False
        if self.state is None:
            return True
        if self.book or self._leases or self._held or self.runs.must_end or self.state.in_grace:
            return False
        if self.sleep_at is not None:
            # Nobody else would put it to sleep.
            return False
        return trio.current_time() >= self.rest_at

    # The end.

    async def dismiss(self) -> None:
        """The runtime is closing: let nobody wait, end visits. Afterwards the mailbox holds the last reports."""
        self._held.refuse(shutting_down)
        self.runs.give_up()
        await self._end_visits()
        await self._children.wait_none()

    async def end_run(self) -> None:
        """End the run, on the record, if it would be lost.

        Raises:
            BrokenError: Its end could not be stored.
        """
        if self.runs.must_end:
            assert self.runs.run is not None
            await self._end_run(self.runs.run.run_id, RunEnd.STOPPED)
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
        self._refuse_waiting(self.broken)
        self.runs.give_up()
        await self._end_visits()
        await self._children.wait_none()
        if self.runs.must_end:
            assert self.runs.run is not None
            await stop(self.runs.run)
        await self.let_go()

    def take_postponed(self) -> list[Message]:
        """Return the messages that are for the next activation; they are its own now."""
        postponed, self.postponed = self.postponed, []
        return [*postponed]

    async def disown(self, report: Report) -> None:
        """Deal with a report that came too late for this activation and says nothing to the next."""
        if isinstance(report, RunReady) and not report.run.detachable:
            await stop(report.run)

    def drop(self) -> None:
        """Let go of whatever is left, without waiting: nothing after a proper end, else the process is ending."""
        self.settled = False
        self.dropped = True
        self._children.cancel()
        self.book.pull_all(CutBecause.RUN_ENDED)
        self._refuse_waiting(shutting_down)

    async def _end_visits(self) -> None:
        self.book.pull_all(CutBecause.RUN_ENDED)
        await wait_all_ended(self.book, self._around.limits.cut_timeout_s)

    def _refuse_waiting(self, error: Callable[[], PorticoError]) -> None:
        """Fail whoever waits for something that this activation will not do any more."""
        self._held.refuse(error)
        postponed, self.postponed = self.postponed, []
        destroyers, self._destroyers = self._destroyers, []
        for message in postponed:
            message.reply.fail(error())
        for reply in destroyers:
            reply.fail(error())

    def broken(self) -> ActorBrokenError:
        """Return what callers are told whose turn could not be made durable."""
        return ActorBrokenError(f"sandbox {self.sandbox} could not store a change and is being rebuilt; try again")
