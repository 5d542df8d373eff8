"""What owners hold of a service; most of it is tested where sandboxes are, this is about its log as it grows."""

import trio
import trio.testing

from actors import MemoryStore, open_runtime


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
