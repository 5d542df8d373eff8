"""The bytes of a log: how a record is framed, chained, and told from damage.

A log is a concatenation of msgpack values, so that this reads it::

    for frame, digest, (sequence, epoch, time, name, version, fields) in msgpack.Unpacker(open(path, "rb")):
        print(sequence, name, fields)

While it is in use, and after a crash, zeros may follow: *room*, into which the next appends are written (see
`actors.log` for why). To msgpack each of them is the number 0; a record never begins with a zero.

One record, offsets and sizes in bytes::

    offset size
         0    1  0x93        msgpack: an array of three
         1    2  0xc4 0x08   msgpack: 8 bytes follow
         3    4  bit 31: the same append goes on with the next record; bit 30: it began with an earlier one;
                 bits 0-29: length of the payload (BE)
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
else; it must never be dropped silently. What draws the line is that an append begins only after the one before it
is durable, so that a crash tears no more than one; and that a disk writes whole sectors. So, given bytes that are
neither a whole record nor room:

- torn is what one append may be with any of its sectors still zero, or with the file ending early: what has arrived
  is right as far as the rest allows to tell, something is missing, and no second append has begun;
- anything else is corrupt: all has arrived and does not match, a sector has arrived in part, or a record follows
  which begins an append (bit 30), or anything at all follows the record that ends this one (bit 31).

etcd judges likewise (server/storage/wal/decoder.go, isTornEntry), but stops at the first sector of zeros, whatever
comes after it. What remains that is taken for torn, and so kept aside rather than reported, although it is not:

- sectors that turn to zeros, where no other append begins behind them: in the last append of a log, and in more than
  one if the zeros reach into the last one's header. What loses its sectors as in a crash looks as after one;
- any damage to a last append of which the part in some sector is rightly nothing but zeros. Nearly always that is
  the very last byte of it, a zero by itself beyond a sector's boundary.

The opposite mistake, a torn append called corrupt, takes one of which a header is missing and a bytes value looks
like another's: text cannot, because 0xc4 0x08 is not UTF-8.

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

# Part of the first link of every chain: another layout needs another tag.
_FORMAT_TAG: Final = b"portico log 1\0"

_MORE: Final = 1 << 31
_CONTINUES: Final = 1 << 30
_LENGTH: Final = _CONTINUES - 1
_HEADER: Final = struct.Struct(">3s8s2s16s")
_WORD: Final = struct.Struct(">I")
_START: Final = b"\x93\xc4\x08"
_MIDDLE: Final = b"\xc4\x10"
_FRAME_AT: Final = 3
_CHECK_AT: Final = 7
_MIDDLE_AT: Final = 11
_DIGEST_AT: Final = 13
# How every payload begins (msgpack, an array of six), and what is there if its sector has not arrived.
_PAYLOAD_STARTS: Final = (b"\x96", b"\0", b"")

# BLAKE2's personalisation (RFC 7693 section 2.5): one purpose's hash is never another's.
_PERSON_GENESIS: Final = b"portico-genesis"
# Copying a hash that is set up costs half of setting one up, and reading a log is mostly this.
_LENGTH_HASH: Final = blake2b(digest_size=4, person=b"portico-length")
_RECORD_HASH: Final = blake2b(digest_size=DIGEST_BYTES, person=b"portico-record")


class Tail(StrEnum):
    """How a log ends."""

    CLEAN = "clean"
    """With a whole append; room may follow."""
    TORN = "torn"
    CORRUPT = "corrupt"


_TORN: Final = (Tail.TORN, "the last append has not arrived as a whole")


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
    used_length: int
    """How many bytes there are without the room behind them; `valid_length` if the tail is clean."""
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


def encode(record: Record, previous: bytes, *, more: bool = False, continues: bool = False) -> tuple[bytes, bytes]:
    """Return the bytes of `record` and its digest, which is the `previous` of the next one.

    Sequences in the fields come back as lists.

    Args:
        record: What to write.
        previous: The digest of the record before it, or `genesis`.
        more: True if the next record belongs to the same append, which counts only as a whole.
        continues: True if the record before it does.

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
    word = _WORD.pack(len(payload) | (_MORE if more else 0) | (_CONTINUES if continues else 0))
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
            tail, reason = _judge(data, valid_length, position, previous)
            break
        start, frame, middle, digest_read = _HEADER.unpack_from(data, position)
        (word,) = _WORD.unpack_from(frame)
        end = payload_at + (word & _LENGTH)
        # The digest covers length and check as well, so that a good record costs one hash, not two.
        if (
            start != _START
            or middle != _MIDDLE
            or end > size
            or end - payload_at > PAYLOAD_BYTES_MAX
            or (link := _digest(previous, frame, payload := data[payload_at:end])) != digest_read
        ):
            tail, reason = _judge(data, valid_length, position, previous)
            break
        try:
            record = _decode(payload)
            _check_place(record, sequence, epoch, first=position == 0, more=word >= _MORE)
        except ValueError as error:
            tail, reason = Tail.CORRUPT, str(error)
            break
        if record.name == SNAPSHOT:
            snapshot = record
        else:
            records.append(record)
        offsets.append(position)
        sequence, epoch, previous, position = record.sequence, record.epoch, link, end
        more = word >= _MORE
        if not more:
            whole, digest, valid_length = len(offsets), link, position
    else:
        if more:
            tail, reason = _TORN
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
        used_length=valid_length if tail is Tail.CLEAN else len(data.rstrip(b"\0")),
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


