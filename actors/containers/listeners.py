"""Whose a listening port of this host is: a process of one run's, or some other program's.

The kernel lists listening sockets in ``/proc/net/tcp`` and ``tcp6``, each with its inode and user, and what a process
has open in ``/proc/PID/fd`` (proc(5)). A port is a run's if any descendant of its keeper holds a socket that listens
there: the service itself, a helper that it has started, or one that was handed the socket (systemd's way).

It is said to be another's only where that is certain enough. It is not where the socket belongs to another user, as
that of the Docker daemon's proxy, which may well listen for a container that a service has started; where the program
that holds it is known to listen on behalf of others; or where not all of it can be read. Ports of other network
namespaces are not listed, and are not reached by dialling either.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from actors.containers.keeper import descendants

LISTENERS_MAX: Final = 20_000
"""Rows of a table that are looked at. Linux lists those that listen first, so all further ones are of no interest."""
DESCRIPTORS_MAX: Final = 50_000
"""Open files that are looked at, of all processes together; measured: 4 µs each."""

FORWARDERS: Final = frozenset(
    {"docker-proxy", "rootlesskit", "rootlessport", "slirp4netns", "pasta", "pasta.avx2", "gvproxy", "systemd"}
)
"""Programs that listen for containers, virtual machines and services which are not theirs: nobody can tell whose."""

_LISTEN: Final = "0A"
# As the kernel prints addresses: words of 32 bits, each in the byte order of the machine (here little-endian).
_V4_LOOPBACK: Final = "0100007F"
_V4_ANY: Final = "00000000"
_V6_LOOPBACK: Final = "00000000000000000000000001000000"
_V6_MAPPED_LOOPBACK: Final = "0000000000000000FFFF00000100007F"
_V6_ANY: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens."""

    address: str
    """In hexadecimal, as the kernel prints it."""
    port: int
    user: int
    inode: int


def parse_listeners(lines: Iterable[str]) -> Iterator[Listener]:
    """Read the listening sockets of a table of the kernel's.

    Raises:
        ValueError: It is not of that form, or longer than is looked at.
    """
    for number, line in enumerate(lines):
        if number == 0:
            continue  # the heading
        fields = line.split()
        if len(fields) < 10:
            raise ValueError("a row without its fields")
        if fields[3] != _LISTEN:
            return
        if number > LISTENERS_MAX:
            raise ValueError("too many rows")
        address, port = fields[1].split(":")
        yield Listener(address, int(port, 16), int(fields[7]), int(fields[9]))


def answering(port: int, v4: Collection[Listener], v6: Collection[Listener]) -> Sequence[Listener]:
    """Return those that a connection to 127.0.0.1 may have reached, or to ::1 if there are none.

    Several may share a port. An address of its own takes precedence over any address, and of these IPv4's own over
    IPv6's, as in the kernel (``inet_lookup_listener``). Whether IPv6's takes IPv4 as well is not in the table.
    """
    ranks: Sequence[Sequence[tuple[Collection[Listener], str]]] = (
        ((v4, _V4_LOOPBACK), (v6, _V6_MAPPED_LOOPBACK)),
        ((v4, _V4_ANY),),
        ((v6, _V6_ANY), (v6, _V6_LOOPBACK)),
    )
    for rank in ranks:
        found = [one for table, address in rank for one in table if (one.address, one.port) == (address, port)]
        if found:
            return found
    return ()


def is_anothers(port: int, keeper: int) -> bool:
    """Say whether what answers on a port of this host's loopback is known to be no process of a run. Blocks.

    Args:
        port: Which.
        keeper: The pid of the run's keeper.
    """
    try:
        found = answering(port, _table("tcp"), _table("tcp6"))
        ours = os.geteuid()
        if not found or any(one.user != ours for one in found):
            return False
        inodes = {f"socket:[{one.inode}]" for one in found}
        family = descendants(keeper)
        if _holders(family, inodes, on_locked=_refuse):
            return False
        others = (int(name) for name in os.listdir("/proc") if name.isdecimal())
        holders = _holders(others, inodes, on_locked=_pass_over)
    except (OSError, ValueError):
        # A process of the run that cannot be looked into, a table that is too long or of another form: not known.
        return False
    # If none is to be seen, it cannot be told either.
    return bool(holders) and not any(_name(pid) in FORWARDERS for pid in holders)


def _table(name: str) -> list[Listener]:
    try:
        with open(f"/proc/net/{name}", encoding="ascii") as lines:
            return [*parse_listeners(lines)]
    except FileNotFoundError:
        return []  # no IPv6 in this kernel


def _holders(pids: Iterable[int], wanted: Collection[str], *, on_locked: Callable[[OSError], None]) -> list[int]:
    """Return the processes that have one of these open.

    Args:
        pids: Who to look into; those that have exited are left out.
        wanted: What their descriptors' links may say.
        on_locked: Called where one may not be looked into.

    Raises:
        ValueError: They have more open than is looked at.
    """
    seen = 0
    holders = []
    for pid in pids:
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                seen += 1
                if seen > DESCRIPTORS_MAX:
                    raise ValueError("too many descriptors")
                if _target(pid, name) in wanted:
                    holders.append(pid)
                    break
        except PermissionError as error:
            on_locked(error)
        except OSError:
            continue  # it has exited
    return holders


def _target(pid: int, descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except FileNotFoundError:
        return ""  # closed since it was listed


def _refuse(error: OSError) -> None:
    raise error


def _pass_over(_: OSError) -> None:
    """Leave out a process that may not be looked into."""


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
