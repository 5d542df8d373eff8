"""What a program written for the published Python client does; it prints one JSON object of what it saw."""

import asyncio  # noqa: TID251  # the client is written for it
import json
import os
import sys

from opencomputer import Sandbox

OPTIONS = {"api_url": os.environ["API_URL"], "api_key": os.environ["API_KEY"]}


async def main() -> None:
    sandbox = await Sandbox.create(**OPTIONS, preview_auth={"scheme": "bearer", "token": "auto"})
    seen: dict[str, object] = {
        "id": sandbox.sandbox_id,
        "status": sandbox.status,
        "token": sandbox.preview_auth_token,
    }
    first = await sandbox.create_preview_url(8123)
    await sandbox.create_preview_url(80)
    seen["again"] = (await sandbox.create_preview_url(8123))["id"] == first["id"]
    seen["hostname"] = first["hostname"]
    seen["ports"] = [preview["port"] for preview in await sandbox.list_preview_urls()]
    await sandbox.delete_preview_url(80)
    await sandbox.delete_preview_url(80)
    seen["left"] = [preview["port"] for preview in await sandbox.list_preview_urls()]

    ran = await sandbox.exec.run("echo out; echo err >&2; exit 3")
    seen["run"] = {"exitCode": ran.exit_code, "stdout": ran.stdout, "stderr": ran.stderr}
    slow = await sandbox.exec.run("sleep 0.6; echo slow")
    seen["slow"] = {"exitCode": slow.exit_code, "stdout": slow.stdout, "stderr": slow.stderr}

    printed = {"out": "", "err": ""}

    def note(stream: str, data: bytes) -> None:
        printed[stream] += data.decode()

    session = await sandbox.exec.start(
        "sh",
        args=["-c", "read line; echo got $line; echo bad >&2; exit 7"],
        on_stdout=lambda data: note("out", data),
        on_stderr=lambda data: note("err", data),
    )
    await session.send_stdin("hello\n")
    seen["code"] = await session.done
    seen["printed"] = printed

    sleeper = await sandbox.exec.start("sleep", args=["100"])
    await sleeper.kill()
    seen["killed"] = await sleeper.done
    seen["sessions"] = [[info.command, info.running, info.exit_code] for info in await sandbox.exec.list()]

    seen["rotated"] = await sandbox.rotate_preview_auth_token()
    await sandbox.hibernate()
    seen["asleep"] = await sandbox.is_running()
    await sandbox.wake()
    seen["awake"] = [await sandbox.is_running(), sandbox.status]
    await sandbox.set_timeout(600)
    seen["connected"] = (await Sandbox.connect(sandbox.sandbox_id, **OPTIONS)).sandbox_id

    # The test looks at the preview now, and says when to go on.
    print(json.dumps(seen), flush=True)
    sys.stdin.readline()
    await sandbox.kill()
    print(json.dumps({"gone": not await sandbox.is_running()}), flush=True)


asyncio.run(main())
