"""Two tenants on one proxy, and everything that passes between a client and either of them.

`Stage` runs the real router with a service behind each of two previews, A and B, which record every byte they are
sent and answer as a `Script` says. `play` sends raw bytes on one connection and returns the `Outcome`: what the client
and the services received, and whether the proxy closed. Nothing is judged here but whether both sides were
kept in step (`Outcome.assert_in_step`), and that by the strict reader of `wire`.

The same plays run over streams in memory, where time is the test's own, and over loopback sockets.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio
import trio.testing

from actors import ContainerSpec, MemoryStore, Rules, Runtime, SandboxId, address_containers, open_runtime
from actors.testing.containers import fake_containers
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.router import Router, open_router
from tests.proxy.security.wire import Message, Reading, read_requests, read_responses

BASE: Final = "preview.test"
SANDBOXES: Final = {"A": "aaaa1111", "B": "bbbb2222"}
PORT: Final = 3000
RULES: Final = Rules(reserved_ports=frozenset())
"""The cases speak of port 3000, which is reserved elsewhere."""
UNKNOWN: Final = f"{PORT}-cccc3333-k3v9x0q2m7t1z8aa.{BASE}"
"""Well-formed, and nobody's."""
PATIENCE_S: Final = 3600.0
"""Longer than every limit of the proxy: what has not ended by then, never will."""
LOOPBACK: Final = ContainerSpec("address", {"host": "127.0.0.1"})
CUSHION_S: Final = 0.005
"""Over sockets: how long nothing must have happened for nothing more to be under way."""


class Script(Protocol):
    """What a service does once it has been sent a request."""

    async def __call__(self, service: "Service", request: Message, stream: trio.abc.HalfCloseableStream) -> None: ...


async def honest(service: "Service", request: Message, stream: trio.abc.HalfCloseableStream) -> None:
    """Answer as a service should, with a mark of its own in each answer."""
    service.answers += 1
    body = b"" if request.method == b"HEAD" else b"ok"
    head = b"HTTP/1.1 200 OK\r\nX-Answer: %s-%d\r\nContent-Length: 2\r\n\r\n"
    await stream.send_all(head % (service.name.encode("ascii"), service.answers) + body)


