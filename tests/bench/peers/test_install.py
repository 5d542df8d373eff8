"""What is fetched and compiled, and what is said where it cannot be. Nothing here reaches a network."""

import os
import shutil
from pathlib import Path

import pytest

from bench.peers import install
from bench.peers.install import MissingError


def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho version 1.2\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_peer_that_cannot_be_had_is_missing_with_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_installed(monkeypatch)
    peers = install.install({"nginx", "http-proxy"}, tmp_path)
    assert not peers.programs
    with pytest.raises(MissingError, match="no nginx on this machine, and no apt-get"):
        peers.find("nginx")
    with pytest.raises(MissingError, match="no npm: apt-get install"):
        peers.find("http-proxy")
    with pytest.raises(MissingError, match="no node"):
        peers.find("node")
    with pytest.raises(MissingError, match="caddy was not asked for"):
        peers.find("caddy")


def test_what_was_unpacked_before_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_installed(monkeypatch)
    nginx = program(tmp_path / "debian" / install.DEBIAN["nginx"])
    peers = install.install({"nginx"}, tmp_path)
    assert peers.find("nginx") == nginx
    assert peers.versions == {"nginx": "version 1.2"}


def test_program_of_the_machine_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caddy = program(tmp_path / "bin" / "caddy")
    monkeypatch.setenv("PATH", str(caddy.parent), prepend=os.pathsep)
    assert install.install({"caddy"}, tmp_path / "cache").find("caddy") == caddy


def test_without_a_compiler_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_installed(monkeypatch)
    with pytest.raises(MissingError, match="no C compiler"):
        install.compile_programs(tmp_path)
