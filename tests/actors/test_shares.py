"""Shares from their making to their end: links, sessions, and whom their end cuts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from actors.domains import Domains
from actors.errors import (
    DomainNotFoundError,
    DomainNotVerifiedError,
    InvalidNameError,
    LogCorruptError,
    RevocationIncompleteError,
    ShareNotFoundError,
    ShareSpentError,
)
from actors.handle import Sandbox
from actors.history import describe_event, read_history
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import CutBecause, RefusedBecause, VisitRequest
from actors.sandbox.domains import DomainBinding, Proof
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId
from actors.sandbox.sessions import read_named
from actors.sandbox.urls import SHARE_PATH, Domain, PublicAddress
from actors.shares import Share, find_share, redeem_share
from actors.store import Tenure
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


# Custom hostnames.

PREVIEW = "preview.my-app.com"


async def bound(runtime: Runtime, sandbox: Sandbox, hostname: str = PREVIEW, port: int = 8080) -> DomainBinding:
    """Bind a hostname, have it verified, and see that the sandbox has a gate."""
    if (await sandbox.state()).auth is None:
        await sandbox.set_preview_auth()
    return await runtime.domains.verify(await sandbox.bind_domain(hostname, port))


def at(binding: DomainBinding, share: Share) -> VisitRequest:
    return VisitRequest(binding.port, share_secret=secret_of(share), binding=binding.number)


async def redeemed(runtime: Runtime, binding: DomainBinding, share: Share) -> VisitRequest:
    """What a browser sends that has opened the link at that hostname."""
    named = read_named(secret_of(share))
    assert named is not None
    session = await redeem_share(runtime, NAME, named[0], 8080, named[1], binding=binding.number)
    return VisitRequest(binding.port, sessions=(session.value,), binding=binding.number)


async def test_link_on_a_custom_hostname_names_its_share_in_its_last_part() -> None:
    async with sharing() as (runtime, sandbox):
        await bound(runtime, sandbox)
        share = await sandbox.share(8080, expires_in=60, custom_hostname="Preview.My-App.com.")
        assert share.custom_hostname == PREVIEW
        assert share.url is not None
        assert share.url.startswith(f"https://{PREVIEW}{SHARE_PATH}{share.id}.")
        assert len(secret_of(share)) == 60
        assert [(one.id, one.custom_hostname, one.url) for one in await sandbox.list_shares()] == [
            (share.id, PREVIEW, None)
        ]
        runtime.public_address = PublicAddress(Domain("localhost"), 8787, "http")
        again = await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)
        assert again.url is not None
        assert again.url.startswith(f"http://{PREVIEW}:8787{SHARE_PATH}")
        runtime.public_address = None
        again = await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)
        assert again.url is not None
        assert again.url.startswith(f"https://{PREVIEW}{SHARE_PATH}")


async def test_custom_hostname_that_does_not_lead_to_the_port_is_not_shared() -> None:
    async with sharing() as (runtime, sandbox):
        share = partial(sandbox.share, 8080, expires_in=60, custom_hostname=PREVIEW)
        with pytest.raises(DomainNotFoundError):
            await share()
        asked = await sandbox.bind_domain(PREVIEW, 8080)
        with pytest.raises(DomainNotVerifiedError, match="does not serve"):
            await share()
        await runtime.domains.verify(asked)
        with pytest.raises(InvalidNameError, match="open to everybody"):
            await share()
        await sandbox.set_preview_auth()
        await sandbox.expose_port(9090)
        with pytest.raises(InvalidNameError, match="leads to port 8080, not to 9090"):
            await sandbox.share(9090, expires_in=60, custom_hostname=PREVIEW)
        with pytest.raises(ValueError, match="pass one of them"):
            await share(hostname="example.com")
        other = await runtime.get_sandbox("other", preview_auth=PreviewToken("a-token-of-some-length"))
        await other.expose_port(8080)
        with pytest.raises(DomainNotFoundError):
            await other.share(8080, expires_in=60, custom_hostname=PREVIEW)
        runtime.domains.reserve([Domain("my-app.com")])
        with pytest.raises(DomainNotVerifiedError):
            await share()
        assert await sandbox.list_shares() == []


@pytest.mark.parametrize("how", ["unbind", "lead", "taken over", "revoke", "unexpose", "expire", "stop"])
async def test_visits_by_a_link_on_a_custom_hostname_end_with_what_they_lean_on(
    how: str, autojump_clock: MockClock
) -> None:
    async with sharing() as (runtime, sandbox):
        binding = await bound(runtime, sandbox)
        beside = await bound(runtime, sandbox, "other.my-app.com")
        share = await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)
        own = await sandbox.share(8080, expires_in=90, custom_hostname="other.my-app.com")
        requests = [at(binding, share), await redeemed(runtime, binding, share)]
        inside = [await enter(runtime, request) for request in requests]
        bystander = await enter(runtime, at(beside, own))
        because = CutBecause.UNBOUND
        match how:
            case "unbind":
                assert await sandbox.unbind_domain(PREVIEW) == 2
            case "lead":
                await sandbox.bind_domain(PREVIEW, 9090)
            case "taken over":
                other = await runtime.get_sandbox("other")
                await runtime.domains.verify(await other.bind_domain(PREVIEW, 8080), Proof.DNS)
            case "revoke":
                because = CutBecause.UNSHARED
                assert await sandbox.revoke_share(share.id) == 2
            case "unexpose":
                because = CutBecause.UNEXPOSED
                assert await sandbox.unexpose_port(8080) == 3
            case "expire":
                because = CutBecause.UNSHARED
                await trio.sleep(61)
            case "stop":
                because = CutBecause.STOPPED
                assert await sandbox.stop() == 3
        assert [visit.cut_because for visit in inside] == [because] * 2
        assert bool(bystander.cut_because) is (how in ("unexpose", "stop"))
        for request in requests:
            assert isinstance(await runtime.admit(NAME, request), RefusedBecause)
            assert isinstance(runtime.admit_nowait(NAME, request), RefusedBecause | None)
        if how != "stop":
            with pytest.raises(ShareNotFoundError):
                await redeemed(runtime, binding, share)
        bystander.end()


async def test_hostname_bound_again_has_none_of_the_links_of_before() -> None:
    async with sharing() as (runtime, sandbox):
        binding = await bound(runtime, sandbox)
        share = await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)
        session = await redeemed(runtime, binding, share)
        await sandbox.unbind_domain(PREVIEW)
        assert await sandbox.list_shares() == []
        again = await bound(runtime, sandbox)
        for request in (at(again, share), replace(session, binding=again.number)):
            assert await runtime.admit(NAME, request) is RefusedBecause.AUTH_INVALID
        for ask in (find_share, redeem_share):
            for number in (binding.number, again.number):
                with pytest.raises(ShareNotFoundError):
                    await ask(runtime, NAME, share.id, 8080, secret_of(share)[17:], binding=number)
        # What is over takes no room from what is made.
        fresh = await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)
        assert [*(await sandbox.state()).shares] == [fresh.id]


async def test_visit_that_does_not_end_keeps_nobody_from_making_the_next_link(autojump_clock: MockClock) -> None:
    async with sharing() as (runtime, sandbox):
        binding = await bound(runtime, sandbox)
        share = await sandbox.share(8080, expires_in=600, custom_hostname=PREVIEW)
        visit = await runtime.admit(NAME, at(binding, share))
        assert isinstance(visit, Visit)
        with pytest.raises(RevocationIncompleteError):
            await sandbox.unbind_domain(PREVIEW)
        await bound(runtime, sandbox)
        fresh = await sandbox.share(8080, expires_in=600, custom_hostname=PREVIEW)
        assert [*(await sandbox.state()).shares] == [fresh.id]
        assert fresh.url is not None
        visit.end()


async def test_links_on_a_hostname_that_is_gone_take_no_room_from_others() -> None:
    async with sharing() as (runtime, sandbox):
        await bound(runtime, sandbox)
        await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)
        await sandbox.unbind_domain(PREVIEW)
        fresh = await sandbox.share(8080, expires_in=60)
        assert [*(await sandbox.state()).shares] == [fresh.id]


async def test_links_stay_while_the_hostnames_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    async with sharing(store) as (runtime, sandbox):
        await bound(runtime, sandbox)
        share = await sandbox.share(8080, expires_in=60, custom_hostname=PREVIEW)

    async def claim(_: Domains) -> Tenure:
        raise LogCorruptError("damaged", offset=0)

    monkeypatch.setattr(Domains, "_claim", claim)
    async with sharing(store) as (runtime, sandbox):
        fresh = await sandbox.share(8080, expires_in=60)
        assert [*(await sandbox.state()).shares] == [share.id, fresh.id]


async def test_link_on_a_custom_hostname_survives_a_restart_and_is_no_secret_in_the_log() -> None:
    store = MemoryStore()
    async with sharing(store) as (runtime, sandbox):
        binding = await bound(runtime, sandbox)
        share = await sandbox.share(8080, expires_in=60, once=True, custom_hostname=PREVIEW)
        session = await redeemed(runtime, binding, share)
        moments = await read_history(store, NAME)
        described = [describe_event(moment.event) for moment in moments if moment.event is not None]
        name, fields = described[-2]
        assert (name, fields["hostname"], fields["binding"]) == ("hostname_shared", PREVIEW, binding.number)
        assert "seal" not in fields
        for hidden in (secret_of(share)[17:], session.sessions[0][17:]):
            assert hidden.decode() not in repr(moments) + repr(described) + repr(session)
    async with sharing(store) as (runtime, sandbox):
        (await enter(runtime, session)).end()
        with pytest.raises(ShareSpentError):
            await redeemed(runtime, binding, share)
