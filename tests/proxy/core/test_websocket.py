"""Following frames, and ending a WebSocket between two of them."""

from collections.abc import Iterable
from typing import cast

import pytest
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from proxy.core.http1 import RequestHead
from proxy.core.websocket import FrameTracker, close_frame, is_websocket_upgrade, websocket_fault


def with_rsv1(frame: bytes | bytearray) -> bytes:
    """Mark a frame as permessage-deflate does (RFC 7692 section 6)."""
    return bytes((frame[0] | 0x40, *frame[1:]))


def frames(*, client: bool) -> list[bytes]:
    """Frames of every shape, as wsproto writes them; the last one closes."""
    protocol = FrameProtocol(client=client, extensions=[])
    made = [
        protocol.send_data(b"", fin=True),
        protocol.send_data("hello", fin=True),
        protocol.send_data(b"x" * 125, fin=False),
        protocol.ping(b"are you there"),
        protocol.send_data(b"x" * 126, fin=False),
        protocol.pong(b""),
        protocol.send_data(b"", fin=True),
        protocol.send_data(b"\x88\x00" * 300, fin=True),
        protocol.send_data(b"y" * 65535, fin=True),
        protocol.send_data(b"z" * 65536, fin=True),
        with_rsv1(protocol.send_data(b"compressed", fin=True)),
        protocol.close(CloseReason.NORMAL_CLOSURE, "bye"),
    ]
    return [bytes(frame) for frame in made]


def tracker_after(pieces: Iterable[bytes], *, masked: bool) -> FrameTracker:
    tracker = FrameTracker(masked=masked)
    for piece in pieces:
        tracker.feed(piece)
    return tracker


@pytest.mark.parametrize("client", [True, False])
def test_boundary_is_known_at_every_byte(client: bool) -> None:
    tracker = FrameTracker(masked=client)
    assert tracker.at_boundary
    for frame in frames(client=client):
        for index in range(len(frame)):
            assert not tracker.close_sent
            tracker.feed(frame[index : index + 1])
            assert tracker.at_boundary == (index == len(frame) - 1)
    assert tracker.close_sent
    assert not tracker.lost


@pytest.mark.parametrize("client", [True, False])
def test_one_cut_anywhere_changes_nothing(client: bool) -> None:
    made = frames(client=client)
    short = [frame for frame in made if len(frame) < 1000]
    stream = b"".join(short)
    ends = {sum(map(len, short[:count])) for count in range(len(short) + 1)}
    for cut in range(len(stream) + 1):
        tracker = tracker_after([stream[:cut]], masked=client)
        assert tracker.at_boundary == (cut in ends)
        assert tracker.close_sent == (cut == len(stream))
        tracker.feed(stream[cut:])
        assert tracker.at_boundary
        assert tracker.close_sent


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_whole_stream_at_once_is_followed(kind: "type[bytes] | type[bytearray] | type[memoryview]") -> None:
    tracker = FrameTracker(masked=False)
    tracker.feed(kind(b"".join(frames(client=False))))
    assert tracker.at_boundary
    assert tracker.close_sent


