"""Verifying custom hostnames: in the DNS, at the site, never where it must not look; nothing of strangers is told."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing

from actors import (
    DomainBinding,
    DomainNotFoundError,
    DomainNotVerifiedError,
    MemoryStore,
    Runtime,
    SecurityError,
    open_runtime,
)
from actors.testing.containers import fake_containers
from proxy.domains import LOOKS_MAX, DomainVerifier, LookUpError, TxtLookUp, records_of

NAME = "preview.my-app.com"
LOOPBACK = ["127.0.0.0/8"]


@asynccontextmanager
async def asked(name: str = NAME) -> AsyncIterator[tuple[Runtime, DomainBinding]]:
    """A runtime whose sandbox ``mine`` has asked for a name."""
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as runtime:
        sandbox = await runtime.get_sandbox("mine", container="fake")
        yield runtime, await sandbox.bind_domain(name, 8080)


def dns_that_says(*records: bytes, names: list[str] | None = None) -> TxtLookUp:
    async def look_up(name: str) -> Sequence[bytes]:
        await trio.lowlevel.checkpoint()
        if names is not None:
            names.append(name)
        return records

    return look_up


async def silent_dns(_name: str) -> Sequence[bytes]:
    await trio.lowlevel.checkpoint()
    raise LookUpError("the DNS does not say (LifetimeTimeout)")


class Leading(trio.abc.HostnameResolver):
    """Every name leads to these addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self.asked: list[Any] = []

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002  # trio's own signature, long and unused here
        self.asked.append(host)
        return [(10 if ":" in address else 2, 1, 6, "", (address, port or 0)) for address in self._addresses]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]  # never asked
        raise NotImplementedError


