"""Just enough of WebSocket (RFC 6455) to end a relayed one politely.

After a 101 bytes pass untouched, so extensions and subprotocols are the service's own. But when a preview is
revoked, its WebSockets are to be closed with a reason, and a close frame can only be put between two frames of what
the service is sending. `FrameTracker` follows one direction closely enough to know when that is; it reads lengths,
never contents, and it never has a say in what passes.
"""

import base64
import binascii
from collections.abc import Sequence
from itertools import cycle
from typing import Final

from proxy.core.http1 import Field, RequestHead, connection_options, values

GOING_AWAY: Final = 1001
"""RFC 6455 section 7.4.1: the endpoint goes away, as a server does that is going down."""

CONTROL_PAYLOAD_MAX: Final = 125
"""RFC 6455 section 5.5."""
REASON_BYTES_MAX: Final = CONTROL_PAYLOAD_MAX - 2
"""The code takes two."""

_CLOSE: Final = 0x8
# RFC 6455 section 11.8. Others may be negotiated by an extension, but none ever was registered: bytes that look
# like them are far more likely not WebSocket at all.
_OPCODES: Final = frozenset({0x0, 0x1, 0x2, _CLOSE, 0x9, 0xA})
# Reserved for use in the protocol only, never sent: RFC 6455 section 7.4.1.
_CODES_NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})


class FrameTracker:
    """Follows the frames of one direction of an upgraded connection.

    ::

        byte 0      FIN, 3 reserved bits, opcode
        byte 1      mask bit, length: 0-125, or 126 or 127 for more to come
        2 or 8      length, big-endian, if byte 1 said 126 or 127
        4           mask, if the mask bit is set
        length      payload
    """

    __slots__ = ("_header", "_in_close", "_masked", "_remaining", "close_sent", "lost")

    def __init__(self, *, masked: bool) -> None:
        """Start at the first byte after the 101.

        Args:
            masked: True for the direction from client to server, where every frame is masked (RFC 6455 section
                5.1); in the other none is. A frame that differs means that this is not WebSocket.
        """
        self._masked = masked
        self._header = b""
        """The bytes of a header that has not come whole; at most 13."""
        self._remaining = 0
        """How much of the current payload is still to come."""
        self._in_close = False
        """Whether that payload is a close frame's."""
        self.close_sent = False
        """Whether a whole close frame has passed; nothing may follow it (RFC 6455 section 5.5.1)."""
        self.lost = False
        """Whether something came that no frame looks like. It stays True: there is no finding back."""

    @property
    def at_boundary(self) -> bool:
        """True between two frames, also before the first."""
        return not self._remaining and not self._header and not self.lost

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Follow `data`, any piece of the stream, without keeping it. The cost is per frame, not per byte."""
        position = 0
        end = len(data)
        while position < end and not self.lost:
            if self._remaining:
                step = min(self._remaining, end - position)
                self._remaining -= step
                position += step
                if not self._remaining:
                    self._end_frame()
            else:
                position = self._read_header(data, position)

    def _read_header(self, data: bytes | bytearray | memoryview, position: int) -> int:
        """Read a header from `position` on, or as much of it as is there; return where it ended."""
        held = len(self._header)
        # Whatever is missing of the longest possible header; the rest is given back.
        header = self._header + bytes(data[position : position + 14 - held])
        if len(header) < 2:
            self._header = header
            return position + len(header) - held
        first, second = header[0], header[1]
        short = second & 0x7F
        opcode = first & 0x0F
        is_control = opcode >= _CLOSE
        if (
            opcode not in _OPCODES
            or bool(second & 0x80) is not self._masked
            # RFC 6455 section 5.5: control frames are short and in one piece.
            or (is_control and (short > CONTROL_PAYLOAD_MAX or not first & 0x80))
        ):
            self.lost = True
            return position
        width = {126: 2, 127: 8}.get(short, 0)
        size = 2 + width + (4 if self._masked else 0)
        if len(header) < size:
            self._header = header
            return position + len(header) - held
        length = int.from_bytes(header[2 : 2 + width], "big") if width else short
        # RFC 6455 section 5.2: 63 bits, in the shortest form that fits.
        if length >> 63 or (width == 2 and length < 126) or (width == 8 and length < 2**16):
            self.lost = True
            return position
        self._header = b""
        self._remaining = length
        self._in_close = opcode == _CLOSE
        if not length:
            self._end_frame()
        return position + size - held

    def _end_frame(self) -> None:
        if self._in_close:
            self.close_sent = True
            self._in_close = False


def close_frame(code: int = GOING_AWAY, reason: str = "", *, mask: bytes | None = None) -> bytes:
    """Make a close frame (RFC 6455 section 5.5.1).

    Args:
        code: 1000 to 4999, of those that may be sent.
        reason: Cut to 123 bytes of UTF-8, at a character.
        mask: Four random bytes for a frame from client to server; None for the other direction.

    Raises:
        ValueError: If the code may not be sent, or the mask has another length.
    """
    if not 1000 <= code <= 4999 or code in _CODES_NEVER_SENT:
        raise ValueError(f"{code} cannot be sent in a close frame")
    text = reason.encode("utf-8")[:REASON_BYTES_MAX].decode("utf-8", "ignore").encode("utf-8")
    payload = code.to_bytes(2, "big") + text
    if mask is None:
        return bytes((0x80 | _CLOSE, len(payload))) + payload
    if len(mask) != 4:
        raise ValueError("a mask has four bytes")
    masked = bytes(byte ^ key for byte, key in zip(payload, cycle(mask), strict=False))
    return bytes((0x80 | _CLOSE, 0x80 | len(payload))) + mask + masked


def is_websocket_upgrade(head: RequestHead) -> bool:
    """Say whether a request asks to switch to WebSocket (RFC 6455 section 4.2.1), rightly or not."""
    return (
        _offers_websocket(head.fields) and b"upgrade" in connection_options(head.fields) and head.http_version == b"1.1"
    )


def websocket_fault(head: RequestHead) -> str | None:
    """Say, for people, why a request to switch to WebSocket must be answered 400; None if it is in order.

    Its version is not looked at: the service knows which ones it speaks, and says so in its own 426.
    """
    if head.method != b"GET":
        return "A WebSocket handshake is a GET."
    keys = values(head.fields, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return "A WebSocket handshake has one Sec-WebSocket-Key, of 16 bytes in base64."
    return None


def _offers_websocket(fields: Sequence[Field]) -> bool:
    offered = b",".join(values(fields, b"upgrade"))
    return any(protocol.strip(b" \t").lower() == b"websocket" for protocol in offered.split(b","))


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        # Expected: not base64.
        return False
