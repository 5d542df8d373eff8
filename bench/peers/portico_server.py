"""Portico as it is measured: the server with its defaults and an access log, in a process of its own.

``python -m bench.peers.portico_server PORT SANDBOXES SERVICE_PORT [SERVICE_PORT]``. Prints ``ready`` when it serves;
ends with its standard input or at SIGTERM.
"""

import signal
import sys
from pathlib import Path

import trio

from actors import ContainerSpec, MemoryStore, open_runtime
from bench.peers.scene import DOMAIN, previews
from proxy import Server
from proxy.accesslog import AccessLog
from proxy.logging import configure_logging


async def serve(port: int, sandboxes: int, ports: list[int]) -> None:
    """Expose every preview of the scene and serve them."""
    # As `portico serve` does, to stderr: whatever it logs about requests is part of what they cost.
    configure_logging("info", "json")
    async with open_runtime(MemoryStore()) as runtime:
        for preview in previews(ports, sandboxes):
            sandbox = await runtime.get_sandbox(
                preview.sandbox, container=ContainerSpec("address", {"host": "127.0.0.1"})
            )
            await sandbox.expose_port(preview.port, hostname=DOMAIN, token=preview.token)
        access_log = AccessLog(Path("access.log"))
        async with (
            Server(runtime, domains=[DOMAIN], listen=f"127.0.0.1:{port}", observe=access_log),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(access_log.run)
            print("ready", flush=True)
            nursery.start_soon(_until_told, nursery.cancel_scope)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()


async def _until_told(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), int(sys.argv[2]), [int(number) for number in sys.argv[3:]])
