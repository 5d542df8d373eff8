"""What each operation asks of the API: a method, a path, a body, and the shape of the answer. No I/O.

Both faces of the client are written over these, so an operation is spelt once. What goes into a path is checked here,
with the errors that the embedding API raises: an id with a slash in it must not become another resource.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar
from urllib.parse import quote

from msgspec import UNSET, Struct, UnsetType

from actors import AsleepPolicy, ContainerSpec, CustomHostname, HostHeader, Port, RestartPolicy, SandboxId
from proxy.api import schemas
from proxy.api.discreet import Discreet

T_co = TypeVar("T_co", covariant=True)

CALL_TIMEOUT_S: Final = 30.0
"""For an answer of a call that waits for nothing but a disk."""

WAKE_TIMEOUT_S: Final = 120.0
"""For calls that may bring a container up or down: the server's own deadline for that is 90 s."""

SLACK_S: Final = 15.0
"""What the server gets beyond a time that it was told, to answer that it has passed."""

CUT_TIMEOUT_S: Final = 60.0
"""For revocations, which are answered once the last stream has ended."""

PAGE: Final = 100
"""Sandboxes or hostnames asked for at once."""

LOOK_TIMEOUT_S: Final = 90.0
"""For verifying a hostname: the server asks the DNS, and the site at some addresses, each with a deadline."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """One request to the API, not yet sent."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    answer: type[T_co]
    body: Struct | None = field(default=None, repr=False)
    """Left out of `repr`: tokens and environments are in there."""
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = CALL_TIMEOUT_S
    """For the whole answer, once connected."""

    @property
    def changes(self) -> bool:
        """Whether it may change something, and so carries an idempotency key."""
        return self.method != "GET"


def segment(text: str) -> str:
    """Quote one segment of a path.

    Raises:
        ValueError: It is empty, or one that means another segment (RFC 3986 section 3.3).
    """
    if text in ("", ".", ".."):
        raise ValueError(f"an id is not {text!r}")
    return quote(text, safe="")


def _sandbox(sandbox: str, rest: str = "") -> str:
    return f"/v1/sandboxes/{SandboxId(sandbox)}{rest}"


def _port(sandbox: str, port: int, rest: str = "") -> str:
    return _sandbox(sandbox, f"/ports/{Port(port):d}{rest}")


def _process(sandbox: str, process: str, rest: str = "") -> str:
    return _sandbox(sandbox, f"/processes/{segment(process)}{rest}")


# Sandboxes.


def create_sandbox(
    sandbox: str | None,
    container: str | ContainerSpec | None,
    open_ports: bool | None,
    when_asleep: AsleepPolicy | str | None,
    sleep_after: float | UnsetType | None,
    preview_auth: str | None,
) -> Call[schemas.Sandbox]:
    """Ask for a sandbox, made if there is none."""
    spec = ContainerSpec(container) if isinstance(container, str) else container
    place = None if spec is None else schemas.ContainerRequest(kind=spec.kind, options=dict(spec.options))
    body = schemas.CreateSandbox(
        id=None if sandbox is None else str(SandboxId(sandbox)),
        container=place,
        open_ports=open_ports,
        when_asleep=None if when_asleep is None else AsleepPolicy(when_asleep).value,
        sleep_after=sleep_after,
        preview_auth=None if preview_auth is None else schemas.PreviewAuthRequest(token=preview_auth),
    )
    return Call("POST", "/v1/sandboxes", schemas.Sandbox, body)


def show_sandbox(sandbox: str) -> Call[schemas.Sandbox]:
    """Ask what a sandbox is like."""
    return Call("GET", _sandbox(sandbox), schemas.Sandbox)


def list_sandboxes(after: str | None) -> Call[schemas.SandboxList]:
    """Ask for a page of sandboxes."""
    query = [("limit", str(PAGE)), *([] if after is None else [("after", after)])]
    return Call("GET", "/v1/sandboxes", schemas.SandboxList, query=tuple(query))


def set_sleep_after(sandbox: str, seconds: float | None) -> Call[schemas.Sandbox]:
    """Change when a sandbox goes to sleep."""
    return Call("PATCH", _sandbox(sandbox), schemas.Sandbox, schemas.ChangeSandbox(sleep_after=seconds))


def hibernate(sandbox: str) -> Call[schemas.Sandbox]:
    """Put a sandbox to sleep."""
    return Call("POST", _sandbox(sandbox, "/hibernate"), schemas.Sandbox, timeout_s=WAKE_TIMEOUT_S)


def wake(sandbox: str) -> Call[schemas.Sandbox]:
    """Wake a sandbox."""
    return Call("POST", _sandbox(sandbox, "/wake"), schemas.Sandbox, timeout_s=WAKE_TIMEOUT_S)


def stop(sandbox: str) -> Call[schemas.Closed]:
    """Stop a sandbox for good."""
    return Call("POST", _sandbox(sandbox, "/stop"), schemas.Closed, timeout_s=CUT_TIMEOUT_S)


