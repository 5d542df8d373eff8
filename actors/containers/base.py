"""Where a sandbox's services run, seen from its actor.

Three things, one inside the other. A *container* is the sandbox's place, for as long as the sandbox lives.
A *run* is that place while it is up, under a run id that is never used twice: what was admitted for run A can
only ever be dialled through run A's object, so it cannot reach run B. A *process* is one service in a run.

Whoever writes a new kind implements these Protocols and hands the runtime a `ContainerFactory`;
`actors.testing.check_container` tells whether it keeps the promises made here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import trio

from actors.sandbox.ids import SandboxId


class ProcessStatus(StrEnum):
    """What a process is doing, as far as its container knows."""

    RUNNING = "running"
    RESTARTING = "restarting"
    """It has exited, and is started again after a pause."""
    FROZEN = "frozen"
    """Its sandbox sleeps. It stands still where it was, and goes on when the sandbox wakes."""
    EXITED = "exited"


class RestartPolicy(StrEnum):
    """What happens when a process exits by itself; one that its owner told to end is never started again.

    What the end of its whole run took with it has not exited by itself: the next run starts it, by every policy.
    """

    NEVER = "never"
    """It stays down, with whatever code it exited and over every sleep, until it is asked for again."""
    ON_FAILURE = "on-failure"
    """Started again, after ever longer pauses, unless it exited with 0."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command that was waited for ended."""

    exit_code: int
    """0 to 255, or minus the signal number that ended it."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """True if more was printed than is kept."""


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """How to start one process."""

    command: str | Sequence[str]
    """Text is given to ``/bin/sh -c``; a sequence is executed as it is."""
    cwd: str | None = None
    """None: the sandbox's own workspace folder."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Added to the container's own small environment; the server's environment is never inherited.
    Left out of `repr`: this is where people put secrets."""
    id: str | None = None
    """None: one is made up."""
    restart: RestartPolicy = RestartPolicy.NEVER
    """For services, not for commands that are waited for."""
    once: bool = False
    """A command rather than a service: no wake starts it again, and how it exits is its starter's business alone."""


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """A process has exited by itself: nobody had asked it to."""

    run_id: str
    process: str
    """Its id."""
    exit_code: int


class LogTail(Protocol):
    """Reads what a process prints, as it prints it."""

    async def read(self) -> bytes:
        """Return what has been printed since the last call, at first all that is kept; ``b""``: nothing, just now."""

    def close(self) -> None:
        """Let go. Idempotent."""


class ContainerProcess(Protocol):
    """One service in a run. Safe to hold for as long as one likes: it answers from memory once it has exited."""

    @property
    def id(self) -> str: ...
    @property
    def command(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def status(self) -> ProcessStatus: ...
    @property
    def exit_code(self) -> int | None:
        """Of its last end; None while it runs. Minus the signal number if a signal ended it."""

    @property
    def restarts(self) -> int:
        """How often it was started again after it had exited by itself."""

    async def wait(self) -> int:
        """Block until it has exited and is not started again; return the exit code.

        Cancelling this leaves the process alone.
        """

    async def kill(self, signal: int = ...) -> None:
        """Send a signal to the process and its group. A process that has exited is left in peace: no error."""

    async def logs(self) -> bytes:
        """Return what it has printed to stdout and stderr so far, the newest bytes where it was too much."""

    def tail(self) -> LogTail:
        """Return a reader of that which goes on where it has left off; the caller closes it."""


class Run(Protocol):
    """One stretch of a container being up."""

    @property
    def run_id(self) -> str: ...

    async def dial(self, port: int) -> trio.abc.HalfCloseableStream:
        """Connect to a service of this run.

        Returns a stream that the caller owns; a `trio.SocketStream` wherever there is a socket.

        Raises:
            NotListeningError: Nothing accepted; `tried` names each address.
        """

    async def wait_listening(self, port: int) -> None:
        """Block while services that were brought back with this run may be about to listen on `port`.

        Returns at once for a port that nothing is known of: to wait would keep everybody waiting who has mistyped.
        """

    async def is_anothers(self, port: int) -> bool:
        """Say whether what answers on `port` is known to be another program's, and no process of this run.

        False where each run has a network of its own, and wherever it cannot be told. Not for every visit: it may take
        some milliseconds.
        """

    async def start_process(self, options: ProcessOptions) -> ContainerProcess:
        """Start a service, or return the one that the wake has just brought back, if it is the same.

        A command that is to be done `once` is listed like a service, and forgotten with its run.

        Cancelling this either starts nothing or leaves it listed in `processes`.

        Raises:
            UnsupportedError: This kind runs no processes of ours.
            ContainerError: It could not be started; the text says why.
        """

    async def exec(self, options: ProcessOptions) -> ExecResult:
        """Run a command to its end. Cancelling this kills it with its group.

        Raises: as `start_process`.
        """

    def processes(self) -> Sequence[ContainerProcess]:
        """Return the processes of this run, exited ones included (bounded), in order of start."""

    @property
    def detachable(self) -> bool:
        """True if `Container.reattach` finds this run again after the object has been dropped without `stop`."""

    @property
    def busy(self) -> bool:
        """True while something of ours runs inside that would be lost if the run were forgotten."""

    @property
    def comes_back(self) -> bool:
        """True if it is to be brought up again at once should it end by itself: some service's policy asks for that.

        Asked after its end.
        """

    async def stop(self) -> None:
        """End everything in the run, politely first and then by force; return when nothing of it is left.

        Idempotent. Cancelling the polite wait goes on to force at once.
        """

    async def sleep(self) -> None:
        """End the run as `stop` does, and keep what it takes for `Container.start` to bring its services back.

        Idempotent; a `stop` may follow. Whatever it raises, nothing can be reached through this run afterwards.

        Raises:
            ContainerError: Something could not be told or kept; the text says what.
        """

    async def wait_stopped(self) -> str:
        """Block until the run has ended, by `stop` or by itself; return a reason for people."""


class Container(Protocol):
    """A sandbox's place."""

    @property
    def asleep(self) -> Run | None:
        """The run that sleeps here with its processes still there, for those who only look; None if none does."""

    async def start(self, run_id: str, nursery: trio.Nursery) -> Run:
        """Bring the place up as a new run, with the services that slept when the run before it did.

        Args:
            run_id: A name never used before.
            nursery: Where the run's own background tasks live. They must not raise, and end by `Run.stop`
                or by cancellation; cancellation must leave nothing running.

        Raises:
            ContainerStartError: It is not up, and nothing of it is left.
        """

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> Run | None:
        """Return the run of that name if it is still up, None if it is not (what it left is cleaned away).

        Raising is taken as None: a run that may still be up must be ended before it is given up.
        """

    async def retire(self) -> None:
        """End what sleeps here, and forget what a wake would need: the sandbox was stopped for good. Idempotent.

        Files that services wrote stay until `remove`. Called after the last run has stopped.
        """

    async def remove(self) -> None:
        """Forget the place for good: its files go. Called after the last run has stopped. Idempotent."""


@dataclass(frozen=True, slots=True)
class ContainerContext:
    """What a factory is told about the sandbox it makes a place for."""

    sandbox: SandboxId
    folder: Path
    """For this sandbox's container alone; it need not exist yet."""
    on_exit: Callable[[ProcessExit], None] = lambda _: None
    """To be called for each process that exits by itself. Must not wait or raise."""


ContainerFactory = Callable[[ContainerContext, Mapping[str, object]], Container]
"""Makes a container from the options it was created with (as kept in the log: plain values).

Raises ValueError or TypeError for options it does not understand, before anything is stored.
"""
