"""A client for tests: sends any bytes, and reads responses with h11.

Sending and reading are apart, so a test can pipeline, stop in the middle of a head, or read nothing for a while.
Each response is read by a fresh `h11.Connection`, which is told that some request was made.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import h11
import trio

Headers = Iterable[tuple[str, str]]

# h11's own bound is 16 KiB; the router's answers must be readable up to its limit.
_HEAD_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """A response, or as much of one as there was. Not equal to another because of the order of its fields alone."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case, in order."""
    body: bytes = b""
    trailers: tuple[tuple[str, str], ...] = ()
    informational: tuple[int, ...] = ()
    """The statuses of the 1xx responses before it."""

    def header(self, name: str) -> str | None:
        """Return the value of a field, the first if there are several; None if there is none."""
        return next((value for found, value in self.headers if found == name.lower()), None)

    def header_values(self, name: str) -> list[str]:
        """Return the values of all fields of that name."""
        return [value for found, value in self.headers if found == name.lower()]

    def json(self) -> object:
        """Return the body, read as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The stable code of an answer of the router's own; None for anything else."""
        if self.header("content-type") != "application/json":
            return None
        found = self.json()
        return found.get("code") if isinstance(found, dict) else None


class CutOffError(Exception):
    """The connection ended before the response was complete; `partial` is what had come, None if not even a head."""

    def __init__(self, partial: Response | None) -> None:
        super().__init__("the connection ended before the response did")
        self.partial = partial


class Client:
    """One connection to the router."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Use `stream`, which is owned by this object from now on."""
        self.stream = stream
        self._unread = b""
        self._reader: h11.Connection | None = None
        self._ended = False

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def send_request(
        self, method: str, target: str, host: str, *, headers: Headers = (), body: bytes | None = None
    ) -> None:
        """Send a request; with a Content-Length if it has a body, even an empty one."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    async def send_eof(self) -> None:
        """End our direction; responses can still be read."""
        await self.stream.send_eof()

    async def read_head(self, method: str = "GET") -> Response:
        """Read up to the end of the next final head, or of a 101; `read_some` gives the body.

        Raises:
            CutOffError: The connection ended first.
        """
        # To h11, any response answers a request that it has sent; this one would accept a switch of protocols.
        self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        fields = [("Host", "any"), ("Connection", "Upgrade"), ("Upgrade", "any")]
        self._reader.send(h11.Request(method=method, target="/", headers=fields))
        self._reader.send(h11.EndOfMessage())
        if self._unread:
            # To h11, no data means the end.
            self._reader.receive_data(self._unread)
            self._unread = b""
        informational: list[int] = []
        while True:
            event = await self._next_event(None)
            if isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                informational.append(event.status_code)
                continue
            assert isinstance(event, h11.InformationalResponse | h11.Response), f"{event} instead of a head"
            if event.status_code == 101:
                self._unread = bytes(self._reader.trailing_data[0])
                self._reader = None
            return Response(event.status_code, _text(event.headers), informational=tuple(informational))

    async def read_some(self) -> bytes:
        """Return content of the response whose head was read last, as it comes; ``b""`` at its end.

        Raises:
            CutOffError: The connection ended first.
        """
        if self._reader is None:
            return b""
        event = await self._next_event(None)
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), f"{event} instead of content"
        self._finish()
        return b""

    async def read_response(self, method: str = "GET") -> Response:
        """Read the next response whole; `method` is that of its request.

        Raises:
            CutOffError: The connection ended first.
        """
        head = await self.read_head(method)
        body = b""
        while self._reader is not None:
            partial = Response(head.status, head.headers, body, informational=head.informational)
            event = await self._next_event(partial)
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), f"{event} instead of content"
                self._finish()
                return Response(head.status, head.headers, body, _text(event.headers), head.informational)
        return head

    async def receive(self) -> bytes:
        """Return bytes as they come, once no response is being read; ``b""`` at the end."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        return bytes(await self.stream.receive_some())

    async def read_to_end(self) -> bytes:
        """Return all bytes up to the end of the connection; a reset counts as its end."""
        received = b""
        try:
            while data := await self.receive():
                received += data
        except trio.BrokenResourceError:
            # The other way for a connection to end.
            pass
        return received

    async def aclose(self) -> None:
        """Close the connection at once."""
        await trio.aclose_forcefully(self.stream)

    async def _next_event(self, partial: Response | None) -> object:
        assert self._reader is not None
        while True:
            try:
                event: object = self._reader.next_event()
            except h11.RemoteProtocolError as error:
                if self._ended:
                    raise CutOffError(partial) from error
                raise
            if event is h11.NEED_DATA:
                self._reader.receive_data(await self._receive_or_end())
            elif isinstance(event, h11.ConnectionClosed):
                raise CutOffError(partial)
            else:
                return event

    async def _receive_or_end(self) -> bytes:
        try:
            data = bytes(await self.stream.receive_some())
        except trio.BrokenResourceError:
            data = b""
        self._ended = not data
        return data

    def _finish(self) -> None:
        assert self._reader is not None
        self._unread = bytes(self._reader.trailing_data[0])
        self._reader = None


def _text(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in headers)
