"""The API as one ASGI app: routes to operations, and around each of them what all have in common.

Starlette matches paths and speaks ASGI; that is all that is used of it. Whatever goes wrong becomes a `Problem` here,
in one place.

Who comes without a right key is a *stranger*. Nothing is done for strangers that takes time or room, but for the
documents that they are sent; so they are not counted with the calls, of which there may be so many at once, but by
themselves, and however little they read they hold up nobody who has a key.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import msgspec
import structlog
import trio
from msgspec import UNSET
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from actors import PorticoError, where_raised
from proxy.api.calls import Call, Ground, Need, Operation, Reply
from proxy.api.entrance import authenticate, check_still_held, enter
from proxy.api.idempotency import KEY_LENGTH_MAX, Answers, KeyReusedError, Written
from proxy.api.keys import KeyFileError, KeyRecord, Scope
from proxy.api.problems import INTERNAL, NOT_FOUND, ProblemError, invalid, problem_of
from proxy.api.schemas import IncompleteRevocation, Problem
from proxy.application import CLIENT
from proxy.core.addresses import Addresses

log = structlog.get_logger("portico.api")

Talk = Callable[[Ground, WebSocket, KeyRecord], Awaitable[None]]
"""Accepts a WebSocket and talks on it, or raises what the handshake is refused with."""

CALLS_MAX: Final = 1024
"""With a right key, under way at once, streams included: further ones are told to come again, and previews go on
undisturbed."""

DOCUMENTS_MAX: Final = 64
"""On their way to strangers at once; each holds a copy of a hundred KB."""

DOCUMENTS_PER_CLIENT_MAX: Final = 8
"""Of these, to one client address (of IPv6: its /64)."""

SMALL_BYTES: Final = 4096
"""What an answer may have and not be counted as a document: to refuse it would save nothing."""

STRANGER_S: Final = 10.0
"""For a stranger to take an answer; the largest document has a hundred KB."""

_KEY: Final = "portico.key"
"""Where a scope keeps the key of its request, or the error that says why it has none."""

_VISIBLE: Final = re.compile(r"[!-~]+")
_NOBODY: Final = KeyRecord("", "", "read", 0.0, "")
_NOBODYS_SCOPE: Final = Scope()


class Api:
    """Serves operations."""

    def __init__(
        self, ground: Ground, operations: Iterable[Operation], sockets: Mapping[str, Talk] | None = None
    ) -> None:
        self.ground: Final = ground
        self.operations: Final = tuple(operations)
        self._answers = Answers()
        self._under_way = 0
        self._documents = 0
        self._readers = Addresses(DOCUMENTS_PER_CLIENT_MAX)
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in self.operations:
            by_path.setdefault(operation.path, {})[operation.method] = operation
        # Words before braces, which would take them too.
        paths = sorted(by_path, key=lambda path: path.count("{"))
        routes: list[BaseRoute] = [Route(path, _Endpoint(self, by_path[path])) for path in paths]
        routes += [WebSocketRoute(path, _Socket(self, talk)) for path, talk in (sockets or {}).items()]
        # No redirects: a client that adds a slash is told that there is nothing, not sent on with its key.
        self._router = Router(routes, redirect_slashes=False, default=_not_found)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request, or talk on one WebSocket."""
        scope[_KEY] = self._key(scope)
        if not _is_known(scope):
            # Nothing but their reading is waited for. What they do not take in time is cut off.
            with trio.move_on_after(STRANGER_S):
                await self._router(scope, receive, send)
            return
        if self._under_way >= CALLS_MAX:
            await _overloaded("too many calls")(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._router(scope, receive, send)
        finally:
            self._under_way -= 1

    def _key(self, scope: ASGIScope) -> KeyRecord | Exception:
        try:
            return authenticate(self.ground, HTTPConnection(scope), in_query=scope["type"] == "websocket")
        except (ProblemError, KeyFileError) as refusal:
            # To be told if the call turns out to need a key.
            return refusal

    async def deliver(self, response: Response, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Send an answer, or to a stranger, while others are sent as much as strangers may have, a refusal."""
        if _is_known(scope) or len(response.body) <= SMALL_BYTES:
            await response(scope, receive, send)
            return
        client: str | None = scope[CLIENT]
        if self._documents >= DOCUMENTS_MAX or (client is not None and not self._readers.enter(client)):
            await _overloaded("too many documents are being sent")(scope, receive, send)
            return
        self._documents += 1
        try:
            await response(scope, receive, send)
        finally:
            self._documents -= 1
            if client is not None:
                self._readers.leave(client)

    async def answer(self, operation: Operation, request: Request) -> Response:
        """Carry out one call."""
        try:
            if operation.need is Need.NOTHING:
                call = Call(self.ground, request, _NOBODY, _NOBODYS_SCOPE, {})
                return _as_response(await operation.handler(call))
            key = _key_of(request.scope)
            call, raw = await enter(self.ground, operation, request, key)
            return await self._carry_out(operation, call, request, raw)
        except ClientDisconnect:
            # Expected: nobody is there to be answered.
            return Response(status_code=400)
        except Exception as error:  # noqa: BLE001  # the one place where errors become answers
            return _response(_written(_problem(error)))

    async def _carry_out(self, operation: Operation, call: Call, request: Request, raw: bytes) -> Response:
        # Its content may have taken long to come, and the key may be gone by now.
        check_still_held(self.ground, call.key)
        given = request.headers.getlist("idempotency-key")
        if not given or not operation.changes:
            return _as_response(await operation.handler(call))
        if len(given) != 1 or len(given[0]) > KEY_LENGTH_MAX or _VISIBLE.fullmatch(given[0]) is None:
            raise invalid(f"an Idempotency-Key has 1 to {KEY_LENGTH_MAX} visible ASCII characters")

        async def answer() -> Written:
            try:
                check_still_held(self.ground, call.key)
                return _as_written(await operation.handler(call))
            except Exception as error:  # noqa: BLE001  # a refusal is an answer, to be repeated like any other
                return _written(_problem(error))

        target = f"{request.method} {request.url.path}?{request.url.query}".encode()
        fingerprint = hashlib.sha256(target + b"\n" + raw).digest()
        try:
            written, repeated = await self._answers.once(
                call.key.id, given[0], fingerprint, answer, life=await _life(call)
            )
        except KeyReusedError as error:
            raise ProblemError(422, "IDEMPOTENCY_KEY_REUSED", str(error)) from None
        if repeated:
            # It may have waited long for the first one, whose answer may hold secrets.
            check_still_held(self.ground, call.key)
        return _response(written, {"Idempotency-Replayed": "true"} if repeated else {})


class _Endpoint:
    """All operations of one path, as an ASGI app: Starlette then leaves the methods to it."""

    def __init__(self, api: Api, methods: dict[str, Operation]) -> None:
        self._api = api
        self._methods = methods
        if "GET" in methods:
            self._methods = {**methods, "HEAD": methods["GET"]}
        self._allow = ", ".join(sorted(self._methods))

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        operation = self._methods.get(scope["method"])
        if operation is None:
            problem = ProblemError(405, "METHOD_NOT_ALLOWED", f"this takes {self._allow}", {"Allow": self._allow})
            response = _response(_written(problem))
        else:
            response = await self._api.answer(operation, Request(scope, receive, send))
        await self._api.deliver(response, scope, receive, send)


class _Socket:
    """A WebSocket's path, as an ASGI app: what goes wrong before its handshake is answered like any other call."""

    def __init__(self, api: Api, talk: Talk) -> None:
        self._api = api
        self._talk = talk

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            await self._talk(self._api.ground, socket, _key_of(scope))
        except WebSocketDisconnect:
            # Expected: it has left.
            return
        except Exception as error:
            if socket.application_state is not WebSocketState.CONNECTING:
                raise
            # ASGI lets a handshake be answered once it has been received.
            await socket.receive()
            await socket.send_denial_response(_response(_written(_problem(error))))


async def _life(call: Call) -> object:
    """Return what tells the sandbox in the path from any other that has had, or will have, its name; None: no such."""
    if "id" not in call.path:
        return None
    try:
        return (await (await call.sandbox()).state()).seal
    except PorticoError:
        # Nobody can tell. The call itself comes upon the same, and is answered so; or, as to destroy, does without.
        return None


def _key_of(scope: ASGIScope) -> KeyRecord:
    """Return the key that a request bears, as it was found when that came.

    Raises:
        ProblemError, KeyFileError: As `authenticate`.
    """
    found: KeyRecord | Exception = scope[_KEY]
    if isinstance(found, Exception):
        raise found
    return found


def _is_known(scope: ASGIScope) -> bool:
    return isinstance(scope[_KEY], KeyRecord)


async def _not_found(scope: ASGIScope, receive: Receive, send: Send) -> None:
    await _response(_written(ProblemError(404, NOT_FOUND, "there is nothing at this path")))(scope, receive, send)


def _problem(error: Exception) -> ProblemError:
    problem = problem_of(error)
    if problem is None:
        log.error("call failed", **where_raised(error))
        return ProblemError(500, INTERNAL, "something went wrong here; the server's log says what")
    if problem.status >= 500:
        log.warning("call refused", code=problem.code, error=str(error))
    return problem


def _overloaded(text: str) -> Response:
    return _response(_written(ProblemError(503, "OVERLOADED", text, {"Retry-After": "1"})))


def _written(problem: ProblemError) -> Written:
    shown = Problem(error=problem.error, code=problem.code)
    if problem.remaining is not None:
        shown = IncompleteRevocation(
            error=problem.error,
            code=problem.code,
            remaining=problem.remaining,
            token=UNSET if problem.token is None else problem.token.reveal(),
        )
    return Written(problem.status, _encode(shown), problem.headers, told_once=problem.token is not None)


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: object) -> object:
    """Return what a name of the state model is to JSON: text, or a number."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{type(value).__name__} has no place in an answer")


def _as_written(reply: Reply | Response) -> Written:
    assert isinstance(reply, Reply), "what streams changes nothing"
    return Written(reply.status, b"" if reply.value is None else _encode(reply.value), reply.headers)


def _as_response(reply: Reply | Response) -> Response:
    return _response(_as_written(reply)) if isinstance(reply, Reply) else reply


def _response(written: Written, headers: dict[str, str] | None = None) -> Response:
    # Many answers hold secrets, and none is worth keeping.
    fields = {"Cache-Control": "no-store", **written.headers, **(headers or {})}
    if written.body:
        return Response(written.body, written.status, fields, media_type="application/json")
    return Response(None, written.status, fields)
