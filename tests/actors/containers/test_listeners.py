"""Whose a listening port is: the kernel's tables read, and real sockets of real processes."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.containers import listeners
from actors.containers.base import ProcessOptions
from actors.containers.listeners import Listener, answering, is_anothers, parse_listeners

from .conftest import Lifeline, Up

# Listens, and says where; then does what the variable says.
SERVICE = """
import os, socket, subprocess, sys
sock = socket.create_server(("127.0.0.1", 0))
sock.set_inheritable(True)
says = open(os.environ["SAY"], "w")
print(sock.getsockname()[1], file=says, flush=True)
wait = [sys.executable, "-c", "import signal; signal.pause()"]
if os.environ["HELPER"]:
    subprocess.Popen(wait, close_fds=False, start_new_session=True)
    sys.exit()
os.execv(wait[0], wait)
"""
HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"


@pytest.fixture
def elsewhere() -> Iterator[socket.socket]:
    """What another program listens with: this one."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def row(address: str, port: int, inode: int = 1, state: str = "0A", user: int = 0) -> str:
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {user} 0 {inode} 1"


V4_LOOPBACK, V4_ANY = "0100007F", "00000000"
V6_LOOPBACK, V6_ANY = "00000000000000000000000001000000", "0" * 32
V6_MAPPED = "0000000000000000FFFF00000100007F"


def test_table_is_read_as_far_as_sockets_listen() -> None:
    table = [HEADING, row(V4_ANY, 8080, 7, user=1000), row(V4_LOOPBACK, 9090, 8, state="01"), row(V4_ANY, 1, 9)]
    assert [*parse_listeners(table)] == [Listener(V4_ANY, 8080, 1000, 7)]


def test_table_that_is_longer_than_is_looked_at_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "LISTENERS_MAX", 2)
    assert len([*parse_listeners([HEADING, *[row(V4_ANY, 1)] * 2])]) == 2
    with pytest.raises(ValueError, match="too many"):
        [*parse_listeners([HEADING, *[row(V4_ANY, 1)] * 3])]


@given(st.lists(st.text(max_size=200), max_size=5))
def test_garbage_is_refused_or_no_row(lines: list[str]) -> None:
    try:
        for found in parse_listeners(lines):
            assert isinstance(found, Listener)
    except ValueError:
        pass


def test_own_socket_is_in_the_kernels_table(elsewhere: socket.socket) -> None:
    port, inode = elsewhere.getsockname()[1], os.fstat(elsewhere.fileno()).st_ino
    assert Listener(V4_LOOPBACK, port, os.geteuid(), inode) in listeners._table("tcp")


@pytest.mark.parametrize(
    ("v4", "v6", "expected"),
    [
        ([V4_LOOPBACK, V4_ANY], [V6_ANY], [V4_LOOPBACK]),
        ([V4_LOOPBACK, V4_LOOPBACK], [], [V4_LOOPBACK, V4_LOOPBACK]),
        ([V4_ANY], [V6_MAPPED], [V6_MAPPED]),
        ([V4_ANY], [V6_ANY, V6_LOOPBACK], [V4_ANY]),
        ([], [V6_LOOPBACK, V6_ANY], [V6_ANY, V6_LOOPBACK]),
        (["0A00000A"], [], []),
    ],
)
def test_the_address_of_its_own_answers_before_any_address(v4: list[str], v6: list[str], expected: list[str]) -> None:
    tables = [[Listener(address, 80, 0, 1) for address in addresses] for addresses in (v4, v6)]
    tables[0].append(Listener(V4_LOOPBACK, 81, 0, 1))
    assert [one.address for one in answering(80, *tables)] == expected


@pytest.mark.parametrize("helper", ["", "yes"])
async def test_port_of_a_service_or_of_what_has_inherited_it_is_the_runs(
    up: Up, lifeline: Lifeline, helper: str
) -> None:
    async with up() as run:
        env = {"SAY": str(lifeline.path), "HELPER": helper}
        service = await run.start_process(ProcessOptions([sys.executable, "-c", SERVICE], env=env))
        [port] = await lifeline.wait_held()
        if helper:
            await service.wait()
        assert not await run.is_anothers(int(port))
        async with up("run-2") as other:
            assert await other.is_anothers(int(port))


async def test_port_of_another_program_is_not_the_runs(up: Up, elsewhere: socket.socket) -> None:
    async with up() as run:
        await run.start_process(ProcessOptions("exec sleep 1000000"))
        assert await run.is_anothers(elsewhere.getsockname()[1])
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
            assert await run.is_anothers(sock.getsockname()[1])


def test_where_nobody_listens_nothing_is_anothers(elsewhere: socket.socket) -> None:
    port = elsewhere.getsockname()[1]
    elsewhere.close()
    assert not is_anothers(port, os.getpid())


def test_what_cannot_be_told_is_nobody_elses(elsewhere: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    port, nobody = elsewhere.getsockname()[1], 1
    with open("/proc/self/comm") as file:
        name = file.read().strip()

    def locked(path: str) -> list[str]:
        raise PermissionError(path)

    family: dict[int, int] = {}
    monkeypatch.setattr(listeners, "descendants", lambda _: family)
    assert is_anothers(port, nobody)
    for what, value in (("DESCRIPTORS_MAX", 0), ("LISTENERS_MAX", 0), ("FORWARDERS", {name})):
        with monkeypatch.context() as patch:
            patch.setattr(listeners, what, value)
            assert not is_anothers(port, nobody), what
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        assert not is_anothers(port, nobody), "another user's"
    with monkeypatch.context() as patch:
        listdir = os.listdir
        patch.setattr(os, "listdir", lambda path: locked(path) if path.endswith("/fd") else listdir(path))
        assert not is_anothers(port, nobody), "no holder to be seen"
        family[os.getpid()] = 0
        assert not is_anothers(port, nobody), "a process of the run that cannot be looked into"
        patch.setattr(os, "listdir", lambda path: locked(path) if path == "/proc/1/fd" else listdir(path))
        family.clear()
        assert is_anothers(port, nobody), "one of the others is of no account"
        family[1] = 0
        assert not is_anothers(port, nobody), "it may be that one's"
