"""The whole engine inside one test: real router, real actors, real log; no socket, no process, no waiting.

::

    from proxy.testing import preview_engine, respond

    async def test_preview_says_hello(autojump_clock):
        async with preview_engine() as engine:
            url = await engine.expose(respond(b"hello"))
            response = await engine.get(url)
            assert (response.status, response.body) == (200, b"hello")

Or with the fixture: say ``from proxy.testing.fixture import preview_engine`` in your conftest.py, and take
``preview_engine`` as an argument of an async test, beside ``autojump_clock`` if time is to pass at once.

::

    engine       `preview_engine`: the runtime, fake containers, the router; clients of all kinds
    client       `Client`: raw bytes out, responses in, read by h11 and so by another reader than the router's own
    services     what listens in the sandbox: well-behaved services, and ones that are not
    fixture      for pytest

`actors.testing` has what belongs to the actors' side: stores that fail on cue, the checks of stores and containers.
"""

from proxy.testing.client import Client as Client
from proxy.testing.client import CutOffError as CutOffError
from proxy.testing.client import Response as Response
from proxy.testing.engine import PreviewEngine as PreviewEngine
from proxy.testing.engine import preview_engine as preview_engine
from proxy.testing.services import Asked as Asked
from proxy.testing.services import Caller as Caller
from proxy.testing.services import early_answer as early_answer
from proxy.testing.services import echo as echo
from proxy.testing.services import events as events
from proxy.testing.services import garbage as garbage
from proxy.testing.services import hangs_up as hangs_up
from proxy.testing.services import mirror as mirror
from proxy.testing.services import reset_mid_body as reset_mid_body
from proxy.testing.services import respond as respond
from proxy.testing.services import service as service
from proxy.testing.services import silence as silence
from proxy.testing.services import slow_head as slow_head
from proxy.testing.services import websocket_echo as websocket_echo
