"""`portico port`, `share` and `preview`: who may reach a sandbox's services, and by which URL."""

import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Literal, TypeVar

import cyclopts
from cyclopts import Parameter

from actors import RevocationIncompleteError
from proxy.api import schemas
from proxy.cli.base import EXIT_FAILED, app, fail
from proxy.cli.remote import (
    HERE,
    Grace,
    PortNumber,
    Sandbox,
    Seconds,
    Where,
    ask,
    print_json,
    print_line,
    print_table,
    say,
)
from proxy.cli.sandboxes import print_closed
from proxy.client import AsyncClient, AsyncSandbox

T = TypeVar("T")

TOKEN_VARIABLE: Final = "PORTICO_PORT_TOKEN"  # noqa: S105  the name of a variable
"""A port token of one's own: a secret, so no flag."""

port = cyclopts.App(name="port", help="Give ports preview URLs, and take them back.")
share = cyclopts.App(name="share", help="Links that open a port for a while.")
preview = cyclopts.App(name="preview", help="Tokens for private sandboxes, and previews by hostname.")
for group in (port, share, preview):
    app.command(group)


# Ports.


@port.command
def expose(
    sandbox: Sandbox,
    port: PortNumber,
    /,
    *,
    name: str | None = None,
    domain: str | None = None,
    host_header: Literal["localhost", "preserve"] | None = None,
    wake_on_websocket: bool | None = None,
    where: Where = HERE,
) -> None:
    """Give a port a preview URL, and print it.

    Exposed again, a port keeps its URL. A token of one's own for the URL is taken from PORTICO_PORT_TOKEN: 1 to 16 of
    a-z, 0-9 and _.

    Example: portico port expose my-app 8000 --name web

    Parameters
    ----------
    name
        A label for people. Default: none.
    domain
        The base domain of the URL. Default: the server's first.
    host_header
        Which Host the service sees. Default localhost.
    wake_on_websocket
        Let a WebSocket handshake wake the sandbox. Default: it does not.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None

    async def question(client: AsyncClient) -> schemas.Port:
        return await AsyncSandbox(client, sandbox).expose_port(
            port,
            hostname=domain,
            name=name,
            token=token,
            host_header=host_header,
            wake_on_websocket=wake_on_websocket,
        )

    exposed = ask(where, question)
    if where.json:
        print_json(exposed)
    else:
        print_line(exposed.url or "")


@port.command
def unexpose(sandbox: Sandbox, port: PortNumber, /, *, drain: Grace = 0.0, where: Where = HERE) -> None:
    """Take a port's URL back, and cut what still flows.

    Example: portico port unexpose my-app 8000 --drain 10

    Parameters
    ----------
    drain
        Seconds that live visits get to end by themselves. Default 0: they are cut at once.
    """
    doing = f"ending the visits to port {port} of {sandbox}"
    closed = ask(where, lambda client: AsyncSandbox(client, sandbox).unexpose_port(port, drain=drain), doing)
    print_closed(closed, f"port {port} of {sandbox} is not exposed", as_json=where.json)


@port.command(name="list")
def list_ports(sandbox: Sandbox, /, *, where: Where = HERE) -> None:
    """List the exposed ports of a sandbox, with their URLs."""
    found = ask(where, lambda client: AsyncSandbox(client, sandbox).get_exposed_ports())
    if where.json:
        print_json(found)
        return
    rows = [(one.port, one.name, one.status, one.url or "(a secret)") for one in found]
    print_table(("port", "name", "status", "url"), rows, "no port is exposed", folded=False)


# Links.


@share.command(name="create")
def create_share(
    sandbox: Sandbox,
    port: PortNumber,
    /,
    *,
    expires_in: Seconds,
    once: bool = False,
    custom_hostname: str | None = None,
    where: Where = HERE,
) -> None:
    """Make a link to a port, and print its URL, this once.

    Example: portico share create my-app 8000 --expires-in 3600

    Parameters
    ----------
    expires_in
        Seconds for which it opens.
    once
        Let it open for one browser only.
    custom_hostname
        A hostname of the sandbox's that leads to the port, for the link to be on. Default: one of its own.
    """

    async def question(client: AsyncClient) -> schemas.Share:
        return await AsyncSandbox(client, sandbox).share(
            port, expires_in=expires_in, once=once, custom_hostname=custom_hostname
        )

    made = ask(where, question)
    if where.json:
        print_json(made)
        return
    print_line(made.url or "")
    say(f"link {made.id} opens until {made.expires_at}; it is not shown again")


@share.command(name="list")
def list_shares(sandbox: Sandbox, /, *, where: Where = HERE) -> None:
    """List the links of a sandbox, without their secrets."""
    found = ask(where, lambda client: AsyncSandbox(client, sandbox).list_shares())
    if where.json:
        print_json(found)
        return
    rows = [(one.id, one.port, one.custom_hostname, one.expires_at, one.once) for one in found]
    print_table(("link", "port", "hostname", "expires", "once"), rows, "no links")


@share.command(name="revoke")
def revoke_share(
    sandbox: Sandbox,
    share_id: Annotated[str, Parameter(name="LINK", help="As portico share list shows it.")],
    /,
    *,
    where: Where = HERE,
) -> None:
    """Take a link back, and cut what still flows by it."""
    closed = ask(where, lambda client: AsyncSandbox(client, sandbox).revoke_share(share_id))
    print_closed(closed, f"link {share_id} is revoked", as_json=where.json)


# Previews in OpenComputer's shape.


@preview.command(name="create")
def create_preview(sandbox: Sandbox, port: PortNumber, /, *, domain: str | None = None, where: Where = HERE) -> None:
    """Give a port a preview, and print its hostname.

    Of a sandbox with open ports, any port has one anyway.

    Parameters
    ----------
    domain
        The base domain. Default: the server's first.
    """
    made = ask(where, lambda client: AsyncSandbox(client, sandbox).create_preview_url(port, domain))
    if where.json:
        print_json(made)
    else:
        print_line(made.hostname)


@preview.command(name="list")
def list_previews(sandbox: Sandbox, /, *, where: Where = HERE) -> None:
    """List the previews of a sandbox, by port."""
    found = ask(where, lambda client: AsyncSandbox(client, sandbox).list_preview_urls())
    if where.json:
        print_json(found)
        return
    rows = [(one.port, one.hostname, one.created_at) for one in found]
    print_table(("port", "hostname", "created"), rows, "no previews", folded=False)


@preview.command(name="delete")
def delete_preview(sandbox: Sandbox, port: PortNumber, /, *, where: Where = HERE) -> None:
    """Forget a port's preview; without open ports, take its URL back."""
    if not ask(where, lambda client: AsyncSandbox(client, sandbox).delete_preview_url(port)):
        fail(f"port {port} of {sandbox} has no preview", EXIT_FAILED)
    if where.json:
        print_json({"deleted": port})
    else:
        say(f"port {port} of {sandbox} has no preview any more")


