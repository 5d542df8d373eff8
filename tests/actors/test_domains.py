"""Custom hostnames in a runtime: durable, seen only once they are, given back with their streams, never inherited."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from actors import domains as module
from actors.domains import Claimant, Domains
from actors.errors import (
    AppendFailedError,
    ContainerError,
    DomainNotFoundError,
    LogCorruptError,
    QuarantinedError,
    SandboxNotFoundError,
    SecurityError,
)
from actors.filestore import FileStore
from actors.handle import Sandbox
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import CutBecause, RefusedBecause, VisitRequest
from actors.sandbox.domains import DomainBinding, Proof
from actors.sandbox.ids import SYSTEM, Port, SandboxId
from actors.sandbox.urls import Domain
from actors.store import Entry, Store, Tenure
from actors.testing.containers import fake_containers
from actors.visits import Visit

NAME = "preview.my-app.com"
PORT = Port(8080)


@asynccontextmanager
async def running(store: Store | None = None) -> AsyncIterator[Runtime]:
    async with open_runtime(store or MemoryStore(), containers={"fake": fake_containers()}) as runtime:
        yield runtime


async def made(runtime: Runtime, name: str = "mine") -> Sandbox:
    return await runtime.get_sandbox(name, container="fake")


async def served(runtime: Runtime, sandbox: Sandbox, name: str = NAME) -> DomainBinding:
    """Bind a name to an exposed port, and have it verified."""
    await sandbox.expose_port(PORT, hostname="example.com")
    return await runtime.domains.verify(await sandbox.bind_domain(name, PORT))


def by(binding: DomainBinding, preview_token: bytes | None = None) -> VisitRequest:
    return VisitRequest(binding.port, preview_token=preview_token, binding=binding.number)


async def admitted(runtime: Runtime, binding: DomainBinding) -> Visit:
    visit = await runtime.admit(binding.sandbox, by(binding))
    assert isinstance(visit, Visit)
    return visit


# What is kept.


async def test_binding_serves_once_verified_and_survives(tmp_path: Path) -> None:
    async with running(FileStore(tmp_path)) as runtime:
        sandbox = await made(runtime)
        asked = await sandbox.bind_domain("Preview.My-App.com.", 8080)
        assert runtime.domains.find(NAME) is None
        assert not runtime.domains.stands(asked.number)
        verified = await runtime.domains.verify(asked)
        assert runtime.domains.find(NAME) == verified
        assert runtime.domains.stands(verified.number)
    async with running(FileStore(tmp_path)) as runtime:
        assert runtime.domains.find(NAME) == verified
        assert (await runtime.find_sandbox("mine")).get_domains() == [verified]
        # It is no sandbox.
        assert await runtime.list_sandboxes() == ["mine"]
        again = await (await made(runtime)).bind_domain(NAME, 8080)
        assert again == verified


async def test_store_without_custom_hostnames_has_no_log_of_them() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        await sandbox.destroy()
        assert not store.exists(SYSTEM)


async def test_grown_log_is_compacted_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_RECORDS", 3)
    store = MemoryStore()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        for number in range(5):
            await runtime.domains.verify(await sandbox.bind_domain(f"n{number}.example.org", 8080))
        table = runtime.domains.bindings()
    history = await store.read(SYSTEM)
    assert history.snapshot is not None
    assert len(history.records) < 3
    async with running(store) as runtime:
        assert runtime.domains.bindings() == table
        assert len(table) == 5


class Failing(MemoryStore):
    """Fails appends to the log of hostnames while it is told to, having written them or not."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: str | None = None

    async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        if tenure.sandbox == SYSTEM and self.failing is not None:
            if self.failing == "after":
                await super().append(tenure, entries)
            raise AppendFailedError("the disk is on fire")
        await super().append(tenure, entries)


@pytest.mark.parametrize("written", ["before", "after"])
async def test_change_that_failed_is_not_seen_and_the_next_one_reads_what_became_of_it(written: str) -> None:
    store = Failing()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        binding = await served(runtime, sandbox)
        store.failing = written
        with pytest.raises(AppendFailedError):
            await sandbox.unbind_domain(NAME)
        assert runtime.domains.find(NAME) == binding
        store.failing = None
        await sandbox.bind_domain("other.my-app.com", 8080)
        assert (runtime.domains.find(NAME) is None) is (written == "after")
        await sandbox.unbind_domain(NAME)
        assert runtime.domains.find(NAME) is None


