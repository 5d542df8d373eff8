"""Calls about sandboxes, their ports and their gate."""

import secrets
from typing import Annotated, Final

from msgspec import UNSET, Meta

from actors import (
    AsleepPolicy,
    ContainerSpec,
    HostHeader,
    InvalidNameError,
    Port,
    PreviewToken,
    SandboxId,
    SandboxNotFoundError,
    SandboxState,
)
from proxy.api import schemas
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.present import shown_port, shown_ports, shown_sandbox
from proxy.api.problems import ProblemError, invalid

PREVIEW_TOKEN_BYTES: Final = 32
PAGE_MAX: Final = 200
"""Each sandbox of a page is loaded, so a page is also what a client can make us load at once."""

DRAIN_S_MAX: Final = 3600


class ListSandboxes(schemas.Request, frozen=True, kw_only=True):
    """Which page of the sandboxes."""

    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = 50
    after: Annotated[str, Meta(max_length=40)] = ""
    """The id before the page, itself not in it."""


class Unexpose(schemas.Request, frozen=True, kw_only=True):
    """How gently."""

    drain: Annotated[float, Meta(ge=0, le=DRAIN_S_MAX)] = 0.0
    """Seconds that requests under way are given."""


async def create_sandbox(call: Call) -> Reply:
    body: schemas.CreateSandbox = call.body
    sandbox_id = SandboxId.mint(secrets.token_bytes(4)) if body.id is None else SandboxId(body.id)
    before = await _state_of(call, sandbox_id)
    token = _asked_token(body.preview_auth.token) if body.preview_auth is not None else None
    container = body.container
    try:
        spec = ContainerSpec(container.kind, container.options) if container is not None else None
        sandbox = await call.runtime.get_sandbox(
            sandbox_id,
            container=spec,
            open_ports=body.open_ports,
            when_asleep=AsleepPolicy(body.when_asleep) if body.when_asleep is not None else None,
            preview_auth=token,
            sleep_after=body.sleep_after,
        )
    except InvalidNameError:
        raise
    except ValueError as error:
        # A kind of container that there is not, or options that it does not take.
        raise invalid(str(error)) from None
    told = token.reveal() if token is not None and before is None else None
    shown = shown_sandbox(await sandbox.state(), call.runtime, secrets=True, preview_auth_token=told)
    return Reply(201 if before is None else 200, shown)


async def list_sandboxes(call: Call) -> Reply:
    query: ListSandboxes = call.query
    ids = [name for name in await call.runtime.list_sandboxes() if name > query.after and call.scope.may_look(name)]
    shown = []
    page = ids[: query.limit]
    for name in page:
        state = await _state_of(call, name)
        # None: destroyed in the meantime.
        if state is not None:
            shown.append(shown_sandbox(state, call.runtime, secrets=call.sees_secrets(name)))
    return Reply(200, schemas.SandboxList(sandboxes=shown, next=page[-1] if len(ids) > len(page) else None))


async def get_sandbox(call: Call) -> Reply:
    return Reply(200, await _shown(call))


async def change_sandbox(call: Call) -> Reply:
    body: schemas.ChangeSandbox = call.body
    sandbox = await call.sandbox()
    if body.sleep_after is not UNSET:
        await sandbox.set_sleep_after(body.sleep_after)
    return Reply(200, await _shown(call))


async def destroy_sandbox(call: Call) -> Reply:
    # One that does not exist (any more) is as wanted: a client may repeat a request whose answer it has lost.
    try:
        sandbox = await call.sandbox()
    except SandboxNotFoundError:
        return Reply(200, schemas.Destroyed(closed=0, existed=False))
    return Reply(200, schemas.Destroyed(closed=await call.ground.sessions.destroy(sandbox)))


async def stop_sandbox(call: Call) -> Reply:
    return Reply(200, schemas.Closed(closed=await (await call.sandbox()).stop()))


async def hibernate_sandbox(call: Call) -> Reply:
    await (await call.sandbox()).hibernate()
    return Reply(200, await _shown(call))


async def wake_sandbox(call: Call) -> Reply:
    await (await call.sandbox()).wake()
    return Reply(200, await _shown(call))


async def list_ports(call: Call) -> Reply:
    state = await (await call.sandbox()).state()
    ports = shown_ports(state, call.runtime, secrets=call.sees_secrets(call.sandbox_id))
    return Reply(200, schemas.PortList(ports=ports))


async def expose_port(call: Call) -> Reply:
    body: schemas.ExposePort = call.body
    sandbox = await call.sandbox()
    before = (await sandbox.state()).ports
    exposed = await sandbox.expose_port(
        call.port,
        hostname=body.domain,
        name=body.name,
        token=body.token,
        host_header=body.host_header,
        wake_on_websocket=body.wake_on_websocket,
    )
    exposure = (await sandbox.state()).ports.get(Port(call.port))
    # None: taken back in the meantime; what this call was about is answered all the same.
    host_header = exposure.host_header if exposure is not None else HostHeader(body.host_header or "localhost")
    return Reply(200 if Port(call.port) in before else 201, shown_port(exposed, host_header))


async def unexpose_port(call: Call) -> Reply:
    query: Unexpose = call.query
    closed = await (await call.sandbox()).unexpose_port(call.port, drain=query.drain)
    return Reply(200, schemas.Closed(closed=closed))


async def set_preview_auth(call: Call) -> Reply:
    body: schemas.SetPreviewAuth = call.body
    token = await (await call.sandbox()).set_preview_auth(_own(body.token))
    return Reply(200, schemas.PreviewAuth(token=token.reveal()))


