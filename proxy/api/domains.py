"""Calls about custom hostnames: asked for by a sandbox, verified, listed, given back.

Several sandboxes may ask for one hostname, so a hostname alone does not say which request is meant; where a key can
only mean one, it need not say.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta

from actors import CustomHostname, DomainBinding, DomainNotFoundError, SandboxId
from proxy.api import schemas
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.present import shown_domain
from proxy.api.problems import ProblemError

PAGE_MAX: Final = 1000


class ListDomains(schemas.Request, frozen=True, kw_only=True):
    """Which page of the hostnames."""

    sandbox: schemas.SandboxName | None = None
    """Only those that it has asked for."""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 200
    after: Annotated[str, Meta(max_length=300)] = ""
    """`next` of the page before."""


class Claim(schemas.Request, frozen=True, kw_only=True):
    """Whose request for the hostname is meant."""

    sandbox: schemas.SandboxName | None = None
    """None: the only one that the key may change."""


async def bind_domain(call: Call) -> Reply:
    body: schemas.BindDomain = call.body
    name, sandbox_id = CustomHostname(call.path["hostname"]), SandboxId(body.sandbox)
    _check_scope(call, sandbox_id)
    sandbox = await call.runtime.find_sandbox(sandbox_id)
    known = any(binding.hostname == name for binding in sandbox.get_domains())
    binding = await sandbox.bind_domain(name, body.port)
    return Reply(200 if known else 201, shown_domain(binding))


async def verify_domain(call: Call) -> Reply:
    name = CustomHostname(call.path["hostname"])
    sandbox = _claimant(call, name)
    if sandbox is None:
        raise DomainNotFoundError(f"nobody has asked for {name}")
    return Reply(200, shown_domain(await call.ground.verify(name, sandbox)))


async def unbind_domain(call: Call) -> Reply:
    name = CustomHostname(call.path["hostname"])
    sandbox = _claimant(call, name)
    # One that is not bound (any more) is as wanted: a client may repeat a request whose answer it has lost.
    closed = 0 if sandbox is None else await call.runtime.domains.unbind(name, sandbox)
    return Reply(200, schemas.Closed(closed=closed))


async def list_domains(call: Call) -> Reply:
    query: ListDomains = call.query
    sandbox = None if query.sandbox is None else SandboxId(query.sandbox)
    if sandbox is not None and not call.scope.may_look(sandbox):
        raise ProblemError(403, "FORBIDDEN", "this API key may not do that")
    found = [
        binding
        for binding in call.runtime.domains.bindings(sandbox)
        if call.scope.may_look(binding.sandbox) and _place(binding) > _place_of(query.after)
    ]
    page = found[: query.limit]
    return Reply(
        200,
        schemas.CustomDomainList(
            domains=[shown_domain(binding) for binding in page],
            next="/".join(_place(page[-1])) if len(found) > len(page) else None,
        ),
    )


def _claimant(call: Call, name: CustomHostname) -> SandboxId | None:
    """Return the sandbox whose request is meant; None if there is no request that the key could mean."""
    query: Claim = call.query
    if query.sandbox is not None:
        sandbox = SandboxId(query.sandbox)
        _check_scope(call, sandbox)
        return sandbox
    if not call.scope.admin and call.scope.sandbox is None:
        raise ProblemError(403, "FORBIDDEN", "this API key may not do that")
    claimants: Sequence[SandboxId] = [
        binding.sandbox
        for binding in call.runtime.domains.bindings()
        if binding.hostname == name and call.scope.may_change(binding.sandbox)
    ]
    if len(claimants) > 1:
        raise ProblemError(409, "SANDBOX_WANTED", f"several sandboxes have asked for {name}: say which is meant")
    return claimants[0] if claimants else None


def _check_scope(call: Call, sandbox: SandboxId) -> None:
    if not call.scope.may_change(sandbox):
        raise ProblemError(403, "FORBIDDEN", "this API key may not do that")


# Neither a hostname nor an id has a slash in it.
def _place(binding: DomainBinding) -> tuple[str, str]:
    return binding.hostname, binding.sandbox


def _place_of(after: str) -> tuple[str, str]:
    hostname, _, sandbox = after.partition("/")
    return hostname, sandbox


_ONE: Final = "/v1/domains/{hostname}"

OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/domains",
        "listDomains",
        "List the custom hostnames that were asked for, verified or not.",
        list_domains,
        Need.ANY,
        {200: schemas.CustomDomainList},
        query=ListDomains,
    ),
    Operation(
        "PUT",
        _ONE,
        "bindDomain",
        "Ask for a custom hostname; again with another port: it leads there.",
        bind_domain,
        Need.ANY,
        {201: schemas.CustomDomain, 200: schemas.CustomDomain},
        (404, 409),
        body=schemas.BindDomain,
    ),
    Operation(
        "POST",
        f"{_ONE}/verify",
        "verifyDomain",
        "Look whether the challenge is answered; from then on the hostname serves.",
        verify_domain,
        Need.ANY,
        {200: schemas.CustomDomain},
        (404, 409),
        query=Claim,
    ),
    Operation(
        "DELETE",
        _ONE,
        "unbindDomain",
        "Give a custom hostname back; answered once its live streams are cut.",
        unbind_domain,
        Need.ANY,
        {200: schemas.Closed, 504: schemas.IncompleteRevocation},
        (409,),
        query=Claim,
    ),
)
"""All of them."""