class Site:
    """What answers at the hostname: one answer to every request, whose heads it keeps."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = await stream.receive_some()
            if not data:
                return
            received += bytes(data)
        self.heads.append(received)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(self.answer)
            await stream.send_eof()

    async def listen(self, nursery: trio.Nursery) -> int:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, self.serve, 0, host="127.0.0.1")
        )
        port: int = listeners[0].socket.getsockname()[1]
        return port


def ok(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


async def not_verified(verifier: DomainVerifier) -> tuple[str, ...]:
    with pytest.raises(DomainNotVerifiedError) as caught:
        await verifier.verify(NAME, "mine")
    return caught.value.seen


# The DNS.


async def test_record_among_others_verifies_and_the_name_serves() -> None:
    async with asked() as (runtime, binding):
        names: list[str] = []
        value = binding.challenge.txt_value.encode()
        verifier = DomainVerifier(runtime, look_up_txt=dns_that_says(b"v=spf1 -all", value, names=names))
        verified = await verifier.verify("Preview.My-App.com.", "mine")
        assert verified.verified
        assert runtime.domains.find(NAME) == verified
        assert names == [f"_portico-challenge.{NAME}"]
        # It is not looked at again.
        assert await DomainVerifier(runtime, look_up_txt=silent_dns).verify(NAME, "mine") == verified


@pytest.mark.parametrize(
    "spoil", [lambda value: value[:-1], lambda value: value + b" ", lambda value: value.upper(), lambda _: b""]
)
async def test_record_that_is_not_the_value_to_the_letter_verifies_nothing(spoil: Any) -> None:
    trio.socket.set_custom_hostname_resolver(Leading())
    async with asked() as (runtime, binding):
        records = dns_that_says(spoil(binding.challenge.txt_value.encode()))
        seen = await not_verified(DomainVerifier(runtime, look_up_txt=records))
        assert seen == (f"_portico-challenge.{NAME} has 1 other TXT records", f"{NAME} does not resolve")
        assert runtime.domains.find(NAME) is None


async def test_record_of_another_sandboxs_challenge_verifies_nothing() -> None:
    trio.socket.set_custom_hostname_resolver(Leading())
    async with asked() as (runtime, _):
        other = await (await runtime.get_sandbox("other", container="fake")).bind_domain(NAME, 8080)
        verifier = DomainVerifier(runtime, look_up_txt=dns_that_says(other.challenge.txt_value.encode()))
        await not_verified(verifier)
        await verifier.verify(NAME, "other")
        with pytest.raises(DomainNotFoundError):
            await verifier.verify(NAME, "third")


async def test_name_that_somebody_has_goes_to_who_shows_the_answer_in_the_dns(nursery: trio.Nursery) -> None:
    trio.socket.set_custom_hostname_resolver(Leading("127.0.0.1"))
    async with asked() as (runtime, binding):
        other = await (await runtime.get_sandbox("other", container="fake")).bind_domain(NAME, 8080)
        await runtime.domains.verify(other)
        # The service of who has it may be brought to say anything.
        port = await Site(ok(binding.challenge.http_body)).listen(nursery)
        at_site = DomainVerifier(runtime, look_up_txt=dns_that_says(), allow=LOOPBACK, http_port=port)
        with pytest.raises(SecurityError, match="another sandbox"):
            await at_site.verify(NAME, "mine")
        in_dns = DomainVerifier(runtime, look_up_txt=dns_that_says(binding.challenge.txt_value.encode()))
        assert (await in_dns.verify(NAME, "mine")).verified
        found = runtime.domains.find(NAME)
        assert found is not None
        assert found.sandbox == "mine"
    nursery.cancel_scope.cancel()


async def test_name_given_back_while_it_is_looked_at_stays_so() -> None:
    async with asked() as (runtime, binding):

        async def struck(_name: str) -> Sequence[bytes]:
            sandbox = await runtime.find_sandbox("mine")
            await sandbox.unbind_domain(NAME)
            await sandbox.bind_domain(NAME, 8080)
            return [binding.challenge.txt_value.encode()]

        with pytest.raises(DomainNotFoundError):
            await DomainVerifier(runtime, look_up_txt=struck).verify(NAME, "mine")
        assert runtime.domains.find(NAME) is None


@asynccontextmanager
async def name_server(rcode: dns.rcode.Rcode, *strings: str) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """A server on loopback that answers every question so, and a resolver that asks it alone."""
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))

    async def serve() -> None:
        while True:
            data, sender = await sock.recvfrom(4096)
            question = dns.message.from_wire(data)
            answer = dns.message.make_response(question)
            answer.set_rcode(rcode)
            if strings:
                name = question.question[0].name
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *strings))
            await sock.sendto(answer.to_wire(), sender)

    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = sock.getsockname()[1]
    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield resolver
            nursery.cancel_scope.cancel()


async def test_records_are_read_whole_from_a_real_answer() -> None:
    long = "x" * 200
    async with name_server(dns.rcode.NOERROR, f'"{long}" "{long}"', '"portico=abc"') as resolver:
        found = await records_of(resolver, f"_portico-challenge.{NAME}")
    assert sorted(found) == [b"portico=abc", long.encode() * 2]


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
async def test_no_records_are_none(rcode: dns.rcode.Rcode) -> None:
    async with name_server(rcode) as resolver:
        assert await records_of(resolver, NAME) == []


async def test_server_that_fails_says_nothing_and_is_not_named() -> None:
    async with name_server(dns.rcode.SERVFAIL) as resolver:
        with pytest.raises(LookUpError) as caught:
            await records_of(resolver, NAME)
    assert "127.0.0.1" not in str(caught.value)


# The site.


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n"])
async def test_answer_at_the_hostname_verifies_where_the_dns_does_not(nursery: trio.Nursery, around: str) -> None:
    trio.socket.set_custom_hostname_resolver(Leading("127.0.0.1"))
    async with asked() as (runtime, binding):
        site = Site(ok(around.format(binding.challenge.http_body)))
        verifier = DomainVerifier(runtime, look_up_txt=silent_dns, allow=LOOPBACK, http_port=await site.listen(nursery))
        assert (await verifier.verify(NAME, "mine")).verified
        (head,) = site.heads
        assert head.startswith(f"GET {binding.challenge.http_path} HTTP/1.1\r\nHost: {NAME}\r\n".encode())
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["path", "404", "redirect", "more", "nothing", "no http"])
async def test_other_answers_verify_nothing_and_are_not_repeated(nursery: trio.Nursery, kind: str) -> None:
    trio.socket.set_custom_hostname_resolver(Leading("127.0.0.1"))
    async with asked() as (runtime, binding):
        proof, secret = binding.challenge.http_body, "secret of the intranet"
        answer = {
            # A site that repeats what it is asked for has shown nothing.
            "path": ok(f"no {binding.challenge.http_path} here"),
            "404": ok(proof).replace(b"200 OK", b"404 Not Found"),
            "redirect": f"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n{secret}".encode(),
            "more": ok(f"{secret} {proof}"),
            "nothing": b"",
            "no http": f"SSH-2.0 {secret}".encode(),
        }[kind]
        site = Site(answer)
        verifier = DomainVerifier(
            runtime, look_up_txt=dns_that_says(), allow=LOOPBACK, http_port=await site.listen(nursery)
        )
        seen = await not_verified(verifier)
        assert len(site.heads) == 1
        assert secret not in str(seen)
        assert runtime.domains.find(NAME) is None
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1"])
async def test_address_that_is_not_public_is_not_dialled(nursery: trio.Nursery, address: str) -> None:
    trio.socket.set_custom_hostname_resolver(Leading(address))
    async with asked() as (runtime, binding):
        site = Site(ok(binding.challenge.http_body))
        verifier = DomainVerifier(runtime, look_up_txt=dns_that_says(), http_port=await site.listen(nursery))
        assert "which is not asked" in (await not_verified(verifier))[1]
        assert not site.heads
    nursery.cancel_scope.cancel()


async def test_address_that_was_judged_is_what_is_dialled(nursery: trio.Nursery) -> None:
    """A second look-up could lead elsewhere."""
    resolver = Leading("10.0.0.5", "127.0.0.1")
    trio.socket.set_custom_hostname_resolver(resolver)
    async with asked() as (runtime, binding):
        site = Site(ok(binding.challenge.http_body))
        verifier = DomainVerifier(
            runtime, look_up_txt=dns_that_says(), allow=LOOPBACK, http_port=await site.listen(nursery)
        )
        assert (await verifier.verify(NAME, "mine")).verified
        assert resolver.asked == [NAME.encode()]
    nursery.cancel_scope.cancel()


async def test_so_many_are_looked_at_at_once_and_the_others_wait() -> None:
    under_way = 0
    gate = trio.Event()

    async def held(_name: str) -> Sequence[bytes]:
        nonlocal under_way
        under_way += 1
        await gate.wait()
        raise LookUpError("no")

    trio.socket.set_custom_hostname_resolver(Leading())
    async with asked() as (runtime, _):
        verifier = DomainVerifier(runtime, look_up_txt=held)
        async with trio.open_nursery() as nursery:
            for _number in range(LOOKS_MAX + 3):
                nursery.start_soon(not_verified, verifier)
            await trio.testing.wait_all_tasks_blocked()
            assert under_way == LOOKS_MAX
            gate.set()
        assert under_way == LOOKS_MAX + 3
