"""Address containers: options, dialling, and the promises of every kind."""

from functools import partial
from pathlib import Path

import pytest
import trio

from actors.containers.address import AddressRun, address_containers, check_host
from actors.containers.base import ContainerContext, ProcessOptions, Run
from actors.containers.places import Places
from actors.errors import NotListeningError, UnsupportedError
from actors.sandbox.ids import SandboxId
from actors.testing.promises import check_container


def context(folder: Path) -> ContainerContext:
    return ContainerContext(SandboxId("my-app"), folder)


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def listen(nursery: trio.Nursery) -> int:
    listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
    port: int = listeners[0].socket.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("Box-7.Internal", "box-7.internal"),
        ("localhost", "localhost"),
        ("3com.example", "3com.example"),
    ],
)
def test_host_is_taken_in_canonical_form(host: str, canonical: str) -> None:
    assert check_host(host) == canonical


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            ".",
            "a..b",
            "a.",
            "-a",
            "a-",
            "a_b",
            "a b",
            "a/b",
            "a:80",
            "[::1]",
            "127.1",
            "0x7f.1.2.3.4.5",
            "1.2.3.256",
        ),
        *("a" * 64, ".".join(["a" * 60] * 5), "bücher.example", "a\n", "a\0"),
    ],
)
def test_malformed_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a hostname"):
        check_host(host)


def test_options_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    make = address_containers()
    with pytest.raises(ValueError, match="'port'"):
        make(context(tmp_path), {"host": "127.0.0.1", "port": 80})
    with pytest.raises(ValueError, match="needs the option 'host'"):
        make(context(tmp_path), {})
    with pytest.raises(TypeError):
        make(context(tmp_path), {"host": 7})


async def test_address_container_keeps_every_promise(nursery: trio.Nursery, tmp_path: Path) -> None:
    port = await listen(nursery)

    async def serve(_run: Run) -> int:
        return port

    make = address_containers()
    await check_container(lambda place: make(place, {"host": "127.0.0.1"}), tmp_path, serve=serve)
    nursery.cancel_scope.cancel()


async def test_hostname_is_looked_up_when_dialled(nursery: trio.Nursery) -> None:
    port = await listen(nursery)
    looked_up = []

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002  # trio's own signature, long and unused here
            looked_up.append(host)
            return [(2, 1, 6, "", ("127.0.0.1", port))]

        async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]  # never asked
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Resolver())
    run = AddressRun("run-1", "box.internal", Places())
    for _ in range(2):
        stream = await run.dial(port)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
    assert looked_up == [b"box.internal", b"box.internal"]
    nursery.cancel_scope.cancel()


async def test_hostname_without_address_is_not_listening() -> None:
    run = AddressRun("run-1", "nobody.invalid", Places())

    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002  # as above
            raise OSError(-2, "Name or service not known")

        async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]  # never asked
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(Resolver())
    with pytest.raises(NotListeningError) as caught:
        await run.dial(80)
    assert caught.value.tried == (("nobody.invalid", "no address: name or service not known"),)


class Leading(trio.abc.HostnameResolver):
    """Names lead to these addresses, one look-up after the other."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = iter(answers)

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002  # as above
        return [(10 if ":" in address else 2, 1, 6, "", (address, port)) for address in next(self._answers)]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]  # never asked
        raise NotImplementedError


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "fd00:ec2::254"]
)
async def test_name_that_leads_where_no_sandbox_may_be_is_not_dialled(address: str) -> None:
    trio.socket.set_custom_hostname_resolver(Leading([address]))
    with pytest.raises(NotListeningError, match="not dialled"):
        await AddressRun("run-1", "metadata.google.internal", Places()).dial(80)


async def test_name_is_judged_at_each_dial_and_only_what_was_judged_is_dialled(nursery: trio.Nursery) -> None:
    port = await listen(nursery)
    trio.socket.set_custom_hostname_resolver(Leading(["169.254.1.1", "127.0.0.1"], ["169.254.1.1"]))
    run = AddressRun("run-1", "box.internal", Places())
    stream = await run.dial(port)
    assert stream.socket.getpeername()[0] == "127.0.0.1"
    await stream.aclose()
    with pytest.raises(NotListeningError, match="a link-local address, not dialled"):
        await run.dial(port)
    nursery.cancel_scope.cancel()


def test_literal_where_no_sandbox_may_be_is_refused_at_once_unless_it_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"169\.254\.7\.7 is a link-local address"):
        address_containers()(context(tmp_path), {"host": "169.254.7.7"})
    make = address_containers(allow=["169.254.7.0/24"])
    assert repr(make(context(tmp_path), {"host": "169.254.7.7"})) == "<address container at 169.254.7.7>"
    with pytest.raises(ValueError, match="link-local"):
        make(context(tmp_path), {"host": "169.254.8.7"})
    with pytest.raises(ValueError, match="does not appear to be"):
        address_containers(allow=["here"])


async def test_processes_are_somebody_elses() -> None:
    run = AddressRun("run-1", "127.0.0.1", Places())
    with pytest.raises(UnsupportedError, match="runs no processes"):
        await run.start_process(ProcessOptions("true"))
    with pytest.raises(UnsupportedError, match="runs no processes"):
        await run.exec(ProcessOptions("true"))


async def test_reattach_takes_the_run_up_again(nursery: trio.Nursery, tmp_path: Path) -> None:
    container = address_containers()(context(tmp_path), {"host": "127.0.0.1"})
    found = await container.reattach("run-7", nursery)
    assert found is not None
    assert found.run_id == "run-7"
    assert found.detachable
