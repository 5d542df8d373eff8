"""The same routing in each proxy's own words. Pure: texts out, nothing started.

Each does this job. A host is ``{port}-{sandbox}-{token}.example.com``; a table says which of them there are; a
listed one goes to the service at that port over a kept-alive connection, everything else is refused with 404. The
service sees ``Host: localhost:{port}`` and who asked. WebSockets pass, bodies and events are not held back.

And each is set as a careful operator would who serves strangers: deadlines for silent clients, none for flowing
streams, what a service says to the proxy itself ignored, versions not told. One process, one worker: they get one core.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.peers.scene import DOMAIN, Preview

HEAD_TIMEOUT_S: Final = 30
CLIENT_IDLE_S: Final = 75
CONNECT_TIMEOUT_S: Final = 5
STREAM_IDLE_S: Final = 3600
KEPT: Final = 64
"""Idle connections to the service; more than there are clients."""
CLIENTS_MAX: Final = 9_500
"""Two descriptors each must fit a limit of 20,000."""


def ports_of(served: Sequence[Preview]) -> list[int]:
    """Give the ports of the service, each once."""
    return sorted({preview.port for preview in served})


def nginx(served: Sequence[Preview], port: int, folder: Path, *, user: str, buffer: str = "4k") -> str:
    """Write nginx.conf. `buffer` is what it reads at once from the service, and keeps for each WebSocket."""
    table = "\n".join(
        f'        "{preview.port}/{preview.sandbox}/{preview.token}" service_{preview.port};' for preview in served
    )
    upstreams = "\n".join(
        f"    upstream service_{number} {{ server 127.0.0.1:{number}; keepalive {KEPT}; }}"
        for number in ports_of(served)
    )
    domain = DOMAIN.replace(".", r"\.")
    return f"""
daemon off;
user {user};
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {2 * CLIENTS_MAX + KEPT}; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_timeout {HEAD_TIMEOUT_S}s;
    client_body_timeout {STREAM_IDLE_S}s;
    send_timeout {STREAM_IDLE_S}s;
    keepalive_timeout {CLIENT_IDLE_S}s;
    client_max_body_size 0;
    large_client_header_buffers 4 16k;
    reset_timedout_connection on;
    limit_conn_zone $binary_remote_addr zone=clients:1m;
    map_hash_bucket_size 128;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    map "$preview_port/$preview_sandbox/$preview_token" $service {{
        default "";
{table}
    }}
{upstreams}
    server {{
        listen 127.0.0.1:{port} default_server backlog=1024;
        return 404;
    }}
    server {{
        listen 127.0.0.1:{port};
        server_name "~^(?<preview_port>[0-9]+)-(?<preview_sandbox>[a-z0-9-]+)-(?<preview_token>[a-z0-9_]+)\\.{domain}$";
        limit_conn clients {CLIENTS_MAX};
        if ($service = "") {{ return 404; }}
        location / {{
            proxy_pass http://$service;
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_buffer_size {buffer};
            proxy_buffers 8 {buffer};
            proxy_busy_buffers_size {buffer};
            proxy_max_temp_file_size 0;
            proxy_connect_timeout {CONNECT_TIMEOUT_S}s;
            proxy_read_timeout {STREAM_IDLE_S}s;
            proxy_send_timeout {STREAM_IDLE_S}s;
            proxy_redirect off;
            proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;
            proxy_set_header Host localhost:$preview_port;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Proto http;
            proxy_set_header Forwarded "for=$remote_addr;host=\\"$http_host\\";proto=http";
            proxy_set_header X-Original-URL "http://$preview_port-$preview_sandbox-****.{DOMAIN}$request_uri";
            proxy_set_header X-Sandbox-Name $preview_sandbox;
            proxy_set_header Proxy "";
        }}
    }}
}}
"""


def haproxy_table(served: Sequence[Preview]) -> str:
    """Write the map file: a first label and the backend it leads to, one a line."""
    return "".join(f"{preview.label} service_{preview.port}\n" for preview in served)


def haproxy(served: Sequence[Preview], port: int, table: Path) -> str:
    """Write haproxy.cfg; `table` holds what `haproxy_table` wrote."""
    backends = "\n".join(
        f"""
