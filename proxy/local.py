"""How commands on this machine find the server of a data folder, and get in.

While it serves, a server keeps a small file in its data folder, for its owner's eyes only (mode 0600): the URL at which
its API listens, and a key of scope ``admin`` that is drawn anew at each start and kept nowhere else. Whoever can read
that file can read the logs beside it and add keys of their own, so it gives nothing away. A file that others may read
or have written is not used.

A server that was killed leaves its file behind. The key in it opens nothing any more, so it does no harm.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from actors import replace_file

FILE_NAME: Final = "server.json"
FILE_BYTES_MAX: Final = 4096

_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  recognised, not bound to


class LocalServerError(Exception):
    """The file is there and must not be used; the text says why."""


class LocalServer(Struct, frozen=True):
    """Where a server of this machine listens."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"LocalServer({self.url!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec's own signature
        """Show no more to rich, whose tracebacks print locals: msgspec's own would show the key."""
        return [("url", self.url)]


def url_of(host: str, port: int) -> str:
    """Return the URL by which a program on this machine reaches a listener."""
    host = _ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def announced(folder: Path, server: LocalServer) -> Iterator[None]:
    """Let commands find `server` for the length of the block.

    Raises:
        OSError: The file cannot be written.
    """
    path = folder / FILE_NAME
    replace_file(path, msgspec.json.encode(server))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_local(folder: Path) -> LocalServer | None:
    """Return the server that serves a data folder; None if none does, as far as can be told.

    Raises:
        LocalServerError: Its file could have been read or written by others, or makes no sense.
    """
    path = folder / FILE_NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalServerError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o077:
            raise LocalServerError(f"{path}: others than its owner may use it, so it is not trusted")
        content = stream.read(FILE_BYTES_MAX)
    try:
        return msgspec.json.decode(content, type=LocalServer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise LocalServerError(f"{path}: is not of its form") from None
