"""One run of a process container: its processes, their output, their end."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from actors.containers import process_run as module
from actors.containers.base import ProcessExit, ProcessOptions, ProcessStatus
from actors.containers.keeper import OUTPUT_BYTES_MAX
from actors.containers.process import ProcessContainer
from actors.containers.process_run import ProcessRun
from actors.containers.service import read_log
from actors.containers.services import ServiceBook
from actors.errors import ContainerError, InvalidNameError

from .conftest import Lifeline, Up

FOREVER = "exec sleep 1000000"
# A service that does not heed SIGTERM, a daemon in a session of its own whose parent has exited, another that does
# not heed SIGTERM either, and a plain background child. Each says so once it holds the lifeline.
STUBBORN = """
trap '' TERM
exec 9>"$LIFELINE"
setsid sh -c 'trap "" TERM; echo daemon >&9; sleep 1000000' &
(setsid sh -c 'sleep 1000000 & echo orphan >&9; exit' &)
nohup sh -c 'echo nohup >&9; exec sleep 1000000' &
echo service >&9
while :; do sleep 1000000; done
"""


async def test_service_sees_its_own_small_environment_and_workspace(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hunter2")
    async with up() as run:
        result = await run.exec(ProcessOptions("env; pwd", env={"COLOUR": "a=b c"}))
    *lines, cwd = result.stdout.decode().splitlines()
    env = dict(line.split("=", 1) for line in lines)
    workspace = str(tmp_path / "my-app" / "workspace")
    assert (cwd, env["HOME"]) == (workspace, workspace)
    assert env["COLOUR"] == "a=b c"
    assert env["PORTICO_SANDBOX"] == "my-app"
    assert "SERVER_SECRET" not in env
    assert set(env) <= {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "PYTHONUNBUFFERED", "PWD", "COLOUR"),
        *("PORTICO_SANDBOX", "PORTICO_RUN"),
    }


async def test_service_starts_with_clean_signals_descriptors_and_session(up: Up) -> None:
    script = """
