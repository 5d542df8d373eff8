"""`portico sandbox`, `run`, `exec`, `ps` and `logs`: sandboxes of a server, and what runs in them."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number
from msgspec import UNSET
from msgspec.structs import replace

from actors import ContainerSpec
from proxy.api import schemas
from proxy.cli.base import EXIT_FAILED, EXIT_USAGE, app, fail
from proxy.cli.remote import HERE, WAITING, Sandbox, Where, ask, print_facts, print_json, print_line, print_table, say
from proxy.client import AsyncClient, AsyncProcess, AsyncSandbox, calls

EXIT_NOT_RUN: Final = 125
"""Of `portico exec`, if the command was not run at all, so that its own codes stay its own; as docker has it."""

SIGNALLED: Final = 128
"""A shell reports the end by signal N as 128 + N."""

Command = Annotated[str, Parameter(name="COMMAND", help="After --, as it would stand in a shell's line.")]
Variables = Annotated[
    tuple[str, ...],
    Parameter(
        name=("--env", "-e"),
        help="NAME=VALUE, or NAME to pass on one's own, which keeps it out of the list of processes; again for more.",
    ),
]
Folder = Annotated[str | None, Parameter(help="The working folder. Default: the sandbox's own.")]

sandbox = cyclopts.App(name="sandbox", help="Make, look at, put to sleep and destroy sandboxes.")
app.command(sandbox)


@sandbox.command(usage="Usage: portico sandbox create [OPTIONS] [ID]")
def create(
    sandbox_id: Annotated[str | None, Parameter(name="ID")] = None,
    /,
    *,
    container: str | None = None,
    open_ports: bool = False,
    when_asleep: Literal["wake", "stale"] | None = None,
    sleep_after: Annotated[float | None, Parameter(validator=Number(gte=1))] = None,
    never_sleeps: bool = False,
    freeze: bool = False,
    preview_auth: bool = False,
    where: Where = HERE,
) -> None:
    """Make a sandbox, and print it.

    One that exists alike is left as it is.

    Example: portico sandbox create my-app --preview-auth

    Parameters
    ----------
    sandbox_id
        1 to 40 of a-z, 0-9 and hyphens. Default: one is made up.
    container
        The kind of place its services run in. Default process.
    open_ports
        Let every port answer at sb-...-pPORT, without a token.
    when_asleep
        What a visitor does while it sleeps: wake it, or be told that it is stale. Default wake.
    sleep_after
        Idle seconds after which it goes to sleep. Default 600.
    never_sleeps
        Let it not go to sleep by itself.
    freeze
        Let its processes stand still while it sleeps, with what they have in memory. Default: they are started anew.
    preview_auth
        Let only visitors in who bear a token; it is printed this once.
    """
    if never_sleeps and sleep_after is not None:
        fail("--never-sleeps and --sleep-after exclude each other", EXIT_USAGE)

    async def question(client: AsyncClient) -> schemas.Sandbox:
        made = await client.get_sandbox(
            sandbox_id,
            container=ContainerSpec(container or "process", {"sleep": "freeze"}) if freeze else container,
            open_ports=open_ports or None,
            when_asleep=when_asleep,
            sleep_after=None if never_sleeps else UNSET if sleep_after is None else sleep_after,
            preview_auth="auto" if preview_auth else None,
        )
        state = await made.state()
        return replace(state, preview_auth_token=made.preview_auth_token)

    made = ask(where, question)
    _print_sandbox(made, as_json=where.json)
    if made.preview_auth_token is not None and not where.json:
        say("the preview token is not shown again")


@sandbox.command(name="list")
def list_(*, where: Where = HERE) -> None:
    """List the sandboxes."""
    found = ask(where, lambda client: client.list_sandboxes())
    if where.json:
        print_json(found)
        return
    rows = [
        (one.id, one.status, one.container, ",".join(str(port.port) for port in one.ports) or "-", one.preview_auth)
        for one in found
    ]
    print_table(("sandbox", "status", "container", "ports", "preview auth"), rows, "no sandboxes")


@sandbox.command
def show(sandbox_id: Sandbox, /, *, where: Where = HERE) -> None:
    """Show a sandbox."""
    _print_sandbox(ask(where, lambda client: AsyncSandbox(client, sandbox_id).state()), as_json=where.json)


@sandbox.command(name="set")
def set_(
    sandbox_id: Sandbox,
    /,
    *,
    sleep_after: Annotated[float | None, Parameter(validator=Number(gte=1))] = None,
    never_sleeps: bool = False,
    where: Where = HERE,
) -> None:
    """Change when a sandbox goes to sleep, and print it.

    Example: portico sandbox set my-app --sleep-after 3600

    Parameters
    ----------
    sleep_after
        Idle seconds after which it goes to sleep. Default: as it was.
    never_sleeps
        Let it not go to sleep by itself.
    """
    if never_sleeps == (sleep_after is not None):
        fail("one of --sleep-after and --never-sleeps is wanted", EXIT_USAGE)
    question = lambda client: AsyncSandbox(client, sandbox_id).set_sleep_after(sleep_after)  # noqa: E731  # named for the line's length
    _print_sandbox(ask(where, question), as_json=where.json)


@sandbox.command
def hibernate(sandbox_id: Sandbox, /, *, where: Where = HERE) -> None:
    """Put a sandbox to sleep.

    Its URLs stay what they are, and the next visitor wakes it.
    """
    question = lambda client: AsyncSandbox(client, sandbox_id).hibernate()  # noqa: E731  # named for the line's length
    _print_sandbox(ask(where, question, f"putting {sandbox_id} to sleep"), as_json=where.json)


@sandbox.command
def wake(sandbox_id: Sandbox, /, *, where: Where = HERE) -> None:
    """Wake a sandbox, and the services that it had."""
    question = lambda client: AsyncSandbox(client, sandbox_id).wake()  # noqa: E731  # named for the line's length
    _print_sandbox(ask(where, question, f"waking {sandbox_id}"), as_json=where.json)


@sandbox.command
def stop(sandbox_id: Sandbox, /, *, where: Where = HERE) -> None:
    """Stop a sandbox for good; its URLs say so from now on."""
    closed = ask(where, lambda client: AsyncSandbox(client, sandbox_id).stop(), f"stopping {sandbox_id}")
    print_closed(closed, f"stopped {sandbox_id}", as_json=where.json)


@sandbox.command
def destroy(sandbox_id: Sandbox, /, *, where: Where = HERE) -> None:
    """Destroy a sandbox: its URLs, its services, its files.

    Exit code 0 also if there is none of that name: that is said, and nothing is destroyed.
    """
    ended = ask(where, lambda client: client.send(calls.destroy(sandbox_id)), f"destroying {sandbox_id}")
    if where.json:
        print_json(ended)
    elif ended.existed:
        print_closed(ended.closed, f"destroyed {sandbox_id}", as_json=False)
    else:
        say(f"there is no sandbox {sandbox_id}: nothing was destroyed (portico sandbox list names those there are)")


@app.command(usage="Usage: portico run [OPTIONS] SANDBOX -- COMMAND...")
def run(
    sandbox_id: Sandbox,
    /,
    *command: Command,
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    name: str | None = None,
    id: Annotated[str | None, Parameter(help="A name for the process. Default: one is made up.")] = None,  # noqa: A002  # the flag's name
    cwd: Folder = None,
    env: Variables = (),
    restart: Literal["never", "on-failure", "always"] = "never",
    timeout_s: Annotated[float, Parameter(name=("--timeout", "--timeout-s"), validator=Number(gt=0))] = 60.0,
    where: Where = HERE,
) -> None:
    """Start a service in a sandbox, and print its preview URL.

    That is with --port: wait until it listens there, and expose the port. Without it the process's id is printed. A
    sandbox that does not exist is made. A command of one word is given to a shell. If the wait ends otherwise, the
    service is left as it is.

    Example: portico run my-app --port 8000 -- python3 -m http.server 8000

    Parameters
    ----------
    port
        Where the service listens. Default: that is not waited for.
    name
        A label for the port. Default: none.
    restart
        When to start it again once it has exited by itself. Default never.
    timeout_s
        Seconds for the service to listen. Default 60.
    """
    words, variables = _words(command), _variables(env)
    started: list[str] = []

    async def start(client: AsyncClient) -> AsyncProcess:
        found = await client.get_sandbox(sandbox_id)
        return await found.start_process(words, cwd=cwd, env=variables, id=id, restart=restart)

    async def expose(client: AsyncClient) -> tuple[schemas.Process, schemas.Port]:
        process = await start(client)
        started.append(process.id)
        assert port is not None
        await process.wait_for_port(port, timeout=timeout_s)
        return process.info, await AsyncSandbox(client, sandbox_id).expose_port(port, name=name)

    if port is None:
        process = ask(where, start, f"starting in {sandbox_id}").info
        if where.json:
            print_json(process)
        else:
            print_line(process.id)
        return
    try:
        process, exposed = ask(where, expose, f"waiting for port {port} of {sandbox_id}")
    except SystemExit:
        for process_id in started:
            say(f"{process_id} was started, and is left as it is: portico logs {sandbox_id} {process_id}")
        raise
    if where.json:
        print_json({"process": process, "port": exposed})
    else:
        print_line(exposed.url or "")


@app.command(name="exec", usage="Usage: portico exec [OPTIONS] SANDBOX -- COMMAND...")
def exec_(
    sandbox_id: Sandbox,
    /,
    *command: Command,
    cwd: Folder = None,
    env: Variables = (),
    timeout_s: Annotated[float, Parameter(name=("--timeout", "--timeout-s"), validator=Number(gt=0))] = 60.0,
    where: Where = HERE,
) -> None:
    """Run a command in a sandbox to its end.

    What it printed is printed when it has ended, and its exit code is this command's (128 and the signal's number if a
    signal ended it); 125 if it was not run. A command of one word is given to a shell.

    Example: portico exec my-app -- ls -l

    Parameters
    ----------
    timeout_s
        Seconds after which it is killed. Default 60.
    """
    words, variables = _words(command), _variables(env)
    try:
        ended = ask(
            where,
            lambda client: AsyncSandbox(client, sandbox_id).exec(words, cwd=cwd, env=variables, timeout=timeout_s),
            f"running in {sandbox_id}",
        )
    except SystemExit as exited:
        sys.exit(EXIT_NOT_RUN if exited.code == EXIT_FAILED else exited.code)
    if where.json:
        print_json(ended)
    else:
        sys.stdout.write(ended.stdout)
        sys.stderr.write(ended.stderr)
        if ended.truncated:
            say("more was printed than is kept")
    sys.exit(ended.exit_code if ended.exit_code >= 0 else SIGNALLED - ended.exit_code)


@app.command
def ps(sandbox_id: Sandbox, /, *, where: Where = HERE) -> None:
    """List the services of a sandbox that is up.

    Those that have exited are among them, and how often each was started again is said.
    """
    found = [one.info for one in ask(where, lambda client: AsyncSandbox(client, sandbox_id).list_processes())]
    if where.json:
        print_json(found)
        return
    rows = [(one.id, one.pid, one.status, one.exit_code, one.restarts, one.command) for one in found]
    print_table(("process", "pid", "status", "exit code", "restarts", "command"), rows, "no processes")


@app.command(usage="Usage: portico logs [OPTIONS] SANDBOX [PROCESS]")
def logs(
    sandbox_id: Sandbox,
    process: Annotated[str | None, Parameter(name="PROCESS")] = None,
    /,
    *,
    follow: Annotated[bool, Parameter(name=("--follow", "-f"))] = False,
    where: Where = HERE,
) -> None:
    """Print what a service has printed.

    Example: portico logs my-app --follow

    Parameters
    ----------
    process
        The service's id, as portico ps shows it. Default: the only one.
    follow
        Go on printing until it exits, or Ctrl-C.
    """
    if where.json:
        fail("logs are what a service printed: there is no JSON of it", EXIT_USAGE)

    async def question(client: AsyncClient) -> None:
        found = AsyncSandbox(client, sandbox_id)
        chosen = await found.get_process(process) if process is not None else _only(await found.list_processes())
        if not follow:
            _write(await chosen.logs())
            return
        async with chosen.follow_logs() as pieces:
            async for piece in pieces:
                _write(piece)

    ask(where, question, None if follow else WAITING)


def print_closed(closed: int, done: str, *, as_json: bool) -> None:
    """Print what a revocation cut."""
    if as_json:
        print_json(schemas.Closed(closed=closed))
    else:
        say(f"{done}; live visits that were ended: {closed}")


def _print_sandbox(found: schemas.Sandbox, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    facts: list[tuple[str, object]] = [
        ("sandbox", found.id),
        ("status", found.status),
        ("container", found.container),
        ("open ports", found.open_ports),
        ("when asleep", found.when_asleep),
        ("sleeps after", "never" if found.sleep_after is None else f"{found.sleep_after:g} s"),
        ("preview auth", found.preview_auth),
        ("preview token", found.preview_auth_token),
        ("created", found.created_at),
    ]
    facts += [(f"port {port.port}", port.url or "(a secret)") for port in found.ports]
    print_facts(facts)


def _words(command: tuple[str, ...]) -> str | Sequence[str]:
    if not command:
        fail("a command is wanted: portico run SANDBOX -- COMMAND", EXIT_USAGE)
    return command[0] if len(command) == 1 else list(command)


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            own = os.environ.get(name)
            if own is None:
                fail(f"--env {name}: there is no such variable here; write NAME=VALUE", EXIT_USAGE)
            value = own
        variables[name] = value
    return variables


def _only(processes: Sequence[AsyncProcess]) -> AsyncProcess:
    if not processes:
        fail("the sandbox runs no processes", EXIT_FAILED)
    if len(processes) > 1:
        fail("which process? " + ", ".join(process.id for process in processes), EXIT_USAGE)
    return processes[0]


def _write(piece: bytes) -> None:
    # As it is: whoever reads a log of colours wants them, and a pipe wants the bytes.
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
