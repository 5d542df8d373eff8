"""What the tests of process containers share: places on disk, and waiting for the end of what was spawned."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.containers.base import ContainerContext
from actors.containers.process import ProcessContainer
from actors.containers.process_run import ProcessRun
from actors.sandbox.ids import SandboxId

Up = Callable[..., AbstractAsyncContextManager[ProcessRun]]


@pytest.fixture
def container(tmp_path: Path) -> ProcessContainer:
    context = ContainerContext(SandboxId("my-app"), tmp_path / "my-app")
    return ProcessContainer(context, stop_grace=5.0, python=sys.executable, freezes=False, asleep={})


@pytest.fixture
def up(container: ProcessContainer) -> Up:
    """A run that is stopped at the end of the block, and must have left nothing."""

    @asynccontextmanager
    async def open_run(run_id: str = "run-1") -> AsyncIterator[ProcessRun]:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                run = await container.start(run_id, nursery)
                assert isinstance(run, ProcessRun)
                try:
                    yield run
                finally:
                    with trio.CancelScope(shield=True):
                        await run.stop()

    return open_run


class Lifeline:
    """A FIFO that services hold open for writing; its end at our side says that the last of them is gone.

    A shell service holds it with ``exec 9>$LIFELINE``, and so does all that it spawns.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lifeline"
        os.mkfifo(self.path)
        self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        # Ours, so that a reading end between two writers waits instead of seeing an end.
        self._writer = os.open(self.path, os.O_WRONLY)

    async def wait_held(self, lines: int = 1) -> list[str]:
        """Block until so many lines were written into it; return them."""
        text = b""
        while text.count(b"\n") < lines:
            await trio.lowlevel.wait_readable(self._reader)
            text += os.read(self._reader, 65536)
        return text.decode().split("\n")[:-1]

    async def wait_released(self) -> None:
        """Block until nobody else holds it any more. Afterwards it is of no use."""
        os.close(self._writer)
        self._writer = -1
        while True:
            await trio.lowlevel.wait_readable(self._reader)
            if os.read(self._reader, 65536) == b"":
                return

    def close(self) -> None:
        os.close(self._reader)
        if self._writer >= 0:
            os.close(self._writer)


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    line = Lifeline(tmp_path)
    yield line
    line.close()
