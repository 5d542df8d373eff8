"""How each proxy is started, and what it cannot do.

A `Proxy` is a function from what it is to serve to a command; `running` starts it and waits until it accepts.
"""

import getpass
import http.client
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.peers import configs
from bench.peers.children import ChildError, child, libraries, tail
from bench.peers.install import CACHE, COMPILED, HERE, Peers
from bench.peers.scene import DOMAIN, Preview

READY_S: Final = 30.0
FIRST_PORT: Final = 8_100
"""Below where the kernel takes ports for outgoing connections from (10240 or higher, by the machine)."""
PORTS: Final = 800


@dataclass(frozen=True)
class Place:
    """What a proxy is given to be started with."""

    served: Sequence[Preview]
    port: int
    folder: Path
    """Of its own, for configuration and temporary files."""
    peers: Peers

    def write(self, name: str, text: str) -> Path:
        """Put a file into its folder."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


@dataclass(frozen=True)
class Command:
    """What to run."""

    parts: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: Callable[[], None] = lambda: None
    """What is to be done once it accepts connections."""


@dataclass(frozen=True)
class Proxy:
    """One way to serve previews."""

    name: str
    needs: frozenset[str]
    """Names of programs, as `install` knows them."""
    command: Callable[[Place], Command]
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Workloads that it cannot do or that would say nothing about it, with the reason."""


@dataclass(frozen=True)
class Running:
    """A proxy that accepts connections; or nothing, and the service itself."""

    name: str
    port: int
    group: int | None
    """The process group; None for the service itself, whose cost is nobody's business."""
    log: Path | None = None
    """Where it writes what goes wrong."""


def _portico(place: Place, *, packages: Path | None = None) -> Command:
    sandboxes = len({preview.sandbox for preview in place.served})
    # -P: what is in the working folder does not come first.
    parts = [sys.executable, "-P", "-m", "bench.peers.portico_server", str(place.port), str(sandboxes)]
    paths = [*([] if packages is None else [packages]), HERE.parent.parent]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    return Command([*parts, *map(str, configs.ports_of(place.served))], environment)


def _portico_compiled(place: Place) -> Command:
    return _portico(place, packages=place.peers.find(COMPILED))


def _nginx(place: Place, buffer: str = "4k") -> Command:
    text = configs.nginx(place.served, place.port, place.folder, user=getpass.getuser(), buffer=buffer)
    parts: list[str | Path] = [
        place.peers.find("nginx"),
        "-p",
        place.folder,
        "-e",
        "stderr",
        "-c",
        place.write("nginx.conf", text),
    ]
    return Command(parts, libraries(CACHE))


def _nginx_64k(place: Place) -> Command:
    return _nginx(place, "64k")


def _haproxy(place: Place) -> Command:
    table = place.write("hosts.map", configs.haproxy_table(place.served))
    text = configs.haproxy(place.served, place.port, table)
    parts: list[str | Path] = [place.peers.find("haproxy"), "-db", "-q", "-f", place.write("haproxy.cfg", text)]
    return Command(parts, libraries(CACHE))


def _caddy(place: Place) -> Command:
    config = place.write("caddy.json", configs.caddy(place.served, place.port))
    home = {"HOME": str(place.folder), "XDG_DATA_HOME": str(place.folder), "XDG_CONFIG_HOME": str(place.folder)}
    return Command([place.peers.find("caddy"), "run", "--config", config], home)


def _http_proxy(place: Place) -> Command:
    modules = place.peers.find("http-proxy").parent
    table = place.write("table.json", configs.table(place.served))
    parts: list[str | Path] = [place.peers.find("node"), HERE / "http_proxy.js", str(place.port), table, DOMAIN]
    return Command(parts, {"NODE_PATH": str(modules), "NODE_ENV": "production"})


