"""How somebody who builds on Portico tests what they have built: a policy, a kind of container, a preview.

Copy it, and run it with ``pytest test_my_platform.py``; it needs ``pip install portico[testing]`` and nothing else.

The platform here is small: it keeps a port for its own dashboard, publishes each project under a token of its own,
and runs services inside its own process.
"""

# ruff: noqa: ARG001, ARG002 - what a container is given is more than this one needs

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from actors import (
    Container,
    ContainerContext,
    ContainerProcess,
    ExecResult,
    NotListeningError,
    Port,
    PortToken,
    ProcessOptions,
    Rules,
    Run,
    UnsupportedError,
)
from actors.sandbox import ExposePort, Refusal, SandboxState
from actors.testing import SandboxMachine, check_container, strategies
from proxy.testing import preview_engine, respond

# What the platform consists of.

DASHBOARD = 5173
OUR_RULES = Rules(reserved_ports=frozenset({3000, DASHBOARD}))


def publish(project: str, port: int) -> ExposePort:
    """Expose a port under the project's own token, so that its URL outlives the sandbox."""
    token = PortToken(f"of_{project}")
    return ExposePort(port, minted=token, token=token, name=project)


def summary(state: SandboxState) -> str:
    """Say in one line what a sandbox has, for a page that everybody may see."""
    ports = ", ".join(f"{port} ({exposure.name or 'no name'})" for port, exposure in sorted(state.ports.items()))
    return f"{state.sandbox}: {state.status}, {ports or 'no ports'}"


Service = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


class InProcessContainer:
    """Services are functions of this process; there are no files, and no processes to start."""

    def __init__(self, services: Mapping[int, Service]) -> None:
        self._services = services

    @property
    def asleep(self) -> None:
        """None: nothing stays here over a sleep."""

    async def start(self, run_id: str, nursery: trio.Nursery) -> Run:
        run = InProcessRun(run_id, self._services)
        await nursery.start(run.serve)
        return run

    async def reattach(self, run_id: str, nursery: trio.Nursery) -> Run | None:
        await trio.lowlevel.checkpoint()
        return None

    async def retire(self) -> None:
        await trio.lowlevel.checkpoint()

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()


class InProcessRun:
    detachable = False
    busy = False
    comes_back = False

    def __init__(self, run_id: str, services: Mapping[int, Service]) -> None:
        self.run_id = run_id
        self._services = services
        self._conversations: trio.Nursery | None = None
        self._ended = trio.Event()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as self._conversations:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._conversations = None
            self._ended.set()

    async def dial(self, port: int) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        service = self._services.get(port)
        if service is None or self._conversations is None:
            raise NotListeningError(port, [("in process", "no such service")])
        ours, theirs = trio.testing.memory_stream_pair()
        self._conversations.start_soon(service, theirs)
        return ours

    async def wait_listening(self, port: int) -> None:
        await trio.lowlevel.checkpoint()

    async def is_anothers(self, port: int) -> bool:  # nobody else is in this process
        await trio.lowlevel.checkpoint()
        return False

    async def start_process(self, options: ProcessOptions) -> ContainerProcess:
        raise UnsupportedError("services are functions here, not processes")

    async def exec(self, options: ProcessOptions) -> ExecResult:
        raise UnsupportedError("services are functions here, not processes")

    def processes(self) -> Sequence[ContainerProcess]:
        return ()

    async def stop(self) -> None:
        if self._conversations is not None:
            self._conversations.cancel_scope.cancel()
        await self._ended.wait()

    async def sleep(self) -> None:
        await self.stop()

    async def wait_stopped(self) -> str:
        await self._ended.wait()
        return "stopped"


# A property: Portico's strategies draw the states, the law is ours.


@given(strategies.states())
def test_summary_shows_no_token(state: SandboxState | None) -> None:
    if state is not None:
        told = summary(state)
        assert all(exposure.token.reveal() not in told for exposure in state.ports.values())


# A life: the rules and laws of Portico, with one rule and two laws of ours.


class OurSandboxes(SandboxMachine):
    policy = OUR_RULES

    @rule(project=st.sampled_from(["shop", "blog"]), port=st.sampled_from([8080, 9000, DASHBOARD]))
    def a_project_is_published(self, project: str, port: int) -> None:
        decided = self.do(publish(project, port))
        assert isinstance(decided, Refusal) or (self.state is not None and Port(port) in self.state.ports)

    @invariant()
    def the_dashboard_is_never_public(self) -> None:
        assert self.state is None or DASHBOARD not in self.state.ports

    @invariant()
    def a_project_has_one_url(self) -> None:
        tokens = [exposure.token for exposure in self.state.ports.values()] if self.state is not None else []
        assert tokens.count(PortToken("of_shop")) <= 1


TestOurSandboxes = OurSandboxes.TestCase


# A container: every promise that Portico needs kept.


async def say_hello(stream: trio.abc.HalfCloseableStream) -> None:
    async with stream:
        await stream.send_all(b"hello")


@pytest.mark.trio
async def test_our_container_keeps_its_promises(tmp_path: Path) -> None:
    def make(context: ContainerContext) -> Container:
        return InProcessContainer({7000: say_hello})

    async def serve(run: Run) -> int:
        await trio.lowlevel.checkpoint()
        return 7000

    await check_container(make, tmp_path, serve=serve)


# A preview: the whole engine in one test, with no socket and no waiting.


@pytest.mark.trio
async def test_preview_is_served_until_it_is_taken_back(autojump_clock: trio.testing.MockClock) -> None:
    async with preview_engine() as engine:
        url = await engine.expose(respond(b"our shop"), port=8080)
        response = await engine.get(url)
        assert (response.status, response.body) == (200, b"our shop")
        await (await engine.sandbox()).unexpose_port(8080)
        assert (await engine.get(url)).code == "INVALID_TOKEN"
