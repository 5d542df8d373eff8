"""Sessions, over real processes: what goes in, what comes out, and what is left of it."""

import os
import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_trio
import trio
import trio.testing

from actors import ContainerError, MemoryStore, Run, Runtime, Sandbox, SandboxNotFoundError, open_runtime
from actors.containers.launch import Launch
from actors.testing.containers import fake_containers
from proxy.api import sessions as module
from proxy.api.problems import ProblemError
from proxy.api.sessions import PIECE_BYTES, SCROLLBACK_BYTES_MAX, Session, Sessions, Stream


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    """One that leaves no folder of a session behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with open_runtime(MemoryStore()) as opened:
        yield opened
    assert not [name for name in os.listdir(tmp_path) if name.startswith("portico-session-")]


async def make(runtime: Runtime) -> Sandbox:
    return await runtime.get_sandbox("my-app", container="process")


async def run_through(sessions: Sessions, sandbox: Sandbox) -> Session:
    """Return a session that has ended."""
    session = await sessions.start(sandbox, "true", [])
    with trio.fail_after(20):
        await session.ended.wait()
    return session


async def test_streams_are_told_apart_and_the_exit_code_comes_last(runtime: Runtime, nursery: trio.Nursery) -> None:
    sessions = Sessions(nursery)
    script = 'read line; echo "got $line $A in $PWD"; echo bad >&2; exit 7'
    sandbox = await make(runtime)
    session = await sessions.start(sandbox, "sh", ["-c", script], env={"A": "b"}, cwd="/")
    assert session.exit_code is None
    await session.write(b"hello\n")
    with trio.fail_after(20):
        await session.ended.wait()
    assert session.output(Stream.STDOUT) == b"got hello b in /\n"
    assert session.output(Stream.STDERR) == b"bad\n"
    code: object = session.exit_code
    assert (code, session.truncated, session.timed_out) == (7, False, False)
    # Nobody is there to read it.
    await session.write(b"more")
    assert await sessions.find(sandbox, session.id) is session
    assert await sessions.of(sandbox) == [session]


async def test_output_is_kept_within_bounds(runtime: Runtime, nursery: trio.Nursery) -> None:
    size = SCROLLBACK_BYTES_MAX + 300_000
    session = await Sessions(nursery).start(await make(runtime), "head", ["-c", str(size), "/dev/zero"])
    with trio.fail_after(20):
        await session.ended.wait()
    assert session.truncated
    kept = len(session.output(Stream.STDOUT))
    assert SCROLLBACK_BYTES_MAX * 0.9 <= kept <= SCROLLBACK_BYTES_MAX


async def test_what_keeping_many_pieces_costs_is_within_the_bounds_too(runtime: Runtime, nursery: trio.Nursery) -> None:
    session = await Sessions(nursery).start(await make(runtime), "cat", [])
    held = 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(40_000):
            # As if the command printed byte by byte, in numbers that a byte has no object of its own for.
            session._add(Stream.STDOUT, b"%c" % (number % 2 + 97) * 2)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert session.truncated
    assert held <= SCROLLBACK_BYTES_MAX
    [*_, last] = session.pieces_from(39_998)
    assert (last.number, last.data) == (39_999, b"bb")
    assert len(session.pieces_from(0)) == len(session.output(Stream.STDOUT)) / 2
    await session.kill(9)
    with trio.fail_after(20):
        await session.ended.wait()


async def test_child_that_prints_on_byte_by_byte_does_not_hold_up_the_end(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await Sessions(nursery).start(await make(runtime), "cat", [])
    reads = 0

    def read(descriptor: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return b"x"

    monkeypatch.setattr(os, "read", read)
    session._drain(Stream.STDOUT)
    assert reads <= SCROLLBACK_BYTES_MAX / PIECE_BYTES + 1
    monkeypatch.undo()
    await session.kill(9)
    with trio.fail_after(20):
        await session.ended.wait()


async def test_session_ends_with_its_sandbox_and_the_next_of_that_name_has_none_of_it(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = trio.Event()
    forget_gone = Sessions._forget_gone

    async def forget_and_tell(sessions: Sessions, sandbox: Sandbox) -> None:
        await forget_gone(sessions, sandbox)
        if not sessions._sessions:
            forgotten.set()

    monkeypatch.setattr(Sessions, "_forget_gone", forget_and_tell)
    sessions, sandbox = Sessions(nursery), await make(runtime)
    ended = await sessions.start(sandbox, "echo", ["a secret"])
    with trio.fail_after(20):
        await ended.ended.wait()
    # Not by way of the sessions: whoever embeds the runtime may do so behind their back.
    await sandbox.destroy()
    again = await make(runtime)
    assert await sessions.of(again) == []
    assert await sessions.find(again, ended.id) is None
    running = await sessions.start(again, "cat", [])
    assert await sessions.of(again) == [running]
    await sandbox.destroy()
    with trio.fail_after(20):
        await running.ended.wait()
        await forgotten.wait()
    again = await make(runtime)
    own = await sessions.start(again, "true", [])
    assert await sessions.of(again) == [own]
    with trio.fail_after(20):
        await own.ended.wait()


async def test_what_was_printed_is_forgotten_as_the_sandbox_is_destroyed(
    runtime: Runtime, nursery: trio.Nursery
) -> None:
    sessions, sandbox = Sessions(nursery), await make(runtime)
    other = await sessions.start(await runtime.get_sandbox("other", container="process"), "true", [])
    ended = await sessions.start(sandbox, "echo", ["a secret"])
    with trio.fail_after(20):
        await ended.ended.wait()
        await other.ended.wait()
    assert await sessions.destroy(sandbox) == 0
    assert [*sessions._sessions.values()] == [other]
    with pytest.raises(SandboxNotFoundError):
        await sessions.of(sandbox)


async def test_command_is_not_started_in_the_next_sandbox_of_that_name(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, sandbox = Sessions(nursery), await make(runtime)
    running = Sandbox.running

    @asynccontextmanager
    async def after_another(self: Sandbox) -> AsyncIterator[Run]:
        await sandbox.destroy()
        await make(runtime)
        async with running(self) as run:
            yield run

    monkeypatch.setattr(Sandbox, "running", after_another)
    with pytest.raises(SandboxNotFoundError, match="meanwhile"):
        await sessions.start(sandbox, "cat", [])
    monkeypatch.undo()
    assert await sandbox.list_processes() == []
    assert sessions._sessions == {}


async def test_command_is_not_started_again_by_a_wake(runtime: Runtime, nursery: trio.Nursery) -> None:
    sessions, sandbox = Sessions(nursery), await make(runtime)
    session = await sessions.start(sandbox, "cat", [])
    await sandbox.hibernate()
    with trio.fail_after(20):
        await session.ended.wait()
    await sandbox.wake()
    assert await sandbox.list_processes() == []
    # It is the same sandbox, and what was printed is still there to be read.
    assert await sessions.of(sandbox) == [session]


async def test_command_that_does_not_read_holds_up_its_writer_until_it_ends(
    runtime: Runtime, nursery: trio.Nursery
) -> None:
    session = await Sessions(nursery).start(await make(runtime), "sleep", ["100"])
    async with trio.open_nursery() as writing:
        writing.start_soon(session.write, b"x" * 1_000_000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await session.kill(9)
        with trio.fail_after(20):
            await session.ended.wait()
    assert session.exit_code == -9


async def test_command_is_killed_when_its_time_is_up(runtime: Runtime, nursery: trio.Nursery) -> None:
    session = await Sessions(nursery).start(await make(runtime), "sleep", ["100"], timeout_s=0.1)
    with trio.fail_after(20):
        await session.ended.wait()
    assert (session.timed_out, session.exit_code) == (True, -9)


async def test_program_that_is_not_there_is_127(runtime: Runtime, nursery: trio.Nursery) -> None:
    session = await Sessions(nursery).start(await make(runtime), "no-such-program", [])
    with trio.fail_after(20):
        await session.ended.wait()
    assert session.exit_code == 127
    assert b"not found" in session.output(Stream.STDERR)


async def test_news_are_waited_for(runtime: Runtime, nursery: trio.Nursery) -> None:
    session = await Sessions(nursery).start(await make(runtime), "cat", [])
    number = 0
    with trio.fail_after(20):
        for word in (b"one", b"two"):
            await session.write(word)
            await session.wait_news(number)
            [piece] = session.pieces_from(number)
            assert piece.data == word
            assert word.decode() not in repr(piece)
            number = piece.number + 1
        await session.kill(15)
        await session.wait_news(number)
        await session.ended.wait()


async def test_oldest_ended_session_makes_room(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 1)
    sessions, sandbox = Sessions(nursery), await make(runtime)
    first = await sessions.start(sandbox, "true", [])
    with trio.fail_after(20):
        await first.ended.wait()
    second = await sessions.start(sandbox, "sleep", ["100"])
    assert await sessions.of(sandbox) == [second]
    with pytest.raises(ContainerError, match="sessions run already"):
        await sessions.start(sandbox, "true", [])
    await second.kill(9)
    await second.ended.wait()


async def test_sandbox_at_its_share_makes_room_among_its_own(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS_PER_SANDBOX_MAX", 2)
    sessions, greedy = Sessions(nursery), await make(runtime)
    other = await runtime.get_sandbox("other", container="process")
    bystander = await run_through(sessions, other)
    ended = [await run_through(sessions, greedy) for _ in range(4)]
    assert await sessions.of(greedy) == ended[-2:]
    assert await sessions.of(other) == [bystander]
    running = [await sessions.start(greedy, "sleep", ["100"]) for _ in range(2)]
    with pytest.raises(ContainerError, match="in this sandbox"):
        await sessions.start(greedy, "true", [])
    assert await sessions.of(greedy) == running
    await run_through(sessions, other)
    for session in running:
        await session.kill(9)
        await session.ended.wait()


async def test_room_on_a_full_server_is_made_by_who_has_most(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SESSIONS_MAX", 3)
    sessions, greedy = Sessions(nursery), await make(runtime)
    other, third = [await runtime.get_sandbox(name, container="process") for name in ("other", "third")]
    bystander = await run_through(sessions, other)
    _, newest = [await run_through(sessions, greedy) for _ in range(2)]
    last = await run_through(sessions, third)
    assert [*sessions._sessions.values()] == [bystander, newest, last]


async def test_start_that_fails_leaves_nothing(runtime: Runtime, nursery: trio.Nursery) -> None:
    sessions, sandbox = Sessions(nursery), await make(runtime)
    with pytest.raises(ContainerError):
        await sessions.start(sandbox, "true", ["a\0b"])
    assert not await sessions.of(sandbox)


@pytest.mark.parametrize("when", ["while it starts", "as it has started"])
async def test_command_of_a_start_that_is_cancelled_does_not_run_on(
    runtime: Runtime, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    sessions, sandbox = Sessions(nursery), await make(runtime)
    await sandbox.wake()
    scope = trio.CancelScope()
    start, frame = Session.start, Launch.frame

    async def cancelled_then(self: Session, *arguments: Any) -> None:
        await start(self, *arguments)
        # The command has its pipes, and runs on without them.
        await trio.lowlevel.wait_readable(self._descriptors[Stream.STDOUT])
        scope.cancel()

    def cancelled_soon(self: Launch, *arguments: Any) -> bytes:
        # Once it is on its way to the keeper.
        trio.lowlevel.current_trio_token().run_sync_soon(scope.cancel)
        return frame(self, *arguments)

    if when == "while it starts":
        monkeypatch.setattr(Launch, "frame", cancelled_soon)
    else:
        monkeypatch.setattr(Session, "start", cancelled_then)
    with scope:
        await sessions.start(sandbox, "sh", ["-c", "echo; exec sleep 100"])
    assert scope.cancelled_caught
    assert await sessions.of(sandbox) == []
    [process] = await sandbox.list_processes()
    with trio.fail_after(5):
        # By a signal, or because its pipes were gone before it had opened them.
        assert await process.wait() != 0


async def test_container_that_does_not_start_a_command_is_not_waited_for_for_ever(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    class Hangs:
        async def start_process(self, _options: object) -> None:
            await trio.sleep_forever()

    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as other:
        state = await (await other.get_sandbox("x", container="fake")).state()
    session = Session(state, "true", [], tmp_path)
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(ContainerError, match="not started within"):
            await session.start(cast("Run", Hangs()), None, {})
    session.abandon()


async def test_kind_without_processes_of_ours_has_no_sessions(nursery: trio.Nursery) -> None:
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as other:
        with pytest.raises(ProblemError, match="no sessions"):
            await Sessions(nursery).start(await other.get_sandbox("x", container="fake"), "true", [])


async def test_sandbox_does_not_go_to_sleep_under_a_session(runtime: Runtime, nursery: trio.Nursery) -> None:
    session = await Sessions(nursery).start(await make(runtime), "cat", [])
    await trio.testing.wait_all_tasks_blocked(0.05)
    activation = runtime.actor(session.sandbox)._idle_activation()
    assert activation is not None
    assert activation._leases
    await session.kill(9)
    with trio.fail_after(20):
        await session.ended.wait()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not activation._leases
