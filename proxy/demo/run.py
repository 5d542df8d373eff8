"""`portico demo`: a sandbox with a real web app in it, behind a real preview URL."""

import shlex
import socket
import sys
from contextlib import suppress
from typing import Final

import segno
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from actors import ContainerError, ExposedPort, NotListeningError, ProcessStatus, Sandbox
from proxy.config import Settings
from proxy.host import open_host, wait_told_to_stop

SANDBOX: Final = "demo"
PORTS: Final = range(8080, 8100)
"""Tried in turn. A process container shares the host's ports, so one of them may be taken."""

READY_TIMEOUT_S: Final = 30.0


async def run_demo(settings: Settings, console: Console) -> None:
    """Run the demo until told to stop.

    Raises:
        ContainerError: The app did not start; the text ends with what it printed.
        PorticoError, OSError: As `open_host`.
    """
    with console.status("Starting the sandbox"):
        async with open_host(settings) as host:
            sandbox = await host.runtime.get_sandbox(SANDBOX, container="process")
            port = await _choose_port(sandbox)
            await _start_app(sandbox, port)
            exposed = await sandbox.expose_port(port, name="demo app")
            _show(exposed, settings, console)
            await wait_told_to_stop(host)
            console.print("Stopped. The same URL will work next time.")


async def _choose_port(sandbox: Sandbox) -> int:
    """Return the port that is exposed already, so that the URL stays the same, or a free one."""
    exposed = [exposed.port for exposed in await sandbox.get_exposed_ports()]
    for port in (*exposed, *PORTS):
        if not _is_free(port):
            continue
        for other in exposed:
            # Its URL would lead to whatever program has taken the port.
            if other != port:
                await sandbox.unexpose_port(other)
        return int(port)
    raise ContainerError(f"every port from {PORTS.start} to {PORTS.stop - 1} is in use on this machine")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still fading is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def _start_app(sandbox: Sandbox, port: int) -> None:
    command = f"exec {shlex.quote(sys.executable)} -m proxy.demo.app --port {port}"
    process = await sandbox.start_process(command, id="web")
    with suppress(NotListeningError):
        # It exits when the port is taken; then something else may well be listening there, or nothing.
        await process.wait_for_port(port, timeout=READY_TIMEOUT_S)
    if process.status is not ProcessStatus.RUNNING:
        printed = (await process.logs()).decode("utf-8", "replace").strip()
        raise ContainerError(f"the demo app did not start (exit code {process.exit_code}):\n{printed}")


def _show(exposed: ExposedPort, settings: Settings, console: Console) -> None:
    text = Text.assemble(
        ("Your preview URL:\n\n", "bold"),
        (f"  {exposed.url}\n\n", "bold cyan"),
        "Open it in a browser: a live clock, a WebSocket echo and an upload, served from sandbox ",
        (SANDBOX, "bold"),
        ".\nChange one letter of the token and it answers 404. It is the same URL next time.\n",
        (f"What happened so far: portico log {SANDBOX} --data {settings.data_folder}\n", "dim"),
        ("Press Ctrl-C to stop.", "bold"),
    )
    if console.is_terminal:
        console.print(Panel.fit(text, title="portico demo"))
        segno.make(exposed.url, error="l").terminal(compact=True)
    else:
        # For whoever reads our output by program: the URL unbroken on a line of its own.
        console.print(text, soft_wrap=True)
