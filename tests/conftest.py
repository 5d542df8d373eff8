"""What every test shares: how hard hypothesis tries, what the machine must have, and that nothing is left running.

Hypothesis profiles, chosen by ``PORTICO_HYPOTHESIS_PROFILE``:

    ``ci``        the same examples every time; the default where ``CI`` is set
    ``dev``       new examples every time, failures remembered; the default elsewhere
    ``thorough``  twenty times as many examples, for a change to the state model or to a parser

Async tests run on trio by themselves (pytest-trio); take the `autojump_clock` fixture where time passes.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

# No deadlines: a busy machine would decide whether a test passes. `print_blob` lets a failure be replayed elsewhere.
settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
settings.register_profile("dev", print_blob=True, deadline=None)
settings.register_profile("thorough", print_blob=True, deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("PORTICO_HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))

NO_SKIPS = os.environ.get("PORTICO_NO_SKIPS") == "1"
"""Set by ``.ci/run``: there, a test that cannot run is a failure."""

ENDING_S = 5.0
"""What processes that were told to end get, before they count as left behind."""


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """Return a function that gives the path of a system program, or skips the test where there is none.

    Use it for what ``.ci/run`` installs. A test that needs what a machine may rightly lack (a Docker daemon, user
    namespaces) checks for that itself and skips with its own reason.
    """

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is not None:
            return path
        if NO_SKIPS:
            pytest.fail(f"{program} is not installed: let .ci/run install it", pytrace=False)
        pytest.skip(f"{program} is not installed")

    return find


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run if tests leave processes behind; whoever left one is named by its command line.

    Unclosed sockets and files need no guard: they are ResourceWarnings, which are errors here.
    """
    yield
    left = _descendants() + _working_in(tmp_path_factory.getbasetemp())
    _, alive = psutil.wait_procs(left, timeout=ENDING_S)
    lines = []
    for process in alive:
        try:
            lines.append(f"{process.pid} ({process.status()}): {' '.join(process.cmdline()) or process.name()}")
            process.kill()
        except psutil.NoSuchProcess:
            continue  # It ended between the wait and the look at it.
    assert not lines, "tests left processes behind (now killed):\n" + "\n".join(lines)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _working_in(folder: Path) -> list[psutil.Process]:
    """Return the processes whose working folder is ours: they may have left the tree of our children."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        cwd = process.info["cwd"]
        if cwd and Path(cwd).is_relative_to(folder):
            found.append(process)
    return found
