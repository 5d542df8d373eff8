"""The actor of one sandbox: its mailbox, and the task that takes the messages out of it one by one.

It outlives its activations. An activation that has had nothing to do leaves memory; one whose append failed is
dropped and rebuilt from the log, ever more slowly; and messages that arrive meanwhile wait here, in their order.

Most messages never wait. When no turn is under way and nothing waits before it, a turn is taken at once, in the
caller's own task, which saves two switches between tasks:

- Admitting a visit changes no state and awaits nothing, so `admit_nowait` is a plain call. That is the same as a
  turn of its own: in trio nothing else runs during a call without an await.
- A command awaits its append. While it does the activation is not `settled`, so nobody else takes a turn, and this
  task leaves the mailbox alone; what arrives meanwhile waits there, in its order.
"""

import math
from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.activation import Activation
from actors.containers.base import Run
from actors.core.lifecycle import Happening, Phase, after
from actors.core.mailbox import Lane, Mailbox
from actors.core.supervision import WINDOW_S, Breakages
from actors.errors import (
    LogCorruptError,
    MailboxFullError,
    PorticoError,
    QuarantinedError,
    StoreError,
    UnknownRecordError,
)
from actors.failures import where_raised
from actors.messages import (
    ActorGoneError,
    Admit,
    Asked,
    BrokenError,
    Call,
    Done,
    Lease,
    Look,
    Message,
    NeedRun,
    Reply,
    Report,
    shutting_down,
)
from actors.sandbox.admission import RefusedBecause, VisitRequest
from actors.sandbox.decide import REVOCATIONS, Command
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SandboxState, next_alarm
from actors.surroundings import Surroundings
from actors.visits import Visit, pull, wait_cut

log = structlog.get_logger("portico.actor")

CLOCK_POLL_S: Final = 0.001
"""How soon to look again when an alarm was waited for and the wall clock is not there yet."""


