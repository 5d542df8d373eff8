"""A server as a process of its own: settings in, signals heeded, nothing lost at the end.

::

    async with open_host(settings) as host:
        await serve_until_told(host)
"""

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from actors import FileStore, Runtime, open_runtime
from proxy.accesslog import AccessLog
from proxy.application import Application
from proxy.config import Settings
from proxy.core.served import Observer
from proxy.server import Server

log = structlog.get_logger("portico.host")


class ListenError(Exception):
    """What the settings name cannot be had: the address to listen on, or the access log; the text says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """What runs in this process."""

    runtime: Runtime
    settings: Settings
    cut: Callable[[], None]
    """End everything now: requests are cut, processes killed; what was acknowledged stays so."""


@asynccontextmanager
async def open_host(settings: Settings) -> AsyncIterator[Host]:
    """Own the data folder and run its sandboxes; nothing listens yet.

    Leaving the block ends all runs on the record and lets go of the folder. After `Host.cut` it does so without
    waiting for anybody, and the block ends without an error.

    Raises:
        StoreLockedError: Another process owns the data folder.
        StoreError: The folder cannot be used.
    """
    store = FileStore(settings.data_folder)
    with trio.CancelScope() as everything:
        async with open_runtime(store, rules=settings.rules(), limits=settings.limits()) as runtime:
            yield Host(runtime, settings, everything.cancel)


async def serve_until_told(
    host: Host, on_listening: Callable[[int], None] = lambda _: None, app: Application | None = None
) -> None:
    """Listen, and serve previews until SIGINT or SIGTERM; then let requests under way end, and return.

    A second signal cuts everything.

    Args:
        host: Whose sandboxes, and with which settings.
        on_listening: Called with the port that is listened on; from then on URLs can be built.
        app: An ASGI app that answers what is for a base domain itself: the management API.

    Raises:
        ListenError: The address cannot be listened on.
        InvalidNameError, CustomDomainRequiredError: A domain that cannot carry preview URLs.
    """
    settings = host.settings
    async with AsyncExitStack() as stack:
        observe = await _open_access_log(settings.access_log, stack)
        await _serve(host, on_listening, app, observe)


async def _open_access_log(name: str, stack: AsyncExitStack) -> AccessLog | None:
    """Open the access log, if there is to be one, for as long as `stack` lasts."""
    if not name:
        return None
    try:
        access_log = AccessLog(None if name == "-" else Path(name))
    except OSError as error:
        raise ListenError(f"cannot write the access log {name}: {(error.strerror or str(error)).lower()}") from error
    stack.callback(access_log.close)
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    nursery.start_soon(access_log.run)
    return access_log


async def _serve(
    host: Host, on_listening: Callable[[int], None], app: Application | None, observe: Observer | None
) -> None:
    settings = host.settings
    server = Server(
        host.runtime,
        domains=settings.domains,
        listen=str(settings.listen),
        options=settings.options(),
        app=app,
        observe=observe,
    )
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(server)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise ListenError(
                    f"cannot listen on {settings.listen}: {reason}; name another address, "
                    "such as --listen 127.0.0.1:0 for whatever port is free"
                ) from error
            on_listening(server.port)
            await anext(signals)
            log.info("closing: requests under way may end", connections=server.connections)
            server.close()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cut_on_next, signals, host)
                await server.wait_closed()
                nursery.cancel_scope.cancel()


async def _cut_on_next(signals: AsyncIterator[int], host: Host) -> None:
    await anext(signals)
    log.warning("closing at once")
    host.cut()
