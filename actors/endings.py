"""The slow ends of things: children of an activation that wait for visits and runs to be over, then answer.

The turn that began them has made its change durable and pulled the cords; what is left is waiting, and telling the
caller how it went. They change no state.
"""

from typing import Final

import structlog

from actors.containers.base import Container, Run
from actors.errors import PorticoError, RevocationIncompleteError
from actors.failures import as_container_error, where_raised
from actors.messages import Cleared, Done, Reply, shutting_down
from actors.runs import Attempt, Falling, RunKeeper
from actors.sandbox.ids import SandboxId
from actors.sandbox.state import SandboxState, Status
from actors.surroundings import Surroundings
from actors.visits import Ending, VisitBook, wait_cut

log = structlog.get_logger("portico.endings")


class Endings:
    """Waits for the ends of one activation's visits and runs."""

    __slots__ = ("_book", "_cut_timeout_s", "_give_back", "_runs", "_sandbox")

    def __init__(self, sandbox: SandboxId, book: VisitBook, runs: RunKeeper, around: Surroundings) -> None:
        self._sandbox: Final = sandbox
        self._book: Final = book
        self._runs: Final = runs
        self._cut_timeout_s: Final = around.limits.cut_timeout_s
        self._give_back: Final = around.give_back

    async def finish_revocation(
        self,
        reply: Reply[Done],
        state: SandboxState | None,
        ended: list[Ending],
        run: Run | None,
        container: Container | None,
        drain: float,
    ) -> None:
        """Child: wait until what was revoked has ended, then answer."""
        try:
            if drain > 0:
                await self._book.drain(ended, drain)
            cut, remaining = await wait_cut(ended, self._cut_timeout_s)
            if state is not None and state.status is Status.STOPPED:
                await self._runs.wait_quiet()
            try:
                if run is not None:
                    await run.stop()
            finally:
                # What it keeps of its services is secret, and of no use any more, however the run has ended.
                if state is not None and state.status is Status.STOPPED and container is not None:
                    await container.retire()
        except Exception as error:  # noqa: BLE001  # logged, and the work goes on
            # The container's doing: the state has changed all the same, and the caller hears why it is untidy.
            log.error("run did not stop", sandbox=self._sandbox, **where_raised(error))
            reply.fail(as_container_error(error))
        except BaseException:
            reply.fail(shutting_down())
            raise
        else:
            self._answer(reply, state, cut, remaining)

    async def finish_sleep(
        self,
        reply: Reply[Done],
        state: SandboxState | None,
        ended: list[Ending],
        falling: Falling | None,
        called_off: Attempt | None,
    ) -> None:
        """Child: wait until the visits have ended and the run is asleep, then answer.

        The run may have been coming up, and be `called_off`. The next one, for whoever comes meanwhile, is not waited
        for: nobody would be told that the sandbox sleeps until it is up again.
        """
        try:
            cut, remaining = await wait_cut(ended, self._cut_timeout_s)
            if falling is not None:
                await falling.done.wait()
            if called_off is not None:
                await called_off.done.wait()
            await self._runs.wait_ended()
        except BaseException:
            reply.fail(shutting_down())
            raise
        if falling is not None and falling.failure is not None:
            reply.fail(as_container_error(falling.failure))
        else:
            self._answer(reply, state, cut, remaining)

    async def clear(self, container: Container, ended: list[Ending], run: Run | None) -> Cleared:
        """End and remove what a destroyed sandbox has left; return what to report.

        The log comes last, in a turn: while there is one the name is taken, so nobody inherits what is not given back.
        """
        cut, remaining = await wait_cut(ended, self._cut_timeout_s)
        failure = await self._give_all_back()
        try:
            if run is not None:
                await run.stop()
            await self._runs.wait_quiet()
            await container.remove()
        except Exception as error:  # noqa: BLE001  # logged, and the work goes on
            # The container's doing. The next activation tries again.
            log.error("container not removed", sandbox=self._sandbox, **where_raised(error))
            failure = failure or str(as_container_error(error))
        return Cleared(cut, remaining, failure)

    async def _give_all_back(self) -> str | None:
        """Give back what the sandbox has outside its log; return why that did not succeed, None if it did."""
        try:
            await self._give_back(self._sandbox)
        except RevocationIncompleteError:
            # Expected, and counted already: the visits that do not end are this sandbox's own.
            return None
        except PorticoError as error:
            # The next activation tries again, before the name is free for another.
            log.error("a destroyed sandbox's hostnames were not given back", sandbox=self._sandbox, error=str(error))
            return f"its hostnames could not be given back: {error}"
        return None

    def incomplete(self, remaining: int) -> RevocationIncompleteError:
        """Return what callers are told who wait for the end of visits that do not end."""
        text = f"{remaining} visits of sandbox {self._sandbox} were told to end and have not yet"
        return RevocationIncompleteError(text, remaining=remaining)

    def _answer(self, reply: Reply[Done], state: SandboxState | None, cut: int, remaining: int) -> None:
        if remaining:
            reply.fail(self.incomplete(remaining))
        else:
            reply.resolve(Done(state, cut))
