"""The keeper: the small program that owns every process of one run and does not let one of them outlive it.

The server starts one keeper per run and speaks to it over a Unix socket pair. The keeper is a *child subreaper*
(prctl(2), PR_SET_CHILD_SUBREAPER): whatever a service spawns, double-forked daemons and `setsid` included, stays
a descendant of the keeper, for the kernel hands it every orphan. So "nothing is left" has an exact meaning here:
``waitpid`` says that there are no children. The end of the socket means that the server is gone, by SIGKILL too,
and then the keeper kills all it has and exits.

What would go wrong without it: a server that was killed cannot clean up, process groups do not hold daemons, and
`fork` in a server with threads is unsafe (here there is one thread, so code may run between `fork` and `exec`).

Boundaries. A service runs as the same user and can kill its keeper: this is tidiness, not a security fence.
Direct children then get SIGKILL from the kernel (PR_SET_PDEATHSIG), and the server looks for the rest by a mark
in their environment (`leftovers.py`). Only the standard library is imported, and little of it, because every
start of a container pays for it; that is why frames are not JSON, why there is no `typing` or `dataclasses`, and
why all of it is one file, which imports nothing of ours.

A frame is a list of byte strings::

    0       4                     4+n
    | n: u32 | field | field | …  |          field:  | length: u32 | bytes |          all big-endian

To the keeper:   hello mark · start serial kind name cwd argc argv… NAME=value… · signal serial number ·
                 forget name · freeze · thaw · stop seconds
                 (kind: exec, service, or again for one that was started before)
From the keeper: ready · failed text · started serial pid · refused serial text ·
                 exited serial code truncated · idle · frozen 1-or-0 · thawed · restless
                 (idle: no child of any kind is left; frozen 0: some would not stand still, and all go on;
                 restless: some did not stay as they were, and all of them are being killed)
"""

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

# Bounds what one start can carry. Linux takes about 2 MiB of arguments and environment in all (execve(2)).
FRAME_BYTES_MAX = 1024 * 1024
# The newest output that is kept of a service, in two files of half the size each, and the first that is kept of
# each stream of a command that is waited for.
OUTPUT_BYTES_MAX = 1024 * 1024
# One read of a pipe: the usual capacity of a Linux pipe (pipe(7)).
READ_BYTES = 64 * 1024
# After a command has exited, what it left in the pipe is read; one that a background child fills without end is
# left to the loop after this much.
DRAIN_READS = OUTPUT_BYTES_MAX // READ_BYTES + 1
# How many dead children are collected before the loop looks at the socket again: orphans that die as fast as they
# are made must not keep it from hearing "stop".
REAP_MAX = 256
# Passes of SIGSTOP before the kill: a fork bomb stands still after a few, since a stopped process does not fork.
FREEZE_PASSES_MAX = 50
# How long killing may take. Only a process in uninterruptible sleep, or of another user, lasts longer.
KILL_SECONDS_MAX = 10.0
KILL_PASS_MS = 20
FLUSH_MS_MAX = 2000
# How long making everything stand still may take. Measured: 10 ms for ten processes on a machine with 200; a process
# that is in the kernel for long, or of another user, does not stand still at all.
FREEZE_SECONDS_MAX = 3.0
FREEZE_PASS_MS = 2
# How long children that are being started may take to get to their program, before all are made to stand still. It
# takes some milliseconds, but for one whose folder is on a disk that does not answer.
START_SECONDS_MAX = 1.0
# Looks in a row that find nobody moving. One is not enough: /proc is read piece by piece, and what changes its parent
# meanwhile may be overlooked.
FREEZE_CLEAN_PASSES = 2
# How often those that stand are looked after: a process can have the kernel continue it (timer_create(2), and fcntl(2)
# with F_SETSIG, take any signal), and so can its user. While all of them stand, each pause is twice the one before, for
# a look reads all of /proc, measured: 14 ms with 500 processes, and many sandboxes may sleep on one machine.
LOOK_SECONDS_FIRST = 1.0
LOOK_SECONDS_MAX = 30.0
# Looks of one sleep that may find somebody moving, who is stopped again. Whoever moves once more has arranged for it: a
# person who continues one by hand, to look at it, has stopped by then. Not in a row, or it would pay to move rarely.
RESTLESS_LOOKS_MAX = 3

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

