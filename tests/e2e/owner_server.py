"""A program that embeds Portico: `python owner_server.py FOLDER`.

It runs the demo app in a sandbox and exposes it and a port where nothing listens; prints both URLs; takes the
app's URL back on SIGUSR1, and says how many streams that cut; ends on SIGTERM.
"""

import signal
import socket
import sys

import trio

from actors import FileStore, open_runtime
from proxy import Options, Server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def main(folder: str) -> None:
    app, silent = free_port(), free_port()
    async with open_runtime(FileStore(folder)) as runtime:
        sandbox = await runtime.get_sandbox("owned", container="process")
        process = await sandbox.start_process([sys.executable, "-m", "proxy.demo.app", "--port", str(app)])
        await process.wait_for_port(app)
        options = Options(drain_timeout_s=0.5)
        with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGTERM) as signals:
            async with Server(runtime, listen="127.0.0.1:0", options=options):
                exposed = await sandbox.expose_port(app)
                nobody = await sandbox.expose_port(silent)
                sys.stdout.write(f"ready {exposed.url} {nobody.url}\n")
                async for number in signals:
                    if number == signal.SIGTERM:
                        break
                    sys.stdout.write(f"unexposed, {await sandbox.unexpose_port(app)} cut\n")


trio.run(main, sys.argv[1])
