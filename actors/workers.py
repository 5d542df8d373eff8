"""Threads that do a store's blocking work, and wake the trio thread cheaply.

`trio.to_thread.run_sync` does the same, more generally: it copies contexts, names the thread for each call, and
wakes the trio thread once per result, by way of a socket and a queue of callbacks. For a sync of 140 microseconds
that generality costs another 100. Here an idle thread waits in a read of a pipe, which the kernel ends sooner than
Python's locks (measured: some 40 microseconds sooner, there and back); a busy one takes its next job without being
woken; and results that come while the trio thread has already been told are picked up together.
`bench/durability.py` measures it through the store.

The threads are daemons: a disk that never answers must not keep the process from ending.
"""

import os
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

AT_ONCE_MAX: Final = 2
"""Up to so many calls under way, each wakes its thread itself. Beyond, threads are woken together: every write to the
pipe gives the interpreter's lock away, and with dozens of threads about it takes long to come back."""


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
        # A call and the task that waits for it.
        self._jobs: deque[tuple[Callable[[], None], trio.lowlevel.Task]] = deque()
        # One entry for each thread that waits for a byte from the pipe, or is about to.
        self._idle: deque[None] = deque()
        # Ends of a pipe: each byte wakes one idle thread, its end tells all of them to end. Only the trio thread
        # closes `_waker`; `_sleepers` is the last thread's to close.
        self._sleepers = self._waker = -1
        self._finished: deque[trio.lowlevel.Task] = deque()
        # True from when the trio thread is told of finished jobs until it begins to pick them up.
        self._told = False
        # The task that wakes threads together, while it waits to be told.
        self._gatherer: trio.lowlevel.Task | None = None
        self._bell: int | None = None
        # How many threads were started and have not ended. The last one closes the bell: it must not be closed
        # while one might still ring it, because its number may by then be another file's.
        self._threads = 0
        self._ending = threading.Lock()
        # How many calls somebody waits for; only the trio thread touches it.
        self._pending = 0
        self._closed = True

    def __enter__(self) -> Self:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._sleepers, self._waker = os.pipe2(os.O_CLOEXEC)
        self._closed = False
        trio.lowlevel.spawn_system_task(self._wake_tasks, self._bell)
        trio.lowlevel.spawn_system_task(self._wake_together)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take no more calls; the threads end by themselves, after those under way."""
        self._closed = True
        assert self._bell is not None, "entered before"
        os.eventfd_write(self._bell, 1)

    async def run(self, call: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Call `call(*arguments)` in a thread and return what it returns, or raise what it raises.

        Cancelled before it begins, it does nothing. Once it has begun, cancellation waits for the outcome, which is
        returned or raised in its place; `trio.Cancelled` then comes at the caller's next checkpoint.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise RuntimeError("the workers are not at work: the store is not open")
        job = _Job(partial(call, *arguments))
        self._pending += 1
        self._jobs.append((job.perform, trio.lowlevel.current_task()))
        if self._idle:
            if self._pending <= AT_ONCE_MAX:
                self._wake(1)
            elif self._gatherer is not None:
                gatherer, self._gatherer = self._gatherer, None
                trio.lowlevel.reschedule(gatherer)
        elif self._threads < self._workers_max and self._pending > self._threads:
            self._start_one()
        await trio.lowlevel.wait_task_rescheduled(_not_now)
        return job.unwrap()

    def _wake(self, count: int) -> None:
        """Wake so many idle threads, or fewer if there are fewer."""
        woken = 0
        try:
            while woken < count:
                self._idle.pop()
                woken += 1
        except IndexError:
            # The others have seen the jobs by themselves.
            pass
        if woken:
            os.write(self._waker, bytes(woken))

    async def _wake_together(self) -> None:
        """Wake threads for all that has been asked for in one round of the scheduler."""
        while not self._closed or self._pending:
            # Before it waits, not after: calls may have come before this task did for the first time.
            self._wake(len(self._jobs))
            self._gatherer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_gathering)

    def _stop_gathering(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._gatherer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _start_one(self) -> None:
        name = f"portico-store-{self._threads + 1}"
        thread = threading.Thread(target=self._work, args=(self._bell, self._sleepers), name=name, daemon=True)
        self._threads += 1
        try:
            thread.start()
        except RuntimeError:
            # The system has no more threads to give. Those at work will come to it; without any it is an error.
            self._threads -= 1
            if self._threads == 0:
                self._jobs.pop()
                self._pending -= 1
                raise

    def _work(self, bell: int, sleepers: int) -> None:
        """Do jobs until told to end. Runs in each of the threads."""
        while True:
            try:
                perform, task = self._jobs.popleft()
            except IndexError:
                if self._sleep(sleepers):
                    continue
                break
            perform()
            # In this order: a task that is added while `_told` is still true is seen by the pick-up to come,
            # which clears it before it looks.
            self._finished.append(task)
            # An idle thread must not keep alive what its last call returned.
            del perform, task
            if not self._told:
                self._told = True
                os.eventfd_write(bell, 1)
        with self._ending:
            self._threads -= 1
            if self._threads == 0:
                os.close(bell)
                os.close(sleepers)

    def _sleep(self, sleepers: int) -> bool:
        """Wait until there may be a job; False at the end. Runs in each of the threads."""
        self._idle.append(None)
        if self._jobs:
            # It came between the look at the jobs and the entry. If the entry is gone, a byte comes instead: as many
            # threads read as there are entries and bytes together.
            try:
                self._idle.pop()
            except IndexError:
                pass
            else:
                return True
        return os.read(sleepers, 1) != b""

    async def _wake_tasks(self, bell: int) -> None:
        """Wake everybody whose job is done, until the last one after the end."""
        try:
            while not self._closed or self._pending:
                await trio.lowlevel.wait_readable(bell)
                os.eventfd_read(bell)
                self._told = False
                while self._finished:
                    self._pending -= 1
                    trio.lowlevel.reschedule(self._finished.popleft())
        finally:
            # Also when the whole run ends without `__exit__`.
            self._closed = True
            if self._gatherer is not None:
                gatherer, self._gatherer = self._gatherer, None
                trio.lowlevel.reschedule(gatherer)
            with self._ending:
                # Within the lock: the last thread to end closes the rest, and must do so instead of this, or after it.
                os.close(self._waker)
                if self._threads == 0:
                    os.close(bell)
                    os.close(self._sleepers)


def _not_now(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
