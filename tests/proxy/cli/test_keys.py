"""`portico key`, in a data folder and over the API."""

import json
from pathlib import Path

from proxy.api.keys import FILE_NAME, KeyRing
from tests.proxy.cli.conftest import Command
from tests.proxy.client.conftest import Script


def test_key_of_a_folder_is_made_listed_and_revoked_without_a_server(portico: Command, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    made = json.loads(portico("key", "create", "laptop", "--scope", "read", "--json", "--data", str(folder)).out)
    found = KeyRing(folder).find(made["key"])
    assert found is not None
    assert (found.id, found.name, found.scope) == (made["id"], "laptop", "read")
    listed = portico("key", "list", "--data", str(folder)).out
    assert made["id"] in listed
    assert made["key"] not in listed
    assert portico("key", "revoke", made["id"], "--data", str(folder)).code == 0
    assert KeyRing(folder).find(made["key"]) is None
    said = portico("key", "revoke", made["id"], "--data", str(folder))
    assert (said.code, said.err) == (1, f"portico: there is no key {made['id']}\n")


def test_key_for_people_is_one_line_of_stdout(portico: Command, tmp_path: Path) -> None:
    said = portico("key", "create", "laptop", "--data", str(tmp_path / "data"))
    assert len(said.out.splitlines()) == 1
    assert KeyRing(tmp_path / "data").find(said.out.strip()) is not None
    assert said.out.strip() not in said.err


def test_scope_that_is_none_is_exit_code_2(portico: Command, tmp_path: Path) -> None:
    assert portico("key", "create", "laptop", "--scope", "everything", "--data", str(tmp_path)).code == 2


def test_file_that_is_none_is_exit_code_1(portico: Command, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("not json")
    for arguments in (("create", "a"), ("list",), ("revoke", "key-1")):
        said = portico("key", *arguments, "--data", str(tmp_path))
        assert (said.code, "is no file of keys" in said.err) == (1, True)


def test_named_server_is_asked(server: Script, portico: Command, tmp_path: Path) -> None:
    record = {"id": "key-1", "name": "laptop", "scope": "admin", "created_at": "2026-11-22T15:30:00+00:00"}
    server.answer(201, {**record, "key": "told-this-once"})
    server.answer(200, {"keys": [record]})
    server.answer(200, {})
    assert portico("key", "create", "laptop").out == "told-this-once\n"
    assert "key-1" in portico("key", "list").out
    assert json.loads(portico("key", "revoke", "key-1", "--json").out) == {"revoked": "key-1"}
    assert not list(tmp_path.iterdir())
