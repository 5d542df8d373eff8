"""The real runtime on real files does what the pure model says, whatever happens to it in between.

The rules and laws are those of `SandboxMachine`; each step is taken by the runtime too. What is added is what only a
runtime can suffer: leaving memory, being closed, crashing between two steps, in the middle of an append, and between
the destruction of a sandbox and its end. After each step the log on disk, the actor in memory and the visits under
way are what the model says.

The runtime lives in a trio thread of its own, on a clock that stands still unless the model's moves.
"""

import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from actors.containers.base import ContainerContext
from actors.core.record import scan
from actors.errors import ContainerStartError, PorticoError, SandboxNotFoundError
from actors.filestore import FileStore
from actors.history import Moment, read_history
from actors.messages import Done
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import NEEDS_WAKE, Admission, CutBecause, Grant, RefusedBecause, VisitRequest
from actors.sandbox.decide import (
    SLEEP_AFTER_S,
    BeginRun,
    Command,
    CreateSandbox,
    DestroySandbox,
    EndRun,
    ExposePort,
    FireAlarm,
    Hibernate,
    NoteExit,
    Refusal,
)
from actors.sandbox.events import Event, RunEnd, RunEnded
from actors.sandbox.state import SandboxState, Status, next_alarm
from actors.surroundings import Limits
from actors.testing.containers import FakeContainer, FakeContainers, FakeRun
from actors.testing.machine import HeldVisit, SandboxMachine
from actors.testing.strategies import NOW, PORT_TOKENS, PORTS, SANDBOX, changes, creations
from actors.visits import Visit

LIMITS = Limits(rest_after_s=20.0, compact_records=7, compact_bytes=100, wakes_per_minute=10**6)
"""So small that actors leave memory and logs are compacted many times in one life."""

T = TypeVar("T")
P = ParamSpec("P")


class LeavesOnCue(FakeContainer):
    """A container whose removal waits while its factory says so."""

    def __init__(self, factory: "FakesOnCue") -> None:
        super().__init__({})
        self.factory = factory
        self.start_error = factory.start_error

    async def remove(self) -> None:
        await self.factory.may_remove.wait()
        await super().remove()


class FakesOnCue(FakeContainers):
    def __init__(self) -> None:
        super().__init__()
        self.may_remove = trio.Event()
        self.may_remove.set()
        self.every: list[FakeContainer] = []
        self.start_error: str | None = None

    def __call__(self, context: ContainerContext, options: Mapping[str, object]) -> FakeContainer:
        # The model knows nothing of what options mean.
        container = LeavesOnCue(self)
        self.made[context.sandbox] = container
        self.every.append(container)
        return container


