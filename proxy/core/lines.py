"""Heads that are regular through and through, read line by line.

h11 is the authority on what a request head may be, and reading one takes it some 40 microseconds, as much as all
else that is done with a proxied GET. Nearly every head needs no authority: its lines are of the plainest kind there
is, and none of them decides anything about another. Those are recognised here, each by one expression, and most by
having been seen before:

- A request head is put together here only if its request line is plainly of HTTP/1.1 and in origin-form, every field
  line is regular, and exactly one of them is a Host. A response head: if it is final, of HTTP/1.1, every line is
  regular and at most one of them frames the content. Whatever else there is goes to `read_request_head` and
  `read_response_head`, which refuse it or know what it means.
- A line is regular if its name is a token without ``_``, and its value holds visible ASCII characters with spaces
  between them. Lines that frame a request, change what the connection is, or must be single are never regular
  (`_NEVER`); so what makes two heads with the same lines differ cannot be among them.

That the short way accepts only what the long way accepts, and reads it the same, is held by differential tests
(`tests/proxy/core/test_lines.py`, and the fuzz targets ``request_head`` and ``response_head``).

Lines that may hold secrets are read anew each time: none is kept whose name is known to carry one (cookies, keys,
tokens, a share's link in Referer) or says so of itself (`_SECRETIVE`). Two things are kept all the same. Host lines,
and with a preview's Host the port token in it, in memory only; `proxy.reception` remembers routes by it anyway. And
lines of a service's own whose names do not tell that there is a secret in them.
"""

import re
from collections.abc import Callable
from typing import Final

from proxy.core.fates import Fate, request_fate, response_fate
from proxy.core.http1 import (
    CHUNKED,
    DEFAULT_LIMITS,
    LENGTH,
    Framing,
    FramingKind,
    Limits,
    Line,
    RequestHead,
    ResponseHead,
    read_request_head,
    read_response_head,
)

REMEMBERED_MAX: Final = 4096
"""Lines of each of two generations: a busy server's visitors send some hundreds of different ones."""

LINE_BYTES_MAX: Final = 1024
"""Longer ones are seldom sent twice. With `REMEMBERED_MAX` it bounds the memory: 24 MiB and some for each table."""

_PLAIN_REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!\"$-~]*) HTTP/1\.1")
_PLAIN_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-9][0-9]{2})(?: ([ -~]*))?")
_REGULAR_LINE: Final = re.compile(rb"([!#$%&'*+\-.^`|~0-9A-Za-z]+):[ \t]*((?:[!-~](?:[ -~]*[!-~])?)?)[ \t]*")

# Each of these can change what another line, or the rest of the connection, means.
_NEVER_IN_REQUESTS: Final = frozenset(
    b"content-length transfer-encoding content-type expect upgrade trailer te proxy-connection http2-settings".split()
)
_NEVER_IN_RESPONSES: Final = frozenset({b"upgrade"})
# Those with a hostname in them may hold a port's token, and Referer a share's link too.
_SECRET_IN_REQUESTS: Final = frozenset(
    b"cookie authorization proxy-authorization x-api-key x-oc-preview-token portico-share portico-preview"
    b" referer origin forwarded x-forwarded-host".split()
)
# A redirect's address may hold a code or a token.
_SECRET_IN_RESPONSES: Final = frozenset(b"set-cookie location".split())
# Services have secrets of their own, under names of their own: X-Auth-Token, X-CSRF-Token, Api-Key.
_SECRETIVE: Final = re.compile(rb"auth|cookie|credential|csrf|jwt|key|passw|secret|session|signature|token|xsrf")

_KEEP_ALIVE: Final = b"keep-alive"
_CLOSE: Final = b"close"


