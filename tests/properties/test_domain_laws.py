"""Whatever happens in whatever order, a custom hostname leads where it was bound, and nobody outstays it.

Interleavings of binding, showing, giving back, leading elsewhere, exposing, unexposing, destroying and making anew are
held against a plain model. After every step: a hostname that stands admits, one that does not admits nobody, old
bindings never open anything again, and of the visits under way those are cut whose binding or exposure is gone, and no
others.
"""

from dataclasses import dataclass, field

import trio
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import PorticoError
from actors.memorystore import MemoryStore
from actors.runtime import Runtime, open_runtime
from actors.sandbox.admission import VisitRequest
from actors.sandbox.domains import DomainBinding, Proof
from actors.sandbox.ids import Port, SandboxId
from actors.surroundings import Limits
from actors.testing.containers import fake_containers
from actors.visits import Visit

NAMES = ("a.example.org", "b.example.org")
SANDBOXES = ("one", "two")
PORTS = (8080, 8081)
LIMITS = Limits(wakes_per_minute=10**6)

names, sandboxes, ports = (st.sampled_from(values) for values in (NAMES, SANDBOXES, PORTS))
steps = st.one_of(
    st.tuples(st.just("bind"), names, sandboxes, ports),
    st.tuples(st.sampled_from(["show", "record"]), names, sandboxes, ports),
    st.tuples(st.just("unbind"), names, sandboxes, ports),
    st.tuples(st.sampled_from(["expose", "expose", "unexpose", "destroy"]), names, sandboxes, ports),
    st.tuples(st.just("visit"), names, sandboxes, ports),
)


@dataclass
class Held:
    """A visit under way, and what it leaned on."""

    visit: Visit
    binding: DomainBinding
    exposure: int


@dataclass
class World:
    """A runtime, and what a plain model says of it."""

    runtime: Runtime
    bound: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict)
    """By hostname and sandbox: the port, and whether it was shown."""
    exposed: dict[tuple[str, int], int] = field(default_factory=dict)
    """By sandbox and port: another number each time it is exposed."""
    counter: int = 0
    seen: dict[int, DomainBinding] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)

    def holder(self, name: str) -> tuple[str, int] | None:
        for (hostname, sandbox), (port, shown) in self.bound.items():
            if hostname == name and shown:
                return sandbox, port
        return None

    async def take(self, what: str, name: str, sandbox: str, port: int) -> None:
        owned = await self.runtime.get_sandbox(sandbox, container="fake")
        key, holder = (name, sandbox), self.holder(name)
        match what:
            case "bind":
                assert await done(owned.bind_domain(name, port))
                self.bound[key] = (port, self.bound.get(key, (0, False))[1])
            case "show" | "record" if key in self.bound:
                free = holder is None or holder[0] == sandbox
                proof = Proof.SITE if what == "show" else Proof.DNS
                shown = self.runtime.domains.verify(self.runtime.domains.binding(name, SandboxId(sandbox)), proof)
                assert await done(shown) is (free or proof is Proof.DNS)
                if holder is not None and not free and proof is Proof.DNS:
                    del self.bound[name, holder[0]]
                if free or proof is Proof.DNS:
                    self.bound[key] = (self.bound[key][0], True)
            case "unbind":
                await owned.unbind_domain(name)
                self.bound.pop(key, None)
            case "expose":
                await owned.expose_port(port, hostname="example.com")
                if (sandbox, port) not in self.exposed:
                    self.counter += 1
                    self.exposed[sandbox, port] = self.counter
            case "unexpose":
                await owned.unexpose_port(port)
                self.exposed.pop((sandbox, port), None)
            case "destroy":
                await owned.destroy()
                self.bound = {other: one for other, one in self.bound.items() if other[1] != sandbox}
                self.exposed = {place: one for place, one in self.exposed.items() if place[0] != sandbox}
            case "visit":
                await self.visit(name)

    async def visit(self, name: str) -> None:
        found = self.runtime.domains.find(name)
        holder = self.holder(name)
        assert (None if found is None else (str(found.sandbox), int(found.port))) == holder
        if found is None:
            return
        self.seen[found.number] = found
        visit = await self.knock(found)
        exposure = self.exposed.get((str(found.sandbox), int(found.port)))
        assert (visit is not None) is (exposure is not None)
        if visit is not None and exposure is not None:
            visit.on_cut(lambda _: visit.end())
            self.held.append(Held(visit, found, exposure))

    async def knock(self, binding: DomainBinding) -> Visit | None:
        request = VisitRequest(Port(binding.port), binding=binding.number)
        judged = await self.runtime.admit(binding.sandbox, request)
        return judged if isinstance(judged, Visit) else None

    def stands(self, binding: DomainBinding) -> bool:
        return self.runtime.domains.find(binding.hostname) == binding

    async def check(self) -> None:
        for held in self.held:
            place = (str(held.binding.sandbox), int(held.binding.port))
            holds = self.holder(held.binding.hostname) == place and self.exposed.get(place) == held.exposure
            if not holds:
                assert held.visit.cut_because is not None, "a visit outlived what it came by"
            elif self.stands(held.binding):
                assert held.visit.cut_because is None, "a visit was cut that leaned on nothing that is gone"
        self.held = [held for held in self.held if held.visit.cut_because is None]
        for binding in self.seen.values():
            if not self.stands(binding):
                assert await self.knock(binding) is None, "an old binding has opened something"


async def done(change: object) -> bool:
    """Say whether a change was made, or refused."""
    try:
        await change  # type: ignore[misc]  # any awaitable
    except PorticoError:
        return False
    return True


async def live(taken: list[tuple[str, str, str, int]]) -> None:
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}, limits=LIMITS) as runtime:
        world = World(runtime)
        for step in taken:
            await world.take(*step)
            await world.check()
        for held in world.held:
            held.visit.end()


@given(st.lists(steps, max_size=30))
def test_hostname_leads_where_it_was_bound_and_nobody_outstays_it(taken: list[tuple[str, str, str, int]]) -> None:
    trio.run(live, taken)
