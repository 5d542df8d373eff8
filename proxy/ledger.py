"""The account of one client connection: when each of its requests began, and what is told of it at its end.

A connection passes from hand to hand, so whoever has it says when a request begins and when nothing of it is left. What
was answered, the machine of the connection knows.
"""

import sys
from typing import Final

import trio

from proxy.core.hostname import PreviewHost
from proxy.core.http1 import RequestHead
from proxy.core.pages import Code
from proxy.core.served import Observer, Served, shown_path
from proxy.core.serving import RequestStarted, ServerConnection
from proxy.door import Preview

SWITCHED: Final = 101
"""The status of every upgraded connection."""


class Ledger:
    """Tells an observer of one request after the other."""

    __slots__ = ("_began", "_client", "_http", "_observe", "_started", "code", "preview")

    def __init__(self, observe: Observer, client: str, http: ServerConnection) -> None:
        """Begin without a request.

        Args:
            observe: Is told.
            client: The address of the other end.
            http: The machine of the connection.
        """
        self._observe: Final = observe
        self._client: Final = client
        self._http: Final = http
        self._started: RequestStarted | None = None
        self._began: float | None = None
        self.preview: Preview | None = None
        """What the request is for, once that is known."""
        self.code: Code | None = None
        """Of an answer of our own."""

    def begin(self, started: RequestStarted | None) -> None:
        """A request has come; None if it could not be made out."""
        self._started = started
        self._began = trio.current_time()

    def end(self) -> None:
        """Nothing of the request is left. To be called before its machine goes on; without a request: nothing."""
        if self._began is None:
            return
        head = None if self._started is None else self._started.head
        http = self._http
        self._observe(
            _served(
                self._client,
                None if self.preview is None else self.preview.host,
                "" if head is None else head.method.decode("ascii"),
                "" if head is None else shown_path(head.target),
                http.status,
                None if self.code is None else self.code.value,
                http.content_sent,
                self._began,
                http.response_ended,
            )
        )
        self._started = self._began = self.preview = self.code = None

    def switch(self) -> "Account":
        """Return the account of the request under way, which has switched protocols; `end` has nothing more to tell."""
        assert self._started is not None
        assert self._began is not None
        assert self.preview is not None
        account = Account(self._observe, self._client, self.preview.host, self._started.head, self._began)
        self._started = self._began = self.preview = None
        return account


class Account:
    """Tells an observer of one upgraded connection, whose request is not kept for as long as it lasts."""

    __slots__ = ("_began", "_client", "_host", "_method", "_observe", "_path")

    def __init__(self, observe: Observer, client: str, host: PreviewHost, head: RequestHead, began: float) -> None:
        """Note what will be told.

        Args:
            observe: Is told.
            client: The address of the other end.
            host: What the request was for.
            head: Of the request; not kept.
            began: When the request did, on trio's clock.
        """
        self._observe: Final = observe
        self._client: Final = client
        self._host: Final = host
        # Nearly always the same word.
        self._method: Final = sys.intern(head.method.decode("ascii"))
        self._path: Final = shown_path(head.target)
        self._began: Final = began

    def end(self) -> None:
        """Nothing is carried any more. To be called once."""
        self._observe(_served(self._client, self._host, self._method, self._path, SWITCHED, None, 0, self._began, True))


def _served(
    client: str,
    host: PreviewHost | None,
    method: str,
    path: str,
    status: int,
    code: str | None,
    content_bytes: int,
    began: float,
    complete: bool,
) -> Served:
    sandbox, port = (None, None) if host is None else (str(host.sandbox), int(host.port))
    seconds = round(trio.current_time() - began, 6)
    return Served(client, sandbox, port, method, path, status, code, content_bytes, seconds, complete)
