"""`portico domain`: hostnames of their owners' own, each leading to one port of one sandbox."""

from typing import Annotated

import cyclopts
from cyclopts import Parameter

from proxy.api import schemas
from proxy.cli.base import app
from proxy.cli.remote import HERE, PortNumber, Sandbox, Where, ask, print_facts, print_json, print_table, say
from proxy.cli.sandboxes import print_closed
from proxy.client import AsyncSandbox

Hostname = Annotated[str, Parameter(name="HOSTNAME", help="A whole one, such as preview.my-app.com.")]

domain = cyclopts.App(name="domain", help="Hostnames of one's own that lead to a port.")
app.command(domain)


@domain.command
def bind(sandbox: Sandbox, hostname: Hostname, port: PortNumber, /, *, where: Where = HERE) -> None:
    """Ask for a hostname that leads to a port.

    What shows that it is yours is printed: publish the TXT record, or have the site that is there answer as shown; then
    portico domain verify. Again with another port: it leads there.

    Example: portico domain bind my-app preview.my-app.com 8000
    """
    _print_domain(ask(where, lambda client: AsyncSandbox(client, sandbox).bind_domain(hostname, port)), where)


@domain.command
def verify(sandbox: Sandbox, hostname: Hostname, /, *, where: Where = HERE) -> None:
    """Have the server look whether the challenge is answered.

    If it is, the hostname serves from then on, while its port is exposed.
    """
    doing = f"looking at {hostname}"
    _print_domain(ask(where, lambda client: AsyncSandbox(client, sandbox).verify_domain(hostname), doing), where)


@domain.command(name="list", usage="Usage: portico domain list [OPTIONS] [SANDBOX]")
def list_(
    sandbox: Annotated[str | None, Parameter(name="SANDBOX", help="Only its. Default: those of all.")] = None,
    /,
    *,
    where: Where = HERE,
) -> None:
    """List the hostnames that were asked for."""
    found = ask(where, lambda client: client.list_domains(sandbox))
    if where.json:
        print_json(found)
        return
    rows = [(one.hostname, one.sandbox, one.port, one.verified) for one in found]
    print_table(("hostname", "sandbox", "port", "verified"), rows, "no hostnames", folded=False)


@domain.command
def unbind(sandbox: Sandbox, hostname: Hostname, /, *, where: Where = HERE) -> None:
    """Give a hostname back, and cut what still flows by it."""
    closed = ask(where, lambda client: AsyncSandbox(client, sandbox).unbind_domain(hostname))
    print_closed(closed, f"{hostname} does not lead to {sandbox}", as_json=where.json)


def _print_domain(found: schemas.CustomDomain, where: Where) -> None:
    if where.json:
        print_json(found)
        return
    facts: list[tuple[str, object]] = [
        ("hostname", found.hostname),
        ("sandbox", found.sandbox),
        ("port", found.port),
        ("verified", found.verified),
    ]
    if not found.verified:
        facts += [
            ("TXT record", found.challenge.txt_name),
            ("with", found.challenge.txt_value),
            ("or at path", found.challenge.http_path),
            ("the text", found.challenge.http_body),
        ]
    print_facts(facts)
    if not found.verified:
        say("publish one of the two, then: portico domain verify")
