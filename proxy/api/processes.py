"""Calls about what runs in a sandbox: services, their output, and commands that are waited for."""

from typing import Final

import trio

from actors import Process
from proxy.api import schemas
from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.present import shown_process
from proxy.api.problems import TIMEOUT, ProblemError, invalid


async def start_process(call: Call) -> Reply:
    body: schemas.StartProcess = call.body
    sandbox = await call.sandbox()
    process = await sandbox.start_process(
        _encodable(body.command), cwd=body.cwd, env=body.env, id=body.id, restart=body.restart
    )
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
