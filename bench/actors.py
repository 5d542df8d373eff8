"""What does an actor cost: per visit, per change, per activation, and while it sits idle?

Run by itself: ``python -m bench.actors [--quick] [--folder FOLDER]``. The folder decides which disk is measured; a
RAM disk makes every sync free and the figures meaningless. What is compared with a plain program runs in turns with
it on the same disk, so that a disk that is slow for a while is slow for both.
"""

import argparse
import gc
import itertools
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from actors.core.record import encode, genesis
from actors.filestore import FileStore
from actors.handle import Sandbox
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import VisitRequest
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.store import Record
from actors.surroundings import Limits
from actors.testing.containers import fake_containers
from actors.visits import Visit
from bench._figure import Figure
from bench.durability import plain_appends

SANDBOXES: Final = 64
HISTORY: Final = 100
ACTIVE: Final = 1_000
STORED: Final = 100_000
ROUNDS: Final = 5
STAYS: Final = Limits(rest_after_s=3600)
LEAVES: Final = Limits(rest_after_s=1e-6)

# What `expose_port` and `unexpose_port` record, as bytes of the same length.
EXPOSED: Final = Record(
    2,
    1,
    1_760_000_000.25,
    "port_exposed",
    1,
    {"port": 8080, "token": "k3v9x0q2m7t1z8aa", "name": None, "host": "local"},
)


@asynccontextmanager
async def _runtime(folder: Path, limits: Limits = STAYS) -> AsyncIterator[Runtime]:
    async with open_runtime(FileStore(folder), containers={"process": fake_containers()}, limits=limits) as runtime:
        yield runtime


async def _admission(folder: Path, count: int) -> float:
    """Microseconds of CPU, of this thread, for a visit's beginning and end: the best of many slices."""
    async with _runtime(folder) as runtime:
        sandbox = await runtime.get_sandbox("one")
        await sandbox.expose_port(8080, token="secret")
        request = VisitRequest(Port(8080), PortToken("secret"))
        first = await runtime.admit(sandbox.id, request)
        assert isinstance(first, Visit)
        first.end()
        slices = []
        for _ in range(30):
            before = time.thread_time_ns()
            for _ in range(count):
                visit = runtime.admit_nowait(sandbox.id, request)
                assert isinstance(visit, Visit)
                visit.end()
            slices.append((time.thread_time_ns() - before) / count / 1000)
        return min(slices)


def _plain_writes(path: Path, count: int) -> list[float]:
    """Write and fdatasync as many bytes from plain Python; seconds of each."""
    data, _ = encode(EXPOSED, genesis(SandboxId("plain")))
    return plain_appends(path, data, count)


