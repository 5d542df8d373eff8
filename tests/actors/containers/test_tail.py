"""Following a log that grows and is turned over."""

from pathlib import Path

from actors.containers.tail import TAIL_BYTES, FileTail


async def read_all(tail: FileTail) -> bytes:
    found = b""
    while data := await tail.read():
        found += data
    return found


async def test_what_is_printed_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    tail = FileTail(lambda: path)
    assert await tail.read() == b""
    with open(path, "ab", buffering=0) as log:  # noqa: ASYNC230  # a few bytes
        for piece in (b"one", b"two", b"x" * (2 * TAIL_BYTES)):
            log.write(piece)
            assert await read_all(tail) == piece
            assert await tail.read() == b""
    tail.close()
    tail.close()


async def test_older_half_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    (tmp_path / "web.log.1").write_bytes(b"older ")
    path.write_bytes(b"newer")
    tail = FileTail(lambda: path)
    assert await read_all(tail) == b"older newer"
    tail.close()


async def test_turning_over_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    path.write_bytes(b"one ")
    tail = FileTail(lambda: path)
    assert await read_all(tail) == b"one "
    with open(path, "ab") as log:  # noqa: ASYNC230  # a few bytes
        log.write(b"two ")
    path.rename(tmp_path / "web.log.1")
    # Between its two steps there is no file of that name.
    assert await read_all(tail) == b"two "
    path.write_bytes(b"three")
    assert await read_all(tail) == b"three"
    path.unlink()
    assert await tail.read() == b""
    tail.close()