class RealWorld:
    """A runtime on a folder, and a thread with a trio loop in which it lives. What is public is called from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wall = NOW
        self._clock = trio.testing.MockClock()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), kwargs={"clock": self._clock})
        self._thread.start()
        self._ready.wait()
        self.open()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._ready.set()
            await self._end.wait()

    def _run(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        async def call() -> T:
            return await function(*args, **kwargs)

        return trio.from_thread.run(call, trio_token=self._token)

    # Its life.

    def open(self) -> None:
        self.containers = FakesOnCue()
        opened: tuple[Runtime, trio.CancelScope, trio.Event] = self._run(self._nursery.start, self._hold)
        self.runtime, self._scope, self._closed = opened

    async def _hold(self, task_status: trio.TaskStatus[tuple[Runtime, trio.CancelScope, trio.Event]]) -> None:
        self._close, closed = trio.Event(), trio.Event()
        self.store = FileStore(self.folder)
        kinds = {"process": self.containers, "address": self.containers}
        with trio.CancelScope() as scope:
            async with open_runtime(self.store, containers=kinds, limits=LIMITS, clock=lambda: self.wall) as runtime:
                task_status.started((runtime, scope, closed))
                await self._close.wait()
        closed.set()

    def close(self) -> None:
        self._run(self._end_runtime, self._close.set)

    def crash(self) -> None:
        """Drop the runtime. What it had made durable is all there is; nothing is written by the fall."""
        before = self.log_bytes()
        self._run(self._end_runtime, self._scope.cancel)
        assert self.log_bytes() == before, "a runtime that is cancelled writes nothing more"

    async def _end_runtime(self, end: Callable[[], None]) -> None:
        end()
        await self._closed.wait()

    def leave(self) -> None:
        """End the runtime and the thread."""
        self.crash()
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join()

    # Looking at it.

    def log_path(self) -> Path | None:
        return next(iter(self.folder.glob(f"sandboxes/*/{SANDBOX}.log")), None)

    def log_bytes(self) -> bytes:
        """The log without the room behind it, which is cut off when the log is let go."""
        path = self.log_path()
        if path is None:
            return b""
        data = path.read_bytes()
        return data[: scan(data, SANDBOX).used_length]

    def history(self) -> list[Moment]:
        """What the log on disk says; empty if there is none."""
        try:
            return self._run(read_history, self.store, SANDBOX)
        except SandboxNotFoundError:
            return []

    @property
    def in_memory(self) -> bool:
        return self.runtime.statistics().actors > 0

    def look(self) -> SandboxState | None:
        """Ask the actor, which is loaded if need be."""
        return self._run(self._look)

    async def _look(self) -> SandboxState | None:
        return await self.runtime.actor(SANDBOX).look() if self.runtime.exists(SANDBOX) else None

    def settle(self) -> None:
        """Wait until nothing goes on any more: every actor waits for a message or for time to pass."""
        self._run(self._settle)

    async def _settle(self) -> None:
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if all(actor._parked is not None and not actor._lent for actor in self.runtime._actors.values()):
                return

    # What is done to it.

    def command(self, command: Command) -> Done | PorticoError:
        try:
            if isinstance(command, CreateSandbox):
                self._run(self._create, command)
                return Done(None)
            return self._run(self.runtime.call, SANDBOX, command)
        except PorticoError as refused:
            return refused

    async def _create(self, command: CreateSandbox) -> None:
        # Past `get_sandbox`, which draws a seal of its own.
        await self.runtime._actor(SANDBOX).call(command)

    def admit(self, request: VisitRequest) -> Visit | RefusedBecause:
        return self._run(self._admit, request)

    async def _admit(self, request: VisitRequest) -> Visit | RefusedBecause:
        admitted = await self.runtime.admit(SANDBOX, request)
        if isinstance(admitted, Visit):
            visit = admitted

            def end(_: CutBecause) -> None:
                visit.end()

            # A well-behaved holder.
            visit.on_cut(end)
        return admitted

    @property
    def starts(self) -> int:
        """How often a container was asked to start since the runtime was opened."""
        return sum(len(container.starts) for container in self.containers.every)

    def end_visit(self, visit: Visit) -> None:
        trio.from_thread.run_sync(visit.end, trio_token=self._token)

    def wake(self) -> str:
        """Bring the container up, or find it up; return the run's id."""
        return self._run(self._wake)

    async def _wake(self) -> str:
        lease = await self.runtime.actor(SANDBOX).lease_run()
        lease.release()
        return lease.run.run_id

    def end_run(self) -> None:
        run = self.containers.made[SANDBOX].run
        assert isinstance(run, FakeRun)
        trio.from_thread.run_sync(run.end, trio_token=self._token)

    def pass_time(self, seconds: float) -> None:
        trio.from_thread.run_sync(self._clock.jump, seconds, trio_token=self._token)

    def begin_destruction(self) -> None:
        """Destroy the sandbox, but do not let its container go."""
        self._run(self._begin_destruction)

    async def _begin_destruction(self) -> None:
        self.containers.may_remove = trio.Event()
        self._nursery.start_soon(self._destroy)

    async def _destroy(self) -> None:
        try:
            await self.runtime.call(SANDBOX, DestroySandbox())
        except PorticoError:
            # The crash that the test is about comes before the answer.
            return


