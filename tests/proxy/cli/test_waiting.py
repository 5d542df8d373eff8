"""What is waited for is told to whoever looks at a terminal, once it takes longer than a moment."""

import io

import trio
import trio.testing
from rich.console import Console

from proxy.cli.waiting import PATIENCE_S, waiting


class Screen:
    """What was written, to a terminal or to a pipe."""

    def __init__(self, *, terminal: bool) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, force_terminal=terminal, width=80, color_system=None)

    @property
    def shows(self) -> bool:
        return "waking my-app" in self._file.getvalue()

    def wipe(self) -> None:
        self._file.seek(0)
        self._file.truncate()


async def test_what_takes_a_moment_shows_nothing(autojump_clock: trio.testing.MockClock) -> None:
    screen = Screen(terminal=True)
    async with waiting("waking my-app", screen.console):
        await trio.sleep(PATIENCE_S * 0.9)
    assert not screen.shows


async def test_what_takes_longer_is_said_on_a_terminal(autojump_clock: trio.testing.MockClock) -> None:
    screen = Screen(terminal=True)
    async with waiting("waking my-app", screen.console):
        await trio.sleep(PATIENCE_S * 1.1)
        assert screen.shows


async def test_pipe_gets_nothing(autojump_clock: trio.testing.MockClock) -> None:
    screen = Screen(terminal=False)
    async with waiting("waking my-app", screen.console):
        await trio.sleep(PATIENCE_S * 10)
    assert not screen.shows


async def test_what_is_printed_meanwhile_takes_it_away_for_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    screen = Screen(terminal=True)
    async with waiting("waking my-app", screen.console) as sign:
        await trio.sleep(PATIENCE_S * 1.1)
        sign.heard()
        screen.wipe()
        await trio.sleep(PATIENCE_S * 0.9)
        assert not screen.shows
        sign.heard()
        await trio.sleep(PATIENCE_S * 0.9)
        assert not screen.shows
        await trio.sleep(PATIENCE_S * 0.2)
        assert screen.shows


async def test_words_of_others_are_no_markup(autojump_clock: trio.testing.MockClock) -> None:
    screen = Screen(terminal=True)
    async with waiting("[bold]waking my-app[/nonsense]", screen.console):
        await trio.sleep(PATIENCE_S * 2)
        assert screen.shows
