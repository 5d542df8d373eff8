"""What became of one request: what an access log and metrics are told, and how a log line shows it.

Nothing secret is in it. Of a target the path alone is told, as a query may hold tokens, and of the pages below
``/.portico/`` not even that: a share's secret stands there. What a client sent cannot end a line or a field of one: a
line is JSON, in which every control character is escaped.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from proxy.core.gate import OWN_PATH

PATH_BYTES_MAX: Final = 512
"""Of a path in a log line; a longer one is cut off."""


class Served(msgspec.Struct, frozen=True, gc=False):
    """One request, when nothing of it is left: answered, broken off, or of an upgraded connection at its end."""

    client: str
    """The address of the connection's other end; ``""`` if it has none."""
    sandbox: str | None
    port: int | None
    """None, both, where the request was for no preview."""
    method: str
    """``""`` for what could not be made out as a request."""
    path: str
    """Without its query, as received; see `shown_path`."""
    status: int
    """Of the final answer; 101 for an upgraded connection, 0 if there was none."""
    code: str | None
    """Of an answer of our own, such as ``NOT_LISTENING``; None if the service, or the management API, answered."""
    content_bytes: int
    """Sent to the client as content, without heads and framing; not counted of an upgraded connection."""
    seconds: float
    """From the last byte of its head to the last byte of its answer that was handed to the kernel."""
    complete: bool
    """False if the answer was broken off, by either side or by a revocation. Of an upgraded connection the 101 is the
    answer, so this is True however it ended: what was still to come, only its two ends know."""


Observer = Callable[[Served], None]
"""Is told of each request when it is over, from the one thread of the engine. It must not wait, and must not raise."""


def shown_path(target: bytes) -> str:
    """Return what may be shown of a request's target."""
    if target.startswith(OWN_PATH):
        return OWN_PATH.decode("ascii")
    return target[:PATH_BYTES_MAX].partition(b"?")[0].decode("latin-1")


_encode: Final = msgspec.json.Encoder().encode


def log_line(served: Served, time: str) -> bytes:
    """Write a line of JSON: the time, and the fields of `served` under their own names.

    Args:
        served: What to tell.
        time: When it ended, as ISO 8601 writes it.
    """
    return b'{"time":"%b",%b\n' % (time.encode("ascii"), _encode(served)[1:])
