"""`portico demo`: a sandbox with a real web app in it, behind a real preview URL."""

import io
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import Final

import msgspec
import segno
import trio
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from actors import ContainerError, ExposedPort, Process, ProcessStatus, Runtime, Sandbox
from proxy.config import Resolved, Settings
from proxy.host import open_host, serve_until_told

SANDBOX: Final = "demo"
PORTS: Final = range(8080, 8100)
"""Tried in turn. A process container shares the host's ports, so one of them may be taken."""

READY_TIMEOUT_S: Final = 30.0
READY_POLL_S: Final = 0.05
READY_LINE: Final = b"demo app listening on"
"""What the app prints once it listens. Knocking at the port would not tell it from another program there."""

DRAIN_TIMEOUT_S: Final = 0.25
"""The demo's page holds streams that never end by themselves: waiting for them would be waiting for nothing."""

_PANEL_MARGIN: Final = 8
"""Columns that frame and indentation take."""


def demo_settings(resolved: Resolved) -> Settings:
    """Return the settings, with the demo's own defaults where nobody has said otherwise."""
    own: dict[str, object] = {"log_level": "warning", "drain_timeout_s": DRAIN_TIMEOUT_S}
    changes = {name: value for name, value in own.items() if resolved.origins[name] == "default"}
    return msgspec.structs.replace(resolved.settings, **changes)


async def run_demo(settings: Settings, console: Console) -> None:
    """Run the demo until told to stop.

    Raises:
        ContainerError: The app did not start; the text ends with what it printed.
        PorticoError, ListenError: As `open_host` and `serve_until_told`.
    """
    async with open_host(settings) as host:
        # All before anybody can knock: an open page of last time is back within the second, and the port of last
        # time may be another program's by now.
        with console.status("Starting the sandbox"):
            exposed = await _prepare(host.runtime, settings)
        await serve_until_told(host, on_listening=lambda _: show(exposed, settings, console))
    console.print("Stopped. The same URL will work next time.")


async def _prepare(runtime: Runtime, settings: Settings) -> ExposedPort:
    sandbox = await runtime.get_sandbox(SANDBOX, container="process")
    ports = [port for port in PORTS if port not in settings.reserved_ports]
    port = await choose_port(sandbox, ports)
    command = [sys.executable, "-m", "proxy.demo.app", "--port", str(port)]
    await wait_listening(await sandbox.start_process(command, id="web"))
    return await sandbox.expose_port(port, name="demo app")


async def choose_port(sandbox: Sandbox, ports: list[int]) -> int:
    """Return the port that is exposed already, so that the URL stays the same, or the first free one of `ports`.

    Raises:
        ContainerError: None is free.
    """
    exposed = [exposed.port for exposed in await sandbox.get_exposed_ports()]
    for port in (*exposed, *ports):
        if not is_free(port):
            continue
        for other in exposed:
            # Its URL would lead to whatever program has taken the port.
            if other != port:
                await sandbox.unexpose_port(other)
        return port
    raise ContainerError(f"every port from {PORTS.start} to {PORTS.stop - 1} is in use on this machine")


def is_free(port: int) -> bool:
    """Say whether a service could listen on a port of this machine, on 127.0.0.1."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still fading is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def wait_listening(process: Process) -> None:
    """Block until the app says that it listens.

    Raises:
        ContainerError: It has ended, or is not ready after `READY_TIMEOUT_S`.
    """
    with trio.move_on_after(READY_TIMEOUT_S):
        while process.status is ProcessStatus.RUNNING:
            if READY_LINE in await process.logs():
                return
            await trio.sleep(READY_POLL_S)
    outcome = "it is still starting" if process.exit_code is None else f"exit code {process.exit_code}"
    printed = (await process.logs()).decode("utf-8", "replace").strip()
    raise ContainerError(f"the demo app did not start: {outcome}\n{printed}".strip())


def show(exposed: ExposedPort, settings: Settings, console: Console) -> None:
    """Print the URL: on a terminal in a panel under a QR code, elsewhere unbroken on a line of its own."""
    url = exposed.url
    history = f"{_program()} log {SANDBOX}"
    if settings.data_folder != Settings().data_folder:
        history += f" --data {shlex.quote(str(settings.data_folder))}"
    text = Text.assemble(
        ("Your preview URL:\n\n", "bold"),
        (f"  {url}\n\n", "bold cyan"),
        "Open it in a browser: a live clock, a WebSocket echo and an upload,\nserved from sandbox ",
        (SANDBOX, "bold"),
        ". Change one letter of the token and it\nanswers 404. It is the same URL next time.\n\n",
        (f"What happened so far:  {history}\n", "dim"),
        ("Press Ctrl-C to stop.", "bold"),
    )
    if not console.is_terminal:
        console.print(text, soft_wrap=True)
        return
    # Above the panel, so that on a small screen it is the code that scrolls away.
    code = io.StringIO()
    segno.make(url, error="l").terminal(code, compact=True, border=2)
    console.file.write(code.getvalue())
    if len(url) + _PANEL_MARGIN <= console.width:
        console.print(Panel.fit(text, title="portico demo", padding=(1, 2)))
    else:
        # A frame would break the URL, and half a URL cannot be clicked.
        console.print(text, soft_wrap=True)


def _program() -> str:
    """Return how this command can be called again from here: by name if that finds it, else by its path."""
    called = Path(sys.argv[0]).absolute()
    found = shutil.which(called.name)
    if found is not None and Path(found).absolute() == called:
        return called.name
    here = Path.cwd()
    return shlex.quote(str(called.relative_to(here) if called.is_relative_to(here) else called))
