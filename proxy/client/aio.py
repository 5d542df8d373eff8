"""The client for async code, on trio and on asyncio alike (by way of anyio).

The names, arguments and exceptions are those of the embedding API (`actors.Runtime`, `actors.Sandbox`,
`actors.Process`), so that code moves between the two. What differs: answers are the API's structs
(`proxy.api.schemas`), a snapshot of the moment; `exec` gives text; `rotate_preview_auth` gives a struct with the token;
some calls that HTTP brings along are new.

`sync` is this module without its ``async``: tests/proxy/client/unasync.py writes it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx2
from anyio import sleep
from msgspec import UNSET, UnsetType

from actors import (
    AsleepPolicy,
    ContainerSpec,
    HostHeader,
    RestartPolicy,
    SandboxNotFoundError,
    ShareNotFoundError,
)
from proxy.api import schemas
from proxy.client import calls
from proxy.client.calls import Call
from proxy.client.common import (
    NOT_FOUND,
    POLL_FIRST_S,
    POLL_MAX_S,
    Address,
    describe,
    find_address,
    no_answer,
    token_fits,
    too_large,
    transport_options,
)
from proxy.client.dialogue import ANSWER_BYTES_MAX, AskAgain, Dialogue
from proxy.client.errors import APIError, error_of, read_problem

T = TypeVar("T")


class AsyncClient:
    """A server's management API. Use it by ``async with``, or call `aclose`."""

    def __init__(self, server: str | None = None, *, api_key: str | None = None) -> None:
        """Connect to nothing yet.

        Args:
            server: Its URL, such as ``http://localhost:8787``; None: ``PORTICO_SERVER``.
            api_key: None: ``PORTICO_API_KEY``.

        Raises:
            ValueError: One of them is missing, or cannot be one. No text holds the key.
        """
        self._address: Final[Address] = find_address(server, api_key)
        self._http: Final = httpx2.AsyncClient(**transport_options(self._address))

    def __repr__(self) -> str:
        return f"AsyncClient({self._address.server!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Send a call, again where that is safe and may help, and return its answer.

        Raises:
            PorticoError: As the embedding API would; see `proxy.client.errors`.
        """
        dialogue = Dialogue(call)
        while True:
            request = self._request(dialogue)
            try:
                response = await self._http.send(request, stream=True)
                try:
                    content = await _read(response)
                finally:
                    await response.aclose()
            except httpx2.TransportError as error:
                again = dialogue.failed(describe(error), timed_out=isinstance(error, httpx2.ReadTimeout))
            else:
                outcome = dialogue.answered(response.status_code, response.headers.get("Retry-After"), content)
                if not isinstance(outcome, AskAgain):
                    return outcome.answer
                again = outcome
            await sleep(again.pause_s)

    @asynccontextmanager
    async def stream(self, call: Call[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a call whose answer is read piece by piece, as it comes, for as long as it comes.

        Raises:
            PorticoError: It was refused.
            ServerUnreachableError: There is no answer, or, out of the iterator, it broke off.
        """
        dialogue = Dialogue(call)
        try:
            request = self._request(dialogue, follow=True)
            response = await self._http.send(request, stream=True)
        except httpx2.TransportError as error:
            raise no_answer(describe(error)) from None
        try:
            if not response.is_success:
                raise error_of(response.status_code, read_problem(await _read(response)))
            async with aclosing(_pieces(response)) as pieces:
                yield pieces
        except httpx2.TransportError as error:
            raise no_answer(f"it broke off: {describe(error)}") from None
        finally:
            await response.aclose()

    def _request(self, dialogue: Dialogue[T], *, follow: bool = False) -> httpx2.Request:
        return self._http.build_request(
            dialogue.method,
            dialogue.target,
            headers=dialogue.headers,
            content=dialogue.content or None,
            timeout=self._address.timeout(dialogue.call.timeout_s, follow=follow),
        )

    # Sandboxes.

    async def get_sandbox(
        self,
        sandbox: str | None = None,
        *,
        container: str | ContainerSpec | None = None,
        open_ports: bool | None = None,
        when_asleep: AsleepPolicy | str | None = None,
        sleep_after: float | UnsetType | None = UNSET,
        preview_auth: str | None = None,
    ) -> "AsyncSandbox":
        """Return the sandbox of that name, made first if there is none; see `actors.Runtime.get_sandbox`.

        Args:
            sandbox: Its id; None: one is made up.
            container: A kind, or a spec with options.
            open_ports: Whether ``sb-…-p8080`` hostnames reach every port without a token.
            when_asleep: ``"wake"`` or ``"stale"``.
            sleep_after: Idle seconds until it sleeps; None: never; left out: as it is, or the server's default.
            preview_auth: A preview token of one's own, or ``"auto"`` to have one minted: the handle's
                `preview_auth_token` then holds it, this once.

        Raises:
            InvalidNameError, SandboxMismatchError, InvalidRequestError, RetryableError.
        """
        call = calls.create_sandbox(sandbox, container, open_ports, when_asleep, sleep_after, preview_auth)
        made = await self.send(call)
        return AsyncSandbox(self, made.id, made.preview_auth_token)

    async def find_sandbox(self, sandbox: str) -> "AsyncSandbox":
        """Return the sandbox of that name; SandboxNotFoundError if there is none."""
        return AsyncSandbox(self, (await self.send(calls.show_sandbox(sandbox))).id)

    async def list_sandboxes(self) -> list[schemas.Sandbox]:
        """Return all sandboxes that the key may see, by id. Asks page by page."""
        found: list[schemas.Sandbox] = []
        after: str | None = None
        while True:
            page = await self.send(calls.list_sandboxes(after))
            found += page.sandboxes
            if page.next is None:
                return found
            after = page.next

    async def list_domains(self, sandbox: str | None = None) -> list[schemas.CustomDomain]:
        """Return the custom hostnames that were asked for, by one sandbox or by all that the key may see, by name."""
        found: list[schemas.CustomDomain] = []
        after: str | None = None
        while True:
            page = await self.send(calls.list_domains(sandbox, after))
            found += page.domains
            if page.next is None:
                return found
            after = page.next

    # The server.

    async def explain(self, url: str, *, at: float | None = None) -> schemas.Explanation:
        """Return why a preview URL gets the answer it gets: now, or `at` a past time in seconds since 1970."""
        return await self.send(calls.explain(url, at))

    async def create_key(self, name: str, scope: str) -> schemas.NewKey:
        """Make an API key and return it, this once. `scope` is ``admin``, ``read`` or ``sandbox:ID``."""
        return await self.send(calls.create_key(name, scope))

    async def list_keys(self) -> list[schemas.Key]:
        """Return the API keys in force, without their secrets."""
        return (await self.send(calls.list_keys())).keys

    async def revoke_key(self, key_id: str) -> None:
        """Revoke an API key, by its id."""
        await self.send(calls.revoke_key(key_id))

    async def health(self) -> schemas.Health:
        """Return how the server is; no key is asked for."""
        return await self.send(calls.health())


