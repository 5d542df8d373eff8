"""Processes that end with the block they were started for."""

import os
import select
import sys
from pathlib import Path

import pytest

from bench.peers.children import ChildError, child, libraries, read_line, tail, write_line

CORE = min(os.sched_getaffinity(0))
WAIT_S = 20.0

# Starts a process that does not mind SIGTERM, says who it is, and minds it as little.
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
sys.stdin.read()
signal.pause()
"""


def test_child_runs_on_its_core_in_a_group_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import os, sys; print(sorted(os.sched_getaffinity(0)), os.getpgrp() == os.getpid()); sys.stdin.readline()"
    with child([sys.executable, "-c", code], core=CORE, log=log) as process:
        assert read_line(process, WAIT_S, log) == f"[{CORE}] True"
        write_line(process)
        assert process.wait(WAIT_S) == 0


def test_child_and_what_it_started_are_gone_after_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.children.ENDING_S", 0.1)
    log = tmp_path / "log"
    with child([sys.executable, "-c", STUBBORN], core=CORE, log=log) as process:
        grandchild = os.pidfd_open(int(read_line(process, WAIT_S, log)))
    assert process.returncode is not None
    try:
        # SIGKILL is on its way; it becomes readable when the process has ended (pidfd_open(2)).
        assert select.select([grandchild], [], [], WAIT_S)[0]
    finally:
        os.close(grandchild)


def test_child_that_ends_instead_of_speaking_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with child([sys.executable, "-c", "import sys; sys.exit('no such thing')"], core=CORE, log=log) as process:
        with pytest.raises(ChildError, match="ended: no such thing"):
            read_line(process, WAIT_S, log)
        # Nobody is there to read it, and that is no failure.
        process.wait(WAIT_S)
        write_line(process)


def test_child_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        child([sys.executable, "-c", "import sys; sys.stdin.read()"], core=CORE, log=log) as process,
        pytest.raises(ChildError, match="said nothing"),
    ):
        read_line(process, 0.01, log)


def test_tail_is_the_end_of_a_file_or_says_there_is_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == "it wrote nothing"
    log.write_text("a\nb\nc\nd\n", encoding="utf-8")
    assert tail(log, 2) == "c / d"


def test_libraries_unpacked_are_found_and_none_are_no_setting(tmp_path: Path) -> None:
    assert libraries(tmp_path) == {}
    folder = tmp_path / "debian" / "usr" / "lib" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    assert libraries(tmp_path) == {"LD_LIBRARY_PATH": str(folder)}
