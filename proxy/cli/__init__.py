"""`portico`: the command line. It reads arguments and prints; what it does is elsewhere.

::

    base         the app, exit codes, where things are printed
    settings     a server's settings as flags
    serving      serve, demo
    checks       log, doctor, bench
    remote       the server that a command asks, and how its answers are shown
    sandboxes    sandbox, run, exec, logs
    previews     port, share, preview
    keys         key
    explaining   explain
    completion   completion

The engine is often embedded without the command, so what that needs is asked for here, once.
"""

import sys

try:
    from proxy.cli import checks as checks
    from proxy.cli import completion as completion
    from proxy.cli import explaining as explaining
    from proxy.cli import keys as keys
    from proxy.cli import previews as previews
    from proxy.cli import sandboxes as sandboxes
    from proxy.cli import serving as serving
    from proxy.cli.base import app as app
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    sys.exit(f"portico: the command needs more packages ({package} is missing): pip install 'portico[cli]'")


def main() -> None:
    """Run the command."""
    app()