def destroy(sandbox: str) -> Call[schemas.Destroyed]:
    """Destroy a sandbox."""
    return Call("DELETE", _sandbox(sandbox), schemas.Destroyed, timeout_s=CUT_TIMEOUT_S)


def history(sandbox: str, at: float | None) -> Call[schemas.History]:
    """Ask for a sandbox's log."""
    return Call("GET", _sandbox(sandbox, "/history"), schemas.History, query=_at(at))


def _at(at: float | None) -> tuple[tuple[str, str], ...]:
    return () if at is None else (("at", repr(float(at))),)


# Ports.


def expose_port(
    sandbox: str,
    port: int,
    hostname: str | None,
    name: str | None,
    token: str | None,
    host_header: HostHeader | str | None,
    wake_on_websocket: bool | None,
) -> Call[schemas.Port]:
    """Give a port a preview URL."""
    body = schemas.ExposePort(
        name=name,
        token=token,
        host_header=None if host_header is None else HostHeader(host_header).value,
        domain=hostname,
        wake_on_websocket=wake_on_websocket,
    )
    return Call("PUT", _port(sandbox, port), schemas.Port, body)


def unexpose_port(sandbox: str, port: int, drain: float) -> Call[schemas.Closed]:
    """Take a port's URL back."""
    query = (("drain", repr(float(drain))),) if drain else ()
    return Call("DELETE", _port(sandbox, port), schemas.Closed, query=query, timeout_s=CUT_TIMEOUT_S + drain)


def list_ports(sandbox: str) -> Call[schemas.PortList]:
    """Ask for the exposed ports."""
    return Call("GET", _sandbox(sandbox, "/ports"), schemas.PortList)


def share(
    sandbox: str, port: int, expires_in: float, once: bool, custom_hostname: str | None = None
) -> Call[schemas.Share]:
    """Ask for a link to give away."""
    body = schemas.CreateShare(expires_in=expires_in, once=once, custom_hostname=custom_hostname)
    return Call("POST", _port(sandbox, port, "/shares"), schemas.Share, body)


def list_shares(sandbox: str, port: int | None) -> Call[schemas.ShareList]:
    """Ask for the links of a port, or of all."""
    path = _sandbox(sandbox, "/shares") if port is None else _port(sandbox, port, "/shares")
    return Call("GET", path, schemas.ShareList)


def revoke_share(sandbox: str, share_id: str) -> Call[schemas.Closed]:
    """Take a link back."""
    return Call("DELETE", _sandbox(sandbox, f"/shares/{segment(share_id)}"), schemas.Closed, timeout_s=CUT_TIMEOUT_S)


class PreviewURL(Discreet, frozen=True, kw_only=True, rename={"sandbox": "sandboxId", "created_at": "createdAt"}):
    """A port's preview, as the calls in OpenComputer's shape show it."""

    id: str
    sandbox: str
    port: int
    hostname: str
    """The built-in one where that leads there. Else the token is in it, and it is a secret."""
    created_at: str


class CreatePreviewURL(Discreet, frozen=True, kw_only=True):
    """What that asks for."""

    port: int
    domain: str | UnsetType = UNSET


def create_preview_url(sandbox: str, port: int, domain: str | None) -> Call[PreviewURL]:
    """Record that a port's preview is wanted."""
    body = CreatePreviewURL(port=int(Port(port)), domain=UNSET if domain is None else domain)
    return Call("POST", f"/api/sandboxes/{SandboxId(sandbox)}/preview", PreviewURL, body)


def list_preview_urls(sandbox: str) -> Call[list[PreviewURL]]:
    """Ask for the previews of a sandbox."""
    return Call("GET", f"/api/sandboxes/{SandboxId(sandbox)}/preview", list[PreviewURL])


def delete_preview_url(sandbox: str, port: int) -> Call[None]:
    """Forget a port's preview."""
    path = f"/api/sandboxes/{SandboxId(sandbox)}/preview/{Port(port):d}"
    return Call("DELETE", path, type(None), timeout_s=CUT_TIMEOUT_S)


# Custom hostnames.


def _domain(hostname: str, rest: str = "") -> str:
    return f"/v1/domains/{CustomHostname(hostname)}{rest}"


def bind_domain(sandbox: str, hostname: str, port: int) -> Call[schemas.CustomDomain]:
    """Ask for a hostname."""
    body = schemas.BindDomain(sandbox=str(SandboxId(sandbox)), port=int(Port(port)))
    return Call("PUT", _domain(hostname), schemas.CustomDomain, body)


def verify_domain(sandbox: str, hostname: str) -> Call[schemas.CustomDomain]:
    """Have the server look whether the challenge is answered."""
    query = (("sandbox", str(SandboxId(sandbox))),)
    return Call("POST", _domain(hostname, "/verify"), schemas.CustomDomain, query=query, timeout_s=LOOK_TIMEOUT_S)


