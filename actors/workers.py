"""Threads that do a store's blocking work, and wake the trio thread cheaply.

`trio.to_thread.run_sync` does the same, more generally: it copies contexts, names the thread for each call, and
wakes the trio thread once per result. For a sync of 140 microseconds that generality costs another 100. Here a job
is one queue operation, and results that come while the trio thread has already been told are picked up together;
`bench/durability.py` shows what it buys.

The threads are daemons: a disk that never answers must not keep the process from ending.
"""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Syncs wait for the disk, and a file system's journal makes many that wait at once durable together, so many are
# wanted. Past a few dozen the threads only contend for the interpreter's lock (measured: 16 to 64 are alike).
WORKERS_MAX: Final = 32


class _Job(Generic[T]):
    """A call, and in the end what came of it."""

    __slots__ = ("_call", "_error", "_values")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._values: list[T] = []
        self._error: BaseException | None = None

    def perform(self) -> None:
        """Make the call. Never raises."""
        try:
            self._values.append(self._call())
        except BaseException as error:  # noqa: BLE001  # handed to the task that waits, whatever it is
            self._error = error

    def unwrap(self) -> T:
        """Return or raise what `perform` kept."""
        if self._error is not None:
            # The traceback refers to frames that refer to this job; without this they would be a cycle.
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error
        return self._values.pop()


class Workers:
    """A bounded pool of threads, started as they are needed. Use as a context manager, inside one trio run."""

    def __init__(self, workers_max: int = WORKERS_MAX) -> None:
        """Start nothing yet.

        Args:
            workers_max: How many calls may be under way at once; more wait, in order.
        """
        self._workers_max = workers_max
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], trio.lowlevel.Task] | None] = queue.SimpleQueue()
        self._finished: deque[trio.lowlevel.Task] = deque()
        # True from when the trio thread is told of finished jobs until it begins to pick them up.
        self._told = False
        self._threads = 0
        # How many calls somebody waits for; only the trio thread touches it.
        self._pending = 0
        self._closed = False
        self._token: trio.lowlevel.TrioToken | None = None

    def __enter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the threads end, each after the calls that were queued before."""
        self._closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    async def run(self, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call `call(*arguments)` in a thread and return what it returns, or raise what it raises.

        Cancelled before it begins, it does nothing. Once it has begun, cancellation waits for the outcome, which is
        returned or raised in its place; `trio.Cancelled` then comes at the caller's next checkpoint.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed or self._token is None:
            raise RuntimeError("the workers are not at work: the store is not open")
        job = _Job(partial(call, *arguments))
        self._pending += 1
        if self._pending > self._threads and self._threads < self._workers_max:
            self._threads += 1
            threading.Thread(target=self._work, name=f"portico-store-{self._threads}", daemon=True).start()
        self._jobs.put((job.perform, trio.lowlevel.current_task()))
        await trio.lowlevel.wait_task_rescheduled(_not_now)
        return job.unwrap()

    def _work(self) -> None:
        """Do jobs until told to end. Runs in each of the threads."""
        assert self._token is not None
        while (job := self._jobs.get()) is not None:
            perform, task = job
            perform()
            # In this order: a task that is added while `_told` is still true is seen by the `_wake` to come,
            # which clears it before it looks.
            self._finished.append(task)
            # An idle thread must not keep alive what its last call returned.
            del job, perform, task
            if not self._told:
                self._told = True
                # The run is over only if its tasks were abandoned; nobody waits any more.
                with contextlib.suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        """Wake everybody whose job is done. Runs in the trio thread."""
        self._told = False
        while self._finished:
            self._pending -= 1
            trio.lowlevel.reschedule(self._finished.popleft())


def _not_now(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