def says(raw: bytes, *, closes: bool = True) -> Script:
    """Answer the first request with `raw`, and close or wait; later ones honestly."""
    said = False

    async def script(service: "Service", request: Message, stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal said
        if said:
            await honest(service, request, stream)
            return
        said = True
        await stream.send_all(raw)
        if closes:
            await stream.send_eof()
            raise trio.ClosedResourceError("that was all")

    return script


@dataclass(slots=True)
class Dialled:
    """One connection to a service."""

    received: bytes = b""
    ended: bool = False
    """The proxy has closed it."""

    @property
    def reading(self) -> Reading:
        return read_requests(self.received)


@dataclass(slots=True)
class Service:
    """What listens behind a preview."""

    name: str
    script: Script = honest
    on_head: bool = False
    """Whether it answers as soon as it has a head, and does not wait for the body."""
    dialled: list[Dialled] = field(default_factory=list)
    answers: int = 0
    """How many honest ones it has given."""

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection to its end."""
        dialled = Dialled()
        self.dialled.append(dialled)
        answered = 0
        try:
            while data := await stream.receive_some():
                dialled.received += bytes(data)
                messages = dialled.reading.messages
                for message in messages[answered:]:
                    if message.complete or self.on_head:
                        answered += 1
                        await self.script(self, message, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The proxy, or the script, has had enough.
            pass
        finally:
            dialled.ended = True
            await trio.aclose_forcefully(stream)

    @property
    def requests(self) -> list[Message]:
        """Whole requests, in the order of connections."""
        return [message for dialled in self.dialled for message in dialled.reading.complete]

    @property
    def received(self) -> bytes:
        return b"".join(dialled.received for dialled in self.dialled)


@dataclass(slots=True)
class Outcome:
    """What came of one client connection."""

    services: dict[str, Service]
    hosts: dict[str, str]
    received: bytes = b""
    """By the client."""
    ended: bool = False
    """The client has seen the end of the connection."""
    over: trio.Event = field(default_factory=trio.Event)
    """Set then."""
    closed: bool = False
    """The proxy closed while the client would still have sent."""
    methods: Sequence[bytes] = ()

    @property
    def reading(self) -> Reading:
        return read_responses(self.received, self.methods, ended=self.ended)

    @property
    def finals(self) -> list[Message]:
        return [message for message in self.reading.messages if message.status >= 200 or message.status == 101]

    @property
    def requests(self) -> list[Message]:
        """All whole requests at any service."""
        return [message for service in self.services.values() for message in service.requests]

    def assert_in_step(self) -> None:
        """Check what holds of every connection with honest services: one in, one out, nothing for anybody else.

        As many whole requests reached services as answers of theirs reached the client, each service's in order;
        each was written anew from parsed values, and was for the host that its service has.
        """
        self.assert_services_read_plainly()
        reading = self.reading
        assert reading.fault is None, f"the client was sent no HTTP: {reading.fault}"
        marks = [mark for message in self.finals for mark in message.all("x-answer")]
        for name, service in self.services.items():
            theirs = [mark for mark in marks if mark.startswith(name.encode("ascii"))]
            expected = [b"%s-%d" % (name.encode("ascii"), number + 1) for number in range(len(service.requests))]
            assert theirs == expected, f"{name} was asked {len(expected)} times, and the client saw {theirs}"

    def assert_services_read_plainly(self) -> None:
        """Check what holds whatever the services say: each request can be read in one way only, by its own tenant."""
        for name, service in self.services.items():
            for dialled in service.dialled:
                reading = dialled.reading
                assert reading.fault is None, f"{name} was sent no HTTP: {reading.fault}"
                for message in reading.messages:
                    assert message.rebuilt(), f"{name} was sent a copy, not what was understood"
                    assert message.all("host") == [b"localhost:%d" % _port_of(self.hosts[name])]
                    (public,) = message.all("x-forwarded-host")
                    assert public.partition(b":")[0].decode("ascii") == self.hosts[name]


def _port_of(host: str) -> int:
    return int(host.partition("-")[0])


Connect = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]


@dataclass(frozen=True, slots=True)
class Stage:
    """Made by `memory_stage` and `socket_stage`."""

    router: Router
    runtime: Runtime
    hosts: dict[str, str]
    """{"A": its hostname}."""
    services: dict[str, Service]
    connect: Connect
    """Open a new connection to the proxy."""
    settle: Callable[[], Awaitable[None]]
    """Wait until everybody waits."""

    async def play(self, *parts: bytes, methods: Sequence[bytes] = ()) -> Outcome:
        """Send `parts` on a new connection, each once all has settled after the one before, and see what comes of it.

        At last the client ends its sending, and what is still due to it is waited for.
        """
        outcome = Outcome(self.services, self.hosts, methods=methods)
        async with self.watched(outcome) as stream:
            for part in parts:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(part)
                await self.settle()
            outcome.closed = outcome.ended
            with suppress(trio.BrokenResourceError):
                await stream.send_eof()
            with trio.move_on_after(PATIENCE_S):
                await outcome.over.wait()
        await self.settle()
        assert outcome.ended, "the proxy never closed"
        return outcome

    @asynccontextmanager
    async def watched(self, outcome: Outcome) -> AsyncIterator[trio.abc.HalfCloseableStream]:
        """Connect, and put into `outcome` what the client receives during the block; close after it."""
        stream = await self.connect()

        async def receive() -> None:
            # A reset ends a connection too.
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await stream.receive_some():
                    outcome.received += bytes(data)
            outcome.ended = True
            outcome.over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            try:
                yield stream
            finally:
                await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()


def _services(script: Script, *, on_head: bool) -> dict[str, Service]:
    return {"A": Service("A", script, on_head), "B": Service("B")}


@asynccontextmanager
async def memory_stage(
    script: Script = honest, *, on_head: bool = False, options: Options = DEFAULT_OPTIONS
) -> AsyncIterator[Stage]:
    """Set the stage over streams in memory; A's service follows `script`. Needs a clock that jumps."""
    services = _services(script, on_head=on_head)
    containers = fake_containers()
    async with (
        open_runtime(MemoryStore(), rules=RULES, containers={"fake": containers}) as runtime,
        open_router(runtime, [BASE], options) as router,
        _open_nursery() as nursery,
    ):
        hosts = {}
        for name, service in services.items():
            hosts[name] = await _expose(runtime, name, ContainerSpec("fake"), PORT)
            containers.made[SandboxId(SANDBOXES[name])].handlers[PORT] = service.serve

        async def connect() -> trio.abc.HalfCloseableStream:
            await trio.lowlevel.checkpoint()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(router.handle, theirs)
            return ours

        try:
            yield Stage(router, runtime, hosts, services, connect, trio.testing.wait_all_tasks_blocked)
            assert not runtime.statistics().visits, "a visit has not ended"
        finally:
            await router.drain(0)


@asynccontextmanager
async def socket_stage(script: Script = honest, *, options: Options = DEFAULT_OPTIONS) -> AsyncIterator[Stage]:
    """Set the stage over loopback sockets, in real time."""
    services = _services(script, on_head=False)
    async with (
        open_runtime(MemoryStore(), rules=RULES, containers={"address": address_containers()}) as runtime,
        open_router(runtime, [BASE], options) as router,
        _open_nursery() as nursery,
    ):
        hosts = {}
        for name, service in services.items():
            port = await _listen(nursery, service.serve)
            hosts[name] = await _expose(runtime, name, LOOPBACK, port)
        front = await _listen(nursery, router.handle)

        async def connect() -> trio.abc.HalfCloseableStream:
            return await trio.open_tcp_stream("127.0.0.1", front)

        async def settle() -> None:
            await trio.testing.wait_all_tasks_blocked(CUSHION_S)

        try:
            yield Stage(router, runtime, hosts, services, connect, settle)
        finally:
            await router.drain(0)


@asynccontextmanager
async def _open_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that ends with its block, and lets what the block raises through as it is."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:  # noqa: BLE001  # raised again below, without the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _expose(runtime: Runtime, name: str, container: ContainerSpec, port: int) -> str:
    sandbox = await runtime.get_sandbox(SANDBOXES[name], container=container)
    exposed = await sandbox.expose_port(port, hostname=BASE, wake_on_websocket=True)
    return exposed.url.removeprefix("https://").removesuffix("/")


async def _listen(nursery: trio.Nursery, handle: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    """Serve connections to a free port of the loopback; return it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, handle, [listener])
    return int(listener.socket.getsockname()[1])