class RuntimeMachine(SandboxMachine):
    """A `SandboxMachine` whose every step the runtime takes too."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="portico-test-"))
        self.real = RealWorld(self.root / "data")
        # {what the model knows of a visit: the real one}
        self.visits: dict[HeldVisit, Visit] = {}
        # The run of the state was up when the runtime crashed; the runtime will find that out when it is needed.
        self.lost = False
        # When the model last saw somebody use the sandbox.
        self.used_at = self.now

    def teardown(self) -> None:
        self.real.leave()
        shutil.rmtree(self.root)

    # Steps.

    def do(self, command: Command) -> tuple[Event, ...] | Refusal:
        """Have the model and then the runtime do it."""
        there = self.state is not None
        held = len(self.held)
        decided = super().do(command)
        done = self.real.command(command)
        expected, cut = self.state, held - len(self.held)
        self.settle()
        if isinstance(decided, Refusal):
            assert isinstance(done, PorticoError), f"the runtime did not refuse {command!r}"
            if there:
                assert (type(done), str(done)) == (decided.reason.value, decided.text)
        elif there or decided:
            assert isinstance(done, Done), f"the runtime refused {command!r}: {done!r}"
            if not isinstance(command, CreateSandbox | DestroySandbox):
                assert done.state == expected
            assert done.cut == cut, "the visits that were cut are counted"
        if self.state is None or self.state.run_id is None:
            self.lost = False
        return decided

    def model_does(self, command: Command) -> None:
        """Let the model follow what the runtime did of itself."""
        assert not isinstance(super().do(command), Refusal)

    def settle(self) -> None:
        """Wait for the runtime, and follow it: an alarm that is due fires as soon as there is an actor.

        And a sandbox that nobody uses goes to sleep.
        """
        self.real.settle()
        if self.held:
            self.used_at = self.now
        due = next_alarm(self.state)
        if due is not None and due <= self.now and self.real.in_memory:
            self.model_does(FireAlarm())
        self.follow_into_sleep()

    def follow_into_sleep(self) -> None:
        """See whether the runtime has put the sandbox to sleep for want of use; it must have had the right to."""
        if self.state is None or self.state.run_id is None:
            return
        moments = self.real.history()
        slept = RunEnded(self.state.run_id, RunEnd.SLEPT)
        if any(moment.event == slept for moment in moments) or (moments and moments[-1].state.run_id is None):
            allowed = self.state.sleep_after
            assert allowed is not None, "it was never to sleep by itself"
            assert not self.held, "it was put to sleep under a live visit"
            assert self.now - self.used_at >= allowed, (
                f"it was put to sleep {self.now - self.used_at} s after its last use"
            )
            self.model_does(Hibernate())
            self.lost = False

    def let_an_overdue_alarm_fire(self) -> None:
        """Load the actor for it; otherwise it fires somewhere between the steps of bringing a run up."""
        due = next_alarm(self.state)
        if due is not None and due <= self.now:
            self.real.look()
            self.settle()

    def visit(self, request: VisitRequest) -> Admission:
        if request.binding is not None:
            # Whether a hostname is bound, its table says, which the model does not have: to the runtime, none is.
            assert self.real.admit(request) is RefusedBecause.INVALID_TOKEN
            return self.admit(request)
        self.let_an_overdue_alarm_fire()
        self.find_out_what_was_lost(only_for=request)
        answer = super().visit(request)
        starts = self.real.starts
        real = self.real.admit(request)
        assert answer == NEEDS_WAKE or self.real.starts == starts, "only a right credential wakes"
        if answer == NEEDS_WAKE:
            assert isinstance(real, Visit), f"it was to be woken, not to answer {real}"
            self.model_does(BeginRun(real.run.run_id))
            self.used_at = self.now
            answer = super().visit(request)
        if isinstance(answer, Grant):
            assert isinstance(real, Visit), f"it was to be let in, not to be refused: {real}"
            assert real.grant == answer
            newest = self.held[-1]
            if newest not in self.visits:
                self.visits[newest] = real
            else:
                # The model follows no more than so many.
                self.real.end_visit(real)
        else:
            assert real == answer
        self.settle()
        return answer

    def find_out_what_was_lost(self, *, only_for: VisitRequest | None = None) -> None:
        """Whoever needs the run makes the runtime look for it; it is gone, as fakes die with their process."""
        if not self.lost or (only_for is not None and not isinstance(self.admit(only_for), Grant)):
            return
        assert self.state is not None
        assert self.state.run_id is not None
        self.model_does(EndRun(self.state.run_id, RunEnd.LOST))
        self.lost = False

    def come_back(self) -> None:
        """After a crash or a close: nobody is inside any more."""
        self.held = []
        self.visits.clear()
        self.lost = self.state is not None and self.state.run_id is not None
        self.real.open()

    # What can happen, where the runtime does it in its own way.

    @initialize(command=creations(), lived_in=st.booleans())
    def is_created(self, command: CreateSandbox, lived_in: bool) -> None:
        """Half of the sandboxes have a visitor from the beginning: lives are short here."""
        self.do(command)
        if lived_in:
            self.do(ExposePort(PORTS[0], minted=PORT_TOKENS[0]))
            self.begin_run()
            assert self.state is not None
            self.visit(VisitRequest(PORTS[0], PORT_TOKENS[0], self._secrets(self.state)[0]))

    def take_snapshot(self) -> None:
        """Not a rule here: the runtime takes snapshots of its own accord."""

    def stale_news_of_a_run(self) -> None:
        """Not a rule here: the runtime's news of runs come from its containers."""

    def service_exits(self) -> None:
        """Not a rule here: as above."""

    @precondition(lambda self: self.lives)
    @rule()
    def begin_run(self) -> None:
        self.let_an_overdue_alarm_fire()
        self.find_out_what_was_lost()
        self.model_does(BeginRun(self.real.wake()))
        self.used_at = self.now
        self.settle()

    @precondition(lambda self: self.lives and self.state.run_id is not None and not self.lost)
    @rule()
    def end_run(self) -> None:
        assert self.state is not None
        assert self.state.run_id is not None
        self.real.end_run()
        self.model_does(EndRun(self.state.run_id, RunEnd.EXITED))
        self.settle()

    @precondition(lambda self: self.lives and (self.state.run_id is None or self.lost))
    @rule()
    def container_does_not_start(self) -> None:
        self.let_an_overdue_alarm_fire()
        self.find_out_what_was_lost()
        self.real.look()
        container = self.real.containers.made[SANDBOX]
        container.start_error = "no room"
        with pytest.raises(ContainerStartError, match="no room"):
            self.real.wake()
        container.start_error = None
        self.model_does(BeginRun(container.starts[-1]))
        self.model_does(EndRun(container.starts[-1], RunEnd.FAILED))
        self.settle()

    @rule(seconds=st.sampled_from([0.25, 1.0, 30.0, 4000.0]))
    def pass_time(self, seconds: float) -> None:
        super().pass_time(seconds)
        self.real.wall = self.now
        self.real.pass_time(seconds)
        self.settle()
        if seconds > SLEEP_AFTER_S and self.lives and not self.held and self.real.in_memory:
            assert self.state is not None
            assert self.state.run_id is None or self.state.sleep_after is None, "nobody has used it for long enough"

    @precondition(lambda self: self.state is not None and not self.held and next_alarm(self.state) is None)
    @rule()
    def leave_memory(self) -> None:
        self.pass_time(4000.0)
        if self.state is not None and self.state.run_id is not None and not self.lost and self.real.in_memory:
            self.end_run()
        self.pass_time(LIMITS.rest_after_s)
        self.pass_time(LIMITS.rest_after_s)
        assert not self.real.in_memory

    @precondition(lambda self: self.state is not None and len(self.log) >= 12)
    @rule()
    def destroy(self) -> None:
        super().destroy()
        # The runtime has cleared it away before it answers.
        self.forget()

    @precondition(lambda self: self.state is not None and len(self.log) >= 6)
    @rule()
    def crash_before_it_is_cleared_away(self) -> None:
        self.real.look()
        self.settle()
        self.real.begin_destruction()
        self.real.settle()
        self.model_does(DestroySandbox())
        self.real.crash()
        self.forget()
        self.come_back()

    @rule(command=creations())
    def create_again(self, command: CreateSandbox) -> None:
        self.do(command)

    @rule()
    def restart(self) -> None:
        """Close properly: the run is ended on the record."""
        running = self.state is not None and self.state.run_id is not None and not self.lost
        self.real.close()
        if running:
            assert self.state is not None
            assert self.state.run_id is not None
            self.model_does(EndRun(self.state.run_id, RunEnd.STOPPED))
        self.come_back()

    @rule()
    def crash(self) -> None:
        self.real.crash()
        self.come_back()

    @precondition(lambda self: self.lives)
    @rule(command=changes(), share=st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.99, 1.0]))
    def crash_in_the_middle_of_a_change(self, command: Command, share: float) -> None:
        # The runtime begins and ends runs itself.
        if not isinstance(command, BeginRun | EndRun | NoteExit):
            self.crash_in_the_middle(command, share)

    @precondition(lambda self: self.state is None)
    @rule(command=creations(), share=st.sampled_from([0.0, 0.01, 0.3, 0.6, 0.99, 1.0]))
    def crash_in_the_middle_of_a_creation(self, command: CreateSandbox, share: float) -> None:
        self.crash_in_the_middle(command, share)

    def crash_in_the_middle(self, command: Command, share: float) -> None:
        """Let only the first part of what the command appended have reached the disk."""
        self.real.look()
        self.settle()
        before = self.real.log_bytes()
        self.real.command(command)
        self.real.settle()
        after = self.real.log_bytes()
        self.real.crash()
        kept = after
        # A compaction may have followed; what it replaced is whole or not, never torn.
        if after.startswith(before):
            kept = after[: len(before) + int(share * (len(after) - len(before)))]
            path = self.real.log_path()
            if path is not None:
                path.write_bytes(kept)
        if kept == after:
            super().do(command)
        self.come_back()

    # Laws.

    @invariant()
    def the_log_on_disk_is_the_models(self) -> None:
        moments = self.real.history()
        events = [moment.event for moment in moments if moment.event is not None]
        state = moments[-1].state if moments else None
        if self.state is None:
            # Nothing, or one that a crash kept from being cleared away.
            assert state is None or state.status is Status.DESTROYED
            return
        assert state == self.state
        assert events == self.log[len(self.log) - len(events) :]

    @invariant()
    def whoever_asks_is_told_the_models_state(self) -> None:
        # Not to be asked when it is not in memory: that would bring it back, and hide what leaving memory does.
        if self.real.in_memory:
            assert self.real.look() == self.state

    @invariant()
    def visits_end_when_the_model_says_and_not_before(self) -> None:
        for held, visit in [*self.visits.items()]:
            if held in self.held:
                assert visit.under_way, f"{held} was cut: {visit.cut_because}"
            else:
                assert visit.cut_because is not None, f"{held} goes on"
                del self.visits[held]
        assert self.real.runtime.statistics().visits == len(self.held)


TestRuntimeAgrees = pytest.mark.slow(RuntimeMachine.TestCase)
TestRuntimeAgrees.settings = settings(
    # A runtime on real files costs more than a dictionary: fewer and shorter lives than elsewhere.
    max_examples=settings().max_examples // 3,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)
