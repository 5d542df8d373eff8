"""Children of an actor: counted, waited for, cancelled, and never anybody else's problem."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from actors.children import Children


async def wait_for(event: trio.Event) -> None:
    await event.wait()


async def also_wait_for(event: trio.Event) -> None:
    await event.wait()


async def fail() -> None:
    raise ValueError("a bug")


@asynccontextmanager
async def finishing(children: Children, *tasks: object) -> AsyncIterator[list[str]]:
    """Tell when `wait_none`, or `wait_only` of tasks, has returned."""
    told: list[str] = []

    async def wait() -> None:
        await (children.wait_only(*tasks) if tasks else children.wait_none())
        told.append("none left")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        yield told


async def test_children_count_until_they_have_ended(nursery: trio.Nursery) -> None:
    children = Children(nursery)
    one, two = trio.Event(), trio.Event()
    children.start(wait_for, one)
    children.start(wait_for, two)
    assert len(children) == 2
    async with finishing(children) as told:
        one.set()
        await wait_all_tasks_blocked()
        assert (len(children), told) == (1, [])
        two.set()
        await wait_all_tasks_blocked()
        assert (len(children), told) == (0, ["none left"])


async def test_a_child_that_only_watches_does_not_count(nursery: trio.Nursery) -> None:
    children = Children(nursery)
    children.start_unminded(wait_for, trio.Event())
    assert not children
    await children.wait_none()
    children.cancel()


async def test_one_kind_of_child_can_be_waited_for(nursery: trio.Nursery) -> None:
    children = Children(nursery)
    one, two = trio.Event(), trio.Event()
    children.start(wait_for, one)
    children.start(also_wait_for, two)
    async with finishing(children, wait_for) as told:
        one.set()
        await wait_all_tasks_blocked()
        assert (len(children), told) == (1, ["none left"])
        two.set()


async def test_cancelled_children_end_and_their_nursery_lives_on(nursery: trio.Nursery) -> None:
    children = Children(nursery)
    children.start(wait_for, trio.Event())
    children.start_unminded(wait_for, trio.Event())
    await wait_all_tasks_blocked()
    children.cancel()
    await children.wait_none()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert not nursery.cancel_scope.cancel_called


@pytest.mark.parametrize("minded", [True, False])
async def test_a_child_that_fails_is_logged_and_takes_nobody_down(nursery: trio.Nursery, minded: bool) -> None:
    children = Children(nursery)
    with capture_logs() as lines:
        (children.start if minded else children.start_unminded)(fail)
        await children.wait_none()
        await wait_all_tasks_blocked()
    assert [(line["event"], line["task"]) for line in lines] == [("child failed", "fail")]
    assert not nursery.cancel_scope.cancel_called
