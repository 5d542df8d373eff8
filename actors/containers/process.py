"""Process containers: a sandbox's services as child processes on this host, for laptops, tests and single tenants.

They keep services tidy, not apart: all share this host's network, files and user. What is promised is that
nothing a service spawned outlives its run, that its environment holds nothing of the server's, and that its
output can neither fill the disk nor block it. See `keeper.py` for how.

The folder of a sandbox's container::

    services                what is started again when the sandbox wakes; holds secrets (see `services.py`)
    workspace/              the services' home and working folder; lives as long as the sandbox
    runs/<run id>/          of the newest runs
        keeper              who keeps it (see `leftovers.py`)
        keeper.stderr       why it failed, if it did
        frozen              there while its processes stand still; the folder then moves to the run that wakes them
        <process id>.log    newest output, and <process id>.log.1 before it
"""

import math
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog
import trio

from actors.containers import keeper
from actors.containers.base import Container, ContainerContext, ContainerFactory, Run
from actors.containers.freezing import FreezingRun
from actors.containers.keeper import FROZEN_FILE
from actors.containers.launch import base_environment, check_run_id
from actors.containers.leftovers import end_leftovers
from actors.containers.process_run import KEEPER_STDERR, ProcessRun
from actors.containers.services import ServiceBook
from actors.errors import ContainerError, ContainerStartError

log = structlog.get_logger("portico.process")

RUNS_KEPT: Final = 3
"""Folders of runs, the current one included: their logs are what is asked for after a crash."""
STOP_GRACE_S: Final = 5.0
"""Between SIGTERM and SIGKILL. Docker takes 10 s, but nothing waits behind a container there."""

# Imported rather than run as a file, so that its cached bytecode is used (measured: 5 ms less of 19 ms). `append`,
# since the modules beside it must not hide the standard library's.
_KEEPER_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv[3]); import keeper; keeper.main(int(sys.argv[1]), int(sys.argv[2]))"
)


THAW_S: Final = 60.0
"""For frozen processes to go on; less than the wake deadline, so that there is time to start them anew instead."""


def process_containers(*, stop_grace: float = STOP_GRACE_S, python: str = sys.executable) -> ContainerFactory:
    """Return a factory of process containers.

    They take one option. ``sleep`` says what becomes of the processes when the sandbox sleeps: ``"stop"`` (default),
    they are ended and started again; ``"freeze"``, they stand still (SIGSTOP) and go on where they were, with all that
    they had in memory, and hold that memory meanwhile. What is frozen ends with the server, and is then started again
    by the next wake.

    Args:
        stop_grace: Seconds from the polite signal to the one that cannot be ignored.
        python: The interpreter of keepers; the folder it is in comes first in every service's PATH.

    Raises:
        ValueError: `stop_grace` is negative or not finite.
    """
    if not math.isfinite(stop_grace) or stop_grace < 0:
        raise ValueError(f"stop_grace is a number of seconds, not {stop_grace}")

    # {folder: container}, of those in which something is frozen: it outlasts the activation that put it to sleep.
    asleep: dict[Path, ProcessContainer] = {}

    def make(context: ContainerContext, options: Mapping[str, object]) -> Container:
        freezes = _says_freeze(options)
        known = asleep.get(_absolute(context.folder))
        if known is not None:
            known.serve(context)
            return known
        return ProcessContainer(context, stop_grace=stop_grace, python=python, freezes=freezes, asleep=asleep)

    return make


def _says_freeze(options: Mapping[str, object]) -> bool:
    for name in options:
        if name != "sleep":
            raise ValueError(f"a process container has no option {name!r}")
    sleep = options.get("sleep", "stop")
    if sleep not in ("stop", "freeze"):
        raise ValueError("the option 'sleep' of a process container is 'stop' or 'freeze'")
    return sleep == "freeze"


def _absolute(folder: Path) -> Path:
    # The keeper runs in another folder.
    return Path(os.path.abspath(folder))


