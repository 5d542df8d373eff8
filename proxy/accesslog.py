"""The access log: a line of JSON for each request, appended to a file.

Lines are gathered and written together, at most `FLUSH_S` after the request was over or when there are `BUFFER_BYTES`
of them: a system call for each would be a tenth of what a request costs. It is no record of what was promised: what
has not been written when a process is killed is lost, and lines for which the disk has no room are dropped and counted.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
import trio

from proxy.core.served import Served, log_line

log = structlog.get_logger("portico.accesslog")

FLUSH_S: Final = 1.0
BUFFER_BYTES: Final = 64 * 1024

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

    def __call__(self, served: Served) -> None:
        """Take note; see `proxy.core.served.Observer`."""
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._time = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line = log_line(served, f"{self._time}.{int((now - second) * 1000):03d}Z")
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if not self._lines:
            return
        data, count = b"".join(self._lines), len(self._lines)
        self._lines.clear()
        self._size = 0
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            # Told once for each row of failures, not for each line: a full disk must not fill another log.
            if not self._dropped:
                log.error("access log cannot be written: lines are dropped", reason=error.strerror)
            self._dropped += count
            return
        if self._dropped:
            log.warning("access log can be written again", lines_dropped=self._dropped)
            self._dropped = 0

    async def run(self) -> None:
        """Write every `FLUSH_S`, until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            self.flush()

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        os.close(self._descriptor)
