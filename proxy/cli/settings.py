"""The settings of a server as flags, and how they are read together with the environment and a file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from actors import CustomDomainRequiredError, Domain, InvalidNameError
from proxy.cli.base import EXIT_USAGE, fail
from proxy.config import ConfigError, Resolved, resolve


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SettingsFlags:
    """Settings of a server. Each can also be an environment variable (``PORTICO_LISTEN``) or a line of TOML."""

    listen: Annotated[str | None, Parameter(help="Where to listen, HOST:PORT. Default 127.0.0.1:8787.")] = None
    domains: Annotated[
        tuple[str, ...] | None,
        Parameter(
            name=("--domain", "--domains"),
            help="A base domain of preview URLs; give it again for more. Default localhost.",
        ),
    ] = None
    data_folder: Annotated[
        Path | None, Parameter(name=("--data", "--data-folder"), help="The data folder. Default portico-data.")
    ] = None
    config: Annotated[Path | None, Parameter(help="A TOML file with settings; or PORTICO_CONFIG.")] = None
    log_level: Annotated[str | None, Parameter(help="debug, info, warning or error.")] = None
    log_format: Annotated[str | None, Parameter(help="console or json.")] = None
    access_log: Annotated[
        str | None,
        Parameter(
            help="A file for a line of JSON about each request; - is standard output. Default: none.",
            allow_leading_hyphen=True,
        ),
    ] = None
    head_bytes_max: Annotated[int | None, Parameter(help="Bytes in a request or response head.")] = None
    fields_max: Annotated[int | None, Parameter(help="Fields in a head.")] = None
    head_timeout_s: Annotated[float | None, Parameter(help="For a whole request head.")] = None
    keep_alive_timeout_s: Annotated[float | None, Parameter(help="For an idle client connection.")] = None
    upstream_idle_timeout_s: Annotated[float | None, Parameter(help="For an idle connection to a service.")] = None
    connect_timeout_s: Annotated[float | None, Parameter(help="For a service to accept.")] = None
    response_timeout_s: Annotated[float | None, Parameter(help="For a service to begin its response.")] = None
    stalled_timeout_s: Annotated[
        float | None, Parameter(help="For a stream on which nothing moves although something is to be handed over.")
    ] = None
    wake_timeout_s: Annotated[float | None, Parameter(help="For a sandbox to wake.")] = None
    connections_max: Annotated[int | None, Parameter(help="Client connections at once.")] = None
    connections_per_address_max: Annotated[
        int | None, Parameter(help="Of these, for one client address; 0: no limit.")
    ] = None
    visits_per_sandbox_max: Annotated[int | None, Parameter(help="Requests and WebSockets of one sandbox.")] = None
    drain_timeout_s: Annotated[float | None, Parameter(help="For requests under way when the server stops.")] = None
    reserved_ports: Annotated[str | None, Parameter(help="Ports never exposed, with commas. Default 3000.")] = None
    trusted_proxies: Annotated[str | None, Parameter(help="Networks whose X-Forwarded fields count.")] = None

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
