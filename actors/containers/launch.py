"""What a start of a process comes to: options checked, the environment made, the keeper's frame filled.

Pure: nothing is started or looked up here. Whatever a caller can get wrong is found before the keeper hears of
it, and said without the values, which may be secrets.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.containers.base import ProcessOptions
from actors.containers.keeper import FRAME_BYTES_MAX, pack
from actors.errors import ContainerError, InvalidNameError
from actors.sandbox.ids import SandboxId

PROCESS_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Part of a file name and of a URL path of the management API, so neither slash nor space."""
RUN_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
"""Names a folder; not beginning with a dot keeps ``..`` out."""

MARK_VARIABLE: Final = "PORTICO_RUN"
"""Carries the run's mark into every process, so that what outlived a killed keeper can be found."""

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Launch:
    """A checked start: what is shown of it, and what the keeper is sent (which may hold secrets)."""

    id: str | None
    command: str
    """As text, for people."""
    argv: tuple[str, ...] = field(repr=False)
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    options: ProcessOptions = field(repr=False)
    """What was asked for."""

    def frame(self, serial: int, kind: str, name: str) -> bytes:
        """Return the keeper's ``start`` frame. `name` is what its output files are called, without an ending.

        Raises:
            ContainerError: Command and environment are longer than a frame holds.
        """
        fields = [b"start", b"%d" % serial, os.fsencode(kind), os.fsencode(name), os.fsencode(self.cwd)]
        fields += [b"%d" % len(self.argv), *map(os.fsencode, self.argv)]
        fields += [os.fsencode(f"{key}={value}") for key, value in self.env.items()]
        try:
            return pack(*fields)
        except ValueError:
            raise ContainerError(f"command and environment are longer than {FRAME_BYTES_MAX} bytes together") from None


def check_run_id(run_id: str) -> str:
    """Return `run_id`.

    Raises:
        InvalidNameError: It cannot name a folder.
    """
    if RUN_ID.fullmatch(run_id) is None:
        raise InvalidNameError(f"run id {run_id[:80]!r}: 1 to 64 of A-Z a-z 0-9 _ . -, not a dot first")
    return run_id


def base_environment(sandbox: SandboxId, workspace: str, python: str, user: str, mark: str) -> dict[str, str]:
    """Return what every process gets. Nothing of it comes from the server's own environment."""
    return {
        # First the folder of our own interpreter, so that `python` means the environment Portico was installed in.
        "PATH": f"{os.path.dirname(python)}:{_SYSTEM_PATH}",
        "HOME": workspace,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        # Else a Python service's lines sit in its buffer while somebody looks for them in `logs`.
        "PYTHONUNBUFFERED": "1",
        "PORTICO_SANDBOX": sandbox,
        MARK_VARIABLE: mark,
    }


def prepare(options: ProcessOptions, workspace: str, base: Mapping[str, str]) -> Launch:
    """Check `options` and fill in what they leave open.

    Raises:
        InvalidNameError: The id or a variable's name is not of its form.
        ContainerError: The command is empty, or a value holds what the kernel cannot take.
    """
    if options.id is not None and PROCESS_ID.fullmatch(options.id) is None:
        raise InvalidNameError(f"process id {options.id[:80]!r}: 1 to 64 of A-Z a-z 0-9 _ . -")
    argv = _argv(options.command)
    cwd = os.path.join(workspace, options.cwd or "")
    for what, text in (("the command", "".join(argv)), ("cwd", cwd)):
        _check_text(what, text)
    env = {**base, **options.env}
    # The mark is how leftovers are found; it is not the caller's to change.
    env[MARK_VARIABLE] = base[MARK_VARIABLE]
    for name, value in options.env.items():
        # "=" ends a name in the environment block; an empty name cannot be read back (POSIX, environ).
        if not name or "=" in name or "\0" in name:
            raise InvalidNameError(f"environment variable {name[:80]!r}: not empty, without '=' and NUL")
        _check_text(f"environment variable {name[:80]!r}", value)
    command = options.command if isinstance(options.command, str) else shlex.join(argv)
    return Launch(options.id, command, argv, cwd, env, options)


def _argv(command: str | Sequence[str]) -> tuple[str, ...]:
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    if not argv or not argv[0] or (isinstance(command, str) and not command.strip()):
        raise ContainerError("the command is empty")
    return argv


def _check_text(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise ContainerError(f"{what}: text is wanted, not {type(text).__name__}")
    if "\0" in text:
        raise ContainerError(f"{what} holds a NUL byte")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ContainerError(f"{what} holds characters that cannot be encoded") from None