def unbind_domain(sandbox: str, hostname: str) -> Call[schemas.Closed]:
    """Give a hostname back."""
    query = (("sandbox", str(SandboxId(sandbox))),)
    return Call("DELETE", _domain(hostname), schemas.Closed, query=query, timeout_s=CUT_TIMEOUT_S)


def list_domains(sandbox: str | None, after: str | None) -> Call[schemas.CustomDomainList]:
    """Ask for a page of hostnames."""
    query = [("limit", str(PAGE))]
    if sandbox is not None:
        query.append(("sandbox", str(SandboxId(sandbox))))
    if after is not None:
        query.append(("after", after))
    return Call("GET", "/v1/domains", schemas.CustomDomainList, query=tuple(query))


# The gate.


def set_preview_auth(sandbox: str, token: str | None) -> Call[schemas.PreviewAuth]:
    """Set a preview token."""
    body = schemas.SetPreviewAuth(token="auto" if token is None else token)
    return Call("PUT", _sandbox(sandbox, "/preview-auth"), schemas.PreviewAuth, body, timeout_s=CUT_TIMEOUT_S)


def rotate_preview_auth(sandbox: str, grace: float, token: str | None) -> Call[schemas.RotatedPreviewAuth]:
    """Replace the preview token."""
    body = schemas.RotatePreviewAuth(grace=grace, token="auto" if token is None else token)
    path = _sandbox(sandbox, "/preview-auth/rotate")
    return Call("POST", path, schemas.RotatedPreviewAuth, body, timeout_s=CUT_TIMEOUT_S)


# Processes.


def start_process(
    sandbox: str,
    command: str | Sequence[str],
    cwd: str | None,
    env: Mapping[str, str] | None,
    process: str | None,
    restart: RestartPolicy | str,
) -> Call[schemas.Process]:
    """Start a service."""
    body = schemas.StartProcess(
        command=_command(command),
        cwd=cwd,
        env=dict(env or {}),
        id=process,
        restart=RestartPolicy(restart).value,
    )
    path = _sandbox(sandbox, "/processes")
    return Call("POST", path, schemas.Process, body, timeout_s=WAKE_TIMEOUT_S)


def list_processes(sandbox: str) -> Call[schemas.ProcessList]:
    """Ask for the processes of the current run."""
    return Call("GET", _sandbox(sandbox, "/processes"), schemas.ProcessList)


def show_process(sandbox: str, process: str) -> Call[schemas.Process]:
    """Ask how a process is."""
    return Call("GET", _process(sandbox, process), schemas.Process)


def kill(sandbox: str, process: str, signal: int) -> Call[schemas.Process]:
    """Send a signal to a process."""
    return Call("POST", _process(sandbox, process, "/kill"), schemas.Process, schemas.Kill(signal=signal))


def logs(sandbox: str, process: str, follow: bool) -> Call[bytes]:
    """Ask for what a process has printed; with `follow`, for what it goes on to print until it exits, too."""
    query = (("follow", "true"),) if follow else ()
    return Call("GET", _process(sandbox, process, "/logs"), bytes, query=query)


def wait_for_port(sandbox: str, process: str, port: int, timeout_s: float) -> Call[schemas.Process]:
    """Wait until a process listens."""
    body = schemas.WaitForPort(port=int(Port(port)), timeout=timeout_s)
    path = _process(sandbox, process, "/wait-for-port")
    return Call("POST", path, schemas.Process, body, timeout_s=timeout_s + SLACK_S)


def run_exec(
    sandbox: str,
    command: str | Sequence[str],
    cwd: str | None,
    env: Mapping[str, str] | None,
    timeout_s: float,
) -> Call[schemas.ExecResult]:
    """Run a command to its end."""
    body = schemas.Exec(command=_command(command), cwd=cwd, env=dict(env or {}), timeout=timeout_s)
    path = _sandbox(sandbox, "/exec")
    return Call("POST", path, schemas.ExecResult, body, timeout_s=timeout_s + WAKE_TIMEOUT_S)


def _command(command: str | Sequence[str]) -> str | list[str]:
    return command if isinstance(command, str) else list(command)


# The server.


def explain(url: str, at: float | None) -> Call[schemas.Explanation]:
    """Ask why a URL gets the answer it gets."""
    return Call("GET", "/v1/explain", schemas.Explanation, query=(("url", url), *_at(at)))


def create_key(name: str, scope: str) -> Call[schemas.NewKey]:
    """Ask for an API key."""
    return Call("POST", "/v1/keys", schemas.NewKey, schemas.CreateKey(name=name, scope=scope))


def list_keys() -> Call[schemas.KeyList]:
    """Ask for the API keys."""
    return Call("GET", "/v1/keys", schemas.KeyList)


def revoke_key(key_id: str) -> Call[None]:
    """Revoke an API key."""
    return Call("DELETE", f"/v1/keys/{segment(key_id)}", type(None))


def health() -> Call[schemas.Health]:
    """Ask whether the server is there."""
    return Call("GET", "/healthz", schemas.Health)