async def rotate_preview_auth(call: Call) -> Reply:
    body: schemas.RotatePreviewAuth = call.body
    sandbox = await call.sandbox()
    if (await sandbox.state()).auth is None:
        raise ProblemError(409, "NO_PREVIEW_AUTH", f"sandbox {call.sandbox_id} has no preview auth to rotate")
    token = await sandbox.rotate_preview_auth(grace=body.grace, token=_own(body.token))
    return Reply(200, schemas.RotatedPreviewAuth(token=token.reveal(), closed=token.closed))


async def _state_of(call: Call, sandbox: SandboxId) -> SandboxState | None:
    try:
        return await (await call.runtime.find_sandbox(sandbox)).state()
    except SandboxNotFoundError:
        return None


async def _shown(call: Call) -> schemas.Sandbox:
    state = await (await call.sandbox()).state()
    return shown_sandbox(state, call.runtime, secrets=call.sees_secrets(call.sandbox_id))


def _own(token: str) -> str | None:
    return None if token == "auto" else token  # noqa: S105  a word, not a password


def _asked_token(token: str) -> PreviewToken:
    own = _own(token)
    return PreviewToken(own) if own is not None else PreviewToken.mint(secrets.token_bytes(PREVIEW_TOKEN_BYTES))


_AT: Final = "/v1/sandboxes/{id}"

OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/sandboxes",
        "createSandbox",
        "Make a sandbox, or agree that it is as asked for.",
        create_sandbox,
        Need.ADMIN,
        {201: schemas.Sandbox, 200: schemas.Sandbox},
        (409,),
        body=schemas.CreateSandbox,
        body_required=False,
    ),
    Operation(
        "GET",
        "/v1/sandboxes",
        "listSandboxes",
        "List the sandboxes that the key may see, by id.",
        list_sandboxes,
        Need.ANY,
        {200: schemas.SandboxList},
        query=ListSandboxes,
    ),
    Operation("GET", _AT, "getSandbox", "Look at a sandbox.", get_sandbox, Need.LOOK, {200: schemas.Sandbox}, (404,)),
    Operation(
        "PATCH",
        _AT,
        "changeSandbox",
        "Change when a sandbox goes to sleep.",
        change_sandbox,
        Need.CHANGE,
        {200: schemas.Sandbox},
        (404, 410),
        body=schemas.ChangeSandbox,
    ),
    Operation(
        "DELETE",
        _AT,
        "destroySandbox",
        "Forget a sandbox for good: ports and tokens first, then streams, then its container.",
        destroy_sandbox,
        Need.CHANGE,
        {200: schemas.Destroyed, 504: schemas.IncompleteRevocation},
    ),
    Operation(
        "POST",
        f"{_AT}/stop",
        "stopSandbox",
        "Stop a sandbox for good; its URLs answer 410 from then on.",
        stop_sandbox,
        Need.CHANGE,
        {200: schemas.Closed, 504: schemas.IncompleteRevocation},
        (404,),
    ),
    Operation(
        "POST",
        f"{_AT}/hibernate",
        "hibernateSandbox",
        "Put a sandbox to sleep now; its live streams are cut.",
        hibernate_sandbox,
        Need.CHANGE,
        {200: schemas.Sandbox, 504: schemas.IncompleteRevocation},
        (404, 410),
    ),
    Operation(
        "POST",
        f"{_AT}/wake",
        "wakeSandbox",
        "Bring a sandbox up; answered once it is.",
        wake_sandbox,
        Need.CHANGE,
        {200: schemas.Sandbox},
        (404, 410),
    ),
    Operation(
        "GET",
        f"{_AT}/ports",
        "listPorts",
        "List the exposed ports of a sandbox.",
        list_ports,
        Need.LOOK,
        {200: schemas.PortList},
        (404,),
    ),
    Operation(
        "PUT",
        f"{_AT}/ports/{{port}}",
        "exposePort",
        "Give a port a preview URL. Again without a token: the same URL.",
        expose_port,
        Need.CHANGE,
        {201: schemas.Port, 200: schemas.Port},
        (404, 409, 410),
        body=schemas.ExposePort,
        body_required=False,
    ),
    Operation(
        "DELETE",
        f"{_AT}/ports/{{port}}",
        "unexposePort",
        "Take a port's URL back; answered once its live streams are cut.",
        unexpose_port,
        Need.CHANGE,
        {200: schemas.Closed, 504: schemas.IncompleteRevocation},
        (404,),
        query=Unexpose,
    ),
    Operation(
        "PUT",
        f"{_AT}/preview-auth",
        "setPreviewAuth",
        "Ask every visitor for a bearer token from now on.",
        set_preview_auth,
        Need.CHANGE,
        {200: schemas.PreviewAuth, 504: schemas.IncompleteRevocation},
        (404, 410),
        body=schemas.SetPreviewAuth,
        body_required=False,
    ),
    Operation(
        "POST",
        f"{_AT}/preview-auth/rotate",
        "rotatePreviewAuth",
        "Replace the bearer token; the old one stops at once, or after a grace.",
        rotate_preview_auth,
        Need.CHANGE,
        {200: schemas.RotatedPreviewAuth, 504: schemas.IncompleteRevocation},
        (404, 409, 410),
        body=schemas.RotatePreviewAuth,
        body_required=False,
    ),
)
"""All of them."""
