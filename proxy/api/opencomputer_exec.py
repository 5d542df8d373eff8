"""Commands in the shape of OpenComputer's API: run to the end, run and polled, or talked with over a WebSocket.

A frame is a binary message, of which the first byte says what the rest is::

    0  stdin, from the client        1  stdout        2  stderr
    3  the exit code, an int32, big-endian: the last frame
    4  (empty) what was printed before is told; what follows is new
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from actors import SandboxNotFoundError
from proxy.api.calls import Call, Ground, Need, Operation, Reply
from proxy.api.entrance import check_path, check_still_held, is_still_held, wait_revoked
from proxy.api.keys import KeyRecord, Scope
from proxy.api.opencomputer_schemas import OcCommand, OcKill, OcPolled, OcResult, OcRunning, OcSession
from proxy.api.present import shown_time
from proxy.api.problems import TIMEOUT, ProblemError
from proxy.api.sessions import Session, Sessions, Stream

AT_ONCE_S: Final = 0.4
"""A command that is through by then is answered as if it had been waited for."""

EXIT: Final = 3
SCROLLBACK_END: Final = 4
POLICY_VIOLATION: Final = 1008
"""Closes what a revoked key had open (RFC 6455 section 7.4.1)."""
CLOSE_S: Final = 1.0
"""For a client to take that; one that reads nothing is cut off without."""


class Commands:
    """The calls, on the sessions of one server."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions: Final = sessions

    async def run(self, call: Call) -> Reply:
        body: OcCommand = call.body
        try:
            with trio.fail_after(body.timeout or float("inf")):
                sandbox = await self._sandbox(call)
                words = [body.cmd, *(body.args or ())]
                result = await sandbox.exec(words, cwd=body.cwd, env=body.envs or {})
        except trio.TooSlowError:
            raise ProblemError(504, TIMEOUT, "command timed out") from None
        return Reply(200, OcResult(exitCode=result.exit_code, stdout=_text(result.stdout), stderr=_text(result.stderr)))

    async def run_async(self, call: Call) -> Reply:
        session = await self._start(call)
        with trio.move_on_after(AT_ONCE_S):
            await session.ended.wait()
        code = session.exit_code
        if code is not None and not session.timed_out:
            return Reply(200, OcResult(exitCode=code, **_outputs(session)))
        return Reply(202, OcRunning(execId=session.id, running=True, startedAt=shown_time(session.started_at)))

    async def result(self, call: Call) -> Reply:
        session = await self._session(call)
        code = session.exit_code
        more: dict[str, Any] = {}
        if code is not None:
            more["exitCode"] = code
        if session.truncated:
            more["truncated"] = True
        if session.timed_out:
            more["error"] = "command timed out"
        return Reply(200, OcPolled(running=not session.ended.is_set(), **{**_outputs(session), **more}))

    async def start(self, call: Call) -> Reply:
        return Reply(201, _shown(await self._start(call)))

    async def list_all(self, call: Call) -> Reply:
        return Reply(200, [_shown(session) for session in await self._sessions.of(await self._sandbox(call))])

    async def kill(self, call: Call) -> Reply:
        body: OcKill = call.body
        session = await self._session(call)
        try:
            await session.kill(body.signal)
        except ValueError as error:
            raise ProblemError(400, "INVALID_REQUEST", str(error)) from None
        return Reply(204)

    async def attach(self, ground: Ground, socket: WebSocket, key: KeyRecord) -> None:
        """Talk with a session over a WebSocket.

        Raises:
            ProblemError: It may not be, before the handshake is answered.
            KeyFileError: Nobody can tell.
        """
        path = check_path(socket.path_params, compatible=True)
        if not Scope.parse(key.scope).may_change(path["id"]):
            raise ProblemError(403, "FORBIDDEN", "this API key may not do that")
        session = await self._sessions.find(await ground.runtime.find_sandbox(path["id"]), path["exec"])
        if session is None:
            raise ProblemError(404, "NOT_FOUND", "exec session not found")
        check_still_held(ground, key)
        await socket.accept()
        session.attached += 1
        may_go_on = partial(is_still_held, ground, key)
        ended = revoked = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read_input, socket, session, may_go_on, nursery.cancel_scope)
                nursery.start_soon(_cancel_when_revoked, ground, key, nursery.cancel_scope)
                # Expected: a client that leaves while output flows. The command goes on.
                with suppress(WebSocketDisconnect):
                    ended = await _send_output(socket, session, may_go_on)
                nursery.cancel_scope.cancel()
            revoked = not may_go_on()
        finally:
            session.attached -= 1
        if ended:
            # Only here: it waits for the client's own close, and nobody else may be reading.
            with suppress(WebSocketDisconnect):
                await socket.close()
        elif revoked and socket.application_state is WebSocketState.CONNECTED:
            with trio.move_on_after(CLOSE_S), suppress(WebSocketDisconnect, OSError, RuntimeError):
                await socket.close(POLICY_VIOLATION)

    async def _start(self, call: Call) -> Session:
        body: OcCommand = call.body
        sandbox = await self._sandbox(call)
        return await self._sessions.start(
            sandbox, body.cmd, body.args or (), cwd=body.cwd, env=body.envs, timeout_s=body.timeout
        )

    async def _sandbox(self, call: Call) -> Any:
        try:
            return await call.sandbox()
        except SandboxNotFoundError:
            raise ProblemError(404, "SANDBOX_NOT_FOUND", "sandbox not found") from None

    async def _session(self, call: Call) -> Session:
        session = await self._sessions.find(await self._sandbox(call), call.path["exec"])
        if session is None:
            raise ProblemError(404, "NOT_FOUND", "exec session not found")
        return session

    def operations(self) -> tuple[Operation, ...]:
        """Return the calls, to be served."""
        at = "/api/sandboxes/{id}/exec"
        change = Need.CHANGE
        command: dict[str, Any] = {"body": OcCommand, "compatible": True}
        return (
            Operation(
                "POST", f"{at}/run", "ocRun", "Run a command to its end.", self.run, change,
                {200: OcResult}, (404, 409, 410, 504), **command,
            ),
            Operation(
                "POST", f"{at}/run-async", "ocRunAsync", "Run a command, and ask for its result later.", self.run_async,
                change, {200: OcResult, 202: OcRunning}, (404, 409, 410), **command,
            ),
            Operation(
                "GET", f"{at}/{{exec}}/result", "ocResult", "Ask how far a command has come.", self.result, change,
                {200: OcPolled}, (404,), compatible=True,
            ),
            Operation(
                "POST", at, "ocStartExec", "Start a command to be talked with over a WebSocket at its own path.",
                self.start, change, {201: OcSession}, (404, 409, 410), **command,
            ),
            Operation(
                "GET", at, "ocListExecs", "List the commands that can be, or could be, talked with.", self.list_all,
                Need.LOOK, {200: list[OcSession]}, (404,), compatible=True,
            ),
            Operation(
                "POST", f"{at}/{{exec}}/kill", "ocKillExec", "Send a signal to a command.", self.kill, change,
                {204: None}, (404,), body=OcKill, body_required=False, compatible=True,
            ),
        )  # fmt: skip


