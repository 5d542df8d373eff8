"""Calls about what runs in a sandbox: services, their output, and commands that are waited for."""

from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from actors import Process
from proxy.api import schemas
from proxy.api.calls import BYTES, Call, Need, Operation, Reply
from proxy.api.present import shown_process
from proxy.api.problems import TIMEOUT, ProblemError, invalid

LOG_TYPE: Final = "application/octet-stream"
_UNKEPT: Final = {"Cache-Control": "no-store"}


class GetLogs(schemas.Request, frozen=True, kw_only=True):
    """Which of it."""

    follow: bool = False
    """Whether to go on with what is still to be printed, until the process exits."""


class _Following(Response):
    """Sends a log as it grows, and stops when the client leaves, however silent the process is."""

    def __init__(self, process: Process) -> None:
        super().__init__(media_type=LOG_TYPE, headers=_UNKEPT)
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


async def start_process(call: Call) -> Reply:
    body: schemas.StartProcess = call.body
    sandbox = await call.sandbox()
    process = await sandbox.start_process(_encodable(body.command), cwd=body.cwd, env=body.env, id=body.id)
    return Reply(201, shown_process(process))


async def list_processes(call: Call) -> Reply:
    processes = await (await call.sandbox()).list_processes()
    return Reply(200, schemas.ProcessList(processes=[shown_process(process) for process in processes]))


async def get_process(call: Call) -> Reply:
    return Reply(200, shown_process(await _process(call)))


async def kill_process(call: Call) -> Reply:
    body: schemas.Kill = call.body
    process = await _process(call)
    try:
        await process.kill(body.signal)
    except ValueError as error:
        raise invalid(str(error)) from None
    return Reply(200, shown_process(process))


async def get_logs(call: Call) -> Response:
    query: GetLogs = call.query
    process = await _process(call)
    if not query.follow:
        return Response(await process.logs(), media_type=LOG_TYPE, headers=_UNKEPT)
    return _Following(process)


async def wait_for_port(call: Call) -> Reply:
    body: schemas.WaitForPort = call.body
    process = await _process(call)
    try:
        await process.wait_for_port(body.port, timeout=body.timeout)
    except trio.TooSlowError:
        text = f"nothing listened on port {body.port} within {body.timeout:g} s"
        raise ProblemError(504, TIMEOUT, text) from None
    return Reply(200, shown_process(process))


async def run_command(call: Call) -> Reply:
    body: schemas.Exec = call.body
    sandbox = await call.sandbox()
    try:
        with trio.fail_after(body.timeout):
            result = await sandbox.exec(_encodable(body.command), cwd=body.cwd, env=body.env)
    except trio.TooSlowError:
        raise ProblemError(504, TIMEOUT, f"the command took longer than {body.timeout:g} s, and was killed") from None
    shown = schemas.ExecResult(
        exit_code=result.exit_code,
        stdout=result.stdout.decode("utf-8", "replace"),
        stderr=result.stderr.decode("utf-8", "replace"),
        truncated=result.truncated,
    )
    return Reply(200, shown)


async def _process(call: Call) -> Process:
    return await (await call.sandbox()).get_process(call.path["process"])


def _encodable(command: str | list[str]) -> str | list[str]:
    if isinstance(command, list) and not command[0]:
        raise invalid("the first word of a command is not empty")
    return command


_AT: Final = "/v1/sandboxes/{id}"
_ONE: Final = f"{_AT}/processes/{{process}}"

OPERATIONS: Final = (
    Operation(
        "POST",
        f"{_AT}/processes",
        "startProcess",
        "Start a service in a sandbox, which wakes first if need be.",
        start_process,
        Need.CHANGE,
        {201: schemas.Process},
        (404, 409, 410),
        body=schemas.StartProcess,
    ),
    Operation(
        "GET",
        f"{_AT}/processes",
        "listProcesses",
        "List the processes of the current run; none while it is asleep.",
        list_processes,
        Need.LOOK,
        {200: schemas.ProcessList},
        (404,),
    ),
    Operation("GET", _ONE, "getProcess", "Look at a process.", get_process, Need.LOOK, {200: schemas.Process}, (404,)),
    Operation(
        "GET",
        f"{_ONE}/logs",
        "getLogs",
        "Read what a process has printed, stdout and stderr together.",
        get_logs,
        Need.LOOK,
        {200: BYTES},
        (404,),
        query=GetLogs,
    ),
    Operation(
        "POST",
        f"{_ONE}/kill",
        "killProcess",
        "Send a signal to a process and its group; one that has exited is left in peace.",
        kill_process,
        Need.CHANGE,
        {200: schemas.Process},
        (404,),
        body=schemas.Kill,
        body_required=False,
    ),
    Operation(
        "POST",
        f"{_ONE}/wait-for-port",
        "waitForPort",
        "Wait until something accepts connections on a port and the process still runs.",
        wait_for_port,
        Need.CHANGE,
        {200: schemas.Process},
        (404, 409, 504),
        body=schemas.WaitForPort,
    ),
    Operation(
        "POST",
        f"{_AT}/exec",
        "exec",
        "Run a command to its end.",
        run_command,
        Need.CHANGE,
        {200: schemas.ExecResult},
        (404, 409, 410, 504),
        body=schemas.Exec,
    ),
)
"""All of them."""
