"""The keys of the management API: named, scoped, and kept as digests only.

They stand in one small file of the data folder, which the server and ``portico key`` beside it share: whoever changes
it holds its lock, writes another file, syncs it and puts it in the old one's place, so that a reader sees the one or
the other, and a crash loses nothing that was acknowledged. The server looks at the file's status at each request and
reads it anew when it is another: a key that was revoked on the command line is refused from then on.

A key has 256 random bits, so its plain SHA-256 is as good as any slower digest.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from actors import replace_file
from proxy.api.discreet import Discreet

KEYS_MAX: Final = 256
"""All of them are compared at each request."""

KEY_BYTES: Final = 32
OWN_KEY_LENGTH_MIN: Final = 16
OWN_KEY_LENGTH_MAX: Final = 512
"""Of a key from the environment, which we have not drawn ourselves. The most bounds what a request makes us hash."""

FILE_NAME: Final = "api-keys.json"
LOCK_NAME: Final = "api-keys.lock"
FILE_BYTES_MAX: Final = 1024 * 1024

ENVIRONMENT_ID: Final = "environment"
"""Stands for the key that was given in the environment: it is not in the file and cannot be revoked."""

LOCAL_ID: Final = "local"
"""Stands for the key of commands on this machine; it is never listed, and ends with the server."""

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class KeyFileError(Exception):
    """The file of keys cannot be read or written; until it is mended nobody is let in."""


class KeyGoneError(Exception):
    """The key that a change is asked for with was revoked meanwhile."""


class KeysFullError(Exception):
    """There are as many keys as there may be."""


class Scope(Discreet, frozen=True):
    """What a key may do: everything, look, or everything with one sandbox."""

    admin: bool = False
    read: bool = False
    sandbox: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Read ``admin``, ``read`` or ``sandbox:ID``; ValueError for anything else."""
        if text == "admin":
            return cls(admin=True)
        if text == "read":
            return cls(read=True)
        kind, _, sandbox = text.partition(":")
        if kind != "sandbox" or not sandbox:
            raise ValueError(f"{text[:60]!r} is no scope: admin, read or sandbox:ID")
        return cls(sandbox=sandbox)

    def may_look(self, sandbox: str | None) -> bool:
        """Say whether the key may see a sandbox, less its secrets; None: all of them."""
        return self.read or self.may_change(sandbox)

    def may_change(self, sandbox: str | None) -> bool:
        """Say whether the key may change a sandbox and see its secrets; None: any, and make them."""
        return self.admin or (self.sandbox is not None and self.sandbox == sandbox)


class KeyRecord(Discreet, frozen=True):
    """One key, as it is kept."""

    id: str
    name: str
    scope: str
    created_at: float
    """Seconds since 1970-01-01 UTC."""
    digest: str
    """SHA-256 of the key's text, in hexadecimal."""


class _File(Struct, frozen=True):
    version: int
    keys: list[KeyRecord]


class _Known(Struct, frozen=True):
    seen: tuple[int, int, int] | None
    """What the file was when it was read: (inode, time of change, size); None: it was not there."""
    keys: tuple[KeyRecord, ...]


