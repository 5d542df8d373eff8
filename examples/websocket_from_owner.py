"""A WebSocket to a service of your own sandbox, from your own code: no preview URL, no token.

python examples/websocket_from_owner.py [--service-port 8080]
"""

import argparse

import trio

from actors import MemoryStore, open_runtime
from proxy import ws_connect


async def main(service_port: int) -> None:
    async with open_runtime(MemoryStore()) as runtime:
        sandbox = await runtime.get_sandbox("my-app")
        process = await sandbox.start_process(f"python -m proxy.demo.app --port {service_port}")
        await process.wait_for_port(service_port)

        async with ws_connect(sandbox, "/echo", service_port) as websocket:
            await websocket.send_message("hello")
            print("the service says:", await websocket.get_message(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--service-port", type=int, default=8080)
    options = parser.parse_args()
    trio.run(main, options.service_port)
