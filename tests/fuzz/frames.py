"""Laws of the follower of WebSocket frames: it knows where one ends, as a reader of its own knows it."""

from proxy.core.websocket import FrameTracker
from tests.fuzz.cutting import cuttings


def websocket_frames(data: bytes) -> None:
    """Check both directions."""
    for masked in (False, True):
        expected = _read(data, masked=masked)
        for pieces in cuttings(data):
            tracker = FrameTracker(masked=masked)
            for piece in pieces:
                tracker.feed(piece)
            assert (tracker.lost, tracker.at_boundary, tracker.close_sent) == expected


def _read(data: bytes, *, masked: bool) -> tuple[bool, bool, bool]:
    """Read frames after RFC 6455 section 5.2, all at once: lost, at a boundary, a close frame was among them."""
    position = 0
    closed = False
    while position < len(data):
        if len(data) - position < 2:
            return False, False, closed
        final, opcode = data[position] >> 7, data[position] & 15
        has_mask, length = data[position + 1] >> 7, data[position + 1] & 127
        if opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15) or has_mask != masked:
            return True, False, closed
        if opcode >= 8 and (length > 125 or not final):
            return True, False, closed
        position += 2
        extended = {126: 2, 127: 8}.get(length, 0)
        # The whole header must be here before its length is judged.
        if len(data) - position < extended + 4 * masked:
            return False, False, closed
        if extended:
            length = sum(byte << 8 * place for place, byte in enumerate(reversed(data[position : position + extended])))
            if length >= 1 << 63 or length < (126 if extended == 2 else 1 << 16):
                return True, False, closed
        position += extended + 4 * masked
        if len(data) - position < length:
            return False, False, closed
        position += length
        closed = closed or opcode == 8
    return False, True, closed
