"""The store in memory keeps the promises, and holds what a file would hold."""

import pytest

from actors.core.record import Tail, scan
from actors.errors import LogCorruptError
from actors.memorystore import MemoryStore
from actors.sandbox.ids import SandboxId
from actors.store import Entry
from actors.testing.stores import check_store

SANDBOX = SandboxId("my-app")


async def test_memory_store_keeps_the_promises() -> None:
    store = MemoryStore()
    await check_store(lambda: store)


async def test_tampered_log_is_refused_at_its_offset() -> None:
    store = MemoryStore()
    tenure = await store.claim(SANDBOX)
    await store.append(tenure, [Entry(1.0, "A", 1, {})])
    seen: list[bytes] = []

    def flip(data: bytes) -> bytes:
        seen.append(data)
        return data[:-1] + bytes([data[-1] ^ 1])

    store.tamper(SANDBOX, flip)
    assert scan(seen[0], SANDBOX).tail is Tail.CLEAN
    with pytest.raises(LogCorruptError, match="my-app") as caught:
        await store.claim(SANDBOX)
    assert caught.value.offset == 0


async def test_buried_history_is_kept() -> None:
    store = MemoryStore()
    for number in (1, 2):
        tenure = await store.claim(SANDBOX)
        await store.append(tenure, [Entry(1.0, "A", number, {})])
        await store.bury(tenure)
    assert [history.records[0].version for history in await store.buried(SANDBOX)] == [1, 2]
