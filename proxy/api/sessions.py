"""Commands that somebody talks with: they take input while they run, and any number of clients see what they print.

A container gives back one stream of output and takes no input, so a session's command is started with its three streams
tied to named pipes, of which the other ends are here. That takes a container which shares this host's files: the
``process`` kind. What was printed is kept within bounds, so that a client which comes late sees it, and one that is
slow misses the middle rather than holding up the command.

A session belongs to one life of its sandbox, not to a name: it ends when that is destroyed, and whoever has the name
next finds nothing of it. It is no service either: no wake starts its command again.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import structlog
import trio

from actors import (
    ContainerError,
    ContainerProcess,
    PorticoError,
    ProcessOptions,
    Run,
    Sandbox,
    SandboxId,
    SandboxNotFoundError,
    SandboxState,
    where_raised,
)
from proxy.api.problems import ProblemError

log = structlog.get_logger("portico.sessions")

SCROLLBACK_BYTES_MAX: Final = 1024 * 1024
"""Of one session, with what it costs to keep them apart; what a client that comes late is shown."""

PIECE_BYTES: Final = 256
"""What a piece costs besides its data, amply: three objects and a place in the row are 131 bytes as measured. A command
that prints byte by byte would be kept at many times the bound without this."""

SESSIONS_MAX: Final = 256
"""Of all sandboxes, exited ones included: of these the oldest is forgotten of the sandbox that has most sessions."""

SESSIONS_PER_SANDBOX_MAX: Final = 64
"""Likewise: who may run commands in one sandbox takes neither the room nor what was printed from all others."""

READ_BYTES: Final = 64 * 1024

START_S: Final = 30.0
"""For the container to start a command, which takes it some milliseconds. Who has left is held up no longer than that,
nor for longer than `KILL_S` after it."""

KILL_S: Final = 10.0
"""For the container to be told that a command is to be killed."""

# Ties the streams and becomes the command: $0 is the folder of the pipes. Opening them waits for nobody, as their
# other ends are open already.
_TIE: Final = 'exec "$@" <"$0/in" >"$0/out" 2>"$0/err"'


class Stream(IntEnum):
    """Where bytes belong; the first byte of a frame in the published protocol."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Some output."""

    number: int
    """Counted from 0; a gap says that something in between is not kept any more."""
    stream: Stream
    data: bytes = field(repr=False)


