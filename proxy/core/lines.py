"""Request heads that are made of lines seen before.

h11 is the authority on what a request head may be, and reading one takes it some 40 microseconds, a third of what a
proxied GET costs. But browsers send the same lines again and again. A line that h11 and our own gate have accepted
once, byte for byte, and that decides nothing about any other line, is accepted again without asking:

- A head is put together here only if its request line is plainly of HTTP/1.1 and in origin-form, every one of its
  field lines is remembered, and exactly one of them is a Host. Whatever else there is goes to `read_request_head`.
- Lines that frame the message, concern the connection, or must be single are never remembered (`_NEVER`), so what
  makes two heads with the same lines differ cannot be among them.
- Lines that were not seen before are read by h11 and the gate in a small head of their own; what these refuse, the
  whole head is refused for, by `read_request_head` itself.

That the short way accepts only what the long way accepts, and reads it the same, is held by a differential test
(`tests/proxy/core/test_lines.py`, and the fuzz target ``request_head``).

Lines that hold a visitor's secrets are kept as digests only.
"""

import re
from hashlib import blake2b
from typing import Final

from proxy.core.http1 import (
    DEFAULT_LIMITS,
    TOKEN,
    BadRequestError,
    Field,
    Limits,
    RequestHead,
    read_request_head,
)

REMEMBERED_MAX: Final = 4096
"""Lines of each of two generations: a busy server's visitors send some hundreds of different ones."""

LINE_BYTES_MAX: Final = 1024
"""Longer ones are seldom sent twice. With `REMEMBERED_MAX` it bounds the memory: 8 MiB and some."""

_PLAIN_REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!\"$-~]*) HTTP/1\.1")

# Each of these can change what another line, or the rest of the connection, means.
_NEVER: Final = frozenset(
    b"content-length transfer-encoding content-type expect upgrade trailer te proxy-connection http2-settings".split()
)
_SECRET: Final = (b"cookie", b"authorization", b"x-oc-preview-token", b"proxy-authorization")
_SECRET_LINE: Final = re.compile(rb"(" + b"|".join(_SECRET) + rb"):[ \t]*", re.IGNORECASE)
_FIELD_NAME: Final = re.compile(rb"(" + TOKEN + rb"):")

_HOST_OF_NOBODY: Final = b"Host: a"


class LineMemo:
    """Lines that were accepted before: the most recently used ones, in two generations."""

    __slots__ = ("_key", "_old", "_old_secrets", "_secrets", "_young")

    def __init__(self, key: bytes) -> None:
        """Begin with none.

        Args:
            key: 16 to 64 random bytes, for the digests of lines that hold secrets.
        """
        self._key: Final = key
        # By line: the field it was read as.
        self._young: dict[bytes, Field] = {}
        self._old: dict[bytes, Field] = {}
        # {digest of a line: its field's name, lower and as received}
        self._secrets: dict[bytes, tuple[bytes, bytes]] = {}
        self._old_secrets: dict[bytes, tuple[bytes, bytes]] = {}

    def read(self, head: bytes, limits: Limits = DEFAULT_LIMITS, *, learnt: bool = False) -> RequestHead:
        """Read one whole request head, as `read_request_head` does.

        Args:
            head: As for `read_request_head`.
            limits: As for `read_request_head`.
            learnt: Its lines have just been looked at.

        Raises: as `read_request_head`.
        """
        lines = head.split(b"\r\n")
        if len(head) > limits.head_bytes_max or lines[-2:] != [b"", b""] or len(lines) - 3 > limits.fields_max:
            return read_request_head(head, limits)
        start = _PLAIN_REQUEST_LINE.fullmatch(lines[0])
        if start is None or len(lines[0]) > limits.target_bytes_max:
            return read_request_head(head, limits)
        fields: list[Field] = []
        hosts, closes = 0, False
        known = self._young.get
        for line in lines[1:-2]:
            field = known(line) or self._recall(line)
            if field is None:
                if learnt or not self._learn(lines[1:-2], limits):
                    # It is not to be remembered; or it was, and is forgotten already.
                    return read_request_head(head, limits)
                return self.read(head, limits, learnt=True)
            if field[0] == b"host":
                hosts += 1
            elif field[0] == b"connection":
                closes = closes or field[2].lower() == b"close"
            fields.append(field)
        if hosts != 1:
            return read_request_head(head, limits)
        method, target = start.groups()
        return RequestHead(method, target, b"1.1", fields, None, plain=True, closes=closes)

    def _recall(self, line: bytes) -> Field | None:
        """Look among the lines of the generation before, and among those that hold secrets."""
        field = self._old.get(line)
        if field is not None:
            self._remember(line, field)
            return field
        secret = _SECRET_LINE.match(line)
        if secret is None:
            return None
        digest = self._digest(line)
        names = self._secrets.get(digest)
        if names is None:
            names = self._old_secrets.get(digest)
            if names is None:
                return None
            self._remember_secret(digest, names)
        return (*names, line[secret.end() :].rstrip(b" \t"))

    def _learn(self, lines: list[bytes], limits: Limits) -> bool:
        """Have the lines that are not remembered read by those who know; False if it must be the whole head."""
        unknown = [line for line in lines if line not in self._young and self._recall(line) is None]
        host = _HOST_OF_NOBODY
        others = []
        for line in unknown:
            name = _FIELD_NAME.match(line)
            if name is None or len(line) > LINE_BYTES_MAX:
                return False
            lower = name[1].lower()
            if lower in _NEVER or b"_" in lower:
                return False
            if lower == b"connection" and line[name.end() :].strip(b" \t").lower() not in (b"keep-alive", b"close"):
                return False
            if lower == b"host" and host is _HOST_OF_NOBODY:
                host = line
            else:
                others.append(line)
        small = b"\r\n".join((b"GET / HTTP/1.1", host, *others, b"", b""))
        try:
            fields = read_request_head(small, limits).fields
        except BadRequestError:
            return False
        if len(fields) != len(others) + 1:
            return False
        if host is not _HOST_OF_NOBODY:
            self._remember(host, fields[0])
        for line, field in zip(others, fields[1:], strict=True):
            if field[0] in _SECRET:
                self._remember_secret(self._digest(line), field[:2])
            else:
                self._remember(line, field)
        return True

    def _digest(self, line: bytes) -> bytes:
        return blake2b(line, digest_size=16, key=self._key).digest()

    def _remember(self, line: bytes, field: Field) -> None:
        if len(self._young) >= REMEMBERED_MAX:
            self._old, self._young = self._young, {}
        self._young[line] = field

    def _remember_secret(self, digest: bytes, names: tuple[bytes, bytes]) -> None:
        if len(self._secrets) >= REMEMBERED_MAX:
            self._old_secrets, self._secrets = self._secrets, {}
        self._secrets[digest] = names

    def __len__(self) -> int:
        return len(self._young) + len(self._old) + len(self._secrets) + len(self._old_secrets)