async def _changes(folder: Path, count: int) -> list[float]:
    """Expose and unexpose a port; seconds of each."""
    async with _runtime(folder) as runtime:
        sandbox = await runtime.get_sandbox("one")
        seconds = []
        for _ in range(count // 2):
            start = time.perf_counter()
            await sandbox.expose_port(8080)
            exposed = time.perf_counter()
            await sandbox.unexpose_port(8080)
            seconds += [exposed - start, time.perf_counter() - exposed]
        return seconds


def _plain_rate(folder: Path, each: int) -> float:
    """As many threads as sandboxes, each with its own file; writes per second of all together."""
    ready = threading.Barrier(SANDBOXES + 1)

    def write(number: int) -> None:
        path = folder / f"plain-{number}"
        _plain_writes(path, 1)
        ready.wait()
        _plain_writes(path, each)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(SANDBOXES)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return SANDBOXES * each / (time.perf_counter() - start)


async def _change_rate(folder: Path, each: int) -> float:
    """Changes per second of as many sandboxes at once."""

    async def change(sandbox: Sandbox) -> None:
        for _ in range(each // 2):
            await sandbox.expose_port(8080)
            await sandbox.unexpose_port(8080)

    async with _runtime(folder) as runtime:
        sandboxes = [await runtime.get_sandbox(f"many-{number}") for number in range(SANDBOXES)]
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for sandbox in sandboxes:
                nursery.start_soon(change, sandbox)
        return SANDBOXES * each / (time.perf_counter() - start)


async def _activations(folder: Path, count: int) -> list[float]:
    """From a call to a dormant sandbox with a log of `HISTORY` records until its answer; seconds of each."""
    async with _runtime(folder) as runtime:
        sandbox = await runtime.get_sandbox("one")
        for _ in range(HISTORY // 2):
            await sandbox.expose_port(8080)
            await sandbox.unexpose_port(8080)
    seconds = []
    async with _runtime(folder, LEAVES) as runtime:
        sandbox = await runtime.find_sandbox("one")
        for _ in range(count):
            await trio.sleep(0.002)
            assert runtime.statistics().actors == 0
            start = time.perf_counter()
            await sandbox.get_exposed_ports()
            seconds.append(time.perf_counter() - start)
    return seconds


async def _make(folder: Path, count: int) -> None:
    """Make sandboxes with an exposed port each."""
    numbers = iter(range(count))

    async def make(runtime: Runtime) -> None:
        for number in numbers:
            await (await runtime.get_sandbox(f"sandbox-{number}")).expose_port(8080)

    async with _runtime(folder, LEAVES) as runtime, trio.open_nursery() as nursery:
        for _ in range(SANDBOXES):
            nursery.start_soon(make, runtime)


def _multiply(folder: Path, made: int, wanted: int) -> None:
    """Make more sandboxes by copying logs: what is measured is that they are there, not how they came to be."""
    # The name is part of a log's chain, so a copy is no log of another sandbox; it is only never looked into.
    layout = FileStore(folder)._layout
    data = Path(layout.path(SandboxId("sandbox-0"))).read_bytes()
    for number in range(made, wanted):
        Path(layout.path(SandboxId(f"sandbox-{number}"))).write_bytes(data)


async def _idle_memory(folder: Path, count: int) -> float:
    """KiB of Python objects for each actor in memory, by `tracemalloc`, with nothing but its state."""
    async with _runtime(folder) as runtime:
        # The threads of the store, and whatever else is made once.
        await runtime.find_sandbox("sandbox-0")
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, count + 1):
            await runtime.find_sandbox(f"sandbox-{number}")
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert runtime.statistics().actors == count + 1
    return (after - before) / count / 1024


async def _idle_rss(folder: Path, count: int) -> tuple[float, float]:
    """KiB of resident memory for each of `count` actors; and milliseconds to open the runtime on the folder."""
    start = time.perf_counter()
    async with _runtime(folder) as runtime:
        opened = time.perf_counter() - start
        await runtime.find_sandbox("sandbox-0")
        gc.collect()
        before = _resident_bytes()
        for number in range(1, count + 1):
            await runtime.find_sandbox(f"sandbox-{number}")
        return (_resident_bytes() - before) / count / 1024, opened * 1000


def _idle_rss_alone(folder: Path) -> tuple[float, float]:
    """Measure `_idle_rss` in a process of its own: in this one, memory freed before would be used again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(trio.run, _idle_rss, folder, ACTIVE).result()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def run(quick: bool = False, folder: Path | None = None) -> list[Figure]:
    """Measure, in a new folder inside `folder` (None: the current one) that is removed afterwards."""
    changes, each, activations = (100, 10, 50) if quick else (600, 40, 400)
    names = itertools.count()
    with tempfile.TemporaryDirectory(prefix=".actors-", dir=folder or Path.cwd()) as name:

        def fresh() -> Path:
            path = Path(name) / str(next(names))
            path.mkdir()
            return path

        admission = trio.run(_admission, fresh(), 200 if quick else 2000)
        plain: list[float] = []
        changed: list[float] = []
        plain_rates, change_rates = [], []
        for _ in range(ROUNDS):
            plain += _plain_writes(fresh() / "plain", changes)
            changed += trio.run(_changes, fresh(), changes)
        for _ in range(ROUNDS):
            plain_rates.append(_plain_rate(fresh(), each))
            change_rates.append(trio.run(_change_rate, fresh(), each))
        activated = trio.run(_activations, fresh(), activations)
        stored = fresh()
        trio.run(_make, stored, ACTIVE + 1)
        resident, _ = _idle_rss_alone(stored)
        traced = trio.run(_idle_memory, stored, ACTIVE)
        median = statistics.median
        figures = [
            Figure("admit a visit to an idle actor, and end it", admission, "us CPU", "< 5"),
            Figure("write + fdatasync, plain Python", median(plain) * 1e6, "us"),
            Figure("expose or unexpose a port", median(changed) * 1e6, "us"),
            Figure("change / plain", median(changed) / median(plain), "x", "<= 1.5"),
            Figure(f"{SANDBOXES} threads writing at once, plain Python", median(plain_rates), "/s"),
            Figure(f"{SANDBOXES} sandboxes changing at once", median(change_rates), "/s"),
            Figure("sandboxes at once / threads at once", median(change_rates) / median(plain_rates), "x"),
            Figure(f"activation, {HISTORY} records, from call to answer", median(activated) * 1e3, "ms", "< 1"),
            Figure(f"an idle actor of {ACTIVE}, Python objects", traced, "KiB", "< 20"),
            Figure(f"an idle actor of {ACTIVE}, resident memory", resident, "KiB", "< 20"),
        ]
        if not quick:
            _multiply(stored, ACTIVE + 1, STORED)
            resident, opened = _idle_rss_alone(stored)
            figures += [
                Figure(f"the same with {STORED} sandboxes stored", resident, "KiB", "< 20"),
                Figure(f"opening a store of {STORED} sandboxes", opened, "ms"),
            ]
        shutil.rmtree(stored)
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    for figure in run(options.quick, options.folder):
        print(f"{figure.name:<55} {figure.value:>10.2f} {figure.unit:<7} {figure.goal}")


if __name__ == "__main__":
    main()
