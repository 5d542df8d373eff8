"""`portico log`, from a data folder to what is printed."""

import io
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from actors import (
    ContainerSpec,
    FileStore,
    LogCorruptError,
    Runtime,
    SandboxId,
    SandboxNotFoundError,
    open_runtime,
)
from proxy.history import parse_time, print_history, print_state_at, print_verification

APP = SandboxId("my-app")
TOKEN = "k3v9x0q2m7t1z8aa"
SPEC = ContainerSpec("address", {"host": "127.0.0.1"})


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Screen:
    """A console, and what was printed on it."""

    file: io.StringIO = field(default_factory=io.StringIO)

    @property
    def console(self) -> Console:
        return Console(file=self.file, width=200)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.file.getvalue().splitlines()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
async def runtime(tmp_path: Path, clock: Clock) -> AsyncIterator[Runtime]:
    """Hold a sandbox, made at 1000 s, with port 8080 exposed at 2000 s. It goes on running while its log is read."""
    async with open_runtime(FileStore(tmp_path / "data", clock=clock), clock=clock) as runtime:
        sandbox = await runtime.get_sandbox(APP, container=SPEC)
        clock.now = 2000.0
        await sandbox.expose_port(8080, name="[red]my web[/red]", token=TOKEN)
        yield runtime


@pytest.fixture
def folder(tmp_path: Path, runtime: Runtime) -> Path:
    return tmp_path / "data"


def log_file(folder: Path) -> Path:
    (path,) = folder.glob(f"sandboxes/*/{APP}.log")
    return path


# Points in time.


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("0", 0.0),
        ("1795361054.5", 1795361054.5),
        ("2026-11-22T15:30:00Z", datetime(2026, 11, 22, 15, 30, tzinfo=UTC).timestamp()),
        ("2026-11-22T16:30:00+01:00", datetime(2026, 11, 22, 15, 30, tzinfo=UTC).timestamp()),
        ("2026-11-22 15:30", datetime(2026, 11, 22, 15, 30).timestamp()),  # noqa: DTZ001  # local time is meant
    ],
)
def test_time_is_iso_8601_or_seconds(text: str, time: float) -> None:
    assert parse_time(text) == time


@pytest.mark.parametrize("text", ["", "yesterday", "nan", "inf", "-1", "1e300", "0001-01-01", "2026-13-01"])
def test_what_is_no_time_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="write 2026-11-22T15:30:00Z, or seconds since 1970"):
        parse_time(text)


# The history.


async def test_people_get_a_line_an_event_with_the_token_masked(folder: Path, screen: Screen) -> None:
    await print_history(folder, APP, as_json=False, console=screen.console)
    head, created, exposed = screen.lines
    assert head.split() == ["#", "time", "what", "happened", "details"]
    assert created.startswith("1  1970-01-01 00:16:40.000Z  sandbox created  sandbox=my-app  container=")
    # A name is shown as it is, though it looks like markup.
    assert 'port=8080  token=****  name="[red]my web[/red]"' in exposed
    assert TOKEN not in screen.file.getvalue()


async def test_programs_get_an_object_an_event_with_the_token_masked(folder: Path, screen: Screen) -> None:
    await print_history(folder, APP, as_json=True, console=screen.console)
    created, exposed = map(json.loads, screen.lines)
    assert (created["sequence"], created["event"]) == (1, "sandbox_created")
    assert exposed == {
        "sequence": 2,
        "epoch": created["epoch"],
        "time": "1970-01-01T00:33:20+00:00",
        "event": "port_exposed",
        "fields": {
            "port": 8080,
            "token": "****",
            "name": "[red]my web[/red]",
            "host_header": "localhost",
            "wake_on_websocket": False,
        },
    }


async def test_reading_takes_nothing_from_the_runtime_that_writes(
    folder: Path, screen: Screen, runtime: Runtime
) -> None:
    await print_history(folder, APP, as_json=True, console=screen.console)
    sandbox = await runtime.find_sandbox(APP)
    assert await sandbox.unexpose_port(8080) == 0
    await print_history(folder, APP, as_json=True, console=screen.console)
    assert json.loads(screen.lines[-1])["event"] == "port_unexposed"


