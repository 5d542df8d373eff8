"""The Python client of the management API: the same names as the embedding API, over HTTP.

::

    async with AsyncClient("http://localhost:8787", api_key=key) as client:      # on trio or asyncio
        sandbox = await client.get_sandbox("my-app")
        process = await sandbox.start_process("python -m http.server 8000")
        await process.wait_for_port(8000)
        print((await sandbox.expose_port(8000)).url)

    with Client("http://localhost:8787", api_key=key) as client:                 # without async
        print(client.get_sandbox("my-app").expose_port(8000).url)

``calls`` says what each operation asks, ``dialogue`` what to make of the answers and when to try again, ``errors``
which exception an answer is. Those three do no I/O; ``aio`` and ``sync`` are the two faces over them. Needs the extra
``client``.
"""

from proxy.client.aio import AsyncClient as AsyncClient
from proxy.client.aio import AsyncProcess as AsyncProcess
from proxy.client.aio import AsyncSandbox as AsyncSandbox
from proxy.client.errors import APIError as APIError
from proxy.client.errors import InvalidRequestError as InvalidRequestError
from proxy.client.errors import KeyRefusedError as KeyRefusedError
from proxy.client.errors import ServerUnreachableError as ServerUnreachableError
from proxy.client.errors import TooSlowError as TooSlowError
from proxy.client.sync import Client as Client
from proxy.client.sync import Process as Process
from proxy.client.sync import Sandbox as Sandbox
