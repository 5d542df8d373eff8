"""One run of a process container, seen from the server: a keeper, its socket, and what it has told so far.

`ProcessRun.serve` is the run: it is up while that task is. However the task ends (asked to stop, cancelled with
its nursery, the keeper dead), it leaves through the same door: the socket is closed, which makes the keeper kill
everything; the keeper is waited for; and if that did not end well, the host is searched for what is left.

Frames go out through one writer task, so that a cancelled caller never leaves half a frame on the wire; a reader
task alone changes what is known of the processes.
"""

import os
import secrets
import signal as signals
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from actors.containers import restarting
from actors.containers.base import ExecResult, ProcessExit, ProcessOptions, RestartPolicy
from actors.containers.dial import LOOPBACK, dial
from actors.containers.keeper import KILL_SECONDS_MAX, OUTPUT_BYTES_MAX, READ_BYTES, Unpacker, pack
from actors.containers.launch import Launch, prepare
from actors.containers.leftovers import KEEPER_END_S, sweep
from actors.containers.listeners import is_anothers
from actors.containers.service import Service, Stage, read_end
from actors.containers.services import ServiceBook
from actors.containers.standstill import Standstill
from actors.containers.warmth import Warmth
from actors.errors import ContainerError, ContainerStartError, NotListeningError, PorticoError

log = structlog.get_logger("portico.process_run")


RUNNING_MAX: Final = 256
"""Processes of one run at a time; each takes two or three descriptors of the keeper's (1024 by default)."""
EXITED_MAX: Final = 256
"""Exited processes that are remembered, with their output."""
READY_S: Final = 30.0
"""For the keeper to come up; measured: 20 ms. The rest is for machines with far too much to do."""
KILLED_EXIT_CODE: Final = -int(signals.SIGKILL)
"""Stands for an end that nobody was left to see: all of them are killed then."""

_OUTBOX_FRAMES: Final = 1024
_COMPLAINT_BYTES_MAX: Final = 4096
# From the end of its socket to its exit code: the keeper does nothing in between.
_LAST_WORDS_S: Final = 1.0
# After SIGKILL; a keeper that is still there then hangs in the kernel.
_KEEPER_KILL_S: Final = 30.0


