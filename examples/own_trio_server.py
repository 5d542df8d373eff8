"""A trio server that accepts connections itself, and hands each to the router.

For those who have a listener already (systemd's, a Unix socket, one behind their own TLS) or a way of their own to
decide which connections are Portico's.

    python examples/own_trio_server.py [--port 8787] [--service-port 8000]
"""

import argparse

import trio

from actors import Domain, FileStore, PublicAddress, open_runtime
from proxy import open_router


async def main(port: int, service_port: int) -> None:
    async with open_runtime(FileStore("portico-data")) as runtime, open_router(runtime, ["localhost"]) as router:
        sandbox = await runtime.get_sandbox("my-app")
        process = await sandbox.start_process(f"python -m http.server {service_port}")
        await process.wait_for_port(service_port)
        exposed = await sandbox.expose_port(service_port)

        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        # No `Server` knows where we listen, so we say it ourselves: `url` is built on this.
        bound_port = listeners[0].socket.getsockname()[1]
        runtime.public_address = PublicAddress(Domain("localhost"), bound_port)
        print(exposed.url, flush=True)
        await trio.serve_listeners(router.handle, listeners)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--service-port", type=int, default=8000)
    options = parser.parse_args()
    try:
        trio.run(main, options.port, options.service_port)
    except* KeyboardInterrupt:
        pass
