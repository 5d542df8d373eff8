"""Following a log that grows and is turned over: nothing twice, and nothing left out unless it turns over unread.

The keeper writes to one file until it is full, puts that aside under another name, and begins the next. A file that is
held open can be read to its end whatever it is called by then, so it is enough to look whether the name leads to
another file now, and to go on with that one.
"""

import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import trio

from actors.containers.keeper import OUTPUT_BYTES_MAX

TAIL_BYTES: Final = 64 * 1024
"""Read at a time, so that one who follows does not hold much."""


class FileTail:
    """Reads one log as it grows. Made before the log is, if need be."""

    def __init__(self, find: Callable[[], Path]) -> None:
        """Begin before the first byte.

        Args:
            find: Says where the log is; asked again each time, as it may move with its folder.
        """
        self._find = find
        self._file: FileIO | None = None
        self._unread = b""
        self._begun = False

    async def read(self) -> bytes:
        """Return some of what has been printed since the last call, at first of all that is kept; ``b""``: nothing."""
        return await trio.to_thread.run_sync(self._read)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> bytes:
        if self._file is None:
            self._open()
        if self._unread:
            data, self._unread = self._unread[:TAIL_BYTES], self._unread[TAIL_BYTES:]
            return data
        if self._file is None:
            return b""
        data = self._file.read(TAIL_BYTES)
        if data or not self._turned_over():
            return data
        # What was written between the look and the turning over.
        data = self._file.read(TAIL_BYTES)
        if not data:
            self.close()
            return self._begin()
        return data

    def _begin(self) -> bytes:
        self._open()
        return self._file.read(TAIL_BYTES) if self._file is not None else b""

    def _open(self) -> None:
        try:
            # Unbuffered: an end that was met once is not remembered.
            self._file = self._find().open("rb", buffering=0)
        except FileNotFoundError:
            # Not there yet, in the middle of turning over, or gone with its folder.
            return
        if not self._begun:
            self._begun = True
            try:
                path = self._find()
                with open(path.with_name(path.name + ".1"), "rb") as older:
                    self._unread = older.read(OUTPUT_BYTES_MAX)
            except FileNotFoundError:
                pass

    def _turned_over(self) -> bool:
        assert self._file is not None
        try:
            return os.stat(self._find()).st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False
