"""Address containers: a sandbox whose services somebody else runs, reachable at a host of its own.

For a VM or container that another system starts and stops: Portico only dials. Nothing is started, so a run is up
from the moment it is asked for until it is stopped, and can be taken up again after a restart. Ports map one to
one: port 8080 of the sandbox is port 8080 of the host.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import trio

from actors.containers.base import (
    Container,
    ContainerContext,
    ContainerFactory,
    ContainerProcess,
    ExecResult,
    ProcessOptions,
    Run,
)
from actors.containers.dial import dial
from actors.containers.places import Network, Places
from actors.errors import NotListeningError, UnsupportedError

HOST_LENGTH_MAX: Final = 253
"""RFC 1035 section 2.3.4, as text."""
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def address_containers(*, allow: Iterable[str | Network] = ()) -> ContainerFactory:
    """Return a factory of address containers. Their one option is ``host``: an IP literal or a hostname.

    Link-local, multicast and unspecified addresses, and those of cloud metadata, are refused: a literal when the
    sandbox is made, what a name leads to at each dial.

    Args:
        allow: Networks to which that does not apply, such as ``169.254.10.0/24`` of a hypervisor's sandboxes.

    Raises:
        ValueError: One of them is no network.
    """
    places = Places(allow)

    def make(context: ContainerContext, options: Mapping[str, object]) -> Container:  # noqa: ARG001  # keeps no files
        for name in options:
            if name != "host":
                raise ValueError(f"an address container has no option {name!r}")
        if "host" not in options:
            raise ValueError("an address container needs the option 'host'")
        host = check_host(options["host"])
        reason = places.refusal(host) if _family_of(host) is not None else None
        if reason is not None:
            raise ValueError(f"host {host} is {reason}, where no sandbox may be")
        return AddressContainer(host, places)

    return make


def check_host(host: object) -> str:
    """Return `host` in canonical form: an IP literal without brackets, or an RFC 1123 hostname in lower case.

    Raises:
        TypeError: It is not text.
        ValueError: It is neither.
    """
    if not isinstance(host, str):
        raise TypeError(f"the host of an address container is text, not {type(host).__name__}")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    # An all-digit last label would be an IPv4 literal in one of the old spellings (RFC 1123 section 2.1).
    well_formed = all(_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdecimal()
    if len(host) > HOST_LENGTH_MAX or not well_formed:
        raise ValueError(f"host {host[:80]!r} is neither an IP address nor a hostname")
    return host.lower()


class AddressContainer:
    """A place at a fixed host."""

    def __init__(self, host: str, places: Places) -> None:
        self._host = host
        self._places = places

    def __repr__(self) -> str:
        return f"<address container at {self._host}>"

    async def start(self, run_id: str, nursery: trio.Nursery) -> "AddressRun":  # noqa: ARG002  # no tasks to run
        await trio.lowlevel.checkpoint()
        return AddressRun(run_id, self._host, self._places)

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> Run | None:
        """Return the run: what is there does not depend on us, so it is as much up as before."""
        return await self.start(run_id, nursery)

    async def retire(self) -> None:
        await trio.lowlevel.checkpoint()

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()


class AddressRun:
    """The host, for as long as this run is not stopped."""

    def __init__(self, run_id: str, host: str, places: Places) -> None:
        self.run_id = run_id
        self._host = host
        self._places = places
        self._stopped = trio.Event()
        self._literal = _family_of(host)

    def __repr__(self) -> str:
        return f"<address run {self.run_id} at {self._host}>"

    async def dial(self, port: int) -> trio.SocketStream:
        if self._literal is not None:
            return await dial(port, [(self._literal, self._host)], self._is_up)
        return await dial(port, await self._resolve(port), self._is_up)

    async def _resolve(self, port: int) -> Sequence[tuple[socket.AddressFamily, str]]:
        """Look the name up, every time: whoever moves the sandbox changes its address there.

        What is returned has been judged, and is what is dialled: a second look-up could lead elsewhere.
        """
        try:
            found = await trio.socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise NotListeningError(port, [(self._host, f"no address: {reason.lower()}")]) from error
        # A scope id (``fe80::1%eth0``) arrives as a number beside the address and is not part of its text.
        addresses = [(family, str(address[0])) for family, _, _, _, address in found]
        reasons = {address: self._places.refusal(address) for _, address in addresses}
        allowed = [(family, address) for family, address in addresses if reasons[address] is None]
        if not allowed:
            raise NotListeningError(port, [(address, f"{reason}, not dialled") for address, reason in reasons.items()])
        return allowed

    async def wait_listening(self, port: int) -> None:  # noqa: ARG002  # nothing is known of any
        await trio.lowlevel.checkpoint()

    async def start_process(self, options: ProcessOptions) -> ContainerProcess:  # noqa: ARG002  # refused whatever they are
        raise UnsupportedError(_NO_PROCESSES)

    async def exec(self, options: ProcessOptions) -> ExecResult:  # noqa: ARG002  # as above
        raise UnsupportedError(_NO_PROCESSES)

    def processes(self) -> Sequence[ContainerProcess]:
        return ()

    @property
    def detachable(self) -> bool:
        return True

    @property
    def busy(self) -> bool:
        return False

    async def stop(self) -> None:
        self._stopped.set()
        await trio.lowlevel.checkpoint()

    async def sleep(self) -> None:
        await self.stop()

    async def wait_stopped(self) -> str:
        await self._stopped.wait()
        return "stopped"

    def _is_up(self) -> bool:
        return not self._stopped.is_set()


_NO_PROCESSES: Final = "an address container runs no processes: what is at its host is somebody else's"


def _family_of(host: str) -> socket.AddressFamily | None:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET if version == 4 else socket.AF_INET6
