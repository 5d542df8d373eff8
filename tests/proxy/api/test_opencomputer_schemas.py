"""Their types and their leniency."""

import msgspec
import pytest

from proxy.api.opencomputer_schemas import OcCommand, OcCreate, OcPolled


def test_fields_that_are_not_known_are_left_alone() -> None:
    assert msgspec.json.decode(b'{"burst": true, "timeout": 5}', type=OcCreate).timeout == 5


def test_types_are_kept_to() -> None:
    for body in (b'{"timeout": "5"}', b'{"timeout": -1}', b'{"previewAuth": "auto"}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(body, type=OcCreate)
    for body in (b"{}", b'{"cmd": ""}', b'{"cmd": "a", "args": [1]}', b'{"cmd": "a\\u0000"}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(body, type=OcCommand)


def test_what_there_is_not_is_left_out() -> None:
    assert msgspec.json.encode(OcPolled(running=True, stdout="", stderr="")) == (
        b'{"running":true,"stdout":"","stderr":""}'
    )