# The gate.


@preview.command(name="protect")
def protect(sandbox: Sandbox, /, *, where: Where = HERE) -> None:
    """Ask visitors for a preview token from now on, and print it, once.

    A token of one's own is taken from PORTICO_PREVIEW_TOKEN: 16 visible ASCII characters or more. Live visits are cut;
    if some outlast that, the token is in force and printed all the same, and the exit code is 1.

    Example: portico preview protect my-app
    """
    own = os.environ.get("PORTICO_PREVIEW_TOKEN") or None
    made = _change_gate(where, lambda client: AsyncSandbox(client, sandbox).set_preview_auth(own))
    if where.json:
        print_json(made)
    else:
        print_line(made.token)


@preview.command(name="rotate")
def rotate(sandbox: Sandbox, /, *, grace: Grace = 0.0, where: Where = HERE) -> None:
    """Replace a sandbox's preview token, and print the new one, once.

    A token of one's own is taken from PORTICO_PREVIEW_TOKEN. If live visits outlast the change, the new token is in
    force and printed all the same, and the exit code is 1.

    Example: portico preview rotate my-app --grace 60

    Parameters
    ----------
    grace
        Seconds for which the old one opens too. Default 0: it stops at once, and what leans on it is cut.
    """
    own = os.environ.get("PORTICO_PREVIEW_TOKEN") or None
    made = _change_gate(where, lambda client: AsyncSandbox(client, sandbox).rotate_preview_auth(grace=grace, token=own))
    if where.json:
        print_json(made)
    else:
        print_line(made.token)
        say(f"live visits that were ended: {made.closed}")


def _change_gate(where: Where, change: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Return what a change of the gate answers. If visits outlast it, its token is in force: print that, and fail."""

    async def question(client: AsyncClient) -> T | RevocationIncompleteError:
        try:
            return await change(client)
        except RevocationIncompleteError as error:
            # To be told below, when nothing else is on that line of the terminal any more.
            return error

    made = ask(where, question)
    if isinstance(made, RevocationIncompleteError):
        if made.token is not None and where.json:
            print_json({"token": made.token.reveal(), "remaining": made.remaining})
        elif made.token is not None:
            print_line(made.token.reveal())
        fail(str(made), EXIT_FAILED)
    return made
