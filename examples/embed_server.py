"""Preview URLs inside your own trio program: a service, its URL, and the server that makes it reachable.

    python examples/embed_server.py [--listen 127.0.0.1:8787] [--service-port 8000]

Open the printed URL in a browser; end it with Ctrl-C. The URL stays the same from run to run.
"""

import argparse

import trio

from actors import FileStore, open_runtime
from proxy import Server


async def main(listen: str, port: int) -> None:
    async with open_runtime(FileStore("portico-data")) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="process")
        process = await sandbox.start_process(f"python -m http.server {port}")
        await process.wait_for_port(port)
        exposed = await sandbox.expose_port(port, name="web")
        async with Server(runtime, domains=["localhost"], listen=listen) as server:
            print(exposed.url, flush=True)
            await server.wait_closed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:8787")
    parser.add_argument("--service-port", type=int, default=8000)
    options = parser.parse_args()
    try:
        trio.run(main, options.listen, options.service_port)
    except* KeyboardInterrupt:
        pass
