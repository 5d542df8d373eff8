"""The demo's own decisions: its settings, its port, what it prints. The whole of it is in tests/e2e."""

import io
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from actors import (
    ContainerError,
    ContainerSpec,
    Domain,
    ExposedPort,
    MemoryStore,
    PublicAddress,
    Runtime,
    Sandbox,
    open_runtime,
)
from proxy.config import Settings, resolve
from proxy.demo.run import DRAIN_TIMEOUT_S, choose_port, demo_settings, is_free, show, wait_listening

TOKEN = "k3v9x0q2m7t1z8aa"


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with open_runtime(MemoryStore()) as runtime:
        runtime.public_address = PublicAddress(Domain("localhost"), 8787)
        yield runtime


@pytest.fixture
async def sandbox(runtime: Runtime) -> Sandbox:
    return await runtime.get_sandbox("demo", container=ContainerSpec("address", {"host": "127.0.0.1"}))


# Settings.


def test_demo_is_quiet_and_waits_for_no_stream_unless_told_otherwise() -> None:
    settings = demo_settings(resolve({}, {}))
    assert (settings.log_level, settings.drain_timeout_s) == ("warning", DRAIN_TIMEOUT_S)
    told = demo_settings(resolve({"log_level": "info"}, {"PORTICO_DRAIN_TIMEOUT_S": "30"}))
    assert (told.log_level, told.drain_timeout_s) == ("info", 30)
    assert told.listen == Settings().listen


# The port.


@pytest.fixture
def ports() -> list[int]:
    """Two free ports, the smaller one first."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        return sorted(held.getsockname()[1] for held in (first, second))


@pytest.fixture
def take() -> Iterator[Callable[[int], None]]:
    """Return a function that has another program listen on a port."""
    held: list[socket.socket] = []
    yield lambda port: held.append(socket.create_server(("127.0.0.1", port)))
    for taken in held:
        taken.close()


def test_port_is_free_until_somebody_listens_there(ports: list[int], take: Callable[[int], None]) -> None:
    assert is_free(ports[0])
    take(ports[0])
    assert not is_free(ports[0])


async def test_first_free_port_is_chosen(sandbox: Sandbox, ports: list[int], take: Callable[[int], None]) -> None:
    assert await choose_port(sandbox, ports) == ports[0]
    take(ports[0])
    assert await choose_port(sandbox, ports) == ports[1]


async def test_exposed_port_is_kept_so_that_the_url_stays(sandbox: Sandbox, ports: list[int]) -> None:
    await sandbox.expose_port(ports[1])
    assert await choose_port(sandbox, ports) == ports[1]
    assert await sandbox.is_port_exposed(ports[1])


async def test_url_to_a_port_that_another_program_has_taken_is_revoked(
    sandbox: Sandbox, ports: list[int], take: Callable[[int], None]
) -> None:
    await sandbox.expose_port(ports[0])
    take(ports[0])
    assert await choose_port(sandbox, ports) == ports[1]
    assert not await sandbox.is_port_exposed(ports[0])


async def test_no_free_port_is_an_error_that_says_so(
    sandbox: Sandbox, ports: list[int], take: Callable[[int], None]
) -> None:
    for port in ports:
        take(port)
    with pytest.raises(ContainerError, match=r"every port from 8080 to 8099 is in use"):
        await choose_port(sandbox, ports)


# The app.


async def test_app_that_ends_is_an_error_with_what_it_printed(tmp_path: Path, runtime: Runtime) -> None:
    sandbox = await runtime.get_sandbox("real", container="process")
    process = await sandbox.start_process("echo no port for me; exit 3")
    with pytest.raises(ContainerError, match=r"the demo app did not start: exit code 3\nno port for me"):
        await wait_listening(process)


# What is printed.


@pytest.fixture
async def exposed(sandbox: Sandbox) -> ExposedPort:
    return await sandbox.expose_port(8080, token=TOKEN)


URL = f"http://8080-demo-{TOKEN}.localhost:8787/"


def shown(exposed: ExposedPort, settings: Settings, *, terminal: bool, width: int) -> list[str]:
    file = io.StringIO()
    show(exposed, settings, Console(file=file, force_terminal=terminal, width=width, color_system=None))
    return file.getvalue().splitlines()


async def test_file_or_pipe_gets_the_url_on_a_line_of_its_own(exposed: ExposedPort) -> None:
    lines = shown(exposed, Settings(), terminal=False, width=20)
    assert f"  {URL}" in lines
    assert "Press Ctrl-C to stop." in lines


async def test_terminal_gets_a_panel_below_the_code(exposed: ExposedPort) -> None:
    lines = shown(exposed, Settings(), terminal=True, width=80)
    (url,) = [number for number, line in enumerate(lines) if URL in line]
    assert lines[url].startswith("│")
    # The code is 29 modules and a margin of 2, two rows to a line.
    top = next(number for number, line in enumerate(lines) if line.startswith("╭"))
    assert top >= (29 + 2 * 2) // 2
    assert url > top
    assert max(map(len, lines[top:])) <= 80


async def test_terminal_too_narrow_for_the_panel_gets_the_url_unbroken(exposed: ExposedPort) -> None:
    lines = shown(exposed, Settings(), terminal=True, width=len(URL))
    assert f"  {URL}" in lines


async def test_command_for_the_history_can_be_pasted(exposed: ExposedPort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/my tools/portico"])
    monkeypatch.setenv("PATH", "/nowhere")
    settings = msgspec.structs.replace(Settings(), data_folder=Path("my data"))
    (line,) = [
        line
        for line in shown(exposed, settings, terminal=False, width=200)
        if "portico log" in line or "/portico" in line
    ]
    command = line.removeprefix("What happened so far:")
    assert shlex.split(command) == ["/opt/my tools/portico", "log", "demo", "--data", "my data"]


async def test_command_that_the_path_finds_is_named_shortly(
    exposed: ExposedPort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "portico"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "What happened so far:  portico log demo" in shown(exposed, Settings(), terminal=False, width=200)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path.parent)
    path = program.relative_to(tmp_path.parent)
    assert f"What happened so far:  {path} log demo" in shown(exposed, Settings(), terminal=False, width=200)