import os, signal
print([fd for fd in range(1024) if os.path.exists(f"/proc/self/fd/{fd}")])
print([s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN and s not in (13, 25)])
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
print(os.getsid(0) == os.getpid() == os.getpgid(0), os.read(0, 1))
with open("/proc/self/status") as f: ignored = [l.split()[1] for l in f if l.startswith("SigIgn")]
print([hex(int(mask, 16) & ~0x180000000) for mask in ignored])
"""
    async with up() as run:
        result = await run.exec(ProcessOptions(["python", "-c", script]))
    # Python itself ignores SIGPIPE (13) and SIGXFSZ (25) in the last line: 0x1001000. Signals 32 and 33 are left out:
    # they are the C library's own, no program can set them, and whoever started us may have left them ignored.
    assert result.stdout.decode().splitlines() == [
        *("[0, 1, 2]", "[]", "set()", "True b''", "['0x1001000']"),
    ], result.stderr


async def test_command_that_cannot_start_says_why_and_leaves_no_process_or_file(up: Up) -> None:
    async with up() as run:
        with pytest.raises(ContainerError, match="cannot run nonsense: No such file"):
            await run.start_process(ProcessOptions(["nonsense"], id="bad"))
        with pytest.raises(ContainerError, match="cannot run nonsense: No such file"):
            await run.exec(ProcessOptions(["nonsense"]))
        with pytest.raises(ContainerError, match="cannot enter the folder /nonexistent: No such file"):
            await run.start_process(ProcessOptions("true", cwd="/nonexistent"))
        assert not run.processes()
        assert not run.busy
        # What was refused does not stand in the way of what comes after it.
        process = await run.start_process(ProcessOptions("echo good", id="bad"))
        assert await process.wait() == 0
        assert await process.logs() == b"good\n"
    assert sorted(os.listdir(run.folder)) == ["bad.log", "keeper", "keeper.stderr"]


async def test_of_two_that_start_under_one_id_at_once_one_is_told_of_the_other(up: Up) -> None:
    refused: list[str] = []

    async def start() -> None:
        try:
            await run.start_process(ProcessOptions(FOREVER, id="web"))
        except ContainerError as error:
            refused.append(str(error))

    async with up() as run:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            nursery.start_soon(start)
        assert [process.id for process in run.processes()] == ["web"]
        assert refused == ["process 'web' is being started already"]
        await run.processes()[0].kill(signal.SIGKILL)
        await run.processes()[0].wait()
        # The id is free again.
        await run.start_process(ProcessOptions(FOREVER, id="web"))


async def test_end_of_the_one_before_leaves_the_record_to_the_one_that_is_being_started(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember = ServiceBook.remember

    async def remember_and_hear_of_the_end(book: ServiceBook, options: ProcessOptions, running: Sequence[str]) -> None:
        await remember(book, options, running)
        await run._leave_out("web")

    monkeypatch.setattr(ServiceBook, "remember", remember_and_hear_of_the_end)
    async with up() as run:
        await run.start_process(ProcessOptions(FOREVER, id="web"))
        assert [options.id for options in run._book.services] == ["web"]


async def test_bad_names_are_refused_before_the_keeper_hears_of_them(up: Up) -> None:
    async with up() as run:
        with pytest.raises(InvalidNameError, match="process id"):
            await run.start_process(ProcessOptions("true", id="../x"))
        with pytest.raises(InvalidNameError, match="environment variable"):
            await run.start_process(ProcessOptions("true", env={"A=B": "secret"}))


async def test_command_that_is_done_once_is_not_started_again_by_a_wake(container: ProcessContainer) -> None:
    exits: list[ProcessExit] = []
    container._on_exit = exits.append
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            run = await container.start("run-1", nursery)
            service = await run.start_process(ProcessOptions(FOREVER, id="service"))
            running = await run.start_process(ProcessOptions(FOREVER, once=True))
            failed = await run.start_process(ProcessOptions("exit 3", once=True))
            assert await failed.wait() == 3
            assert [process.id for process in run.processes()] == [service.id, running.id, failed.id]
            await run.sleep()
            woken = await container.start("run-2", nursery)
            assert [process.id for process in woken.processes()] == ["service"]
            # Nor is one that a wake has brought back taken for it.
            again = await woken.start_process(ProcessOptions(FOREVER, once=True))
            assert again.id != "service"
            await woken.stop()
    # Its exit is the business of whoever has it done.
    assert exits == []


async def test_no_more_processes_than_a_run_may_have(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNNING_MAX", 2)
    async with up() as run:
        for _ in range(2):
            await run.start_process(ProcessOptions(FOREVER))
        with pytest.raises(ContainerError, match="2 processes run already"):
            await run.start_process(ProcessOptions(FOREVER))
        await run.processes()[0].kill(signal.SIGKILL)
        await run.processes()[0].wait()
        await run.start_process(ProcessOptions(FOREVER))


async def test_oldest_exited_process_is_forgotten_with_its_output(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXITED_MAX", 2)
    async with up() as run:
        for name in ("a", "b", "c"):
            await (await run.start_process(ProcessOptions("echo x", id=name))).wait()
        assert [process.id for process in run.processes()] == ["b", "c"]
        await run.exec(ProcessOptions("true"))  # frames are obeyed in order
        assert "a.log" not in os.listdir(run.folder)


async def test_id_of_an_exited_process_may_be_used_again_and_each_keeps_its_output(up: Up) -> None:
    async with up() as run:
        first = await run.start_process(ProcessOptions("echo first", id="web"))
        await first.wait()
        second = await run.start_process(ProcessOptions("echo second", id="web"))
        await second.wait()
        assert (await first.logs(), await second.logs()) == (b"first\n", b"second\n")


async def test_service_that_prints_without_end_is_kept_to_its_newest_output(up: Up) -> None:
    size = 5 * OUTPUT_BYTES_MAX
    async with up() as run:
        process = await run.start_process(ProcessOptions(f"yes | head -c {size}; echo END"))
        assert await process.wait() == 0
        logs = await process.logs()
        assert logs.endswith(b"y\nEND\n")
        assert OUTPUT_BYTES_MAX // 2 <= len(logs) <= OUTPUT_BYTES_MAX
        on_disk = sum(entry.stat().st_size for entry in os.scandir(run.folder))
        assert on_disk <= OUTPUT_BYTES_MAX + 4096


async def test_command_that_prints_too_much_is_cut_and_says_so(up: Up) -> None:
    async with up() as run:
        result = await run.exec(ProcessOptions(f"echo START; head -c {2 * OUTPUT_BYTES_MAX} /dev/zero; echo short >&2"))
        assert (result.exit_code, len(result.stdout), result.stderr) == (0, OUTPUT_BYTES_MAX, b"short\n")
        assert result.stdout.startswith(b"START"), "the first bytes are kept"
        assert result.truncated
        exact = await run.exec(ProcessOptions(f"head -c {OUTPUT_BYTES_MAX} /dev/zero"))
        assert (len(exact.stdout), exact.truncated) == (OUTPUT_BYTES_MAX, False)


async def test_full_disk_costs_output_and_not_the_service(up: Up) -> None:
    async with up() as run:
        (run.folder / "full.log").symlink_to("/dev/full")
        # The link is not followed either: nobody can make the keeper write elsewhere.
        with pytest.raises(ContainerError, match="cannot start another process"):
            await run.start_process(ProcessOptions("echo x", id="full"))
        process = await run.start_process(ProcessOptions("echo x"))
        assert await process.wait() == 0


async def test_signal_reaches_the_whole_group(up: Up, lifeline: Lifeline) -> None:
    async with up() as run:
        process = await run.start_process(
            ProcessOptions('exec 9>"$L"; sleep 1000000 & echo up >&9; wait', env={"L": str(lifeline.path)})
        )
        await lifeline.wait_held()
        await process.kill(signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM
        await lifeline.wait_released()
        await process.kill()
        with pytest.raises(ValueError, match="no signal"):
            await process.kill(12345)


async def test_cancelled_command_is_killed_with_its_group(up: Up, lifeline: Lifeline) -> None:
    async with up() as run:
        options = ProcessOptions(
            "trap '' TERM; exec 9>\"$L\"; sleep 1000000 & echo up >&9; wait; wait", env={"L": str(lifeline.path)}
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.exec, options)
            await lifeline.wait_held()
            nursery.cancel_scope.cancel()
        await lifeline.wait_released()
        assert sorted(os.listdir(run.folder)) == ["keeper", "keeper.stderr"]


async def test_cancelled_start_of_a_service_leaves_it_listed_or_unstarted(up: Up) -> None:
    async with up() as run:
        for turns in range(4):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.start_process, ProcessOptions(FOREVER, id=f"p{turns}"))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        asked_for = list(run._alive.values())
        for service in asked_for:
            await service.settled.wait()
        assert list(run.processes()) == asked_for


async def test_daemon_left_behind_keeps_the_run_busy(up: Up, lifeline: Lifeline) -> None:
    async with up() as run:
        process = await run.start_process(
            ProcessOptions('setsid sh -c "echo up > $L; exec sleep 1000000" &', env={"L": str(lifeline.path)})
        )
        assert await process.wait() == 0
        await lifeline.wait_held()
        assert run.busy


async def test_run_is_idle_again_after_its_last_process(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    idle = trio.Event()

    def watch(run: ProcessRun, event: bytes, fields: Sequence[bytes]) -> None:
        apply(run, event, fields)
        if event == b"idle":
            idle.set()

    apply = ProcessRun._apply
    monkeypatch.setattr(ProcessRun, "_apply", watch)
    async with up() as run:
        process = await run.start_process(ProcessOptions(FOREVER))
        busy = [run.busy]
        await process.kill(signal.SIGKILL)
        await idle.wait()
        assert [*busy, run.busy] == [True, False]
        assert process.exit_code == -signal.SIGKILL


async def test_stop_is_polite_first(up: Up, lifeline: Lifeline) -> None:
    script = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print("bye"), sys.exit(0)))
with open(os.environ["L"], "w") as fifo:
    print("ready", file=fifo)
while True:
    signal.pause()
"""
    async with up() as run:
        options = ProcessOptions(["python", "-c", script], env={"L": str(lifeline.path)})
        process = await run.start_process(options)
        await lifeline.wait_held()
        await run.stop()
        assert process.exit_code == 0
        assert await process.logs() == b"bye\n"