@pytest.mark.parametrize("refused", [False, True])
async def test_streams_of_a_name_whose_end_was_written_all_the_same_end_with_the_next_change_of_anybody(
    refused: bool,
) -> None:
    store = Failing()
    async with running(store) as runtime:
        sandbox, other = await made(runtime), await made(runtime, "other")
        binding = await served(runtime, sandbox)
        staying = await served(runtime, other, "other.my-app.com")
        visits = [await admitted(runtime, one) for one in (binding, staying)]
        for visit in visits:
            visit.on_cut(lambda _, visit=visit: visit.end())  # type: ignore[misc]  # mypy infers no default
        store.failing = "after"
        with pytest.raises(AppendFailedError):
            await sandbox.unbind_domain(NAME)
        store.failing = None
        runtime.domains.reserve([Domain("example.com")])
        if refused:
            with pytest.raises(SecurityError):
                await other.bind_domain("a.example.com", 8080)
        else:
            await other.bind_domain("third.my-app.com", 8080)
        assert [visit.cut_because for visit in visits] == [CutBecause.UNBOUND, None]
        assert not runtime.domains.stands(binding.number)
        # Whoever asks again has nothing left to end.
        assert await sandbox.unbind_domain(NAME) == 0
        visits[1].end()


async def test_damaged_log_puts_no_sandbox_out_of_order() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        await served(runtime, await made(runtime))
    store.tamper(SYSTEM, lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:])
    async with running(store) as runtime:
        sandbox = await runtime.find_sandbox("mine")
        assert runtime.domains.find(NAME) is None
        with pytest.raises(LogCorruptError):
            await sandbox.bind_domain(NAME, 8080)
        assert await sandbox.is_port_exposed(8080)


async def test_cancelled_change_is_made_and_seen() -> None:
    async with running() as runtime:
        sandbox = await made(runtime)
        with trio.CancelScope() as scope:
            scope.cancel()
            await sandbox.bind_domain(NAME, 8080)
        assert [one.hostname for one in sandbox.get_domains()] == [NAME]


# What is refused.


async def test_what_may_not_be_bound_is_refused_before_anything_is_stored() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        runtime.domains.reserve([Domain("example.com")])
        for name in ("example.com", "a.example.com"):
            with pytest.raises(SecurityError, match=r"under example\.com"):
                await sandbox.bind_domain(name, 8080)
        for port in (3000, 80, 0, 70000):
            with pytest.raises(SecurityError, match="port"):
                await sandbox.bind_domain(NAME, port)
        with pytest.raises(SandboxNotFoundError):
            await runtime.bind_domain(SandboxId("nobody"), NAME, 8080)
        with pytest.raises(DomainNotFoundError):
            runtime.domains.binding(NAME, sandbox.id)
        assert not store.exists(SYSTEM)


async def test_name_under_a_domain_that_has_become_ours_does_not_serve() -> None:
    async with running() as runtime:
        binding = await served(runtime, await made(runtime))
        runtime.domains.reserve([Domain("other.com")])
        assert runtime.domains.find(NAME) == binding
        runtime.domains.reserve([Domain("my-app.com")])
        assert runtime.domains.find(NAME) is None
        assert not runtime.domains.stands(binding.number)


async def test_name_that_somebody_has_is_nobody_elses_until_the_dns_says_so() -> None:
    with capture_logs() as logged:
        async with running() as runtime:
            await take_over(runtime)
    (entry,) = [entry for entry in logged if entry["event"] == "hostname taken over"]
    assert (entry["of"], entry["by"]) == ("mine", "other")


async def take_over(runtime: Runtime) -> None:
    binding = await served(runtime, await made(runtime))
    visit = await admitted(runtime, binding)
    visit.on_cut(lambda _: visit.end())
    other = await made(runtime, "other")
    await other.expose_port(PORT, hostname="example.com")
    asked = await other.bind_domain(NAME, PORT)
    assert runtime.domains.find(NAME) == binding
    with pytest.raises(SecurityError, match="another sandbox: the TXT record"):
        await runtime.domains.verify(asked)
    assert not visit.cut_because

    taken = await runtime.domains.verify(asked, Proof.DNS)
    assert visit.cut_because is CutBecause.UNBOUND
    assert runtime.domains.find(NAME) == taken
    assert (await runtime.find_sandbox("mine")).get_domains() == []
    assert await runtime.admit(binding.sandbox, by(binding)) is RefusedBecause.INVALID_TOKEN
    (await admitted(runtime, taken)).end()