class Session:
    """One command, from its start on."""

    def __init__(self, state: SandboxState, command: str, arguments: Sequence[str], folder: Path) -> None:
        """Prepare; `start` must follow, or `abandon`.

        Args:
            state: Of the sandbox, in the life that it belongs to.
            command: A program.
            arguments: Its arguments.
            folder: Empty, for its pipes alone; removed at its end.
        """
        self.id: Final = f"es-{secrets.token_hex(8)}"
        self.sandbox: Final = state.sandbox
        self._life: Final = state.seal
        self.command: Final = command
        self.arguments: Final = tuple(arguments)
        self.started_at: Final = time.time()
        self.attached = 0
        """Clients."""
        self.timed_out = False
        self.truncated = False
        """Something that was printed is not kept any more."""
        self.ended = trio.Event()
        self._folder = folder
        self._process: ContainerProcess | None = None
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._next = 0
        self._news = trio.Event()
        self._stdin_lock = trio.Lock()
        self._descriptors: dict[Stream, int] = {}

    @property
    def exit_code(self) -> int | None:
        """None until it has ended, with all that it printed read."""
        return self._process.exit_code if self._process is not None and self.ended.is_set() else None

    def is_of(self, state: SandboxState) -> bool:
        """Say whether it belongs to this very sandbox, rather than to one of the same name before it."""
        return self.sandbox == state.sandbox and self._life == state.seal

    def output(self, stream: Stream) -> bytes:
        """Return what is kept of a stream."""
        return b"".join(piece.data for piece in self._pieces if piece.stream is stream)

    def pieces_from(self, number: int) -> list[Piece]:
        """Return what is kept from a piece on."""
        first = self._next - len(self._pieces)
        return [*islice(self._pieces, max(number - first, 0), None)]

    async def wait_news(self, number: int) -> None:
        """Block until there is a piece of that number or more, or the end."""
        while self._next <= number and not self.ended.is_set():
            await self._news.wait()

    async def write(self, data: bytes) -> None:
        """Give the command some input; nothing happens once it has ended, or does not read any more."""
        async with self._stdin_lock:
            while data and Stream.STDIN in self._descriptors:
                descriptor = self._descriptors[Stream.STDIN]
                try:
                    data = data[os.write(descriptor, data) :]
                except BlockingIOError:
                    with suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_writable(descriptor)

    async def kill(self, signal: int) -> None:
        """Send a signal to the command and its group."""
        if self._process is not None:
            await self._process.kill(signal)

    async def start(self, run: Run, cwd: str | None, env: Mapping[str, str]) -> None:
        """Start the command; `run` must follow. A cancellation waits until it has started: then it can be killed.

        Raises: as `Run.start_process`; ContainerError if that takes longer than `START_S`.
        """
        for stream, name in ((Stream.STDIN, "in"), (Stream.STDOUT, "out"), (Stream.STDERR, "err")):
            path = self._folder / name
            os.mkfifo(path, 0o600)
            # Both ways: an end of ours that only reads would see the end before the command has begun.
            self._descriptors[stream] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        words = ["/bin/sh", "-c", _TIE, str(self._folder), self.command, *self.arguments]
        with trio.move_on_after(START_S, shield=True):
            self._process = await run.start_process(ProcessOptions(words, cwd, env, once=True))
        if self._process is None:
            raise ContainerError(f"the command was not started within {START_S:g} s")

    async def run(self, timeout_s: float | None) -> None:
        """Read what the command prints until it has ended. Raises nothing but cancellation."""
        process = self._process
        assert process is not None
        try:
            async with trio.open_nursery() as nursery:
                for stream in (Stream.STDOUT, Stream.STDERR):
                    nursery.start_soon(self._read, stream)
                with trio.move_on_after(timeout_s or float("inf")) as patience:
                    await process.wait()
                if patience.cancelled_caught:
                    self.timed_out = True
                    await process.kill(9)
                    await process.wait()
                nursery.cancel_scope.cancel()
            # All that it printed itself is in the pipes by now; what its children print later is nobody's.
            for stream in (Stream.STDOUT, Stream.STDERR):
                self._drain(stream)
        except Exception as bug:  # noqa: BLE001  # a safety net: one session's bug must not take the others down
            log.error("session failed", **where_raised(bug))
        finally:
            self._close()

    def abandon(self) -> None:
        """Let go of what was prepared for a command that did not start."""
        self._close()

    async def _read(self, stream: Stream) -> None:
        descriptor = self._descriptors[stream]
        while True:
            try:
                data = os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(descriptor)
                continue
            self._add(stream, data)
            await trio.lowlevel.checkpoint()

    def _drain(self, stream: Stream) -> None:
        left = SCROLLBACK_BYTES_MAX
        with suppress(BlockingIOError):
            while left > 0:
                data = os.read(self._descriptors[stream], READ_BYTES)
                # A child that prints on, byte by byte, must not keep us here either.
                left -= len(data) + PIECE_BYTES
                self._add(stream, data)

    def _add(self, stream: Stream, data: bytes) -> None:
        self._pieces.append(Piece(self._next, stream, data))
        self._next += 1
        self._size += len(data) + PIECE_BYTES
        while self._size > SCROLLBACK_BYTES_MAX:
            self._size -= len(self._pieces.popleft().data) + PIECE_BYTES
            self.truncated = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _close(self) -> None:
        for descriptor in self._descriptors.values():
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)
        self._descriptors.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.ended.set()
        self._tell()