class ProcessContainer:
    """A sandbox's place on this host: a folder, and a keeper while it is up."""

    def __init__(
        self,
        context: ContainerContext,
        *,
        stop_grace: float,
        python: str,
        freezes: bool,
        asleep: "dict[Path, ProcessContainer]",
    ) -> None:
        self._sandbox = context.sandbox
        self._folder = _absolute(context.folder)
        self._freezes = freezes
        self._asleep = asleep
        self._frozen: FreezingRun | None = None
        """The run whose processes stand still. Invariant: set if and only if we are in `_asleep`."""
        self._stop_grace = stop_grace
        self._python = python
        self._on_exit = context.on_exit
        self._book = ServiceBook(self._folder)

    def __repr__(self) -> str:
        return f"<process container of {self._sandbox}>"

    def serve(self, context: ContainerContext) -> None:
        """Be the container of another activation, which is told of exits from now on."""
        self._on_exit = context.on_exit

    @property
    def asleep(self) -> Run | None:
        return self._frozen

    async def start(self, run_id: str, nursery: trio.Nursery) -> Run:
        folder = self._folder / "runs" / check_run_id(run_id)
        thawed = await self._thaw(run_id, folder)
        if thawed is not None:
            return thawed
        try:
            await self._end_left()
            await trio.to_thread.run_sync(self._make_folders, folder)
        except OSError as error:
            raise ContainerStartError(f"cannot make the folder of a run: {error}") from error
        try:
            await self._book.load()
        except ContainerError as error:
            raise ContainerStartError(str(error)) from error
        processes: ProcessRun = await nursery.start(self._serve, run_id, folder)
        # Made first: it is to hear of it if the keeper dies while services are brought back.
        run = self._freezing(run_id, processes) if self._freezes else processes
        try:
            await processes.revive()
        except BaseException:
            await processes.abort()
            raise
        return run

    def _freezing(self, run_id: str, processes: ProcessRun) -> FreezingRun:
        return FreezingRun(run_id, processes, self._keep, self._lose)

    def _keep(self, run: FreezingRun) -> None:
        """Remember what has fallen asleep."""
        self._frozen = run
        self._asleep[self._folder] = self

    def _lose(self) -> None:
        """Forget it: it goes on, or is no more."""
        self._frozen = None
        self._asleep.pop(self._folder, None)

    async def _thaw(self, run_id: str, folder: Path) -> FreezingRun | None:
        """Let what is frozen go on, as a run of that name; None: there is nothing, and nothing is left of what was.

        Not to be cancelled half way: it is awake afterwards, and is put to sleep again if nobody wants it.
        """
        if self._frozen is None:
            return None
        with trio.CancelScope(shield=True):
            processes = self._frozen.hand_on()
            self._lose()
            run = self._freezing(run_id, processes)
            try:
                with trio.move_on_after(THAW_S):
                    if await self._go_on(processes, run_id, folder):
                        return run
            except BaseException:
                # Nobody would own what is awake already.
                await processes.abort()
                raise
            log.warning("frozen processes did not go on, they are started anew", sandbox=self._sandbox)
            await processes.abort()
        return None

    async def _go_on(self, processes: ProcessRun, run_id: str, folder: Path) -> bool:
        try:
            # The processes' logs, and the keeper's name for whoever looks for this run after a crash.
            await trio.to_thread.run_sync(os.rename, processes.folder, folder)
        except OSError as error:
            log.warning("the folder of a run cannot be moved", sandbox=self._sandbox, error=error.strerror)
            return False
        return await processes.thaw(run_id, folder, self._on_exit)

    async def _end_frozen(self) -> None:
        if self._frozen is not None:
            await self._frozen.stop()
        await self._end_left()

    async def _end_left(self) -> None:
        """End what was frozen when its server was killed, or when its keeper was."""
        runs = self._folder / "runs"
        for mark in await trio.to_thread.run_sync(lambda: [*runs.glob(f"*/{FROZEN_FILE}")]):
            await end_leftovers(mark.parent)
            mark.unlink(missing_ok=True)

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> None:  # noqa: ARG002  # there is never a run to serve
        """End what the run of an earlier server may have left. It is never up: its keeper ends with its server."""
        await end_leftovers(self._folder / "runs" / check_run_id(run_id))

    async def retire(self) -> None:
        await self._end_frozen()
        await self._book.clear()

    async def remove(self) -> None:
        await self._end_frozen()
        await trio.to_thread.run_sync(remove_tree, self._folder)

    async def _serve(
        self, run_id: str, folder: Path, task_status: trio.TaskStatus[ProcessRun] = trio.TASK_STATUS_IGNORED
    ) -> None:
        mark = secrets.token_hex(16)
        workspace = str(self._folder / "workspace")
        environment = base_environment(self._sandbox, workspace, self._python, _user(), mark)
        # Not to be left between a keeper that has been started and the task that looks after it.
        with trio.CancelScope(shield=True):
            process, stream = await _open_keeper(self._python, folder)
        run = ProcessRun(
            run_id,
            folder,
            process,
            stream,
            mark=mark,
            workspace=workspace,
            environment=environment,
            stop_grace=self._stop_grace,
            book=self._book,
            on_exit=self._on_exit,
        )
        await run.serve(task_status)

    def _make_folders(self, run_folder: Path) -> None:
        runs = run_folder.parent
        for folder in (self._folder, runs, run_folder, self._folder / "workspace"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.scandir(runs) as entries:
            others = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries]
        newest_first = [path for _, path in sorted(others, reverse=True) if path != str(run_folder)]
        for path in newest_first[RUNS_KEPT - 1 :]:
            remove_tree(Path(path))


async def _open_keeper(python: str, folder: Path) -> tuple[trio.Process, trio.SocketStream]:
    """Start a keeper that writes its files into `folder`.

    Raises:
        ContainerStartError: The interpreter could not be run.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs, open(folder / KEEPER_STDERR, "wb") as complaints:  # noqa: ASYNC230  # an empty file, in a folder just made
            process = await trio.lowlevel.open_process(
                [
                    *(python, "-I", "-S", "-c", _KEEPER_PROGRAM),
                    *(str(theirs.fileno()), str(os.getpid()), os.path.dirname(keeper.__file__)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=[theirs.fileno()],
                cwd=folder,
                # What the dynamic linker needs to find libpython in some installations, and nothing else.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                # Its own session: a terminal's Ctrl-C is for the server alone.
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        raise ContainerStartError(f"cannot start a keeper: {error}") from error
    return process, trio.SocketStream(trio.socket.from_stdlib_socket(ours))


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())  # an anonymous uid, usual inside OCI containers


def remove_tree(folder: Path) -> None:
    """Delete a folder with all that is in it. Links are deleted, never followed. Blocks: for a thread."""
    if folder.is_symlink():
        folder.unlink()
        return
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        # A service may have locked folders of its own; nothing of it runs any more, so nobody locks them again.
        for path, names, _ in os.walk(folder):
            for name in names:
                inner = os.path.join(path, name)
                if stat.S_ISDIR(os.lstat(inner).st_mode):
                    os.chmod(inner, 0o700)
        shutil.rmtree(folder)
