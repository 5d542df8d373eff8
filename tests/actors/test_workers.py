"""Blocking calls in threads: outcomes, cancellation, the bound, and the end."""

import os
import threading

import pytest
import trio
import trio.testing

from actors.workers import Workers


def workers_alive() -> int:
    return sum(thread.name.startswith("portico-store-") for thread in threading.enumerate())


async def wait_workers_ended() -> None:
    while workers_alive():
        for thread in threading.enumerate():
            if thread.name.startswith("portico-store-"):
                await trio.to_thread.run_sync(thread.join)


async def test_value_and_error_of_the_call_come_back() -> None:
    with Workers() as workers:
        assert await workers.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await workers.run(divmod, 7, 0)
        assert await workers.run(threading.get_ident) != threading.get_ident()


async def test_no_more_calls_run_at_once_than_allowed_and_all_are_made() -> None:
    lock = threading.Lock()
    now, most, made = 0, 0, 0
    gate = threading.Event()

    def call() -> None:
        nonlocal now, most, made
        with lock:
            now += 1
            most = max(most, now)
        gate.wait()
        with lock:
            now -= 1
            made += 1

    with Workers(3) as workers:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(workers.run, call)
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
    assert most <= 3
    assert made == 10


async def test_call_of_a_cancelled_task_is_not_made() -> None:
    made: list[int] = []
    with Workers() as workers:
        with trio.CancelScope() as scope:
            scope.cancel()
            await workers.run(made.append, 1)
        assert scope.cancelled_caught
    assert made == []


async def test_cancelled_call_under_way_returns_its_value_first() -> None:
    begun, gate = threading.Event(), threading.Event()

    def call() -> str:
        begun.set()
        gate.wait()
        return "done"

    results: list[str] = []
    scope = trio.CancelScope()
    with Workers() as workers:

        async def wait() -> None:
            with scope:
                results.append(await workers.run(call))
                await trio.lowlevel.checkpoint()
                pytest.fail("the cancellation got lost")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.to_thread.run_sync(begun.wait)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            gate.set()
    assert results == ["done"]
    assert scope.cancelled_caught


async def test_threads_and_descriptor_go_when_the_block_ends() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Workers() as workers:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(workers.run, os.getpid)
        assert workers_alive() > 0
    await wait_workers_ended()
    assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(RuntimeError, match="not at work"):
        await workers.run(os.getpid)


async def test_calls_made_before_any_task_of_the_pool_has_run_are_all_made() -> None:
    # In whatever order the scheduler begins the pool's own tasks and these.
    for _ in range(100):
        with trio.fail_after(10), Workers() as workers:
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(workers.run, os.getpid)
    await wait_workers_ended()


async def test_descriptor_goes_when_there_was_nothing_to_do() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Workers():
        pass
    await trio.testing.wait_all_tasks_blocked()
    assert set(os.listdir("/proc/self/fd")) <= before


async def test_call_under_way_outlives_the_block() -> None:
    gate = threading.Event()
    results: list[bool] = []
    workers = Workers()

    async def wait() -> None:
        results.append(await workers.run(gate.wait))

    async with trio.open_nursery() as nursery:
        with workers:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert results == [True]
    await wait_workers_ended()


async def test_many_calls_at_once_lose_no_wake_up() -> None:
    count = 0
    with Workers() as workers:

        async def repeat() -> None:
            nonlocal count
            for _ in range(50):
                await workers.run(os.getpid)
                count += 1

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(repeat)
    assert count == 2000


async def test_call_waits_for_a_thread_when_the_system_has_no_more_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers() as workers:
        await workers.run(int)

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        async def run_one() -> None:
            await workers.run(int)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(run_one)


async def test_call_fails_when_there_is_no_thread_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with trio.fail_after(5), Workers() as workers:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                await workers.run(int)
        assert await workers.run(int) == 0
