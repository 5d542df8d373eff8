"""The bytes of a log: how a record is framed, chained, and told from damage.

A log is a plain concatenation of msgpack values, so that this reads it::

    for frame, digest, (sequence, epoch, time, name, version, fields) in msgpack.Unpacker(open(path, "rb")):
        print(sequence, name, fields)

One record, offsets and sizes in bytes::

    offset size
         0    1  0x93        msgpack: an array of three
         1    2  0xc4 0x08   msgpack: 8 bytes follow
         3    4  bit 31: the same append goes on with the next record; bits 0-30: length of the payload (BE)
         7    4  check       BLAKE2b-32 (previous digest, the four bytes before)
        11    2  0xc4 0x10   msgpack: 16 bytes follow
        13   16  digest      BLAKE2b-128 (previous digest, bytes 3 to 10, payload)
        29    n  payload     msgpack: [sequence, epoch, time, name, version, fields]

The digests form a chain, whose first "previous digest" is made of a format tag and the sandbox's id: a record
that was altered, removed, repeated or moved, even in from another sandbox's log, breaks it. The separate check
of the length is what tells a damaged length from a record that a crash cut off. Bit 31 is what makes an append
of several records all or nothing: if its end is missing, the beginning does not count.

A snapshot is a record named `SNAPSHOT` that comes first in a compacted log and keeps its sequence number.

*Torn* is what a crash leaves of an append that nobody was told about; it may be dropped. *Corrupt* is everything
else; it must never be dropped silently. The line between them, given bytes that are not a whole record:

- the log ends inside a record whose bytes, as far as they go, are right: torn;
- all that remains is zero, or it is from a 512-byte sector boundary of the file on that lies in this record: torn
  (the file had grown, its data had not arrived; etcd judges likewise, server/storage/wal/decoder.go);
- anything else: corrupt. The one blind spot is a last record that is damaged *and* rightly ends in 16 or more
  zero bytes past a sector boundary; it is taken for torn, which keeps its bytes aside.

What no log can show by itself is that whole appends are missing from its end.

Nothing here touches a file.
"""

import math
import struct
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final, NoReturn

import msgpack  # type: ignore[import-untyped]  # published without type information

from actors.sandbox.ids import SandboxId
from actors.store import History, Record

SNAPSHOT: Final = "snapshot"
"""The reserved name of the record that stands for all before it."""

HEADER_BYTES: Final = 29
DIGEST_BYTES: Final = 16

# Bounds what one damaged length can make us read, and what one event may hold. An event is a few hundred bytes;
# etcd's limit for one request is 1.5 MiB.
PAYLOAD_BYTES_MAX: Final = 2**20

# The smallest unit that disks write whole; a crash leaves each sector written or not.
SECTOR_BYTES: Final = 512
# Fewer zeros than this at the end of a damaged record are taken for data rather than for a sector never written.
TORN_ZEROS_MIN: Final = 16

# Part of the first link of every chain: another layout needs another tag.
_FORMAT_TAG: Final = b"portico log 1\0"

_MORE: Final = 1 << 31
_HEADER: Final = struct.Struct(">3s8s2s16s")
_WORD: Final = struct.Struct(">I")
_START: Final = b"\x93\xc4\x08"
_MIDDLE: Final = b"\xc4\x10"
_FRAME_AT: Final = 3
_MIDDLE_AT: Final = 11

# BLAKE2's personalisation (RFC 7693 section 2.5): one purpose's hash is never another's.
_PERSON_GENESIS: Final = b"portico-genesis"
# Copying a hash that is set up costs half of setting one up, and reading a log is mostly this.
_LENGTH_HASH: Final = blake2b(digest_size=4, person=b"portico-length")
_RECORD_HASH: Final = blake2b(digest_size=DIGEST_BYTES, person=b"portico-record")


