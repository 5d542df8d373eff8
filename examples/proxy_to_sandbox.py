"""A server of your own that has parsed the request already: its own routes, and previews for the rest.

The server here is a small one, on h11: what matters is `serve_request`. It keeps no connection open after an
answer, which a real server would.

    python examples/proxy_to_sandbox.py [--port 8787] [--service-port 8000]
"""

import argparse
from collections.abc import AsyncIterator
from functools import partial

import h11
import trio

from actors import FileStore, open_runtime
from proxy import Gateway, Request, ResponseCutError, open_gateway, proxy_to_sandbox


class Client:
    """One connection of this server, with h11 doing the parsing."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER)

    async def receive(self) -> h11.Event:
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Event):
                return event
            if self.http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            self.http.receive_data(await self.stream.receive_some(65536))

    async def send(self, event: h11.Event) -> None:
        await self.stream.send_all(self.http.send(event) or b"")

    async def body(self) -> AsyncIterator[bytes]:
        while isinstance(event := await self.receive(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionError("the client left in the middle of its request")


async def serve_request(client: Client, gateway: Gateway) -> None:
    event = await client.receive()
    if not isinstance(event, h11.Request):
        return
    address = client.stream.socket.getpeername()[0]
    request = Request(event.method, event.target, event.headers.raw_items(), client.body(), client_address=address)
    async with proxy_to_sandbox(request, gateway) as response:
        if response is not None:
            await client.send(h11.Response(status_code=response.status, headers=list(response.headers)))
            async for piece in response.body:
                await client.send(h11.Data(data=piece))
            await client.send(h11.EndOfMessage())
            return
    body = b"This is the server's own page.\n"
    await client.send(h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))]))
    await client.send(h11.Data(data=body))
    await client.send(h11.EndOfMessage())


async def serve_client(gateway: Gateway, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            await serve_request(Client(stream), gateway)
        except ResponseCutError:
            # Closing now, without an end of the message, is how the client learns that its answer is cut off.
            return
        except (trio.BrokenResourceError, ConnectionError, h11.ProtocolError) as error:
            print(f"client lost: {error}")


async def main(port: int, service_port: int) -> None:
    async with open_runtime(FileStore("portico-data")) as runtime:
        sandbox = await runtime.get_sandbox("my-app")
        process = await sandbox.start_process(f"python -m http.server {service_port}")
        await process.wait_for_port(service_port)
        exposed = await sandbox.expose_port(service_port)

        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        bound_port = listeners[0].socket.getsockname()[1]
        async with open_gateway(runtime, ["localhost"], listener_port=bound_port) as gateway:
            print(exposed.url, flush=True)
            await trio.serve_listeners(partial(serve_client, gateway), listeners)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--service-port", type=int, default=8000)
    options = parser.parse_args()
    try:
        trio.run(main, options.port, options.service_port)
    except* KeyboardInterrupt:
        pass