# Visits.


async def test_exposure_is_the_credential() -> None:
    async with running() as runtime:
        sandbox = await made(runtime)
        binding = await runtime.domains.verify(await sandbox.bind_domain(NAME, PORT))
        assert await runtime.admit(sandbox.id, by(binding)) is RefusedBecause.INVALID_TOKEN
        await sandbox.expose_port(PORT, hostname="example.com")
        visit = await admitted(runtime, binding)
        assert visit.grant.binding == binding.number
        visit.on_cut(lambda _: visit.end())
        assert await sandbox.unexpose_port(PORT) == 1
        assert visit.cut_because is CutBecause.UNEXPOSED
        assert await runtime.admit(sandbox.id, by(binding)) is RefusedBecause.INVALID_TOKEN


async def test_gate_is_a_gate_and_no_preflight_passes_it() -> None:
    async with running() as runtime:
        sandbox = await made(runtime)
        binding = await served(runtime, sandbox)
        token = await sandbox.set_preview_auth("a-token-of-some-length")
        assert await runtime.admit(sandbox.id, by(binding)) is RefusedBecause.AUTH_REQUIRED
        preflight = VisitRequest(PORT, preflight=True, binding=binding.number)
        assert await runtime.admit(sandbox.id, preflight) is RefusedBecause.AUTH_REQUIRED
        assert not runtime.statistics().runs
        visit = await runtime.admit(sandbox.id, by(binding, token.reveal().encode()))
        assert isinstance(visit, Visit)
        visit.end()


@pytest.mark.parametrize("how", ["unbind", "lead", "destroy"])
async def test_taking_back_cuts_the_visits_that_came_by_it_and_no_others(how: str) -> None:
    async with running() as runtime:
        sandbox = await made(runtime)
        binding = await served(runtime, sandbox)
        other = await served(runtime, sandbox, "second.my-app.com")
        visits = [await admitted(runtime, one) for one in (binding, other)]
        for visit in visits:
            visit.on_cut(lambda _, visit=visit: visit.end())  # type: ignore[misc]  # mypy infers no default
        if how == "unbind":
            assert await sandbox.unbind_domain(NAME) == 1
        elif how == "lead":
            await sandbox.bind_domain(NAME, 9090)
        else:
            assert await sandbox.destroy() == 2
        destroyed = how == "destroy"
        assert visits[0].cut_because is (CutBecause.DESTROYED if destroyed else CutBecause.UNBOUND)
        assert visits[1].cut_because is (CutBecause.DESTROYED if destroyed else None)
        assert not runtime.domains.stands(binding.number)
        assert runtime.admit_nowait(sandbox.id, by(binding)) is RefusedBecause.INVALID_TOKEN
        assert await runtime.admit(sandbox.id, by(binding)) is RefusedBecause.INVALID_TOKEN
        visits[1].end()


async def test_unbinding_waits_for_the_streams_it_cuts() -> None:
    async with running() as runtime:
        sandbox = await made(runtime)
        visit = await admitted(runtime, await served(runtime, sandbox))
        cut: list[int] = []

        async def unbind() -> None:
            cut.append(await sandbox.unbind_domain(NAME))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unbind)
            await trio.testing.wait_all_tasks_blocked()
            assert visit.cut_because is CutBecause.UNBOUND
            assert not cut
            visit.end()
        assert cut == [1]