class KeyRing:
    """The keys of one data folder. Calls block for a moment, on the disk, but for `find`, whose look is cheap."""

    def __init__(self, folder: Path, own_key: str | None = None, *, local_key: str | None = None) -> None:
        """Prepare; the folder is made when the first key is.

        Args:
            folder: The data folder.
            own_key: A key with scope ``admin`` that is kept nowhere, as from ``PORTICO_API_KEY``.
            local_key: Another one, drawn for this run and told to commands on this machine; see `proxy.local`.

        Raises:
            ValueError: `own_key` is too short to be a secret, or not visible ASCII.
        """
        self._folder = folder
        self._path = folder / FILE_NAME
        self._own: KeyRecord | None = None
        self._local = None
        if local_key is not None:
            self._local = KeyRecord(LOCAL_ID, "this machine", "admin", time.time(), _digest(local_key))
        if own_key is not None:
            if not OWN_KEY_LENGTH_MIN <= len(own_key) <= OWN_KEY_LENGTH_MAX or _VISIBLE.fullmatch(own_key) is None:
                raise ValueError(
                    f"an API key has {OWN_KEY_LENGTH_MIN} to {OWN_KEY_LENGTH_MAX} visible ASCII characters, no spaces"
                )
            self._own = KeyRecord(ENVIRONMENT_ID, "PORTICO_API_KEY", "admin", time.time(), _digest(own_key))
        # One value, and so exchanged at once: threads read it too.
        self._known = _Known(None, ())

    def find(self, text: str) -> KeyRecord | None:
        """Return the key with that text; None if there is none (any more).

        Takes as long for a key that is there as for one that is not.

        Raises:
            KeyFileError: Nobody can tell.
        """
        digest = _digest(text[: OWN_KEY_LENGTH_MAX + 1])
        found = None
        for key in self._all():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def holds(self, key: KeyRecord) -> bool:
        """Say whether a key that was found is still there, whoever may have revoked it; KeyFileError: nobody can tell.

        As cheap as a look at the file's status.
        """
        return key in self._all()

    def records(self) -> list[KeyRecord]:
        """Return the keys, oldest first; KeyFileError if they cannot be read."""
        return [key for key in self._all() if key is not self._local]

    def create(self, name: str, scope: str, *, by: KeyRecord | None = None) -> tuple[KeyRecord, str]:
        """Make a key, durably; return it and its text, which is not kept.

        Args:
            name: For people.
            scope: See `Scope.parse`.
            by: The key with which it is asked for: it must not be gone, or it would live on in the new one.

        Raises:
            ValueError: There is no such scope.
            KeysFullError, KeyGoneError, KeyFileError.
        """
        Scope.parse(scope)
        with self._locked() as known:
            self._check_by(by)
            if len(known.keys) >= KEYS_MAX:
                raise KeysFullError(f"there are {KEYS_MAX} keys, and that is as many as there may be: revoke one")
            return self._add(known, name, scope)

    def create_first(self, name: str = "first") -> tuple[KeyRecord, str] | None:
        """Make a key with scope ``admin`` if there is no key at all; None if there is one.

        Raises:
            KeyFileError: It cannot be kept.
        """
        if self._own is not None:
            return None
        with self._locked() as known:
            # A file without keys says that somebody has revoked the last one, and means it.
            return None if known.seen is not None else self._add(known, name, "admin")

    def revoke(self, key_id: str, *, by: KeyRecord | None = None) -> bool:
        """Forget a key, durably; False if there is none of that id.

        Args:
            key_id: Which.
            by: The key with which it is asked for.

        Raises:
            KeyGoneError: `by` was revoked itself, which must not be answered by revoking the others.
            KeyFileError: It cannot be forgotten.
        """
        with self._locked() as known:
            self._check_by(by)
            left = [key for key in known.keys if key.id != key_id]
            if len(left) == len(known.keys):
                return False
            self._write(left)
            return True

    def _check_by(self, by: KeyRecord | None) -> None:
        if by is not None and not self.holds(by):
            raise KeyGoneError("that API key was revoked")

    def _all(self) -> tuple[KeyRecord, ...]:
        own = () if self._own is None else (self._own,)
        local = () if self._local is None else (self._local,)
        return (*own, *self._refresh().keys, *local)

    def _add(self, known: "_Known", name: str, scope: str) -> tuple[KeyRecord, str]:
        text = "pk_" + base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).rstrip(b"=").decode("ascii")
        key = KeyRecord(f"key-{secrets.token_hex(4)}", name, scope, time.time(), _digest(text))
        self._write([*known.keys, key])
        return key, text

    @contextlib.contextmanager
    def _locked(self) -> Iterator["_Known"]:
        """Hold the file for a change, with what it holds read."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise KeyFileError(f"{self._folder / LOCK_NAME}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._refresh()
        finally:
            os.close(lock)

    def _refresh(self) -> "_Known":
        """Return what the file holds: read, if it is another than the one that was read last."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._known
            if seen == known.seen:
                return known
            if found.st_size > FILE_BYTES_MAX:
                raise KeyFileError(f"{self._path}: is too large to be a file of keys")
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
            if file.version != 1:
                raise KeyFileError(f"{self._path}: version {file.version} was written by a newer Portico")
            for key in file.keys:
                Scope.parse(key.scope)
        except FileNotFoundError:
            self._known = known = _Known(None, ())
            return known
        except OSError as error:
            self._known = _Known(None, ())
            raise KeyFileError(f"{self._path}: {error.strerror}") from error
        except (msgspec.DecodeError, ValueError) as error:
            # Fail closed, and again at each look, until somebody mends it.
            self._known = _Known(None, ())
            raise KeyFileError(f"{self._path}: is no file of keys") from error
        self._known = known = _Known(seen, tuple(file.keys))
        return known

    def _write(self, keys: list[KeyRecord]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_File(1, keys)), indent=1)
        try:
            replace_file(self._path, data)
        except OSError as error:
            raise KeyFileError(f"{self._path}: {error.strerror}") from error
        self._refresh()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
