"""`portico log`: a sandbox's past, for people and for programs. Tokens are masked in both."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors import (
    FileStore,
    Moment,
    SandboxId,
    SandboxNotFoundError,
    SandboxState,
    Tail,
    describe_event,
    describe_state,
    state_at,
    unfold,
)

# The last second of the year 9999, beyond which there are no dates.
_TIME_MAX: Final = 253402300799.0

T = TypeVar("T")


def parse_time(text: str) -> float:
    """Read a point in time: ISO 8601 (local time unless it says otherwise) or seconds since 1970.

    Raises:
        ValueError: It is neither, or not between 1970 and the year 9999.
    """
    try:
        time = float(text)
    except ValueError:
        try:
            time = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            time = float("nan")
    if not 0 <= time <= _TIME_MAX:
        raise ValueError(f"{text!r} is not a time: write 2026-11-22T15:30:00Z, or seconds since 1970")
    return time


async def print_history(folder: Path, sandbox: SandboxId, *, as_json: bool, console: Console) -> None:
    """Print every event of a sandbox, oldest first; one JSON object a line for programs.

    Raises:
        SandboxNotFoundError, LogCorruptError, UnknownRecordError, StoreError.
    """
    moments = await read_moments(folder, sandbox)
    if as_json:
        for moment in moments:
            _print_json(_plain_moment(moment), console)
        return
    table = Table("#", "time", "what happened", "details", box=None, header_style="bold", pad_edge=False)
    for moment in moments:
        name, fields = _described(moment)
        # As text: names that owners give may look like markup.
        cells = str(moment.sequence), _shown_time(moment.time), name.replace("_", " "), _shown_fields(fields)
        table.add_row(*map(Text, cells))
    console.print(table)


async def print_state_at(folder: Path, sandbox: SandboxId, time: float, *, as_json: bool, console: Console) -> None:
    """Print the state that a sandbox was in at `time`.

    Raises:
        SandboxNotFoundError: There is no log, or what it holds begins later.
        LogCorruptError, UnknownRecordError, StoreError.
    """
    moments = await read_moments(folder, sandbox)
    state = state_at(moments, time)
    if state is None:
        begins = _shown_time(moments[0].time) if moments else "nowhere"
        raise SandboxNotFoundError(f"nothing is known of {sandbox} at {_shown_time(time)}: its log begins {begins}")
    plain = describe_state(state)
    if as_json:
        _print_json(plain, console)
    else:
        _print_state(state, plain, console)


async def print_verification(folder: Path, sandbox: SandboxId, *, as_json: bool, console: Console) -> bool:
    """Check every record of a log against its chain; return whether nothing is damaged.

    An unfinished record at the end is no damage: its append was never acknowledged.

    Raises:
        SandboxNotFoundError, StoreError.
    """
    async with _open(folder) as store:
        if store.exists(sandbox):
            report = await store.report(sandbox)
        else:
            report = _last(await store.buried(sandbox), folder, sandbox)
    scan, count = report.scan, len(report.entries)
    sound = scan.tail is not Tail.CORRUPT
    if as_json:
        summary = {
            "sandbox": sandbox,
            "records": count,
            "bytes": scan.used_length,
            "room_bytes": report.room_bytes,
            "valid_bytes": scan.valid_length,
            "tail": scan.tail.value,
            "reason": scan.reason,
        }
        _print_json(summary, console)
    elif sound:
        unfinished = f"; {report.torn_bytes} bytes of an unfinished record at the end" if report.torn_bytes else ""
        console.print(f"{sandbox}: {count} records, every link holds{unfinished}", highlight=False)
    else:
        text = f"{sandbox}: damaged at byte {scan.offset}, after {count} good records: {scan.reason}"
        console.print(Text(text, style="bold red"))
    return sound


async def read_moments(folder: Path, sandbox: SandboxId) -> list[Moment]:
    """Read a log, or, of a sandbox that was destroyed, the last one that was put aside.

    Raises:
        SandboxNotFoundError, LogCorruptError, UnknownRecordError, StoreError.
    """
    async with _open(folder) as store:
        if store.exists(sandbox):
            return unfold(await store.read(sandbox))
        report = _last(await store.buried(sandbox), folder, sandbox)
    report.check()
    return unfold(report.scan.history)


def _open(folder: Path) -> FileStore:
    if not folder.is_dir():
        raise SandboxNotFoundError(f"there is no data folder {folder}")
    return FileStore(folder, read_only=True)


def _last(buried: Sequence[T], folder: Path, sandbox: SandboxId) -> T:
    if not buried:
        raise SandboxNotFoundError(f"there is no log of sandbox {sandbox} in {folder}")
    return buried[-1]


def _described(moment: Moment) -> tuple[str, dict[str, object]]:
    return ("snapshot", describe_state(moment.state)) if moment.event is None else describe_event(moment.event)


def _plain_moment(moment: Moment) -> dict[str, object]:
    name, fields = _described(moment)
    return {
        "sequence": moment.sequence,
        "epoch": moment.epoch,
        "time": datetime.fromtimestamp(moment.time, UTC).isoformat(),
        "event": name,
        "fields": fields,
    }


def _print_json(value: object, console: Console) -> None:
    console.out(json.dumps(value), highlight=False)


def _print_state(state: SandboxState, plain: Mapping[str, object], console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in _rows(plain):
        table.add_row(*map(Text, row))
    console.print(f"[bold]{state.sandbox}[/bold] was {state.status.value}", highlight=False)
    console.print(table)


def _rows(plain: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for key, value in plain.items():
        if key == "ports" and isinstance(value, list):
            yield from (("port", _shown_fields(port)) for port in value)
        elif key not in {"sandbox", "status"} and value is not None:
            yield key.replace("_", " "), _shown(value)


def _shown_fields(fields: Mapping[str, object]) -> str:
    return "  ".join(f"{key}={_shown(value)}" for key, value in fields.items() if value is not None)


def _shown(value: object) -> str:
    # A name with spaces in it would run into what follows.
    return value if isinstance(value, str) and value.isprintable() and " " not in value else json.dumps(value)


def _shown_time(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(" ", "milliseconds").removesuffix("+00:00") + "Z"
