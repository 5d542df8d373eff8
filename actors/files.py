"""The few things a log does to a file system, as a Protocol, so that tests can make any one of them fail.

Everything here blocks and raises OSError; callers are in worker threads. Paths are text, because this is the
path of every append and `pathlib` costs more than the system calls. What is *durable* survives a power cut:

- `write_at` returns once its bytes are durable, in one system call (the file is opened with O_DSYNC, which
  POSIX defines as a write followed by fdatasync; one call instead of two is one wait for the interpreter's
  lock fewer, a third more appends per second when many sandboxes append at once);
- what `write` and `truncate` did is durable once `sync` has returned;
- what `create`, `replace`, `remove` and `make_folder` did is durable once `sync_folder` of the folder that holds
  the name has returned (fsync(2): syncing a file does not sync its directory entry).
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

# Logs hold port tokens: nobody but the owner of the process may read them.
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Files(Protocol):
    """A file system, as far as a log needs one. A file descriptor belongs to whoever opened it."""

    def read(self, path: str) -> bytes:
        """Return the whole file; FileNotFoundError if there is none."""

    def size(self, path: str) -> int | None:
        """Return its size in bytes, None if there is no such file."""

    def create(self, path: str) -> int:
        """Make a new file for writing and return its descriptor; FileExistsError if there is one."""

    def open_durable(self, path: str) -> int:
        """Open an existing file for `write_at`; FileNotFoundError if there is none."""

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        """Write at a place, and beyond the end if it must be, and wait until it is durable.

        Returns:
            How many bytes were taken.
        """

    def write(self, fd: int, data: bytes) -> int:
        """Add to the end of a created file; return how many bytes were taken."""

    def sync(self, fd: int) -> None:
        """Make the file's data and length durable. After an error, never call it again on this descriptor."""

    def truncate(self, fd: int, length: int) -> None: ...

    def length(self, fd: int) -> int: ...

    def close(self, fd: int) -> None: ...

    def replace(self, source: str, target: str) -> None:
        """Rename, atomically replacing the target if there is one."""

    def remove(self, path: str) -> None:
        """Remove a file; none there is fine."""

    def make_folder(self, path: str) -> None:
        """Make a folder; one there is fine, a missing parent is not."""

    def sync_folder(self, path: str) -> None: ...

    def names(self, path: str) -> Sequence[str]:
        """Return the names in a folder, in no order; FileNotFoundError if there is none."""

    def lock(self, path: str, text: str) -> int:
        """Take the lock that the file at `path` stands for, write `text` into it, return its descriptor.

        The lock lasts until the descriptor is closed or the process ends, however it ends.

        Raises:
            BlockingIOError: It is taken; the file says by whom.
        """


class RealFiles:
    """The operating system's own."""

    def read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # One byte more than its size asks for the end of the file in the same call. A writer may be adding
            # to it meanwhile: whatever the loop does not reach was not there when the reading began.
            expected = os.fstat(fd).st_size + 1
            data = os.read(fd, expected)
            while len(data) < expected and (more := os.read(fd, expected - len(data))):
                data += more
            return data
        finally:
            os.close(fd)

    def size(self, path: str) -> int | None:
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None

    def create(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)

    def open_durable(self, path: str) -> int:
        return os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def write(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def length(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def close(self, fd: int) -> None:
        os.close(fd)

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def make_folder(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, FOLDER_MODE)

    def sync_folder(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def names(self, path: str) -> Sequence[str]:
        return os.listdir(path)

    def lock(self, path: str, text: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            # flock(2) belongs to this open file, not to the process (as fcntl's locks do): a second store in the
            # same process is kept out too, and closing some other descriptor of the file does not lose the lock.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, text.encode())
        except BaseException:
            os.close(fd)
            raise
        return fd


def write_whole(files: Files, path: str, data: bytes) -> None:
    """Make a new file that holds `data`, durable but for its name (see `Files.sync_folder`).

    Raises:
        FileExistsError: There is one; it was not touched.
        OSError: What there is under that name now is to be removed.
    """
    fd = files.create(path)
    try:
        check_taken(files.write(fd, data), data)
        files.sync(fd)
    finally:
        files.close(fd)


def successor(path: str) -> str:
    """Return where the next content of a file is written before it takes the file's place."""
    return f"{path}.new"


def replace_whole(files: Files, path: str, data: bytes) -> None:
    """Put `data` in place of what a file holds, durably: after a crash it is the one or the other, whole.

    The file is made anew, so its mode is ours and not an older file's, and no link that lies in its way is followed.

    Raises:
        OSError: It holds the one or the other; a new file may lie beside it, for the next call to remove.
    """
    fresh = successor(path)
    files.remove(fresh)
    write_whole(files, fresh, data)
    files.replace(fresh, path)
    files.sync_folder(os.path.dirname(path))


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` in place of what a real file holds; see `replace_whole`. Blocks: for a thread.

    Its folder must be there. Nobody but its owner may read it.
    """
    replace_whole(RealFiles(), os.path.abspath(path), data)


def check_taken(taken: int, data: bytes) -> None:
    """Treat a short write as the failure it nearly always announces; what was written is then half a record."""
    if taken != len(data):
        raise OSError(errno.EIO, f"only {taken} of {len(data)} bytes were taken; the disk may be full")


def describe_failure(error: OSError) -> str:
    """Say in words what went wrong, the full disk by name; nothing of any file's content is in it."""
    if error.errno in _DISK_FULL:
        return f"the disk is full ({error.strerror})"
    if error.errno == errno.EIO:
        return f"the disk failed ({error.strerror})"
    if error.strerror is None:
        return str(error)
    about = "" if error.filename is None else f": {error.filename}"
    return f"{error.strerror.lower()}{about}"
