"""A server that is killed with SIGKILL leaves none of the processes that ran in its containers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.e2e

# The server: several services of one container, in every way that is known to escape a supervisor. Each of them
# holds the FIFO and says so by a line.
SERVER = """
import sys
from pathlib import Path
import trio
from actors.containers import process_containers
from actors.containers.base import ContainerContext, ProcessOptions
from actors.sandbox.ids import SandboxId

DOUBLE_FORK = '''
import os, signal, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
os.write(os.open(os.environ["LINE"], os.O_WRONLY), b"double fork\\\\n")
while True:
    time.sleep(1000000)
'''
SERVICES = [
    "exec 9>$LINE; echo plain >&9; exec sleep 1000000",
    ["python", "-c", DOUBLE_FORK],
    "setsid sh -c 'exec 9>$LINE; echo setsid >&9; sleep 1000000' & exit 0",
    "exec 9>$LINE; sleep 1000000 & sleep 1000000 & nohup sh -c 'echo nohup >&9; sleep 1000000' & echo shell >&9; wait",
    # Without the environment by which leftovers are found.
    "exec 9>$LINE; (setsid env -i sh -c 'echo bare >&9; sleep 1000000' &); exit 0",
    # A process that a supervisor's signal finds standing still.
    "exec 9>$LINE; echo still >&9; kill -STOP $$; sleep 1000000",
]

async def main():
    context = ContainerContext(SandboxId("my-app"), Path(sys.argv[1]))
    container = process_containers()(context, {"sleep": sys.argv[3]})
    async with trio.open_nursery() as nursery:
        run = await container.start("run-1", nursery)
        for command in SERVICES:
            await run.start_process(ProcessOptions(command, env={"LINE": sys.argv[2]}))
        if sys.argv[3] == "freeze":
            # Those that are on their way to a daemon's place get there first.
            await trio.to_thread.run_sync(sys.stdin.readline)
            await run.sleep()
            assert container.asleep is run
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
LINES = ["bare", "double fork", "nohup", "plain", "setsid", "shell", "still"]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[int]:
    os.mkfifo(tmp_path / "line")
    reader = os.open(tmp_path / "line", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


async def read_lines(reader: int, count: int) -> list[str]:
    text = b""
    while text.count(b"\n") < count:
        await trio.lowlevel.wait_readable(reader)
        text += os.read(reader, 65536)
    return sorted(text.decode().splitlines())


async def wait_released(reader: int) -> None:
    """Block until no process holds the FIFO open for writing."""
    while True:
        await trio.lowlevel.wait_readable(reader)
        if os.read(reader, 65536) == b"":
            return


@pytest.mark.parametrize("sleep", ["stop", "freeze"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
async def test_server_that_is_killed_leaves_no_process(
    how: signal.Signals, sleep: str, tmp_path: Path, line: int
) -> None:
    """Neither what runs nor, with ``freeze``, what stands still."""
    with trio.fail_after(60):
        server = await trio.lowlevel.open_process(
            [sys.executable, "-c", SERVER, str(tmp_path / "my-app"), str(tmp_path / "line"), sleep],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            assert await read_lines(line, len(LINES)) == LINES
            if sleep == "freeze":
                await server.stdin.send_all(b"sleep\n")
            said = b""
            while said != b"up\n":
                said += await server.stdout.receive_some()
            identity = await (trio.Path(tmp_path) / "my-app/runs/run-1/keeper").read_text()
            keeper = os.pidfd_open(int(identity.split()[0]))
        finally:
            server.send_signal(how)
            await server.wait()
            await server.stdin.aclose()
            await server.stdout.aclose()
        await wait_released(line)
        await trio.lowlevel.wait_readable(keeper)
        os.close(keeper)
