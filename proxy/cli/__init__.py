"""`portico`: the command line. It reads arguments and prints; what it does is elsewhere.

::

    base         the app, exit codes, where things are printed
    waiting      what is shown while something lasts
    settings     a server's settings as flags
    serving      serve, demo
    checks       log, doctor, bench
    remote       the server that a command asks, and how its answers are shown
    sandboxes    sandbox, run, exec, ps, logs
    previews     port, share, preview
    domains      domain
    keys         key
    explaining   explain
    completion   completion

The engine is often embedded without the command, so what that needs is asked for here, once.
"""

import os
import sys
from typing import Final

try:
    from proxy.cli import checks as checks
    from proxy.cli import completion as completion
    from proxy.cli import domains as domains
    from proxy.cli import explaining as explaining
    from proxy.cli import keys as keys
    from proxy.cli import previews as previews
    from proxy.cli import sandboxes as sandboxes
    from proxy.cli import serving as serving
    from proxy.cli.base import app as app
except ModuleNotFoundError as error:
    package = str(error.name).partition(".")[0]
    sys.exit(f"portico: the command needs more packages ({package} is missing): pip install 'portico[cli]'")


EXIT_UNREAD: Final = 141
"""As a shell counts: 128 and the number of SIGPIPE."""


def main() -> None:
    """Run the command. Whoever reads its output may stop reading: that is no error of ours."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go, and must not be tried once more as the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_UNREAD)
