"""Keys: kept as digests, durable, shared with a command beside the server, and refused when nobody can tell."""

import os
import stat
from pathlib import Path

import pytest

from proxy.api.keys import FILE_NAME, KEYS_MAX, KeyFileError, KeyGoneError, KeyRing, KeysFullError, Scope


def test_key_is_found_by_its_text_and_by_nothing_else(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    key, text = ring.create("ci", "sandbox:my-app")
    assert ring.find(text) == key
    for other in ("", text[:-1], text + "x", key.digest, key.id, text.upper(), "ä", "\ud800"):
        assert ring.find(other) is None


def test_file_holds_no_key_and_is_for_its_owner_only(tmp_path: Path) -> None:
    _, text = KeyRing(tmp_path).create("ci", "admin")
    file = tmp_path / FILE_NAME
    assert text.removeprefix("pk_") not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".new"] == []


def test_link_where_the_next_file_is_written_is_not_followed(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.write_text("mine")
    for name in (f"{FILE_NAME}.new", "api-keys.new"):
        (data / name).symlink_to(elsewhere)
    key, text = KeyRing(data).create("ci", "admin")
    assert KeyRing(data).find(text) == key
    assert elsewhere.read_text() == "mine"


def test_key_made_or_revoked_beside_the_server_counts_at_once(tmp_path: Path) -> None:
    server, command = KeyRing(tmp_path), KeyRing(tmp_path)
    assert server.find("nothing-yet") is None
    key, text = command.create("ci", "read")
    assert server.find(text) == key
    assert command.revoke(key.id)
    assert server.find(text) is None
    assert not command.revoke(key.id)


def test_changes_of_two_at_once_are_both_kept(tmp_path: Path) -> None:
    one, two = KeyRing(tmp_path), KeyRing(tmp_path)
    for number in range(5):
        one.create(f"one {number}", "admin")
        two.create(f"two {number}", "admin")
    assert len(KeyRing(tmp_path).records()) == 10


def test_first_key_is_made_once(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "data")
    made = ring.create_first()
    assert made is not None
    key, text = made
    assert (key.scope, ring.find(text)) == ("admin", key)
    assert ring.create_first() is None
    # Whoever revokes the last key means it: a restart does not let anybody in.
    ring.revoke(key.id)
    assert KeyRing(tmp_path / "data").create_first() is None


def test_key_from_the_environment_is_kept_nowhere(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, "a-key-of-my-own-choice")
    found = ring.find("a-key-of-my-own-choice")
    assert found is not None
    assert found.scope == "admin"
    assert ring.create_first() is None
    assert list(tmp_path.iterdir()) == []
    assert not ring.revoke(found.id)


@pytest.mark.parametrize("text", ["short", "x" * 513, "with a space in it", "umlaut-ä-umlaut-ä"])
def test_weak_key_from_the_environment_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="16 to 512") as refused:
        KeyRing(tmp_path, text)
    assert text not in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{}]}'])
def test_damaged_file_lets_nobody_in_and_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    ring = KeyRing(tmp_path)
    _, text = ring.create("ci", "admin")
    (tmp_path / FILE_NAME).write_text(content)
    for _ in range(2):
        with pytest.raises(KeyFileError):
            ring.find(text)
    with pytest.raises(KeyFileError):
        ring.create("another", "admin")
    with pytest.raises(KeyFileError):
        KeyRing(tmp_path).create_first()
    assert (tmp_path / FILE_NAME).read_text() == content


def test_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(tmp_path)
    key, text = ring.create("ci", "admin")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(KeyFileError, match="No space"):
            ring.create("lost", "admin")
    assert ring.records() == [key]
    assert ring.find(text) == key


def test_there_are_only_so_many_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.api.keys.KEYS_MAX", 2)
    assert KEYS_MAX > 2
    ring = KeyRing(tmp_path)
    ring.create("one", "admin")
    ring.create("two", "admin")
    with pytest.raises(KeysFullError):
        ring.create("three", "admin")


def test_scopes_say_who_may_do_what() -> None:
    admin, read, one = Scope.parse("admin"), Scope.parse("read"), Scope.parse("sandbox:one")
    assert [admin.may_change(name) for name in (None, "one", "two")] == [True, True, True]
    assert [read.may_change(name) for name in (None, "one", "two")] == [False, False, False]
    assert [read.may_look(name) for name in (None, "one", "two")] == [True, True, True]
    assert [one.may_change(name) for name in (None, "one", "two")] == [False, True, False]
    assert [one.may_look(name) for name in (None, "one", "two")] == [False, True, False]


@pytest.mark.parametrize("text", ["", "root", "sandbox", "sandbox:", "Admin", "admin:x"])
def test_other_scopes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no scope"):
        Scope.parse(text)


def test_key_of_this_machine_opens_all_and_is_listed_nowhere(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, local_key="key-of-this-run-0123456789")
    found = ring.find("key-of-this-run-0123456789")
    assert found is not None
    assert (found.id, found.scope) == ("local", "admin")
    assert ring.find("another-key-0123456789") is None
    assert ring.records() == []
    # Whoever comes from elsewhere still needs a key of their own.
    assert ring.create_first() is not None


def test_key_that_is_gone_makes_and_revokes_no_other(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    gone, _ = ring.create("gone", "admin")
    other, _ = ring.create("other", "admin")
    assert ring.holds(gone)
    assert KeyRing(tmp_path).revoke(gone.id)
    assert not ring.holds(gone)
    with pytest.raises(KeyGoneError):
        ring.create("heir", "admin", by=gone)
    with pytest.raises(KeyGoneError):
        ring.revoke(other.id, by=gone)
    assert ring.records() == [other]
