"""The account of one client connection: when each of its requests began, and what is told of it at its end.

A connection passes from hand to hand, so whoever has it says when a request begins and when nothing of it is left. What
was answered, the machine of the connection knows.
"""

from typing import Final

import trio

from proxy.core.pages import Code
from proxy.core.served import Observer, Served, shown_path
from proxy.core.serving import RequestStarted, ServerConnection
from proxy.door import Preview


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
        host = None if self.preview is None else self.preview.host
        http = self._http
        self._observe(
            Served(
                self._client,
                None if host is None else str(host.sandbox),
                None if host is None else int(host.port),
                "" if head is None else head.method.decode("ascii"),
                "" if head is None else shown_path(head.target),
                http.status,
                None if self.code is None else self.code.value,
                http.content_sent,
                round(trio.current_time() - self._began, 6),
                http.response_ended,
            )
        )
        self._started = self._began = self.preview = self.code = None