async def _cancel_when_revoked(ground: Ground, key: KeyRecord, both: trio.CancelScope) -> None:
    await wait_revoked(ground, key)
    both.cancel()


async def _read_input(
    socket: WebSocket, session: Session, may_go_on: Callable[[], bool], both: trio.CancelScope
) -> None:
    try:
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect" or not may_go_on():
                break
            data = event.get("bytes") or b""
            if data and data[0] == Stream.STDIN:
                await session.write(data[1:])
    except WebSocketDisconnect:
        # Expected: it has left, and the command goes on.
        pass
    both.cancel()


async def _send_output(socket: WebSocket, session: Session, may_go_on: Callable[[], bool]) -> bool:
    """Send all that is printed, and the exit code at its end; False: it may not go on."""
    number = 0
    told_end = False
    while True:
        for piece in session.pieces_from(number):
            if not may_go_on():
                return False
            await socket.send_bytes(bytes((piece.stream,)) + piece.data)
            number = piece.number + 1
        if not told_end:
            told_end = True
            await socket.send_bytes(bytes((SCROLLBACK_END,)))
            continue
        if session.ended.is_set() and not session.pieces_from(number):
            break
        await session.wait_news(number)
    code = session.exit_code
    await socket.send_bytes(bytes((EXIT,)) + struct.pack(">i", code if code is not None else -1))
    return True


def _shown(session: Session) -> OcSession:
    code = session.exit_code
    return OcSession(
        sessionID=session.id,
        sandboxID=session.sandbox,
        command=session.command,
        args=list(session.arguments),
        running=not session.ended.is_set(),
        startedAt=shown_time(session.started_at),
        attachedClients=session.attached,
        **({"exitCode": code} if code is not None else {}),
    )


def _outputs(session: Session) -> dict[str, str]:
    return {"stdout": _text(session.output(Stream.STDOUT)), "stderr": _text(session.output(Stream.STDERR))}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
