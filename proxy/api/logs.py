"""What a service has printed, and, for who follows, what it goes on to print, as it is."""

from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors import Process
from proxy.api import schemas
from proxy.api.calls import BYTES, Call, Need, Operation
from proxy.api.entrance import is_still_held, wait_revoked

LOG_TYPE: Final = "application/octet-stream"
# A browser that is led here must not take what a service prints for a page of the API's origin.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ReadLogs(schemas.Request, frozen=True, kw_only=True):
    """Which of it."""

    follow: bool = False
    """Whether to go on with what is still to be printed, until the process exits."""


class _Following(Response):
    """Sends a log as it grows, and stops when the client leaves or its key is revoked, however silent the process is.

    What is cut off by a revocation lacks its last event, by which the client can tell it from the end of the log.
    """

    def __init__(self, process: Process, call: Call) -> None:
        super().__init__(media_type=LOG_TYPE, headers=_HEADERS)
        # The length is not known yet.
        del self.headers["content-length"]
        self._process = process
        self._call = call

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        failure: OSError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_left, receive, nursery.cancel_scope)
            nursery.start_soon(_cancel_when_revoked, self._call, nursery.cancel_scope)
            try:
                async with self._process.follow_logs() as pieces:
                    async for piece in pieces:
                        if not is_still_held(self._call.ground, self._call.key):
                            nursery.cancel_scope.cancel()
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            except OSError as error:
                # Expected: nobody is left to send to. Not raised in here, where it would be wrapped in a group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _cancel_when_left(receive: Receive, following: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    following.cancel()


async def _cancel_when_revoked(call: Call, following: trio.CancelScope) -> None:
    await wait_revoked(call.ground, call.key)
    following.cancel()


async def read_logs(call: Call) -> Response:
    query: ReadLogs = call.query
    process = await (await call.sandbox()).get_process(call.path["process"])
    if not query.follow:
        return Response(await process.logs(), media_type=LOG_TYPE, headers=_HEADERS)
    return _Following(process, call)


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/sandboxes/{id}/processes/{process}/logs",
        "readLogs",
        "Read what a process has printed, and perhaps what it goes on to print.",
        read_logs,
        Need.LOOK,
        {200: BYTES},
        (404,),
        query=ReadLogs,
    ),
)
"""All of them."""
