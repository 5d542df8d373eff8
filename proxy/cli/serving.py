"""`portico serve` and `portico demo`: a server in this process."""

from rich.console import Console
from rich.table import Table

from proxy.cli.base import app, console, run
from proxy.cli.settings import NO_FLAGS, SettingsFlags, resolve_settings
from proxy.config import Resolved, Settings
from proxy.demo.run import demo_settings, run_demo
from proxy.host import open_host, serve_until_told
from proxy.logging import configure_logging


@app.command
def serve(flags: SettingsFlags = NO_FLAGS, *, show_config: bool = False) -> None:
    """Serve preview URLs until told to stop (Ctrl-C or SIGTERM).

    Flags win over the environment, the environment over the file of --config, that over the defaults.

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

    async def main() -> None:
        async with open_host(settings) as host:
            await serve_until_told(host)

    run(main)


@app.command
def demo(flags: SettingsFlags = NO_FLAGS) -> None:
    """See it work: a sandbox, a web app in it, a preview URL to open.

    The URL is the same next time: it is kept in the data folder.
    """
    settings = demo_settings(resolve_settings(flags))
    configure_logging(settings.log_level, settings.log_format)
    run(lambda: run_demo(settings, Console()))


def _print_settings(resolved: Resolved) -> None:
    table = Table("setting", "value", "from", box=None, header_style="bold", pad_edge=False)
    for name in Settings.__struct_fields__:
        value = getattr(resolved.settings, name)
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        table.add_row(name, shown, resolved.origins[name])
    console().print(table)
