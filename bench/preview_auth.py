"""What does preview auth add to a proxied GET? ``python -m bench.preview_auth [--quick]``

The scene is that of `bench.proxy_get`, with two sandboxes in front of one service: one open, one behind a gate, which
is passed by the bearer token and by a browser's cookie. Both are sent the same requests. They take turns, round by
round, so that a machine that grows slower does so for all; of each the best round counts.
"""

import argparse
import logging
import sys
from typing import Final

import structlog
import trio

from actors import ContainerSpec, MemoryStore, Port, PortToken, Runtime, VisitRequest, open_runtime
from bench._figure import Figure
from bench.proxy_get import CONNECTIONS, FIELDS, REQUESTS, cpu_ns, drive, process
from proxy import Server

ROUNDS: Final = 7
CONTAINER: Final = ContainerSpec("address", {"host": "127.0.0.1"})


async def serve_previews(service_port: int) -> None:
    """Be the server under test. Prints its port, the Hosts of both, and what each of the three ways shows."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with (
        open_runtime(MemoryStore()) as runtime,
        Server(runtime, domains=["example.com"], listen="127.0.0.1:0") as server,
    ):
        open_host, _ = await _expose(runtime, "open", service_port)
        gated_host, token = await _expose(runtime, "gated", service_port)
        bearer = await (await runtime.find_sandbox("gated")).set_preview_auth()
        knock = VisitRequest(Port(service_port), token, bearer.reveal().encode())
        session = await runtime.sign_in((await runtime.find_sandbox("gated")).id, knock)
        assert isinstance(session, bytes)
        fields = ["", f"Authorization: Bearer {bearer.reveal()}", f"portico-gate={session.decode()}"]
        print(server.port, open_host, gated_host, *fields, sep="|", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def _expose(runtime: Runtime, name: str, port: int) -> tuple[str, PortToken]:
    sandbox = await runtime.get_sandbox(name, container=CONTAINER)
    exposed = await sandbox.expose_port(port, hostname="example.com")
    return exposed.url.split("/")[2], PortToken(exposed.token)


def _request(host: str, field: str) -> bytes:
    extra = f"{field}\r\n".encode() if field else b""
    return b"GET /assets/app.js?v=20 HTTP/1.1\r\nHost: " + host.encode() + b"\r\n" + FIELDS + extra + b"\r\n"


def run(quick: bool = False) -> list[Figure]:
    """Measure, in three processes."""
    count = REQUESTS // 8 if quick else REQUESTS
    with (
        process("service") as (_, service_port),
        process("server", service_port, module="bench.preview_auth") as (server, line),
    ):
        port, open_host, gated_host, nothing, bearer_field, session = line.split("|")
        with_bearer = _request(open_host, bearer_field), _request(gated_host, bearer_field)
        # In one field with the service's own, as browsers send them (RFC 6265 section 5.4).
        cookies = f"Cookie: {session}; ".encode()
        with_cookie = [_request(host, nothing).replace(b"Cookie: ", cookies) for host in (open_host, gated_host)]
        requests = [*with_bearer, *with_cookie]
        best = [float("inf")] * len(requests)
        for number in range(ROUNDS + 1):
            for index, request in enumerate(requests):
                before = cpu_ns(server.pid)
                drive(int(port), request, count, CONNECTIONS)
                cost = (cpu_ns(server.pid) - before) / count / 1000
                # The first round only warms up.
                best[index] = min(best[index], cost if number else best[index])
    open_bearer, bearer, open_cookie, cookie = best
    return [
        Figure("proxied GET without preview auth", min(open_bearer, open_cookie), "us"),
        Figure("more CPU with it, by the bearer token", (bearer / open_bearer - 1) * 100, "%", "<= 10"),
        Figure("more CPU with it, by a browser's cookie", (cookie / open_cookie - 1) * 100, "%", "<= 10"),
    ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("part", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.part:
        case ["server", port]:
            trio.run(serve_previews, int(port))
        case _:
            for name, value, unit, goal in run(options.quick):
                print(f"{name:<45} {value:>10.1f} {unit:<3} {goal}")


if __name__ == "__main__":
    main()
