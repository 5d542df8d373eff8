"""What `test_crash` kills: a server that forks a runtime per request, so that a round costs no start of Python.

Reads lines ``<folder> <seed>`` from stdin. For each it forks a child that opens a runtime on the folder and changes
sandboxes as fast as it can, until somebody kills it. The child writes JSON lines to stdout, each in one ``write``,
which a pipe takes whole:

    {"pid": …}                                       once, before anything else
    {"found": {sandbox: {port: token} or null, …}}   once, what it sees after recovery
    {"sandbox": …, "intent": …, …}                   before a call
    {"sandbox": …, "done": …}                        after that call has returned

After the child's last line the server writes ``{"gone": signal}``.
"""

import json
import os
import random  # noqa: TID251  # seeded: a round that failed can be played again
import sys
from typing import Final

import structlog
import trio

from actors import (
    ContainerSpec,
    FileStore,
    Limits,
    PreviewToken,
    Runtime,
    SandboxNotFoundError,
    address_containers,
    open_runtime,
)

SANDBOXES: Final = ("app-1", "app-2", "app-3", "app-4")
PORTS: Final = (8080, 5173, 9000)
SECRET: Final = PreviewToken("the-gate-is-set-from-the-first-moment")
# A container without processes of its own, which the signal would leave behind.
CONTAINER: Final = ContainerSpec("address", {"host": "127.0.0.1"})
# Compaction is to be met by the signal as often as an append.
LIMITS: Final = Limits(compact_records=10, compact_bytes=500)


def tell(**fields: object) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


async def live(folder: str, seed: int) -> None:
    containers = {"address": address_containers()}
    async with open_runtime(FileStore(folder), containers=containers, limits=LIMITS) as runtime:
        found: dict[str, dict[int, str] | None] = {}
        for sandbox in SANDBOXES:
            try:
                ports = await (await runtime.find_sandbox(sandbox)).get_exposed_ports()
                found[sandbox] = {port.port: port.token for port in ports}
            except SandboxNotFoundError:
                found[sandbox] = None
        tell(found=found)
        async with trio.open_nursery() as nursery:
            for number, sandbox in enumerate(SANDBOXES):
                nursery.start_soon(change_for_ever, runtime, sandbox, random.Random(seed * 10 + number))


async def change_for_ever(runtime: Runtime, sandbox: str, choose: random.Random) -> None:
    number = 0
    while True:
        number += 1
        what = choose.choice(["create", *["expose"] * 4, *["unexpose"] * 2, *["destroy"] * (number % 5 == 0)])
        port, token = choose.choice(PORTS), f"t{choose.getrandbits(60):x}"
        tell(sandbox=sandbox, intent=what, port=port, token=token)
        try:
            await change(runtime, sandbox, what, port, token)
        except SandboxNotFoundError:
            tell(sandbox=sandbox, done="nothing")
        else:
            tell(sandbox=sandbox, done=what)


async def change(runtime: Runtime, sandbox: str, what: str, port: int, token: str) -> None:
    if what == "create":
        await runtime.get_sandbox(sandbox, container=CONTAINER, preview_auth=SECRET)
        return
    handle = await runtime.find_sandbox(sandbox)
    match what:
        case "expose":
            await handle.expose_port(port, token=token)
        case "unexpose":
            await handle.unexpose_port(port)
        case "destroy":
            await handle.destroy()


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in sys.stdin:
        folder, seed = line.split()
        pid = os.fork()
        if pid == 0:
            tell(pid=os.getpid())
            trio.run(live, folder, int(seed))
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        tell(gone=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None)


if __name__ == "__main__":
    main()
