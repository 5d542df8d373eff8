"""Framing and chain: what is written is read, and nothing that was altered is taken for a log."""

import io
import itertools
from collections.abc import Sequence

import msgpack  # type: ignore[import-untyped]  # published without type information
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core import record as record_module
from actors.core.record import (
    HEADER_BYTES,
    PAYLOAD_BYTES_MAX,
    SECTOR_BYTES,
    SNAPSHOT,
    Scan,
    Tail,
    encode,
    genesis,
    scan,
)
from actors.sandbox.ids import SandboxId
from actors.store import Record

SANDBOX = SandboxId("my-app")

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
entries = st.tuples(
    st.floats(allow_nan=False, allow_infinity=False),
    st.text().filter(lambda name: name != SNAPSHOT),
    st.integers(1, 2**31),
    st.dictionaries(st.text(), plain, max_size=4),
)


def made_log(records: Sequence[Record], appends: Sequence[int] | None = None) -> bytes:
    """Encode records as appends of the given sizes; None: one each."""
    data, digest = b"", genesis(SANDBOX)
    ends = set()
    position = 0
    for size in appends if appends is not None else [1] * len(records):
        position += size
        ends.add(position)
    for number, record in enumerate(records, 1):
        encoded, digest = encode(record, digest, more=number not in ends, continues=number - 1 not in {0, *ends})
        data += encoded
    return data


def numbered(count: int, *, first: int = 1) -> list[Record]:
    return [
        Record(number, 1 + number // 3, 1.7e9 + number, "PortExposed", 1, {"port": 8000 + number, "name": None})
        for number in range(first, first + count)
    ]


def boundaries(data: bytes) -> list[int]:
    """Return the ends of the records, 0 first."""
    unpacker = msgpack.Unpacker(io.BytesIO(data))
    ends = [0]
    for _ in unpacker:
        ends.append(unpacker.tell())
    return ends


def assert_clean(result: Scan, records: Sequence[Record]) -> None:
    assert (result.tail, result.records, result.reason) == (Tail.CLEAN, tuple(records), "")


@given(st.lists(entries, max_size=6))
def test_what_was_encoded_is_read_again(drawn: list[tuple[float, str, int, dict[str, object]]]) -> None:
    records = [Record(number, 1, *entry) for number, entry in enumerate(drawn, 1)]
    data = made_log(records)
    result = scan(data, SANDBOX)
    assert_clean(result, records)
    assert result.valid_length == len(data)


def test_log_is_readable_with_nothing_but_msgpack() -> None:
    records = numbered(3)
    read = [
        (sequence, epoch, time, name, version, fields)
        for frame, digest, (sequence, epoch, time, name, version, fields) in msgpack.Unpacker(
            io.BytesIO(made_log(records))
        )
    ]
    assert read == [(r.sequence, r.epoch, r.time, r.name, r.version, r.fields) for r in records]


def test_header_lies_where_the_drawing_says() -> None:
    (record,) = numbered(1)
    data, digest = encode(record, genesis(SANDBOX))
    assert data[:3] == b"\x93\xc4\x08"
    assert int.from_bytes(data[3:7], "big") == len(data) - HEADER_BYTES
    assert data[11:13] == b"\xc4\x10"
    assert data[13:29] == digest
    assert msgpack.unpackb(data[29:])[0] == 1
    middle, _ = encode(record, digest, more=True, continues=True)
    assert int.from_bytes(middle[3:7], "big") == len(data) - HEADER_BYTES + 2**31 + 2**30


def test_empty_log_is_clean() -> None:
    result = scan(b"", SANDBOX)
    assert_clean(result, [])
    assert result.digest == genesis(SANDBOX)


def test_cut_at_every_byte_leaves_the_whole_records_before_it() -> None:
    records = numbered(5)
    data = made_log(records)
    ends = boundaries(data)
    for cut in range(len(data)):
        result = scan(data[:cut], SANDBOX)
        whole = sum(1 for end in ends[1:] if end <= cut)
        assert result.records == tuple(records[:whole]), cut
        assert result.valid_length == ends[whole]
        assert result.tail is (Tail.CLEAN if cut in ends else Tail.TORN), cut


def test_cut_append_of_several_records_leaves_none_of_them() -> None:
    records = numbered(6)
    data = made_log(records, [1, 3, 2])
    ends = boundaries(data)
    for cut in range(len(data)):
        result = scan(data[:cut], SANDBOX)
        whole = max(count for count in (0, 1, 4, 6) if ends[count] <= cut)
        assert result.records == tuple(records[:whole]), cut
        assert (result.valid_length, result.offset) == (ends[whole], ends[whole])
        assert result.tail is (Tail.CLEAN if cut == ends[whole] else Tail.TORN), cut


def test_flipped_bit_anywhere_is_corruption_at_its_record() -> None:
    data = made_log(numbered(5), [1, 2, 1, 1])
    ends = boundaries(data)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            result = scan(bytes(damaged), SANDBOX)
            assert result.tail is Tail.CORRUPT, (position, bit)
            assert result.offset == max(end for end in ends if end <= position)


def test_flipped_bit_under_a_torn_tail_is_corruption_nevertheless() -> None:
    data = made_log(numbered(4))
    torn = data[:-7]
    for position in range(boundaries(data)[3]):
        damaged = bytearray(torn)
        damaged[position] ^= 1
        assert scan(bytes(damaged), SANDBOX).tail is Tail.CORRUPT, position


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 2, 3], [1, 2, 3], [0, 1, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3, 0]])
def test_moved_removed_or_repeated_record_is_corruption(order: list[int]) -> None:
    data = made_log(numbered(4))
    ends = boundaries(data)
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]
    assert scan(b"".join(pieces[index] for index in order), SANDBOX).tail is Tail.CORRUPT


