"""From a raw request to a `Call`, or to the refusal that it gets: key, path, scope, body, in that order.

Nothing of a body is read before the key has been found good; nothing is read beyond its bound; and who may not touch
a sandbox is told so in the same way whether there is such a sandbox or not.
"""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import msgspec
import trio
from starlette.requests import HTTPConnection, Request

from actors import InvalidNameError, Port, SandboxId
from proxy.api.calls import Call, Ground, Need, Operation
from proxy.api.keys import KeyFileError, KeyRecord, Scope
from proxy.api.problems import NOT_FOUND, TIMEOUT, ProblemError, invalid

BODY_BYTES_MAX: Final = 1024 * 1024
"""The largest request there is: a command with its environment, which Linux does not take beyond 2 MiB (ARG_MAX)."""

BODY_S: Final = 30.0
"""For a whole body to come."""

LOOK_S: Final = 1.0
"""How often the key of a stream is looked up while nothing goes over it: it may be revoked by another process."""

PART_LENGTH_MAX: Final = 255
"""Of a part of a path, such as a process's id."""


def authenticate(ground: Ground, connection: HTTPConnection, *, in_query: bool = False) -> KeyRecord:
    """Return the key that a request bears.

    Args:
        ground: Whose keys.
        connection: The request.
        in_query: Whether it may stand in the query: browsers and Node cannot add fields to a WebSocket's handshake.

    Raises:
        ProblemError: 401 if there is none, 403 if it is none of ours.
        KeyFileError: Nobody can tell.
    """
    text = key_text(connection.headers.getlist("x-api-key"), connection.headers.getlist("authorization"))
    if text is None and in_query:
        given = connection.query_params.getlist("api_key")
        text = given[0] if len(given) == 1 and given[0] else None
    if text is None:
        raise ProblemError(401, "MISSING_API_KEY", "missing API key", {"WWW-Authenticate": 'Bearer realm="api"'})
    found = ground.ring.find(text)
    if found is None:
        raise ProblemError(403, "INVALID_API_KEY", "invalid API key")
    return found


def check_still_held(ground: Ground, key: KeyRecord) -> None:
    """Raise ProblemError if a key has been revoked since it was found; KeyFileError: nobody can tell."""
    if not ground.ring.holds(key):
        raise ProblemError(403, "INVALID_API_KEY", "invalid API key")


def is_still_held(ground: Ground, key: KeyRecord) -> bool:
    """Say whether what goes on with a key may go on: not if it was revoked, nor if nobody can tell."""
    try:
        return ground.ring.holds(key)
    except KeyFileError:
        return False


async def wait_revoked(ground: Ground, key: KeyRecord) -> None:
    """Return when a key is not held any more, at most `LOOK_S` later."""
    while is_still_held(ground, key):  # noqa: ASYNC110  # what other processes do to a file sets no event
        await trio.sleep(LOOK_S)


def key_text(own: list[str], authorization: list[str]) -> str | None:
    """Return the key in the fields of a request; ``X-API-Key`` goes first. None: there is none.

    Raises:
        ProblemError: There are several, which a proxy in front and we could read differently.
    """
    if len(own) > 1 or len(authorization) > 1:
        raise invalid("a request bears one key")
    if own and own[0].strip():
        return own[0].strip()
    if authorization:
        scheme, _, text = authorization[0].strip().partition(" ")
        if scheme.lower() == "bearer" and text.strip():
            return text.strip()
    return None


def check_path(path: Mapping[str, str], *, compatible: bool) -> dict[str, str]:
    """Return the parts of a path, checked and folded.

    Raises:
        ProblemError: One is not of its form. Under `compatible` paths that is a sandbox which does not exist.
    """
    checked = dict(path)
    try:
        if "id" in path:
            checked["id"] = SandboxId(path["id"])
    except InvalidNameError as error:
        if compatible:
            raise ProblemError(404, "SANDBOX_NOT_FOUND", "sandbox not found") from None
        raise ProblemError(400, error.code, str(error)) from None
    if "port" in path and not compatible:
        try:
            Port.parse(path["port"])
        except InvalidNameError as error:
            raise ProblemError(400, error.code, str(error)) from None
    for name, text in path.items():
        if len(text) > PART_LENGTH_MAX or not text.isprintable():
            raise ProblemError(404, NOT_FOUND, f"there is no such {name}")
    return checked


def check_scope(operation: Operation, scope: Scope, path: Mapping[str, str]) -> None:
    """Raise ProblemError if a key of that scope may not make the call."""
    sandbox = path.get("id")
    allowed = {
        Need.NOTHING: True,
        Need.ANY: True,
        Need.LOOK: scope.may_look(sandbox),
        Need.CHANGE: scope.may_change(sandbox),
        Need.ADMIN: scope.admin,
    }[operation.need]
    if not allowed:
        raise ProblemError(403, "FORBIDDEN", "this API key may not do that")


async def read_body(request: Request) -> bytes:
    """Return the content of a request.

    Raises:
        ProblemError: It is too large, or does not come.
        ClientDisconnect: Nor does anything else.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        with trio.fail_after(BODY_S):
            async with aclosing(request.stream()) as arriving:
                async for piece in arriving:
                    size += len(piece)
                    if size > BODY_BYTES_MAX:
                        raise ProblemError(413, "CONTENT_TOO_LARGE", f"at most {BODY_BYTES_MAX} bytes are taken")
                    pieces.append(piece)
    except trio.TooSlowError:
        raise ProblemError(408, TIMEOUT, f"the content did not come within {BODY_S:g} s") from None
    return b"".join(pieces)


def decode_body(operation: Operation, content_type: str | None, body: bytes) -> Any:
    """Return what a body says, in the operation's own type; None if it takes none, or none was sent.

    Raises:
        ProblemError: It is not of its form.
    """
    if operation.body is None:
        if body and not operation.compatible:
            raise invalid("this call takes no content")
        return None
    if not body.strip():
        if operation.body_required:
            raise invalid("this call wants JSON")
        return operation.body()
    kind = (content_type or "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not operation.compatible:
        raise ProblemError(415, "UNSUPPORTED_MEDIA_TYPE", "send application/json")
    try:
        try:
            return msgspec.json.decode(body, type=operation.body)
        except msgspec.ValidationError:
            # JSON has one kind of number: 8080.0 is 8080 (JSON Schema 2020-12, Core, section 4.2.3).
            return msgspec.convert(_with_integers(msgspec.json.decode(body)), operation.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(str(error)) from None


def _with_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_integers(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _with_integers(inner) for name, inner in value.items()}
    return value


def decode_query(operation: Operation, pairs: list[tuple[str, str]]) -> Any:
    """Return what a query says, in the operation's own type; None if it takes none.

    Raises:
        ProblemError: It is not of its form.
    """
    if operation.query is None:
        if pairs and not operation.compatible:
            raise invalid("this call takes no query")
        return None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise invalid("each part of the query is given once")
    try:
        return msgspec.convert(values, operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


async def enter(ground: Ground, operation: Operation, request: Request, key: KeyRecord) -> tuple[Call, bytes]:
    """Return the call that a request makes, and its content as it came.

    Raises:
        ProblemError: It makes none.
        ClientDisconnect: It has left.
    """
    path = check_path(request.path_params, compatible=operation.compatible)
    scope = Scope.parse(key.scope)
    check_scope(operation, scope, path)
    query = decode_query(operation, request.query_params.multi_items())
    raw = await read_body(request) if operation.method != "GET" else b""
    body = decode_body(operation, request.headers.get("content-type"), raw)
    return Call(ground, request, key, scope, path, query, body), raw
