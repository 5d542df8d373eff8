"""`portico log`: a sandbox's past, for people and for programs. Tokens are masked in both."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

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


def parse_time(text: str) -> float:
    """Read a point in time: ISO 8601 (local time unless it says otherwise) or seconds since 1970.

    Raises:
        ValueError: It is neither.
    """
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write 2026-11-22T15:30:00Z, or seconds since 1970") from None


async def print_history(folder: Path, sandbox: str, *, as_json: bool, console: Console) -> None:
    """Print every event of a sandbox, oldest first; one JSON object a line for programs.

    Raises:
        SandboxNotFoundError, LogCorruptError, UnknownRecordError.
    """
    moments = await _read(folder, sandbox)
    if as_json:
        for moment in moments:
            console.out(json.dumps(_plain_moment(moment)), highlight=False)
        return
    table = Table("#", "time", "what happened", "details", box=None, header_style="bold", pad_edge=False)
    for moment in moments:
        plain = _plain_moment(moment)
        table.add_row(
            str(moment.sequence), _shown_time(moment.time), str(plain["event"]).replace("_", " "), _details(plain)
        )
    console.print(table)


async def print_state_at(folder: Path, sandbox: str, time: float, *, as_json: bool, console: Console) -> bool:
    """Print the state at `time`; return False, having said so, if there was none or the log begins later."""
    moments = await _read(folder, sandbox)
    state = state_at(moments, time)
    if state is None:
        begins = _shown_time(moments[0].time) if moments else "never"
        console.print(f"no state of {sandbox} at {_shown_time(time)}: its log begins {begins}", highlight=False)
        return False
    plain = describe_state(state)
    if as_json:
        console.out(json.dumps(plain), highlight=False)
    else:
        _print_state(state, plain, console)
    return True


async def print_verification(folder: Path, sandbox: str, *, as_json: bool, console: Console) -> bool:
    """Check every record of a log against its chain; return whether nothing is damaged.

    An unfinished record at the end is no damage: its append was never acknowledged.

    Raises:
        SandboxNotFoundError, StoreError.
    """
    async with _open(folder) as store:
        report = await store.report(SandboxId(sandbox))
    scan = report.scan
    summary = {
        "sandbox": sandbox,
        "records": len(report.entries),
        "bytes": report.size,
        "valid_bytes": scan.valid_length,
        "tail": scan.tail.value,
        "reason": scan.reason,
    }
    sound = scan.tail is not Tail.CORRUPT
    if as_json:
        console.out(json.dumps(summary), highlight=False)
    elif sound:
        unfinished = f"; {report.torn_bytes} bytes of an unfinished record at the end" if report.torn_bytes else ""
        console.print(f"{sandbox}: {len(report.entries)} records, every link holds{unfinished}", highlight=False)
    else:
        text = (
            f"{sandbox}: damaged at byte {scan.valid_length}, after {len(report.entries)} good records: {scan.reason}"
        )
        console.print(Text(text, style="bold red"))
    return sound


async def _read(folder: Path, sandbox: str) -> list[Moment]:
    """Read a log, or, of a sandbox that was destroyed, the last one that was put aside."""
    name = SandboxId(sandbox)
    async with _open(folder) as store:
        if store.exists(name):
            return unfold(await store.read(name))
        buried = await store.buried(name)
    if not buried:
        raise SandboxNotFoundError(f"there is no log of sandbox {name} in {folder}")
    buried[-1].check()
    return unfold(buried[-1].scan.history)


def _open(folder: Path) -> FileStore:
    if not folder.is_dir():
        raise SandboxNotFoundError(f"there is no data folder {folder}")
    return FileStore(folder, read_only=True)


def _plain_moment(moment: Moment) -> dict[str, object]:
    if moment.event is None:
        name, fields = "snapshot", describe_state(moment.state)
    else:
        name, fields = describe_event(moment.event)
    return {
        "sequence": moment.sequence,
        "epoch": moment.epoch,
        "time": datetime.fromtimestamp(moment.time, UTC).isoformat(),
        "event": name,
        "fields": fields,
    }


def _details(plain: dict[str, object]) -> str:
    fields = plain["fields"]
    assert isinstance(fields, dict)
    return "  ".join(f"{key}={_shown(value)}" for key, value in fields.items() if value is not None)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown_time(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _print_state(state: SandboxState, plain: object, console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in _rows(plain):
        table.add_row(key, value)
    console.print(f"[bold]{state.sandbox}[/bold] was {state.status.value}", highlight=False)
    console.print(table)


def _rows(plain: object) -> Iterator[tuple[str, str]]:
    assert isinstance(plain, dict)
    for key, value in plain.items():
        if key == "ports":
            for port in value:
                yield "port", "  ".join(f"{name}={_shown(inner)}" for name, inner in port.items() if inner is not None)
        elif key not in {"sandbox", "status"} and value is not None:
            yield key, _shown(value)
