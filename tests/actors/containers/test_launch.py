"""What a start comes to, and everything a caller can get wrong."""

import pytest

from actors.containers.base import ProcessOptions
from actors.containers.keeper import FRAME_BYTES_MAX, Unpacker
from actors.containers.launch import MARK_VARIABLE, base_environment, check_run_id, prepare
from actors.errors import ContainerError, InvalidNameError
from actors.sandbox.ids import SandboxId

BASE = base_environment(SandboxId("my-app"), "/ws", "/opt/env/bin/python", "me", "the-mark")


def test_text_goes_to_the_shell_and_a_sequence_as_it_is() -> None:
    assert prepare(ProcessOptions("a | b"), "/ws", BASE).argv == ("/bin/sh", "-c", "a | b")
    launch = prepare(ProcessOptions(["a", "b c", ""]), "/ws", BASE)
    assert launch.argv == ("a", "b c", "")
    assert launch.command == "a 'b c' ''"


def test_interpreter_of_the_environment_comes_first_in_path() -> None:
    assert BASE["PATH"].startswith("/opt/env/bin:/usr/local/sbin:")


@pytest.mark.parametrize(("cwd", "folder"), [(None, "/ws/"), ("sub", "/ws/sub"), ("/srv", "/srv")])
def test_cwd_is_seen_from_the_workspace(cwd: str | None, folder: str) -> None:
    assert prepare(ProcessOptions("x", cwd=cwd), "/ws", BASE).cwd == folder


def test_own_variables_win_but_for_the_mark() -> None:
    launch = prepare(ProcessOptions("x", env={"LANG": "de", MARK_VARIABLE: "other"}), "/ws", BASE)
    assert (launch.env["LANG"], launch.env[MARK_VARIABLE]) == ("de", "the-mark")


@pytest.mark.parametrize("name", ["", "A=B", "A\0B", "="])
def test_variable_that_no_environment_can_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError, match="environment variable") as caught:
        prepare(ProcessOptions("x", env={name: "hunter2"}), "/ws", BASE)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        ProcessOptions(""),
        ProcessOptions("  \n"),
        ProcessOptions([]),
        ProcessOptions([""]),
        ProcessOptions("a\0b"),
        ProcessOptions(["a", "b\0"]),
        ProcessOptions("x", cwd="/a\0"),
        ProcessOptions("x", env={"A": "hunter2\0"}),
        ProcessOptions("x", env={"A": "hunter2\ud800"}),
        ProcessOptions("x\ud800"),
        ProcessOptions("x", env={"A": 7}),  # type: ignore[dict-item]  # what JSON may bring
    ],
)
def test_start_that_the_kernel_cannot_take_is_refused_without_its_values(options: ProcessOptions) -> None:
    with pytest.raises(ContainerError) as caught:
        prepare(options, "/ws", BASE)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("process_id", ["", "a b", "a/b", "a~1", "é", "x" * 65, "a\n"])
def test_malformed_process_id_is_refused(process_id: str) -> None:
    with pytest.raises(InvalidNameError, match="process id"):
        prepare(ProcessOptions("x", id=process_id), "/ws", BASE)


def test_run_id_is_returned_as_it_is() -> None:
    assert check_run_id("run-7.a_B") == "run-7.a_B"


def test_frame_holds_everything_and_repr_no_secret() -> None:
    launch = prepare(ProcessOptions(["cat", "x"], env={"TOKEN": "a=hunter2"}), "/ws", BASE)
    [fields] = Unpacker().feed(launch.frame(7, "service", "web"))
    assert fields[:8] == [b"start", b"7", b"service", b"web", b"/ws/", b"2", b"cat", b"x"]
    assert b"TOKEN=a=hunter2" in fields[8:]
    assert "hunter2" not in repr(launch)


def test_start_that_is_too_large_is_refused() -> None:
    launch = prepare(ProcessOptions("x", env={"A": "y" * FRAME_BYTES_MAX}), "/ws", BASE)
    with pytest.raises(ContainerError, match="longer than"):
        launch.frame(1, "service", "web")
