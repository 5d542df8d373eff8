"""The promises of `actors.store.Store`, as a check that any implementation can be put through.

::

    async def test_my_store():
        await check_store(lambda: MyStore(...))

Each promise is one function; `check_store` runs them all on fresh sandboxes of one open store, and once more after
it was closed and opened again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from actors.errors import FencedError, SandboxNotFoundError, StoreError
from actors.sandbox.ids import SYSTEM, SandboxId
from actors.store import Entry, History, Store

_ALL_PLAIN: Final[dict[str, object]] = {
    "none": None,
    "bool": True,
    "int": -(2**63),
    "float": 0.1,
    "text": "Grüße\0",
    "bytes": b"\x00\xff",
    "list": [1, ["two", None]],
    "dict": {"nested": {"deep": [False]}},
}


async def check_store(open_store: Callable[[], AbstractAsyncContextManager[Store]]) -> None:
    """Put a store through everything the Protocol promises.

    Args:
        open_store: Opens the same store each time, so that what one opening wrote the next one finds. It must begin
            without any sandbox.

    Raises:
        AssertionError: Naming the promise that was broken.
    """
    async with open_store() as store:
        for number, check in enumerate(_CHECKS):
            async with _nothing_else_raised(check.__doc__ or ""):
                await check(store, SandboxId(f"check-{number}"))
        async with _nothing_else_raised("listing"):
            await _check_listing(store)
        tenure = await store.claim(SandboxId("reopened"))
        await store.append(tenure, [_entry(1), _entry(2)])
        epoch = tenure.epoch
    async with open_store() as store, _nothing_else_raised("reopening"):
        tenure = await store.claim(SandboxId("reopened"))
        _promise(_numbers(await store.read(tenure.sandbox)) == [1, 2], "what was acknowledged is found after reopening")
        _promise(tenure.epoch > epoch, "an epoch is never given out twice, across openings")


async def _check_first_claim(store: Store, sandbox: SandboxId) -> None:
    """A new log."""
    _promise(not store.exists(sandbox), "a sandbox without a log does not exist")
    tenure = await store.claim(sandbox)
    _promise(tenure.history is not None and tenure.history.sequence == 0, "a new log is empty")
    _promise(tenure.sequence == 0, "a new log begins at sequence 0")
    _promise(not store.exists(sandbox), "claiming writes nothing")
    async with _raises(SandboxNotFoundError, "reading a sandbox without a log says that there is none"):
        await store.read(sandbox)
    await store.append(tenure, [_entry(1)])
    _promise(store.exists(sandbox), "a sandbox exists from its first record on")


async def _check_round_trip(store: Store, sandbox: SandboxId) -> None:
    """Records come back."""
    tenure = await store.claim(sandbox)
    await store.append(tenure, [Entry(1234.5, "Tried", 3, _ALL_PLAIN)])
    (record,) = (await store.read(sandbox)).records
    _promise(
        (record.sequence, record.epoch, record.time, record.name, record.version)
        == (1, tenure.epoch, 1234.5, "Tried", 3),
        "a record comes back with its place, time, name and version",
    )
    _promise(record.fields == _ALL_PLAIN, "plain fields come back as they were")


async def _check_sequence(store: Store, sandbox: SandboxId) -> None:
    """Sequence numbers."""
    tenure = await store.claim(sandbox)
    await store.append(tenure, [_entry(1), _entry(2), _entry(3)])
    _promise(tenure.sequence == 3, "the tenure's sequence is that of the last durable record")
    await store.append(tenure, [])
    _promise(tenure.sequence == 3, "appending nothing changes nothing")
    history = await store.read(sandbox)
    _promise([record.sequence for record in history.records] == [1, 2, 3], "sequences have no gaps")
    _promise(_numbers(history) == [1, 2, 3], "records keep the order they were appended in")


async def _check_fencing(store: Store, sandbox: SandboxId) -> None:
    """Fencing."""
    older = await store.claim(sandbox)
    await store.append(older, [_entry(1)])
    newer = await store.claim(sandbox)
    _promise(newer.epoch > older.epoch, "each claim has a greater epoch")
    _promise(newer.history is not None and newer.history.sequence == 1, "a claim finds what was recorded before")
    async with _raises(FencedError, "an older tenure appends nothing"):
        await store.append(older, [_entry(2)])
    async with _raises(FencedError, "an older tenure compacts nothing"):
        await store.compact(older, _entry(2))
    async with _raises(FencedError, "an older tenure buries nothing"):
        await store.bury(older)
    await store.append(newer, [_entry(3)])
    _promise(_numbers(await store.read(sandbox)) == [1, 3], "what a fenced tenure tried is not in the log")
    third = await store.claim(sandbox)
    _promise(
        (await store.claim(sandbox)).epoch > third.epoch, "each claim has a greater epoch, even if it wrote nothing"
    )


async def _check_concurrent_appends(store: Store, sandbox: SandboxId) -> None:
    """Appends at once."""
    tenure = await store.claim(sandbox)
    acknowledged: list[int] = []

    async def append(number: int) -> None:
        await store.append(tenure, [_entry(number), _entry(number)])
        acknowledged.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(append, number)
    history = await store.read(sandbox)
    numbers = _numbers(history)
    _promise(sorted(numbers) == sorted(acknowledged * 2), "appends at once are all recorded, each once")
    _promise(numbers[::2] == numbers[1::2], "an append is not interleaved with another")
    _promise(tenure.sequence == len(numbers), "appends at once each have their own sequence numbers")


async def _check_rival_tenures(store: Store, sandbox: SandboxId) -> None:
    """Rival tenures."""
    acknowledged: list[int] = []

    async def compete(number: int) -> None:
        tenure = await store.claim(sandbox)
        try:
            await store.append(tenure, [_entry(number)])
        except FencedError:
            return
        acknowledged.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(compete, number)
    numbers = _numbers(await store.read(sandbox))
    _promise(sorted(numbers) == sorted(acknowledged), "of rival tenures, exactly the acknowledged appends count")


async def _check_compaction(store: Store, sandbox: SandboxId) -> None:
    """Compaction."""
    tenure = await store.claim(sandbox)
    async with _raises(ValueError, "an empty log has nothing to compact"):
        await store.compact(tenure, _entry(0))
    await store.append(tenure, [_entry(1), _entry(2)])
    records, size = store.size_since_snapshot(tenure)
    _promise(records == 2 and size > 0, "the size since the snapshot counts what was appended")
    await store.compact(tenure, Entry(2.0, "snapshot", 7, {"number": 99}))
    _promise(tenure.sequence == 2, "compacting gives out no sequence number")
    _promise(store.size_since_snapshot(tenure) == (0, 0), "after compacting nothing is left to compact")
    await store.append(tenure, [_entry(3)])
    for history in (await store.read(sandbox), (await store.claim(sandbox)).history):
        _promise(history is not None and history.snapshot is not None, "a snapshot is found again")
        assert history is not None
        assert history.snapshot is not None
        _promise(history.snapshot.sequence == 2, "a snapshot keeps the sequence number it stands for")
        _promise(
            history.snapshot.version == 7 and history.snapshot.fields == {"number": 99},
            "a snapshot comes back as it was",
        )
        _promise(
            [(record.sequence, record.fields) for record in history.records] == [(3, {"number": 3})],
            "after a snapshot come the records appended since",
        )


async def _check_refusals(store: Store, sandbox: SandboxId) -> None:
    """Refusals."""
    tenure = await store.claim(sandbox)
    for fields in ({"object": object()}, {"large": bytes(2**21)}):
        async with _raises(ValueError, "what cannot be stored is refused"):
            await store.append(tenure, [_entry(1), Entry(1.0, "Bad", 1, fields)])
    _promise(not store.exists(sandbox), "an append that is refused writes none of its records")
    await store.append(tenure, [_entry(2)])
    _promise(_numbers(await store.read(sandbox)) == [2], "after a refused append the tenure lives on")


async def _check_release(store: Store, sandbox: SandboxId) -> None:
    """Release."""
    tenure = await store.claim(sandbox)
    await store.append(tenure, [_entry(1)])
    await store.release(tenure)
    await store.release(tenure)
    async with _raises(FencedError, "a released tenure cannot append"):
        await store.append(tenure, [_entry(2)])
    again = await store.claim(sandbox)
    _promise(again.epoch > tenure.epoch, "a claim after a release has a greater epoch")
    await store.release(tenure)
    await store.append(again, [_entry(3)])
    _promise(_numbers(await store.read(sandbox)) == [1, 3], "releasing an older tenure leaves the current one alone")


async def _check_burial(store: Store, sandbox: SandboxId) -> None:
    """Burial."""
    tenure = await store.claim(sandbox)
    await store.append(tenure, [_entry(1)])
    await store.bury(tenure)
    _promise(not store.exists(sandbox), "a buried sandbox does not exist")
    async with _raises(FencedError, "burying ends the tenure"):
        await store.append(tenure, [_entry(2)])
    again = await store.claim(sandbox)
    _promise(again.sequence == 0 and again.epoch > tenure.epoch, "the id of a buried sandbox can be used again")
    await store.append(again, [_entry(3)])
    _promise(_numbers(await store.read(sandbox)) == [3], "a new sandbox has nothing of the buried one")
    await store.bury(again)
    _promise(not store.exists(sandbox), "an id can be buried twice")


async def _check_cancellation(store: Store, sandbox: SandboxId) -> None:
    """Cancellation."""
    tenure = await store.claim(sandbox)
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.append(tenure, [_entry(1)])
    # Either it was not begun or it was finished; the tenure knows which.
    before = tenure.sequence
    await store.append(tenure, [_entry(2)])
    history = await store.read(sandbox)
    _promise(history.sequence == before + 1, "a cancelled append is known to be in the log or not")


async def _check_listing(store: Store) -> None:
    system = await store.claim(SYSTEM)
    await store.append(system, [_entry(1)])
    await store.release(system)
    _promise(store.exists(SYSTEM), "what belongs to no sandbox is kept as any log is")
    listed = list(await store.sandboxes())
    _promise(listed == sorted(listed), "sandboxes are listed in order")
    _promise(SYSTEM not in listed, "what belongs to no sandbox is not listed")
    _promise(all(store.exists(sandbox) for sandbox in listed), "what is listed exists")
    expected = {SandboxId(f"check-{number}") for number in range(len(_CHECKS))}
    _promise({sandbox for sandbox in expected if store.exists(sandbox)} == set(listed), "what exists is listed")


_CHECKS: Final[tuple[Callable[[Store, SandboxId], Awaitable[None]], ...]] = (
    _check_first_claim,
    _check_round_trip,
    _check_sequence,
    _check_fencing,
    _check_concurrent_appends,
    _check_rival_tenures,
    _check_compaction,
    _check_refusals,
    _check_release,
    _check_burial,
    _check_cancellation,
)


def _entry(number: int) -> Entry:
    return Entry(time=float(number), name="Numbered", version=1, fields={"number": number})


def _numbers(history: History) -> list[int]:
    numbers = [record.fields["number"] for record in history.records]
    return [number for number in numbers if isinstance(number, int)]


def _promise(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(f"a store's promise is broken: {promise}")


@asynccontextmanager
async def _nothing_else_raised(what: str) -> AsyncIterator[None]:
    """Let broken promises through, and turn whatever else a store raises into one."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"a store's promise is broken: {what}: it raised {error!r}") from error


@asynccontextmanager
async def _raises(expected: type[Exception], promise: str) -> AsyncIterator[None]:
    try:
        yield
    except expected:
        return
    except (StoreError, ValueError) as error:
        raise AssertionError(f"a store's promise is broken: {promise}; it raised {error!r}") from error
    raise AssertionError(f"a store's promise is broken: {promise}; it raised nothing")
