"""Address containers: a sandbox whose services somebody else runs, reachable at a host of its own.

For a VM or container that another system starts and stops: Portico only dials, and says when it is to wake or may
sleep, if its owner wants to be told. Without a hook a run is up from the moment it is asked for until it is stopped;
either way it can be taken up again after a restart. Ports map one to one: port 8080 of the sandbox is port 8080 of the
host.
"""

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
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
from actors.containers.hooks import HOOK_TIMEOUT_S, Hook, HookCall, call_hook, check_hook_url, http_hook
from actors.containers.lookup import look_up
from actors.containers.places import Network, Places
from actors.errors import ContainerError, ContainerStartError, UnsupportedError
from actors.sandbox.ids import SandboxId

HOST_LENGTH_MAX: Final = 253
"""RFC 1035 section 2.3.4, as text."""
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def address_containers(
    *,
    allow: Iterable[str | Network] = (),
    on_wake: Hook | None = None,
    on_sleep: Hook | None = None,
    hook_timeout: float = HOOK_TIMEOUT_S,
) -> ContainerFactory:
    """Return a factory of address containers. Their option ``host`` is an IP literal or a hostname.

    Two further options, ``wake_url`` and ``sleep_url``, are asked before a sandbox is up and after it has gone to sleep
    (see `hooks.py`); they are kept in the log in clear, so a secret is better not part of them.

    Link-local, multicast and unspecified addresses, and those of cloud metadata, are refused: a literal when the
    sandbox is made, what a name leads to at each dial.

    Args:
        allow: Networks to which that does not apply, such as ``169.254.10.0/24`` of a hypervisor's sandboxes.
        on_wake: Called instead of a ``wake_url``, for sandboxes that have none. A sandbox is up once it has returned.
        on_sleep: The same, after the run has ended: nothing leads there any more.
        hook_timeout: Seconds that either may take.

    Raises:
        ValueError: One of them is no network, or the time is none.
    """
    places = Places(allow)
    if not 0 < hook_timeout < float("inf"):
        raise ValueError(f"hook_timeout is a number of seconds, not {hook_timeout}")

    def hook_of(url: object, ours: Hook | None) -> Hook | None:
        return ours if url is None else http_hook(check_hook_url(url), places)

    def make(context: ContainerContext, options: Mapping[str, object]) -> Container:
        for name in options:
            if name not in ("host", "wake_url", "sleep_url"):
                raise ValueError(f"an address container has no option {name!r}")
        if "host" not in options:
            raise ValueError("an address container needs the option 'host'")
        host = check_host(options["host"])
        reason = places.refusal(host) if _family_of(host) is not None else None
        if reason is not None:
            raise ValueError(f"host {host} is {reason}, where no sandbox may be")
        wake, sleep = hook_of(options.get("wake_url"), on_wake), hook_of(options.get("sleep_url"), on_sleep)
        return AddressContainer(context.sandbox, host, places, on_wake=wake, on_sleep=sleep, hook_timeout=hook_timeout)

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

    def __init__(
        self,
        sandbox: SandboxId,
        host: str,
        places: Places,
        *,
        on_wake: Hook | None = None,
        on_sleep: Hook | None = None,
        hook_timeout: float = HOOK_TIMEOUT_S,
    ) -> None:
        self._sandbox = sandbox
        self._host = host
        self._places = places
        self._on_wake = on_wake
        self._on_sleep = on_sleep
        self._hook_timeout = hook_timeout

    def __repr__(self) -> str:
        return f"<address container at {self._host}>"

    @property
    def asleep(self) -> None:
        """None: what is at its host is not known here."""

    async def start(self, run_id: str, nursery: trio.Nursery) -> "AddressRun":  # noqa: ARG002  # no tasks to run
        await trio.lowlevel.checkpoint()
        if self._on_wake is not None:
            call = HookCall("wake", self._sandbox, self._host, run_id)
            try:
                await call_hook(self._on_wake, call, self._hook_timeout)
            except ContainerError as error:
                raise ContainerStartError(str(error)) from error
        return self._run(run_id)

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> Run | None:  # noqa: ARG002  # as above
        """Return the run: what is there does not depend on us, so it is as much up as before."""
        await trio.lowlevel.checkpoint()
        return self._run(run_id)

    def _run(self, run_id: str) -> "AddressRun":
        return AddressRun(run_id, self._host, self._places, self._tell_of_sleep)

    async def _tell_of_sleep(self, run_id: str) -> None:
        if self._on_sleep is not None:
            call = HookCall("sleep", self._sandbox, self._host, run_id)
            await call_hook(self._on_sleep, call, self._hook_timeout)

    async def retire(self) -> None:
        await trio.lowlevel.checkpoint()

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()


class AddressRun:
    """The host, for as long as this run is not stopped."""

    def __init__(
        self, run_id: str, host: str, places: Places, tell_of_sleep: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        self._tell_of_sleep = tell_of_sleep
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
        return await dial(port, await look_up(self._host, port, self._places), self._is_up)

    async def wait_listening(self, port: int) -> None:  # noqa: ARG002  # nothing is known of any
        await trio.lowlevel.checkpoint()

    async def is_anothers(self, port: int) -> bool:  # noqa: ARG002  # whatever answers at its host is what is meant
        await trio.lowlevel.checkpoint()
        return False

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
    def comes_back(self) -> bool:
        """False: it does not end by itself."""
        return False

    @property
    def busy(self) -> bool:
        return False

    async def stop(self) -> None:
        self._stopped.set()
        await trio.lowlevel.checkpoint()

    async def sleep(self) -> None:
        was_up = self._is_up()
        await self.stop()
        if was_up and self._tell_of_sleep is not None:
            await self._tell_of_sleep(self.run_id)

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
