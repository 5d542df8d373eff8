"""The run of one sandbox as its actor sees it: coming up, up, watched, let go.

Everything slow happens in children that report back as messages; nothing here waits.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from actors.children import Children
from actors.containers.base import Container, Run
from actors.errors import ContainerStartError
from actors.failures import where_raised
from actors.messages import Report, RunDue, RunFailed, RunGone, RunReady
from actors.revival import Revivals
from actors.sandbox.events import RunEnd
from actors.sandbox.ids import SandboxId

log = structlog.get_logger("portico.runs")


class Attempt:
    """A container being brought up: started anew, or an earlier run of it looked for."""

    __slots__ = ("by_policy", "done", "ending", "reattach", "run_id", "scope")

    def __init__(self, run_id: str, *, reattach: bool, by_policy: bool) -> None:
        self.run_id: Final = run_id
        self.by_policy: Final = by_policy
        self.reattach: Final = reattach
        self.scope: Final = trio.CancelScope()
        self.done: Final = trio.Event()
        """It has been reported what came of it."""
        self.ending: Callable[[Run], Awaitable[None]] | None = None
        """How the run is to be ended should it be found; None while it is wanted."""


class Falling:
    """A run on its way to sleep."""

    __slots__ = ("done", "failure")

    def __init__(self) -> None:
        self.done: Final = trio.Event()
        """Nothing of it is up any more."""
        self.failure: Exception | None = None
        """What went wrong on the way."""


class RunKeeper:
    """At most one run, and at most one being brought up."""

    __slots__ = (
        "_children",
        "_due",
        "_nursery",
        "_pausing",
        "_report",
        "_revivals",
        "_sandbox",
        "_start_timeout_s",
        "_up_since",
        "_watching",
        "coming_up",
        "run",
        "wanted_back",
        "wanted_since",
    )

    def __init__(
        self,
        sandbox: SandboxId,
        children: Children,
        nursery: trio.Nursery,
        report: Callable[[Report], None],
        start_timeout_s: float,
    ) -> None:
        """Begin with no run.

        Args:
            sandbox: For log lines.
            children: Run the waiting.
            nursery: Where runs keep tasks of their own.
            report: Puts a message into the actor's mailbox.
            start_timeout_s: How long a container may take to come up.
        """
        self._sandbox = sandbox
        self._children = children
        self._nursery = nursery
        self._report = report
        self._start_timeout_s = start_timeout_s
        self._watching: trio.CancelScope | None = None
        self._revivals = Revivals()
        self._due: str | None = None
        """The run that has ended by itself and is to come back, unless something else happens before."""
        self._pausing = trio.CancelScope()
        self.wanted_back = False
        """One that ended by itself is to come back, and none has come up since: whoever else tries to bring one up may
        fail, and the policy's own tries go on then."""
        self._up_since = trio.current_time()
        """When the run came up."""
        self.wanted_since = self._up_since
        """When a run came up that somebody had asked for, or when it was first possible to look for one, on trio's
        clock. One that came back by itself is no use."""
        self.run: Run | None = None
        """The run that is up. Invariant: its id is the state's, whenever no turn is under way."""
        self.coming_up: Attempt | None = None
        """Set from `bring_up` until the actor has dealt with its report, and called `came_up`."""

    def bring_up(self, container: Container, run_id: str, *, reattach: bool, by_policy: bool = False) -> None:
        """Start the container as `run_id`, or find that run again; a report says what came of it."""
        assert self.coming_up is None
        self._cancel_pause()
        self.coming_up = Attempt(run_id, reattach=reattach, by_policy=by_policy)
        self._children.start(self._bring_up, container, self.coming_up)

    def came_up(self) -> Attempt | None:
        """Note that the report has arrived; bringing up may begin again. Return what has come to its end."""
        attempt, self.coming_up = self.coming_up, None
        return attempt

    def call_off(self, ending: Callable[[Run], Awaitable[None]]) -> None:
        """Let nothing come of bringing up, as the run must not be; the report will be that it failed."""
        if self.coming_up is not None:
            self.coming_up.ending = ending
            # An earlier run must be found before it can be ended.
            if not self.coming_up.reattach:
                self.coming_up.scope.cancel()

    def come_back(self, run_id: str, *, ran: bool) -> None:
        """Have a report say, after a pause, that a run which ended by itself, or did not come up, is to come back.

        None comes if that was so too often, if another is brought up before, or after `stay_down`.
        """
        self.wanted_back = True
        pause_s = self._revivals.next_pause(trio.current_time() - self._up_since if ran else 0.0)
        if pause_s is None:
            log.error("run is not brought back any more", sandbox=self._sandbox, run=run_id)
            self.wanted_back = False
            return
        self._due = run_id
        self._pausing = trio.CancelScope()
        self._children.start(self._pause, run_id, pause_s, self._pausing)

    def take_due(self, run_id: str) -> bool:
        """Say whether that run is still to come back; it is not any more afterwards."""
        if self._due != run_id:
            # Late news of another; the one that is due has a report of its own.
            return False
        self._due = None
        return True

    def stay_down(self) -> None:
        """Let nothing come back by itself."""
        self.wanted_back = False
        self._cancel_pause()

    def _cancel_pause(self) -> None:
        self._due = None
        self._pausing.cancel()

    def give_up(self) -> None:
        """Stop bringing up, as nobody will be there to use it; an earlier run may go on by itself."""
        self.stay_down()
        if self.coming_up is not None:
            self.coming_up.scope.cancel()

    async def wait_quiet(self) -> None:
        """Block until nothing is being brought up or ended any more."""
        await self._children.wait_only(self._bring_up, *_ENDINGS)

    async def wait_ended(self) -> None:
        """Block until nothing is being ended any more."""
        await self._children.wait_only(*_ENDINGS)

    def welcome(self, run: Run, *, by_policy: bool = False) -> None:
        """Keep a run that is ready, and watch over it."""
        self.run = run
        self.wanted_back = False
        self._up_since = trio.current_time()
        if not by_policy:
            self.wanted_since = self._up_since
        self._watching = trio.CancelScope()
        self._children.start_unminded(self._watch, run, self._watching)

    def part_with(self, current: str | None, ending: Callable[[Run], Awaitable[None]] | None = None) -> Run | None:
        """Return the run, and forget it, unless it is the `current` one; call off a start that is not wanted.

        An earlier run that is being looked for is ended by `ending`, or stopped, once it is found.
        """
        if current is None:
            self.call_off(ending or stop)
        if self.run is None or self.run.run_id == current:
            return None
        run = self.run
        self.let_go()
        return run

    def stop_soon(self, run: Run) -> None:
        """End a run that nobody needs any more."""
        self._children.start(stop, run)

    def fall_asleep(self, run: Run) -> Falling:
        """Put a run to sleep that was parted with. The next one is brought up only after that."""
        falling = Falling()
        self._children.start(_lull_and_tell, run, falling)
        return falling

    def end_absent(self, container: Container, run_id: str, ending: Callable[[Run], Awaitable[None]]) -> None:
        """End a run that the log says was up, and that nobody has looked for since the activation began."""
        self._children.start(_end_absent, container, run_id, self._nursery, ending)

    def let_go(self) -> None:
        """Forget the run without ending it: it is to be found again, or somebody else ends it."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self.run = None

    @property
    def must_end(self) -> bool:
        """Whether the run would be lost if it were let go."""
        return self.run is not None and not self.run.detachable

    async def _bring_up(self, container: Container, attempt: Attempt) -> None:
        """Child: report a run, or why there is none."""
        try:
            self._report(await self._attempt(container, attempt))
        finally:
            attempt.done.set()

    async def _attempt(self, container: Container, attempt: Attempt) -> Report:
        """Return a run, or why there is none. Waits for what is left of the run before to end first."""
        run_id = attempt.run_id
        report: Report = RunFailed(run_id, "it was stopped while it came up")
        try:
            with attempt.scope, trio.fail_after(self._start_timeout_s):
                await self._children.wait_only(*_ENDINGS)
                if attempt.reattach:
                    run = await container.reattach(run_id, self._nursery)
                    report = RunGone(run_id, RunEnd.LOST) if run is None else RunReady(run)
                else:
                    report = RunReady(await container.start(run_id, self._nursery))
        except trio.TooSlowError:
            report = RunFailed(run_id, f"the container was not up within {self._start_timeout_s:g} seconds")
        except ContainerStartError as error:
            log.warning("container did not start", sandbox=self._sandbox, error=str(error))
            report = RunFailed(run_id, str(error))
        except Exception as error:  # noqa: BLE001  # logged, and the work goes on
            # Other people's code: whatever it was, the run did not come up, and the callers hear of it.
            log.error("container did not start", sandbox=self._sandbox, **where_raised(error))
            report = RunFailed(run_id, f"the container did not start ({type(error).__name__})")
        if isinstance(report, RunReady):
            # It may have come up in the moment in which it was called off or given up.
            given_up = attempt.scope.cancel_called and not report.run.detachable
            if attempt.ending is not None or given_up:
                await (attempt.ending or stop)(report.run)
                report = RunFailed(run_id, "it was stopped while it came up")
        return report

    async def _pause(self, run_id: str, pause_s: float, scope: trio.CancelScope) -> None:
        """Child: report that a pause is over."""
        with scope:
            await trio.sleep(pause_s)
            self._report(RunDue(run_id))

    async def _watch(self, run: Run, scope: trio.CancelScope) -> None:
        """Child: report when the run ends by itself."""
        with scope:
            try:
                reason = await run.wait_stopped()
            except Exception as error:  # noqa: BLE001  # logged, and the work goes on
                # Other people's code. A run that cannot be watched must not be taken for one that is up.
                log.error("run cannot be watched", sandbox=self._sandbox, run=run.run_id, **where_raised(error))
            else:
                log.info("run ended", sandbox=self._sandbox, run=run.run_id, reason=reason)
            self._report(RunGone(run.run_id, RunEnd.EXITED))


async def stop(run: Run) -> None:
    """End a run; what goes wrong is logged, as there is nobody left to tell."""
    try:
        await run.stop()
    except Exception as error:  # noqa: BLE001  # logged, and the work goes on
        # Containers are other people's code.
        log.error("run did not stop", run=run.run_id, **where_raised(error))


async def lull(run: Run) -> None:
    """Put a run to sleep; what goes wrong is logged."""
    try:
        await run.sleep()
    except Exception as error:  # noqa: BLE001  # logged, and the work goes on
        # As in `stop`: the run is over all the same.
        log.error("run did not fall asleep", run=run.run_id, **where_raised(error))


async def _lull_and_tell(run: Run, falling: Falling) -> None:
    """Child: put a run to sleep, and note how that went."""
    try:
        await run.sleep()
    except Exception as error:  # noqa: BLE001  # logged, and told to who waits
        log.error("run did not fall asleep", run=run.run_id, **where_raised(error))
        falling.failure = error
    finally:
        falling.done.set()


async def _end_absent(
    container: Container, run_id: str, nursery: trio.Nursery, ending: Callable[[Run], Awaitable[None]]
) -> None:
    """Child: find an earlier run and end it."""
    try:
        run = await container.reattach(run_id, nursery)
    except Exception as error:  # noqa: BLE001  # logged, and the work goes on
        # Taken as "it is not there", as everywhere.
        log.error("run cannot be looked for", run=run_id, **where_raised(error))
        return
    if run is not None:
        await ending(run)


# Children that the next run waits for.
_ENDINGS: Final = (stop, _lull_and_tell, _end_absent)
