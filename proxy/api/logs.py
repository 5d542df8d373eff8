"""What a service has printed, and, for who follows, what it goes on to print, as it is.

A container tells the newest output, and no positions in it. So whoever follows looks now and then, and what is new is
worked out from what the two looks have in common. Where more was printed between two looks than is kept, what lies in
between is missing; where the output is the same line over and over, and the oldest of it has just been dropped, so may
be a few of those lines.
"""

from collections.abc import AsyncIterator
from typing import Final

import trio
from starlette.responses import Response, StreamingResponse

from actors import Process
from proxy.api import schemas
from proxy.api.calls import BYTES, Call, Need, Operation, Reply

LOOK_FIRST_S: Final = 0.05
LOOK_MAX_S: Final = 0.5
"""How often a follower looks: soon while something is printed, seldom while nothing is."""

ANCHOR_LENGTH: Final = 64
"""What two looks have in common is at least so many bytes, or it is chance. Containers keep thousands of times that."""

MEDIA_TYPE: Final = "application/octet-stream"


class ReadLogs(schemas.Request, frozen=True, kw_only=True):
    """Whether to wait for more."""

    follow: bool = False
    """Go on until the process has exited."""


async def read_logs(call: Call) -> Reply | Response:
    query: ReadLogs = call.query
    process = await (await call.sandbox()).get_process(call.path["process"])
    # A browser that is led here must not take what a service prints for a page of the API's origin.
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if query.follow:
        return StreamingResponse(follow(process), media_type=MEDIA_TYPE, headers=headers)
    return Response(await process.logs(), media_type=MEDIA_TYPE, headers=headers)


async def follow(process: Process) -> AsyncIterator[bytes]:
    """Yield what a process has printed and goes on to print, until it has exited."""
    printed = b""
    pause = LOOK_FIRST_S
    while True:
        # Asked before the look: what it printed last is then in it.
        ended = process.exit_code is not None
        now = await process.logs()
        new = fresh(printed, now)
        printed = now or printed
        if new:
            pause = LOOK_FIRST_S
            yield new
        if ended:
            return
        await trio.sleep(pause)
        pause = min(pause * 2, LOOK_MAX_S)


def fresh(before: bytes, now: bytes) -> bytes:
    """Return the end of `now` that was not in `before`, when all output so far ended with either."""
    if now.startswith(before):
        return now[len(before) :]
    # The oldest was dropped. As little of it as can be: the longest overlap.
    anchor = now[:ANCHOR_LENGTH]
    start = before.find(anchor, 1) if anchor else -1
    while start != -1:
        if now.startswith(before[start:]):
            return now[len(before) - start :]
        start = before.find(anchor, start + 1)
    return now


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