def test_log_of_another_sandbox_is_corruption() -> None:
    result = scan(made_log(numbered(2)), SandboxId("other"))
    assert (result.tail, result.offset, result.records) == (Tail.CORRUPT, 0, ())


def test_snapshot_and_what_follows_are_read() -> None:
    snapshot = Record(7, 2, 5.0, SNAPSHOT, 3, {"ports": []})
    after = [Record(8, 2, 6.0, "A", 1, {}), Record(9, 4, 7.0, "B", 1, {})]
    data = made_log([snapshot, *after])
    result = scan(data, SANDBOX)
    assert_clean(result, after)
    assert result.snapshot == snapshot
    assert result.offsets == tuple(boundaries(data)[:-1])
    assert result.history.sequence == 9


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([Record(2, 1, 1.0, "A", 1, {})], id="does not begin at 1"),
        pytest.param([Record(1, 1, 1.0, "A", 1, {}), Record(3, 1, 1.0, "A", 1, {})], id="gap"),
        pytest.param([Record(1, 1, 1.0, "A", 1, {}), Record(1, 1, 1.0, "A", 1, {})], id="same sequence twice"),
        pytest.param([Record(1, 2, 1.0, "A", 1, {}), Record(2, 1, 1.0, "A", 1, {})], id="epoch goes back"),
        pytest.param([Record(1, 1, 1.0, "A", 1, {}), Record(1, 1, 1.0, SNAPSHOT, 1, {})], id="snapshot inside"),
        pytest.param([Record(3, 1, 1.0, SNAPSHOT, 1, {}), Record(5, 1, 1.0, "A", 1, {})], id="gap after snapshot"),
    ],
)
def test_records_that_cannot_follow_each_other_are_corruption(records: list[Record]) -> None:
    assert scan(made_log(records), SANDBOX).tail is Tail.CORRUPT


