"""Refusals of the API: which status an error has, and the one shape that all of them share."""

from collections.abc import Mapping
from typing import Final

from actors import PorticoError, PreviewToken, RetryableError, RevocationIncompleteError
from proxy.api.keys import KeyFileError, KeyGoneError, KeysFullError

RETRY_AFTER_S: Final = 1

INVALID_REQUEST: Final = "INVALID_REQUEST"
NOT_FOUND: Final = "NOT_FOUND"
TIMEOUT: Final = "TIMEOUT"
INTERNAL: Final = "INTERNAL"

STATUSES: Final[Mapping[str, int]] = {
    "INVALID_NAME": 400,
    "CUSTOM_DOMAIN_REQUIRED": 400,
    "SECURITY": 409,
    "SANDBOX_NOT_FOUND": 404,
    "SANDBOX_STOPPED": 410,
    "SHARE_NOT_FOUND": 404,
    "SHARE_SPENT": 410,
    "DOMAIN_NOT_FOUND": 404,
    # Once the answer to its challenge is there, the same call goes well.
    "DOMAIN_NOT_VERIFIED": 409,
    "SANDBOX_MISMATCH": 409,
    "PROCESS_NOT_FOUND": 404,
    "CONTAINER": 409,
    "UNSUPPORTED": 409,
    # The process that was to listen has ended, or something else about the container is as it is.
    "NOT_LISTENING": 409,
    "PORT_TAKEN": 409,
    "CONTAINER_START": 503,
    "REVOCATION_INCOMPLETE": 504,
}
"""Of an error, by its code; 503 for whatever may pass by itself, 500 for the rest."""


class ProblemError(Exception):
    """The request is refused; the text is for people and holds no secret."""

    def __init__(
        self,
        status: int,
        code: str,
        error: str,
        headers: Mapping[str, str] | None = None,
        *,
        remaining: int | None = None,
        token: PreviewToken | None = None,
    ) -> None:
        """Refuse.

        Args:
            status: Of HTTP.
            code: For programs.
            error: For people.
            headers: Further fields of the answer.
            remaining: Of a revocation that is not complete: how many visits are left.
            token: Of such a one: the preview token that is in force, told this once.
        """
        super().__init__(error)
        self.status = status
        self.code = code
        self.error = error
        self.headers = dict(headers or {})
        self.remaining = remaining
        self.token = token


def invalid(error: str) -> ProblemError:
    """Return the problem of a request that is not of its form."""
    return ProblemError(400, INVALID_REQUEST, error)


def problem_of(error: Exception) -> ProblemError | None:
    """Return what an error means to a client; None if it is a bug of ours, which clients hear nothing about."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RetryableError):
        return ProblemError(503, error.code, str(error), {"Retry-After": str(RETRY_AFTER_S)})
    if isinstance(error, KeyGoneError):
        return ProblemError(403, "INVALID_API_KEY", "invalid API key")
    if isinstance(error, KeysFullError):
        return ProblemError(409, "TOO_MANY_KEYS", str(error))
    if isinstance(error, KeyFileError):
        return ProblemError(503, "KEYS_UNREADABLE", "the keys cannot be read; the server's log says why")
    if isinstance(error, RevocationIncompleteError):
        # What is durable has an owner, who would be locked out without the token.
        return ProblemError(STATUSES[error.code], error.code, str(error), remaining=error.remaining, token=error.token)
    if isinstance(error, PorticoError):
        status = STATUSES.get(error.code)
        if status is None:
            # A store that cannot be read: what an operator has to look at is not for clients.
            return ProblemError(503, error.code, "the sandbox's log cannot be used; the server's log says why")
        return ProblemError(status, error.code, str(error))
    return None
