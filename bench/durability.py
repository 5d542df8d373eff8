"""What does a durable append cost through the store, and what would it cost without it?

Run by itself: ``python -m bench.durability [--quick] [--folder FOLDER]``. The folder decides which disk is measured;
a RAM disk makes every sync free and the figures meaningless.

Both sides of each comparison run in turns on the same disk, so that a disk that is slow for a while is slow for both.
The plain side adds to the end of a file, as logs usually do; the store writes into room that the file has already (see
`actors.log`), which is cheaper. The line "into room" says what that costs by itself, and "handed to a thread" what it
costs when another thread does it and the first one is woken at its end, with nothing else done: no store whose thread
must go on serving while the disk is waited for can be quicker than that.
"""

import argparse
import os
import select
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import trio

from actors.core.record import encode, genesis
from actors.filestore import FileStore
from actors.sandbox.ids import SandboxId
from actors.store import Entry, Record
from bench._figure import Figure

SANDBOXES = 64
HISTORY = 100
ROUNDS = 5

ENTRY = Entry(
    time=1_760_000_000.25,
    name="PortExposed",
    version=1,
    fields={"port": 8080, "token": "k3v9x0q2m7t1z8aa", "name": "web", "host_header": "localhost"},
)


def _record_bytes() -> bytes:
    sandbox = SandboxId("bench")
    record = Record(1, 1, ENTRY.time, ENTRY.name, ENTRY.version, ENTRY.fields)
    return encode(record, genesis(sandbox))[0]


def plain_appends(path: Path, data: bytes, count: int) -> list[float]:
    """Write and fdatasync from plain Python; seconds of each."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            os.write(fd, data)
            os.fdatasync(fd)
            seconds.append(time.perf_counter() - start)
        return seconds
    finally:
        os.close(fd)


def _plain_writes(path: Path, count: int) -> list[float]:
    """Write into zeros that are there already, each write synced by the kernel; seconds of each."""
    data = _record_bytes()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
    try:
        os.pwrite(fd, bytes(len(data) * count), 0)
        seconds = []
        for number in range(count):
            start = time.perf_counter()
            os.pwrite(fd, data, len(data) * number)
            seconds.append(time.perf_counter() - start)
        return seconds
    finally:
        os.close(fd)


def _handed_writes(path: Path, count: int) -> list[float]:
    """Have a thread do the same, which waits in a pipe; its end comes back by way of an epoll set. Seconds of each."""
    data = _record_bytes()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
    asked, asking = os.pipe()
    bell = os.eventfd(0)

    def work() -> None:
        for number in range(count):
            os.read(asked, 1)
            os.pwrite(fd, data, len(data) * number)
            os.eventfd_write(bell, 1)

    thread = threading.Thread(target=work)
    try:
        os.pwrite(fd, bytes(len(data) * count), 0)
        seconds = []
        with select.epoll() as epoll:
            epoll.register(bell, select.EPOLLIN)
            thread.start()
            for _ in range(count):
                start = time.perf_counter()
                os.write(asking, b"\0")
                epoll.poll()
                os.eventfd_read(bell)
                seconds.append(time.perf_counter() - start)
        thread.join()
        return seconds
    finally:
        for descriptor in (fd, asked, asking, bell):
            os.close(descriptor)


async def _store_appends(folder: Path, count: int) -> list[float]:
    async with FileStore(folder) as store:
        tenure = await store.claim(SandboxId("one"))
        await store.append(tenure, [ENTRY])
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            await store.append(tenure, [ENTRY])
            seconds.append(time.perf_counter() - start)
        return seconds


def _plain_rate(folder: Path, each: int) -> float:
    """As many threads as sandboxes, each with its own file; appends per second of all together."""
    data = _record_bytes()
    descriptors = [
        os.open(folder / f"plain-{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in range(SANDBOXES)
    ]
    ready = threading.Barrier(SANDBOXES + 1)

    def write(fd: int) -> None:
        os.write(fd, data)
        os.fdatasync(fd)
        ready.wait()
        for _ in range(each):
            os.write(fd, data)
            os.fdatasync(fd)

    threads = [threading.Thread(target=write, args=(fd,)) for fd in descriptors]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - start
    for fd in descriptors:
        os.close(fd)
    return SANDBOXES * each / elapsed


async def _store_rate(folder: Path, each: int) -> float:
    async with FileStore(folder) as store:
        tenures = [await store.claim(SandboxId(f"many-{number}")) for number in range(SANDBOXES)]
        async with trio.open_nursery() as nursery:
            for tenure in tenures:
                nursery.start_soon(store.append, tenure, [ENTRY])

        async def write(number: int) -> None:
            for _ in range(each):
                await store.append(tenures[number], [ENTRY])

        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(SANDBOXES):
                nursery.start_soon(write, number)
        return SANDBOXES * each / (time.perf_counter() - start)


async def _claim_times(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Seconds of the first claim in a process, which also syncs, and of later ones; 100 records each."""
    sandboxes = [SandboxId(f"claimed-{number}") for number in range(count)]
    async with FileStore(folder) as store:
        for sandbox in sandboxes:
            await store.append(await store.claim(sandbox), [ENTRY] * HISTORY)
    first: list[float] = []
    again: list[float] = []
    async with FileStore(folder) as store:
        for sandbox in sandboxes:
            for seconds in (first, again):
                start = time.perf_counter()
                tenure = await store.claim(sandbox)
                seconds.append(time.perf_counter() - start)
                await store.release(tenure)
    return first, again


