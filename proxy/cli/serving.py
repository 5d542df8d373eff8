"""`portico serve` and `portico demo`: a server in this process."""

import os
import secrets
from contextlib import ExitStack

from rich.console import Console
from rich.table import Table

from proxy.api.assembly import open_api
from proxy.api.keys import KEY_BYTES, KeyFileError, KeyRing
from proxy.cli.base import EXIT_FAILED, EXIT_USAGE, app, console, fail, run
from proxy.cli.settings import MEANINGS, NO_FLAGS, SettingsFlags, resolve_settings, shown_value
from proxy.config import Resolved, Settings
from proxy.demo.run import demo_settings, run_demo
from proxy.host import open_host, serve_until_told
from proxy.local import LocalServer, announced, url_of
from proxy.logging import configure_logging


@app.command
def serve(flags: SettingsFlags = NO_FLAGS, *, show_config: bool = False) -> None:
    """Serve preview URLs, and the management API on the base domain.

    Ctrl-C and SIGTERM end it, once requests under way have ended; a second one cuts them. The first start makes an API
    key and prints it, unless PORTICO_API_KEY holds one.
    Flags win over the environment, the environment over the file of --config, that over the defaults.

    Example: portico serve --listen 0.0.0.0:8787 --domain previews.example.com --data /var/lib/portico

    Parameters
    ----------
    show_config
        Print every setting and where it came from, and exit.
    """
    resolved = resolve_settings(flags)
    if show_config:
        _print_settings(resolved)
        return
    settings = resolved.settings
    configure_logging(settings.log_level, settings.log_format)

    local_key = secrets.token_urlsafe(KEY_BYTES)
    try:
        ring = KeyRing(settings.data_folder, os.environ.get("PORTICO_API_KEY"), local_key=local_key)
    except ValueError as error:
        fail(f"PORTICO_API_KEY: {error}", EXIT_USAGE)
    run(lambda: _serve(settings, ring, local_key))


async def _serve(settings: Settings, ring: KeyRing, local_key: str) -> None:
    async with open_host(settings) as host:
        with ExitStack() as stack:

            def announce(port: int) -> None:
                local = LocalServer(url_of(settings.listen.host, port), local_key)
                try:
                    stack.enter_context(announced(settings.data_folder, local))
                    # Not before all else is done: a key that is told once is not told by a server that never was.
                    first = ring.create_first()
                except KeyFileError as error:
                    fail(str(error), EXIT_FAILED)
                except OSError as error:
                    why = (error.strerror or str(error)).lower()
                    fail(f"cannot write in {settings.data_folder}: {why}", EXIT_FAILED)
                if first is not None:
                    # Not a line of the log, which is kept.
                    text = f"API key, of scope admin, told this once: {first[1]}"
                    console().print(text, highlight=False, soft_wrap=True)

            async with open_api(host.runtime, ring, settings.domains, settings.data_folder) as api:
                await serve_until_told(host, announce, api)


@app.command
def demo(flags: SettingsFlags = NO_FLAGS) -> None:
    """See it work: a sandbox, a web app in it, a preview URL.

    Ctrl-C ends it. The URL is the same next time: it is kept in the data folder.
    """
    settings = demo_settings(resolve_settings(flags))
    configure_logging(settings.log_level, settings.log_format)
    run(lambda: run_demo(settings, Console()))


def _print_settings(resolved: Resolved) -> None:
    table = Table("setting", "value", "from", "means", box=None, header_style="bold", pad_edge=False)
    for name in Settings.__struct_fields__:
        shown = shown_value(getattr(resolved.settings, name))
        table.add_row(name, shown, resolved.origins[name], MEANINGS[name])
    console().print(table)
