"""Processes that end with this one: each leads a group of its own, and is killed by its id.

The kernel ends them too, should this process be killed (`PR_SET_PDEATHSIG`).
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

ENDING_S: Final = 5.0
"""From SIGTERM to SIGKILL."""

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class ChildError(Exception):
    """A process ended, or said nothing, where it should not; the text has the end of what it wrote."""


def libraries(cache: Path) -> dict[str, str]:
    """Give the environment in which unpacked Debian programs find the libraries unpacked beside them."""
    folders = sorted(str(path) for path in (cache / "debian").glob("usr/lib/*-linux-gnu"))
    return {"LD_LIBRARY_PATH": ":".join(folders)} if folders else {}


@contextmanager
def child(
    command: Sequence[str | Path],
    *,
    core: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a command on one core, its errors to a file; end its whole group when the block ends."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        # As many files as may be had: nobody is to lose for a limit that one line of a unit file lifts.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    with log.open("ab") as errors:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            start_new_session=True,
            # Nothing here has threads, so nothing can be caught holding a lock between fork and exec.
            preexec_fn=prepare,  # noqa: PLW1509
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process and its group, first politely."""
    _signal_group(process.pid, signal.SIGTERM)
    # It has its chance, and no more.
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING_S)
    # Whatever it had started may still be there, whether or not it is.
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        # What was still to be written to it is of no use to anybody.
        with suppress(BrokenPipeError):
            stream.close()


def _signal_group(group: int, number: signal.Signals) -> None:
    # Expected where nobody is left in it.
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def read_line(process: subprocess.Popen[str], timeout_s: float, log: Path) -> str:
    """Read a line of a process's output.

    Raises:
        ChildError: It ended, or wrote none in time.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_s
    # Lines are short and come whole: one that is ready to be read is there to its end.
    if select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
        line = process.stdout.readline()
        if line:
            return line.strip()
        raise ChildError(f"{Path(str(process.args[0])).name} ended: {tail(log)}")  # type: ignore[index]  # a list
    raise ChildError(f"{Path(str(process.args[0])).name} said nothing for {timeout_s:.0f} s")  # type: ignore[index]  # a list


def write_line(process: subprocess.Popen[str]) -> None:
    """Let a process go on that waits for a line; one that has ended is noticed by what it does not answer."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write("\n")
        process.stdin.flush()


def tail(log: Path, count: int = 3) -> str:
    """Give the last lines of a file, in one."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return " / ".join(lines[-count:]) or "it wrote nothing"
