"""A server as a process of its own: settings in, signals heeded, nothing lost at the end."""

import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from actors import FileStore, Runtime, open_runtime
from proxy.config import Settings
from proxy.server import Server

log = structlog.get_logger("portico.host")


@dataclass(frozen=True, slots=True)
class Host:
    """What runs in this process."""

    runtime: Runtime
    server: Server
    cut: Callable[[], None]
    """End everything now: requests are cut, processes killed; what was acknowledged stays so."""


@asynccontextmanager
async def open_host(settings: Settings) -> AsyncIterator[Host]:
    """Run the runtime and the server that `settings` describe.

    Leaving the block drains the server, ends all runs on the record and lets go of the data folder.

    Raises:
        StoreLockedError: Another process owns the data folder.
        InvalidNameError, CustomDomainRequiredError: A domain that cannot carry preview URLs.
        OSError: The address cannot be listened on.
    """
    allow_descriptors(2 * settings.connections_max)
    store = FileStore(settings.data_folder)
    listen = str(settings.listen)
    with trio.CancelScope() as everything:
        async with (
            open_runtime(store, rules=settings.rules(), limits=settings.limits()) as runtime,
            Server(runtime, domains=settings.domains, listen=listen, options=settings.options()) as server,
        ):
            yield Host(runtime, server, everything.cancel)


async def wait_told_to_stop(host: Host) -> None:
    """Block until SIGINT or SIGTERM, then close the server in order; a second signal cuts what is under way.

    Returns once it is closed.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        log.info("closing: requests under way may end", connections=host.server.connections)
        host.server.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_on_second, signals, host)
            await host.server.wait_closed()
            nursery.cancel_scope.cancel()


async def _cut_on_second(signals: AsyncIterator[int], host: Host) -> None:
    await anext(signals)
    log.warning("closing at once")
    host.cut()


def allow_descriptors(wanted: int) -> None:
    """Raise the soft limit on open files as far as is wanted and allowed: each connection takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    if soft < wanted:
        log.warning("few open files allowed", limit=soft, wanted=wanted)
