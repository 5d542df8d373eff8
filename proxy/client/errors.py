"""Which exception an answer of the API is: by its stable ``code``, the class that the embedding API raises.

Code that catches `SandboxNotFoundError` thereby works against either. What HTTP adds has classes of its own::

    PorticoError
      APIError                 a code that has no class here; `status` and `code` say what came
        KeyRefusedError        no API key, a wrong one, or one whose scope does not go so far
        InvalidRequestError    the server takes no such request (also a ValueError)
        TooSlowError           what was waited for did not happen in time (also a TimeoutError)
      RetryableError
        ServerUnreachableError nobody answered, or not in time; whether a change happened is unknown

No text holds the API key.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from actors import (
    DomainNotVerifiedError,
    InvalidNameError,
    LogCorruptError,
    NotListeningError,
    PorticoError,
    PreviewToken,
    RetryableError,
    RevocationIncompleteError,
)
from proxy.api.discreet import Discreet

ERROR_LENGTH_MAX: Final = 2000
"""Of a server's words in an exception: a proxy in between may answer with a page."""


class APIError(PorticoError):
    """The API refused, with a code that has no class of its own."""

    code = "API_ERROR"

    def __init__(self, message: str, *, status: int, code: str | None = None) -> None:
        super().__init__(message)
        self.status: Final = status
        """Of the HTTP answer."""
        if code is not None:
            self.code = code


class KeyRefusedError(APIError):
    """There was no API key, it is none of the server's, or it does not go so far."""


class InvalidRequestError(APIError, ValueError):
    """The server takes no such request; the text says what is wrong with it."""


class TooSlowError(APIError, TimeoutError):
    """What the server was asked to wait for did not happen in time."""


class ServerUnreachableError(RetryableError):
    """Nobody answered at the server's address, or not in time. Whether a change happened is not known."""

    code = "SERVER_UNREACHABLE"


class Problem(Discreet, frozen=True):
    """The body of a refusal, as far as it matters here."""

    error: str
    code: str | None = None
    port: int | None = None
    remaining: int | None = None
    token: str | None = None


_BY_STATUS: Final[Mapping[int, type[APIError]]] = MappingProxyType(
    {
        400: InvalidRequestError,
        401: KeyRefusedError,
        403: KeyRefusedError,
        408: TooSlowError,
        413: InvalidRequestError,
        415: InvalidRequestError,
        422: InvalidRequestError,
        504: TooSlowError,
    }
)


def _subclasses(root: type[PorticoError]) -> Iterator[type[PorticoError]]:
    for child in root.__subclasses__():
        yield child
        yield from _subclasses(child)


def _by_code() -> Mapping[str, type[PorticoError]]:
    """Return the embedding API's classes by their codes; of several with one code, what they have in common."""
    found: dict[str, type[PorticoError]] = {}
    for child in _subclasses(PorticoError):
        if not child.__module__.startswith("actors."):
            continue
        known = found.setdefault(child.code, child)
        if known is not child:
            # OVERLOADED is too many messages or too many visits; over HTTP they are one.
            found[child.code] = next(base for base in child.__mro__ if issubclass(known, base))
    return MappingProxyType(found)


ERRORS: Final = _by_code()
"""{code: class}, of all that the embedding API can raise."""


def read_problem(content: bytes) -> Problem | None:
    """Read the body of a refusal; None if it is no problem of ours."""
    try:
        return msgspec.json.decode(content, type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Expected: somebody in between answered, with a page.
        return None


def error_of(status: int, problem: Problem | None) -> PorticoError:
    """Return the exception for a refusal."""
    if problem is None:
        return _BY_STATUS.get(status, APIError)(f"the server answered {status}, and not as Portico does", status=status)
    text = problem.error[:ERROR_LENGTH_MAX]
    known = ERRORS.get(problem.code or "")
    if known is None:
        return _BY_STATUS.get(status, APIError)(text, status=status, code=problem.code)
    # Without its constructor, which may word the text out of what only the server knows.
    error = known.__new__(known, text)
    for name, value in _carried(known, problem).items():
        setattr(error, name, value)
    # Of a class that stands for several codes.
    error.code = problem.code or known.code
    return error


def _token(problem: Problem) -> PreviewToken | None:
    try:
        return None if problem.token is None else PreviewToken(problem.token)
    except InvalidNameError:
        # No server of ours says so; what the error is matters more.
        return None


def _carried(known: type[PorticoError], problem: Problem) -> Mapping[str, object]:
    """Return the attributes that an error of a class has, as far as the answer tells."""
    if issubclass(known, NotListeningError):
        return {"port": problem.port or 0, "tried": ()}
    if issubclass(known, RevocationIncompleteError):
        return {"remaining": problem.remaining or 0, "token": _token(problem)}
    if issubclass(known, LogCorruptError):
        return {"offset": 0}
    if issubclass(known, DomainNotVerifiedError):
        return {"seen": ()}
    return {}
