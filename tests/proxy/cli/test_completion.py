"""The completion scripts are there, know the commands, and the shell at hand can read them."""

import subprocess

import pytest

from tests.proxy.cli.conftest import Command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_knows_commands_and_flags(shell: str, portico: Command) -> None:
    said = portico("completion", shell)
    assert said.code == 0
    for word in ("serve", "unexpose", "api-key"):
        assert word in said.out


def test_bash_can_read_its_script(portico: Command) -> None:
    script = portico("completion", "bash").out
    ended = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_shell_that_is_not_known_is_exit_code_2(portico: Command) -> None:
    assert portico("completion", "tcsh").code == 2
