"""`portico bench` as a program, against a real server: what it prints, and how it ends."""

import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from actors import MemoryStore, open_runtime
from actors.testing.containers import Handler, fake_containers
from proxy import Options, Server
from proxy.testing import respond, silence

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PORTICO = os.path.join(sysconfig.get_path("scripts"), "portico")
TOKEN = "0d9q4w1x7y2z5b8c"
PATIENCE_S = 30.0

run = partial(trio.run_process, capture_stdout=True, capture_stderr=True, check=False)


@asynccontextmanager
async def preview_of(handler: Handler) -> AsyncIterator[str]:
    """Serve a service on a preview URL."""
    containers = fake_containers()
    containers.handlers[8080] = handler
    async with (
        open_runtime(MemoryStore(), containers={"fake": containers}) as runtime,
        Server(runtime, listen="127.0.0.1:0", options=Options(drain_timeout_s=0)),
    ):
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        yield (await sandbox.expose_port(8080, token=TOKEN)).url


async def test_report_is_printed_without_the_token() -> None:
    async with preview_of(respond(b"hello")) as url:
        done = await run([PORTICO, "bench", f"{url}path", "--requests", "40", "--connections", "4"])
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert text.startswith("GET /path on port ")
    assert "200: 40" in text
    assert TOKEN not in text


async def test_programs_get_one_json_object_and_headers_reach_the_service() -> None:
    seen = []

    async def remember(stream: trio.abc.HalfCloseableStream) -> None:
        seen.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 418 Teapot\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await stream.aclose()

    async with preview_of(remember) as url:
        header = ["--header", "X-Load: one", "--header", "X-More: two"]
        done = await run([PORTICO, "bench", *header, url, "--json", "--requests", "1", "--connections", "1"])
    report = json.loads(done.stdout)
    assert (done.returncode, report["statuses"], report["errors"]) == (1, {"418": 1}, {"status 418": 1})
    assert b"x-load: one" in seen[0].lower()
    assert b"x-more: two" in seen[0].lower()


async def test_interrupted_run_reports_what_it_did(nursery: trio.Nursery) -> None:
    reached = trio.Event()
    hang = silence()

    async def hanging(stream: trio.abc.HalfCloseableStream) -> None:
        reached.set()
        await hang(stream)

    async with preview_of(hanging) as url:
        process = await trio.lowlevel.open_process(
            [PORTICO, "bench", url, "--connections", "1", "--duration", "600"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with process.stdout, process.stderr:
            with trio.fail_after(PATIENCE_S):
                await reached.wait()
                process.send_signal(signal.SIGINT)
                text = b"".join([chunk async for chunk in process.stdout]).decode()
                assert await process.wait() == 130
    assert "stopped before its end" in text
    assert "1 under way at the end" in text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["http://203.0.113.7/"], 1, "only servers on this machine can be loaded"),
        (["ftp://localhost/"], 2, "a URL is wanted"),
        (["http://localhost/", "--connections", "0"], 2, "--connections goes from 1"),
        (["http://localhost/", "--header", "none"], 2, "NAME: VALUE"),
        (["http://localhost/", "--header", "Content-Length: 1"], 2, "framed"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_with_a_line(arguments: list[str], code: int, text: str) -> None:
    done = await run([PORTICO, "bench", *arguments])
    assert (done.returncode, done.stdout) == (code, b"")
    assert text in done.stderr.decode()
    assert done.stderr.startswith(b"portico: ")
    assert done.stderr.count(b"\n") == 1
