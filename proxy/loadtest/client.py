"""One connection of a load test, opened when it is needed and used again for as long as the server lets us.

h11 writes and reads; there is nothing here that a server could not be asked by any other client.
"""

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import h11
import trio

from proxy.loadtest.tally import Failure
from proxy.loadtest.target import LoadTarget

READ_BYTES: Final = 64 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
"""As much as Portico itself lets a response head have."""

Header = tuple[str, str]


class LoadFailureError(Exception):
    """A request that has no answer; `failure` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.value)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that came whole."""

    status: int
    content_bytes: int


def build_request(target: LoadTarget, headers: Sequence[Header]) -> h11.Request:
    """Build the GET that is sent again and again.

    Raises:
        ValueError: A header cannot be sent.
    """
    given = {name.lower() for name, _ in headers}
    own = [("Host", target.authority), ("User-Agent", "portico-bench"), ("Accept", "*/*")]
    fields = [(name, value) for name, value in own if name.lower() not in given]
    if {"content-length", "transfer-encoding", "upgrade", "connection"} & given:
        raise ValueError("--header cannot say how the request is framed: it is a GET without a body")
    try:
        return h11.Request(method="GET", target=target.path, headers=[*fields, *headers])
    except h11.LocalProtocolError as error:
        # Not h11's text: it repeats the value, which may be a secret.
        raise ValueError("a --header is NAME: VALUE, with nothing in it that HTTP does not allow") from error


Dial = Callable[[], Awaitable[trio.abc.Stream]]


async def dial(addresses: Sequence[str], target: LoadTarget, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    """Connect to the first address that accepts.

    Args:
        addresses: Of the target's host.
        target: Which port, and the name that a certificate must be for.
        tls: Judges certificates; needed where the scheme is ``https``.

    Raises:
        OSError: None does; the error of the last.
        LoadFailureError: One does, and TLS with it fails.
    """
    stream = await _dial_any(addresses, target.port)
    if target.scheme != "https":
        return stream
    assert tls is not None, "https takes a context"
    # `https_compatible`: servers close without saying so in TLS, and h11 tells a cut answer from a whole one.
    secured = trio.SSLStream(stream, tls, server_hostname=target.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(secured)
        raise LoadFailureError(Failure.TLS) from error
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


async def _dial_any(addresses: Sequence[str], port: int) -> trio.abc.Stream:
    for address in addresses[:-1]:
        with suppress(OSError):
            return await _dial_one(address, port)
    return await _dial_one(addresses[-1], port)


async def _dial_one(address: str, port: int) -> trio.abc.Stream:
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    # A stream of trio's own sends at once (TCP_NODELAY).
    return trio.SocketStream(sock)


class LoadConnection:
    """Sends one request after the other; ``async with`` closes it."""

    def __init__(self, dial: Dial, request: h11.Request) -> None:
        """Take what to connect with, and what to send. Nothing is connected yet."""
        self._dial = dial
        self._request = request
        self._stream: trio.abc.Stream | None = None
        self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def __aenter__(self) -> Self:
        """Do nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what is open."""
        await self._drop()

    async def ask(self) -> Answer:
        """Send the request and read its answer to the end.

        A kept connection that the server closed before it answered anything is replaced once: a server may close an
        idle one at any time, and a GET can be sent again (RFC 9112, 9.3.1).

        Raises:
            LoadFailureError: There is no answer. The next request gets a new connection.
        """
        kept = self._stream is not None
        try:
            try:
                return await self._ask_once()
            except _StaleError:
                if not kept:
                    raise LoadFailureError(Failure.CLOSED) from None
                await self._drop()
                return await self._ask_once()
        except _StaleError as error:
            await self._drop()
            raise LoadFailureError(Failure.CLOSED) from error
        except BaseException:
            # Whatever it was, cancelling included: where the next answer would begin is not known.
            await self._drop()
            raise

    async def _ask_once(self) -> Answer:
        if self._stream is None:
            try:
                self._stream = await self._dial()
            except OSError as error:
                raise LoadFailureError(Failure.NOT_ACCEPTED) from error
            self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        sent = self._reader.send(self._request)
        sent_end = self._reader.send(h11.EndOfMessage())
        assert sent is not None
        assert sent_end is not None
        try:
            await self._stream.send_all(sent + sent_end)
        except trio.BrokenResourceError as error:
            raise _StaleError from error
        answer = await self._read()
        if self._reader.our_state is h11.DONE and self._reader.their_state is h11.DONE:
            self._reader.start_next_cycle()
        else:
            await self._drop()
        return answer

    async def _read(self) -> Answer:
        assert self._stream is not None
        status: int | None = None
        heard = False
        content_bytes = 0
        while True:
            try:
                event = self._reader.next_event()
                if event is h11.NEED_DATA:
                    data = bytes(await self._stream.receive_some(READ_BYTES))
                    heard = heard or bool(data)
                    if not data and not heard:
                        raise _StaleError
                    self._reader.receive_data(data)
                    continue
            except trio.BrokenResourceError as error:
                if not heard:
                    raise _StaleError from error
                raise LoadFailureError(Failure.CLOSED) from error
            except h11.RemoteProtocolError as error:
                # To h11 an end in the middle of a message is a breach like any other.
                ended = self._reader.trailing_data[1]
                raise LoadFailureError(Failure.CLOSED if ended else Failure.MALFORMED) from error
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                content_bytes += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert status is not None
                return Answer(status, content_bytes)

    async def _drop(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            # Nothing is left to say: not to wait is right, cancelled or not.
            await trio.aclose_forcefully(stream)


class _StaleError(Exception):
    """The server closed the connection before it sent anything."""
