"""The settings of `portico serve` and `portico demo`, and where each one came from.

One precedence for every setting, highest first:

    1. a flag                 ``--head-timeout-s 10``
    2. the environment        ``PORTICO_HEAD_TIMEOUT_S=10``
    3. a TOML file            ``head_timeout_s = 10``, in the file of ``--config`` or ``PORTICO_CONFIG``
    4. the default            written in `Settings`

A higher source replaces a lower one's value whole; lists are never merged. No file is read unless it is
named: a ``portico.toml`` lying in the working folder must not change what a server does. In flags and in the
environment a list is written with commas, and the empty text is the empty list.

A key that is not a setting is an error, in the file and among the flags. In the environment it is one only if
it looks like a misspelt setting: other programs put names of their own there (Kubernetes gives every
container ``PORTICO_SERVICE_HOST`` when a service is called *portico*).

Nothing here is secret, so error texts may quote values; a setting that holds a secret would have to be left
out of them. Domains stay text: whoever routes by them checks them.
"""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args, get_origin

import msgspec

from actors import Limits, Rules
from proxy.core.http1 import Limits as HeadLimits
from proxy.options import DEFAULT_OPTIONS, IPNetwork, Options

ENVIRONMENT_PREFIX: Final = "PORTICO_"
CONFIG_VARIABLE: Final = "PORTICO_CONFIG"
"""Names the TOML file where no ``--config`` is given."""

# An environment name this like a setting is taken for a slip of the finger. 0.8 catches one or two letters
# wrong in a name of ten, and lets PORTICO_PORT and PORTICO_SERVICE_HOST pass, which are no attempt at one.
_MISSPELT_RATIO: Final = 0.8

# {what people write who know the flag: what the setting is called}
_FLAGS_OWN_NAMES: Final = {"DATA": "DATA_FOLDER", "DOMAIN": "DOMAINS"}

_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