class Tail(StrEnum):
    """How a log ends."""

    CLEAN = "clean"
    TORN = "torn"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Scan:
    """What the bytes of a log say."""

    snapshot: Record | None
    records: tuple[Record, ...]
    """Those of whole appends, after the snapshot, in order."""
    offsets: tuple[int, ...]
    """Where the snapshot, if there is one, and each of `records` begins."""
    valid_length: int
    """How many bytes the whole appends take; the next append belongs there, if the tail is not corrupt."""
    digest: bytes
    """The chain's last link, for the next append."""
    tail: Tail
    offset: int
    """Where the first bad record begins; `valid_length` unless the tail is corrupt."""
    reason: str
    """Why the tail is torn or corrupt, for people; empty if it is clean."""

    @property
    def history(self) -> History:
        """The scan as the runtime wants it."""
        return History(self.snapshot, self.records)


def genesis(sandbox: SandboxId) -> bytes:
    """Return the link before the first record of a sandbox's log."""
    material = _FORMAT_TAG + sandbox.encode("ascii")
    return blake2b(material, digest_size=DIGEST_BYTES, person=_PERSON_GENESIS).digest()


def encode(record: Record, previous: bytes, *, more: bool = False) -> tuple[bytes, bytes]:
    """Return the bytes of `record` and its digest, which is the `previous` of the next one.

    Sequences in the fields come back as lists.

    Args:
        record: What to write.
        previous: The digest of the record before it, or `genesis`.
        more: True if the next record belongs to the same append, which counts only as a whole.

    Raises:
        ValueError: It is too large, or holds what could not be read again.
    """
    values = [record.sequence, record.epoch, record.time, record.name, record.version, dict(record.fields)]
    try:
        payload: bytes = msgpack.packb(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"record {record.name!r} cannot be stored: {error}") from error
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"record {record.name!r} takes {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} fit in a log")
    # Checked before writing: what could not be read back must not get into the log, where it would be corruption.
    try:
        _decode(payload)
    except ValueError as error:
        raise ValueError(f"record {record.name!r} cannot be stored: {error}") from error
    word = _WORD.pack(len(payload) | (_MORE if more else 0))
    frame = word + _check(previous, word)
    digest = _digest(previous, frame, payload)
    return _HEADER.pack(_START, frame, _MIDDLE, digest) + payload, digest


def scan(data: bytes, sandbox: SandboxId) -> Scan:
    """Read a whole log. Never raises, whatever the bytes are."""
    snapshot: Record | None = None
    records: list[Record] = []
    offsets: list[int] = []
    whole = 0  # how many of `offsets` are of whole appends
    digest = previous = genesis(sandbox)
    sequence = epoch = position = valid_length = 0
    size = len(data)
    tail, reason = Tail.CLEAN, ""
    more = False
    while position < size:
        payload_at = position + HEADER_BYTES
        if payload_at > size:
            tail, reason = _judge(data, position, previous)
            break
        start, frame, middle, digest_read = _HEADER.unpack_from(data, position)
        (word,) = _WORD.unpack_from(frame)
        end = payload_at + (word & ~_MORE)
        payload = data[payload_at:end]
        # The digest covers length and check as well, so that a good record costs one hash, not two.
        if (
            start != _START
            or middle != _MIDDLE
            or end > size
            or len(payload) > PAYLOAD_BYTES_MAX
            or (link := _digest(previous, frame, payload)) != digest_read
        ):
            tail, reason = _judge(data, position, previous)
            break
        try:
            record = _decode(payload)
            _check_place(record, sequence, epoch, first=position == 0, more=bool(word & _MORE))
        except ValueError as error:
            tail, reason = Tail.CORRUPT, str(error)
            break
        if record.name == SNAPSHOT:
            snapshot = record
        else:
            records.append(record)
        offsets.append(position)
        sequence, epoch, previous, position = record.sequence, record.epoch, link, end
        more = bool(word & _MORE)
        if not more:
            whole, digest, valid_length = len(offsets), link, position
    else:
        if more:
            tail, reason = Tail.TORN, "the log ends in the middle of an append of several records"
    # An append whose end is missing does not count: its beginning is taken back. A snapshot never is: it stands
    # alone in its append.
    del records[whole - (snapshot is not None) :]
    return Scan(
        snapshot=snapshot,
        records=tuple(records),
        offsets=tuple(offsets[:whole]),
        valid_length=valid_length,
        digest=digest,
        tail=tail,
        offset=position if tail is Tail.CORRUPT else valid_length,
        reason=reason,
    )


