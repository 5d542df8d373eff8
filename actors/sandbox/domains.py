"""Custom hostnames: whole names of their owners', each leading to one port of one sandbox.

A hostname is one server's, not one sandbox's, so this state is a log of its own beside the sandboxes' logs: who has
asked for a name, who has shown that it is theirs, and who has it. Pure, as the sandboxes' own state model: `decide`,
`evolve`, and the vocabulary of the log.

Asking for a name takes nothing from anybody: any number of sandboxes may ask, and only who has shown the answer to
*their own* challenge, in the DNS or on the site, gets it. Otherwise whoever asked first could keep a name from its
owner. A name is had by one sandbox at most, until it is given back or another shows the answer in the DNS: names change
hands, and whoever had one before must not keep it from its next owner. The site does not count then, as it is the
sandbox's that has the name: what a service can be brought to say shows nothing of who owns its name.

Nothing is looked at again by and by. A name that is led elsewhere brings nobody here, an owner who wants it back shows
so, and a record that is gone for an hour must not take a site down.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, Self

import msgspec
from msgspec.structs import replace

from actors.errors import InvalidNameError, UnknownRecordError
from actors.sandbox.decide import Refusal, RefusalReason
from actors.sandbox.events import decode_among, from_plain, to_plain
from actors.sandbox.ids import Port, SandboxId
from actors.sandbox.urls import LABEL_LENGTH_MAX, NAME_LENGTH_MAX, Domain, is_host_label, is_numeric_label

DOMAINS_PER_SANDBOX_MAX: Final = 64
"""Bounds what one sandbox can make the server remember."""

CHALLENGE_BYTES: Final = 32
CHALLENGE_PATH: Final = "/.well-known/portico-challenge/"
CHALLENGE_LABEL: Final = "_portico-challenge"

SNAPSHOT_VERSION: Final = 1

_ACE: Final = "xn--"


class CustomHostname(str):
    """A whole hostname that may be bound: checked, lower case, without a trailing dot."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check and fold `text`.

        Raises:
            InvalidNameError: With the rule that `text` breaks.
        """
        if type(text) is cls:
            return text
        if not isinstance(text, str):
            raise InvalidNameError(f"a hostname is text, not {type(text).__name__}")
        return super().__new__(cls, _checked(text))

    def is_under(self, domain: Domain) -> bool:
        """Say whether it is that domain, or below it."""
        return str(self) == str(domain) or self.endswith(f".{domain}")


def _checked(text: str) -> str:
    shown = repr(text[:NAME_LENGTH_MAX])
    if not text.isascii():
        raise InvalidNameError(f"hostname {shown}: write international names in their ASCII form (xn--...)")
    folded = text.lower().removesuffix(".")
    if not folded or len(folded) > NAME_LENGTH_MAX:
        raise InvalidNameError(f"hostname {shown}: a name has 1 to {NAME_LENGTH_MAX} characters")
    if not all(character.isalnum() or character in "-." for character in folded):
        raise InvalidNameError(f"hostname {shown}: a name is wanted, without scheme, port, path or spaces")
    labels = folded.split(".")
    for label in labels:
        if not is_host_label(label):
            raise InvalidNameError(
                f"hostname {shown}: each part has 1 to {LABEL_LENGTH_MAX} of a-z, 0-9 and hyphens, "
                "neither first nor last a hyphen"
            )
        if label[2:4] == "--" and not _is_international(label):
            # RFC 5890 section 2.3.1: of labels with hyphens there, only these have a meaning.
            raise InvalidNameError(f"hostname {shown}: {label!r} is not the ASCII form of anything")
    if len(labels) < 2 or labels[-1] == "localhost":
        raise InvalidNameError(f"hostname {shown}: a name in the public DNS has a dot in it, and is not localhost's")
    if is_numeric_label(labels[-1]):
        raise InvalidNameError(f"hostname {shown}: a name is wanted, not an IP address")
    return folded


def _is_international(label: str) -> bool:
    """Say whether `label` is the one ASCII form of some text (RFC 3492): two spellings must not be one name."""
    if not label.startswith(_ACE):
        return False
    written = label.removeprefix(_ACE)
    try:
        text = written.encode("ascii").decode("punycode")
        return not text.isascii() and text.isprintable() and text.encode("punycode").decode("ascii") == written
    except (UnicodeError, OverflowError):
        return False


class DomainChallenge(msgspec.Struct, frozen=True):
    """How the owner of a hostname shows that it is theirs: either of two ways will do."""

    txt_name: str
    """Where a TXT record is looked for,"""
    txt_value: str
    """and what it must hold, among whatever else is there."""
    http_path: str
    """What is fetched from the hostname by plain HTTP, and must answer 200 with"""
    http_body: str
    """this, and nothing else but white space. It is not in the path, so a site that repeats paths proves nothing."""


class DomainBinding(msgspec.Struct, frozen=True):
    """A hostname, and where it leads; or shall lead, once it is `verified`."""

    hostname: str
    sandbox: SandboxId
    port: Port
    token: str
    """Drawn for this binding; no secret: its owner publishes what follows from it."""
    number: int
    """Unique, and another one when it leads elsewhere: what visits lean on."""
    verified: bool = False

    @property
    def challenge(self) -> DomainChallenge:
        """What to publish."""
        proof = hashlib.sha256(f"portico {self.hostname} {self.token}".encode()).hexdigest()
        name = f"{CHALLENGE_LABEL}.{self.hostname}"
        return DomainChallenge(name, f"portico={proof}", f"{CHALLENGE_PATH}{self.token}", proof)


# What has happened.


class DomainBound(msgspec.Struct, frozen=True):
    """A sandbox asks for a hostname."""

    hostname: str
    sandbox: SandboxId
    port: Port
    token: str


class DomainLed(msgspec.Struct, frozen=True):
    """A binding leads to another port; what was shown still holds."""

    hostname: str
    sandbox: SandboxId
    port: Port


class DomainVerified(msgspec.Struct, frozen=True):
    """Its owner has shown the answer to the challenge: the hostname serves."""

    hostname: str
    sandbox: SandboxId


class DomainUnbound(msgspec.Struct, frozen=True):
    """The binding is over."""

    hostname: str
    sandbox: SandboxId


DomainEvent = DomainBound | DomainLed | DomainVerified | DomainUnbound

# {event class: (name in the log, version)}; see `actors.sandbox.events` for the rules.
_NAMES: Final[Mapping[type[DomainEvent], tuple[str, int]]] = {
    DomainBound: ("domain_bound", 1),
    DomainLed: ("domain_led", 1),
    DomainVerified: ("domain_verified", 1),
    DomainUnbound: ("domain_unbound", 1),
}
_EVENTS: Final = {key: cls for cls, key in _NAMES.items()}


def encode_domain_event(event: DomainEvent) -> tuple[str, int, dict[str, object]]:
    """Return an event's name, version and fields as plain values."""
    name, version = _NAMES[type(event)]
    return name, version, to_plain(event)


