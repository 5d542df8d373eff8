"""`portico completion`: the shell's script that completes commands, flags and their values.

It is printed and not installed: nobody's start-up files are ours to write.
"""

from typing import Annotated, Literal

from cyclopts import Parameter

from proxy.cli.base import app


@app.command
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL")], /) -> None:
    """Print the completion script of a shell.

    To be read by that shell: source <(portico completion bash)

    Example: portico completion bash

    Parameters
    ----------
    shell
        Whose script.
    """
    print(app.generate_completion(shell=shell))