def _check(previous: bytes, word: bytes) -> bytes:
    state = _LENGTH_HASH.copy()
    state.update(previous + word)
    return state.digest()


def _digest(previous: bytes, frame: bytes, payload: bytes) -> bytes:
    state = _RECORD_HASH.copy()
    state.update(previous + frame + payload)
    return state.digest()


def _refuse_extension(code: int, _data: bytes) -> NoReturn:
    raise ValueError(f"msgpack extension type {code}")


def _decode(payload: bytes) -> Record:
    """Read a payload strictly.

    Raises:
        ValueError: Saying what is wrong, without quoting any field: fields hold secrets.
    """
    try:
        values: object = msgpack.unpackb(payload, ext_hook=_refuse_extension, max_ext_len=0)
    except ValueError as error:
        # Also what the library raises for bytes that are not msgpack, for broken UTF-8 and for deep nesting.
        raise ValueError(f"the payload is not plain msgpack ({type(error).__name__})") from error
    if type(values) is not list or len(values) != 6:
        raise ValueError("the payload is not an array of six")
    sequence, epoch, time, name, version, fields = values
    # Exact types: a bool would pass for an int.
    if (
        type(sequence) is not int
        or type(epoch) is not int
        or type(time) is not float
        or type(name) is not str
        or type(version) is not int
        or type(fields) is not dict
    ):
        raise ValueError("the payload is not [sequence, epoch, time, name, version, fields]")
    if sequence < 1 or epoch < 0 or version < 1 or not math.isfinite(time):
        raise ValueError("sequence, epoch, time or version is out of range")
    for key in fields:
        if type(key) is not str:
            raise ValueError("the fields have a name that is not text")
    return Record(sequence, epoch, time, name, version, fields)


def _check_place(record: Record, sequence: int, epoch: int, *, first: bool, more: bool) -> None:
    """Say by ValueError why `record` cannot come after record number `sequence` of `epoch`."""
    if record.name == SNAPSHOT:
        if not first or more:
            raise ValueError("a snapshot that is not alone at the beginning of the log")
    elif record.sequence != sequence + 1:
        raise ValueError(f"record {record.sequence} where {sequence + 1} should be")
    if record.epoch < epoch:
        raise ValueError(f"epoch {record.epoch} after epoch {epoch}")


def _judge(data: bytes, position: int, previous: bytes) -> tuple[Tail, str]:
    """Tell torn from corrupt, for bytes from `position` on that are not a whole, right record."""
    written = len(data.rstrip(b"\0"))
    if written <= position:
        return Tail.TORN, "nothing but zeros: the file had grown, its data had not arrived"
    header = data[position : position + HEADER_BYTES]
    word = header[_FRAME_AT : _FRAME_AT + 4]
    length = None
    if len(header) >= _MIDDLE_AT and _check(previous, word) == header[_FRAME_AT + 4 : _MIDDLE_AT]:
        length = _WORD.unpack(word)[0] & ~_MORE
    # The first sector boundary with only zeros behind it. Only if it lies inside this very record is it this
    # record that the crash cut: further on there may be records that somebody was told about.
    boundary = -(-written // SECTOR_BYTES) * SECTOR_BYTES
    end = position + HEADER_BYTES + (length or 0)
    if boundary < end and len(data) - boundary >= TORN_ZEROS_MIN:
        return Tail.TORN, f"zeros from byte {boundary} on: the last sectors of the record had not arrived"
    if not (_START.startswith(header[:3]) and _MIDDLE.startswith(header[_MIDDLE_AT : _MIDDLE_AT + 2])):
        return Tail.CORRUPT, "no record begins here"
    if len(header) < _MIDDLE_AT:
        return Tail.TORN, "cut off in the header"
    if length is None:
        return Tail.CORRUPT, "the length or its check is damaged, or the record does not follow the one before"
    if length > PAYLOAD_BYTES_MAX:
        return Tail.CORRUPT, f"a record of {length} bytes; at most {PAYLOAD_BYTES_MAX} are written"
    if end > len(data):
        return Tail.TORN, "cut off in the header" if len(header) < HEADER_BYTES else "cut off in the payload"
    return Tail.CORRUPT, "the digest does not match"