class AsyncSandbox:
    """A sandbox, by name; see `actors.Sandbox`. Nothing in it can go stale. Made by `AsyncClient`."""

    def __init__(self, client: AsyncClient, sandbox: str, preview_auth_token: str | None = None) -> None:
        self._client = client
        self.id: Final = sandbox
        self.preview_auth_token: Final = preview_auth_token
        """The token that was minted as it was made; None in every other handle. Left out of `repr`."""

    def __repr__(self) -> str:
        return f"AsyncSandbox({self.id})"

    async def state(self) -> schemas.Sandbox:
        """Return the sandbox as it is now; SandboxNotFoundError if there is none (any more)."""
        return await self._client.send(calls.show_sandbox(self.id))

    async def history(self, *, at: float | None = None) -> list[schemas.Moment]:
        """Return its log, secrets masked, oldest first; up to `at`, in seconds since 1970."""
        return (await self._client.send(calls.history(self.id, at))).events

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
    ) -> schemas.Port:
        """Give a port a preview URL; again without a token: the same URL, with another token: another one.

        Raises: as `actors.Sandbox.expose_port`.
        """
        return await self._client.send(
            calls.expose_port(self.id, port, hostname, name, token, host_header, wake_on_websocket)
        )

    async def unexpose_port(self, port: int, *, drain: float = 0.0) -> int:
        """Take a port's URL back; return, once they have ended, how many live visits that cut."""
        return (await self._client.send(calls.unexpose_port(self.id, port, drain))).closed

    async def get_exposed_ports(self) -> list[schemas.Port]:
        """Return the exposed ports, by number."""
        return (await self._client.send(calls.list_ports(self.id))).ports

    async def is_port_exposed(self, port: int) -> bool:
        """Say whether a port has a preview URL; False for what is not a port at all."""
        # True is 1, and no port.
        return not isinstance(port, bool) and port in [found.port for found in await self.get_exposed_ports()]

    async def validate_port_token(self, port: int, token: str) -> bool:
        """Say whether `token` is the port's, in constant time. A key that may only look is told no tokens: False."""
        return token_fits(await self.get_exposed_ports(), port, token)

    async def share(
        self, port: int, *, expires_in: float, once: bool = False, custom_hostname: str | None = None
    ) -> schemas.Share:
        """Return a link that opens a port for whoever holds it, for `expires_in` seconds; its URL is told this once.

        With `custom_hostname`, the link is on a hostname of the sandbox's that leads to that port.
        """
        return await self._client.send(calls.share(self.id, port, expires_in, once, custom_hostname))

    async def list_shares(self, port: int | None = None) -> list[schemas.Share]:
        """Return the links in force, of one port or of all."""
        return (await self._client.send(calls.list_shares(self.id, port))).shares

    async def revoke_share(self, id: str) -> int:  # noqa: A002 - the published name
        """Take a link back; return how many live visits that cut. One that is not there (any more) is no error."""
        try:
            return (await self._client.send(calls.revoke_share(self.id, id))).closed
        except ShareNotFoundError:
            return 0

    async def create_preview_url(self, port: int, domain: str | None = None) -> calls.PreviewURL:
        """Give a port a preview, any port of a sandbox with open ports; one that has it already keeps it."""
        return await self._client.send(calls.create_preview_url(self.id, port, domain))

    async def list_preview_urls(self) -> list[calls.PreviewURL]:
        """Return the previews, by port."""
        return await self._client.send(calls.list_preview_urls(self.id))

    async def delete_preview_url(self, port: int) -> bool:
        """Forget a port's preview; False if it had none. Where ports are not open, its visits are cut first."""
        try:
            await self._client.send(calls.delete_preview_url(self.id, port))
        except APIError as error:
            # "no preview URL for this port"; that there is no sandbox has a class of its own.
            if error.status == NOT_FOUND:
                return False
            raise
        return True

    # Custom hostnames.

    async def bind_domain(self, hostname: str, port: int) -> schemas.CustomDomain:
        """Ask for a custom hostname that shall lead to a port; again with another port: it leads there.

        Raises: as `actors.Sandbox.bind_domain`.
        """
        return await self._client.send(calls.bind_domain(self.id, hostname, port))

    async def verify_domain(self, hostname: str) -> schemas.CustomDomain:
        """Have the server look whether the hostname's challenge is answered; from then on it serves.

        Raises:
            DomainNotVerifiedError: It is not, or not yet.
            DomainNotFoundError: This sandbox has not asked for it.
            SecurityError: Another sandbox has it.
        """
        return await self._client.send(calls.verify_domain(self.id, hostname))

    async def unbind_domain(self, hostname: str) -> int:
        """Give a custom hostname back; return how many live streams were cut. Idempotent."""
        return (await self._client.send(calls.unbind_domain(self.id, hostname))).closed

    async def get_domains(self) -> list[schemas.CustomDomain]:
        """Return the custom hostnames that this sandbox has asked for, by name, verified or not."""
        return await self._client.list_domains(self.id)

    # The gate.

    async def set_preview_auth(self, token: str | None = None) -> schemas.PreviewAuth:
        """Ask every visit for a bearer token from now on; live visits are cut. The token is told this once.

        Raises:
            RevocationIncompleteError: The token is in force, and is the error's `token`; some visits have not ended.
        """
        return await self._client.send(calls.set_preview_auth(self.id, token))

    async def rotate_preview_auth(self, *, grace: float = 0.0, token: str | None = None) -> schemas.RotatedPreviewAuth:
        """Replace the bearer token; the old one stops at once, or after `grace` seconds. The new is told this once.

        Raises:
            RevocationIncompleteError: As `set_preview_auth`.
        """
        return await self._client.send(calls.rotate_preview_auth(self.id, grace, token))

    # Processes.

    async def start_process(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the published name
        restart: RestartPolicy | str = RestartPolicy.NEVER,
    ) -> "AsyncProcess":
        """Start a service in the sandbox, bringing its container up first if need be.

        `restart` is ``"never"``, ``"on-failure"`` or ``"always"``: what happens when it exits by itself.

        Raises: as `actors.Sandbox.start_process`.
        """
        return self._process(await self._client.send(calls.start_process(self.id, command, cwd, env, id, restart)))

    async def list_processes(self) -> list["AsyncProcess"]:
        """Return the processes of the current run, exited ones included; none while asleep. Wakes nothing."""
        return [self._process(info) for info in (await self._client.send(calls.list_processes(self.id))).processes]

    async def get_process(self, id: str) -> "AsyncProcess":  # noqa: A002 - the published name
        """Return the process of that id; ProcessNotFoundError if the current run has none."""
        return self._process(await self._client.send(calls.show_process(self.id, id)))

    async def exec(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109 - the server's, after which it kills the command
    ) -> schemas.ExecResult:
        """Run a command to its end; after `timeout` seconds the server kills it.

        Raises: as `start_process`; TooSlowError.
        """
        return await self._client.send(calls.run_exec(self.id, command, cwd, env, timeout))

    def _process(self, info: schemas.Process) -> "AsyncProcess":
        return AsyncProcess(self._client, self.id, info)

    # Sleep, and the end.

    async def hibernate(self) -> schemas.Sandbox:
        """Put it to sleep. Idempotent."""
        return await self._client.send(calls.hibernate(self.id))

    async def wake(self) -> schemas.Sandbox:
        """Wake it. Idempotent.

        Raises:
            ContainerStartError: It did not come up.
        """
        return await self._client.send(calls.wake(self.id))

    async def set_sleep_after(self, seconds: float | None) -> schemas.Sandbox:
        """Have it go to sleep after so many seconds without use from now on; None: never."""
        return await self._client.send(calls.set_sleep_after(self.id, seconds))

    async def stop(self) -> int:
        """Stop it for good; its URLs answer 410 from now on. Return how many visits that cut."""
        return (await self._client.send(calls.stop(self.id))).closed

    async def destroy(self) -> int:
        """Forget ports and tokens, cut every visit, remove the container. Return how many visits were cut.

        A sandbox that does not exist (any more) is left as it is.
        """
        try:
            return (await self._client.send(calls.destroy(self.id))).closed
        except SandboxNotFoundError:
            return 0


