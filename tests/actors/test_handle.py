"""What owners hold: ports, URLs, processes, the gate."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from actors.errors import (
    CustomDomainRequiredError,
    InvalidNameError,
    NotListeningError,
    ProcessNotFoundError,
    RevocationIncompleteError,
    SandboxNotFoundError,
    SandboxStoppedError,
    SecurityError,
)
from actors.handle import ExposedPort, PortStatus, Sandbox
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import RefusedBecause, VisitRequest
from actors.sandbox.events import HostHeader
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId
from actors.sandbox.urls import Domain, PublicAddress
from actors.testing.containers import HELLO, FakeContainers, fake_containers
from actors.visits import Visit

NAME = SandboxId("my-app")


@asynccontextmanager
async def running(containers: FakeContainers | None = None) -> AsyncIterator[tuple[Runtime, Sandbox]]:
    fakes = containers or fake_containers()
    async with open_runtime(MemoryStore(), containers={"process": fakes}, clock=trio.current_time) as runtime:
        yield runtime, await runtime.get_sandbox(NAME)


async def serve(stream: trio.abc.HalfCloseableStream) -> None:
    await stream.send_all(b"hello")


# Ports.


async def test_an_exposed_port_keeps_its_url_until_it_is_given_another_token() -> None:
    async with running() as (runtime, sandbox):
        runtime.public_address = PublicAddress(Domain("localhost"), 8787)
        first = await sandbox.expose_port(8080, name="web")
        assert first.url == first.exposed_at == f"http://8080-my-app-{first.token}.localhost:8787/"
        again = await sandbox.expose_port(8080)
        assert again == first
        assert again.url == first.url
        other = await sandbox.expose_port(8080, token="mine")
        assert (other.token, other.name) == ("mine", "web")
        assert other.url == "http://8080-my-app-mine.localhost:8787/"
        await sandbox.unexpose_port(8080)
        assert (await sandbox.expose_port(8080)).token not in (first.token, "mine")


async def test_a_minted_token_has_sixteen_characters_without_an_underscore() -> None:
    async with running() as (_, sandbox):
        token = (await sandbox.expose_port(8080)).token
        assert len(token) == 16
        assert token.isalnum()


async def test_a_url_is_built_on_the_hostname_that_was_asked_for() -> None:
    async with running() as (runtime, sandbox):
        exposed = await sandbox.expose_port(8080, hostname="Example.com", token="mine")
        assert exposed.url == "https://8080-my-app-mine.example.com/"
        without = await sandbox.expose_port(8080)
        with pytest.raises(RuntimeError, match="hostname"):
            assert without.url
        runtime.public_address = PublicAddress(Domain("localhost"), 8787)
        assert without.url == "http://8080-my-app-mine.localhost:8787/"
        (listed,) = await sandbox.get_exposed_ports("example.com")
        assert listed.url == exposed.url


async def test_what_cannot_be_exposed_is_refused_and_nothing_is_stored() -> None:
    async with running() as (_, sandbox):
        for port in (80, 1023, 65536, 3000, True):
            with pytest.raises(SecurityError):
                await sandbox.expose_port(port)
            with pytest.raises(SecurityError):
                sandbox.check_port(port)
        with pytest.raises(InvalidNameError):
            await sandbox.expose_port(8080, token="UPPER")
        with pytest.raises(InvalidNameError):
            await sandbox.expose_port(8080, hostname="example.com:8080")
        with pytest.raises(CustomDomainRequiredError):
            await sandbox.expose_port(8080, hostname="me.workers.dev")
        with pytest.raises(ValueError, match="nobody"):
            await sandbox.expose_port(8080, host_header="nobody")
        assert await sandbox.get_exposed_ports() == []
        assert sandbox.check_port(8080) == 8080


async def test_a_token_of_another_port_is_refused_by_naming_that_port() -> None:
    async with running() as (_, sandbox):
        await sandbox.expose_port(8080, token="mine")
        with pytest.raises(SecurityError, match="8080"):
            await sandbox.expose_port(9090, token="mine")


async def test_ports_are_listed_by_number_with_what_a_visit_would_meet() -> None:
    async with running() as (_, sandbox):
        for port in (9090, 8080, 8081):
            await sandbox.expose_port(port)
        assert [port.port for port in await sandbox.get_exposed_ports()] == [8080, 8081, 9090]
        assert {port.status for port in await sandbox.get_exposed_ports()} == {PortStatus.ASLEEP}
        async with sandbox.running():
            assert {port.status for port in await sandbox.get_exposed_ports()} == {PortStatus.ACTIVE}


async def test_the_host_rule_of_a_port_reaches_its_visits() -> None:
    async with running() as (runtime, sandbox):
        exposed = await sandbox.expose_port(8080, host_header="preserve")
        visit = await runtime.admit(NAME, VisitRequest(Port(8080), PortToken(exposed.token)))
        assert isinstance(visit, Visit)
        assert visit.grant.host_header is HostHeader.PRESERVE
        visit.end()


@pytest.mark.parametrize("port", [0, -1, 70000, True, 8080.0, "8080", None, []])
async def test_what_is_no_port_is_not_exposed(port: int) -> None:
    async with running() as (_, sandbox):
        await sandbox.expose_port(8080, token="mine")
        assert not await sandbox.is_port_exposed(port)
        assert not await sandbox.validate_port_token(port, "mine")


async def test_tokens_are_compared_whatever_is_sent() -> None:
    async with running() as (_, sandbox):
        await sandbox.expose_port(8080, token="mine")
        assert await sandbox.is_port_exposed(8080)
        for token, right in (("mine", True), (b"mine", True), ("Mine", False), ("", False), ("мine", False)):
            assert await sandbox.validate_port_token(8080, token) is right
        assert not await sandbox.validate_port_token(9090, "mine")


async def test_secrets_are_not_printed() -> None:
    async with running() as (runtime, sandbox):
        runtime.public_address = PublicAddress(Domain("localhost"), 8787)
        exposed = await sandbox.expose_port(8080, token="verysecret")
        assert isinstance(exposed, ExposedPort)
        assert "verysecret" not in repr(exposed)
        assert repr(sandbox) == "Sandbox(my-app)"
        secret = await sandbox.set_preview_auth()
        assert secret.reveal() not in repr(secret)
        assert secret.reveal() not in repr(await sandbox.state())


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
async def test_times_are_numbers_of_seconds(seconds: float) -> None:
    async with running() as (_, sandbox):
        await sandbox.expose_port(8080)
        await sandbox.set_preview_auth()
        with pytest.raises(ValueError, match="drain"):
            await sandbox.unexpose_port(8080, drain=seconds)
        with pytest.raises(ValueError, match="grace"):
            await sandbox.rotate_preview_auth(grace=seconds)
        assert await sandbox.is_port_exposed(8080)


# The gate.


async def test_a_rotated_token_stops_at_once() -> None:
    async with running() as (runtime, sandbox):
        exposed = await sandbox.expose_port(8080)

        async def knock(secret: str) -> Visit | RefusedBecause:
            request = VisitRequest(Port(8080), PortToken(exposed.token), secret.encode())
            visit = await runtime.admit(NAME, request)
            if isinstance(visit, Visit):
                visit.end()
            return visit

        with pytest.raises(InvalidNameError, match="no preview auth"):
            await sandbox.rotate_preview_auth()
        first = await sandbox.set_preview_auth()
        assert isinstance(await knock(first.reveal()), Visit)
        second = await sandbox.rotate_preview_auth(token="my-own-token-of-length")
        assert second.reveal() == "my-own-token-of-length"
        assert await knock(first.reveal()) is RefusedBecause.AUTH_INVALID
        assert isinstance(await knock(second.reveal()), Visit)
        with pytest.raises(InvalidNameError, match="16"):
            await sandbox.set_preview_auth("short")


async def test_a_gate_that_is_set_or_rotated_says_how_many_visits_it_has_cut() -> None:
    async with running() as (runtime, sandbox):
        exposed = await sandbox.expose_port(8080)

        async def enter(secret: PreviewToken | None) -> None:
            bearer = secret.reveal().encode() if secret is not None else None
            visit = await runtime.admit(NAME, VisitRequest(Port(8080), PortToken(exposed.token), bearer))
            assert isinstance(visit, Visit)
            visit.on_cut(lambda _: visit.end())

        await enter(None)
        first = await sandbox.set_preview_auth()
        assert first.closed == 1
        for _ in range(3):
            await enter(first)
        graceful = await sandbox.rotate_preview_auth(grace=60)
        assert graceful.closed == 0
        second = await sandbox.rotate_preview_auth()
        assert second.closed == 3
        assert second == PreviewToken(second.reveal())
        assert PreviewToken(second.reveal()) == second != first
        assert len({second, PreviewToken(second.reveal())}) == 1
        assert second.reveal() not in f"{second!r} {second}"


# Processes.


async def test_a_command_runs_to_its_end_in_a_container_brought_up_for_it() -> None:
    containers = fake_containers()
    async with running(containers) as (_, sandbox):
        result = await sandbox.exec(HELLO)
        assert (result.exit_code, result.stdout, result.stderr) == (3, b"hello", b"oops")
        assert len(containers.made[NAME].starts) == 1


async def test_a_process_is_listed_until_its_run_is_over() -> None:
    containers = fake_containers()
    async with running(containers) as (runtime, sandbox):
        assert await sandbox.list_processes() == []
        assert containers.made[NAME].starts == [], "looking wakes nothing"
        process = await sandbox.start_process("serve", id="web")
        assert (process.id, process.command, process.status.value, process.exit_code) == (
            "web",
            "serve",
            "running",
            None,
        )
        assert process.pid > 0
        (listed,) = await sandbox.list_processes()
        assert listed.id == "web"
        assert (await sandbox.get_process("web")).pid == process.pid
        with pytest.raises(ProcessNotFoundError):
            await sandbox.get_process("db")
        await process.kill()
        assert await process.wait() == process.exit_code == -15
        assert await process.logs() == b""
        run = runtime.live_run(NAME)
        assert run is not None
        await run.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert await sandbox.list_processes() == []


async def test_a_port_is_knocked_at_until_something_listens(autojump_clock: MockClock) -> None:
    containers = fake_containers()
    async with running(containers) as (_, sandbox), trio.open_nursery() as nursery:
        process = await sandbox.start_process("serve")
        nursery.start_soon(process.wait_for_port, 8080)
        await trio.sleep(3)
        assert nursery.child_tasks
        containers.made[NAME].handlers[8080] = serve
        await trio.sleep(0.6)
        assert not nursery.child_tasks


async def test_waiting_for_a_port_ends_with_its_time_or_with_the_process(autojump_clock: MockClock) -> None:
    async with running() as (_, sandbox):
        process = await sandbox.start_process("serve")
        with pytest.raises(trio.TooSlowError):
            await process.wait_for_port(8080, timeout=5)
        await process.kill()
        with pytest.raises(NotListeningError, match="exited with code -15"):
            await process.wait_for_port(8080)


async def test_a_port_that_somebody_else_holds_is_not_the_port_of_a_process_that_has_exited() -> None:
    async with running(fake_containers({8080: serve})) as (_, sandbox):
        process = await sandbox.start_process("serve")
        await process.wait_for_port(8080)
        await process.kill()
        with pytest.raises(NotListeningError, match="exited with code -15"):
            await process.wait_for_port(8080)


async def test_the_owner_dials_without_a_token() -> None:
    async with running(fake_containers({8080: serve})) as (_, sandbox), sandbox.running() as run:
        stream = await run.dial(8080)
        assert await stream.receive_some() == b"hello"
        await trio.aclose_forcefully(stream)


# The end.


async def test_a_stopped_sandbox_explains_itself_and_does_nothing() -> None:
    async with running() as (_, sandbox):
        await sandbox.stop()
        for call in (lambda: sandbox.expose_port(8080), lambda: sandbox.exec("true"), sandbox.set_preview_auth):
            with pytest.raises(SandboxStoppedError):
                await call()


async def test_a_handle_of_a_destroyed_sandbox_says_so() -> None:
    async with running() as (_, sandbox):
        await sandbox.destroy()
        for call in (sandbox.state, sandbox.get_exposed_ports, sandbox.list_processes, sandbox.stop):
            with pytest.raises(SandboxNotFoundError):
                await call()
        assert await sandbox.destroy() == 0


async def test_token_that_is_in_force_is_told_even_if_visits_did_not_end(autojump_clock: MockClock) -> None:
    async with running() as (runtime, sandbox):
        exposed = await sandbox.expose_port(8080)
        bearer: bytes | None = None
        for change in (sandbox.set_preview_auth, sandbox.rotate_preview_auth):
            stubborn = await runtime.admit(NAME, VisitRequest(Port(8080), PortToken(exposed.token), bearer))
            assert isinstance(stubborn, Visit)
            with pytest.raises(RevocationIncompleteError) as caught:
                await change()
            token = caught.value.token
            assert token is not None
            assert token.reveal() not in f"{caught.value!r} {caught.value} {vars(caught.value)}"
            stubborn.end()
            bearer = token.reveal().encode()
        visit = await runtime.admit(NAME, VisitRequest(Port(8080), PortToken(exposed.token), bearer))
        assert isinstance(visit, Visit)
        visit.end()