def test_huge_frame_is_followed_by_arithmetic() -> None:
    """A frame of 2**62 bytes needs no memory, and the buffer given is not kept."""
    tracker = tracker_after([b"\x82\x7f" + (2**62).to_bytes(8, "big")], masked=False)
    piece = bytearray(2**20)
    for _ in range(1000):
        tracker.feed(piece)
    piece.clear()
    assert tracker._remaining == 2**62 - 1000 * 2**20
    assert tracker.at_boundary is False


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"\x83\x00", "reserved opcode"),
        (b"\x8b\x00", "reserved control opcode"),
        (b"\x81\x80\0\0\0\0", "masked, from a server"),
        (b"\x08\x00", "a close in pieces"),
        (b"\x89\x7e\x00\x7e", "a ping of 126 bytes"),
        (b"\x81\x7e\x00\x7d", "a short length written long"),
        (b"\x81\x7f" + (65535).to_bytes(8, "big"), "a middling length written longer"),
        (b"\x81\x7f" + (2**63).to_bytes(8, "big"), "a length of 64 bits"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else altogether"),
        (b"GET / HTTP/1.1\r\n\r\n", "something else altogether"),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_what_no_frame_looks_like_is_lost_for_good(stream: bytes, why: str, step: int) -> None:
    """RFC 6455 section 5.2; section 5.5 for control frames."""
    sound = b"\x81\x02ok"
    whole = sound + stream
    tracker = tracker_after([whole[at : at + step] for at in range(0, len(whole), step)], masked=False)
    assert tracker.lost, why
    tracker.feed(sound * 10)
    assert tracker.lost
    assert not tracker.at_boundary
    assert not tracker.close_sent


def test_unmasked_frame_from_a_client_is_lost() -> None:
    """RFC 6455 section 5.1."""
    assert tracker_after([b"\x81\x02ok"], masked=True).lost


def test_close_counts_once_it_is_whole() -> None:
    frame = b"\x88\x02\x03\xe8"
    sent = [tracker_after([frame[:count]], masked=False).close_sent for count in range(5)]
    assert sent == [False, False, False, False, True]
    assert tracker_after([b"\x88\x00"], masked=False).close_sent


def received(data: bytes, *, client: bool) -> tuple[int, str]:
    protocol = FrameProtocol(client=client, extensions=[])
    protocol.receive_bytes(data)
    [frame] = list(protocol.received_frames())
    assert frame.opcode is Opcode.CLOSE
    # wsproto declares the payloads of data frames only.
    code, reason = cast("tuple[int, str | None]", frame.payload)
    return code, reason or ""


@pytest.mark.parametrize("mask", [None, b"\x00\x01\xfe\xff"])
@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("", ""),
        ("unexposed", "unexposed"),
        ("x" * 200, "x" * 123),
        ("\xe4" * 200, "\xe4" * 61),
        ("x\U0001f600" * 100, "x\U0001f600" * 24 + "x"),
    ],
)
def test_close_frame_is_read_by_wsproto(reason: str, expected: str, mask: bytes | None) -> None:
    data = close_frame(1001, reason, mask=mask)
    assert received(data, client=mask is None) == (1001, expected)
    assert tracker_after([data], masked=mask is not None).close_sent


def test_close_frame_of_a_server_is_plain() -> None:
    assert close_frame(1001, "unexposed") == b"\x88\x0b\x03\xe9unexposed"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000, 65536])
def test_code_that_is_never_sent_is_an_error(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        close_frame(code)


def test_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="four bytes"):
        close_frame(mask=b"abc")


KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
ASKED = (("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket"))


def request(*pairs: tuple[str, str], method: bytes = b"GET", version: bytes = b"1.1") -> RequestHead:
    given = [(name.lower().encode(), name.encode(), value.encode()) for name, value in pairs]
    return RequestHead(method, b"/ws", version, given)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (request(*ASKED, KEY), True),
        (request(*ASKED), True),
        (request(*ASKED, method=b"POST"), True),
        (request(("Connection", "upgrade"), ("Upgrade", "foo, websocket")), True),
        (request(("Upgrade", "websocket")), False),
        (request(("Connection", "Upgrade")), False),
        (request(("Connection", "Upgrade"), ("Upgrade", "h2c")), False),
        (request(("Connection", "Upgrade"), ("Upgrade", "websockets")), False),
        (request(*ASKED, version=b"1.0"), False),
        (request(), False),
    ],
)
def test_upgrade_takes_both_fields_and_http_1_1(head: RequestHead, expected: bool) -> None:
    assert is_websocket_upgrade(head) is expected


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (request(*ASKED, KEY), None),
        (request(*ASKED, KEY, method=b"POST"), "GET"),
        (request(*ASKED), "Sec-WebSocket-Key"),
        (request(*ASKED, KEY, KEY), "Sec-WebSocket-Key"),
        (request(*ASKED, ("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ==")), "Sec-WebSocket-Key"),
        (request(*ASKED, ("Sec-WebSocket-Key", "not base64!")), "Sec-WebSocket-Key"),
        (request(*ASKED, ("Sec-WebSocket-Key", "")), "Sec-WebSocket-Key"),
    ],
)
def test_fault_of_a_handshake_is_named(head: RequestHead, fault: str | None) -> None:
    """RFC 6455 section 4.2.1."""
    found = websocket_fault(head)
    assert (found is None) if fault is None else (found is not None and fault in found)