async def test_of_a_destroyed_sandbox_the_last_of_that_name_is_shown(
    folder: Path, screen: Screen, runtime: Runtime, clock: Clock
) -> None:
    await (await runtime.find_sandbox(APP)).destroy()
    clock.now = 3000.0
    again = await runtime.get_sandbox(APP, container=SPEC)
    clock.now = 4000.0
    await again.destroy()
    await print_history(folder, APP, as_json=True, console=screen.console)
    created, *_, destroyed = map(json.loads, screen.lines)
    assert created["time"] == "1970-01-01T00:50:00+00:00"
    assert destroyed["event"] == "sandbox_destroyed"
    assert await print_verification(folder, APP, as_json=False, console=screen.console)
    await print_state_at(folder, APP, 5000.0, as_json=False, console=screen.console)
    assert "my-app was destroyed" in screen.lines


# The state at some time.


async def test_state_at_a_time_is_shown_with_the_token_masked(folder: Path, screen: Screen) -> None:
    await print_state_at(folder, APP, 2500.0, as_json=False, console=screen.console)
    assert screen.lines[0] == "my-app was active"
    (port,) = [line for line in screen.lines if line.startswith("port ")]
    assert "port=8080  token=****" in port
    await print_state_at(folder, APP, 1500.0, as_json=True, console=screen.console)
    assert json.loads(screen.lines[-1])["ports"] == []
    assert TOKEN not in screen.file.getvalue()


async def test_time_before_the_log_begins_is_told_so(folder: Path, screen: Screen) -> None:
    with pytest.raises(SandboxNotFoundError, match=r"at 1970-01-01 00:00:10.000Z: its log begins 1970-01-01 00:16:40"):
        await print_state_at(folder, APP, 10.0, as_json=False, console=screen.console)


# Verification.


async def test_sound_log_is_verified(folder: Path, screen: Screen) -> None:
    assert await print_verification(folder, APP, as_json=False, console=screen.console)
    assert screen.lines == ["my-app: 2 records, every link holds"]
    assert await print_verification(folder, APP, as_json=True, console=screen.console)
    content = log_file(folder).read_bytes()
    size = len(content.rstrip(b"\0"))
    assert json.loads(screen.lines[-1]) == {
        "sandbox": "my-app",
        "records": 2,
        "bytes": size,
        # The log is in use.
        "room_bytes": len(content) - size,
        "valid_bytes": size,
        "tail": "clean",
        "reason": "",
    }


async def test_unfinished_record_at_the_end_is_no_damage_and_is_told(folder: Path, screen: Screen) -> None:
    path = log_file(folder)
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole + whole[:7])
    assert await print_verification(folder, APP, as_json=False, console=screen.console)
    assert screen.lines == ["my-app: 2 records, every link holds; 7 bytes of an unfinished record at the end"]
    await print_history(folder, APP, as_json=True, console=screen.console)
    assert len(screen.lines) == 3


async def test_flipped_byte_is_damage_with_its_place(folder: Path, screen: Screen) -> None:
    path = log_file(folder)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    assert not await print_verification(folder, APP, as_json=False, console=screen.console)
    assert screen.lines[0].startswith("my-app: damaged at byte 0, after 0 good records: ")
    with pytest.raises(LogCorruptError, match="damaged at byte 0"):
        await print_history(folder, APP, as_json=False, console=screen.console)
    path.rename(folder / "destroyed" / f"{APP}.19700101T000000.000000Z-00000002.log")
    with pytest.raises(LogCorruptError, match="damaged at byte 0"):
        await print_history(folder, APP, as_json=False, console=screen.console)


# What is not there.


async def test_unknown_sandbox_is_named_with_the_folder(folder: Path, screen: Screen) -> None:
    for ask in (print_history, print_verification):
        with pytest.raises(SandboxNotFoundError, match=f"there is no log of sandbox other in {folder}"):
            await ask(folder, SandboxId("other"), as_json=False, console=screen.console)


async def test_folder_that_is_not_there_is_not_made(tmp_path: Path, screen: Screen) -> None:
    missing = tmp_path / "missing"
    for ask in (print_history, print_verification):
        with pytest.raises(SandboxNotFoundError, match=f"there is no data folder {missing}"):
            await ask(missing, APP, as_json=False, console=screen.console)
    assert not missing.exists()


async def test_folder_of_something_else_has_no_logs_and_stays_as_it_is(tmp_path: Path, screen: Screen) -> None:
    with pytest.raises(SandboxNotFoundError, match="there is no log of sandbox my-app"):
        await print_history(tmp_path, APP, as_json=False, console=screen.console)
    assert not os.listdir(tmp_path)
