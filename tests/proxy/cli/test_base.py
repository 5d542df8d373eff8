"""The command as a whole: its help, its version, what makes no sense to it."""

import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from cyclopts import App

import proxy.cli
from proxy.cli import app
from tests.proxy.cli.conftest import Command

# Help.


def test_version_is_the_distributions(portico: Command) -> None:
    assert portico("--version").out == f"{version('portico')}\n"


def tree(parent: App = app, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield the words of every command, and the command; of a group, its commands."""
    for name in parent:
        command = parent[name]
        if name.startswith("-"):
            continue
        if any(not inner.startswith("-") for inner in command):
            yield from tree(command, (*way, name))
        else:
            yield (*way, name), command


TREE = dict(tree())
GROUPS = sorted({way[:-1] for way in TREE})


def test_tree_is_all_there() -> None:
    assert len(TREE) > 30
    assert {("serve",), ("sandbox", "destroy"), ("preview", "rotate"), ("domain", "verify")} <= set(TREE)


@pytest.mark.parametrize("arguments", [*GROUPS, *((*way, "--help") for way in TREE)])
def test_help_fits_80_columns_and_says_no_defaults_of_flags(arguments: tuple[str, ...], portico: Command) -> None:
    said = portico(*arguments)
    assert said.code == 0
    assert said.out.startswith("Usage: portico")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "False" not in said.out
    assert "--no-" not in said.out
    # What the parser says of arguments that may be left out or given again.
    assert "ARGS" not in said.out


def test_help_names_every_command_in_a_line(portico: Command) -> None:
    for group in GROUPS:
        lines = portico(*group, "--help").out.splitlines()
        for name in {way[len(group)] for way in TREE if way[: len(group)] == group}:
            (line,) = [line for line in lines if line.startswith(f"│ {name} ")]
            assert line.rstrip("│ ").endswith("."), line


@pytest.mark.parametrize("way", TREE)
def test_every_argument_is_described_with_its_default_and_its_unit(way: tuple[str, ...]) -> None:
    for argument in TREE[way].assemble_argument_collection(parse_docstring=True):
        if not argument.show:
            # The structure that holds flags.
            continue
        text = argument.parameter.help
        assert text, argument.name
        # A flag that is not given is off, and the server's flags stand together.
        if argument.hint is bool or argument.required or argument.name == "--api-key":
            continue
        if argument.name.startswith("-") and "again" not in text:
            assert "Default" in text, argument.name
        if "float" in str(argument.hint) and argument.name != "--rate":
            assert "econds " in text, argument.name


EXAMPLES = re.compile(r"^\s*Example: portico (.*)$", re.MULTILINE)


@pytest.mark.parametrize("way", TREE)
def test_example_is_one_that_the_command_takes(way: tuple[str, ...]) -> None:
    for example in EXAMPLES.findall(TREE[way].help):
        words = shlex.split(example)
        assert tuple(words[: len(way)]) == way
        app.parse_args(words, exit_on_error=False)


@pytest.mark.parametrize(
    "way", ["serve", "run", "exec", "logs", "log", "doctor", "explain", "bench", "sandbox create", "port expose"]
)
def test_what_is_used_most_has_an_example(way: str) -> None:
    assert EXAMPLES.search(TREE[tuple(way.split())].help)


# The page about it.

PAGE = (Path(__file__).parents[3] / "docs" / "command.md").read_text()


def test_page_has_the_synopsis_of_every_command_and_of_no_other(portico: Command) -> None:
    shown = {}
    for way in TREE:
        usage, _, summary, *_ = portico(*way, "--help").out.splitlines()
        for line in portico(*way, "--help").out.splitlines()[3:]:
            if not line.strip():
                break
            summary = f"{summary.strip()} {line.strip()}"
        shown[usage.removeprefix("Usage: ").replace(" [OPTIONS]", "")] = summary.strip()
    synopsis = PAGE.partition("## Commands")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(portico .*?)` \| (.*) \|$", synopsis, re.MULTILINE)) == shown


def test_page_has_every_exit_code_and_no_other() -> None:
    codes = {0}
    for found in pkgutil.iter_modules(proxy.cli.__path__, "proxy.cli."):
        module = importlib.import_module(found.name)
        codes |= {value for name, value in vars(module).items() if name.startswith("EXIT_")}
    codes.add(proxy.cli.EXIT_UNREAD)
    table = PAGE.partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes


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
        (("run", "my-app", "--port", "99999", "--", "true"), "portico: --port: must be <= 65535 (portico run --help"),
        (("run", "my-app", "--timeout", "0", "--", "true"), "portico: --timeout: must be > 0 (portico run --help"),
        (("port", "expose", "my-app", "0"), "portico: PORT: must be >= 1 (portico port expose"),
        (("share", "create", "my-app", "8000", "--expires-in", "0"), "portico: --expires-in: must be > 0 ("),
        (("preview", "rotate", "my-app", "--grace", "-1"), "portico: --grace: must be >= 0 ("),
        (("sandbox", "set", "my-app", "--sleep-after", "0.5"), "portico: --sleep-after: must be >= 1 ("),
        (("port", "expose", "my-app", "80", "--host-header", "x"), 'Choose from: "localhost", "preserve" ('),
        (("sandbox", "create", "--when-asleep", "never"), 'Choose from: "wake", "stale" ('),
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


@pytest.mark.parametrize("arguments", [("completion", "bash"), ("serve", "--show-config"), ("key", "list", "--json")])
def test_reader_that_has_had_enough_is_no_error_of_ours(arguments: tuple[str, ...]) -> None:
    code = f"import sys; sys.argv = ['portico', *{arguments}]; import proxy.cli; proxy.cli.main()"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")
