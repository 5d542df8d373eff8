"""What a service prints, at once or as it comes, over fakes; tests/actors/test_processes.py follows real ones."""

import trio
import trio.testing

from actors import SandboxId
from actors.testing.containers import FakeProcess
from proxy.api.keys import KeyRing
from tests.proxy.api.stage import ADMIN, Stage

AT = "/v1/sandboxes/my-app"


async def test_logs_are_told_at_once_or_as_they_come(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    run = stage.engine.runtime.live_run(SandboxId("my-app"))
    assert run is not None
    [process] = run.processes()
    assert isinstance(process, FakeProcess)
    process.stdout = b"one\n"
    told = await stage.call("GET", f"{AT}/processes/web/logs")
    assert (told.body, told.header("x-content-type-options")) == (b"one\n", "nosniff")
    url = f"https://example.com{AT}/processes/web/logs?follow=true"
    async with stage.engine.open("GET", url, headers=[("X-API-Key", ADMIN)]) as client:
        assert (await client.read_head()).header("content-type") == "application/octet-stream"
        assert await client.read_some() == b"one\n"
        process.stdout += b"two\n"
        assert await client.read_some() == b"two\n"
        process.stdout += b"three\n"
        process.exit(0)
        assert await client.read_some() == b"three\n"
        assert await client.read_some() == b""


async def test_silent_log_is_let_go_of_when_its_client_leaves(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    url = f"https://example.com{AT}/processes/web/logs?follow=true"
    async with stage.engine.open("GET", url, headers=[("X-API-Key", ADMIN)]) as client:
        await client.read_head()
    # It may still be waiting for its answer, having ended its own direction only; but not for long.
    await trio.sleep(30)
    assert not stage.engine.router.connections


async def test_process_that_is_not_there_has_no_log(stage: Stage) -> None:
    await stage.make()
    await stage.refused(404, "PROCESS_NOT_FOUND", "GET", f"{AT}/processes/web/logs")
    await stage.refused(400, "INVALID_REQUEST", "GET", f"{AT}/processes/web/logs?follow=perhaps")


async def test_follower_is_cut_off_when_its_key_is_revoked_on_the_command_line(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    await stage.make()
    await stage.got("POST", f"{AT}/processes", {"command": "serve", "id": "web"}, status=201)
    record, key = stage.ring.create("follower", "read")
    url = f"https://example.com{AT}/processes/web/logs?follow=true"
    async with stage.engine.open("GET", url, headers=[("X-API-Key", key)]) as client:
        await client.read_head()
        # Another ring on the same file, as another process has it.
        assert KeyRing(stage.ring._folder).revoke(record.id)
        await trio.sleep(5)
        assert not stage.engine.router.connections
