"""Inputs without atheris: what is known to be delicate, with a few things changed."""

from collections.abc import Sequence
from typing import Final

from hypothesis import strategies as st

# What readers of HTTP, of hosts and of framings have disagreed about.
DELICATE: Final = (
    *(bytes([byte]) for byte in b'\r\n\0\t \x0b\x0c\x1b\x7f\x85\xa0\xff,:;="\\_-./#%@*0+'),
    b"\r\n",
    b"\r\n\r\n",
    b"00",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"Host: a\r\n",
    b"HTTP/1.0",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
)


def inputs(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Give seeds with up to four changes each; and bytes of no origin at all."""
    return _changed(seeds) | st.binary(max_size=64)


@st.composite
def _changed(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("insert", "replace", "remove", "repeat", "splice"))):
            case "insert":
                data = data[:start] + draw(st.sampled_from(DELICATE)) + data[start:]
            case "replace":
                data = data[:start] + draw(st.binary(min_size=1, max_size=2)) + data[start + 1 :]
            case "remove":
                data = data[:start] + data[start + draw(st.integers(1, 8)) :]
            case "repeat":
                data = data[:start] + data[start : start + 40] * 2 + data[start + 40 :]
            case _:
                other = draw(st.sampled_from(seeds))
                data = data[:start] + other[draw(st.integers(0, len(other))) :]
    return data
