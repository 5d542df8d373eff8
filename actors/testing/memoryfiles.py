"""A file system in memory that loses in a crash what POSIX allows to be lost.

Each file has its bytes as programs see them and as they are on the disk, and each folder its names; a sync carries
one over to the other. `MemoryFiles.crash` gives what a power cut would leave: what was synced for certain, of the
rest as much as the test says.
"""

import errno
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from actors.core.record import SECTOR_BYTES


class Keep(StrEnum):
    """How much of what was not synced a power cut leaves."""

    NOTHING = "nothing"
    HALF = "half"
    """Of what files have grown by the first half, of their changed sectors too; of changed names every other one."""
    OTHERS = "others"
    """The files' lengths, and every other one of their changed sectors, the first one not; and all names."""
    ZEROS = "zeros"
    """The files' lengths, but for their bytes what was there before, or zeros; and all names."""
    ALL = "all"


# What a file system writes at a time: cutting a file makes the page dirty that the cut goes through.
_PAGE_BYTES: Final = 4096


class _File:
    """One file's bytes, as programs see them and as they are on the disk."""

    def __init__(self, data: bytes = b"") -> None:
        """Begin with bytes that are durable."""
        self.data = bytearray(data)
        self.disk = data
        # From where on a sync has something to write; None: nowhere.
        self._dirty_from: int | None = None

    def write(self, data: bytes, offset: int) -> None:
        self._make_dirty(min(offset, len(self.data)))
        self.data[offset : offset + len(data)] = data.rjust(max(0, offset - len(self.data)) + len(data), b"\0")

    def truncate(self, length: int) -> None:
        del self.data[length:]
        self._make_dirty(length // _PAGE_BYTES * _PAGE_BYTES)

    def sync(self) -> None:
        if self._dirty_from is not None:
            # What a failed sync left out below is not written now: there the disk keeps what it had, or zeros.
            below = self.disk[: self._dirty_from].ljust(self._dirty_from, b"\0")
            self.disk = below + bytes(self.data[self._dirty_from :])
        self._dirty_from = None

    def fail_sync(self) -> None:
        """Take the data for clean although it is not on the disk, as Linux does when a sync fails."""
        self._dirty_from = None

    def after_crash(self, keep: "Keep", arrives: Callable[[int], bool] | None) -> bytes:
        if self._dirty_from is None or (keep is Keep.NOTHING and arrives is None):
            return self.disk
        length = len(self.data)
        if keep is Keep.HALF and arrives is None:
            length -= max(0, length - len(self.disk)) // 2
        before = self.disk[:length].ljust(length, b"\0")
        after = bytes(self.data[:length])
        sectors = range(0, length, SECTOR_BYTES)
        changed = [at for at in sectors if before[at : at + SECTOR_BYTES] != after[at : at + SECTOR_BYTES]]
        if arrives is None:
            half = (len(changed) + 1) // 2
            chosen = {Keep.HALF: changed[:half], Keep.OTHERS: changed[1::2], Keep.ALL: changed}.get(keep, [])
        else:
            chosen = [at for number, at in enumerate(changed) if arrives(number)]
        left = bytearray(before)
        for at in chosen:
            left[at : at + SECTOR_BYTES] = after[at : at + SECTOR_BYTES]
        return bytes(left)

    def _make_dirty(self, start: int) -> None:
        self._dirty_from = start if self._dirty_from is None else min(start, self._dirty_from)


class MemoryFiles:
    """A file system in memory that is as forgetful as POSIX allows: what was not synced may be lost.

    A sync that fails (see `FaultyFiles`) marks the data clean nevertheless, as Linux does: later syncs of the same
    bytes succeed and do nothing.
    """

    def __init__(self) -> None:
        """Begin with an empty root folder."""
        # {path of a folder: {name: file, or None for a folder}}, as programs see it and as it is on the disk.
        self._folders: dict[str, dict[str, _File | None]] = {"/": {}}
        self._durable_folders: dict[str, dict[str, _File | None]] = {"/": {}}
        # By descriptor.
        self._open: dict[int, _File] = {}
        self._locked: dict[int, str] = {}
        self._next_fd = 3

    @property
    def open_count(self) -> int:
        """How many descriptors are open."""
        return len(self._open) + len(self._locked)

    def crash(self, keep: Keep = Keep.NOTHING, *, arrives: Callable[[int], bool] | None = None) -> "MemoryFiles":
        """Return the file system that a power cut would leave now; this one is not changed.

        Args:
            keep: What it leaves of what was not synced.
            arrives: Says of each of a file's changed sectors, counted from 0 in order, whether it got to the disk;
                the file's length did. None: as `keep` says.
        """
        survivor = MemoryFiles()
        copies: dict[_File, _File] = {}

        def copy(file: _File | None) -> _File | None:
            if file is None:
                return None
            if file not in copies:
                copies[file] = _File(file.after_crash(keep, arrives))
            return copies[file]

        for path in self._folders.keys() | self._durable_folders.keys():
            now = self._folders.get(path, {})
            durable = self._durable_folders.get(path, {})
            names = dict(durable)
            changed = sorted(
                name
                for name in now.keys() | durable.keys()
                if (name in now) != (name in durable) or now.get(name) is not durable.get(name)
            )
            step = {Keep.NOTHING: 0, Keep.HALF: 2}.get(keep, 1)
            for name in changed[::step] if step else ():
                if name in now:
                    names[name] = now[name]
                else:
                    del names[name]
            survivor._folders[path] = {name: copy(file) for name, file in names.items()}
        # A folder whose own name was lost is lost with all that is in it.
        for path in sorted(survivor._folders):
            parent, name = _split(path)
            if path != "/" and name not in survivor._folders.get(parent, {}):
                del survivor._folders[path]
        survivor._durable_folders = {path: dict(names) for path, names in survivor._folders.items()}
        return survivor

    def fail_sync(self, fd: int) -> None:
        """Do what Linux does when a sync fails: take the data for clean although it is not on the disk."""
        self._open[fd].fail_sync()

    def read(self, path: str) -> bytes:
        return bytes(self._file(path).data)

    def size(self, path: str) -> int | None:
        try:
            return len(self._file(path).data)
        except FileNotFoundError:
            return None

    def create(self, path: str) -> int:
        names, name = self._names_and_name(path)
        if name in names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        file = names[name] = _File()
        return self._descriptor(file)

    def open_durable(self, path: str) -> int:
        return self._descriptor(self._file(path))

    def write_at(self, fd: int, data: bytes, offset: int) -> int:
        self.write_unsynced_at(fd, data, offset)
        self.sync(fd)
        return len(data)

    def write_unsynced_at(self, fd: int, data: bytes, offset: int) -> int:
        """Do what `write_at` has done just before it waits for the disk."""
        self._open[fd].write(data, offset)
        return len(data)

    def write(self, fd: int, data: bytes) -> int:
        file = self._open[fd]
        file.write(data, len(file.data))
        return len(data)

    def sync(self, fd: int) -> None:
        self._open[fd].sync()

    def truncate(self, fd: int, length: int) -> None:
        self._open[fd].truncate(length)

    def length(self, fd: int) -> int:
        return len(self._open[fd].data)

    def close(self, fd: int) -> None:
        if self._locked.pop(fd, None) is None:
            del self._open[fd]

    def replace(self, source: str, target: str) -> None:
        file = self._file(source)
        source_names, source_name = self._names_and_name(source)
        target_names, target_name = self._names_and_name(target)
        del source_names[source_name]
        target_names[target_name] = file

    def remove(self, path: str) -> None:
        names, name = self._names_and_name(path)
        names.pop(name, None)

    def make_folder(self, path: str) -> None:
        names, name = self._names_and_name(path)
        if name not in names:
            names[name] = None
            self._folders[path] = {}

    def sync_folder(self, path: str) -> None:
        self._durable_folders[path] = dict(self._folder(path))

    def names(self, path: str) -> Sequence[str]:
        return list(self._folder(path))

    def lock(self, path: str, text: str) -> int:
        if path in self._locked.values():
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", path)
        names, name = self._names_and_name(path)
        names[name] = _File(text.encode())
        fd = self._next_fd
        self._next_fd += 1
        self._locked[fd] = path
        return fd

    def _descriptor(self, file: _File) -> int:
        fd = self._next_fd
        self._next_fd += 1
        self._open[fd] = file
        return fd

    def _folder(self, path: str) -> dict[str, _File | None]:
        try:
            return self._folders[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path) from None

    def _names_and_name(self, path: str) -> tuple[dict[str, _File | None], str]:
        parent, name = _split(path)
        return self._folder(parent), name

    def _file(self, path: str) -> _File:
        names, name = self._names_and_name(path)
        file = names.get(name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return file


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rpartition("/")
    return parent or "/", name
