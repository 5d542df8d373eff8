"""`Sandbox`: what owners hold. A name and a runtime; nothing in it can go stale.

Each call finds the actor anew, so a handle may be kept for as long as one likes: across sleep, breakage, and
the actor's leaving memory.
"""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from actors.containers.base import (
    ExecResult,
    ProcessOptions,
    RestartPolicy,
    Run,
)
from actors.errors import ProcessNotFoundError, RevocationIncompleteError, SandboxNotFoundError
from actors.previews import PreviewURL, preview_domain, preview_of, previews_of, public_address
from actors.processes import Process
from actors.sandbox.decide import (
    DestroySandbox,
    ExposePort,
    Hibernate,
    RotatePreviewAuth,
    SetPreviewAuth,
    SetSleepAfter,
    StopSandbox,
    UnexposePort,
    check_exposable,
)
from actors.sandbox.domains import CustomHostname, DomainBinding
from actors.sandbox.events import HostHeader
from actors.sandbox.ids import PORT_TOKEN_BYTES, PREVIEW_TOKEN_BYTES, Port, PortToken, PreviewToken, SandboxId
from actors.sandbox.state import Exposure, SandboxState
from actors.sandbox.urls import BUILT_IN_PREFIX, Domain, PublicAddress, preview_url
from actors.shares import Share, create_hostname_share, create_share, revoke_share, shares_of

if TYPE_CHECKING:
    # The runtime makes handles, so this arrow may exist for the type checker only.
    from actors.runtime import Runtime


class PortStatus(StrEnum):
    """What a visit to an exposed port would meet."""

    ACTIVE = "active"
    """The container is up."""
    ASLEEP = "asleep"


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """An exposed port as it was when asked. Equal if the port, token, name and status are."""

    port: int
    name: str | None
    status: PortStatus
    token: str = field(repr=False)
    """The secret in the URL; left out of `repr`, as is the URL."""
    _sandbox: SandboxId = field(repr=False)
    _domain: Domain | None = field(repr=False, compare=False)
    _runtime: "Runtime" = field(repr=False, compare=False)

    @property
    def url(self) -> str:
        """The preview URL, on the hostname that was asked for or on the server's first domain.

        Raises:
            RuntimeError: No hostname was given and no server listens yet.
        """
        public = self._runtime.public_address
        if self._domain is not None:
            public = PublicAddress(self._domain, public.listener_port if public is not None else None)
        if public is None:
            raise RuntimeError("no domain to build the URL on: pass hostname=, or ask again once a Server listens")
        return preview_url(public, self._sandbox, self.port, PortToken(self.token))

    @property
    def exposed_at(self) -> str:
        """The URL again, under the name that the reference gives it."""
        return self.url


