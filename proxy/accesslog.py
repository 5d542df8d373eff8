"""The access log: a line of JSON for each request, appended to a file.

Lines are gathered and written together, at most `FLUSH_S` after the request was over or when there are `BUFFER_BYTES`
of them: a system call for each would be a tenth of what a request costs. They are written in a thread, because a pipe
whose reader has stopped, or a disk, may take its time; meanwhile at most `WAITING_BYTES_MAX` wait. It is no record of
what was promised: what has not been written when a process is killed is lost, and lines for which there is no room are
dropped and counted.
"""

import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
import trio

from proxy.core.served import Served, log_line

log = structlog.get_logger("portico.accesslog")

FLUSH_S: Final = 1.0
CLOSE_S: Final = 1.0
"""How long a write may keep the server from ending."""
BUFFER_BYTES: Final = 64 * 1024
WAITING_BYTES_MAX: Final = 4 * 1024 * 1024
"""Some 20,000 requests: seconds of a busy server."""

_FILE_MODE: Final = 0o640
"""Addresses of visitors are in it: not for everybody to read."""


class AccessLog:
    """An open access log; called with each `Served`."""

    def __init__(self, path: Path | None) -> None:
        """Open it.

        Args:
            path: A file, appended to, so that it may be moved aside and truncated by who rotates logs
                (``copytruncate``); None: standard output.

        Raises:
            OSError: It cannot be opened.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor: Final = os.dup(1) if path is None else os.open(path, flags, _FILE_MODE)
        self._lines: list[bytes] = []
        self._size = 0
        self._second = 0
        self._time = ""
        self._dropped = 0
        self._full = trio.Event()
        # Not set while a thread has some of the lines.
        self._idle = threading.Event()
        self._idle.set()

    def __call__(self, served: Served) -> None:
        """Take note; see `proxy.core.served.Observer`."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._time = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line = log_line(served, f"{self._time}.{int((now - second) * 1000):03d}Z")
        if self._size >= WAITING_BYTES_MAX:
            self._drop(1, "whoever reads it is too slow")
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER_BYTES:
            self._full.set()

    async def run(self) -> None:
        """Write what was gathered, now and then, until cancelled."""
        while True:
            with trio.move_on_after(FLUSH_S):
                await self._full.wait()
            self._full = trio.Event()
            lines = self._take()
            if lines:
                self._idle.clear()
                # Nobody waits for a pipe that nobody reads: when the server ends, the thread is left behind.
                error = await trio.to_thread.run_sync(self._write_aside, lines, abandon_on_cancel=True)
                self._note(lines, error)

    def close(self) -> None:
        """Write what is left, unless a write that is under way does not come back within `CLOSE_S`."""
        if not self._idle.wait(CLOSE_S):
            return
        lines = self._take()
        self._note(lines, self._write(lines))
        os.close(self._descriptor)

    def _take(self) -> list[bytes]:
        lines, self._lines, self._size = self._lines, [], 0
        return lines

    def _write_aside(self, lines: list[bytes]) -> OSError | None:
        try:
            return self._write(lines)
        finally:
            self._idle.set()

    def _write(self, lines: list[bytes]) -> OSError | None:
        data = b"".join(lines)
        try:
            while data:
                sent = os.write(self._descriptor, data)
                data = data[sent:]
        except OSError as error:
            return error
        return None

    def _note(self, lines: list[bytes], error: OSError | None) -> None:
        if error is not None:
            self._drop(len(lines), error.strerror or str(error))
        elif self._dropped and lines:
            log.warning("access log can be written again", lines_dropped=self._dropped)
            self._dropped = 0

    def _drop(self, count: int, reason: str) -> None:
        # Told once for each row of failures, not for each line: a full disk must not fill another log.
        if not self._dropped:
            log.error("access log cannot be written: lines are dropped", reason=reason)
        self._dropped += count