class AsyncProcess:
    """One service of a sandbox, as it was when asked; see `actors.Process`. Made by `AsyncSandbox`."""

    def __init__(self, client: AsyncClient, sandbox: str, info: schemas.Process) -> None:
        self._client = client
        self._sandbox = sandbox
        self.info = info
        """Renewed by `refresh`, `wait` and `kill`."""

    def __repr__(self) -> str:
        return f"AsyncProcess({self.id} of {self._sandbox})"

    @property
    def id(self) -> str:
        """Its name within the sandbox."""
        return self.info.id

    @property
    def command(self) -> str:
        """What was started, as text."""
        return self.info.command

    @property
    def pid(self) -> int:
        """The process id, as its container counts."""
        return self.info.pid

    @property
    def status(self) -> str:
        """``running``, ``restarting``, ``frozen`` or ``exited``, when last asked."""
        return self.info.status

    @property
    def exit_code(self) -> int | None:
        """None while it runs, as far as was asked; minus the signal number if a signal ended it."""
        return self.info.exit_code

    @property
    def restarts(self) -> int:
        """How often it was started again after it had exited by itself, when last asked."""
        return self.info.restarts

    async def refresh(self) -> None:
        """Ask anew.

        Raises:
            ProcessNotFoundError: Its run is over.
        """
        self.info = await self._client.send(calls.show_process(self._sandbox, self.id))

    async def wait(self) -> int:
        """Block until it has exited, and is not started again, asking now and then; return the exit code.

        Raises:
            ProcessNotFoundError: Its run ended before its exit was seen.
        """
        pause = POLL_FIRST_S
        while self.info.exit_code is None or self.info.status == "restarting":
            await sleep(pause)
            pause = min(pause * 2, POLL_MAX_S)
            await self.refresh()
        return self.info.exit_code

    async def kill(self, signal: int = 15) -> None:
        """Send a signal to it and its group; nothing happens if it has exited."""
        await self._client.send(calls.kill(self._sandbox, self.id, signal))

    async def logs(self) -> bytes:
        """Return what it has printed so far, the newest bytes where it was too much."""
        return await self._client.send(calls.logs(self._sandbox, self.id, follow=False))

    @asynccontextmanager
    async def follow_logs(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give what it has printed and goes on to print, piece by piece, until it exits."""
        async with self._client.stream(calls.logs(self._sandbox, self.id, follow=True)) as pieces:
            yield pieces

    async def wait_for_port(self, port: int, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - published name
        """Block until something accepts connections on `port` and this process still runs.

        Raises:
            NotListeningError: The process has exited.
            TooSlowError: Nothing did within `timeout` seconds.
        """
        await self._client.send(calls.wait_for_port(self._sandbox, self.id, port, timeout))


async def _read(response: httpx2.Response) -> bytes:
    content = bytearray()
    async with aclosing(_pieces(response)) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > ANSWER_BYTES_MAX:
                raise too_large(response.status_code)
    return bytes(content)


async def _pieces(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    pieces = response.aiter_bytes()
    try:
        async for piece in pieces:
            yield piece
    finally:
        # Whoever leaves half-way through leaves a chain of httpx2's generators, one of which does not close the next,
        # and trio complains of it. With the connection closed, reading on ends them all.
        await response.aclose()
        with suppress(httpx2.TransportError):
            async for _ in pieces:
                pass