class LineMemo:
    """Reads the heads of all connections, and remembers their lines."""

    __slots__ = ("_of_requests", "_of_responses")

    def __init__(self) -> None:
        self._of_requests: Final = _Table(request_fate, _NEVER_IN_REQUESTS, _SECRET_IN_REQUESTS)
        self._of_responses: Final = _Table(_fate_in_response, _NEVER_IN_RESPONSES, _SECRET_IN_RESPONSES)

    def read_request(self, head: bytes, limits: Limits = DEFAULT_LIMITS) -> RequestHead:
        """Read one whole request head, as `read_request_head` does.

        Raises: as `read_request_head`.
        """
        lines = head.split(b"\r\n")
        if len(head) > limits.head_bytes_max or lines[-2:] != [b"", b""] or len(lines) - 3 > limits.fields_max:
            return read_request_head(head, limits)
        start = _PLAIN_REQUEST_LINE.fullmatch(lines[0])
        if start is None or len(lines[0]) > limits.target_bytes_max:
            return read_request_head(head, limits)
        found = self._of_requests.read(lines[1:-2])
        if found is None:
            return read_request_head(head, limits)
        judged = [field for field, wire, _ in found if wire is None]
        hosts, closes = 0, False
        for name, _, value in judged:
            if name == b"host":
                hosts += 1
            elif name == b"connection" and value.lower() == _CLOSE:
                closes = True
        if hosts != 1:
            return read_request_head(head, limits)
        method, target = start.groups()
        return RequestHead(method, target, b"1.1", [line[0] for line in found], None, found, judged, closes)

    def read_response(self, head: bytes, limits: Limits = DEFAULT_LIMITS) -> ResponseHead:
        """Read one whole response head, as `read_response_head` does.

        Raises: as `read_response_head`.
        """
        lines = head.split(b"\r\n")
        if len(head) > limits.head_bytes_max or lines[-2:] != [b"", b""] or len(lines) - 3 > limits.fields_max:
            return read_response_head(head, limits)
        start = _PLAIN_STATUS_LINE.fullmatch(lines[0])
        if start is None:
            return read_response_head(head, limits)
        found = self._of_responses.read(lines[1:-2])
        if found is None:
            return read_response_head(head, limits)
        stated: Framing | None = None
        closes = False
        for (name, _, value), wire, _ in found:
            if wire is not None:
                continue
            if name == b"content-length":
                if stated is not None or LENGTH.fullmatch(value) is None:
                    return read_response_head(head, limits)
                stated = Framing(FramingKind.LENGTH, int(value))
            elif name == b"transfer-encoding":
                if stated is not None or value.lower() != b"chunked":
                    return read_response_head(head, limits)
                stated = CHUNKED
            elif name == b"connection" and value.lower() == _CLOSE:
                closes = True
        status, reason = start.groups()
        fields = [line[0] for line in found]
        return ResponseHead(int(status), reason or b"", fields, b"1.1", found, stated, closes)

    def __len__(self) -> int:
        return len(self._of_requests) + len(self._of_responses)


class _Table:
    """Lines that are regular: the most recently used ones, in two generations."""

    __slots__ = ("_fate", "_never", "_old", "_secret", "_young")

    def __init__(self, fate: Callable[[bytes], Fate], never: frozenset[bytes], secret: frozenset[bytes]) -> None:
        self._fate: Final = fate
        self._never: Final = never
        self._secret: Final = secret
        self._young: dict[bytes, Line] = {}
        self._old: dict[bytes, Line] = {}

    def read(self, lines: list[bytes]) -> list[Line] | None:
        """Read lines; None if one of them is not regular."""
        known = self._young.get
        found = [known(line) or self._read_one(line) for line in lines]
        return None if None in found else found  # type: ignore[return-value]  # none is None

    def _read_one(self, line: bytes) -> Line | None:
        """Read a line that is not among the young."""
        known = self._old.get(line)
        if known is None:
            regular = _REGULAR_LINE.fullmatch(line)
            if regular is None:
                return None
            received, value = regular.groups()
            name = received.lower()
            if name in self._never or (name == b"connection" and value.lower() not in (_KEEP_ALIVE, _CLOSE)):
                return None
            fate = self._fate(name)
            known = Line((name, received, value), received + b": " + value if fate is Fate.PASS else None, fate)
            if name in self._secret or len(line) > LINE_BYTES_MAX or _SECRETIVE.search(name):
                return known
        if len(self._young) >= REMEMBERED_MAX:
            self._old, self._young = self._young, {}
        self._young[line] = known
        return known

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


def _fate_in_response(name: bytes) -> Fate:
    # The length is told anew by who frames the answer.
    return Fate.DROP if name == b"content-length" else response_fate(name)
