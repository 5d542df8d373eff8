"""How often one client may show a wrong secret: a few times in a row, then it waits.

A minted secret has 256 bits and cannot be guessed; one of an owner's own has 16 characters or more. What is bounded
here is the noise, and the hope. Counted by sandbox and by client address (of IPv6 its /64), so that nobody who guesses
keeps anybody else out.

Those who cannot be told apart are counted together, by sandbox: whoever comes by a proxy on this machine that nobody
has named as trusted, say. Theirs is a larger number, which people who mistype do not reach and which still bounds a
guesser; one who spends it keeps out, for the rest of the minute, only those who come the same way and have yet to sign
in. Counts are forgotten with their window, and the oldest ones when there are very many.
"""

from typing import Final

TRIES_MAX: Final = 10
"""Wrong ones in a window: more than anybody needs who has the right one at hand."""

UNTOLD_TRIES_MAX: Final = 100
"""Wrong ones in a window, of all together who cannot be told apart: ten times what one client has."""

WINDOW_S: Final = 60.0

KEYS_MAX: Final = 4096
"""Pairs of sandbox and address remembered. Whoever has more addresses than that has more tries anyway."""

Key = tuple[str, str | None]
"""Sandbox and client; None stands for all clients that cannot be told apart."""


class Tries:
    """Counts wrong secrets."""

    __slots__ = ("_wrong",)

    def __init__(self) -> None:
        # {key: (wrong ones, when the window began)}, the oldest window first.
        self._wrong: dict[Key, tuple[int, float]] = {}

    def wait_s(self, key: Key, now: float) -> float:
        """Return for how many seconds nothing more of this client's is looked at; 0: it may try.

        Args:
            key: Whom it is about.
            now: In seconds, on any clock that does not jump.
        """
        count, begun = self._wrong.get(key, (0, now))
        left = begun + WINDOW_S - now
        most = TRIES_MAX if key[1] is not None else UNTOLD_TRIES_MAX
        return left if count >= most and left > 0 else 0.0

    def note_wrong(self, key: Key, now: float) -> None:
        """Count a wrong secret."""
        count, begun = self._wrong.get(key, (0, now))
        if now - begun >= WINDOW_S:
            del self._wrong[key]
            count, begun = 0, now
        self._wrong[key] = (count + 1, begun)
        if len(self._wrong) > KEYS_MAX:
            del self._wrong[next(iter(self._wrong))]

    def take_back(self, key: Key) -> None:
        """Count one less: a secret that was counted has turned out not to be wrong."""
        count, begun = self._wrong.get(key, (0, 0.0))
        if count > 1:
            self._wrong[key] = (count - 1, begun)
        elif count:
            del self._wrong[key]

    def __len__(self) -> int:
        return len(self._wrong)