FROZEN_FILE = "frozen"
"""In the run's folder while its processes stand still: what a server that is started anew has to look after."""

IDENTITY_FILE = "keeper"
"""In the run's folder: pid, start time in clock ticks, mark; how a later server recognises a keeper."""


def pack(*fields: bytes) -> bytes:
    """Return one frame.

    Raises:
        ValueError: It would be longer than `FRAME_BYTES_MAX`.
    """
    body = b"".join([len(field).to_bytes(4, "big") + field for field in fields])
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(body)} bytes; at most {FRAME_BYTES_MAX}")
    return len(body).to_bytes(4, "big") + body


class Unpacker:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[list[bytes]]:
        """Return the frames that `data` completes.

        Raises:
            ValueError: The bytes are no frames; the stream cannot be used any further.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length} bytes; at most {FRAME_BYTES_MAX}")
            if len(self._buffer) < 4 + length:
                break
            frames.append(_fields(bytes(self._buffer[4 : 4 + length])))
            del self._buffer[: 4 + length]
        return frames


def _fields(body: bytes) -> list[bytes]:
    fields = []
    at = 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4], "big")
        if end > len(body):
            raise ValueError("a field reaches past its frame")
        fields.append(body[at + 4 : end])
        at = end
    if not fields:
        raise ValueError("an empty frame")
    return fields


def read_stat(pid: int) -> tuple[bytes, int, int] | None:
    """Return (state, parent's pid, start time in clock ticks) of a process, None if there is none (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None  # gone since it was listed
    # The second field is the program's own choice of name and may hold spaces and brackets: cut after the last.
    rest = text[text.rfind(b")") + 2 :].split()
    # A process whose first thread has ended while others run is called a zombie too. It is to be killed like any other,
    # and counts as one that never stands still, since it would not show here if it did.
    state = b"S" if rest[0] == b"Z" and int(rest[17]) > 1 else rest[0]
    return state, int(rest[1]), int(rest[19])


def descendants(root: int) -> dict[int, int]:
    """Return {pid: start time} of every live descendant of `root`, zombies left out.

    One pass over /proc is not atomic: a process may be born or change its parent meanwhile and be missed. Callers
    go round until `waitpid` says that no child is left. The other mistake must not happen: numbers are used again,
    so a family tree put together from readings of different moments may hold strangers. Each link of it is therefore
    read again, the child between two readings of a parent that was the same process at both.
    """
    family: dict[int, list[int]] = {}  # {parent: children}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            stat = read_stat(int(name))
            if stat is not None:
                family.setdefault(stat[1], []).append(int(name))
    found: dict[int, int] = {}
    todo = [root]
    while todo:
        parent = todo.pop()
        for pid in family.get(parent, ()):
            stat = read_stat(pid)
            if stat is None or stat[1] != parent or stat[0] in b"ZX" or pid in found:
                continue
            if parent != root and not _is_still(parent, found[parent]):
                break
            found[pid] = stat[2]
            todo.append(pid)
    return found


def _stands(pid: int, started: int) -> bool:
    """Say whether a process stands still, stopped or traced (proc(5)), or is there no more."""
    stat = read_stat(pid)
    return stat is None or stat[2] != started or stat[0] in b"TtZX"


def _is_still(pid: int, started: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat[2] == started


def signal_exactly(pid: int, started: int, signum: int) -> None:
    """Signal the process that had this pid and start time, and never another that has got its number since."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return  # gone, or no descriptor free: the caller comes round again
    try:
        # The pidfd is bound to whatever has the number now; only if that is still the same one, it is signalled.
        stat = read_stat(pid)
        if stat is not None and stat[2] == started:
            signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        pass  # it died in between, or belongs to another user (a setuid program): nothing we could do
    finally:
        os.close(pidfd)


class Output:
    """What one process prints: the pipe's reading end, and the bounded file that the bytes go to."""

    def __init__(self, fd: int, path: bytes, *, rotate: bool, append: bool = False) -> None:
        self.fd = fd
        self.path = path
        self.truncated = False
        self._rotate = rotate
        self._size = 0
        self._file = -1
        self._open(0 if append else os.O_TRUNC)

    def read(self) -> int:
        """Move what is in the pipe, at most one pipe full. Return how much that was; 0 at its end, -1 if empty."""
        try:
            data = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return -1
        if data and self._file >= 0:
            try:
                self._write(data)
            except OSError:
                # A full disk costs output, never the service: the pipe goes on being emptied.
                self.truncated = True
        return len(data)

    def drain(self) -> None:
        """Move everything that a process which has exited left in the pipe."""
        for _ in range(DRAIN_READS):
            if self.read() <= 0:
                break

    def discard(self) -> None:
        """Keep nothing from now on. The pipe is still emptied: a background child must not die of SIGPIPE."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self, truncate: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | truncate
        self._file = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _write(self, data: bytes) -> None:
        if self._rotate:
            if self._size + len(data) > OUTPUT_BYTES_MAX // 2:
                os.replace(self.path, self.path + b".1")
                os.close(self._file)
                self._file = -1
                self._open(os.O_TRUNC)
        elif self._size + len(data) > OUTPUT_BYTES_MAX:
            data = data[: OUTPUT_BYTES_MAX - self._size]
            self.truncated = True
        self._size += len(data)
        while data:
            data = data[os.write(self._file, data) :]


class Child:
    """A process that was asked for, from `fork` until it has been reaped."""

    def __init__(self, serial: bytes, pid: int, status_fd: int, outputs: list[Output], *, waited: bool) -> None:
        self.serial = serial
        self.pid = pid
        self.status_fd = status_fd
        """Ends without a byte when `exec` has worked; carries a text when it has not. -1 once that is known."""
        self.outputs = outputs
        self.waited = waited
        """True for a command that somebody waits for: nothing is kept of what its children print afterwards."""
        self.refused = False


class Keeper:
    """One run's processes, and the loop that looks after them."""

    def __init__(self, control: int, libc: ctypes.CDLL) -> None:
        self._pid = os.getpid()
        self._control = control
        self._libc = libc
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._children: dict[int, Child] = {}  # {pid: child}, un-reaped ones only: their pids are safe to signal
        self._outputs: dict[int, Output] = {}  # {pipe: output}, until the pipe ends
        self._unpacker = Unpacker()
        self._outgoing = bytearray()
        self._idle = True
        self._frozen = False
        self._stopped: dict[int, int] = {}  # {pid: start time}, of those that we have made stand still, parents first
        self._restless = 0  # looks of this sleep that have found somebody moving
        self._look_pause = LOOK_SECONDS_FIRST
        self._look_at = 0.0  # on the monotonic clock; counts while frozen
        self._dead_waiting = False
        self._reaped = 0
        self._deadline: float | None = None
        """When polite stopping ends, on the monotonic clock. None: the run is not being stopped."""
        os.set_blocking(control, False)
        self._watch(control, self._on_control)
        woken, waker = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(waker, False)
        self._woken = woken
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        self._watch(woken, self._on_child)

    def watch_server(self, pid: int) -> None:
        """End with the server even if a fork of it keeps the other end of the socket open."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # gone already: the end of the socket says so too
        self._watch(pidfd, self._force)

    def run(self) -> bool:
        """Serve until told to stop or left alone, then end everything. Return whether nothing is left."""
        while self._deadline is None or (not self._idle and time.monotonic() < self._deadline):
            timeout: float | None = 0 if self._dead_waiting else None
            next_turn = self._look_at if self._frozen and self._deadline is None else self._deadline
            if timeout is None and next_turn is not None:
                timeout = max(0.0, next_turn - time.monotonic()) * 1000
            for fd, _ in self._poll.poll(timeout):
                # An earlier handler of this round may have closed it.
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            if self._dead_waiting:
                self._reap()
            if self._frozen and self._deadline is None and time.monotonic() >= self._look_at:
                self._look_again()
        clean = self._end_all()
        if clean and self._frozen:
            self._unmark()
        self._flush_last()
        return clean

    def send(self, *fields: bytes) -> None:
        """Tell the server. What it does not read yet waits here: a few frames per process, of which it allows few."""
        self._outgoing += pack(*fields)
        self._flush()

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)
        os.close(fd)

    def _force(self) -> None:
        """Skip the polite part."""
        self._deadline = time.monotonic()

    # The socket.

    def _on_control(self) -> None:
        if self._outgoing:
            self._flush()
        try:
            data = os.read(self._control, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # closed with something unread
        if not data:
            self._force()
            return
        for frame in self._unpacker.feed(data):
            self._obey(frame[0], frame[1:])

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: os.write(self._control, self._outgoing)]
        except BlockingIOError:
            self._poll.modify(self._control, select.POLLIN | select.POLLOUT)
            return
        except OSError:
            self._outgoing.clear()  # nobody reads any more; reading will say so as well
        self._poll.modify(self._control, select.POLLIN)

    def _flush_last(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLOUT)
        while self._outgoing and poll.poll(FLUSH_MS_MAX):
            self._flush()

    def _obey(self, name: bytes, fields: Sequence[bytes]) -> None:
        if name == b"hello":
            _write_identity(fields[0])
            self.send(b"ready")
        elif name == b"start":
            self._start(fields)
        elif name == b"signal":
            self._signal(fields[0], int(fields[1]))
        elif name == b"forget":
            self._forget(fields[0])
        elif name == b"freeze":
            self._freeze()
        elif name == b"thaw":
            self._thaw()
        elif name == b"stop":
            self._ask_to_end(float(fields[0]))

    # Starting.

    def _start(self, fields: Sequence[bytes]) -> None:
        serial, kind, name, cwd, argc = fields[:5]
        argv = list(fields[5 : 5 + int(argc)])
        env = dict([item.split(b"=", 1) for item in fields[5 + int(argc) :]])
        if self._deadline is not None:
            self.send(b"refused", serial, b"the run is being stopped")
            return
        if self._frozen:
            self.send(b"refused", serial, b"the sandbox is asleep")
            return
        opened: list[int] = []
        kept: list[Output] = []
        try:
            status, status_in = _pipe(opened)
            out, out_in = _pipe(opened)
            outputs = [(out, name + (b".out" if kind == b"exec" else b".log"))]
            err_in = out_in
            if kind == b"exec":
                err, err_in = _pipe(opened)
                outputs.append((err, name + b".err"))
            for fd, path in outputs:
                kept.append(Output(fd, path, rotate=kind != b"exec", append=kind == b"again"))
            pid = os.fork()
        except OSError as error:
            for output in kept:
                output.discard()
            for fd in opened:
                os.close(fd)
            self.send(b"refused", serial, f"cannot start another process: {error.strerror}".encode())
            return
        if pid == 0:
            self._become(argv, env, cwd, out_in, err_in, status_in)
        for fd in {status_in, out_in, err_in}:
            os.close(fd)
        self._idle = False
        child = Child(serial, pid, status, kept, waited=kind == b"exec")
        self._children[pid] = child
        self._watch(status, partial(self._on_status, child))
        for output in kept:
            self._outputs[output.fd] = output
            self._watch(output.fd, partial(self._on_output, output))

    def _become(self, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, out: int, err: int, status: int) -> None:
        """Turn the forked child into the program. Never returns.

        Every descriptor that is not handed on here is close-on-exec (PEP 446), so none has to be closed.
        """
        step = b"cannot start"
        try:
            os.setsid()
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._pid:
                os._exit(127)  # the keeper died before the line above took effect
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                if signal.getsignal(number) is not signal.SIG_DFL:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            step = b"cannot enter the folder " + cwd
            os.chdir(cwd)
            step = b"cannot run " + argv[0]
            os.execvpe(argv[0], argv, env)  # noqa: S606  # running what the owner asked for is the purpose
        except BaseException as error:  # noqa: BLE001  # a forked copy must not run on as a second keeper
            text = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            os.write(status, (step + b": " + text.encode())[:READ_BYTES])
        finally:
            os._exit(127)

    def _on_status(self, child: Child) -> None:
        try:
            text = os.read(child.status_fd, READ_BYTES)
        except BlockingIOError:
            return
        self._unwatch(child.status_fd)
        child.status_fd = -1
        if text:
            child.refused = True
            self.send(b"refused", child.serial, text)
        else:
            self.send(b"started", child.serial, b"%d" % child.pid)

    # Running.

    def _on_output(self, output: Output) -> None:
        if output.read() == 0:
            output.discard()
            del self._outputs[output.fd]
            self._unwatch(output.fd)

    def _on_child(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._woken, READ_BYTES)
        self._dead_waiting = True

    def _reap(self) -> None:
        """Collect children that have died. `_idle` is true once the kernel says that there are none at all."""
        for _ in range(REAP_MAX):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._dead_waiting = False
                if not self._idle:
                    self._idle = True
                    self.send(b"idle")
                return
            if pid == 0:
                self._dead_waiting = False
                return
            self._reaped += 1
            child = self._children.pop(pid, None)
            if child is not None:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        if child.status_fd >= 0:
            self._on_status(child)
        for output in child.outputs:
            if output.fd in self._outputs:
                output.drain()
            if child.waited:
                output.discard()
        if not child.refused:
            truncated = any(output.truncated for output in child.outputs)
            self.send(b"exited", child.serial, b"%d" % code, b"1" if truncated else b"0")

    def _signal(self, serial: bytes, number: int) -> None:
        if self._frozen and number == signal.SIGCONT:
            return  # nobody runs while its sandbox sleeps; all of them are told when it wakes
        for child in self._children.values():
            if child.serial == serial:
                try:
                    os.killpg(child.pid, number)
                except ProcessLookupError:
                    os.kill(child.pid, number)  # so young that it does not lead a group yet
                except PermissionError:
                    pass  # a setuid program: it is not ours to signal

    def _forget(self, name: bytes) -> None:
        path = name + b".log"
        for output in self._outputs.values():
            if output.path == path:
                output.discard()
        for old in (path, path + b".1"):
            with suppress(OSError):  # never rotated, or taken away by somebody else
                os.unlink(old)

    # Sleeping.

    def _freeze(self) -> None:
        """Have every descendant stand still, or let all go on if that cannot be had in time, and say which.

        Commands that are waited for are killed instead: who waits would be left without an answer.
        """
        for child in self._children.values():
            if child.waited:
                self._signal(child.serial, signal.SIGKILL)
        self._frozen = True
        self._let_start()
        try:
            with open(FROZEN_FILE, "wb"):
                still = self._stand_still()
        except OSError:
            still = False  # a full disk: what nobody could find again must not be left standing
        if not still:
            self._let_go_on()
        self._restless = 0
        self._look_pause = LOOK_SECONDS_FIRST
        self._look_at = time.monotonic() + self._look_pause
        self.send(b"frozen", b"1" if still else b"0")

    def _let_start(self) -> None:
        """Let children that are on the way to their program get there, as whoever waits for that waits for them.

        Those that do not in time are killed: what stands still on the way would keep the other side waiting till it
        goes on.
        """
        deadline = time.monotonic() + START_SECONDS_MAX
        for child in [*self._children.values()]:
            if child.status_fd < 0:
                continue
            poll = select.poll()
            poll.register(child.status_fd, select.POLLIN)
            if poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._on_status(child)
            else:
                self._signal(child.serial, signal.SIGKILL)

    def _thaw(self) -> None:
        self._let_go_on()
        self.send(b"thawed")

    def _stand_still(self) -> bool:
        """Stop every descendant, and look until all of them are seen to stand: some fork while they are stopped."""
        deadline = time.monotonic() + FREEZE_SECONDS_MAX
        pause = select.poll()
        while time.monotonic() < deadline:
            clean = 0
            for _ in range(FREEZE_PASSES_MAX):
                reaped = self._reaped
                moving = self._moving()
                self._reap()
                # Those that fork and exit faster than /proc is read are in no list, but every one of them leaves us
                # an orphan or its remains.
                clean = 0 if moving or self._reaped != reaped else clean + 1
                if clean == FREEZE_CLEAN_PASSES:
                    return True
                self._stop(moving)
                pause.poll(FREEZE_PASS_MS)
            # A child that is stopped between vfork(2) and its program keeps its parent in the kernel, and neither
            # would ever stand: they move on, and are tried again.
            self._move_on()
        return False

    def _look_again(self) -> None:
        """Stop who has been continued by others than us; end the run if that goes on and on."""
        moving = self._moving()
        if moving:
            self._restless += 1
            if self._restless > RESTLESS_LOOKS_MAX:
                self.send(b"restless")
                self._force()
                return
            self._stop(moving)
        self._look_pause = LOOK_SECONDS_FIRST if moving else min(2 * self._look_pause, LOOK_SECONDS_MAX)
        self._look_at = time.monotonic() + self._look_pause

    def _moving(self) -> dict[int, int]:
        """Return {pid: start time} of every descendant that does not stand still."""
        return {pid: at for pid, at in descendants(self._pid).items() if not _stands(pid, at)}

    def _stop(self, moving: dict[int, int]) -> None:
        for pid, started in moving.items():
            signal_exactly(pid, started, signal.SIGSTOP)
        self._stopped.update(moving)

    def _let_go_on(self) -> None:
        self._frozen = False
        self._move_on()
        self._unmark()

    def _unmark(self) -> None:
        with suppress(OSError):  # it was never there, or somebody has taken it away
            os.unlink(FROZEN_FILE)

    def _move_on(self) -> None:
        """Continue whom we have stopped, and nobody else: a service may have stopped others itself."""
        # Children first, so that a shell with job control does not find them stopped when it looks again.
        for pid, started in reversed(self._stopped.items()):
            signal_exactly(pid, started, signal.SIGCONT)
        self._stopped.clear()

    # Ending.

    def _ask_to_end(self, grace: float) -> None:
        until = time.monotonic() + grace
        self._deadline = until if self._deadline is None else min(self._deadline, until)
        for pid, started in descendants(self._pid).items():
            signal_exactly(pid, started, signal.SIGTERM)
            signal_exactly(pid, started, signal.SIGCONT)  # a stopped one could not heed it

    def _end_all(self) -> bool:
        """Kill every descendant until there is no child left. Return False if some would not die in time."""
        deadline = time.monotonic() + KILL_SECONDS_MAX
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        self._reap()
        while not self._idle:
            # First all of them stand still: at a limit on processes, killing one lets another fork.
            still: dict[int, int] = {}
            for _ in range(FREEZE_PASSES_MAX):
                fresh = {pid: at for pid, at in descendants(self._pid).items() if still.get(pid) != at}
                if not fresh:
                    break
                for pid, started in fresh.items():
                    signal_exactly(pid, started, signal.SIGSTOP)
                still.update(fresh)
            for pid, started in descendants(self._pid).items():
                signal_exactly(pid, started, signal.SIGKILL)
            if not self._dead_waiting:
                poll.poll(KILL_PASS_MS)
            self._on_child()
            self._reap()
            if time.monotonic() > deadline:
                return self._idle
        return True


def _note(_number: int, _frame: object) -> None:
    """Stand in for a SIGCHLD handler: the wake-up pipe, which needs one, has told the loop already."""


def _pipe(opened: list[int]) -> tuple[int, int]:
    """Make a pipe that is read without blocking; note both ends in `opened`."""
    reading, writing = os.pipe()
    opened += [reading, writing]
    os.set_blocking(reading, False)
    return reading, writing


def _write_identity(mark: bytes) -> None:
    stat = read_stat(os.getpid())
    started = stat[2] if stat is not None else 0
    with open(IDENTITY_FILE, "wb") as file:
        file.write(b"%d %d %s\n" % (os.getpid(), started, mark))


def _prepare() -> ctypes.CDLL:
    """Make this process a keeper.

    Raises:
        OSError: This system lacks what a keeper needs; the text names it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "prctl"):
        raise OSError("process containers need Linux: this system has no prctl(2)")
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")
    libc.prctl(PR_SET_NAME, b"portico-keeper", 0, 0, 0)
    if read_stat(os.getpid()) is None:
        raise OSError("process containers need /proc to be mounted")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise OSError("process containers need pidfd_open(2): Linux 5.3 or newer") from error
    # A terminal's Ctrl-C, or a supervisor that signals everything at once: the server decides, and tells us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return libc


def main(control: int, server: int) -> None:
    """Run as the keeper: `control` is our end of the socket pair, `server` the pid of who holds the other."""
    os.set_inheritable(control, False)
    try:
        libc = _prepare()
    except OSError as error:
        os.write(control, pack(b"failed", str(error).encode()))
        sys.exit(1)
    keeper = Keeper(control, libc)
    keeper.watch_server(server)
    sys.exit(0 if keeper.run() else 1)
