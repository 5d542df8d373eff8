"""Laws of the log: scanning never raises, a cut leaves a prefix, and what cannot be an event is refused as one."""

from typing import Final

import msgpack  # type: ignore[import-untyped]  # published without type information

from actors.core.record import Scan, Tail, encode, genesis, scan
from actors.errors import UnknownRecordError
from actors.sandbox.events import EVENT_NAMES, decode
from actors.sandbox.events import encode as encode_event
from actors.sandbox.ids import SandboxId
from actors.store import Record
from tests.fuzz.cutting import cuttings

SANDBOX: Final = SandboxId("a")


def log_records(data: bytes) -> None:
    """Check a log of these bytes, and one written of them that they then damage."""
    _judge_scan(data, scan(data, SANDBOX))
    log, ends = _written(data)
    whole = scan(log, SANDBOX)
    assert whole.tail is Tail.CLEAN
    assert [whole.offsets[0], whole.valid_length] == [0, len(log)]
    for pieces in cuttings(log):
        cut = len(pieces[0])
        found = scan(log[:cut], SANDBOX)
        assert found.tail is not Tail.CORRUPT, found.reason
        assert found.records == whole.records[: len(found.records)]
        assert found.valid_length == max((end for end in ends if end <= cut), default=0)
    if data:
        at = int.from_bytes(data[:2], "big") % len(log)
        damaged = log[:at] + bytes([log[at] ^ (data[-1] or 1)]) + log[at + 1 :]
        found = scan(damaged, SANDBOX)
        _judge_scan(damaged, found)
        # Everything before the damage is kept, and nothing that was not written is read.
        assert found.records == whole.records[: len(found.records)]
        assert len(found.records) >= sum(1 for end in ends if end <= at)


def _written(data: bytes) -> tuple[bytes, list[int]]:
    """Write a log whose records hold the pieces of `data`, and say where each append ends."""
    log, ends = b"", []
    previous = genesis(SANDBOX)
    pieces = data.split(b"\0")[:8]
    for number, piece in enumerate(pieces, 1):
        record = Record(number, 1, float(number), f"event {number}", 1, {"piece": piece})
        written, previous = encode(record, previous)
        log += written
        ends.append(len(log))
    return log, ends


def _judge_scan(data: bytes, found: Scan) -> None:
    assert 0 <= found.valid_length <= len(data)
    assert len(found.offsets) == len(found.records) + (found.snapshot is not None)
    again = scan(data[: found.valid_length], SANDBOX)
    assert (again.tail, again.records, again.digest) == (Tail.CLEAN, found.records, found.digest)
    assert bool(found.reason) == (found.tail is not Tail.CLEAN)


def events(data: bytes) -> None:
    """Check what a log holds besides its framing: ``[name, version, fields]`` in msgpack, then its events."""
    try:
        values: object = msgpack.unpackb(data, max_ext_len=0)
    except ValueError:
        return
    if isinstance(values, list) and len(values) == 3:
        name, version, fields = values
        if isinstance(name, str) and type(version) is int and isinstance(fields, dict):
            _judge_event(name, version, fields)
    if isinstance(values, dict):
        for name, version in EVENT_NAMES.values():
            _judge_event(name, version, values)


def _judge_event(name: str, version: int, fields: dict[str, object]) -> None:
    if not all(isinstance(key, str) for key in fields):
        return
    refusal = ""
    event = None
    try:
        event = decode(name, version, fields)
    except UnknownRecordError as error:
        refusal = str(error)
    if event is not None:
        assert decode(*encode_event(event)) == event
        return
    for value in (fields.get("token"), fields.get("digest")):
        # A short one may stand in the text by chance.
        assert not isinstance(value, str) or len(value) < 8 or value not in refusal, "an error that quotes a secret"
