"""The command as a whole: its help, its version, what makes no sense to it."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.proxy.cli.conftest import Command

# Help.


def test_version_is_the_distributions(portico: Command) -> None:
    assert portico("--version").out == f"{version('portico')}\n"


COMMANDS = ("serve", "demo", "log", "doctor", "bench", "explain", "run", "exec", "logs", "completion")
GROUPS = {
    "sandbox": ("create", "list", "show", "hibernate", "wake", "stop", "destroy"),
    "port": ("expose", "unexpose", "list"),
    "share": ("create", "list", "revoke"),
    "preview": ("create", "list", "delete", "protect", "rotate"),
    "key": ("create", "list", "revoke"),
}
WAYS = [(name,) for name in COMMANDS] + [(group, name) for group, names in GROUPS.items() for name in names]


@pytest.mark.parametrize("arguments", [(), *((*way, "--help") for way in WAYS), *((name,) for name in GROUPS)])
def test_help_fits_80_columns_and_says_no_defaults_of_flags(arguments: tuple[str, ...], portico: Command) -> None:
    said = portico(*arguments)
    assert said.code == 0
    assert said.out.startswith("Usage: portico")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "False" not in said.out
    assert "--no-" not in said.out


def test_help_names_every_command(portico: Command) -> None:
    for command in (*COMMANDS, *GROUPS):
        assert f"│ {command} " in portico("--help").out
    for group, names in GROUPS.items():
        for name in names:
            assert f"│ {name} " in portico(group).out


@pytest.mark.parametrize("missing", ["cyclopts", "rich", "segno", "httpx2"])
def test_missing_extra_is_a_hint_and_no_traceback(missing: str) -> None:
    # None in sys.modules is "not there" to an import statement.
    code = f"import sys; sys.modules[{missing!r}] = None; import proxy.cli"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"portico: the command needs more packages ({missing} is missing): pip install 'portico[cli]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--nope"), "portico: Unknown option: --nope (portico serve --help says more)"),
        (("serve", "more"), "portico: too many arguments: more (portico serve --help says more)"),
        (("serve", "--listen"), "portico: --listen takes a value (portico serve --help says more)"),
        (("port", "expose"), "portico: SANDBOX is wanted (portico port expose --help says more)"),
        (("port", "expose", "my-app", "web"), "portico: PORT: 'web' is not a whole number (portico port expose"),
        (("share", "create", "my-app", "80"), "portico: --expires-in is wanted (portico share create --help"),
        (
            ("port", "unexpose", "a", "1", "--drain", "x"),
            "portico: --drain: 'x' is not a number (",
        ),
        (("sandbox", "nope"), 'portico: Unknown command "nope". Available commands: create'),
        (("completion", "tcsh"), 'portico: Invalid value "tcsh" for SHELL. Choose from: "bash", "zsh", "fish" ('),
        (("explain", "ftp://x"), "portico: the URL of a preview begins with http:// or https://"),
        (("explain", "http://x", "--at", "yesterday"), "portico: 'yesterday' is not a time"),
        (("run", "my-app"), "portico: a command is wanted"),
        (("exec", "my-app"), "portico: a command is wanted"),
        (("exec", "my-app", "--env", "NOT_SET_ANYWHERE", "--", "ls"), "portico: --env NOT_SET_ANYWHERE: "),
        (("logs", "my-app", "--json"), "portico: logs are what a service printed"),
        (("sandbox", "create", "--never-sleeps", "--sleep-after", "1"), "portico: --never-sleeps and"),
        (("sandbox", "list", "--server", "http://localhost:1"), "portico: an API key is wanted"),
        (("nope",), 'Unknown command "nope"'),
        (("serve", "--fields-max", "many"), "portico: --fields-max: 'many' is not a whole number"),
        (("serve", "--fields-max", "0"), "portico: --fields-max: "),
        (("serve", "--listen", "8787"), "portico: --listen: '8787' is not HOST:PORT"),
        (("serve", "--log-level", "loud"), "portico: --log-level: 'loud' is none of debug, info, warning, error"),
        (("serve", "--domain", "a b"), "portico: domain 'a b': a name holds no spaces"),
        (("demo", "--domain", "x.workers.dev"), "portico: x.workers.dev cannot carry preview URLs"),
        (("log",), "SANDBOX"),
        (("log", "demo", "--verify", "--at", "0"), "portico: --verify and --at are two questions"),
        (("log", "demo", "--at", "yesterday"), "portico: 'yesterday' is not a time"),
        (("log", "no/id"), "portico: sandbox id 'no/id': only a-z"),
        (("bench",), "URL"),
        (("bench", "ftp://x"), "portico: a URL is wanted"),
        (("bench", "http://localhost", "--rate", "0"), "portico: --rate is more than 0"),
        (("doctor",), "URL"),
        (("doctor", "ftp://x"), "portico: the URL of a preview begins with http:// or https://"),
        (("doctor", "http://x", "--via", "8787"), "portico: '8787' is not HOST:PORT"),
        (("doctor", "http://x", "--websocket", "ws"), "portico: a path begins with /"),
        (("doctor", "http://x", "--timeout-s", "0"), "portico: --timeout-s: a time is more than 0"),
    ],
)
def test_what_makes_no_sense_is_exit_code_2_and_touches_nothing(
    arguments: tuple[str, ...], said: str, portico: Command, tmp_path: Path
) -> None:
    ended = portico(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_reader_that_has_had_enough_is_no_error_of_ours() -> None:
    code = "import sys; sys.argv = ['portico', 'completion', 'bash']; import proxy.cli; proxy.cli.main()"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