class Sessions:
    """All sessions of a server."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """Prepare.

        Args:
            nursery: Where sessions are read; it ends them.
        """
        self._nursery = nursery
        self._sessions: dict[str, Session] = {}

    async def start(
        self,
        sandbox: Sandbox,
        command: str,
        arguments: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Session:
        """Start a command.

        Args:
            sandbox: Where.
            command: A program.
            arguments: Its arguments.
            cwd: None: the sandbox's own workspace.
            env: Added to the container's own.
            timeout_s: After which it is killed; None or 0: never.

        Raises:
            ProblemError: There are too many sessions, or the sandbox's kind cannot have any.
            As `Sandbox.start_process`.
        """
        state = await sandbox.state()
        if state.container.kind != "process":
            raise ProblemError(409, "UNSUPPORTED", "this kind of container has no sessions")
        folder = Path(await trio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix="portico-session-")))
        session = Session(state, command, arguments, folder)
        try:
            self._make_room(session.sandbox)
            self._sessions[session.id] = session
            await self._nursery.start(self._see_through, session, sandbox, cwd, env or {}, timeout_s)
        except BaseException:
            self._sessions.pop(session.id, None)
            session.abandon()
            # Cancelled in the moment in which it started: it would run on, without its pipes and unknown to anybody.
            # Nobody can be told if that fails, whose own error would stand in place of the cancellation.
            with trio.move_on_after(KILL_S, shield=True), suppress(ContainerError):
                await session.kill(9)
            raise
        return session

    async def _see_through(
        self,
        session: Session,
        sandbox: Sandbox,
        cwd: str | None,
        env: Mapping[str, str],
        timeout_s: float | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Start a session and read it to its end, in a sandbox that does not go to sleep under it."""
        async with sandbox.running() as run:
            # The run may be another sandbox's, if that has taken the name since.
            if not session.is_of(await sandbox.state()):
                raise SandboxNotFoundError(f"sandbox {sandbox.id} was destroyed meanwhile")
            await session.start(run, cwd, env)
            task_status.started()
            await session.run(timeout_s)
        await self._forget_gone(sandbox)

    async def find(self, sandbox: Sandbox, session_id: str) -> Session | None:
        """Return a session of that sandbox.

        Raises: as `Sandbox.state`.
        """
        return next((session for session in await self.of(sandbox) if session.id == session_id), None)

    async def of(self, sandbox: Sandbox) -> list[Session]:
        """Return the sessions of a sandbox, in order of start.

        Raises: as `Sandbox.state`.
        """
        state = await sandbox.state()
        return [session for session in self._sessions.values() if session.is_of(state)]

    async def destroy(self, sandbox: Sandbox) -> int:
        """Destroy a sandbox, and forget what its commands have printed. As `Sandbox.destroy`."""
        try:
            return await sandbox.destroy()
        finally:
            await self._forget_gone(sandbox)

    async def _forget_gone(self, sandbox: Sandbox) -> None:
        """Forget the sessions of sandboxes of that name which are no more. One that still ends does so itself."""
        state: SandboxState | None = None
        try:
            state = await sandbox.state()
        except SandboxNotFoundError:
            pass
        except PorticoError:
            # Nobody can tell just now, and nobody is told of them either.
            return
        for session in [*self._sessions.values()]:
            gone = session.sandbox == sandbox.id and (state is None or not session.is_of(state))
            if gone and session.ended.is_set():
                del self._sessions[session.id]

    def _make_room(self, sandbox: SandboxId) -> None:
        """Forget an ended session if there are as many as there may be, so that one more can be started in a sandbox.

        Raises:
            ContainerError: All of them run.
        """
        own = [session for session in self._sessions.values() if session.sandbox == sandbox]
        if len(own) >= SESSIONS_PER_SANDBOX_MAX:
            self._forget_one(own, f"{SESSIONS_PER_SANDBOX_MAX} sessions run already in this sandbox")
        elif len(self._sessions) >= SESSIONS_MAX:
            self._forget_one([*self._sessions.values()], f"{SESSIONS_MAX} sessions run already")

    def _forget_one(self, sessions: Sequence[Session], else_error: str) -> None:
        counts = Counter(session.sandbox for session in sessions)
        ended = [session for session in sessions if session.ended.is_set()]
        if not ended:
            raise ContainerError(f"{else_error}; that is as many as there may be")
        # The first of those that are equal: the oldest.
        del self._sessions[max(ended, key=lambda session: counts[session.sandbox]).id]
