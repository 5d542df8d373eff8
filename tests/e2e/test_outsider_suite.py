"""Somebody else's test suite runs as it is: outside this tree, on nothing but what is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SUITE = Path(__file__).resolve().parents[2] / "examples" / "testing" / "test_my_platform.py"
FINDS_ONLY = """
from hypothesis import Phase, settings
settings.register_profile("finds only", phases=[Phase.generate], database=None)
settings.load_profile("finds only")
"""
"""A conftest.py: making what was found small takes most of the time, and is not looked at here."""

RUN_S = 300.0
"""It takes a few seconds; hypothesis does not hurry on a busy machine."""


def run_suite(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


def test_suite_of_an_outsider_passes(tmp_path: Path) -> None:
    shutil.copy(SUITE, tmp_path)
    run = run_suite(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout


def test_suite_of_an_outsider_finds_what_the_outsider_has_broken(tmp_path: Path) -> None:
    """The same suite with three mistakes in the platform."""
    text = SUITE.read_text(encoding="utf-8")
    mistakes = [
        ("frozenset({3000, DASHBOARD})", "frozenset({3000})"),
        ("exposure.name or 'no name'", "exposure.token.reveal()"),
        ("if service is None or self._conversations is None", "if service is None"),
    ]
    for right, wrong in mistakes:
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    (tmp_path / SUITE.name).write_text(text, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(FINDS_ONLY, encoding="utf-8")
    run = run_suite(tmp_path)
    assert "1 passed" in run.stdout, run.stdout + run.stderr
    for name in ("test_summary_shows_no_token", "TestOurSandboxes", "test_our_container_keeps_its_promises"):
        assert f"FAILED test_my_platform.py::{name}" in run.stdout
