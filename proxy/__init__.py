"""The router: preview URLs over HTTP/1.1 and WebSocket, in front of the actor runtime.

::

    core/        pure: hostnames, heads, bodies, the two connection machines, field rules, pages
    door         a request head to an admitted visit, or to the answer it gets instead
    passage      one exchange on its way: the only place that moves bytes of a request
    connection   the life of one client connection
    router       what connections share; `handle` a stream that you accepted
    server       listens, drains
    ledger       what an observer is told of each request; accesslog: one who writes it down
    upstream     connections to services
    transport    a stream over a socket, in few steps

    embedding    for servers that have parsed the request: `proxy_to_sandbox`; over messages (the request and response
                 as values) and pipe (a client of the router in memory)
    asgi         previews in front of somebody's ASGI app; bridge carries its WebSockets
    websockets   `ws_connect`, `forward_upgrade`: for the owner's own code

    config, host, history, logging, demo, cli    the command
    testing      the whole engine inside one test

What is exported here is the public interface.
"""

from proxy.asgi import PreviewURLs as PreviewURLs
from proxy.core.served import Observer as Observer
from proxy.core.served import Served as Served
from proxy.embedding import Gateway as Gateway
from proxy.embedding import open_gateway as open_gateway
from proxy.embedding import proxy_to_sandbox as proxy_to_sandbox
from proxy.messages import Request as Request
from proxy.messages import Response as Response
from proxy.messages import ResponseCutError as ResponseCutError
from proxy.options import Options as Options
from proxy.router import Router as Router
from proxy.router import open_router as open_router
from proxy.server import Server as Server
from proxy.websockets import forward_upgrade as forward_upgrade
from proxy.websockets import ws_connect as ws_connect
