"""Hooks of owners: what they are told, and what comes of their answers."""

import json
from functools import partial
from pathlib import Path

import h11
import pytest
import trio
from trio.testing import MockClock

from actors.containers.address import address_containers
from actors.containers.base import Container, ContainerContext
from actors.containers.hooks import ANSWER_BYTES_MAX, Hook, HookCall, check_hook_url
from actors.errors import ContainerError, ContainerStartError
from actors.sandbox.ids import SandboxId

NAME = SandboxId("my-app")
HOST = "127.0.0.1"


class Owner:
    """A server that notes what it is asked and answers as it is told to."""

    def __init__(self, answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n") -> None:
        self.answer = answer
        self.requests: list[tuple[h11.Request, bytes]] = []
        self.port = 0

    async def serve(self, nursery: trio.Nursery) -> "Owner":
        listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, self._handle, 0, host=HOST))
        self.port = listeners[0].socket.getsockname()[1]
        return self

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hooks/portico?team=7"

    async def _handle(self, stream: trio.SocketStream) -> None:
        machine = h11.Connection(h11.SERVER)
        request, body = None, b""
        while not isinstance(event := machine.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                machine.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        assert request is not None
        self.requests.append((request, body))
        try:
            await stream.send_all(self.answer)
        except trio.BrokenResourceError:
            # It had heard enough.
            return


def place(
    options: dict[str, object], *, timeout: float = 60.0, on_wake: Hook | None = None, on_sleep: Hook | None = None
) -> Container:
    factory = address_containers(on_wake=on_wake, on_sleep=on_sleep, hook_timeout=timeout)
    return factory(ContainerContext(NAME, Path("/nonexistent")), {"host": HOST, **options})


async def test_a_url_is_told_of_each_wake_and_each_sleep_once(nursery: trio.Nursery) -> None:
    owner = await Owner().serve(nursery)
    container = place({"wake_url": owner.url, "sleep_url": owner.url})
    run = await container.start("run-1", nursery)
    await run.sleep()
    await run.sleep()
    heads = [(request.method, request.target) for request, _ in owner.requests]
    assert heads == [(b"POST", b"/hooks/portico?team=7")] * 2
    assert [json.loads(body) for _, body in owner.requests] == [
        {"event": event, "sandbox": "my-app", "host": HOST, "run_id": "run-1"} for event in ("wake", "sleep")
    ]


async def test_a_stop_and_a_run_that_is_found_again_are_no_wake_and_no_sleep(nursery: trio.Nursery) -> None:
    owner = await Owner().serve(nursery)
    container = place({"wake_url": owner.url, "sleep_url": owner.url})
    run = await container.reattach("run-1", nursery)
    assert run is not None
    await run.stop()
    await run.sleep()
    assert owner.requests == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"", "cannot be asked"),
        (b"no HTTP at all\r\n\r\n", "cannot be asked"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * ANSWER_BYTES_MAX, "cannot be asked"),
    ],
)
async def test_an_answer_that_is_not_yes_keeps_the_sandbox_down(nursery: trio.Nursery, answer: bytes, why: str) -> None:
    owner = await Owner(answer).serve(nursery)
    container = place({"wake_url": owner.url, "sleep_url": owner.url})
    with pytest.raises(ContainerStartError, match=why):
        await container.start("run-1", nursery)
    run = await container.reattach("run-1", nursery)
    assert run is not None
    with pytest.raises(ContainerError, match=why):
        await run.sleep()


async def test_a_place_where_nothing_may_be_is_not_asked(nursery: trio.Nursery) -> None:
    with pytest.raises(ContainerStartError, match="metadata"):
        await place({"wake_url": "http://169.254.169.254/latest"}).start("run-1", nursery)


async def test_a_function_is_told_and_waited_for_but_not_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    told: list[HookCall] = []

    async def note(call: HookCall) -> None:
        told.append(call)
        await trio.sleep(5)

    container = place({}, on_wake=note, on_sleep=note)
    run = await container.start("run-1", nursery)
    await run.sleep()
    assert told == [HookCall("wake", NAME, HOST, "run-1"), HookCall("sleep", NAME, HOST, "run-1")]
    assert trio.current_time() == 10
    with pytest.raises(ContainerStartError, match="within 4 seconds"):
        await place({}, timeout=4, on_wake=note).start("run-2", nursery)


async def test_what_a_function_raises_is_told_without_its_words(nursery: trio.Nursery) -> None:
    async def fail(call: HookCall) -> None:
        raise LookupError("key hunter2 is not there")

    with pytest.raises(ContainerStartError, match=r"failed \(LookupError\)") as failed:
        await place({}, on_wake=fail).start("run-1", nursery)
    assert "hunter2" not in str(failed.value)


async def test_a_sandboxs_own_url_goes_before_the_function(nursery: trio.Nursery) -> None:
    owner = await Owner().serve(nursery)

    async def fail(call: HookCall) -> None:
        raise AssertionError(call)

    await place({"wake_url": owner.url}, on_wake=fail).start("run-1", nursery)
    assert len(owner.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://a/", "http://", "//a/b", "/hook", "http://a b/", "http://a/\r\nX: y", "http://a:0/"),
        *("http://a:99999/", "http://u:p@a/", "http://a/#x", "http://\xe4/", "http://a/" + "x" * 3000),
    ],
)
def test_what_is_no_url_of_a_hook_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="a hook is an absolute http or https URL") as refused:
        check_hook_url(url)
    assert not url or url not in str(refused.value)


def test_a_hook_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError):
        check_hook_url(7)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="hook_timeout"):
        address_containers(hook_timeout=timeout)