def decode_domain_event(name: str, version: int, fields: Mapping[str, object]) -> DomainEvent:
    """Rebuild an event.

    Raises:
        UnknownRecordError: The name or version is not known, or the fields do not fit it.
    """
    event: DomainEvent = decode_among(_EVENTS, name, version, fields)
    try:
        CustomHostname(event.hostname)
    except InvalidNameError as error:
        raise UnknownRecordError(f"event {name!r} version {version} does not have its fields: {error}") from error
    return event


# The state.


class DomainTable(msgspec.Struct, frozen=True):
    """All bindings. Invariant: of those of one hostname at most one is verified."""

    bindings: Mapping[tuple[str, SandboxId], DomainBinding] = {}
    counter: int = 0
    """The last number given out; never goes back."""

    def of_sandbox(self, sandbox: SandboxId) -> list[DomainBinding]:
        """Return a sandbox's bindings, by name."""
        return sorted((one for one in self.bindings.values() if one.sandbox == sandbox), key=lambda one: one.hostname)

    def holder(self, hostname: str) -> DomainBinding | None:
        """Return the verified binding of a hostname."""
        return next((one for one in self.verified() if one.hostname == hostname), None)

    def verified(self) -> Iterable[DomainBinding]:
        """Yield the bindings that serve."""
        return (one for one in self.bindings.values() if one.verified)


def evolve_domains(table: DomainTable, event: DomainEvent) -> DomainTable:
    """Return the table after `event`.

    Raises:
        UnknownRecordError: `decide_domains` could not have led to it.
    """
    key = (event.hostname, event.sandbox)
    current = table.bindings.get(key)
    if isinstance(event, DomainBound):
        if current is not None:
            raise UnknownRecordError(f"{event.hostname} was bound twice")
        number = table.counter + 1
        bound = DomainBinding(event.hostname, event.sandbox, event.port, event.token, number)
        return DomainTable({**table.bindings, key: bound}, number)
    if current is None:
        raise UnknownRecordError(f"{event.hostname} is not bound")
    match event:
        case DomainLed(port=port):
            number = table.counter + 1
            return DomainTable({**table.bindings, key: replace(current, port=port, number=number)}, number)
        case DomainVerified():
            if table.holder(event.hostname) is not None:
                raise UnknownRecordError(f"{event.hostname} was given twice")
            return replace(table, bindings={**table.bindings, key: replace(current, verified=True)})
        case DomainUnbound():
            return replace(table, bindings={other: one for other, one in table.bindings.items() if other != key})


