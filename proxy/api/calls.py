"""One call of the API: how it is declared, what its handler is given, what it gives back.

An `Operation` says everything about a call once: where it is, who may make it, what it takes and what it can answer.
The app serves it from that, and the OpenAPI document is written from it, so the two cannot disagree.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from starlette.requests import HTTPConnection
from starlette.responses import Response

from actors import Domain, DomainBinding, Runtime, Sandbox, SandboxId
from proxy.api.keys import KeyRecord, KeyRing, Scope
from proxy.api.sessions import Sessions


class Need(Enum):
    """What a key must be allowed for a call."""

    NOTHING = "nothing"
    """No key is asked for."""
    LOOK = "look"
    CHANGE = "change"
    """To change the sandbox in the path, or to see its secrets."""
    ANY = "any"
    """Any key: the handler looks more closely."""
    ADMIN = "admin"


Verify = Callable[[str, str], Awaitable[DomainBinding]]
"""Looks whether a hostname is the sandbox's that has asked for it; see `proxy.domains.DomainVerifier.verify`."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all calls stand on."""

    runtime: Runtime
    ring: KeyRing
    domains: tuple[Domain, ...]
    """Base domains of previews, the first is the one for URLs that name none."""
    verify: Verify
    """Asks the world outside, which tests leave alone."""
    sessions: Sessions
    """Of commands; destroying a sandbox ends its own."""
    folder: Path | None = None
    """The data folder, if there is one: logs of destroyed sandboxes are read there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    value: object = field(default=None, repr=False)
    """Becomes JSON; None: no content. Left out of `repr`: not every value is a struct of ours."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A request that may be made, and is of its form."""

    ground: Ground
    connection: HTTPConnection
    key: KeyRecord
    scope: Scope
    path: Mapping[str, str]
    """What the path holds, checked."""
    # Any: of the operation's own types, which its handler knows.
    query: Any = None
    body: Any = None

    @property
    def runtime(self) -> Runtime:
        return self.ground.runtime

    @cached_property
    def sandbox_id(self) -> SandboxId:
        """The sandbox in the path."""
        return SandboxId(self.path["id"])

    @property
    def port(self) -> int:
        """The port in the path."""
        return int(self.path["port"])

    async def sandbox(self) -> Sandbox:
        """Return the sandbox in the path; SandboxNotFoundError if there is none."""
        return await self.runtime.find_sandbox(self.sandbox_id)

    def sees_secrets(self, sandbox: str) -> bool:
        """Say whether the key may be told tokens, and URLs that hold them."""
        return self.scope.may_change(sandbox)


Handler = Callable[[Call], Awaitable[Reply | Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call."""

    method: str
    path: str
    """As OpenAPI writes it: ``/v1/sandboxes/{id}``."""
    name: str
    """Its operationId."""
    summary: str
    handler: Handler
    need: Need
    answers: Mapping[int, object]
    """``{status: type of the content}``; None: no content."""
    problems: tuple[int, ...] = ()
    """Further statuses with a `Problem` that a client should reckon with; 400, 401 and 403 go without saying."""
    body: type[Struct] | None = None
    body_required: bool = True
    query: type[Struct] | None = None
    compatible: bool = False
    """Of the OpenComputer-shaped subset: fields it does not know are left alone, as their server does."""

    @property
    def changes(self) -> bool:
        """Whether it may carry an ``Idempotency-Key``."""
        return self.method not in ("GET", "HEAD")


BYTES: Final = "bytes"
"""Stands for a type in `Operation.answers`: content that is no JSON."""

HTML: Final = "html"
"""Likewise: a page."""