def _chp(place: Place) -> Command:
    program = place.peers.find("configurable-http-proxy") / "bin" / "configurable-http-proxy"
    api, token = free_port(), secrets.token_hex(16)
    parts: list[str | Path] = [place.peers.find("node"), program, "--ip", "127.0.0.1", "--port", str(place.port)]
    parts += ["--api-ip", "127.0.0.1", "--api-port", str(api), "--host-routing", "--change-origin"]
    parts += ["--log-level", "error", "--keep-alive-timeout", str(configs.CLIENT_IDLE_S * 1000)]

    def add_routes() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", api, timeout=READY_S)
        try:
            for preview in place.served:
                body = json.dumps({"target": f"http://127.0.0.1:{preview.port}"})
                connection.request("POST", f"/api/routes/{preview.host}", body, {"Authorization": f"token {token}"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != http.HTTPStatus.CREATED:
                    raise ChildError(f"configurable-http-proxy refused a route: {answer.status}")
        finally:
            connection.close()

    return Command(parts, {"CONFIGPROXY_AUTH_TOKEN": token, "NODE_ENV": "production"}, add_routes)


def _workerd(place: Place) -> Command:
    place.write("worker.js", (HERE / "worker.js").read_text(encoding="utf-8"))
    config = place.write("workerd.capnp", configs.workerd(place.served, place.port))
    program = place.peers.find("workerd") / "bin" / "workerd"
    # The package of the platform has the program itself; the one in `bin` is a script around it.
    native = sorted(program.parent.parent.parent.glob("@cloudflare/workerd-*/bin/workerd"))
    return Command([native[0] if native else program, "serve", config])


ALL: Final = (
    Proxy("portico", frozenset(), _portico),
    Proxy("portico-c", frozenset({COMPILED}), _portico_compiled),
    Proxy("nginx", frozenset({"nginx"}), _nginx),
    Proxy(
        "nginx-64k",
        frozenset({"nginx"}),
        _nginx_64k,
        dict.fromkeys(
            ("get", "vary", "new-heads", "connect", "latency"), "differs from nginx in its buffers for bodies alone"
        ),
    ),
    Proxy("haproxy", frozenset({"haproxy"}), _haproxy),
    Proxy("caddy", frozenset({"caddy"}), _caddy),
    Proxy("http-proxy", frozenset({"node", "http-proxy"}), _http_proxy),
    Proxy("chp", frozenset({"node", "configurable-http-proxy"}), _chp),
    Proxy("workerd", frozenset({"workerd"}), _workerd),
)
"""In the order in which tables show those that cost the same."""

DIRECT: Final = "direct"
"""No proxy: what service and load reach by themselves, and what latencies are compared with."""


@contextmanager
def running(proxy: Proxy, served: Sequence[Preview], peers: Peers, *, folder: Path, core: int) -> Iterator[Running]:
    """Start a proxy on a core, in a folder of its own.

    Raises:
        MissingError: A program that it needs is not there.
        ChildError: It did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = proxy.command(Place(served, port, folder, peers))
    log = folder / "log"
    with child(command.parts, core=core, log=log, environment=command.environment, folder=folder) as process:
        deadline = time.monotonic() + READY_S
        while not _accepts(port):
            if process.poll() is not None:
                raise ChildError(f"{proxy.name} ended: {tail(log)}")
            if time.monotonic() > deadline:
                raise ChildError(f"{proxy.name} does not accept connections: {tail(log)}")
            time.sleep(0.02)  # noqa: TID251  # there is no event to wait for, and no trio here
        command.after()
        yield Running(proxy.name, port, process.pid, log)


def free_port() -> int:
    """Give a port that nobody listens on now, and that no outgoing connection will get."""
    # Not the same for two benchmarks at once.
    start = os.getpid() % PORTS
    for step in range(PORTS):
        port = FIRST_PORT + (start + step) % PORTS
        if port in _given:
            continue
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue  # Somebody's: the next one.
        _given.add(port)
        return port
    raise ChildError(f"no free port from {FIRST_PORT} on")


_given: Final[set[int]] = set()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
