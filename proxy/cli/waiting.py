"""A sign of life: what is waited for, on a terminal's stderr, once that takes longer than a moment.

Nothing is shown where stderr is a file or a pipe, and nothing of it ever is on stdout.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from proxy.cli.base import plain

PATIENCE_S: Final = 1.0
"""What is over by then needs no sign; whoever waits longer wonders what for."""

_FRAMES_PER_S: Final = 12.5
"""As fast as the spinner turns."""


class Sign:
    """Tells when nothing has been heard for `PATIENCE_S`, and what is waited for; again after each `heard`."""

    def __init__(self, doing: str, screen: Console) -> None:
        self._doing: Final = Text(plain(doing))
        self._screen: Final = screen
        self._shown: Live | None = None
        self._heard = trio.Event()

    def heard(self) -> None:
        """Take the sign away at once, as something is about to be printed, and begin to wait anew."""
        self._hide()
        self._heard.set()
        self._heard = trio.Event()

    async def show(self) -> None:
        """Show and hide, until cancelled."""
        try:
            while True:
                heard = self._heard
                with trio.move_on_after(PATIENCE_S):
                    await heard.wait()
                if not heard.is_set():
                    self._show()
                    await heard.wait()
        finally:
            self._hide()

    def _show(self) -> None:
        # Whatever is written to stdout meanwhile belongs there, and is not to be drawn by rich.
        spinner = Spinner("dots", self._doing)
        self._shown = Live(
            spinner,
            console=self._screen,
            transient=True,
            refresh_per_second=_FRAMES_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._shown.start(refresh=True)

    def _hide(self) -> None:
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


@asynccontextmanager
async def waiting(doing: str, screen: Console | None = None) -> AsyncIterator[Sign]:
    """Say what is waited for, for the length of the block; on a terminal only.

    Args:
        doing: In words that go on from "portico is".
        screen: Where; None: stderr.
    """
    screen = Console(stderr=True) if screen is None else screen
    sign = Sign(doing, screen)
    async with trio.open_nursery() as nursery:
        if screen.is_terminal:
            nursery.start_soon(sign.show)
        yield sign
        nursery.cancel_scope.cancel()