def _fresh(folder: Path, name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))


def run(quick: bool = False, folder: Path | None = None) -> list[Figure]:
    """Measure, in a new folder inside `folder` (None: the current one) that is removed afterwards."""
    appends, each, claims = (100, 10, 20) if quick else (1000, 60, 200)
    with tempfile.TemporaryDirectory(prefix=".durability-", dir=folder or Path.cwd()) as name:
        base = Path(name)
        plain: list[float] = []
        placed: list[float] = []
        handed: list[float] = []
        stored: list[float] = []
        for number in range(ROUNDS):
            plain += plain_appends(base / "plain", _record_bytes(), appends)
            placed += _plain_writes(base / f"placed-{number}", appends)
            handed += _handed_writes(base / f"handed-{number}", appends)
            stored += trio.run(_store_appends, _fresh(base, "one"), appends)
        plain_rates, store_rates = [], []
        for _ in range(ROUNDS):
            plain_rates.append(_plain_rate(_fresh(base, "threads"), each))
            store_rates.append(trio.run(_store_rate, _fresh(base, "many"), each))
        first, again = trio.run(_claim_times, _fresh(base, "claims"), claims)
    median: Callable[[list[float]], float] = statistics.median
    return [
        Figure("write + fdatasync, plain Python", median(plain) * 1e6, "us"),
        Figure("write into room, plain Python", median(placed) * 1e6, "us"),
        Figure("write into room, handed to a thread", median(handed) * 1e6, "us"),
        Figure("handed to a thread / plain", median(handed) / median(plain), "x"),
        Figure("append, through the store", median(stored) * 1e6, "us"),
        Figure("append / plain", median(stored) / median(plain), "x", "<= 1.5"),
        Figure(f"{SANDBOXES} threads writing at once, plain Python", median(plain_rates), "/s"),
        Figure(f"{SANDBOXES} sandboxes appending at once", median(store_rates), "/s"),
        Figure("sandboxes at once / threads at once", median(store_rates) / median(plain_rates), "x", ">= 1"),
        Figure(f"claim of {HISTORY} records, first in the process", median(first) * 1e3, "ms"),
        Figure(f"claim of {HISTORY} records, later", median(again) * 1e3, "ms", "< 1"),
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    for name, value, unit, goal in run(options.quick, options.folder):
        print(f"{name:<45} {value:>10.2f} {unit:<3} {goal}")


if __name__ == "__main__":
    main()