class ConfigError(ValueError):
    """Settings that cannot be used; the text has one line for each problem, naming the source to blame."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class HostPort:
    """An address to listen on. ``str()`` of it is what `parse` reads."""

    host: str
    """A host name or an IP address, without brackets."""
    port: int
    """0 to 65535; 0 lets the kernel choose one."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``127.0.0.1:8787``, ``localhost:0`` or ``[::1]:8787``.

        Raises:
            ValueError: With the rule that `text` breaks.
        """
        host, colon, port = text.rpartition(":")
        if not colon or _PORT.fullmatch(port) is None or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT with a port from 0 to 65535")
        if host.startswith("[") and host.endswith("]"):
            try:
                return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            except ipaddress.AddressValueError as error:
                raise ValueError(f"{text!r}: brackets hold an IPv6 address ({error})") from None
        if ":" in host:
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8787")
        if _HOST.fullmatch(host) is None:
            # An empty host means "everywhere" elsewhere; here that takes saying so.
            raise ValueError(f"{text!r}: name a host, such as 127.0.0.1, or 0.0.0.0 for every IPv4 address")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Count = Annotated[int, msgspec.Meta(ge=1)]
# `inf` is allowed, and means no limit; NaN is not greater than 0 and so is refused.
Seconds = Annotated[float, msgspec.Meta(gt=0)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
DomainText = Annotated[str, msgspec.Meta(min_length=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a server runs with. Made by `load`, which checks; the constructor itself does not."""

    listen: HostPort = HostPort("127.0.0.1", 8787)
    """Loopback by default: a preview URL is a door, and opening it to the network takes saying so."""
    domains: Annotated[tuple[DomainText, ...], msgspec.Meta(min_length=1)] = ("localhost",)
    """Base domains of preview URLs; the first one is used for URLs that name none."""
    data_folder: Path = Path("portico-data")
    """Logs of the sandboxes and their workspaces; a relative path starts in the working folder."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    access_log: str = ""
    """A file that a line of JSON is appended to for each request; ``-``: standard output; empty: none is kept."""

    # What the library does by itself holds for the server too: one default, written in one place.
    head_bytes_max: Annotated[int, msgspec.Meta(ge=1024)] = DEFAULT_OPTIONS.http.head_bytes_max
    """A longer request or response head is refused. Below 1 KiB no browser's request would fit."""
    fields_max: Count = DEFAULT_OPTIONS.http.fields_max
    """More header fields than this are refused."""
    head_timeout_s: Seconds = DEFAULT_OPTIONS.head_timeout_s
    """For a whole request head, from its first byte: what a client that trickles bytes can hold on to."""
    keep_alive_timeout_s: Seconds = DEFAULT_OPTIONS.keep_alive_timeout_s
    """How long a client's idle connection stays open. More than the 60 s of common load balancers, so that it
    is they who close first, and no request meets a closing connection."""
    upstream_idle_timeout_s: Seconds = DEFAULT_OPTIONS.upstream_idle_timeout_s
    """How long an idle connection to a service is kept for the next request. Less than the 5 s after which
    Node.js (through 25), uvicorn and hypercorn close theirs: a request that crosses such a close fails, and
    unless it is idempotent it may not be sent again. A new connection on one host takes well under 1 ms."""
    connect_timeout_s: Seconds = DEFAULT_OPTIONS.connect_timeout_s
    """For one connection to a service."""
    response_timeout_s: Seconds = DEFAULT_OPTIONS.response_timeout_s
    """From the end of a request to the first byte of the response head. A flowing body has no limit."""
    stalled_timeout_s: Seconds = DEFAULT_OPTIONS.stalled_timeout_s
    """How long nothing may move on a stream although there is something to hand over: the client takes nothing of what
    it is sent, or owes content and sends none. A stream that flows, or has nothing to carry, has no limit."""
    wake_timeout_s: Seconds = DEFAULT_OPTIONS.wake_timeout_s
    """How long a request waits for its sandbox to wake, before it is told to come again."""
    connections_max: Count = DEFAULT_OPTIONS.connections_max
    """Client connections at once. Each may need a second descriptor towards its service: `ulimit -n` must
    allow twice as many."""
    connections_per_address_max: Annotated[int, msgspec.Meta(ge=0)] = DEFAULT_OPTIONS.connections_per_address_max
    """Of these, for one client address, of IPv6 for its /64; further ones are closed at once. 0: no limit. Loopback and
    trusted proxies are not counted: a load balancer that is not in `trusted_proxies` counts as one client."""
    visits_per_sandbox_max: Count = Limits().visits_max
    """Requests and WebSockets at once in one sandbox. Below `connections_max` it keeps one sandbox from using
    up what all share."""
    drain_timeout_s: Annotated[float, msgspec.Meta(ge=0)] = DEFAULT_OPTIONS.drain_timeout_s
    """What requests under way are given to end when the server stops; 0 cuts them at once."""
    reserved_ports: tuple[PortNumber, ...] = tuple(sorted(Rules().reserved_ports))
    """Ports that no sandbox may expose; 3000 is the control plane's in the systems whose API we share."""
    trusted_proxies: tuple[IPNetwork, ...] = DEFAULT_OPTIONS.trusted_proxies
    """Networks whose X-Forwarded-* fields are believed. Everyone else's are dropped."""

    def options(self) -> Options:
        """Return what the proxy wants to know."""
        return Options(
            http=HeadLimits(head_bytes_max=self.head_bytes_max, fields_max=self.fields_max),
            head_timeout_s=self.head_timeout_s,
            keep_alive_timeout_s=self.keep_alive_timeout_s,
            upstream_idle_timeout_s=self.upstream_idle_timeout_s,
            connect_timeout_s=self.connect_timeout_s,
            response_timeout_s=self.response_timeout_s,
            stalled_timeout_s=self.stalled_timeout_s,
            wake_timeout_s=self.wake_timeout_s,
            connections_max=self.connections_max,
            connections_per_address_max=self.connections_per_address_max,
            drain_timeout_s=self.drain_timeout_s,
            trusted_proxies=self.trusted_proxies,
        )

    def limits(self) -> Limits:
        """Return what the actors want to know of limits."""
        return Limits(visits_max=self.visits_per_sandbox_max, wake_timeout_s=self.wake_timeout_s)

    def rules(self) -> Rules:
        """Return what the actors want to know of the platform's own rules."""
        return Rules(reserved_ports=frozenset(self.reserved_ports))


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, with the source of each."""

    settings: Settings
    origins: Mapping[str, str]
    """``{setting: source}``, such as ``{"listen": "--listen", "domains": "default"}``, for every setting."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Values as one source gives them, under the names of settings."""

    values: Mapping[str, object]
    # {setting: how a person finds the value in this source}
    labels: Mapping[str, str]
    typed: bool
    """Whether numbers and lists are told from text."""


_FIELDS: Final = {field.name: field for field in msgspec.structs.fields(Settings)}


def _networks(texts: tuple[str, ...]) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# {type: (how it is written, what makes it from that)}, for the types that msgspec does not convert to.
_FOREIGN: Final[Mapping[object, tuple[object, Callable[..., object]]]] = {
    HostPort: (str, HostPort.parse),
    Path: (Annotated[str, msgspec.Meta(min_length=1)], Path),
    tuple[IPNetwork, ...]: (tuple[str, ...], _networks),
}


