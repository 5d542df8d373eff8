"""What is read beside the server, from a real log in a real folder."""

import os
from pathlib import Path

import pytest
import trio

from actors import ContainerSpec, FileStore, HostHeader, open_runtime
from proxy.core.diagnosis import Target
from proxy.doctor import record
from proxy.doctor.record import read_record

ADDRESS = ContainerSpec("address", {"host": "127.0.0.1"})


async def test_life_of_a_preview_is_read_from_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with open_runtime(FileStore(folder)) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container=ADDRESS)
        first = await sandbox.expose_port(8080, hostname="example.com", token="first_token")
        second = await sandbox.expose_port(8080, hostname="example.com", token="second_token", host_header="preserve")
        await sandbox.set_preview_auth()
        old, new = Target.read(first.url), Target.read(second.url)
        # Beside the owner of the folder, who goes on.
        now = (await read_record(folder, new)).facts
        before = (await read_record(folder, old)).facts
        assert now is not None
        assert before is not None
        assert (now.exposed, now.token_fits, before.token_fits) == (True, True, False)
        assert now.host_header is HostHeader.PRESERVE
        assert now.gated_since is not None
        assert now.exposed_since is not None
        assert now.exposed_since >= now.status_since
        assert (now.up, now.run_since, now.run_end) == (False, None, None)
        async with sandbox.running():
            running = (await read_record(folder, new)).facts
        assert running is not None
        assert running.up
        await sandbox.unexpose_port(8080)
        gone = (await read_record(folder, new)).facts
        assert gone is not None
        assert (gone.exposed, gone.token_fits) == (False, False)
        assert gone.exposed_since is not None
        await sandbox.destroy()
        destroyed = (await read_record(folder, new)).facts
        assert destroyed is not None
        assert destroyed.status == "destroyed"
    # Its run is over with the server, and an address container listens elsewhere.
    left = await read_record(folder, new)
    assert left.listening == ()


async def test_folder_of_another_server_has_no_facts(tmp_path: Path) -> None:
    target = Target.read("https://8080-my-app-token.example.com/")
    for folder in (tmp_path, tmp_path / "missing"):
        found = await read_record(folder, target)
        assert (found.folder, found.facts) == (str(folder), None)
    assert not os.listdir(tmp_path)
    assert (await read_record(tmp_path, Target.read("http://localhost/"))).facts is None


async def test_who_listens_on_this_machine_is_told_of_a_process_container(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with open_runtime(FileStore(folder)) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="process")
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            exposed = await sandbox.expose_port(port, hostname="example.com")
            found = await read_record(folder, Target.read(exposed.url))
            assert "127.0.0.1" in found.listening


async def test_machine_without_proc_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_TABLES", (str(tmp_path / "none"),))
    folder = tmp_path / "data"
    async with open_runtime(FileStore(folder)) as runtime:
        exposed = await (await runtime.get_sandbox("my-app")).expose_port(8080, hostname="example.com")
    assert (await read_record(folder, Target.read(exposed.url))).listening == ()
