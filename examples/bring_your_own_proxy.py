"""Your own proxy, of any protocol: the sandbox decides who may visit, you move the bytes.

Here it is a plain TCP proxy, as for a database. Each connection is a visit, and three rules are yours to keep: dial
only through ``visit.run``; stop at once when the cord is pulled; call ``visit.end`` when nothing of it is left.

    python examples/bring_your_own_proxy.py [--port 8787] [--service-port 8000]
"""

import argparse
from functools import partial

import trio

from actors import CutBecause, MemoryStore, Port, PortToken, Runtime, SandboxId, Visit, VisitRequest, open_runtime


async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream) -> None:
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()


async def relay(client: trio.SocketStream, visit: Visit) -> None:
    """Move bytes both ways until both sides have ended, or the sandbox's owner takes the visit back."""
    # The connection outlives the tasks that use it, so the nursery is the inner one.
    async with await visit.run.dial(visit.grant.port) as service, trio.open_nursery() as nursery:

        def cut(reason: CutBecause) -> None:
            print(f"cut: {reason}", flush=True)
            nursery.cancel_scope.cancel()

        # Also called, at once, if the cord was pulled while we were dialling.
        visit.on_cut(cut)
        nursery.start_soon(copy, client, service)
        await copy(service, client)


async def serve_client(runtime: Runtime, sandbox: SandboxId, request: VisitRequest, client: trio.SocketStream) -> None:
    async with client:
        visit = await runtime.admit(sandbox, request)
        if not isinstance(visit, Visit):
            print(f"refused: {visit}", flush=True)
            return
        try:
            await relay(client, visit)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            # Either side went away: nothing is left to move.
            pass
        finally:
            visit.end()


async def main(port: int, service_port: int) -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("my-app")
        process = await sandbox.start_process(f"python -m http.server {service_port}")
        await process.wait_for_port(service_port)
        exposed = await sandbox.expose_port(service_port)

        # How the credential gets to your proxy is up to your protocol; this one has it built in.
        request = VisitRequest(Port(service_port), PortToken(exposed.token))
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        bound_port = listeners[0].socket.getsockname()[1]
        print(f"http://127.0.0.1:{bound_port}/", flush=True)
        await trio.serve_listeners(partial(serve_client, runtime, sandbox.id, request), listeners)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--service-port", type=int, default=8000)
    options = parser.parse_args()
    try:
        trio.run(main, options.port, options.service_port)
    except* KeyboardInterrupt:
        pass
