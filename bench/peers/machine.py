"""What the kernel knows: which cores there are, what processes have used, and whether the machine is quiet.

A virtual machine's cores may run at half their speed for a while and nothing says so. A fixed piece of work, timed
before and after each sample on both cores, does: a sample between slow ones is measured again (`Calibration`).
"""

import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

SLOW: Final = 1.5
"""Times the quickest run of the fixed work: beyond, a sample is not believed."""

_LOOPS: Final = 150_000
"""About 5 ms: longer than a time slice is cut short by, shorter than anybody minds."""

_TRIES: Final = 3


def cores() -> tuple[int, int]:
    """Give the core for proxies, and that for service and load.

    Raises:
        RuntimeError: There is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise RuntimeError("two cores are needed: one for the proxy, one for service and load")
    return usable[0], usable[1]


def fixed_work() -> float:
    """Do the same work as ever; return the seconds it took."""
    start = time.perf_counter()
    total = 0
    for number in range(_LOOPS):
        total += number
    return time.perf_counter() - start


class Calibration:
    """Knows how fast these cores can be, from all that it has seen."""

    def __init__(self, on: tuple[int, ...], work: Callable[[], float] = fixed_work) -> None:
        self._on = on
        self._work = work
        # {core: seconds of its quickest run}; virtual cores are not all alike.
        self._quickest: dict[int, float] = {}
        for _ in range(5):
            self.slowness()

    def slowness(self) -> float:
        """Do the work on each core; return the slower one's time as a multiple of its quickest so far."""
        before = os.sched_getaffinity(0)
        worst = 1.0
        try:
            for core in self._on:
                os.sched_setaffinity(0, {core})
                # The best of a few: what is wanted is the core's speed, not the scheduler's mood.
                taken = min(self._work() for _ in range(_TRIES))
                quickest = min(taken, self._quickest.get(core, taken))
                self._quickest[core] = quickest
                worst = max(worst, taken / quickest)
        finally:
            os.sched_setaffinity(0, before)
        return worst


def group_members(group: int) -> Iterator[int]:
    """Yield the processes of a group."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # proc(5): after the name, which may hold anything but ends with the last `)`: state, parent, group.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # It has ended since.
        if int(fields[2]) == group:
            yield int(entry.name)


def group_cpu_ns(group: int) -> int:
    """Give the time that all threads of all processes of a group have been on a CPU."""
    total = 0
    for pid in group_members(group):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((thread / "schedstat").read_text().split()[0])
            except OSError:
                continue  # It has ended since.
    return total


def group_memory_bytes(group: int) -> int:
    """Give the memory of all processes of a group, what they share counted once (PSS)."""
    total = 0
    for pid in group_members(group):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def description() -> str:
    """Say in a line what machine this is."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    processor = f"{os.cpu_count()} x {model or platform.machine()}"
    return f"{processor}, Linux {platform.release()}, Python {platform.python_version()}"
