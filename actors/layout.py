"""Where a file store keeps what: the folders, the lock, the names.

::

    <folder>/LOCK                                  held with flock(2) while a store is open; says the owner's pid
    <folder>/sandboxes/<xx>/<id>.log               xx: two hex digits of a hash of the id, so that folders stay small
    <folder>/sandboxes/<xx>/<id>.log.torn-<offset> what a crash left of an append nobody was told about
    <folder>/destroyed/<id>.<time>-<sequence>.log  logs of destroyed sandboxes

Folders are 0700 and files 0600: logs hold port tokens. Everything but `path` and `exists` blocks, and raises OSError.
"""

import contextlib
import itertools
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

from actors.errors import InvalidNameError, StoreLockedError
from actors.files import Files
from actors.log import LogReport, examine
from actors.sandbox.ids import SandboxId

_SUFFIX: Final = ".log"
_SHELVES: Final = frozenset(f"{number:02x}" for number in range(256))


class Layout:
    """The inside of one data folder."""

    def __init__(self, files: Files, folder: str) -> None:
        """Touch nothing; `folder` is an absolute path."""
        self._files = files
        self._root = folder
        self._shelves = f"{folder}/sandboxes"
        self._graves = f"{folder}/destroyed"

    def exists(self, sandbox: SandboxId) -> bool:
        """Say whether there is a log; an empty file, which a failed first append may leave, is none."""
        return bool(self._files.size(self.path(sandbox)))

    def sync_graves(self) -> None:
        """Make the names of buried logs durable."""
        self._files.sync_folder(self._graves)

    def path(self, sandbox: SandboxId) -> str:
        shelf = blake2b(sandbox.encode("ascii"), digest_size=1).hexdigest()
        return f"{self._shelves}/{shelf}/{sandbox}{_SUFFIX}"

    def prepare(self) -> int:
        """Take the lock and make the folders, durably; return the lock's descriptor."""
        files, root = self._files, self._root
        files.make_folder(root)
        lock = f"{root}/LOCK"
        try:
            fd = files.lock(lock, f"{os.getpid()}\n")
        except BlockingIOError as error:
            owner = files.read(lock).decode("ascii", "replace").strip()
            raise StoreLockedError(
                f"{root} is in use by process {owner or 'unknown'}: stop that one, or use another folder"
            ) from error
        try:
            shelves = self._shelves
            files.make_folder(shelves)
            files.make_folder(self._graves)
            # All of them now, and synced: then creating a log has one name to make durable, not two.
            for shelf in _SHELVES.difference(files.names(shelves)):
                files.make_folder(f"{shelves}/{shelf}")
            files.sync_folder(shelves)
            files.sync_folder(root)
            files.sync_folder(os.path.dirname(root))
        except BaseException:
            files.close(fd)
            raise
        return fd

    def bury(self, sandbox: SandboxId, sequence: int, now: float) -> None:
        files, path = self._files, self.path(sandbox)
        graves = self._graves
        if files.size(path) is not None:
            moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            for number in itertools.count(sequence):
                grave = f"{graves}/{sandbox}.{moment}-{number:08d}{_SUFFIX}"
                if files.size(grave) is None:
                    break
            files.replace(path, grave)
        # The new name before the old one's end: a crash in between may leave both, but not neither.
        files.sync_folder(graves)
        files.sync_folder(os.path.dirname(path))

    def buried(self, sandbox: SandboxId) -> Sequence[LogReport]:
        graves = self._graves
        # An id holds no dot, so that no other sandbox's logs begin like this.
        names = sorted(name for name in self._names(graves) if name.startswith(f"{sandbox}."))
        return [examine(self._files, f"{graves}/{name}", sandbox) for name in names]

    def sandboxes(self) -> Sequence[SandboxId]:
        found = []
        for shelf in sorted(_SHELVES):
            folder = f"{self._shelves}/{shelf}"
            for name in self._names(folder):
                if name.endswith(_SUFFIX) and self._files.size(f"{folder}/{name}"):
                    # Somebody else's files are none of our business.
                    with contextlib.suppress(InvalidNameError):
                        found.append(SandboxId(name.removesuffix(_SUFFIX)))
        return sorted(found)

    def _names(self, folder: str) -> Sequence[str]:
        try:
            return self._files.names(folder)
        except FileNotFoundError:
            # Only when reading a folder that no store has prepared yet.
            return ()