# {a kind as msgspec calls it: in words}
_KINDS: Final = {
    "`array`": "a list",
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "text",
    "`bool`": "true or false",
}


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Return the settings of `resolve`, without their origins.

    Raises:
        ConfigError: As `resolve`.
    """
    return resolve(flags, environ, file).settings


def resolve(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Resolved:
    """Put the settings together. Reads nothing but `file`.

    Args:
        flags: ``{setting: value}`` from the command line, as text or of the right type; None is "not given".
        environ: The environment, such as `os.environ`.
        file: A TOML file; None takes the one that ``PORTICO_CONFIG`` names, if any.

    Raises:
        ConfigError: With every problem found, not only the first.
    """
    problems: list[str] = []
    if file is None and CONFIG_VARIABLE in environ:
        file = Path(environ[CONFIG_VARIABLE])
    sources = [_from_flags(flags, problems), _from_environment(environ, problems)]
    if file is not None:
        sources.append(_from_file(file, problems))

    chosen: dict[str, object] = {}
    origins: dict[str, str] = {}
    # Values that a higher source hides are read too: a wrong one is a mistake even while nobody uses it.
    for source in sources:
        for name, value in source.values.items():
            try:
                read = _read(name, value, typed=source.typed)
            except ValueError as error:
                problems.append(f"{source.labels[name]}: {error}")
                continue
            if name not in chosen:
                chosen[name], origins[name] = read, source.labels[name]
    if problems:
        raise ConfigError(problems)
    return Resolved(
        settings=msgspec.structs.replace(Settings(), **chosen),
        origins={name: origins.get(name, "default") for name in _FIELDS},
    )


def flag_name(setting: str) -> str:
    """Return the flag of a setting: ``head_timeout_s`` is ``--head-timeout-s``."""
    return "--" + setting.replace("_", "-")


def variable_name(setting: str) -> str:
    """Return the environment variable of a setting: ``head_timeout_s`` is ``PORTICO_HEAD_TIMEOUT_S``."""
    return ENVIRONMENT_PREFIX + setting.upper()


def _from_flags(flags: Mapping[str, object], problems: list[str]) -> _Source:
    given = {name: value for name, value in flags.items() if value is not None}
    known = [flag_name(name) for name in _FIELDS]
    problems.extend(_unknown(flag_name(name), known) for name in given if name not in _FIELDS)
    values = {name: value for name, value in given.items() if name in _FIELDS}
    return _Source(values, {name: flag_name(name) for name in values}, typed=False)


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Source:
    settings = {variable_name(name): name for name in _FIELDS}
    # Compared without the prefix that all of them share, which would make everything look alike.
    known = [name.upper() for name in _FIELDS]
    for variable in environ:
        if variable in settings or not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        word = variable.removeprefix(ENVIRONMENT_PREFIX)
        if word in _FLAGS_OWN_NAMES:
            problems.append(_unknown(variable, [ENVIRONMENT_PREFIX + _FLAGS_OWN_NAMES[word]]))
        elif near := difflib.get_close_matches(word, known, n=1, cutoff=_MISSPELT_RATIO):
            problems.append(_unknown(variable, [ENVIRONMENT_PREFIX + near[0]]))
    values = {name: environ[variable] for variable, name in settings.items() if variable in environ}
    return _Source(values, {name: variable_name(name) for name in values}, typed=False)


def _from_file(file: Path, problems: list[str]) -> _Source:
    table: Mapping[str, object] = {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{file}: is not TOML: {error}")
    problems.extend(f"{file}: {_unknown(key, _FIELDS)}" for key in table if key not in _FIELDS)
    values = {name: value for name, value in table.items() if name in _FIELDS}
    return _Source(values, {name: f"{file}: {name}" for name in values}, typed=True)


def _unknown(key: str, known: Iterable[str]) -> str:
    """Say that `key` is no setting, and which one may be meant."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0)
    return f"there is no setting {key}; the nearest is {near[0]}"


def _read(name: str, value: object, *, typed: bool) -> object:
    """Turn what a source holds into the setting's type.

    Args:
        name: The setting.
        value: As the source has it.
        typed: True if the source tells numbers and lists from text, so that text in their place is a mistake.

    Raises:
        ValueError: For people; it does not name the source.
    """
    wanted = _FIELDS[name].type
    if isinstance(value, str) and not typed and isinstance(_FIELDS[name].default, tuple):
        value = [item.strip() for item in value.split(",")] if value.strip() else []
    try:
        if wanted in _FOREIGN:
            written, make = _FOREIGN[wanted]
            if isinstance(wanted, type) and isinstance(value, wanted):
                return value  # A flag that the command line's parser has already read.
            return make(msgspec.convert(value, written))
        return msgspec.convert(value, wanted, strict=typed)
    except msgspec.ValidationError as error:
        if get_origin(wanted) is Literal:
            raise ValueError(f"{value!r} is none of {', '.join(get_args(wanted))}") from None
        text = str(error)
        for kind, words in _KINDS.items():
            text = text.replace(kind, words)
        raise ValueError(f"{text}; found {value!r}") from None
