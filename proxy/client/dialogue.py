"""What to make of the answers to one call, and when to ask again. No I/O: a face sends what this says, and reports.

Asked again is only what cannot happen twice by it: reading, and changes that carry an ``Idempotency-Key``, to which the
server repeats its answer. And only where asking again can help: nobody answered the connection, it broke, or the answer
was "not now" (429, 503, or a 502 or 504 that is not Portico's own). A call that ran into its own timeout is not asked
again: the caller has waited as long as they wanted to.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from actors import PorticoError, RetryableError
from proxy.client.calls import Call
from proxy.client.errors import APIError, Problem, ServerUnreachableError, error_of, read_problem

T = TypeVar("T")

TRIES_MAX: Final = 4
PAUSE_FIRST_S: Final = 0.2
"""Doubled each time: 0.2, 0.4, 0.8 s, each shortened by up to a half so that many clients do not come back as one."""

RETRY_AFTER_MAX_S: Final = 10.0
"""A server that wants us to stay away for longer is believed: the error is raised at once."""

CONNECT_TIMEOUT_S: Final = 5.0

ANSWER_BYTES_MAX: Final = 64 * 2**20
"""Bounds what a wrong address can make us hold. The largest answer of the API, an exec's output, is far smaller."""

_NOT_NOW: Final = frozenset({429, 503})
_IN_BETWEEN: Final = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The call has its answer."""

    answer: T = field(repr=False)
    """Left out of `repr`: it may be what a service has printed."""


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Send the same request once more, after a pause."""

    pause_s: float


class Dialogue(Generic[T]):
    """One call, from its first sending to its end. Send `method`, `target`, `headers`, `content`; report back."""

    def __init__(self, call: Call[T], fraction: Callable[[], float] | None = None) -> None:
        """Begin.

        Args:
            call: What is asked.
            fraction: Gives numbers from 0 up to 1, to spread pauses by; None: at random.
        """
        self.call: Final = call
        self.method: Final = call.method
        self.target: Final = call.path + (f"?{urlencode(call.query)}" if call.query else "")
        self.content: Final = b"" if call.body is None else msgspec.json.encode(call.body)
        self.headers: Final = _headers(call)
        """Without the API key. The idempotency key in them is the same in each try."""
        self._fraction = fraction or _random_fraction
        self._tried = 0

    def answered(self, status: int, retry_after: str | None, content: bytes) -> Done[T] | AskAgain:
        """Take an answer.

        Raises:
            PorticoError: It is a refusal, and asking again would not help, or has not.
        """
        self._tried += 1
        if 200 <= status < 300:
            return Done(_decode(self.call, status, content))
        problem = read_problem(content)
        error = error_of(status, problem)
        if _may_pass(status, problem, error):
            wait_s = _seconds(retry_after)
            if self._tried < TRIES_MAX and wait_s <= RETRY_AFTER_MAX_S:
                return AskAgain(max(wait_s, self._pause_s()))
        raise error

    def failed(self, text: str, *, timed_out: bool) -> AskAgain:
        """Take note that there is no answer.

        Args:
            text: Why, for people.
            timed_out: Whether it is because the answer took longer than the call's timeout.

        Raises:
            ServerUnreachableError: Asking again would not help, or has not.
        """
        self._tried += 1
        if timed_out:
            raise ServerUnreachableError(f"no answer within {self.call.timeout_s:g} s")
        if self._tried >= TRIES_MAX:
            raise ServerUnreachableError(f"no answer from the server: {text}")
        return AskAgain(self._pause_s())

    def _pause_s(self) -> float:
        return float(PAUSE_FIRST_S * 2 ** (self._tried - 1) * (1 - self._fraction() / 2))


def _random_fraction() -> float:
    return secrets.randbelow(1000) / 1000


def _headers(call: Call[T]) -> dict[str, str]:
    headers = {"Accept": "application/json"}
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    if call.changes:
        headers["Idempotency-Key"] = secrets.token_urlsafe(24)
    return headers


def _may_pass(status: int, problem: Problem | None, error: PorticoError) -> bool:
    if problem is None:
        # Whoever stands in between could not reach the server, or it has only just begun.
        return status in _NOT_NOW | _IN_BETWEEN
    return status in _NOT_NOW and isinstance(error, RetryableError | APIError)


def _seconds(retry_after: str | None) -> float:
    """Read Retry-After (RFC 9110 section 10.2.3) in seconds; of the form with a date, which we never send, nothing."""
    return float(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else 0.0


def _decode(call: Call[T], status: int, content: bytes) -> T:
    if call.answer is bytes:
        return content  # type: ignore[return-value]  # T is bytes here, which mypy cannot see
    if call.answer is type(None):
        return None
    try:
        return msgspec.json.decode(content, type=call.answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The text of the error could quote a token out of the answer.
        raise APIError(
            "the answer does not have the form that this client knows: is that a Portico of this version?",
            status=status,
            code="BAD_ANSWER",
        ) from None


def check_server(server: str) -> str:
    """Return a server's base URL, without a slash at its end.

    Raises:
        ValueError: It is no ``http`` or ``https`` URL of an origin. The text does not quote it.
    """
    try:
        parts = urlsplit(server)
        sound = parts.scheme in ("http", "https") and parts.hostname is not None
        _ = parts.port
    except ValueError:
        sound = False
    if not sound or parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("the server is a URL such as http://localhost:8787, without a path")
    return f"{parts.scheme}://{parts.netloc}"


def check_key(api_key: str) -> str:
    """Return an API key.

    Raises:
        ValueError: No key looks like that. The text does not quote it.
    """
    if not api_key or not api_key.isascii() or not all("!" <= character <= "~" for character in api_key):
        raise ValueError("an API key is of visible ASCII characters, without spaces")
    return api_key
