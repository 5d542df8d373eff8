"""The settings of a server as flags, and how they are read together with the environment and a file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from actors import CustomDomainRequiredError, Domain, InvalidNameError
from proxy.cli.base import EXIT_USAGE, fail
from proxy.config import ConfigError, Resolved, Settings, flag_name, resolve

MEANINGS: Final[Mapping[str, str]] = {
    "listen": "Where to listen, HOST:PORT; port 0 is whatever is free.",
    "domains": "Base domains of preview URLs; of new URLs the first, unless they name another.",
    "data_folder": "The data folder, which belongs to one server at a time.",
    "log_level": "The least that is logged: debug, info, warning or error.",
    "log_format": "How it is logged: console or json.",
    "access_log": "A file for a line of JSON about each request; - is standard output, nothing is no such file.",
    "head_bytes_max": "Bytes in a request or response head, 1024 or more.",
    "fields_max": "Fields in a head, a count.",
    "head_timeout_s": "Seconds for a whole request head to come.",
    "keep_alive_timeout_s": "Seconds that an idle client connection is kept.",
    "upstream_idle_timeout_s": "Seconds that an idle connection to a service is kept.",
    "connect_timeout_s": "Seconds for a service to accept a connection.",
    "response_timeout_s": "Seconds for a service to begin its response.",
    "stalled_timeout_s": "Seconds that nothing may move on a stream although something is to be handed over.",
    "wake_timeout_s": "Seconds for a sandbox to wake.",
    "connections_max": "Client connections at once, a count.",
    "connections_per_address_max": "Of these for one client address, a count; 0 is no limit.",
    "visits_per_sandbox_max": "Requests and WebSockets at once in one sandbox, a count.",
    "drain_timeout_s": "Seconds that requests under way get to end when the server stops; 0 cuts them.",
    "reserved_ports": "Ports that are never exposed, with commas.",
    "trusted_proxies": "Networks whose X-Forwarded fields count, with commas, such as 10.0.0.0/8.",
}
"""What each setting is for, with its unit."""


def shown_value(value: object) -> str:
    """Return a setting's value as it could be given."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flag(setting: str, *names: str, leading_hyphen: bool = False) -> Parameter:
    """Return the flag of a setting, with its default in the help."""
    text = f"{MEANINGS[setting]} Default {shown_value(getattr(Settings(), setting)) or 'none'}."
    return Parameter(name=names or flag_name(setting), help=text, allow_leading_hyphen=leading_hyphen)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SettingsFlags:
    """Settings of a server. Each can also be an environment variable (``PORTICO_LISTEN``) or a line of TOML."""

    listen: Annotated[str | None, _flag("listen")] = None
    domains: Annotated[tuple[str, ...] | None, _flag("domains", "--domain", "--domains")] = None
    data_folder: Annotated[Path | None, _flag("data_folder", "--data", "--data-folder")] = None
    config: Annotated[Path | None, Parameter(help="A TOML file with settings. Default PORTICO_CONFIG, or none.")] = None
    log_level: Annotated[str | None, _flag("log_level")] = None
    log_format: Annotated[str | None, _flag("log_format")] = None
    access_log: Annotated[str | None, _flag("access_log", leading_hyphen=True)] = None
    head_bytes_max: Annotated[int | None, _flag("head_bytes_max")] = None
    fields_max: Annotated[int | None, _flag("fields_max")] = None
    head_timeout_s: Annotated[float | None, _flag("head_timeout_s")] = None
    keep_alive_timeout_s: Annotated[float | None, _flag("keep_alive_timeout_s")] = None
    upstream_idle_timeout_s: Annotated[float | None, _flag("upstream_idle_timeout_s")] = None
    connect_timeout_s: Annotated[float | None, _flag("connect_timeout_s")] = None
    response_timeout_s: Annotated[float | None, _flag("response_timeout_s")] = None
    stalled_timeout_s: Annotated[float | None, _flag("stalled_timeout_s")] = None
    wake_timeout_s: Annotated[float | None, _flag("wake_timeout_s")] = None
    connections_max: Annotated[int | None, _flag("connections_max")] = None
    connections_per_address_max: Annotated[int | None, _flag("connections_per_address_max")] = None
    visits_per_sandbox_max: Annotated[int | None, _flag("visits_per_sandbox_max")] = None
    drain_timeout_s: Annotated[float | None, _flag("drain_timeout_s")] = None
    reserved_ports: Annotated[str | None, _flag("reserved_ports")] = None
    trusted_proxies: Annotated[str | None, _flag("trusted_proxies")] = None

    def resolve(self, environ: Mapping[str, str]) -> Resolved:
        """Put flags, environment and file together; ConfigError with every problem."""
        flags: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        del flags["config"]
        return resolve(flags, environ, self.config)


NO_FLAGS: Final = SettingsFlags()

DataFolder = Annotated[
    Path | None,
    Parameter(name=("--data", "--data-folder"), help="The data folder. Default PORTICO_DATA_FOLDER or portico-data."),
]


def resolve_settings(flags: SettingsFlags) -> Resolved:
    """Return the settings, or end the command with what is wrong with them."""
    try:
        resolved = flags.resolve(os.environ)
        for domain in resolved.settings.domains:
            Domain(domain)
    except (ConfigError, InvalidNameError, CustomDomainRequiredError) as error:
        fail(str(error), EXIT_USAGE)
    return resolved