class Actor:
    """One sandbox's actor. `run` is its task; everything else is called from other tasks."""

    def __init__(self, sandbox: SandboxId, around: Surroundings) -> None:
        self.sandbox: Final = sandbox
        self.phase = Phase.DORMANT
        self._around: Final = around
        self._mailbox: Final[Mailbox[Message]] = Mailbox(around.limits.mailbox_room, around.limits.mailbox_reserve)
        self._room_lot = trio.lowlevel.ParkingLot()
        self._breakages: Final = Breakages()
        self._activation: Activation | None = None
        # Invariant: not None if and only if ACTIVE.
        self._closing = False
        self._gone = False
        # How to refuse everything, while QUARANTINED.
        self._sentence: Callable[[], PorticoError] | None = None
        self._parked: trio.lowlevel.Task | None = None
        # A caller takes a turn in its own task; this one must not.
        self._lent = False
        # What broke the activation in a lent turn, for this task to mend.
        self._broken: BrokenError | None = None

    # What other tasks call.

    def admit_nowait(self, request: VisitRequest) -> Visit | RefusedBecause | None:
        """Judge a visit as a plain call, or return None if it must wait its turn (`admit`).

        Raises:
            TooManyVisitsError: The sandbox has all the visits it may have.
        """
        activation = self._idle_activation()
        return None if activation is None else activation.judge(request)

    async def admit(self, request: VisitRequest, *, client: str | None = None, size: int = 0) -> Visit | RefusedBecause:
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
        self._post(Admit(request, reply, client, size), Lane.ORDINARY)
        return await reply.wait()

    async def call(self, command: Command, *, drain: float = 0.0) -> Done:
        """Have a command decided, made durable and carried out; return once all of that is true.

        Revocations return after the visits that leaned on what was revoked have ended. Cancelling a command
        whose turn has come does not undo it; if its append is under way in this task, the outcome is waited for.

        Args:
            command: What is wanted.
            drain: For an `UnexposePort`: seconds that visits under way may go on.

        Raises:
            PorticoError: It was refused; see `decide`.
            RetryableError: Too much waits, or the actor broke: ask `look` what became of it.
            RevocationIncompleteError: Visits that were cut did not end in time.
            ActorGoneError: It left memory while this waited for room: call its successor.
        """
        reply: Reply[Done] = Reply()
        message = Call(command, reply, drain)
        activation = self._idle_activation()
        # If the task is not parked it is at work: it compacts the log, or has been woken for something.
        if activation is not None and self._parked is not None:
            await self._lend_turn(activation, message)
            if activation.dropped:
                # A caller that was cancelled with the runtime is that, and not refused.
                await trio.lowlevel.checkpoint_if_cancelled()
        elif isinstance(command, REVOCATIONS):
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
        activation = self._activation
        if activation is not None and activation.settled and not self._mailbox:
            return activation.visible_state
        reply: Reply[SandboxState | None] = Reply()
        self._post(Look(reply), Lane.ORDINARY)
        return await reply.wait()

    async def cut_bound(self, bindings: frozenset[int]) -> int:
        """End the visits that came by custom hostnames of these bindings, and wait for it; return how many.

        The table of hostnames is nobody's state but its own, so this is no turn: whoever changes it has done so.

        Raises:
            RevocationIncompleteError: Some did not end in time.
        """
        activation = self._activation
        if activation is None:
            # Visits end before their activation does.
            return 0
        ended = activation.book.come_by(bindings)
        pull(ended)
        cut, remaining = await wait_cut(ended, self._around.limits.cut_timeout_s)
        if remaining:
            raise activation.endings.incomplete(remaining)
        return cut

    def close(self) -> None:
        """Have the actor end its visits and its run, let go of the log, and take no more messages."""
        self._closing = True
        self._wake()

    @property
    def visits(self) -> int:
        """How many visits are under way."""
        return 0 if self._activation is None else len(self._activation.book)

    @property
    def live_run(self) -> Run | None:
        """The run that is up, if one is; for those who only look."""
        return None if self._activation is None else self._activation.runs.run

    @property
    def sleeping_run(self) -> Run | None:
        """The run that sleeps with its processes still there, if one does; for those who only look."""
        return None if self._activation is None else self._activation.sleeping_run

    def _idle_activation(self) -> Activation | None:
        """Return the activation if a turn can be taken at once."""
        activation = self._activation
        if activation is None or not activation.settled or self._mailbox or self._closing:
            return None
        return activation

    async def _lend_turn(self, activation: Activation, message: Call) -> None:
        """Take a turn in the caller's task. Its reply is given, or a child will give it."""
        self._lent = True
        try:
            # The turn is the actor's: it goes on although its caller may not.
            with trio.CancelScope(shield=True):
                await activation.turn(message)
        except BrokenError as broken:
            self._broken = broken
        except BaseException:
            # A signal's exception: nobody knows how far the turn has come.
            self._broken = BrokenError(StoreError("a change of state was interrupted"))
            raise
        finally:
            self._lent = False
            if self._broken is not None or self._mailbox or self._closing or activation.wants_attention():
                self._wake()

    def _report(self, report: Report) -> None:
        self._offer(report, Lane.INTERNAL)

    def _post(self, message: Asked, lane: Lane) -> None:
        if not self._offer(message, lane):
            raise MailboxFullError(f"too many messages wait for sandbox {self.sandbox}")

    def _offer(self, message: Asked | Report, lane: Lane) -> bool:
        if lane is not Lane.INTERNAL:
            if self._gone:
                raise ActorGoneError
            if self._closing:
                raise shutting_down()
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
                await self._activate()
                # Somebody must remember that it broke, or each caller would find an actor without a past.
                while not (self._closing or self._mailbox) and trio.current_time() < self._breakages.remembered_until:
                    await self._park_until(self._breakages.remembered_until)
                if self._closing or not self._mailbox:
                    return
        finally:
            # Without an await between the last look at the mailbox and this, no message can fall between two
            # actors. What is left here waits for an actor that is being cancelled, or is closing.
            self._gone = True
            self._around.forget(self.sandbox)
            self._refuse_all(shutting_down)

    async def _activate(self) -> None:
        """Live through one activation, from dormant to dormant."""
        self._step(Happening.CALLED)
        activation = Activation(self.sandbox, self._around, self._report)
        try:
            broken = await self._live_through(activation)
            self._activation = None
            # They were taken before whatever waits now.
            self._mailbox.put_back(activation.take_postponed())
            if broken is None:
                self._step(Happening.RESTED)
                await activation.let_go()
                self._step(Happening.RELEASED)
            else:
                await self._mend(activation, broken)
        finally:
            self._activation = None
            activation.drop()

    async def _live_through(self, activation: Activation) -> StoreError | None:
        """Load the activation and let it take turns until it rests; return what broke it, if something did."""
        try:
            await activation.load()
            self._step(Happening.LOADED)
            self._activation = activation
            await self._live(activation)
        except BrokenError as broken:
            return broken.cause
        except Exception as error:  # noqa: BLE001  # logged, and the work goes on
            # A bug, or a container that failed where it must not. It must not take the neighbours down.
            log.error("actor failed", sandbox=self.sandbox, **where_raised(error))
            return StoreError("an internal error; the server's log says more")
        return None

    def _step(self, happening: Happening) -> None:
        self.phase = after(self.phase, happening)

    async def _live(self, activation: Activation) -> None:
        """Take turns until it is time to rest."""
        while True:
            while self._lent:
                await self._park_until(math.inf)
            if self._broken is not None:
                broken, self._broken = self._broken, None
                raise broken
            while self._mailbox and not activation.cleared:
                message = self._mailbox.take()
                if self._room_lot:
                    self._room_lot.unpark()
                await activation.turn(message)
            if activation.cleared or activation.may_rest():
                return
            await activation.compact_if_grown()
            await activation.fire_due_alarm()
            await activation.sleep_if_idle()
            if self._mailbox:
                continue
            if self._closing:
                await self._wind_up(activation)
                return
            await self._park(activation)

    async def _wind_up(self, activation: Activation) -> None:
        """End what is under way, on the record; from outside no messages come any more."""
        await activation.dismiss()
        while self._mailbox:
            await activation.turn(self._mailbox.take())
        await activation.end_run()

    async def _park(self, activation: Activation) -> None:
        """Wait for a message, an alarm, or the time to sleep or to rest."""
        now = trio.current_time()
        deadline = activation.look_again_at(now)
        due = next_alarm(activation.state)
        if due is not None:
            # Never early: `decide` judges by the wall clock, and a clock that lags is asked again.
            deadline = min(deadline, now + max(due - self._around.clock(), CLOCK_POLL_S))
        await self._park_until(deadline)

    async def _park_until(self, deadline: float) -> None:
        """Wait for a message, `close`, or the time, in seconds of trio's clock."""
        with trio.move_on_at(deadline):
            self._parked = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._unpark)

    def _unpark(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        # At once, not when the task runs again: a message that comes in between must not wake it a second time.
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        if self._parked is not None:
            task, self._parked = self._parked, None
            trio.lowlevel.reschedule(task)

    async def _mend(self, activation: Activation, cause: StoreError) -> None:
        """Drop a broken activation; wait before the next one, or quarantine the sandbox."""
        log.error("actor broken", sandbox=self.sandbox, error=str(cause), code=cause.code)
        self._step(Happening.LOAD_FAILED if self.phase is Phase.LOADING else Happening.APPEND_FAILED)
        await activation.abandon()
        for report in self._mailbox.withdraw(_is_report):
            assert isinstance(report, Report)
            await activation.disown(report)
        now = trio.current_time()
        # A log that cannot be read will not get better by being read again.
        permanent = isinstance(cause, LogCorruptError | UnknownRecordError)
        delay = None if permanent else self._breakages.note(now)
        if delay is not None:
            await self._sit_out(now + delay)
            self._step(Happening.RELEASED)
            return
        self._step(Happening.BROKE_TOO_OFTEN)
        self._sentence = (lambda: _again(cause)) if permanent else self._quarantined
        self._refuse_all(self._sentence)
        await self._sit_out(now + WINDOW_S)
        self._sentence = None
        self._step(Happening.SERVED_TIME)

    async def _sit_out(self, until: float) -> None:
        """Wait, whatever arrives; only closing cuts it short."""
        while not self._closing and trio.current_time() < until:
            await self._park_until(until)

    def _refuse_all(self, error: Callable[[], Exception]) -> None:
        while self._mailbox:
            message = self._mailbox.take()
            if isinstance(message, Asked):
                message.reply.fail(error())
        self._room_lot.unpark_all()


def _is_report(message: Message) -> bool:
    return isinstance(message, Report)


def _again(cause: StoreError) -> StoreError:
    """Return an error like `cause` for another caller: one exception object must not gather many tracebacks."""
    if isinstance(cause, LogCorruptError):
        return LogCorruptError(str(cause), offset=cause.offset)
    return type(cause)(str(cause))