class ProcessRun:
    """The services of one sandbox, as child processes on this host."""

    def __init__(
        self,
        run_id: str,
        folder: Path,
        keeper: trio.Process,
        stream: trio.SocketStream,
        *,
        mark: str,
        workspace: str,
        environment: dict[str, str],
        stop_grace: float,
        book: ServiceBook,
        on_exit: Callable[[ProcessExit], None],
    ) -> None:
        self.run_id = run_id
        self.folder = folder
        self._keeper = keeper
        self._stream = stream
        self._mark = mark
        self._workspace = workspace
        self._environment = environment
        self._stop_grace = stop_grace
        self._book = book
        self._on_exit = on_exit
        self._warmth = Warmth(book.ports)
        self._tasks: trio.Nursery | None = None
        """Set while the run is up."""
        self._up = True
        self._ready = False
        """The keeper has said so: from now on there may be something to leave behind."""
        self._tenants = False
        """The keeper has some child: a process of ours, or what an exited one left behind."""
        self._serial = 0
        self._alive: dict[int, Service] = {}  # {serial: asked for or running}, commands included
        self._listed: dict[int, Service] = {}  # {serial: service}, for `processes`
        self._promised: set[str] = set()  # ids of services that are about to be started
        self._unpacker = Unpacker()
        self._outbox, self._outgoing = trio.open_memory_channel[bytes](_OUTBOX_FRAMES)
        self._standstill = Standstill(self.ask)
        self.when_ended: Callable[[str], None] = lambda _: None
        """Told the reason once the run has ended."""
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._reason = "cancelled"

    def __repr__(self) -> str:
        return f"<process run {self.run_id} {'up' if self._up else 'ended'}>"

    # What the actor uses.

    async def dial(self, port: int) -> trio.SocketStream:
        """Connect to a port of this host's loopback.

        All process containers of a host share it: who listens there is not checked, other than by `is_anothers` for
        those who ask. Use containers with a network of their own where sandboxes must not meet each other's ports.
        """
        stream = await dial(port, LOOPBACK, self._is_up)
        if self._warmth.note(port) and self._tasks is not None:
            self._tasks.start_soon(self._remember_port, port)
        return stream

    async def wait_listening(self, port: int) -> None:
        """Block while services that were brought back with this run may be about to listen on `port`."""
        await self._warmth.wait(port, partial(self._is_listening, port), self._is_warming)

    async def is_anothers(self, port: int) -> bool:
        return await trio.to_thread.run_sync(is_anothers, port, self._keeper.pid)

    async def start_process(self, options: ProcessOptions) -> Service:
        launch = prepare(options, self._workspace, self._environment)
        if launch.id in self._promised:
            raise ContainerError(f"process {launch.id!r} is being started already")
        revived = None if options.once else self._revived_as(options)
        if revived is not None and revived.launch.options == replace(options, id=revived.id):
            # Whoever provisions the sandbox anew asks for what the wake has brought back already.
            revived.revived = False
            await trio.lowlevel.checkpoint()
            return revived
        process_id = launch.id or f"proc-{secrets.token_hex(4)}"
        # From here on others' turns come in between.
        self._promised.add(process_id)
        try:
            return await self._start_promised(launch, process_id, revived)
        finally:
            self._promised.discard(process_id)

    async def _start_promised(self, launch: Launch, process_id: str, revived: Service | None) -> Service:
        """Start a service under an id that nobody else is about to take."""
        if revived is not None and revived.id == process_id:
            await revived.kill(signals.SIGKILL)
            await revived.wait()
        if any(service.id == process_id for service in self._current()):
            raise ContainerError(f"process {process_id!r} is running already")
        if launch.options.once:
            return await self._start_service(launch, process_id)
        # Before it is started: what is acknowledged is remembered, and a disk that is full is told of now.
        running = [*(service.id for service in self._current()), *self._promised]
        await self._book.remember(replace(launch.options, id=process_id), running)
        try:
            return await self._start_service(launch, process_id)
        except ContainerError:
            await self._book.forget(process_id)
            raise

    async def revive(self) -> None:
        """Start what the record says and does not run, under the ids that it had.

        What does not start is told and left out.
        """
        running = {service.id for service in self._current()}
        for options in self._book.services:
            assert options.id is not None
            if options.id in running:
                continue
            try:
                launch = prepare(options, self._workspace, self._environment)
                service = await self._start_service(launch, options.id)
            except PorticoError as error:
                log.warning("service not brought back", run=self.run_id, process=options.id, error=str(error))
            else:
                service.revived = True

    def _revived_as(self, options: ProcessOptions) -> Service | None:
        """Return the service, brought back by the wake and not asked for since, that `options` mean."""
        revived = [service for service in self._current() if service.revived and service.id not in self._promised]
        for service in revived:
            if options.id == service.id:
                return service
        if options.id is not None:
            return None
        alike = [service for service in revived if service.launch.options == replace(options, id=service.id)]
        return alike[0] if alike else None

    def _current(self) -> list[Service]:
        """Return the services that run or are to be started again."""
        waiting = [service for service in self._listed.values() if service.stage is Stage.RESTARTING]
        return [*(service for service in self._alive.values() if not service.name.startswith("exec~")), *waiting]

    async def _start_service(self, launch: Launch, process_id: str) -> Service:
        serial = self._next_serial()
        # "~" is in no id, so an id's second process cannot take another's file, nor the first one's.
        taken = any(service.id == process_id for service in self._listed.values())
        service = Service(self, serial, launch, f"{process_id}~{serial}" if taken else process_id, process_id)
        await self._begin(service, "service")
        return service

    async def exec(self, options: ProcessOptions) -> ExecResult:
        """Run a command to its end; of what it prints, the first MiB of each stream is kept."""
        launch = prepare(options, self._workspace, self._environment)
        serial = self._next_serial()
        command = Service(self, serial, launch, f"exec~{serial}", f"exec~{serial}")
        try:
            await self._begin(command, "exec")
            code = await command.wait()
            out, err = await trio.to_thread.run_sync(self._read_outputs, command.name)
            return ExecResult(code, out, err, command.truncated)
        except trio.Cancelled:
            with trio.move_on_after(KILL_SECONDS_MAX, shield=True):
                await command.kill(signals.SIGKILL)
                await command.exited.wait()
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._drop_outputs, command.name)

    def processes(self) -> Sequence[Service]:
        return [self._listed[serial] for serial in sorted(self._listed)]

    @property
    def detachable(self) -> bool:
        """False: the keeper ends with its server, and everything with it."""
        return False

    @property
    def busy(self) -> bool:
        """True while anything runs, a daemon that its starter left behind included."""
        return self._up and (self._tenants or bool(self._alive))

    @property
    def comes_back(self) -> bool:
        """True if a service that has not been ended is to be started again when it exits: the keeper took it along."""
        return any(options.restart is not RestartPolicy.NEVER for options in self._book.services)

    async def stop(self) -> None:
        try:
            if self._up:
                self._up = False
                self._reason = "stopped"
                await self.ask(b"stop", b"%f" % self._stop_grace)
            # The keeper keeps to the grace itself; this is for one that no longer does anything.
            with trio.move_on_after(self._stop_grace + KILL_SECONDS_MAX):
                await self._ended.wait()
        finally:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()

    async def sleep(self) -> None:
        await self.stop()

    @property
    def frozen(self) -> bool:
        """Whether its processes stand still, or are being brought to."""
        return self._standstill.asked_for

    async def freeze(self) -> bool:
        """Have all processes stand still, and end commands that are waited for; False: they could not be brought to.

        What exits meanwhile was taken by the sleep, as far as anybody can tell, and comes back with `thaw`.
        """
        return await self._standstill.begin() and self._up

    async def thaw(self, run_id: str, folder: Path, on_exit: Callable[[ProcessExit], None]) -> bool:
        """Let all go on, as the run of another name; False: the keeper is gone.

        Args:
            run_id: The name.
            folder: Where the run's folder has been moved.
            on_exit: Who is told of exits from now on.
        """
        self.run_id, self.folder, self._on_exit = run_id, folder, on_exit
        self._warmth = Warmth(self._book.ports)
        if not await self._standstill.end() or not self._up:
            return False
        for service in self._current():
            # What is done once is nobody's to ask for again.
            service.revived = not service.launch.options.once
        await self.revive()
        return True

    async def abort(self) -> None:
        """End everything at once, without politeness; return when nothing is left."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def wait_stopped(self) -> str:
        await self._ended.wait()
        return self._reason

    # The run's own task.

    async def serve(self, task_status: trio.TaskStatus["ProcessRun"]) -> None:
        """Be the run until it has ended; report the start once the keeper is ready.

        Raises:
            ContainerStartError: The keeper did not come up. Nothing is raised after the start was reported.
        """
        try:
            await self._greet()
            self._ready = True
            task_status.started(self)
            with self._scope:
                async with trio.open_nursery() as tasks:
                    self._tasks = tasks
                    tasks.start_soon(self._write)
                    await self._read()
                    tasks.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def ask(self, *fields: bytes) -> None:
        """Give the keeper a frame; nothing happens if the run has ended."""
        try:
            await self._outbox.send(pack(*fields))
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()

    def _is_up(self) -> bool:
        return self._up

    def _next_serial(self) -> int:
        if not self._up:
            raise ContainerError("the run has stopped")
        if self.frozen:
            raise ContainerError("the sandbox is asleep")
        if len(self._alive) >= RUNNING_MAX:
            raise ContainerError(f"{RUNNING_MAX} processes run already; that is as many as one run may have")
        self._serial += 1
        return self._serial

    async def _begin(self, service: Service, kind: str) -> None:
        """Have the keeper start it and wait until it runs. A cancelled wait leaves it to the reader task."""
        frame = service.launch.frame(service.serial, kind, service.name)
        self._alive[service.serial] = service
        try:
            await self._outbox.send(frame)
        except BaseException as error:
            # Not sent, so the keeper will never speak of it.
            del self._alive[service.serial]
            if not service.restarts:
                service.settle(Stage.REFUSED, refusal="the run has stopped")
            if isinstance(error, trio.BrokenResourceError):
                raise ContainerError("the run has stopped") from None
            raise
        await service.settled.wait()
        if service.stage is Stage.REFUSED:
            raise ContainerError(service.refusal)

    async def _greet(self) -> None:
        try:
            with trio.fail_after(READY_S):
                await self._stream.send_all(pack(b"hello", self._mark.encode()))
                frames: list[list[bytes]] = []
                while not frames:
                    data = await self._stream.receive_some(READ_BYTES)
                    if not data:
                        raise ContainerStartError(await self._last_words())
                    frames = self._unpacker.feed(data)
        except trio.TooSlowError:
            raise ContainerStartError(f"the keeper was not ready after {READY_S:g} s") from None
        except (trio.BrokenResourceError, ValueError) as error:
            raise ContainerStartError(await self._last_words()) from error
        if frames[0][0] != b"ready":
            raise ContainerStartError(frames[0][-1].decode(errors="replace"))

    async def _write(self) -> None:
        try:
            async for frame in self._outgoing:
                await self._stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the keeper is gone; the reader sees its end and says so

    async def _read(self) -> None:
        try:
            while data := await self._stream.receive_some(READ_BYTES):
                for frame in self._unpacker.feed(data):
                    self._apply(frame[0], frame[1:])
        except (trio.BrokenResourceError, ValueError):
            pass  # gone, or not in its right mind: `_end` closes the socket either way

    def _apply(self, event: bytes, fields: Sequence[bytes]) -> None:
        if event == b"idle":
            self._tenants = False
            return
        if event in (b"frozen", b"thawed"):
            self._standstill.heard(event == b"thawed" or fields[0] == b"1")
            return
        if event == b"restless":
            self._reason = "its processes did not stay frozen"
            log.warning("frozen processes were continued again and again, and are ended", run=self.run_id)
            return
        service = self._alive.get(int(fields[0]))
        if service is None:
            return
        if event == b"started":
            self._tenants = True
            service.pid = int(fields[1])
            service.started_at = trio.current_time()
            service.exit_code = None
            if not service.name.startswith("exec~"):
                self._listed[service.serial] = service
            service.settle(Stage.RUNNING)
        elif event == b"refused":
            del self._alive[service.serial]
            refusal = fields[1].decode(errors="replace")
            if service.restarts:
                # It had run before, and has printed something: `_start_again` goes on.
                service.refuse(refusal)
            else:
                service.settle(Stage.REFUSED, refusal=refusal)
                self._forget(service)
        elif event == b"exited":
            del self._alive[service.serial]
            service.truncated = fields[2] == b"1"
            self._exited(service, int(fields[1]))
            self._forget_oldest()

    def _exited(self, service: Service, exit_code: int) -> None:
        """Decide what becomes of a process that has exited."""
        is_service = service.serial in self._listed and not service.launch.options.once
        by_itself = self._up and not self.frozen and is_service and not service.told_to_end
        if not by_itself:
            service.settle(Stage.EXITED, exit_code=exit_code)
            return
        assert self._tasks is not None
        self._on_exit(ProcessExit(self.run_id, service.id, exit_code))
        if restarting.is_wanted(service.launch.options.restart, exit_code):
            service.stage = Stage.RESTARTING
            service.exit_code = exit_code
            self._tasks.start_soon(self._start_again, service)
            return
        service.settle(Stage.EXITED, exit_code=exit_code)
        self._tasks.start_soon(self._leave_out, service.id)

    async def _start_again(self, service: Service) -> None:
        """Task: start a service once more after a pause, and again if that fails, until its owner ends it."""
        ran_s = trio.current_time() - service.started_at
        while True:
            service.pause_s = restarting.next_pause(service.pause_s, ran_s)
            await trio.sleep(service.pause_s)
            await self._standstill.wait_going()
            if not self._up or service.exited.is_set():
                return
            ran_s = 0.0
            self._listed.pop(service.serial, None)
            try:
                service.serial = self._next_serial()
            except ContainerError as error:
                log.warning("service not started again", run=self.run_id, process=service.id, error=str(error))
                continue
            finally:
                self._listed[service.serial] = service
            service.restarts += 1
            service.settled = trio.Event()
            try:
                await self._begin(service, "again")
            except ContainerError as error:
                log.warning("service not started again", run=self.run_id, process=service.id, error=str(error))
                service.stage = Stage.RESTARTING
            else:
                return

    async def let_end(self, service: Service) -> None:
        """Take a service off the record, as its owner wants it to end."""
        if service.serial not in self._listed:
            return
        await self._book.forget(service.id)
        service.told_to_end = True
        if service.stage is Stage.RESTARTING:
            service.settle(Stage.EXITED, exit_code=service.exit_code)

    async def _leave_out(self, process_id: str) -> None:
        """Task: what has ended by itself, and is not to be started again, stays down over a sleep too."""
        # Another may have taken its id meanwhile, or be about to: what is promised may be on the record already.
        if process_id not in self._promised and not any(service.id == process_id for service in self._current()):
            try:
                await self._book.forget(process_id)
            except ContainerError as error:
                log.warning("service not taken off the record", run=self.run_id, process=process_id, error=str(error))

    async def _remember_port(self, port: int) -> None:
        try:
            await self._book.note_port(port)
        except ContainerError as error:
            # The next wake will not wait for it; nothing else is lost.
            log.warning("port not kept", run=self.run_id, port=port, error=str(error))

    async def _is_listening(self, port: int) -> bool:
        try:
            stream = await dial(port, LOOPBACK, self._is_up)
        except NotListeningError:
            return False
        stream.socket.close()
        return True

    def _is_warming(self) -> bool:
        """Say whether something that was brought back runs, or is to run again."""
        return self._up and bool(self._current())

    def _forget_oldest(self) -> None:
        exited = [service for service in self._listed.values() if service.exited.is_set()]
        if len(exited) > EXITED_MAX:
            oldest = min(exited, key=lambda service: service.serial)
            del self._listed[oldest.serial]
            self._forget(oldest)

    def _forget(self, service: Service) -> None:
        """Have its output files deleted; if the outbox is full, they stay until the run's folder goes."""
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._outbox.send_nowait(pack(b"forget", os.fsencode(service.name)))

    async def _end(self) -> None:
        """Leave nothing of the run. The one way out of `serve`."""
        self._up = False
        self._stream.socket.close()
        self._outgoing.close()
        with trio.move_on_after(KEEPER_END_S):
            await self._keeper.wait()
        if self._keeper.returncode is None:
            self._keeper.kill()
            with trio.move_on_after(_KEEPER_KILL_S):
                await self._keeper.wait()
        left = 0
        # It exits with 0 only after the kernel has told it that no child is left.
        if self._ready and self._keeper.returncode != 0:
            left = await trio.to_thread.run_sync(sweep, self._mark)
            if self._reason != "stopped":
                self._reason = await self._last_words()
        if left:
            self._reason += f"; {left} of its processes could not be killed"
        for service in [*self._alive.values(), *self._listed.values()]:
            if service.stage is Stage.ASKED:
                service.settle(Stage.REFUSED, refusal="the run has stopped")
            service.settle(Stage.EXITED, exit_code=KILLED_EXIT_CODE)
        self._alive.clear()
        self._tenants = False
        self._standstill.over()
        self._ended.set()
        self.when_ended(self._reason)

    async def _last_words(self) -> str:
        """Say why the keeper ended, with the last line that it complained in."""
        with trio.move_on_after(_LAST_WORDS_S):
            await self._keeper.wait()
        code = self._keeper.returncode
        complaint = await trio.to_thread.run_sync(read_end, self.folder / KEEPER_STDERR, _COMPLAINT_BYTES_MAX)
        lines = complaint.decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        text = f"its keeper ended unexpectedly (exit code {code})"
        return f"{text}: {said[:500]}" if said else text

    def _read_outputs(self, name: str) -> tuple[bytes, bytes]:
        out, err = (read_end(self.folder / f"{name}.{ending}", OUTPUT_BYTES_MAX) for ending in ("out", "err"))
        return out, err

    def _drop_outputs(self, name: str) -> None:
        for ending in ("out", "err"):
            (self.folder / f"{name}.{ending}").unlink(missing_ok=True)


KEEPER_STDERR: Final = "keeper.stderr"
"""In the run's folder: empty, unless the keeper failed."""