class IssuedToken(PreviewToken):
    """A preview token as it is handed to its owner, this once."""

    __slots__ = ("closed",)

    def __init__(self, token: PreviewToken, closed: int) -> None:
        super().__init__(token.reveal())
        self.closed: Final = closed
        """How many live visits its coming into force has cut; all of them have ended."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PreviewToken) and self.matches(other.reveal())

    def __hash__(self) -> int:
        return hash(PreviewToken(self.reveal()))


class Sandbox:
    """A sandbox, by name. Made by `Runtime.get_sandbox`."""

    __slots__ = ("_runtime", "id")

    def __init__(self, sandbox: SandboxId, runtime: "Runtime") -> None:
        self.id: Final = sandbox
        self._runtime = runtime

    def __repr__(self) -> str:
        return f"Sandbox({self.id})"

    # Ports.

    async def expose_port(
        self,
        port: int,
        *,
        hostname: str | None = None,
        name: str | None = None,
        token: str | None = None,
        host_header: HostHeader | str | None = None,
        wake_on_websocket: bool | None = None,
    ) -> ExposedPort:
        """Give a port a preview URL; again without a token: the same URL, with another token: another one.

        Args:
            port: 1024 to 65535, not reserved.
            hostname: The base domain for the URL; None: the server's first.
            name: A label for people.
            token: 1 to 16 of ``a-z0-9_``; None mints one of 82 bits.
            host_header: ``"localhost"`` (default) or ``"preserve"``: which Host the service sees.
            wake_on_websocket: Whether a WebSocket handshake wakes a sandbox that was put to sleep. By default it does
                not: a page that was left open reconnects for ever, and would keep it up for nobody.

        Raises:
            SecurityError: The port is out of range or reserved, or the token is another port's.
            InvalidNameError, CustomDomainRequiredError: Before anything is stored.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
        """
        domain = Domain(hostname) if hostname is not None else None
        command = ExposePort(
            port,
            minted=PortToken.mint(secrets.token_bytes(PORT_TOKEN_BYTES)),
            token=PortToken(token) if token is not None else None,
            name=name,
            host_header=HostHeader(host_header) if host_header is not None else None,
            wake_on_websocket=wake_on_websocket,
        )
        done = await self._runtime.call(self.id, command)
        assert done.state is not None
        return self._exposed(done.state, done.state.ports[Port(port)], domain)

    async def unexpose_port(self, port: int, *, drain: float = 0.0) -> int:
        """Take a port's URL back; return how many live visits that cut.

        Returns once new visits are refused and the live ones of that port have ended: at once, or after at
        most `drain` seconds. A port that is not exposed is left as it is.

        Raises:
            RevocationIncompleteError: Some visits were told to end and have not.
            RetryableError: Nothing is known to have changed: call again.
        """
        _check_seconds("drain", drain)
        return (await self._runtime.call(self.id, UnexposePort(port), drain=drain)).cut

    async def get_exposed_ports(self, hostname: str | None = None) -> list[ExposedPort]:
        """Return the exposed ports, by number."""
        domain = Domain(hostname) if hostname is not None else None
        state = await self._state()
        return [self._exposed(state, state.ports[port], domain) for port in sorted(state.ports)]

    async def is_port_exposed(self, port: int) -> bool:
        """Say whether a port has a preview URL; False for what is not a port at all."""
        return _is_number(port) and port in (await self._state()).ports

    async def validate_port_token(self, port: int, token: str | bytes) -> bool:
        """Say whether `token` is the port's, in constant time."""
        if not _is_number(port):
            return False
        exposure = (await self._state()).ports.get(port)  # type: ignore[call-overload] # a Port equals its number
        return exposure is not None and exposure.token.matches(token)

    # Preview URLs, in the shape of OpenComputer's API.

    @property
    def domain(self) -> str:
        """The built-in hostname of port 80; see `get_preview_domain`."""
        return self.get_preview_domain(80)

    def get_preview_domain(self, port: int, domain: str | None = None) -> str:
        """Return the built-in hostname of a port, worked out without a call. It leads there if the ports are open.

        Raises:
            InvalidNameError: That is no port, or the id of this sandbox does not begin with ``sb-``.
            RuntimeError: No domain was given and no server listens yet.
        """
        return preview_domain(self.id, port, public_address(self._runtime, _domain(domain)))

    async def create_preview_url(self, port: int, domain: str | None = None) -> PreviewURL:
        """Give a port a preview; one that has it already keeps it.

        Args:
            port: 1 to 65535; of a sandbox whose ports are not open, one that `expose_port` takes.
            domain: The base domain; None: the server's first.

        Raises: as `expose_port`, and RuntimeError if no domain was given and no server listens yet.
        """
        public = public_address(self._runtime, _domain(domain))
        port = Port(port)
        built_in = self.id.startswith(BUILT_IN_PREFIX)
        minted = PortToken.mint(secrets.token_bytes(PORT_TOKEN_BYTES))
        done = await self._runtime.call(self.id, ExposePort(port, minted=minted, any_port=built_in))
        assert done.state is not None
        return preview_of(done.state, done.state.ports[port], public)

    async def list_preview_urls(self, domain: str | None = None) -> list[PreviewURL]:
        """Return the previews, by port."""
        return previews_of(await self._state(), public_address(self._runtime, _domain(domain)))

    async def delete_preview_url(self, port: int) -> bool:
        """Forget a port's preview; False if it had none. Where ports are not open, its visits are cut first."""
        had_one = await self.is_port_exposed(port)
        await self.unexpose_port(port)
        return had_one

    # Processes.

    async def start_process(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the published name
        restart: RestartPolicy | str = RestartPolicy.NEVER,
    ) -> Process:
        """Start a service in the sandbox, bringing its container up first if need be.

        Args:
            command: Text for ``/bin/sh -c``, or a sequence to execute as it is.
            cwd: None: the sandbox's own workspace.
            env: Added to a small environment of the container's own.
            id: None: one is made up.
            restart: ``"never"`` (default), ``"on-failure"`` or ``"always"``: what happens when it exits by itself. The
                pauses grow from a tenth of a second to a minute.

        It is started again when the sandbox wakes, unless it has exited by itself (with any code, and is not to be
        started again by `restart`) or was told to end by `Process.kill`.
        Asked for once more after a wake, the one that was brought back is returned; so a program may provision its
        sandbox each time it starts. Of what was started under the same id otherwise, the new takes the place.

        Raises:
            UnsupportedError: This kind of container runs no processes.
            ContainerError: It could not be started.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
        """
        async with self.running() as run:
            return Process(
                await run.start_process(ProcessOptions(command, cwd, env or {}, id, RestartPolicy(restart))), run
            )

    async def list_processes(self) -> list[Process]:
        """Return the processes of the current run, exited ones included. Wakes nothing.

        While the sandbox sleeps there are those that sleep with it, frozen, and otherwise none.
        """
        await self._state()
        run = self._runtime.live_run(self.id) or self._runtime.sleeping_run(self.id)
        return [] if run is None else [Process(process, run) for process in run.processes()]

    async def get_process(self, id: str) -> Process:  # noqa: A002 - the published name
        """Return the process of that id; ProcessNotFoundError if the current run has none."""
        for process in await self.list_processes():
            if process.id == id:
                return process
        raise ProcessNotFoundError(f"sandbox {self.id} has no process {id!r}")

    async def exec(
        self, command: str | Sequence[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None
    ) -> ExecResult:
        """Run a command to its end. Cancelling this kills it.

        Raises: as `start_process`.
        """
        async with self.running() as run:
            return await run.exec(ProcessOptions(command, cwd, env or {}))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Run]:
        """Keep the container up for the length of the block, brought up first if need be.

        For the owner's own code: no token is asked for. `run.dial(port)` connects to a service.

        Raises:
            ContainerStartError: It did not come up.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
        """
        lease = await self._runtime.actor(self.id).lease_run()
        try:
            yield lease.run
        finally:
            lease.release()

    def check_port(self, port: int) -> Port:
        """Return `port` if it may be exposed.

        Raises:
            SecurityError: It is out of range or reserved.
        """
        refusal = check_exposable(port, self._runtime.rules)
        if refusal is not None:
            raise refusal.to_error()
        return Port(port)

    # The gate.

    async def set_preview_auth(self, token: str | None = None) -> "IssuedToken":
        """Ask every visit for a bearer token from now on; live visits are cut. Return the token, this once.

        After an `ActorBrokenError` nobody knows whether a minted token is in force, nor can it be told again: call
        once more.

        Args:
            token: One's own, 16 visible ASCII characters or more; None mints one of 256 bits.

        Raises:
            RevocationIncompleteError: The token is in force, and is the error's `token`; some visits have not ended.
        """
        secret = _preview_token(token)
        return await self._issue(secret, SetPreviewAuth(secret.digest()))

    async def rotate_preview_auth(self, *, grace: float = 0.0, token: str | None = None) -> "IssuedToken":
        """Replace the bearer token and return the new one, this once.

        The old one stops at once, with the browsers that signed in by it, and its visits are cut before this returns;
        or after `grace` seconds. Shares stand: revoke them by name. After an `ActorBrokenError` nobody
        knows which token is in force, and a minted one is lost: rotate once more.

        Raises:
            InvalidNameError: There is no gate, or the token is too weak.
            RevocationIncompleteError: As `set_preview_auth`.
        """
        _check_seconds("grace", grace)
        secret = _preview_token(token)
        return await self._issue(secret, RotatePreviewAuth(secret.digest(), grace))

    async def _issue(self, secret: PreviewToken, command: SetPreviewAuth | RotatePreviewAuth) -> "IssuedToken":
        try:
            done = await self._runtime.call(self.id, command)
        except RevocationIncompleteError as error:
            # What is durable has an owner, who would be locked out without it.
            error.token = secret
            raise
        return IssuedToken(secret, done.cut)

    # Shares.

    async def share(
        self,
        port: int,
        *,
        expires_in: float,
        once: bool = False,
        hostname: str | None = None,
        custom_hostname: str | None = None,
    ) -> Share:
        """Make a link that opens an exposed port, past any gate, for whoever holds it, until it ends.

        It ends after `expires_in` seconds, with `revoke_share`, or with the port's URL; live visits that came by it are
        cut then. It has a hostname of its own and gives neither the port's URL nor the bearer token away; or it is for
        a custom hostname, opens nothing else, and ends with its binding too: when that is given back, led to another
        port, or taken over.

        Args:
            port: An exposed one; any, if the sandbox's ports are open.
            expires_in: More than 0, at most a year.
            once: Whether it opens one session (a browser, or a client that keeps cookies) and no more. That session
                goes on until the share ends.
            hostname: The base domain for the link; None: the server's first.
            custom_hostname: A hostname of this sandbox that leads to that port and is verified. The sandbox must have
                preview auth: without, the hostname is open to everybody.

        Raises:
            InvalidNameError: The port is not exposed, or the time is out of range; or the custom hostname leads to
                another port, or is open to everybody.
            DomainNotFoundError, DomainNotVerifiedError: The custom hostname does not lead here, or not yet.
            SecurityError: The port is out of range, or too many shares stand.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
            RuntimeError: No hostname was given and no server listens yet.
        """
        if custom_hostname is not None:
            if hostname is not None:
                raise ValueError("hostname is a base domain, custom_hostname is a whole name: pass one of them")
            name = CustomHostname(custom_hostname)
            return await create_hostname_share(
                self._runtime, self.id, port, expires_in=expires_in, once=once, hostname=name
            )
        domain = Domain(hostname) if hostname is not None else None
        return await create_share(self._runtime, self.id, port, expires_in=expires_in, once=once, domain=domain)

    async def list_shares(self, port: int | None = None) -> list[Share]:
        """Return the shares that stand, of all ports or of one, the oldest first; without their links."""
        return shares_of(self._runtime, await self._state(), port)

    async def revoke_share(self, id: str) -> int:  # noqa: A002 - the published name
        """Take a share back; return how many live visits that cut. One that is not there is left as it is.

        Returns once new visits by it are refused and the live ones have ended.

        Raises:
            RevocationIncompleteError: Some visits were told to end and have not.
            RetryableError: Nothing is known to have changed: call again.
        """
        return await revoke_share(self._runtime, self.id, id)

    # Sleep.

    async def hibernate(self) -> int:
        """Put the sandbox to sleep now; return how many live visits that cut.

        Returns once its run is over: requests and WebSockets are closed, its services stopped, frozen or told, as its
        container does it. The next right request wakes it again, or with the policy ``stale`` only `wake`. One that is
        asleep is left as it is. So is one whose run has ended by itself, except that nothing brings it back by itself
        any more: as it was not put to sleep, a WebSocket handshake wakes it too.

        Raises:
            RevocationIncompleteError: It sleeps, but some visits were told to end and have not.
            ContainerError: It sleeps, but its container could not do all of it; the text says what.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
        """
        return (await self._runtime.call(self.id, Hibernate())).cut

    async def wake(self) -> None:
        """Bring the sandbox up, whatever its policy; return once it is. One that is up is left as it is.

        Raises:
            ContainerStartError: It did not come up.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
        """
        async with self.running():
            pass

    async def set_sleep_after(self, seconds: float | None) -> None:
        """Have it go to sleep after so many seconds without use from now on; None: never.

        In use is a sandbox while any visit lasts (each byte of a stream counts as part of one) and while a call like
        `exec` or a `running` block uses it. A service that runs and is not visited does not keep it up.

        Raises:
            InvalidNameError: It is less than a second, or no number.
            SandboxNotFoundError, SandboxStoppedError, RetryableError.
        """
        await self._runtime.call(self.id, SetSleepAfter(seconds))

    # The end.

    async def stop(self) -> int:
        """Stop the sandbox for good; its URLs answer 410 from now on. Return how many visits that cut."""
        return (await self._runtime.call(self.id, StopSandbox())).cut

    async def bind_domain(self, hostname: str, port: int) -> DomainBinding:
        """Ask for a custom hostname, ``preview.my-app.com``, that shall lead to a port of this sandbox.

        It serves once its owner has published what the `challenge` of the answer says, in the DNS or on the site, and
        `proxy.domains` has seen it there; and while the port is exposed: that, and preview auth if there is any,
        is what opens, as there is no token in such a name. Asked again with another port, it leads there at once.

        Raises:
            InvalidNameError: That is no hostname.
            SecurityError: Not a port that may be exposed, or the hostname is under a base domain, or one too many.
            SandboxNotFoundError: There is no such sandbox.
            StoreError: It is not known whether it is on disk: ask again.
        """
        return await self._runtime.bind_domain(self.id, hostname, port)

    async def unbind_domain(self, hostname: str) -> int:
        """Give a custom hostname back; return how many live streams were cut. Idempotent.

        Raises:
            RevocationIncompleteError: It is given back, but some streams did not end in time.
            StoreError: It is not known whether it is on disk: ask again.
        """
        return await self._runtime.domains.unbind(hostname, self.id)

    def get_domains(self) -> Sequence[DomainBinding]:
        """Return the custom hostnames that this sandbox has asked for, by name, verified or not."""
        return self._runtime.domains.bindings(self.id)

    async def destroy(self) -> int:
        """Forget ports and tokens, cut every visit, then remove the container. Return how many visits were cut.

        A sandbox that does not exist (any more) is left as it is.

        Raises:
            RevocationIncompleteError: It is gone, but some visits were told to end and have not.
            ContainerError: It is destroyed, but its container could not be removed: call again.
            RetryableError: Nothing is known to have changed: call again.
        """
        try:
            return (await self._runtime.call(self.id, DestroySandbox())).cut
        except SandboxNotFoundError:
            return 0

    async def state(self) -> SandboxState:
        """Return the durable state; SandboxNotFoundError if there is no such sandbox (any more)."""
        return await self._state()

    async def _state(self) -> SandboxState:
        actor = self._runtime.actor(self.id)
        state = await actor.look()
        if state is None:
            raise SandboxNotFoundError(f"there is no sandbox {self.id}")
        return state

    def _exposed(self, state: SandboxState, exposure: Exposure, domain: Domain | None) -> ExposedPort:
        status = PortStatus.ACTIVE if state.run_id is not None else PortStatus.ASLEEP
        return ExposedPort(
            int(exposure.port), exposure.name, status, exposure.token.reveal(), self.id, domain, self._runtime
        )


def _domain(text: str | None) -> Domain | None:
    return Domain(text) if text is not None else None


def _is_number(port: object) -> bool:
    # True is 1 to a mapping, and 8080.0 is 8080; to people they are mistakes.
    return isinstance(port, int) and not isinstance(port, bool)


def _check_seconds(name: str, seconds: float) -> None:
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{name} is a number of seconds, zero or more")


def _preview_token(token: str | None) -> PreviewToken:
    return PreviewToken.mint(secrets.token_bytes(PREVIEW_TOKEN_BYTES)) if token is None else PreviewToken(token)