def snapshot_domains(table: DomainTable) -> dict[str, object]:
    """Return the table as plain values."""
    return {"bindings": [to_plain(one) for one in table.bindings.values()], "counter": table.counter}


class _Kept(msgspec.Struct, frozen=True):
    bindings: list[DomainBinding]
    counter: int


def restore_domains(version: int, fields: Mapping[str, object]) -> DomainTable:
    """Rebuild a table that `snapshot_domains` wrote.

    Raises:
        UnknownRecordError: It did not, or a newer one did.
    """
    if version != SNAPSHOT_VERSION:
        raise UnknownRecordError(f"a snapshot of version {version} is not known to this version of Portico")
    try:
        kept = from_plain(fields, _Kept)
        names = [CustomHostname(one.hostname) for one in kept.bindings]
    except (msgspec.ValidationError, InvalidNameError) as error:
        raise UnknownRecordError(f"the snapshot does not have its fields: {error}") from error
    bindings = {(str(name), one.sandbox): one for name, one in zip(names, kept.bindings, strict=True)}
    return DomainTable(bindings, kept.counter)


# What is wanted.


class BindDomain(msgspec.Struct, frozen=True):
    """Ask for a hostname, or have the one that is asked for lead to another port."""

    hostname: CustomHostname
    sandbox: SandboxId
    port: Port
    minted: str
    """A fresh token, used if the binding is new."""


class Proof(Enum):
    """Where the answer to a challenge was seen."""

    DNS = "dns"
    SITE = "site"
    """At the hostname itself. It gives a name that nobody has."""


class VerifyDomain(msgspec.Struct, frozen=True):
    """The answer to the challenge of that token has been seen."""

    hostname: CustomHostname
    sandbox: SandboxId
    token: str
    proof: Proof


class UnbindDomain(msgspec.Struct, frozen=True):
    """Give a hostname back. One that is not bound is left as it is."""

    hostname: CustomHostname
    sandbox: SandboxId


class UnbindSandbox(msgspec.Struct, frozen=True):
    """Give back all that a sandbox has: it is being destroyed, and another may have its name one day."""

    sandbox: SandboxId


DomainCommand = BindDomain | VerifyDomain | UnbindDomain | UnbindSandbox


def decide_domains(
    table: DomainTable, command: DomainCommand, reserved: Iterable[Domain] = ()
) -> tuple[DomainEvent, ...] | Refusal:
    """Return what `command` leads to: events, none if all is as wanted already, or a refusal.

    Args:
        table: All there is.
        command: What is wanted.
        reserved: The server's own base domains: names below them have forms of their own.
    """
    if isinstance(command, UnbindSandbox):
        return tuple(DomainUnbound(one.hostname, one.sandbox) for one in table.of_sandbox(command.sandbox))
    hostname = str(command.hostname)
    current = table.bindings.get((hostname, command.sandbox))
    match command:
        case UnbindDomain():
            return (DomainUnbound(hostname, command.sandbox),) if current is not None else ()
        case VerifyDomain():
            return _verify(table, command, current)
        case BindDomain():
            return _bind(table, command, current, reserved)


def _verify(
    table: DomainTable, command: VerifyDomain, current: DomainBinding | None
) -> tuple[DomainEvent, ...] | Refusal:
    # Another token: it was given back and asked for anew while somebody looked.
    if current is None or current.token != command.token:
        return Refusal(RefusalReason.NO_DOMAIN, f"sandbox {command.sandbox} has not asked for {command.hostname}")
    if current.verified:
        return ()
    verified = DomainVerified(current.hostname, current.sandbox)
    holder = table.holder(current.hostname)
    if holder is None:
        return (verified,)
    if command.proof is Proof.SITE:
        # Not whose it is: a name is no way to learn of other sandboxes.
        text = f"{current.hostname} is bound to another sandbox: the TXT record takes it over, nothing at the site"
        return Refusal(RefusalReason.FORBIDDEN, text)
    return DomainUnbound(holder.hostname, holder.sandbox), verified


def _bind(
    table: DomainTable, command: BindDomain, current: DomainBinding | None, reserved: Iterable[Domain]
) -> tuple[DomainEvent, ...] | Refusal:
    hostname = str(command.hostname)
    for domain in reserved:
        if command.hostname.is_under(domain):
            text = f"{hostname} is under {domain}, where names have forms of their own"
            return Refusal(RefusalReason.FORBIDDEN, text)
    if current is not None:
        return () if current.port == command.port else (DomainLed(hostname, command.sandbox, command.port),)
    if len(table.of_sandbox(command.sandbox)) >= DOMAINS_PER_SANDBOX_MAX:
        text = f"{hostname} cannot be bound: {DOMAINS_PER_SANDBOX_MAX} others are already"
        return Refusal(RefusalReason.FORBIDDEN, text)
    return (DomainBound(hostname, command.sandbox, command.port, command.minted),)
