"""Calls about sandboxes and previews in the shape of OpenComputer's API, as its published clients make them.

Where that server and ours would answer alike there is one way to do it, the native one; what is here is their names,
their statuses and their bodies.
"""

import secrets
from typing import Any, Final

import trio

from actors import (
    Domain,
    Port,
    PortExposed,
    PreviewToken,
    PreviewURL,
    RevocationIncompleteError,
    Sandbox,
    SandboxId,
    SandboxNotFoundError,
    SandboxState,
    Status,
)
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.opencomputer_schemas import (
    OcCreate,
    OcCreatePreview,
    OcHibernated,
    OcPreview,
    OcRotated,
    OcSandbox,
    OcTimeout,
    OcWake,
)
from proxy.api.present import domain_of, shown_time
from proxy.api.problems import ProblemError, invalid

PREVIEW_TOKEN_BYTES: Final = 32
PORT_MAX: Final = 65535
LISTED_MAX: Final = 1000
"""Their list has no pages; each sandbox of it is loaded."""

REGION: Final = "local"
WORKER: Final = "portico"


async def create(call: Call) -> Reply:
    body: OcCreate = call.body
    if body.envs:
        raise ProblemError(400, "UNSUPPORTED", "envs of a sandbox are not kept here: give them to each command")
    token = None
    if body.previewAuth is not None:
        if body.previewAuth.scheme != "bearer":
            raise invalid('previewAuth.scheme must be "bearer"')
        token = _asked_token(body.previewAuth.token)
    sandbox = await call.runtime.get_sandbox(
        SandboxId.mint(secrets.token_bytes(4)),
        open_ports=True,
        preview_auth=token,
        sleep_after=body.timeout or None,
    )
    # Theirs is up once it is made. One that is not must not stay: nobody is told its id.
    try:
        await sandbox.wake()
    except BaseException:
        with trio.CancelScope(shield=True):
            await sandbox.destroy()
        raise
    told = {"previewAuthToken": token.reveal()} if token is not None else {}
    return Reply(201, _shown(call, await sandbox.state(), **told))


async def list_all(call: Call) -> Reply:
    shown = []
    names = [name for name in await call.runtime.list_sandboxes() if call.scope.may_look(name)]
    for name in names[:LISTED_MAX]:
        try:
            shown.append(_shown(call, await (await call.runtime.find_sandbox(name)).state()))
        except SandboxNotFoundError:
            # Destroyed in the meantime.
            continue
    return Reply(200, shown)


async def get(call: Call) -> Reply:
    return Reply(200, _shown(call, await (await _sandbox(call)).state()))


async def kill(call: Call) -> Reply:
    await call.ground.sessions.destroy(await _sandbox(call))
    return Reply(204)


async def hibernate(call: Call) -> Reply:
    await (await _sandbox(call)).hibernate()
    return Reply(200, OcHibernated(sandboxID=call.sandbox_id, status="hibernated"))


async def wake(call: Call) -> Reply:
    body: OcWake = call.body
    sandbox = await _sandbox(call)
    state = await sandbox.state()
    if state.status is not Status.ACTIVE or state.run_id is not None:
        raise ProblemError(404, "NOT_HIBERNATED", "no active hibernation found")
    if body.timeout is not None:
        await sandbox.set_sleep_after(body.timeout or None)
    await sandbox.wake()
    return Reply(200, _shown(call, await sandbox.state()))


async def set_timeout(call: Call) -> Reply:
    body: OcTimeout = call.body
    await (await _sandbox(call)).set_sleep_after(body.timeout or None)
    return Reply(204)


async def create_preview(call: Call) -> Reply:
    body: OcCreatePreview = call.body
    sandbox = await _sandbox(call)
    if not 1 <= body.port <= PORT_MAX:
        raise invalid(f"port must be between 1 and {PORT_MAX}")
    domain = _domain(call, body.domain)
    existed = Port(body.port) in (await sandbox.state()).ports
    preview = await sandbox.create_preview_url(body.port, domain)
    shown = await _shown_previews(call, [preview], custom=domain is not None, config=body.authConfig)
    return Reply(200 if existed else 201, shown[0])


async def list_previews(call: Call) -> Reply:
    sandbox = await _sandbox(call)
    return Reply(200, await _shown_previews(call, await sandbox.list_preview_urls()))


async def delete_preview(call: Call) -> Reply:
    text = call.path["port"]
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PORT_MAX):
        raise ProblemError(400, "INVALID_REQUEST", "invalid port")
    if not await (await _sandbox(call)).delete_preview_url(int(text)):
        raise ProblemError(404, "NOT_FOUND", "no preview URL for this port")
    return Reply(204)


async def rotate(call: Call) -> Reply:
    sandbox = await _sandbox(call)
    state = await sandbox.state()
    if state.status is not Status.ACTIVE:
        raise ProblemError(410, "SANDBOX_STOPPED", "sandbox not found or not in a settable state")
    change = sandbox.set_preview_auth if state.auth is None else sandbox.rotate_preview_auth
    try:
        token: PreviewToken = await change()
    except RevocationIncompleteError as error:
        if error.token is None:
            raise
        # It is in force, and their clients look for a token in a good answer only.
        told = OcRotated(previewAuthToken=error.token.reveal(), scheme="bearer", remaining=error.remaining)
        return Reply(200, told)
    return Reply(200, OcRotated(previewAuthToken=token.reveal(), scheme="bearer"))