async def test_stop_leaves_nothing_of_what_does_not_heed_it(
    up: Up, lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with up() as run:
        run._stop_grace = 0.05
        process = await run.start_process(ProcessOptions(STUBBORN, env={"LIFELINE": str(lifeline.path)}))
        assert sorted(await lifeline.wait_held(4)) == ["daemon", "nohup", "orphan", "service"]
        await run.stop()
        await lifeline.wait_released()
        assert process.exit_code == -signal.SIGKILL
        assert await run.wait_stopped() == "stopped"


async def test_cancelled_polite_wait_goes_on_to_force_at_once(up: Up, lifeline: Lifeline) -> None:
    async with up() as run:
        run._stop_grace = 1000.0
        await run.start_process(ProcessOptions(STUBBORN, env={"LIFELINE": str(lifeline.path)}))
        await lifeline.wait_held(4)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.stop)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await lifeline.wait_released()


async def test_stopped_process_that_is_standing_still_is_ended_politely(up: Up) -> None:
    async with up() as run:
        process = await run.start_process(ProcessOptions(FOREVER))
        await process.kill(signal.SIGSTOP)
        await run.stop()
        assert process.exit_code == -signal.SIGTERM


async def test_processes_that_fork_faster_than_they_are_killed_are_ended(up: Up, lifeline: Lifeline) -> None:
    # Every child starts its successor and exits: there is never one to wait for, only the next.
    script = """
import os
fd = os.open(os.environ["L"], os.O_WRONLY)
os.write(fd, b"up\\n")
for _ in range(8):
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
"""
    async with up() as run:
        run._stop_grace = 0.0
        await run.start_process(ProcessOptions(["python", "-c", script], env={"L": str(lifeline.path)}))
        await lifeline.wait_held()
        await run.stop()
        await lifeline.wait_released()


