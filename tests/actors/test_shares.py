"""Shares from their making to their end: links, sessions, and whom their end cuts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
from trio.testing import MockClock

from actors.errors import InvalidNameError, ShareNotFoundError, ShareSpentError
from actors.handle import Sandbox
from actors.history import describe_event, read_history
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import CutBecause, RefusedBecause, VisitRequest
from actors.sandbox.ids import Port, PortToken, SandboxId
from actors.sandbox.urls import SHARE_PATH, Domain, PublicAddress
from actors.shares import Share, find_share, redeem_share
from actors.surroundings import Limits
from actors.testing.containers import fake_containers
from actors.visits import Visit

NAME = SandboxId("my-app")


@asynccontextmanager
async def sharing(store: MemoryStore | None = None) -> AsyncIterator[tuple[Runtime, Sandbox]]:
    async with open_runtime(
        store or MemoryStore(),
        containers={"process": fake_containers()},
        clock=trio.current_time,
        limits=Limits(rest_after_s=1.0),
    ) as runtime:
        runtime.public_address = PublicAddress(Domain("example.com"))
        sandbox = await runtime.get_sandbox(NAME)
        await sandbox.expose_port(8080)
        yield runtime, sandbox


def secret_of(share: Share) -> bytes:
    assert share.url is not None
    return urlsplit(share.url).path.removeprefix(SHARE_PATH).encode()


def by(share: Share, *, session: bytes | None = None) -> VisitRequest:
    if session is not None:
        return VisitRequest(Port(share.port), PortToken(share.id), sessions=(session,))
    return VisitRequest(Port(share.port), PortToken(share.id), share_secret=secret_of(share))


async def enter(runtime: Runtime, request: VisitRequest) -> Visit:
    visit = await runtime.admit(NAME, request)
    assert isinstance(visit, Visit)
    visit.on_cut(lambda _: visit.end())
    return visit


async def test_link_names_the_share_and_gives_nothing_else_away() -> None:
    async with sharing() as (_, sandbox):
        exposed = await sandbox.expose_port(8080, hostname="example.com")
        share = await sandbox.share(8080, expires_in=60)
        assert share.url is not None
        assert share.url.startswith(f"https://8080-my-app-{share.id}.example.com{SHARE_PATH}")
        assert exposed.token not in share.url
        assert len(secret_of(share)) == 43
        assert secret_of(share).decode() not in repr(share)
        listed = await sandbox.list_shares()
        assert [(shown.id, shown.url, shown.port) for shown in listed] == [(share.id, None, 8080)]
        other = await sandbox.share(8080, expires_in=60, hostname="other.example")
        assert other.url is not None
        assert urlsplit(other.url).netloc.endswith(".other.example")
        assert len({share.id, other.id, secret_of(share), secret_of(other)}) == 4


async def test_share_without_a_hostname_or_an_exposed_port_stores_nothing() -> None:
    async with sharing() as (runtime, sandbox):
        runtime.public_address = None
        with pytest.raises(RuntimeError, match="hostname="):
            await sandbox.share(8080, expires_in=60)
        with pytest.raises(InvalidNameError, match="not exposed"):
            await sandbox.share(8081, expires_in=60, hostname="example.com")
        assert await sandbox.list_shares() == []


async def test_secret_is_in_no_record() -> None:
    store = MemoryStore()
    async with sharing(store) as (runtime, sandbox):
        share = await sandbox.share(8080, expires_in=60, once=True)
        session = await redeem_share(runtime, NAME, share.id, 8080, secret_of(share))
        assert session.expires_at == share.expires_at
        moments = await read_history(store, NAME)
        described = [describe_event(moment.event) for moment in moments if moment.event is not None]
        assert [name for name, _ in described][-2:] == ["share_created", "share_redeemed"]
        for hidden in (secret_of(share), session.value):
            assert hidden.decode() not in repr(moments)
            assert hidden.decode() not in repr(described)
        assert "seal" not in dict(described)["share_created"]


async def test_revoked_share_cuts_those_who_came_by_it_and_nobody_else() -> None:
    async with sharing() as (runtime, sandbox):
        share, other = [await sandbox.share(8080, expires_in=60) for _ in range(2)]
        session = await redeem_share(runtime, NAME, share.id, 8080, secret_of(share))
        inside = [await enter(runtime, by(share)), await enter(runtime, by(share, session=session.value))]
        bystander = await enter(runtime, by(other))

        assert await sandbox.revoke_share(share.id) == 2
        assert [visit.cut_because for visit in inside] == [CutBecause.UNSHARED] * 2
        assert bystander.cut_because is None
        for request in (by(share), by(share, session=session.value)):
            assert await runtime.admit(NAME, request) is RefusedBecause.INVALID_TOKEN
        assert await sandbox.revoke_share(share.id) == 0
        bystander.end()


async def test_share_ends_by_itself_under_its_visitors(autojump_clock: MockClock) -> None:
    async with sharing() as (runtime, sandbox):
        share = await sandbox.share(8080, expires_in=60)
        visit = await enter(runtime, by(share))
        await trio.sleep(59)
        assert not visit.cut_because
        await trio.sleep(1.1)
        assert await runtime.admit(NAME, by(share)) is RefusedBecause.INVALID_TOKEN
        assert (await sandbox.state()).shares == {}
    assert visit.cut_because is CutBecause.UNSHARED


async def test_share_keeps_no_sandbox_in_memory(autojump_clock: MockClock) -> None:
    store = MemoryStore()
    async with sharing(store) as (runtime, sandbox):
        await sandbox.share(8080, expires_in=3600)
        await trio.sleep(10)
        assert runtime.statistics().actors == 0
        await trio.sleep(3600)
        assert await sandbox.list_shares() == []


async def test_unexposing_drains_those_who_came_by_a_share_too(autojump_clock: MockClock) -> None:
    async with sharing() as (runtime, sandbox):
        share = await sandbox.share(8080, expires_in=60)
        visit = await enter(runtime, by(share))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: sandbox.unexpose_port(8080, drain=30))
            await trio.sleep(20)
            await sandbox.expose_port(9090)
            assert visit.cut_because is None
            assert await runtime.admit(NAME, by(share)) is RefusedBecause.INVALID_TOKEN
        assert visit.cut_because is CutBecause.UNEXPOSED


async def test_link_that_opens_one_session_opens_exactly_one_of_many_at_once() -> None:
    async with sharing() as (runtime, sandbox):
        share = await sandbox.share(8080, expires_in=60, once=True)
        opened: list[bytes] = []
        refused: list[ShareSpentError] = []

        async def redeem() -> None:
            try:
                opened.append((await redeem_share(runtime, NAME, share.id, 8080, secret_of(share))).value)
            except ShareSpentError as error:
                refused.append(error)

        assert (await find_share(runtime, NAME, share.id, 8080, secret_of(share))).once
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(redeem)
        assert (len(opened), len(refused)) == (1, 7)
        (await enter(runtime, by(share, session=opened[0]))).end()
        with pytest.raises(ShareSpentError):
            await find_share(runtime, NAME, share.id, 8080, secret_of(share))
        assert [shown.redeemed for shown in await sandbox.list_shares()] == [True]


async def test_spent_link_is_spent_after_a_restart_and_its_session_goes_on() -> None:
    store = MemoryStore()
    async with sharing(store) as (runtime, sandbox):
        share = await sandbox.share(8080, expires_in=60, once=True)
        session = await redeem_share(runtime, NAME, share.id, 8080, secret_of(share))
    async with sharing(store) as (runtime, sandbox):
        with pytest.raises(ShareSpentError):
            await redeem_share(runtime, NAME, share.id, 8080, secret_of(share))
        (await enter(runtime, by(share, session=session.value))).end()


@pytest.mark.parametrize("wrong", ["secret", "port", "share", "sandbox"])
async def test_wrong_link_finds_and_redeems_nothing(wrong: str) -> None:
    async with sharing() as (runtime, sandbox):
        share = await sandbox.share(8080, expires_in=60)
        name = SandboxId("another") if wrong == "sandbox" else NAME
        found = share.id if wrong != "share" else "0000000000000000"
        port = 8080 if wrong != "port" else 8081
        secret = secret_of(share) if wrong != "secret" else b"x" * 43
        for ask in (find_share, redeem_share):
            with pytest.raises(ShareNotFoundError):
                await ask(runtime, name, found, port, secret)
        assert runtime.statistics().actors == 1
