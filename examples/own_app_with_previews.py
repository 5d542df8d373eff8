"""An ASGI app of your own, with previews beside it: one server, one port.

`PreviewURLs` answers preview hosts (HTTP, Server-Sent Events, WebSockets); every other request is the app's.

    python examples/own_app_with_previews.py [--port 8787] [--service-port 8080]
"""

import argparse
import signal
import socket
from functools import partial
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config

from actors import FileStore, open_runtime
from proxy import PreviewURLs


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """Your own app: Starlette, Quart, or as here nothing but ASGI."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"This is the app's own page.\n"})


async def main(port: int, service_port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    bound_port = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "WARNING"
    # What open streams are given when the server ends; one of Server-Sent Events would take all of it.
    config.graceful_timeout = 1
    async with open_runtime(FileStore("portico-data")) as runtime:
        sandbox = await runtime.get_sandbox("my-app")
        process = await sandbox.start_process(f"python -m proxy.demo.app --port {service_port}")
        await process.wait_for_port(service_port)
        exposed = await sandbox.expose_port(service_port)

        previews = PreviewURLs(app, runtime, ["localhost"], listener_port=bound_port)
        # Hypercorn would take a Ctrl-C that hits one of its requests for that request's error.
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

            async def until_told() -> None:
                await anext(signals)

            async with trio.open_nursery() as nursery:
                serve = partial(hypercorn.trio.serve, previews, config, shutdown_trigger=until_told)
                await nursery.start(serve)
                print(exposed.url, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--service-port", type=int, default=8080)
    options = parser.parse_args()
    trio.run(main, options.port, options.service_port)
