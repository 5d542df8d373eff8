"""Laws of the settings: no error but `ConfigError`, whatever is said by whom, and what is accepted can be used."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxy.config import ConfigError, HostPort, Resolved, Settings, flag_name, resolve, variable_name

NAMES: Final = frozenset(field.name for field in msgspec.structs.fields(Settings))


def settings(data: bytes) -> None:
    """Check a TOML file of these bytes; and each ``name = value`` line as a flag and as a variable."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        _resolved({}, {}, Path(file.name))
    given: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        given[name.strip()] = value.strip().strip('"')
    flags = _resolved(given, {}, None)
    known = {name: value for name, value in given.items() if name in NAMES}
    variables = _resolved({}, {variable_name(name): value for name, value in known.items()}, None)
    if flags is not None:
        assert variables is not None
        assert flags.settings == variables.settings
        assert {name for name, origin in flags.origins.items() if origin == flag_name(name)} == set(given)
    _address(data)


def _resolved(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None) -> Resolved | None:
    try:
        found = resolve(flags, environ, file)
    except ConfigError as error:
        if not error.problems:
            raise AssertionError("a refusal that says nothing") from error
        return None
    assert set(found.origins) == NAMES
    found.settings.options()
    found.settings.limits()
    found.settings.rules()
    return found


def _address(data: bytes) -> None:
    try:
        address = HostPort.parse(data.decode("latin-1"))
    except ValueError:
        return
    assert 0 <= address.port <= 65535
    assert HostPort.parse(str(address)) == address
