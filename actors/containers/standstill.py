"""Whether the processes of a keeper stand still, and the talk with it about that."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

ANSWER_S: Final = 30.0
"""For the keeper to do as it is told. It gives up after 4 s by itself; the rest is for machines that are overloaded."""


class Standstill:
    """Of one keeper."""

    __slots__ = ("_answer", "_answered", "_ask", "_going", "_over", "asked_for")

    def __init__(self, ask: Callable[..., Awaitable[None]]) -> None:
        """Begin with processes that run.

        Args:
            ask: Gives the keeper a frame.
        """
        self._ask: Final = ask
        self.asked_for = False
        """From the moment in which they are told to stand still until they are let go on."""
        self._going = trio.Event()
        self._going.set()
        self._answered = trio.Event()
        self._answer = False
        self._over = False

    async def begin(self) -> bool:
        """Have all processes stand still; False: they do not, and go on."""
        self.asked_for = True
        self._going = trio.Event()
        if await self._say(b"freeze"):
            return True
        self._let_go_on()
        return False

    async def end(self) -> bool:
        """Let them go on; False: there is nobody to do it."""
        done = await self._say(b"thaw")
        self._let_go_on()
        return done

    async def wait_going(self) -> None:
        """Block while they stand still."""
        await self._going.wait()

    def heard(self, answer: bool) -> None:
        """Note what the keeper says."""
        self._answer = answer
        self._answered.set()

    def over(self) -> None:
        """Note that the keeper says nothing any more, which is no, also to what it is told from now on."""
        self._over = True
        self.heard(answer=False)

    async def _say(self, what: bytes) -> bool:
        self._answered = trio.Event()
        self._answer = False
        await self._ask(what)
        if self._over:
            # It ended before it was asked: nobody will set the event of this question.
            return False
        with trio.move_on_after(ANSWER_S):
            await self._answered.wait()
        return self._answer

    def _let_go_on(self) -> None:
        self.asked_for = False
        self._going.set()
