"""What can be read beside the server: the sandbox's log, and who listens on this machine."""

from pathlib import Path
from typing import Final

import trio

from actors import SandboxNotFoundError
from proxy.core.diagnosis import Target
from proxy.core.facts import facts_of, listening_addresses
from proxy.doctor.walk import Record
from proxy.history import read_moments

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")

SHARES_THE_NETWORK: Final = "process"
"""The kind of container whose ports are this machine's."""


async def read_record(folder: Path, target: Target) -> Record:
    """Return what the log of the target's sandbox knows; works beside a running server.

    Raises:
        LogCorruptError, UnknownRecordError, StoreError: The log cannot be read.
    """
    if target.preview is None:
        return Record(str(folder), None)
    try:
        moments = await read_moments(folder, target.preview.sandbox)
    except SandboxNotFoundError:
        # Expected: the folder of another server, or a sandbox that never was. The record says so.
        return Record(str(folder), None)
    facts = facts_of(moments, target)
    listening: list[str] = []
    if facts is not None and facts.container == SHARES_THE_NETWORK:
        for table in _TABLES:
            listening += listening_addresses(await _read(trio.Path(table)), int(target.preview.port))
    return Record(str(folder), facts, tuple(listening))


async def _read(path: trio.Path) -> str:
    try:
        return await path.read_text(encoding="ascii")
    except OSError:
        # Expected: no IPv6, or a machine that has no /proc.
        return ""
