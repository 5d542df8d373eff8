"""A server in a process of its own, told what to do: ``python preview_child.py FOLDER CONTROL_PORT``.

So that its memory can be measured, and so that nothing but sockets connects it with the test. The services are the
test's own, on ports of the loopback: the sandbox `my-app` is an address container there. It connects to the control
port and sends the port that it serves previews on. Then each line of JSON is a command, and is answered by one:

    ["expose", 40001]               the preview's hostname
    ["unexpose", 40001]             how many visits that cut
    ["gate"]                        the bearer token that every visit needs from now on
    ["rotate"]                      another one, and how many visits that cut
    ["share", 40001, true]          a share's id and link; whether it opens once
    ["revoke", "k3v9x0q2m7t1z8aa"]  how many visits that cut
    ["expose as siblings", 40001]   two hostnames that are same-site to a browser, of "my-app" and of another sandbox,
                                    which has no gate
    ["restart"]                     ends the run of the container; the next visit begins another
    ["stop"]                        how many visits that cut; the sandbox is over
    ["expose asleep", 40001]        the hostname of a preview whose sandbox sleeps, and is not woken by visits

It ends when the control connection does.
"""

import json
import sys
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlsplit

import trio

from actors import AsleepPolicy, ContainerSpec, FileStore, Runtime, Sandbox, open_runtime
from proxy import Options, Server

AT_LOOPBACK: Final = ContainerSpec("address", {"host": "127.0.0.1"})
SHARED_SITE: Final = "dev.localhost"
"""A base domain whose previews are same-site: of ``*.localhost`` each is a site of its own, as of ``*.com``."""
DOZY: Final = "my-dozy-app"
"""A second sandbox, made for "expose asleep": the policy is fixed when a sandbox is made."""


async def obey(runtime: Runtime, command: list[object]) -> object:
    name, *arguments = command
    sandbox = await runtime.get_sandbox("my-app", container=AT_LOOPBACK)
    match name, arguments:
        case "expose", [int(port)]:
            return await hostname(sandbox, port)
        case "unexpose", [int(port)]:
            return await sandbox.unexpose_port(port)
        case "gate", []:
            return (await sandbox.set_preview_auth()).reveal()
        case "rotate", []:
            token = await sandbox.rotate_preview_auth()
            return [token.reveal(), token.closed]
        case "share", [int(port), bool(once)]:
            share = await sandbox.share(port, expires_in=600, once=once)
            return [share.id, share.url]
        case "revoke", [str(share_id)]:
            return await sandbox.revoke_share(share_id)
        case "expose as siblings", [int(port)]:
            other = await runtime.get_sandbox("my-other-app", container=AT_LOOPBACK)
            return [await hostname(owner, port, SHARED_SITE) for owner in (sandbox, other)]
        case "restart", []:
            await end_run(sandbox)
            return None
        case "stop", []:
            return await sandbox.stop()
        case "expose asleep", [int(port)]:
            dozy = await runtime.get_sandbox(DOZY, container=AT_LOOPBACK, when_asleep=AsleepPolicy.STALE)
            host = await hostname(dozy, port)
            await end_run(dozy)
            return host
    raise ValueError(f"no such command: {command}")


async def hostname(sandbox: Sandbox, port: int, domain: str | None = None) -> str:
    return urlsplit((await sandbox.expose_port(port, hostname=domain, wake_on_websocket=True)).url).netloc


async def end_run(sandbox: Sandbox) -> None:
    async with sandbox.running() as run:
        await run.stop()


async def lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    buffered = b""
    async for data in stream:
        buffered += data
        *whole, buffered = buffered.split(b"\n")
        for line in whole:
            yield line


async def main(folder: str, control_port: int) -> None:
    async with (
        await trio.open_tcp_stream("127.0.0.1", control_port) as control,
        open_runtime(FileStore(folder)) as runtime,
    ):
        options = Options(drain_timeout_s=0, connect_timeout_s=2)
        async with Server(runtime, domains=["localhost", SHARED_SITE], listen="127.0.0.1:0", options=options) as server:
            await control.send_all(b"%d\n" % server.port)
            async for line in lines(control):
                answer = await obey(runtime, json.loads(line))
                await control.send_all(json.dumps(answer).encode("ascii") + b"\n")


trio.run(main, sys.argv[1], int(sys.argv[2]))
