"""Calls about shares: links that open one port for a while, past any gate."""

from typing import Final

from actors import ShareNotFoundError, Status
from proxy.api import schemas
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.present import shown_share
from proxy.api.problems import ProblemError


async def create_share(call: Call) -> Reply:
    body: schemas.CreateShare = call.body
    sandbox = await call.sandbox()
    state = await sandbox.state()
    if call.port not in state.ports and not state.open_ports and state.status is Status.ACTIVE:
        raise ProblemError(409, "NOT_EXPOSED", f"port {call.port} cannot be shared: it is not exposed")
    share = await sandbox.share(
        call.port, expires_in=body.expires_in, once=body.once, custom_hostname=body.custom_hostname
    )
    return Reply(201, shown_share(share))


async def list_shares(call: Call) -> Reply:
    shares = await (await call.sandbox()).list_shares(_port(call))
    return Reply(200, schemas.ShareList(shares=[shown_share(share) for share in shares]))


async def revoke_share(call: Call) -> Reply:
    sandbox, wanted = await call.sandbox(), call.path["share"]
    # Not among those that stand now: one on a custom hostname that does not serve just now may open again later.
    share = (await sandbox.state()).shares.get(wanted)
    if share is None or _port(call) not in (None, share.port):
        place = "sandbox" if _port(call) is None else "port"
        raise ShareNotFoundError(f"this {place} has no such share (any more)")
    return Reply(200, schemas.Closed(closed=await sandbox.revoke_share(wanted)))


def _port(call: Call) -> int | None:
    """Return the port in the path; None: all of them, those that are open without being exposed too."""
    return call.port if "port" in call.path else None


_AT: Final = "/v1/sandboxes/{id}/ports/{port}/shares"
_ALL: Final = "/v1/sandboxes/{id}/shares"

OPERATIONS: Final = (
    Operation(
        "POST",
        _AT,
        "createShare",
        "Make a link that opens an exposed port, past any gate, until it ends.",
        create_share,
        Need.CHANGE,
        {201: schemas.Share},
        (404, 409, 410),
        body=schemas.CreateShare,
    ),
    Operation(
        "GET",
        _AT,
        "listShares",
        "List the links of a port that stand, without their secrets.",
        list_shares,
        Need.LOOK,
        {200: schemas.ShareList},
        (404,),
    ),
    Operation(
        "DELETE",
        f"{_AT}/{{share}}",
        "revokeShare",
        "Take a link back; answered once the streams that came by it are cut.",
        revoke_share,
        Need.CHANGE,
        {200: schemas.Closed, 504: schemas.IncompleteRevocation},
        (404,),
    ),
    Operation(
        "GET",
        _ALL,
        "listAllShares",
        "List the links of all ports that stand, without their secrets.",
        list_shares,
        Need.LOOK,
        {200: schemas.ShareList},
        (404,),
    ),
    Operation(
        "DELETE",
        f"{_ALL}/{{share}}",
        "revokeAnyShare",
        "Take a link back, whatever its port; answered once the streams that came by it are cut.",
        revoke_share,
        Need.CHANGE,
        {200: schemas.Closed, 504: schemas.IncompleteRevocation},
        (404,),
    ),
)
"""All of them."""
