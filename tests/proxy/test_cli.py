"""The command line: what it takes, what it says, how it exits."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import structlog

from proxy.cli import app


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with no settings in the environment, on a terminal of 80 columns."""
    for name in os.environ:
        if name.startswith("PORTICO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


@pytest.fixture
def portico(capsys: pytest.CaptureFixture[str]) -> "Command":
    return Command(capsys)


class Command:
    """Runs the command within this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Said:
        code: object = 0
        try:
            app(arguments)
        except SystemExit as exited:
            code = exited.code
        structlog.reset_defaults()
        captured = self._capsys.readouterr()
        assert isinstance(code, int)
        return Said(code, captured.out, captured.err)

    def settings(self, *arguments: str) -> dict[str, list[str]]:
        """Return ``{setting: [value, origin]}`` as --show-config prints it."""
        said = self("serve", "--show-config", *arguments)
        assert (said.code, said.err) == (0, "")
        rows = [line.split() for line in said.out.splitlines()]
        assert rows[0] == ["setting", "value", "from"]
        return {row[0]: row[1:] for row in rows[1:]}


# Help.


def test_version_is_the_distributions(portico: Command) -> None:
    assert portico("--version").out == f"{version('portico')}\n"


@pytest.mark.parametrize("arguments", [(), *((name, "--help") for name in ("serve", "demo", "log", "doctor", "bench"))])
def test_help_fits_80_columns_and_says_no_defaults_of_flags(arguments: tuple[str, ...], portico: Command) -> None:
    said = portico(*arguments)
    assert said.code == 0
    assert said.out.startswith("Usage: portico")
    assert max(map(len, said.out.splitlines())) <= 80
    assert "False" not in said.out
    assert "--no-" not in said.out


def test_help_names_every_command(portico: Command) -> None:
    for command in ("serve", "demo", "log", "doctor", "bench"):
        assert f"│ {command} " in portico("--help").out


@pytest.mark.parametrize("missing", ["cyclopts", "rich", "segno"])
def test_missing_extra_is_a_hint_and_no_traceback(missing: str) -> None:
    # None in sys.modules is "not there" to an import statement.
    code = f"import sys; sys.modules[{missing!r}] = None; import proxy.cli"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"portico: the command needs more packages ({missing} is missing): pip install 'portico[cli]'\n"
    )


# Settings.


def test_flags_win_over_environment_over_file_over_defaults(
    portico: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "portico.toml"
    file.write_text('listen = "127.0.0.1:1"\nhead_timeout_s = 1\nfields_max = 1\n')
    monkeypatch.setenv("PORTICO_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("PORTICO_HEAD_TIMEOUT_S", "2")
    shown = portico.settings("--config", str(file), "--listen", "127.0.0.1:3")
    assert shown["listen"] == ["127.0.0.1:3", "--listen"]
    assert shown["head_timeout_s"] == ["2.0", "PORTICO_HEAD_TIMEOUT_S"]
    assert shown["fields_max"] == ["1", f"{file}:", "fields_max"]
    assert shown["connect_timeout_s"] == ["5.0", "default"]


def test_flag_that_can_be_given_again_makes_a_list(portico: Command) -> None:
    shown = portico.settings("--domain", "a.example", "--domain", "b.example", "--data", "here")
    assert shown["domains"] == ["a.example,b.example", "--domains"]
    assert shown["data_folder"] == ["here", "--data-folder"]


def test_file_that_nobody_named_changes_nothing(portico: Command, tmp_path: Path) -> None:
    (tmp_path / "portico.toml").write_text('listen = "127.0.0.1:1"\n')
    assert portico.settings()["listen"] == ["127.0.0.1:8787", "default"]


def test_unknown_key_in_the_file_is_named_with_the_nearest(portico: Command, tmp_path: Path) -> None:
    file = tmp_path / "portico.toml"
    file.write_text("lisen = 1\nhead_bytes_max = 'many'\n")
    said = portico("serve", "--show-config", "--config", str(file))
    assert (said.code, said.out) == (2, "")
    first, second = said.err.splitlines()
    assert first == f"portico: {file}: there is no setting lisen; the nearest is listen"
    assert second.startswith(f"portico: {file}: head_bytes_max: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--nope"), "Unknown option: --nope"),
        (("nope",), 'Unknown command "nope"'),
        (("serve", "--fields-max", "many"), '"many"'),
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
    assert not list(tmp_path.iterdir())


# What cannot be done.


def test_folder_that_cannot_be_made_is_a_line_on_stderr(portico: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("serve", "demo"):
        said = portico(command, "--data", str(tmp_path / "file" / "data"), "--listen", "127.0.0.1:0")
        assert said.code == 1
        (line,) = said.err.splitlines()
        assert line.startswith(f"portico: cannot open {tmp_path}/file/data: ")


def test_log_of_a_missing_folder_is_exit_code_1_and_makes_none(portico: Command, tmp_path: Path) -> None:
    said = portico("log", "demo")
    assert (said.code, said.out, said.err) == (1, "", "portico: there is no data folder portico-data\n")
    assert not list(tmp_path.iterdir())


def test_log_of_an_unknown_sandbox_is_exit_code_1(portico: Command, tmp_path: Path) -> None:
    said = portico("log", "demo", "--data", str(tmp_path))
    assert (said.code, said.err) == (1, f"portico: there is no log of sandbox demo in {tmp_path}\n")


# The doctor, as far as it needs no server. tests/e2e has the rest.

SECRET_URL = "http://8080-my-app-k3v9x0q2m7t1z8aa.localhost:1/"


def test_doctor_names_the_one_thing_and_exits_with_1(portico: Command) -> None:
    said = portico("doctor", SECRET_URL, "--via", "127.0.0.1:1")
    assert (said.code, said.err) == (1, "")
    *steps, mend = said.out.splitlines()
    assert [line.split()[:2] for line in steps] == [["name", "ok"], ["dns", "skipped"], ["connect", "failed"]]
    assert mend.startswith("Mend this: start the server (portico serve")
    assert "k3v9x0q2m7t1z8aa" not in said.out


def test_doctor_tells_programs_in_json_without_the_token(portico: Command) -> None:
    said = portico("doctor", SECRET_URL, "--json", "--via", "127.0.0.1:1")
    assert said.code == 1
    answer = json.loads(said.out)
    assert (answer["url"], answer["sound"]) == ("http://8080-my-app-****.localhost:1/", False)
    assert {step["outcome"] for step in answer["steps"]} == {"ok", "failed", "skipped"}
    assert "k3v9x0q2m7t1z8aa" not in said.out


def test_doctor_looks_into_no_data_folder_that_nobody_named(portico: Command, tmp_path: Path) -> None:
    portico("doctor", SECRET_URL, "--via", "127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def test_share_of_an_address_is_a_setting_and_zero_is_none(portico: Command) -> None:
    assert portico.settings()["connections_per_address_max"] == ["512", "default"]
    shown = portico.settings("--connections-per-address-max", "0")
    assert shown["connections_per_address_max"] == ["0", "--connections-per-address-max"]
    said = portico("serve", "--show-config", "--connections-per-address-max", "-1")
    assert (said.code, "--connections-per-address-max" in said.err) == (2, True)
