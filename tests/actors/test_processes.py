"""What owners hold of a service; most of it is tested where sandboxes are, this is about its log as it grows."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from actors import MemoryStore, NotListeningError, PortTakenError, Process, open_runtime
from actors.processes import PORT_POLL_FIRST_S, TAKEN_S
from actors.testing.containers import FakeContainer, fake_containers


async def test_log_is_followed_from_its_beginning_to_the_end_of_the_process() -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="process")
        process = await sandbox.start_process("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 3")
        found = b""
        with trio.fail_after(20):
            async with process.follow_logs() as pieces:
                async for piece in pieces:
                    if not found:
                        await sandbox.exec("touch go")
                    found += piece
        assert found == b"one\ntwo\n"
        assert process.exit_code == 3


async def test_log_of_a_process_that_has_exited_is_told_whole() -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="process")
        process = await sandbox.start_process("head -c 300000 /dev/zero")
        with trio.fail_after(20):
            await process.wait()
            async with process.follow_logs() as pieces:
                assert sum([len(piece) async for piece in pieces]) == 300_000


# Whose the port is.


@asynccontextmanager
async def service(anothers: set[int]) -> AsyncIterator[tuple[Process, FakeContainer]]:
    """A service in a place where port 8080 answers, and those of `anothers` are another program's."""
    containers = fake_containers({8080: answer})
    async with open_runtime(MemoryStore(), containers={"process": containers}) as runtime:
        process = await (await runtime.get_sandbox("my-app")).start_process("serve", id="web")
        [container] = containers.made.values()
        container.anothers = anothers
        yield process, container


async def answer(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(b"hello")


async def test_port_that_another_program_keeps_is_said_to_be_taken(autojump_clock: trio.testing.MockClock) -> None:
    async with service({8080}) as (process, _):
        with pytest.raises(PortTakenError, match=r"^port 8080 is taken by another program$") as caught:
            await process.wait_for_port(8080)
        assert TAKEN_S <= trio.current_time() < 2 * TAKEN_S
        assert (caught.value.port, caught.value.code) == (8080, "PORT_TAKEN")


async def test_time_for_which_a_port_is_taken_begins_at_the_first_knock(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that is the moment in which the clock begins."""
    monkeypatch.setattr("actors.processes.TAKEN_S", PORT_POLL_FIRST_S)
    async with service({8080}) as (process, _):
        assert trio.current_time() == 0.0
        with pytest.raises(PortTakenError):
            await process.wait_for_port(8080)
        assert trio.current_time() == PORT_POLL_FIRST_S


async def test_port_that_another_program_leaves_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with service({8080}) as (process, container), trio.open_nursery() as nursery:
        nursery.start_soon(process.wait_for_port, 8080)
        await trio.sleep(TAKEN_S / 2)
        assert nursery.child_tasks
        container.anothers = set()


async def test_port_that_is_taken_anew_is_waited_for_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with service({8080}) as (process, container), trio.open_nursery() as nursery:
        nursery.start_soon(process.wait_for_port, 8080)
        for taken in (8080, 8081, 8080):
            # Nobody answers while it is the other port that is served.
            container._shared_handlers = {taken: answer}
            await trio.sleep(TAKEN_S * 0.6)
        container.anothers = set()


async def test_time_to_wait_that_is_short_is_kept_for_a_taken_port_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with service({8080}) as (process, _):
        with pytest.raises(PortTakenError):
            await process.wait_for_port(8080, timeout=TAKEN_S / 2)
        assert trio.current_time() == TAKEN_S / 2
        with pytest.raises(trio.TooSlowError):
            await process.wait_for_port(8081, timeout=1)


async def test_service_that_exits_as_its_port_is_taken_is_told_with_both(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with service({8080}) as (process, _):
        await process.kill(9)
        with pytest.raises(PortTakenError, match="taken by another program, and process web exited with code -9"):
            await process.wait_for_port(8080)
        with pytest.raises(NotListeningError, match=r"refused.*exited with code -9"):
            await process.wait_for_port(8081)


async def test_port_of_this_very_program_is_not_the_sandboxs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with open_runtime(MemoryStore()) as runtime:
            process = await (await runtime.get_sandbox("my-app")).start_process("exec sleep 1000000")
            with pytest.raises(PortTakenError):
                await process.wait_for_port(sock.getsockname()[1], timeout=0.2)
