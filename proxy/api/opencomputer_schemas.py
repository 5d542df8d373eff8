"""What the OpenComputer-shaped calls take and give. Names, types and leniency are their server's.

Fields that are not known are left alone: their clients send many that mean nothing here.
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from proxy.api.discreet import Discreet
from proxy.api.schemas import ARGUMENTS_MAX, Environment, Word

_Text = Annotated[str, Meta(max_length=4096)]
Seconds = Annotated[int, Meta(ge=0, le=366 * 24 * 3600)]
CommandSeconds = Annotated[float, Meta(ge=0, le=24 * 3600)]
Program = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class OcPreviewAuth(Discreet, frozen=True, kw_only=True):
    """A gate to be."""

    scheme: str = "bearer"
    token: Annotated[str, Meta(max_length=512)] = "auto"  # noqa: S105  a word, not a password


class OcCreate(Discreet, frozen=True, kw_only=True):
    """A sandbox to be."""

    templateID: _Text = "base"
    timeout: Seconds = 0
    """Idle seconds after which it goes to sleep; 0: never."""
    envs: Environment | None = None
    metadata: dict[_Text, _Text] | None = None
    previewAuth: OcPreviewAuth | None = None


class OcSandbox(Discreet, frozen=True, kw_only=True, omit_defaults=True):
    """A sandbox."""

    sandboxID: str
    templateID: str
    status: str
    """``running``, ``hibernated`` or ``stopped``."""
    region: str
    workerID: str
    token: str
    """Always empty: clients then send their API key."""
    sandboxDomain: str
    previewAuthToken: str | UnsetType = UNSET


class OcHibernated(Discreet, frozen=True, kw_only=True):
    """What became of it."""

    sandboxID: str
    status: str


class OcTimeout(Discreet, frozen=True, kw_only=True):
    """Another time."""

    timeout: Seconds


class OcWake(Discreet, frozen=True, kw_only=True):
    """Perhaps with another time."""

    timeout: Seconds | None = None


class OcCreatePreview(Discreet, frozen=True, kw_only=True):
    """A preview to be."""

    # Looked at by the call itself, in their words.
    port: Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": 65535})]
    domain: _Text | None = None
    authConfig: dict[str, Any] | None = None


class OcPreview(Discreet, frozen=True, kw_only=True):
    """A preview URL."""

    id: str
    sandboxId: str
    orgId: str
    hostname: str
    port: int
    sslStatus: str
    authConfig: dict[str, Any]
    createdAt: str
    customHostname: str | UnsetType = UNSET


class OcRotated(Discreet, frozen=True, kw_only=True):
    """Another token, told this once."""

    previewAuthToken: str
    scheme: str
    remaining: int | UnsetType = UNSET
    """Ours: live visits that had been told to end, and had not in time. Left out if there are none."""


class OcCommand(Discreet, frozen=True, kw_only=True):
    """A command."""

    cmd: Program
    args: Annotated[list[Word], Meta(max_length=ARGUMENTS_MAX)] | None = None
    envs: Environment | None = None
    cwd: Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]*$")] | None = None
    timeout: CommandSeconds | None = None


class OcResult(Discreet, frozen=True, kw_only=True):
    """How a command ended."""

    exitCode: int
    stdout: str
    stderr: str


class OcRunning(Discreet, frozen=True, kw_only=True):
    """A command that goes on."""

    execId: str
    running: bool
    startedAt: str


class OcPolled(Discreet, frozen=True, kw_only=True):
    """How far a command has come."""

    running: bool
    stdout: str
    stderr: str
    exitCode: int | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    error: str | UnsetType = UNSET


class OcSession(Discreet, frozen=True, kw_only=True):
    """A command that can be talked with."""

    sessionID: str
    sandboxID: str
    command: str
    args: list[str]
    running: bool
    startedAt: str
    attachedClients: int
    exitCode: int | UnsetType = UNSET


class OcKill(Discreet, frozen=True, kw_only=True):
    """A signal to be sent."""

    signal: Annotated[int, Meta(ge=1, le=64)] = 9
