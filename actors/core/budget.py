"""How often visitors may have a sandbox woken.

A wake costs a process start or somebody's virtual machine, and a visit costs nothing; so whoever holds a URL could keep
a host busy with nothing but starting. Each sandbox therefore has so many wakes a minute, and each client address has so
many over all sandboxes. They are token buckets: full at first, refilled steadily. Owners are not counted.

Kept beside the actors and not in them, because an actor that leaves memory would forget how often it was woken.
"""

from typing import Final, NamedTuple

MINUTE_S: Final = 60.0

KEYS_MAX: Final = 10_000
"""Buckets remembered of each kind; beyond, those that are full again go, then the oldest. Bounds what visitors from
everywhere can make us remember: some 2 MiB."""


class _Level(NamedTuple):
    tokens: float
    at: float


class Bucket:
    """Buckets of one size, by key."""

    __slots__ = ("_levels", "_size")

    def __init__(self, per_minute: int) -> None:
        """Allow each key so many at once, and as many in each minute."""
        self._size: Final = float(per_minute)
        # {key: what was left in it when it was last taken from}; a key that is missing has a full one.
        self._levels: dict[str, _Level] = {}

    def allows(self, key: str, now: float) -> bool:
        """Say whether there is one to take, at `now` in seconds."""
        return self._left(key, now) >= 1.0

    def take(self, key: str, now: float) -> None:
        """Take one. Taking more than there is leaves a debt of none."""
        left = max(self._left(key, now) - 1.0, 0.0)
        self._levels.pop(key, None)
        if len(self._levels) >= KEYS_MAX:
            self._make_room(now)
        # At the end: the dictionary is in order of use.
        self._levels[key] = _Level(left, now)

    def _left(self, key: str, now: float) -> float:
        level = self._levels.get(key)
        if level is None:
            return self._size
        return min(self._size, level.tokens + (now - level.at) * self._size / MINUTE_S)

    def _make_room(self, now: float) -> None:
        # Whatever was last used a minute ago is full again.
        for key, level in list(self._levels.items()):
            if now - level.at < MINUTE_S:
                break
            del self._levels[key]
        if len(self._levels) >= KEYS_MAX:
            del self._levels[next(iter(self._levels))]

    def __len__(self) -> int:
        return len(self._levels)


class WakeBudget:
    """What is left of the wakes of each sandbox, and of each client."""

    __slots__ = ("_clients", "_sandboxes")

    def __init__(self, per_sandbox: int, per_client: int) -> None:
        """Allow so many wakes a minute."""
        self._sandboxes: Final = Bucket(per_sandbox)
        self._clients: Final = Bucket(per_client)

    def take(self, sandbox: str, client: str | None, now: float) -> bool:
        """Take one wake of both, or none and return False.

        Args:
            sandbox: Which is to wake.
            client: For whom: an address or a network of one subscriber; None is not counted.
            now: In seconds, on a clock that does not go back.
        """
        if not self._sandboxes.allows(sandbox, now) or (client is not None and not self._clients.allows(client, now)):
            return False
        self._sandboxes.take(sandbox, now)
        if client is not None:
            self._clients.take(client, now)
        return True
