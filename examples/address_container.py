"""A preview URL for a service that already runs somewhere: a VM, a container of another system, a machine at hand.

Portico starts and stops nothing there; it only dials. Give the host that your sandbox is reachable at.

    python examples/address_container.py --host 127.0.0.1 --service-port 8000 [--listen 127.0.0.1:8787]
"""

import argparse

import trio

from actors import ContainerSpec, FileStore, open_runtime
from proxy import Server


async def main(host: str, service_port: int, listen: str) -> None:
    async with open_runtime(FileStore("portico-data")) as runtime:
        sandbox = await runtime.get_sandbox("my-vm", container=ContainerSpec("address", {"host": host}))
        exposed = await sandbox.expose_port(service_port)
        async with Server(runtime, domains=["localhost"], listen=listen) as server:
            print(exposed.url, flush=True)
            await server.wait_closed()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--service-port", type=int, required=True)
    parser.add_argument("--listen", default="127.0.0.1:8787")
    options = parser.parse_args()
    try:
        trio.run(main, options.host, options.service_port, options.listen)
    except* KeyboardInterrupt:
        pass