async def test_visit_that_waits_for_a_wake_is_not_let_in_by_a_name_given_back_meanwhile() -> None:
    containers = fake_containers()
    async with open_runtime(MemoryStore(), containers={"fake": containers}) as runtime:
        sandbox = await made(runtime)
        binding = await served(runtime, sandbox)
        containers.made[sandbox.id].hold_starts()
        judged: list[object] = []

        async def visit() -> None:
            judged.append(await runtime.admit(sandbox.id, by(binding)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit)
            await trio.testing.wait_all_tasks_blocked()
            assert await sandbox.unbind_domain(NAME) == 0
            containers.made[sandbox.id].release_starts()
        assert judged == [RefusedBecause.INVALID_TOKEN]
        assert not runtime.statistics().visits


# Lives of a sandbox.


@pytest.mark.parametrize("made_anew", [False, True])
async def test_sandbox_that_is_destroyed_while_it_binds_leaves_nothing_to_the_next(
    made_anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as runtime:
        sandbox = await made(runtime)
        bind = runtime.domains.bind

        async def struck(hostname: str, claimant: Claimant, port: Port) -> DomainBinding:
            await sandbox.destroy()
            if made_anew:
                await made(runtime)
            return await bind(hostname, claimant, port)

        with monkeypatch.context() as patch:
            patch.setattr(runtime.domains, "bind", struck)
            with pytest.raises(SandboxNotFoundError):
                await sandbox.bind_domain(NAME, 8080)
        assert runtime.domains.bindings() == []
        # Nobody else is concerned, and the next one may ask for itself.
        await (await made(runtime)).bind_domain(NAME, 8080)


async def test_what_is_asked_for_while_it_is_destroyed_is_given_back_too() -> None:
    class Slow(MemoryStore):
        """Writes the name that is asked for while the sandbox is being destroyed."""

        async def append(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
            if tenure.sandbox == SYSTEM and entries[0].name == "domain_bound":
                nursery.start_soon(sandbox.destroy)
                await trio.testing.wait_all_tasks_blocked()
            await super().append(tenure, entries)

    store = Slow()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        async with trio.open_nursery() as nursery:
            await sandbox.bind_domain(NAME, 8080)
        assert not store.exists(sandbox.id)
        assert runtime.domains.bindings() == []


async def test_name_whose_asking_was_written_although_it_failed_is_not_inherited() -> None:
    store = Failing()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        store.failing = "after"
        with pytest.raises(AppendFailedError):
            await sandbox.bind_domain(NAME, 8080)
        store.failing = None
        await sandbox.destroy()
        await made(runtime)
        await (await made(runtime, "other")).bind_domain("other.my-app.com", 8080)
        assert [one.sandbox for one in runtime.domains.bindings()] == ["other"]


async def test_next_sandbox_of_a_name_inherits_nothing() -> None:
    store = MemoryStore()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        binding = await served(runtime, sandbox)
        await sandbox.destroy()
        assert runtime.domains.bindings() == []
        await made(runtime)
        assert await runtime.admit(sandbox.id, by(binding)) is RefusedBecause.INVALID_TOKEN


async def test_binding_of_a_sandbox_that_is_gone_ends_when_the_log_is_read() -> None:
    """A crash has come between the end of the one log and the other's."""
    store = MemoryStore()
    async with running(store) as runtime:
        await served(runtime, await made(runtime))
        await served(runtime, await made(runtime, "other"), "other.my-app.com")
    await store.bury(await store.claim(SandboxId("mine")))
    async with running(store) as runtime:
        assert [one.hostname for one in runtime.domains.bindings()] == ["other.my-app.com"]
    async with running(store) as runtime:
        assert runtime.domains.find(NAME) is None


async def test_name_of_a_destroyed_sandbox_is_taken_until_its_hostnames_are_given_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = Failing()
    async with running(store) as runtime:
        sandbox = await made(runtime)
        await served(runtime, sandbox)
        store.failing = "before"
        with pytest.raises(ContainerError, match="not cleared away: its hostnames"):
            await sandbox.destroy()
        assert store.exists(sandbox.id)
        with pytest.raises(QuarantinedError):
            await made(runtime)
        store.failing = None
    async with running(store) as runtime:
        await made(runtime)
        assert runtime.domains.bindings() == []


async def test_destroyed_sandbox_keeps_its_name_while_the_hostnames_cannot_be_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nobody knows which of them the next one would inherit, once the log is mended."""
    store = MemoryStore()
    async with running(store) as runtime:
        await served(runtime, await made(runtime))

    def flip(data: bytes) -> bytes:
        return data[:40] + bytes([data[40] ^ 1]) + data[41:]

    store.tamper(SYSTEM, flip)
    async with running(store) as runtime:
        with pytest.raises(ContainerError, match="not cleared away"):
            await (await runtime.find_sandbox("mine")).destroy()
        with pytest.raises(QuarantinedError):
            await made(runtime)
    store.tamper(SYSTEM, flip)
    async with running(store) as runtime:
        await made(runtime)
        assert runtime.domains.bindings() == []


async def test_look_up_is_a_plain_call_on_a_table_of_its_own() -> None:
    async def nobody(_sandbox: SandboxId, _bindings: frozenset[int]) -> int:
        raise AssertionError

    table = Domains(MemoryStore(), lambda: 0.0, nobody)
    assert table.find(NAME) is None
    assert not table.stands(1)
    await table.load()
    await table.aclose()
