"""Settings of a server, from flags, environment and file."""

from pathlib import Path

import pytest

from proxy.cli.settings import MEANINGS
from proxy.config import Settings
from tests.proxy.cli.conftest import Command


def test_flags_win_over_environment_over_file_over_defaults(
    portico: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "portico.toml"
    file.write_text('listen = "127.0.0.1:1"\nhead_timeout_s = 1\nfields_max = 1\n')
    monkeypatch.setenv("PORTICO_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("PORTICO_HEAD_TIMEOUT_S", "2")
    shown = portico.settings("--config", str(file), "--listen", "127.0.0.1:3")
    assert shown["listen"] == ["127.0.0.1:3", "--listen"]
    assert shown["head_timeout_s"] == ["2", "PORTICO_HEAD_TIMEOUT_S"]
    assert shown["fields_max"] == ["1", f"{file}:", "fields_max"]
    assert shown["connect_timeout_s"] == ["5", "default"]


def test_flag_that_can_be_given_again_makes_a_list(portico: Command) -> None:
    shown = portico.settings("--domain", "a.example", "--domain", "b.example", "--data", "here")
    assert shown["domains"] == ["a.example,b.example", "--domains"]
    assert shown["data_folder"] == ["here", "--data-folder"]


def test_every_setting_is_said_with_its_unit_and_its_default(portico: Command) -> None:
    shown = portico.settings()
    assert set(shown) == set(MEANINGS) == set(Settings.__struct_fields__)
    for name, meaning in MEANINGS.items():
        unit = {"s": "Seconds ", "max": " count"}.get(name.rpartition("_")[2], "")
        assert unit in meaning or meaning.startswith("Bytes "), name
    told = " ".join(portico("serve", "--help").out.replace("│", " ").split())
    assert "Seconds for a whole request head to come. Default 30." in told
    assert "Networks whose X-Forwarded fields count, with commas, such as 10.0.0.0/8. Default none." in told


def test_file_that_nobody_named_changes_nothing(portico: Command, tmp_path: Path) -> None:
    (tmp_path / "portico.toml").write_text('listen = "127.0.0.1:1"\n')
    assert portico.settings()["listen"] == ["127.0.0.1:8787", "default"]


def test_unknown_key_in_the_file_is_named_with_the_nearest(portico: Command, tmp_path: Path) -> None:
    file = tmp_path / "portico.toml"
    file.write_text("lisen = 1\nhead_bytes_max = 'many'\n")
    said = portico("serve", "--show-config", "--config", str(file))
    assert (said.code, said.out) == (2, "")
    first, second = said.err.splitlines()
    assert first == f"portico: {file}: there is no setting lisen; the nearest is listen"
    assert second == f"portico: {file}: head_bytes_max: Expected a whole number, got text; found 'many'"


def test_share_of_an_address_is_a_setting_and_zero_is_none(portico: Command) -> None:
    assert portico.settings()["connections_per_address_max"] == ["512", "default"]
    shown = portico.settings("--connections-per-address-max", "0")
    assert shown["connections_per_address_max"] == ["0", "--connections-per-address-max"]
    said = portico("serve", "--show-config", "--connections-per-address-max", "-1")
    assert (said.code, "--connections-per-address-max" in said.err) == (2, True)
