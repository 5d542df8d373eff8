"""A server as a process: what it owns, what it heeds, and how it ends."""

import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from actors import ContainerSpec, StoreLockedError
from proxy.config import HostPort, Settings
from proxy.host import ListenError, open_host, serve_until_told


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return msgspec.structs.replace(
        Settings(), data_folder=tmp_path / "data", listen=HostPort("127.0.0.1", 0), connections_max=100
    )


async def test_sigterm_ends_it_in_order_and_lets_go_of_the_folder(settings: Settings) -> None:
    async def serve_once() -> str:
        """Return the URL that was built while it listened."""
        urls: list[str] = []
        async with open_host(settings) as host:
            sandbox = await host.runtime.get_sandbox("my-app", container=ContainerSpec("address", {"host": "::1"}))
            exposed = await sandbox.expose_port(8080)

            def on_listening(_port: int) -> None:
                urls.append(exposed.url)
                os.kill(os.getpid(), signal.SIGTERM)

            with trio.fail_after(10):
                await serve_until_told(host, on_listening)
        (url,) = urls
        return url

    first, second = await serve_once(), await serve_once()
    assert urlsplit(first).hostname == urlsplit(second).hostname


async def test_second_signal_cuts_what_is_under_way(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            finished = False
            async with open_host(settings) as host:
                spec = ContainerSpec("address", {"host": "127.0.0.1"})
                sandbox = await host.runtime.get_sandbox("my-app", container=spec)
                port = service.getsockname()[1]
                token = (await sandbox.expose_port(port)).token
                cut = trio.Event()

                async def visit() -> None:
                    address = host.runtime.public_address
                    assert address is not None
                    assert address.listener_port is not None
                    async with await trio.open_tcp_stream("127.0.0.1", address.listener_port) as stream:
                        label = f"{port}-my-app-{token}"
                        await stream.send_all(f"GET / HTTP/1.1\r\nHost: {label}.localhost\r\n\r\n".encode())
                        await trio.lowlevel.wait_readable(service)
                        # It is at the service, which never answers.
                        os.kill(os.getpid(), signal.SIGINT)
                        await wait_closing()
                        os.kill(os.getpid(), signal.SIGINT)
                        assert await stream.receive_some() == b""
                    cut.set()

                async def wait_closing() -> None:
                    while not [entry for entry in logged if entry["event"].startswith("closing:")]:
                        await trio.lowlevel.checkpoint()

                with capture_logs() as logged:
                    await serve_until_told(host, lambda _: nursery.start_soon(visit))
                finished = True
            assert not finished
            await cut.wait()


async def test_address_in_use_is_named_with_what_to_do(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = msgspec.structs.replace(settings, listen=HostPort("127.0.0.1", port))
        async with open_host(settings) as host:
            with pytest.raises(ListenError) as refused:
                await serve_until_told(host)
    assert str(refused.value) == (
        f"cannot listen on 127.0.0.1:{port}: address already in use; name another address, "
        "such as --listen 127.0.0.1:0 for whatever port is free"
    )


async def test_folder_of_a_running_host_is_refused(settings: Settings) -> None:
    async with open_host(settings):
        with pytest.raises(StoreLockedError, match=f"is in use by process {os.getpid()}"):
            async with open_host(settings):
                pytest.fail("two hosts own one folder")


async def test_settings_reach_the_runtime(settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, reserved_ports=(8080,))
    async with open_host(settings) as host:
        assert host.runtime.rules.reserved_ports == {8080}
        assert host.settings is settings
