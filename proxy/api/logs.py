"""What a service has printed, and, for who follows, what it goes on to print, as it is."""

from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors import Process
from proxy.api import schemas
from proxy.api.calls import BYTES, Call, Need, Operation

LOG_TYPE: Final = "application/octet-stream"
# A browser that is led here must not take what a service prints for a page of the API's origin.
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class ReadLogs(schemas.Request, frozen=True, kw_only=True):
    """Which of it."""

    follow: bool = False
    """Whether to go on with what is still to be printed, until the process exits."""


class _Following(Response):
    """Sends a log as it grows, and stops when the client leaves, however silent the process is."""

    def __init__(self, process: Process) -> None:
        super().__init__(media_type=LOG_TYPE, headers=_HEADERS)
        # The length is not known yet.
        del self.headers["content-length"]
        self._process = process

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        failure: OSError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_left, receive, nursery.cancel_scope)
            try:
                async with self._process.follow_logs() as pieces:
                    async for piece in pieces:
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


async def read_logs(call: Call) -> Response:
    query: ReadLogs = call.query
    process = await (await call.sandbox()).get_process(call.path["process"])
    if not query.follow:
        return Response(await process.logs(), media_type=LOG_TYPE, headers=_HEADERS)
    return _Following(process)


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
