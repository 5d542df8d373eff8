"""Ways to cut a stream into pieces: for every reader it must not matter which."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import Final

BYTES_EACH_ALONE_MAX: Final = 600
"""Beyond that, byte by byte costs more than it finds."""


def cuttings(data: bytes) -> Iterator[list[bytes]]:
    """Yield the whole, then two ways that depend on nothing but `data`, then byte by byte if that is not many."""
    yield [data]
    digest = blake2b(data, digest_size=16).digest()
    for half in (digest[:8], digest[8:]):
        # Each byte places a cut somewhere, some of them at the very beginning, where the delicate things are.
        places = {int.from_bytes(half[at : at + 2], "big") % (len(data) + 1) for at in range(0, 8, 2)} | {half[0] % 8}
        edges = sorted({0, len(data), *(place for place in places if place <= len(data))})
        yield [data[start:end] for start, end in pairwise(edges)]
    if len(data) <= BYTES_EACH_ALONE_MAX:
        yield [data[at : at + 1] for at in range(len(data))]
