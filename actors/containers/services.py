"""What a process container remembers, so that it comes back as it was: its services, and the ports they answered on.

One file in the container's folder, ``services``: JSON, readable by its owner alone (0600), replaced as a whole. It is
not in the sandbox's log, because the environment of a service is where people put secrets, and a log is kept and shown.

A service is remembered from before its start is acknowledged until it has exited by itself and its restart policy
leaves it at that, or until its owner has told it to end: a wake restores what the sleep, or the end of the keeper, took
away, and revives nothing that was down before. So `start_process` is for what is to go on running, and `exec` for what
is to be done once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from actors.containers.base import ProcessOptions, RestartPolicy
from actors.errors import ContainerError
from actors.files import replace_file

SERVICES_FILE: Final = "services"

SERVICES_MAX: Final = 256
"""Remembered at once, as many as may run at once; of those that did not start again, the oldest make room."""

PORTS_MAX: Final = 256
"""Ports remembered at once."""


class _Service(msgspec.Struct, frozen=True):
    id: str
    command: str | list[str]
    cwd: str | None
    env: dict[str, str]
    restart: RestartPolicy


class _File(msgspec.Struct, frozen=True):
    services: list[_Service]
    ports: list[int]


class ServiceBook:
    """The services of one container, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        """Begin with none; `load` reads what is on disk.

        Args:
            folder: The container's.
        """
        self._path: Final = folder / SERVICES_FILE
        # {id: how to start it}, in order of start
        self._services: dict[str, ProcessOptions] = {}
        self._ports: list[int] = []
        # A write failed, and may have replaced the file all the same.
        self._unsure = False
        self._lock = trio.Lock()

    @property
    def services(self) -> Sequence[ProcessOptions]:
        """How to start each, with its id; in order of start."""
        return [*self._services.values()]

    @property
    def ports(self) -> Sequence[int]:
        """Where services have answered, in this run or one before."""
        return [*self._ports]

    async def load(self) -> None:
        """Read what is on disk; nothing if there is nothing.

        Raises:
            ContainerError: It cannot be read, or makes no sense.
        """
        async with self._lock:
            try:
                data = await trio.to_thread.run_sync(self._path.read_bytes)
                kept = msgspec.json.decode(data, type=_File)
            except FileNotFoundError:
                kept = _File([], [])
            except (OSError, msgspec.MsgspecError):
                # Not with what it holds, which is secret.
                raise ContainerError("the record of this sandbox's services cannot be read") from None
            self._services = {
                service.id: ProcessOptions(service.command, service.cwd, service.env, service.id, service.restart)
                for service in kept.services
            }
            self._ports = kept.ports

    async def remember(self, options: ProcessOptions, running: Sequence[str]) -> None:
        """Keep a service; return once that is on disk.

        Args:
            options: How to start it; its id is set.
            running: Ids of those that run, and are not to make room.

        Raises:
            ContainerError: It could not be stored.
        """
        assert options.id is not None
        async with self._lock:
            services = {name: one for name, one in self._services.items() if name != options.id}
            for name in [*services]:
                if len(services) < SERVICES_MAX:
                    break
                if name not in running:
                    del services[name]
            services[options.id] = options
            await self._save(services, self._ports)

    async def forget(self, process_id: str) -> None:
        """Do not start this one any more; return once that is on disk.

        Raises:
            ContainerError: It could not be stored.
        """
        async with self._lock:
            if process_id in self._services or self._unsure:
                await self._save({name: one for name, one in self._services.items() if name != process_id}, self._ports)

    async def note_port(self, port: int) -> None:
        """Keep a port on which a service has answered."""
        async with self._lock:
            if port not in self._ports and len(self._ports) < PORTS_MAX:
                await self._save(self._services, [*self._ports, int(port)])

    async def clear(self) -> None:
        """Forget everything, the file too."""
        async with self._lock:
            self._services, self._ports = {}, []
            await trio.to_thread.run_sync(lambda: self._path.unlink(missing_ok=True))

    async def _save(self, services: dict[str, ProcessOptions], ports: list[int]) -> None:
        """Have it on disk, then in memory: what could not be stored is not stored by the next one that can be."""
        kept = [
            _Service(
                name,
                options.command if isinstance(options.command, str) else [*options.command],
                options.cwd,
                {**options.env},
                options.restart,
            )
            for name, options in services.items()
        ]
        data = msgspec.json.encode(_File(kept, ports))
        # Not to be left between the file and its name: the next write would find what this one left.
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(replace_file, self._path, data)
            except OSError as error:
                self._unsure = True
                raise ContainerError(f"cannot keep the record of services: {error.strerror}") from None
        self._services, self._ports, self._unsure = services, ports, False
