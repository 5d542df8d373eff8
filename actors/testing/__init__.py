"""What tests of Portico, and of what is built on it, can use. Comes with ``pip install portico[testing]``.

::

    machine      `SandboxMachine`: hypothesis lives the life of a sandbox, and you add your own rules and laws
    plain        `PlainSandbox`: the state model once more in plain dictionaries, which the machine compares with
    strategies   what hypothesis draws: names, secrets, commands, histories, states, visits
    stores       `check_store`: whether a store keeps its promises
    storage      `FaultyFiles`, `FaultyStore`: disks and stores that fail on cue
    memoryfiles  `MemoryFiles`: a file system in memory that forgets in a power cut what was not synced
    containers   `check_container`: whether a kind of container keeps its promises; `fake_containers`: one that does

A property of your own platform, in full::

    from hypothesis import given
    from actors.testing import strategies

    @given(strategies.states())
    def test_our_summary_shows_no_token(state):
        assert all(port.token.reveal() not in summary(state) for port in state.ports.values())

``examples/testing/test_my_platform.py`` is a whole test suite of somebody else's. `proxy.testing` has the engine.
"""

from actors.testing import strategies as strategies
from actors.testing.containers import FakeContainer as FakeContainer
from actors.testing.containers import FakeContainers as FakeContainers
from actors.testing.containers import FakeProcess as FakeProcess
from actors.testing.containers import FakeProgram as FakeProgram
from actors.testing.containers import FakeRun as FakeRun
from actors.testing.containers import Handler as Handler
from actors.testing.containers import fake_containers as fake_containers
from actors.testing.machine import HeldVisit as HeldVisit
from actors.testing.machine import SandboxMachine as SandboxMachine
from actors.testing.memoryfiles import Keep as Keep
from actors.testing.memoryfiles import MemoryFiles as MemoryFiles
from actors.testing.plain import PlainSandbox as PlainSandbox
from actors.testing.promises import Serve as Serve
from actors.testing.promises import check_container as check_container
from actors.testing.storage import Fault as Fault
from actors.testing.storage import FaultyFiles as FaultyFiles
from actors.testing.storage import FaultyStore as FaultyStore
from actors.testing.storage import Operation as Operation
from actors.testing.stores import check_store as check_store