backend service_{number}
    server service 127.0.0.1:{number} pool-max-conn {KEPT}"""
        for number in ports_of(served)
    )
    # Events are held back until the stream ends without `http-no-delay`.
    return f"""
global
    maxconn {CLIENTS_MAX}
    nbthread 1
defaults
    mode http
    option http-no-delay
    timeout http-request {HEAD_TIMEOUT_S}s
    timeout http-keep-alive {CLIENT_IDLE_S}s
    timeout connect {CONNECT_TIMEOUT_S}s
    timeout client {STREAM_IDLE_S}s
    timeout server {STREAM_IDLE_S}s
    timeout tunnel {STREAM_IDLE_S}s
frontend previews
    bind 127.0.0.1:{port} backlog 1024
    http-request set-var(txn.host) req.hdr(host),lower,field(1,:)
    http-request set-var(txn.label) var(txn.host),field(1,.)
    acl ours var(txn.host),field(2,.,0) -m str {DOMAIN}
    http-request set-var(txn.service) var(txn.label),map_str({table}) if ours
    http-request deny deny_status 404 unless {{ var(txn.service) -m found }}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-For %[src]
    http-request set-header Forwarded for=%[src];host=\\"%[req.hdr(host)]\\";proto=http
    http-request set-header X-Sandbox-Name %[var(txn.label),regsub(^[0-9]+-,),regsub(-[a-z0-9_]+$,)]
    http-request del-header Proxy
    http-request set-header Host localhost:%[var(txn.label),field(1,-)]
    use_backend %[var(txn.service)]
{backends}
"""


def caddy(served: Sequence[Preview], port: int) -> str:
    """Write Caddy's JSON. A matcher of many hosts is searched, not walked."""
    routes: list[object] = [
        {
            "match": [{"host": [preview.host for preview in served if preview.port == number]}],
            "handle": [
                {
                    "handler": "reverse_proxy",
                    "flush_interval": -1,
                    "upstreams": [{"dial": f"127.0.0.1:{number}"}],
                    "transport": {
                        "protocol": "http",
                        "dial_timeout": f"{CONNECT_TIMEOUT_S}s",
                        "compression": False,
                        "keep_alive": {"max_idle_conns_per_host": KEPT},
                    },
                    "headers": {"request": {"set": {"Host": [f"localhost:{number}"]}, "delete": ["Proxy"]}},
                }
            ],
            "terminal": True,
        }
        for number in ports_of(served)
    ]
    routes.append({"handle": [{"handler": "static_response", "status_code": 404}]})
    server = {
        "listen": [f"127.0.0.1:{port}"],
        "read_header_timeout": f"{HEAD_TIMEOUT_S}s",
        "idle_timeout": f"{CLIENT_IDLE_S}s",
        "automatic_https": {"disable": True},
        "routes": routes,
    }
    return json.dumps(
        {
            "admin": {"disabled": True, "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "apps": {"http": {"servers": {"previews": server}}},
        },
        indent=1,
    )


def table(served: Sequence[Preview]) -> str:
    """Write the table for `http_proxy.js`: ``{"8080-app": token}``."""
    return json.dumps({f"{preview.port}-{preview.sandbox}": preview.token for preview in served})


def workerd(served: Sequence[Preview], port: int) -> str:
    """Write workerd's configuration: a worker that asks the sandbox's Durable Object, as the Sandbox SDK does.

    The object holds its tokens in memory: the least that this architecture can cost.
    """
    numbers = ports_of(served)
    services = ",\n    ".join(
        f'(name = "service-{number}", external = (address = "127.0.0.1:{number}", http = ()))' for number in numbers
    )
    bindings = ",\n    ".join(f'(name = "SERVICE_{number}", service = "service-{number}")' for number in numbers)
    tokens = json.dumps(table(served))
    return f"""
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .previews),
    {services}
  ],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")]
);
const previews :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2025-11-01",
  durableObjectNamespaces = [(className = "Sandbox", uniqueKey = "sandboxes")],
  durableObjectStorage = (inMemory = void),
  bindings = [
    (name = "SANDBOX", durableObjectNamespace = "Sandbox"),
    (name = "DOMAIN", text = "{DOMAIN}"),
    (name = "TOKENS", json = {tokens}),
    {bindings}
  ]
);
"""