def _judge(data: bytes, start: int, position: int, previous: bytes) -> tuple[Tail, str]:
    """Tell room, torn and corrupt apart.

    Args:
        data: The log.
        start: Where the append under way begins.
        position: Where, in it, what is not a whole, right record begins; all of the append before it is right.
        previous: The digest of the record before `position`.
    """
    used = len(data.rstrip(b"\0"))
    if used <= start:
        return Tail.CLEAN, ""
    arrived = _Arrived(data, start)
    at = position
    # What the record at `at` is chained to; None once that has not arrived.
    link: bytes | None = previous
    while True:
        header = data[at : at + HEADER_BYTES]
        if not arrived.matches(at, _START) or not arrived.matches(at + _MIDDLE_AT, _MIDDLE):
            return Tail.CORRUPT, "no record begins here"
        if not arrived.has(at + _FRAME_AT, at + _CHECK_AT):
            return _judge_unread(data, at, used)
        word = header[_FRAME_AT:_CHECK_AT]
        if (
            link is not None
            and arrived.has(at + _CHECK_AT, at + _MIDDLE_AT)
            and _check(link, word) != header[_CHECK_AT:_MIDDLE_AT]
        ):
            return Tail.CORRUPT, "the length or its check is damaged, or the record does not follow the one before"
        (bits,) = _WORD.unpack(word)
        length = bits & _LENGTH
        if length > PAYLOAD_BYTES_MAX:
            return Tail.CORRUPT, f"a record of {length} bytes; at most {PAYLOAD_BYTES_MAX} are written"
        end = at + HEADER_BYTES + length
        if (
            link is not None
            and arrived.has(at, end)
            and _digest(link, header[_FRAME_AT:_MIDDLE_AT], data[at + HEADER_BYTES : end]) != header[_DIGEST_AT:]
        ):
            return Tail.CORRUPT, "the digest does not match"
        if not bits & _MORE:
            if used > end:
                return Tail.CORRUPT, f"sectors are missing, and more follows the end of their append at byte {end}"
            return _TORN
        link = header[_DIGEST_AT:] if arrived.has(at + _DIGEST_AT, at + HEADER_BYTES) else None
        at = end


def _judge_unread(data: bytes, position: int, used: int) -> tuple[Tail, str]:
    """Judge bytes of which not even the first length has arrived, by looking for signs of a second append."""
    at = position
    while (at := data.find(_START, at + 1, used)) != -1:
        header = data[at : at + HEADER_BYTES]
        (bits,) = _WORD.unpack(header[_FRAME_AT:_CHECK_AT].ljust(4, b"\0"))
        payload_at = at + HEADER_BYTES
        end = payload_at + (bits & _LENGTH)
        is_record = (
            header[_MIDDLE_AT:_DIGEST_AT] == _MIDDLE
            and payload_at < end <= payload_at + PAYLOAD_BYTES_MAX
            and data[payload_at : payload_at + 1] in _PAYLOAD_STARTS
        )
        if is_record and not bits & _CONTINUES:
            return Tail.CORRUPT, f"sectors are missing, and another append begins at byte {at}"
        if is_record and not bits & _MORE and used > end:
            return Tail.CORRUPT, f"sectors are missing, and more follows the end of their append at byte {end}"
    return _TORN


class _Arrived:
    """Which bytes of the one append that a crash may have torn are on the disk.

    A sector's share of the append is there as a whole or is zero as a whole. What lies before the append in its
    first sector was there already. A share of zeros is taken for missing; if it is rightly so, nothing is lost by
    it but what the module's docstring admits.
    """

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = start

    def has(self, begin: int, end: int) -> bool:
        """Say whether all bytes from `begin` to `end` are there."""
        if end > len(self._data):
            return False
        first = begin - begin % SECTOR_BYTES
        return all(
            self._data[max(sector, self._start) : sector + SECTOR_BYTES].strip(b"\0")
            for sector in range(first, end, SECTOR_BYTES)
        )

    def matches(self, at: int, expected: bytes) -> bool:
        """Say whether those of the bytes at `at` that are there are the expected ones."""
        return all(self._data[here] == byte for here, byte in enumerate(expected, at) if self.has(here, here + 1))