async def _sandbox(call: Call) -> Sandbox:
    try:
        return await call.sandbox()
    except SandboxNotFoundError:
        raise ProblemError(404, "SANDBOX_NOT_FOUND", "sandbox not found") from None


def _shown(call: Call, state: SandboxState, **told: str) -> OcSandbox:
    awake = "running" if state.run_id is not None else "hibernated"
    return OcSandbox(
        sandboxID=state.sandbox,
        templateID="base",
        status=awake if state.status is Status.ACTIVE else "stopped",
        region=REGION,
        workerID=WORKER,
        token="",
        sandboxDomain=domain_of(call.runtime, call.ground.domains),
        **told,
    )


async def _shown_previews(
    call: Call, previews: list[PreviewURL], *, custom: bool = False, config: dict[str, Any] | None = None
) -> list[OcPreview]:
    since: dict[int, float] = {}
    for moment in await call.runtime.history(call.sandbox_id):
        if isinstance(moment.event, PortExposed):
            since[moment.event.port] = moment.time
        elif moment.event is None:
            # A snapshot: that old at least.
            since.update(dict.fromkeys(moment.state.ports, moment.time))
    return [
        OcPreview(
            id=preview.id,
            sandboxId=preview.sandbox,
            orgId="",
            hostname=preview.hostname,
            port=preview.port,
            sslStatus="active",
            authConfig=config or {},
            createdAt=shown_time(since.get(preview.port, 0.0)),
            **({"customHostname": preview.hostname} if custom else {}),
        )
        for preview in previews
    ]


def _domain(call: Call, asked: str | None) -> str | None:
    if not asked:
        return None
    if asked.lower() not in call.ground.domains:
        raise invalid("org has no custom domain configured")
    return Domain(asked)


def _asked_token(text: str) -> PreviewToken:
    if text in ("", "auto"):
        return PreviewToken.mint(secrets.token_bytes(PREVIEW_TOKEN_BYTES))
    try:
        return PreviewToken(text)
    except ValueError:
        raise invalid('previewAuth.token must be omitted, "auto", or a string of at least 16 characters') from None


_AT: Final = "/api/sandboxes/{id}"


def _operation(
    method: str, path: str, name: str, summary: str, handler: Any, need: Need, answers: Any, *problems: int, **more: Any
) -> Operation:
    return Operation(method, path, f"oc{name}", summary, handler, need, answers, problems, compatible=True, **more)


OPERATIONS: Final = (
    _operation(
        "POST", "/api/sandboxes", "Create", "Make a sandbox.", create, Need.ADMIN, {201: OcSandbox}, body=OcCreate
    ),
    _operation("GET", "/api/sandboxes", "List", "List the sandboxes.", list_all, Need.ANY, {200: list[OcSandbox]}),
    _operation("GET", _AT, "Get", "Look at a sandbox.", get, Need.LOOK, {200: OcSandbox}, 404),
    _operation("DELETE", _AT, "Kill", "Forget a sandbox for good.", kill, Need.CHANGE, {204: None}, 404),
    _operation(
        "POST",
        f"{_AT}/hibernate",
        "Hibernate",
        "Put it to sleep.",
        hibernate,
        Need.CHANGE,
        {200: OcHibernated},
        404,
        410,
    ),
    _operation(
        "POST",
        f"{_AT}/wake",
        "Wake",
        "Wake it.",
        wake,
        Need.CHANGE,
        {200: OcSandbox},
        404,
        body=OcWake,
        body_required=False,
    ),
    _operation(
        "POST",
        f"{_AT}/timeout",
        "SetTimeout",
        "Say after how many idle seconds it goes to sleep.",
        set_timeout,
        Need.CHANGE,
        {204: None},
        404,
        410,
        body=OcTimeout,
    ),
    _operation(
        "POST",
        f"{_AT}/preview",
        "CreatePreview",
        "Record that a port's preview is wanted.",
        create_preview,
        Need.CHANGE,
        {201: OcPreview, 200: OcPreview},
        404,
        409,
        410,
        body=OcCreatePreview,
    ),
    _operation(
        "GET",
        f"{_AT}/preview",
        "ListPreviews",
        "List the previews, by port.",
        list_previews,
        # Where ports are not open, hostnames hold their tokens.
        Need.CHANGE,
        {200: list[OcPreview]},
        404,
    ),
    _operation(
        "DELETE",
        f"{_AT}/preview/{{port}}",
        "DeletePreview",
        "Forget a port's preview.",
        delete_preview,
        Need.CHANGE,
        {204: None},
        404,
    ),
    _operation(
        "POST",
        f"{_AT}/preview/rotate",
        "RotatePreview",
        "Replace the token of the gate; the old one stops at once.",
        rotate,
        Need.CHANGE,
        {200: OcRotated},
        404,
        410,
    ),
)
"""All of them."""
