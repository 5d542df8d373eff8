"""Calls about the server itself and about the past: keys, history, why, health."""

import time
from functools import partial
from typing import Annotated, Final

import trio
from msgspec import Meta

from actors import SandboxId, SandboxState, state_at
from proxy.api import schemas
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.keys import ENVIRONMENT_ID, LOCAL_ID
from proxy.api.present import shown_explanation, shown_key, shown_moment
from proxy.api.problems import NOT_FOUND, ProblemError, invalid
from proxy.core.diagnosis import BadURLError
from proxy.explain import explain_url, knock, live_state, past_state

# The last second of the year 9999, beyond which there are no dates.
TIME_MAX: Final = 253402300799

URL_LENGTH_MAX: Final = 8192

PastTime = Annotated[float, Meta(ge=0, le=TIME_MAX, description="Seconds since 1970-01-01 UTC.")]


class GetHistory(schemas.Request, frozen=True, kw_only=True):
    """How much of it."""

    at: PastTime = float(TIME_MAX)
    """Nothing that came later."""


class Explain(schemas.Request, frozen=True, kw_only=True):
    """What is asked about."""

    url: Annotated[str, Meta(min_length=1, max_length=URL_LENGTH_MAX)]
    at: PastTime | None = None
    """None: now."""


async def create_key(call: Call) -> Reply:
    body: schemas.CreateKey = call.body
    key, text = await trio.to_thread.run_sync(partial(call.ground.ring.create, body.name, body.scope, by=call.key))
    shown = shown_key(key)
    return Reply(
        201,
        schemas.NewKey(id=shown.id, name=shown.name, scope=shown.scope, created_at=shown.created_at, key=text),
    )


async def list_keys(call: Call) -> Reply:
    return Reply(200, schemas.KeyList(keys=[shown_key(key) for key in call.ground.ring.records()]))


async def revoke_key(call: Call) -> Reply:
    key_id = call.path["key"]
    if key_id in (ENVIRONMENT_ID, LOCAL_ID):
        raise ProblemError(409, "KEY_NOT_KEPT", "that key is in no file: it ends with the server")
    if not await trio.to_thread.run_sync(partial(call.ground.ring.revoke, key_id, by=call.key)):
        raise ProblemError(404, NOT_FOUND, "there is no such key")
    return Reply(204)


async def get_history(call: Call) -> Reply:
    query: GetHistory = call.query
    await call.sandbox()
    moments = await call.runtime.history(call.sandbox_id)
    return Reply(200, schemas.History(events=[shown_moment(moment) for moment in moments if moment.time <= query.at]))


async def explain(call: Call) -> Reply:
    query: Explain = call.query
    now = time.time()
    state_of = partial(live_state, call.runtime)
    if query.at is not None:
        now = query.at
        folder = call.ground.folder
        state_of = partial(past_state, folder, now) if folder is not None else partial(_remembered, call, now)
    try:
        # What custom hostnames led to at a time past is not looked up.
        custom = call.runtime.domains.find if query.at is None else lambda _: None
        explanation = await explain_url(query.url, call.ground.domains, state_of, now, custom=custom)
    except BadURLError as error:
        raise invalid(str(error)) from None
    if not call.scope.may_change(explanation.sandbox):
        # It says who holds the right token.
        raise ProblemError(403, "FORBIDDEN", "this API key may not do that")
    if query.at is None:
        explanation = await knock(explanation, call.runtime)
    return Reply(200, shown_explanation(explanation))


async def _remembered(call: Call, now: float, sandbox: SandboxId) -> SandboxState | None:
    return state_at(await call.runtime.history(sandbox), now) if call.runtime.exists(sandbox) else None


async def healthz(_call: Call) -> Reply:
    return Reply(200, schemas.Health(status="ok"))


async def readyz(call: Call) -> Reply:
    # Nobody is let in while the keys cannot be read: a KeyFileError is answered 503.
    call.ground.ring.records()
    if call.runtime.public_address is None:
        raise ProblemError(503, "NOT_LISTENING", "the server does not listen (any more)")
    return Reply(200, schemas.Health(status="ok"))


OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/keys",
        "createKey",
        "Make an API key; its text is told this once.",
        create_key,
        Need.ADMIN,
        {201: schemas.NewKey},
        (409,),
        body=schemas.CreateKey,
    ),
    Operation("GET", "/v1/keys", "listKeys", "List the API keys.", list_keys, Need.ADMIN, {200: schemas.KeyList}),
    Operation(
        "DELETE",
        "/v1/keys/{key}",
        "revokeKey",
        "Revoke an API key: it is refused from the next request on.",
        revoke_key,
        Need.ADMIN,
        {204: None},
        (404, 409),
    ),
    Operation(
        "GET",
        "/v1/sandboxes/{id}/history",
        "getHistory",
        "Read a sandbox's log, secrets masked.",
        get_history,
        Need.LOOK,
        {200: schemas.History},
        (404,),
        query=GetHistory,
    ),
    Operation(
        "GET",
        "/v1/explain",
        "explain",
        "Say why a preview URL gets the answer it gets, now or at a time past.",
        explain,
        Need.ANY,
        {200: schemas.Explanation},
        query=Explain,
    ),
    Operation("GET", "/healthz", "healthz", "The server runs.", healthz, Need.NOTHING, {200: schemas.Health}),
    Operation(
        "GET", "/readyz", "readyz", "The server can be used.", readyz, Need.NOTHING, {200: schemas.Health}, (503,)
    ),
)
"""All of them."""
