"""Telling whoever runs a machine that its sandbox wakes or sleeps: a function of the owner's, or an HTTP request.

The request is ``POST``, its body JSON: ``{"event": "wake" | "sleep", "sandbox": …, "host": …, "run_id": …}``. Any 2xx
is yes; everything else, redirects included, is no, with the status in the error. It is waited for, but not for ever,
and of the answer no more than its head is read.

A hook may be called again for what it has done already, as its answer may have been lost: it is to be idempotent, and
the run id tells calls of one run from those of another.
"""

import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

import h11
import trio

from actors.containers.dial import dial
from actors.containers.lookup import look_up
from actors.containers.places import Places
from actors.errors import ContainerError
from actors.sandbox.ids import SandboxId

HOOK_TIMEOUT_S: Final = 60.0
"""For the whole of it; less than the wake deadline, so that whoever waits is told why."""

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of the head of an answer."""

_URL_LENGTH_MAX: Final = 2048


@dataclass(frozen=True, slots=True)
class HookCall:
    """What a hook is told."""

    event: Literal["wake", "sleep"]
    sandbox: SandboxId
    host: str
    """Where the sandbox's services are reached."""
    run_id: str
    """Of the run that begins or has ended."""


Hook = Callable[[HookCall], Awaitable[None]]
"""Returns once the machine is up, or is on its way down; whatever it raises means that it could not be done."""


def check_hook_url(url: object) -> str:
    """Return `url`, for a hook.

    Raises:
        TypeError: It is not text.
        ValueError: It is no absolute http or https URL. The text does not repeat it: it may hold a secret.
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a hook is text, not {type(url).__name__}")
    visible = all("!" <= character <= "~" for character in url) and len(url) <= _URL_LENGTH_MAX
    parts = urlsplit(url) if visible else None
    try:
        sound = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # Expected: a port that is no number.
        sound = False
    if parts is None or not sound or parts.username is not None or parts.fragment:
        raise ValueError("a hook is an absolute http or https URL, without user name and fragment")
    return url


def http_hook(url: str, places: Places) -> Hook:
    """Return a hook that posts to `url`, which `check_hook_url` has accepted, unless it leads where `places` refuse."""

    async def post(call: HookCall) -> None:
        body = {"event": call.event, "sandbox": call.sandbox, "host": call.host, "run_id": call.run_id}
        try:
            status = await _post(url, json.dumps(body).encode(), places)
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError, ssl.SSLError) as error:
            raise ContainerError(f"the {call.event} hook cannot be asked: {type(error).__name__}") from error
        if not 200 <= status < 300:
            raise ContainerError(f"the {call.event} hook answered {status}")

    return post


async def call_hook(hook: Hook, call: HookCall, timeout_s: float) -> None:
    """Call a hook.

    Raises:
        ContainerError: It failed, or took longer than `timeout_s`.
    """
    try:
        with trio.fail_after(timeout_s):
            await hook(call)
    except trio.TooSlowError:
        raise ContainerError(f"the {call.event} hook was not done within {timeout_s:g} seconds") from None
    except ContainerError:
        raise
    except Exception as error:
        # Other people's code, whose words may hold what is nobody else's business: the cause goes along for logs.
        raise ContainerError(f"the {call.event} hook failed ({type(error).__name__})") from error


async def _post(url: str, body: bytes, places: Places) -> int:
    """Return the status of the answer."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    stream: trio.abc.Stream = await dial(port, await look_up(parts.hostname, port, places), lambda: True)
    if secure:
        stream = trio.SSLStream(
            stream, ssl.create_default_context(), server_hostname=parts.hostname, https_compatible=True
        )
    try:
        machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=ANSWER_BYTES_MAX)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = h11.Request(
            method="POST",
            target=target,
            headers=[
                ("Host", parts.netloc),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ],
        )
        await stream.send_all(machine.send(head) + machine.send(h11.Data(body)) + machine.send(h11.EndOfMessage()))
        while True:
            event = machine.next_event()
            if event is h11.NEED_DATA:
                machine.receive_data(bytes(await stream.receive_some(16 * 1024)))
            elif isinstance(event, h11.Response):
                return int(event.status_code)
            elif not isinstance(event, h11.InformationalResponse):
                raise trio.BrokenResourceError("it ended without an answer")
    finally:
        # Whatever else it would say is of no interest.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
