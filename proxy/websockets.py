"""WebSockets to a sandbox's services for its owner's own code: no preview URL, no token, no visit.

`ws_connect` opens one and speaks it; `forward_upgrade` takes a handshake that came to the owner's own server and
hands back the service's answer, whose raw bytes the owner then relays. Both wake the sandbox and keep it in use
while they last. Whoever calls these has decided already who may: nothing here asks.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from trio_websocket import HandshakeError, WebSocketConnection, wrap_client_stream

from actors import NotListeningError, Port, Run, Sandbox
from proxy.core.exchange import Exchange, UpstreamClosedError
from proxy.core.http1 import NO_BODY, BadRequestError, BadResponseError, RequestHead, requested_upgrade
from proxy.core.pages import Answer, Code, refusal
from proxy.core.websocket import is_websocket_upgrade, websocket_fault
from proxy.messages import Headers, Request, Response, ResponseReader, checked_head, own_response
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.upstream import close_now

MESSAGE_BYTES_MAX: Final = 16 * 2**20
"""Of one incoming message, unless the caller says otherwise; a larger one closes the connection with 1009."""

HANDSHAKE_BYTES_MAX: Final = 256 * 2**10
"""What a service may say before the handshake is over. A refusal's body is read whole, and a sandbox's code may be
anybody's."""

CLOSE_S: Final = 5.0
"""For the service to answer our close frame."""


@asynccontextmanager
async def ws_connect(
    sandbox: Sandbox,
    target: str,
    port: int,
    *,
    headers: Headers = (),
    subprotocols: Sequence[str] = (),
    message_bytes_max: int = MESSAGE_BYTES_MAX,
    options: Options = DEFAULT_OPTIONS,
) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket to a service of `sandbox`, and close it at the end of the block.

    Args:
        sandbox: Woken if need be, and kept up for the length of the block.
        target: Path and query, as ``/path?x=1``.
        port: The service's; one that could be exposed.
        headers: Added to the handshake. Those of the handshake itself are ours.
        subprotocols: To offer, best first; the one chosen is the connection's ``subprotocol``.
        message_bytes_max: Larger messages close the connection.
        options: Times.

    Raises:
        SecurityError: The port is out of range or reserved.
        NotListeningError: Nothing accepts connections there.
        trio.TooSlowError: It did not accept, or answer the handshake, in time.
        trio_websocket.ConnectionRejected: It answered the handshake with something else than 101.
        trio_websocket.HandshakeError: It closed the connection instead of answering.
        trio_websocket.ConnectionClosed: Out of the connection, once the service or its run has ended.
        ContainerStartError, SandboxNotFoundError, SandboxStoppedError, RetryableError.
    """
    checked = sandbox.check_port(port)
    async with sandbox.running() as run:
        stream = _Handshaking(await _dial(run, checked, options))
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(options.response_timeout_s):
                    connection = await wrap_client_stream(
                        nursery,
                        stream,  # type: ignore[arg-type]  # annotated narrowly; documented for any stream
                        f"localhost:{checked:d}",
                        target,
                        subprotocols=subprotocols,
                        extra_headers=[(bytes(name), bytes(value)) for name, value in headers],
                        message_queue_size=1,
                        max_message_size=message_bytes_max,
                    )
                stream.over = True
                try:
                    yield connection
                except Exception as error:  # noqa: BLE001  # carried past the nursery, which would wrap it in a group
                    failure = error
                with trio.move_on_after(CLOSE_S):
                    await connection.aclose()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _single(group) from None
        finally:
            await close_now(stream)
    if failure is not None:
        raise failure


@asynccontextmanager
async def forward_upgrade(
    sandbox: Sandbox, request: Request, port: int, *, options: Options = DEFAULT_OPTIONS
) -> AsyncIterator[Response]:
    """Take a WebSocket handshake that came to the owner's own server to a service of `sandbox`.

    Yields the service's answer. If that is a 101, send its head on, and then relay ``response.stream``, both ways,
    within the block; anything else is passed on like any response. A request that is no WebSocket handshake is
    answered 426 (400, if it is a broken one), and goes nowhere: nothing is woken or dialled.

    Method, path, query and headers are the client's own; only ``Host`` becomes ``localhost:{port}``, and what is
    about the client's connection is written anew.

    Raises:
        SecurityError: The port is out of range or reserved.
        ContainerStartError, SandboxNotFoundError, SandboxStoppedError, RetryableError.
    """
    checked = sandbox.check_port(port)
    head = _judge(request, options)
    if isinstance(head, Answer):
        yield own_response(head, request)
        return
    async with sandbox.running() as run:
        try:
            stream = await _dial(run, checked, options)
        except NotListeningError as error:
            yield own_response(refusal(Code.NOT_LISTENING, port=checked, detail=str(error)), request)
            return
        except trio.TooSlowError:
            yield own_response(refusal(Code.UPSTREAM_TIMEOUT, port=checked), request)
            return
        try:
            yield await _shake_hands(stream, head, checked, request, options)
        finally:
            await close_now(stream)


async def _dial(run: Run, port: Port, options: Options) -> trio.abc.HalfCloseableStream:
    with trio.fail_after(options.connect_timeout_s):
        return await run.dial(port)


def _judge(request: Request, options: Options) -> RequestHead | Answer:
    try:
        head = checked_head(request, options.http)
    except BadRequestError as error:
        return refusal(Code(error.code), detail=error.text)
    if not is_websocket_upgrade(head):
        return refusal(Code.UPGRADE_REQUIRED)
    fault = websocket_fault(head)
    return head if fault is None else refusal(Code.BAD_REQUEST, detail=fault)


async def _shake_hands(
    stream: trio.abc.HalfCloseableStream, head: RequestHead, port: Port, request: Request, options: Options
) -> Response:
    fields = [(b"host", b"Host", b"localhost:%d" % port)]
    fields += [field for field in head.fields if field[0] != b"host"]
    sent = RequestHead(head.method, head.target, b"1.1", fields)
    exchange = Exchange(sent, NO_BODY, upgrade=requested_upgrade(head), limits=options.http)
    try:
        with trio.fail_after(options.response_timeout_s):
            await stream.send_all(exchange.start())
            return await ResponseReader(stream, exchange).start()
    except trio.TooSlowError:
        code = Code.UPSTREAM_TIMEOUT
    except (UpstreamClosedError, trio.BrokenResourceError):
        code = Code.UPSTREAM_CLOSED
    except BadResponseError:
        code = Code.BAD_RESPONSE
    return own_response(refusal(code, port=port), request)


class _Handshaking(trio.abc.Stream):
    """A service's stream that raises if the handshake does not come to an end.

    trio-websocket waits on when a connection ends without an answer, and collects a refusal of any length.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._received = 0
        self.over = False
        """The handshake is; from now on this only passes bytes."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        if not self.over:
            self._received += len(data)
            if not data or self._received > HANDSHAKE_BYTES_MAX:
                raise HandshakeError("the service did not answer the handshake")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what went wrong out of a nursery's group: one task failed, and the others were cancelled for it."""
    failed, _ = group.split(lambda error: not isinstance(error, trio.Cancelled | BaseExceptionGroup))
    found: BaseException = group if failed is None else failed
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found