async def test_stopped_run_starts_nothing(up: Up) -> None:
    async with up() as run:
        await run.stop()
        with pytest.raises(ContainerError, match="the run has stopped"):
            await run.start_process(ProcessOptions("true"))
        with pytest.raises(ContainerError, match="the run has stopped"):
            await run.exec(ProcessOptions("true"))


async def test_keeper_stands_apart_from_the_servers_terminal_and_environment(
    up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_SECRET", "hunter2")
    async with up() as run:
        keeper = run._keeper.pid
        assert os.getsid(keeper) == keeper
        assert b"hunter2" not in await trio.Path(f"/proc/{keeper}/environ").read_bytes()


async def test_output_that_was_still_in_the_pipe_at_the_end_is_not_lost(up: Up) -> None:
    # The keeper stands still while a larger pipe than usual is filled and its writer exits.
    script = """
import fcntl, os, select, signal
keeper, writer = os.getppid(), os.getpid()
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
os.kill(keeper, signal.SIGSTOP)
if os.fork() == 0:
    os.close(1), os.close(2)
    poll = select.poll()
    poll.register(os.pidfd_open(writer), select.POLLIN)
    poll.poll()
    os.kill(keeper, signal.SIGCONT)
    os._exit(0)
os.write(1, bytes(500_000))
"""
    async with up() as run:
        result = await run.exec(ProcessOptions(["python", "-c", script]))
        assert (len(result.stdout), result.truncated) == (500_000, False)


async def test_secrets_of_the_environment_are_in_no_text(up: Up) -> None:
    async with up() as run:
        process = await run.start_process(ProcessOptions(FOREVER, env={"TOKEN": "hunter2"}))
        assert "hunter2" not in f"{process!r} {run!r} {process.command}"
        for pid in (process.pid, int((run.folder / "keeper").read_text().split()[0])):
            assert b"hunter2" not in await trio.Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_process_is_running_until_it_is_told_otherwise(up: Up) -> None:
    async with up() as run:
        process = await run.start_process(ProcessOptions(["sleep", "1000000"], id="nap"))
        assert (process.id, process.command, process.status) == ("nap", "sleep 1000000", ProcessStatus.RUNNING)
        os.kill(process.pid, 0)
        with trio.move_on_after(0) as scope:
            await process.wait()
        assert scope.cancelled_caught
        assert process.exit_code is None


def test_log_turned_over_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "web.log"
    assert read_log(path) == b""
    path.write_bytes(b"new")
    (tmp_path / "web.log.1").write_bytes(b"old")
    assert read_log(path) == b"oldnew"


async def test_keeper_that_does_nothing_is_killed_and_swept_after(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEPER_END_S", 0.1)
    monkeypatch.setattr(module, "KILL_SECONDS_MAX", 0.1)
    async with up() as run:
        run._stop_grace = 0.0
        process = await run.start_process(ProcessOptions(FOREVER))
        pidfd = os.pidfd_open(process.pid)
        os.kill(run._keeper.pid, signal.SIGSTOP)
        await run.stop()
        await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
        assert process.exit_code == -signal.SIGKILL
        assert isinstance(run, ProcessRun)