@pytest.mark.parametrize(
    "fields",
    [
        {"a": object()},
        {"a": 2**70},
        {"a": "\ud800"},
        {"a": msgpack.ExtType(1, b"")},
        {"a": msgpack.ExtType(1, b"x")},
        {"a": msgpack.Timestamp(1, 2)},
        {"a": {1: 2}},
        {1: 2},
        {b"a": 2},
    ],
)
def test_what_could_not_be_read_again_is_not_encoded(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        encode(Record(1, 1, 1.0, "A", 1, fields), genesis(SANDBOX))


@pytest.mark.parametrize(
    "record",
    [
        Record(0, 1, 1.0, "A", 1, {}),
        Record(True, 1, 1.0, "A", 1, {}),
        Record(1, -1, 1.0, "A", 1, {}),
        Record(1, 1, float("nan"), "A", 1, {}),
        Record(1, 1, 1, "A", 1, {}),
        Record(1, 1, 1.0, "A", 0, {}),
    ],
)
def test_record_out_of_range_is_not_encoded(record: Record) -> None:
    with pytest.raises(ValueError, match="cannot be stored"):
        encode(record, genesis(SANDBOX))


def test_refusal_does_not_quote_the_fields() -> None:
    with pytest.raises(ValueError, match="cannot be stored") as caught:
        encode(Record(1, 1, 1.0, "A", 1, {"token": "k3v9x0q2m7t1z8aa", "bad": object()}), genesis(SANDBOX))
    assert "k3v9" not in str(caught.value)


def test_record_of_the_greatest_size_is_read_and_a_larger_one_refused() -> None:
    empty = len(encode(Record(1, 1, 1.0, "A", 1, {"a": bytes(2**16)}), genesis(SANDBOX))[0]) - HEADER_BYTES - 2**16
    fitting = Record(1, 1, 1.0, "A", 1, {"a": b"x" * (PAYLOAD_BYTES_MAX - empty)})
    assert_clean(scan(made_log([fitting]), SANDBOX), [fitting])
    with pytest.raises(ValueError, match="at most"):
        encode(Record(1, 1, 1.0, "A", 1, {"a": b"x" * (PAYLOAD_BYTES_MAX - empty + 1)}), genesis(SANDBOX))


@pytest.mark.parametrize("cut", [0, 1])
def test_record_beyond_the_greatest_size_is_corruption_even_if_cut(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made_log([Record(1, 1, 1.0, "A", 1, {"a": "x" * 100})])
    monkeypatch.setattr(record_module, "PAYLOAD_BYTES_MAX", 100)
    result = scan(data[: len(data) - cut], SANDBOX)
    assert (result.tail, result.records) == (Tail.CORRUPT, ())
    assert "at most 100" in result.reason


@pytest.mark.parametrize("zeros", [1, 15, 28, 29, 5000])
@pytest.mark.parametrize("count", [0, 2])
def test_zeros_after_the_last_append_are_room(zeros: int, count: int) -> None:
    records = numbered(count)
    data = made_log(records)
    result = scan(data + bytes(zeros), SANDBOX)
    assert_clean(result, records)
    assert result.valid_length == result.used_length == len(data)


def test_zeros_that_a_record_ends_with_are_not_room() -> None:
    records = [*numbered(1), Record(2, 2, 1.0, "Zeros", 1, {"bytes": bytes(700)})]
    data = made_log(records)
    for room in (0, 100):
        assert_clean(scan(data + bytes(room), SANDBOX), records)


def test_flipped_bit_in_the_room_is_found_and_costs_no_record() -> None:
    records = numbered(4)
    data = made_log(records)
    for position in range(len(data), 2048):
        damaged = bytearray(data.ljust(2048, b"\0"))
        damaged[position] ^= 1 << position % 8
        result = scan(bytes(damaged), SANDBOX)
        assert result.tail is not Tail.CLEAN, position
        assert (result.records, result.valid_length) == (tuple(records), len(data))
        assert result.used_length == position + 1


def sectors_left(data: bytes, start: int, mask: int) -> bytes:
    """Return what a crash leaves of the append from `start` on, of whose sectors those in `mask` had arrived."""
    left = bytearray(data[:start].ljust(len(data), b"\0"))
    first = start // SECTOR_BYTES
    for number in range(first, -(-len(data) // SECTOR_BYTES)):
        if mask >> (number - first) & 1:
            begin, end = max(start, number * SECTOR_BYTES), (number + 1) * SECTOR_BYTES
            left[begin:end] = data[begin:end]
    return bytes(left)


LAST_APPENDS = {
    "one large record": [Record(2, 1, 1.0, "Large", 1, {"text": "x" * 1100})],
    "one large record, mostly zeros": [Record(2, 1, 1.0, "Large", 1, {"bytes": bytes(600) + b"x" + bytes(500)})],
    "small records": numbered(16, first=2),
    "a small one between large ones": [
        Record(2, 1, 1.0, "Large", 1, {"text": "x" * 500}),
        Record(3, 1, 1.0, "Small", 1, {}),
        Record(4, 1, 1.0, "Large", 1, {"text": "y" * 500}),
    ],
}


@pytest.mark.parametrize("append", LAST_APPENDS.values(), ids=LAST_APPENDS.keys())
def test_any_sectors_of_the_last_append_leave_what_was_acknowledged_before_it(append: list[Record]) -> None:
    for padding in range(0, SECTOR_BYTES, 3):
        before = [Record(1, 1, 1.0, "First", 1, {"text": "p" * padding})]
        start = len(made_log(before))
        whole = made_log([*before, *append], [1, len(append)])
        sectors = -(-len(whole) // SECTOR_BYTES) - start // SECTOR_BYTES
        for mask in range(2**sectors):
            left = sectors_left(whole, start, mask)
            for data in (left, left + bytes(700)):
                result = scan(data, SANDBOX)
                if left == whole:
                    assert_clean(result, [*before, *append])
                else:
                    assert result.records == tuple(before), (padding, mask)
                    assert result.valid_length == start
                    assert result.tail is (Tail.TORN if left.strip(b"\0") != whole[:start] else Tail.CLEAN)


def test_sector_of_the_last_append_that_arrived_in_part_is_corruption() -> None:
    data = made_log(numbered(3)) + bytes(1000)
    last = boundaries(made_log(numbered(3)))[2]
    for arrived in range(last + 1, len(data.rstrip(b"\0"))):
        result = scan(data[:arrived].ljust(len(data), b"\0"), SANDBOX)
        assert (result.tail, result.offset) == (Tail.CORRUPT, last), arrived


@pytest.mark.parametrize("size", [1, 2, 5])
def test_sector_of_zeros_with_another_append_behind_it_is_corruption_at_its_record(size: int) -> None:
    count = 40
    data = made_log(numbered(count), [size] * (count // size))
    ends = boundaries(data)
    starts = ends[::size]
    for sector in range(0, len(data), SECTOR_BYTES):
        damaged = bytearray(data)
        lost = min(SECTOR_BYTES, len(data) - sector)
        damaged[sector : sector + lost] = bytes(lost)
        result = scan(bytes(damaged) + bytes(1000), SANDBOX)
        begun_before = max(start for start in starts if start <= sector)
        assert result.records == tuple(numbered(starts.index(begun_before) * size))
        if any(start >= sector + SECTOR_BYTES for start in starts):
            assert result.tail is Tail.CORRUPT, sector
            assert result.offset == max(end for end in ends if end <= sector)
        elif size == 1:
            # The blind spot: just what one append that a crash has torn looks like.
            assert result.tail is (Tail.TORN if damaged[begun_before:].strip(b"\0") else Tail.CLEAN)


@pytest.mark.parametrize("padding", [500, 900])
def test_lost_sector_with_no_more_than_one_append_behind_it_is_corruption(padding: int) -> None:
    records = [Record(1, 1, 1.0, "First", 1, {"text": "p" * padding}), Record(2, 1, 1.0, "Last", 1, {})]
    data = made_log(records)
    lost = bytes(SECTOR_BYTES) + data[SECTOR_BYTES:]
    result = scan(lost, SANDBOX)
    assert (result.tail, result.offset) == (Tail.CORRUPT, 0)
    assert f"byte {boundaries(data)[1]}" in result.reason
    # The same two as one append may well have been torn like this.
    together = made_log(records, [2])
    assert scan(bytes(SECTOR_BYTES) + together[SECTOR_BYTES:], SANDBOX).tail is Tail.TORN


def test_append_whose_beginning_is_lost_is_corruption_if_anything_follows_it() -> None:
    before = [Record(1, 1, 1.0, "First", 1, {"text": "p" * 300})]
    append = LAST_APPENDS["small records"]
    torn = sectors_left(made_log([*before, *append], [1, len(append)]), len(made_log(before)), 0b1110)
    assert scan(torn + bytes(600), SANDBOX).tail is Tail.TORN
    assert scan(torn + bytes(600) + b"x", SANDBOX).tail is Tail.CORRUPT


@given(st.binary(max_size=1500), st.integers(0, 700), st.integers(0, 700))
def test_garbage_in_the_room_never_crashes_and_costs_no_record(garbage: bytes, before: int, after: int) -> None:
    records = numbered(2)
    data = made_log(records)
    result = scan(data + bytes(before) + garbage + bytes(after), SANDBOX)
    assert (result.records, result.valid_length) == (tuple(records), len(data))
    assert (result.tail is Tail.CLEAN) == (not garbage.strip(b"\0"))


def large_log() -> tuple[bytes, int]:
    """Return a log whose last record covers several sectors, and where that begins."""
    records = [*numbered(2), Record(3, 1, 1.0, "Large", 1, {"text": "x" * 2000})]
    data = made_log(records)
    return data, boundaries(data)[2]


def test_last_sectors_that_were_not_written_are_a_torn_tail() -> None:
    data, start = large_log()
    for boundary in range(SECTOR_BYTES, len(data) - 16, SECTOR_BYTES):
        result = scan(data[:boundary].ljust(len(data), b"\0"), SANDBOX)
        assert (result.tail, result.valid_length) == (Tail.TORN, start), boundary


def test_zeros_that_do_not_begin_at_a_sector_are_corruption() -> None:
    data, _ = large_log()
    # From the last boundary on, but for one byte behind it; and too few zeros to mean anything.
    boundary = len(data) // SECTOR_BYTES * SECTOR_BYTES
    assert scan(data[: boundary + 1].ljust(len(data), b"\0"), SANDBOX).tail is Tail.CORRUPT
    assert scan(data[:-15] + bytes(15), SANDBOX).tail is Tail.CORRUPT


def test_unwritten_sectors_do_not_excuse_damage_in_front_of_them() -> None:
    data, start = large_log()
    torn = bytearray(data[: SECTOR_BYTES * 2].ljust(len(data), b"\0"))
    torn[start - 1] ^= 1
    assert scan(bytes(torn), SANDBOX).tail is Tail.CORRUPT


@given(st.binary(max_size=200), st.integers(0, 3))
def test_garbage_behind_a_log_loses_no_record(garbage: bytes, count: int) -> None:
    records = numbered(count)
    data = made_log(records)
    result = scan(data + garbage, SANDBOX)
    assert result.records == tuple(records)
    assert result.valid_length == len(data)
    assert (result.tail is Tail.CLEAN) == (not garbage.strip(b"\0"))


@given(st.binary(max_size=300))
def test_garbage_behind_a_right_header_never_crashes(payload: bytes) -> None:
    word = len(payload).to_bytes(4, "big")
    previous = genesis(SANDBOX)
    frame = word + record_module._check(previous, word)
    header = b"\x93\xc4\x08" + frame + b"\xc4\x10" + record_module._digest(previous, frame, payload)
    assert scan(header + payload, SANDBOX).tail is Tail.CORRUPT
