"""``Idempotency-Key``: the same change asked for twice is made once, and answered twice alike.

What is promised: for as long as the server runs and the answer is kept (a day, unless room runs out), a request that
bears a key seen before, from the same API key, is answered as the first one was, without being carried out again; if
that one is still under way it waits for its end. The same key with another request is an error, and
with the same request for another sandbox, of the same name as the one that is no more, too. Answers of 500 and
more are not kept, as such a request may well be sent again; but for those that tell a secret, this once. What is not
promised is anything across a restart: all changes are made so that sending them again does no harm, except for those
that draw a secret or start a process.

(draft-ietf-httpapi-idempotency-key-header-07 describes the field; the choices above are ours.)
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import trio

KEPT_S: Final = 24 * 3600.0
"""For how long an answer is kept: a client that has not asked again for a day has forgotten too."""

ENTRIES_MAX: Final = 10_000
BYTES_MAX: Final = 16 * 2**20
"""Of all answers that are kept together; the oldest go first."""

KEY_LENGTH_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Written:
    """An answer, ready to be sent."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    told_once: bool = False
    """It holds a secret that another request would not be told, so it is kept whatever its status."""


class KeyReusedError(Exception):
    """The key was used for another request."""


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    """Of the request; a digest."""
    until: float
    life: object = field(repr=False)
    answer: Written | None = field(default=None, repr=False)
    """None while it is under way."""
    settled: trio.Event = field(default_factory=trio.Event)


class Answers:
    """Answers to changes that bore a key."""

    def __init__(self, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX, kept_s: float = KEPT_S) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._kept_s = kept_s
        # {(id of the API key, idempotency key): entry}, oldest first.
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def once(
        self,
        owner: str,
        key: str,
        fingerprint: bytes,
        answer: Callable[[], Awaitable[Written]],
        *,
        life: object = None,
    ) -> tuple[Written, bool]:
        """Return the answer to the first request with that key, and whether it is a repetition.

        Cancelling this, or an error of `answer`, forgets that there was a first one: the next in line is then it.

        Args:
            owner: Whose key it is: two clients may choose alike.
            key: As the client sent it.
            fingerprint: Of all that the request asks for.
            answer: Carries it out.
            life: Equal for the same life of the sandbox that is asked for; None: there is no such sandbox. What was
                answered before it came, or before it went, is repeated all the same: that is what was missed.

        Raises:
            KeyReusedError: The key came with another fingerprint before, or for another life.
        """
        place = (owner, key)
        while (entry := self._look(place)) is not None:
            if entry.fingerprint != fingerprint:
                raise KeyReusedError("that Idempotency-Key was used for another request")
            if entry.life != life and entry.life is not None and life is not None:
                raise KeyReusedError("that Idempotency-Key was used for the sandbox before this one, of the same name")
            if entry.answer is not None:
                return entry.answer, True
            await entry.settled.wait()
        entry = self._entries[place] = _Entry(fingerprint, trio.current_time() + self._kept_s, life)
        try:
            written = await answer()
            if written.status < 500 or written.told_once:
                entry.answer = written
                self._bytes += len(written.body)
        finally:
            if entry.answer is None:
                del self._entries[place]
            entry.settled.set()
            self._make_room()
        return written, False

    def _look(self, place: tuple[str, str]) -> _Entry | None:
        entry = self._entries.get(place)
        if entry is not None and entry.answer is not None and entry.until <= trio.current_time():
            self._drop(place)
            return None
        return entry

    def _make_room(self) -> None:
        now = trio.current_time()
        for place, entry in list(self._entries.items()):
            if len(self._entries) <= self._entries_max and self._bytes <= self._bytes_max and entry.until > now:
                return
            if entry.answer is not None:
                self._drop(place)

    def _drop(self, place: tuple[str, str]) -> None:
        entry = self._entries.pop(place)
        assert entry.answer is not None
        self._bytes -= len(entry.answer.body)
