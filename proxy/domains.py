"""Seeing whether a custom hostname is its claimant's: a TXT record in the DNS, or an answer at the hostname itself.

What has to be there is drawn for each binding (`actors.DomainBinding.challenge`), so it shows that whoever asked for
the name here can change what the name's owner can change. Either way is enough; the DNS is asked first. A name that
another sandbox has is taken over by the record in the DNS alone.

The site is asked by plain HTTP at port 80, as ACME does it (RFC 8555 section 8.3), and this makes a server of ours
connect to where a stranger's name leads. So each address is judged before it is dialled, and the address that was
judged is what is dialled; no redirect is followed, little is read, and of what came nothing is told but whether it
fitted.

A name that leads to this server already cannot be shown that way: we do not answer challenges ourselves. Whoever
pointed it here has not said for which sandbox, and another's would only have to ask first.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.resolver
import trio

from actors import CustomHostname, DomainBinding, DomainNotVerifiedError, Places, Proof, Runtime, SandboxId
from proxy.core.diagnosis import NoReply
from proxy.doctor.asking import Question, ask
from proxy.doctor.reach import Route, look_up

TXT_TIMEOUT_S: Final = 10.0
"""For the records of one name, retries included."""
HTTP_TIMEOUT_S: Final = 10.0
"""For one address."""
ADDRESSES_MAX: Final = 4
"""Of a hostname, tried before giving up."""
LOOKS_MAX: Final = 8
"""Hostnames looked at at once; further callers wait."""
HTTP_PORT: Final = 80

TxtLookUp = Callable[[str], Awaitable[Sequence[bytes]]]
"""Returns the TXT records of a name, each in one piece; none if there are none. Raises `LookUpError`."""


class LookUpError(Exception):
    """The DNS did not say; the text is for people."""


async def look_up_txt(name: str) -> Sequence[bytes]:
    """Ask the resolvers of this machine; see `TxtLookUp`."""
    return await records_of(dns.asyncresolver.Resolver(), name)


async def records_of(resolver: dns.asyncresolver.Resolver, name: str) -> Sequence[bytes]:
    """Ask one resolver; see `TxtLookUp`."""
    try:
        answer = await resolver.resolve(f"{name}.", "TXT", lifetime=TXT_TIMEOUT_S)
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, OSError) as error:
        # Its text would name the servers of the place where we run.
        raise LookUpError(f"the DNS does not say ({type(error).__name__})") from error
    # A record holds strings of 255 bytes at most, which are one text (RFC 7208 section 3.3 has the custom).
    return [b"".join(record.strings) for record in answer]


class DomainVerifier:
    """Looks, and lets a hostname serve once it has seen what is asked for."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        look_up_txt: TxtLookUp = look_up_txt,
        allow: Iterable[str | IPv4Network | IPv6Network] = (),
        http_port: int = HTTP_PORT,
    ) -> None:
        """Prepare.

        Args:
            runtime: Whose hostnames.
            look_up_txt: Asks the DNS.
            allow: Networks that may be asked by HTTP although they are not public: for a server within one's own.
            http_port: Where.

        Raises:
            ValueError: One of `allow` is no network.
        """
        self._runtime: Final = runtime
        self._look_up_txt: Final = look_up_txt
        self._places: Final = Places(allow, public_only=True)
        self._http_port: Final = http_port
        self._limiter: Final = trio.CapacityLimiter(LOOKS_MAX)

    async def verify(self, hostname: str, sandbox: str) -> DomainBinding:
        """Look now; return the binding, which serves from now on. One that is verified is not looked at again.

        Cancelling this verifies nothing, or has.

        Raises:
            DomainNotFoundError: That sandbox has not asked for the hostname, or has given it back meanwhile.
            DomainNotVerifiedError: What the challenge asks for is not there, or not yet: DNS takes its time.
            SecurityError: Another sandbox has it, and the answer is at the site alone; in the DNS it takes it over.
            InvalidNameError: That is no hostname, or no sandbox's name.
            StoreError: It is not known whether it is on disk: ask again.
        """
        binding = self._runtime.domains.binding(CustomHostname(hostname), SandboxId(sandbox))
        if binding.verified:
            return binding
        proof = Proof.DNS
        async with self._limiter:
            seen = await self._look_in_dns(binding)
            if seen is not None:
                proof = Proof.SITE
                at_site = await self._look_at_site(binding)
                if at_site is not None:
                    raise DomainNotVerifiedError(binding.hostname, [seen, at_site])
        return await self._runtime.domains.verify(binding, proof)

    async def _look_in_dns(self, binding: DomainBinding) -> str | None:
        """Return None if the record is there, else what is."""
        challenge = binding.challenge
        try:
            found = await self._look_up_txt(challenge.txt_name)
        except LookUpError as error:
            return str(error)
        if challenge.txt_value.encode("ascii") in found:
            return None
        return f"{challenge.txt_name} has {f'{len(found)} other' if found else 'no'} TXT records"

    async def _look_at_site(self, binding: DomainBinding) -> str | None:
        """Return None if the site answers as it should, else what came of it."""
        challenge = binding.challenge
        addresses = (await look_up(binding.hostname))[:ADDRESSES_MAX]
        if not addresses:
            return f"{binding.hostname} does not resolve"
        question = Question(binding.hostname, challenge.http_path, (("User-Agent", "portico"), ("Connection", "close")))
        outcome = ""
        for address in addresses:
            refusal = self._places.refusal(address)
            if refusal is not None:
                outcome = f"{binding.hostname} leads to {refusal}, which is not asked"
                continue
            reply = await ask(Route(address, self._http_port, None), question, HTTP_TIMEOUT_S)
            if isinstance(reply, NoReply):
                outcome = f"{binding.hostname} does not answer at port {self._http_port} ({reply.why})"
            elif reply.status == 200 and reply.body.strip() == challenge.http_body.encode("ascii"):
                return None
            else:
                outcome = f"{binding.hostname} answers {reply.status} at {challenge.http_path}, but not what it should"
        return outcome
