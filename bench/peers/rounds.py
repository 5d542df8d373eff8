"""Samples, taken in turns: every proxy once in each round, so that a slow hour of the machine meets all of them."""

import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bench.peers import scene, smoke
from bench.peers.children import ChildError, child, read_line, tail, write_line
from bench.peers.install import MissingError, Peers
from bench.peers.machine import SLOW, Calibration, group_cpu_ns, group_memory_bytes
from bench.peers.proxies import DIRECT, Proxy, Running, running
from bench.peers.scene import Preview
from bench.peers.summary import CaseResult, Sample, conclude
from bench.peers.workloads import BODY_BYTES, Case, Cost, Workload

ANSWER_S: Final = 60.0
"""Beyond the load's own time: for its connections to open and its last requests to end."""

WARM_S: Final = 1.0
"""What a proxy gets of each case before it counts: V8 compiles what runs often."""

LATE_MAX: Final = 0.5
"""Of the other requests that were due; when more found all connections busy, it was another question that was asked."""

WARM_SOCKETS: Final = 32
WARM_SOCKETS_S: Final = 0.2
"""Whatever a proxy makes once for its first WebSockets is there before those that are counted."""


@dataclass(frozen=True)
class Setting:
    """What stays the same for a whole sitting."""

    peers: Peers
    programs: dict[str, Path]
    """Ours in C, by name."""
    folder: Path
    """For configurations and logs; removed by whoever made it."""
    proxy_core: int
    load_core: int
    calibration: Calibration
    seconds: float
    rounds: int
    attempts: int
    """How often a sample is taken while the machine is slow."""
    say: Callable[[str], None]
    """Told what goes on, for whoever watches."""


class SampleError(Exception):
    """The load had errors: what it measured is not what was asked."""


@dataclass(frozen=True)
class _Subject:
    """What is measured in each round."""

    name: str
    start: Callable[[], AbstractContextManager[Running]]
    """Starts it, and ends it with the block; or gives what runs already."""


def measure(workload: Workload, proxies: Sequence[Proxy], setting: Setting) -> tuple[CaseResult, ...]:
    """Take all samples of a workload."""
    taken: dict[str, dict[str, list[Sample]]] = {case.name: {} for case in workload.cases}
    skipped: dict[str, dict[str, str]] = {case.name: {} for case in workload.cases}

    def skip(name: str, reason: str, cases: Sequence[Case]) -> None:
        setting.say(f"{workload.name}: no {name}: {reason}")
        for case in cases:
            skipped[case.name].setdefault(name, reason)
            # Half a proxy's rounds cannot be compared with all of another's.
            taken[case.name].pop(name, None)

    with ExitStack() as stack:
        ports, served = stack.enter_context(_service(workload.cases[0].sandboxes, setting))
        subjects: list[_Subject] = []
        if not workload.only_portico and not workload.fresh:
            subjects.append(_Subject(DIRECT, lambda: nullcontext(Running(DIRECT, ports[0], None))))
        for proxy in proxies:
            try:
                subjects.append(_prepare(workload, proxy, served, setting, stack))
            except (MissingError, ChildError) as error:
                skip(proxy.name, str(error), workload.cases)
            except smoke.SmokeError as error:
                skip(proxy.name, f"does not do what it should: {error}", workload.cases)
        heads = {case.name: _write_heads(case, served, setting) for case in workload.cases}
        # The first round is to warm up, and is not counted.
        for number, case in itertools.product(range(-1, setting.rounds), workload.cases):
            if number < 0 and workload.fresh:
                continue
            for subject in _in_turn(subjects, number):
                if subject.name in skipped[case.name]:
                    continue
                what = "warming up" if number < 0 else f"round {number + 1} of {setting.rounds}"
                setting.say(f"{case.name}: {subject.name}, {what}")
                try:
                    with subject.start() as running_one:
                        if number < 0:
                            _attempt(case, running_one, heads[case.name], setting, min(WARM_S, setting.seconds))
                        else:
                            sample = _sample(case, running_one, heads[case.name], setting)
                            taken[case.name].setdefault(subject.name, []).append(sample)
                except (SampleError, ChildError) as error:
                    skip(subject.name, str(error), [case])
    return conclude(workload.cases, taken, skipped, SLOW)


def _prepare(
    workload: Workload, proxy: Proxy, served: Sequence[Preview], setting: Setting, stack: ExitStack
) -> _Subject:
    """Start a proxy and see that it does what it should; where each sample wants a fresh one, end it again.

    Raises:
        MissingError, ChildError, SmokeError: It cannot take part, and why.
    """
    if workload.name in proxy.lacks:
        raise MissingError(proxy.lacks[workload.name])
    start = functools.partial(_started, proxy, served, setting)
    setting.say(f"{workload.name}: {proxy.name} is checked")
    if workload.fresh:
        with start() as subject:
            _check(subject, served)
        return _Subject(proxy.name, start)
    subject = stack.enter_context(start())
    _check(subject, served)
    return _Subject(proxy.name, lambda: nullcontext(subject))


def _check(subject: Running, served: Sequence[Preview]) -> None:
    """See that a proxy does what it should; where it does not, its log may know why."""
    try:
        smoke.check(subject.port, served)
    except smoke.SmokeError as error:
        said = "" if subject.log is None else f"; its log: {tail(subject.log, 1)}"
        raise smoke.SmokeError(f"{error}{said}") from error


def _in_turn(subjects: Sequence[_Subject], number: int) -> Sequence[_Subject]:
    """Begin with another one each round: nobody is always first, or always after the same neighbour."""
    turn = number % max(len(subjects), 1)
    return [*subjects[turn:], *subjects[:turn]]


@contextmanager
def _service(sandboxes: int, setting: Setting) -> Iterator[tuple[list[int], tuple[Preview, ...]]]:
    """Start the service on two ports of its own, and give every sandbox both of them."""
    log = setting.folder / "service.log"
    with child([setting.programs["service"], "0", "0"], core=setting.load_core, log=log) as process:
        ports = [int(port) for port in read_line(process, ANSWER_S, log).split()]
        yield ports, scene.previews(sorted(ports), sandboxes)


@contextmanager
def _started(proxy: Proxy, served: Sequence[Preview], setting: Setting) -> Iterator[Running]:
    with (
        tempfile.TemporaryDirectory(prefix=f"{proxy.name}-", dir=setting.folder) as name,
        running(proxy, served, setting.peers, folder=Path(name), core=setting.proxy_core) as subject,
    ):
        yield subject


def _write_heads(case: Case, served: Sequence[Preview], setting: Setting) -> Path:
    path = setting.folder / f"{case.name}.heads"
    path.write_bytes(b"".join(case.heads(served)))
    return path


def _sample(case: Case, subject: Running, heads: Path, setting: Setting) -> Sample:
    """Take a sample; again while the machine is slow, and then the one with the least slowness."""
    if case.cost is Cost.SOCKET:
        # Memory does not depend on how fast the machine is.
        _attempt(case, subject, heads, setting, WARM_SOCKETS_S, WARM_SOCKETS)
        return _attempt(case, subject, heads, setting, setting.seconds)
    taken: list[Sample] = []
    for _ in range(setting.attempts):
        before = setting.calibration.slowness()
        sample = _attempt(case, subject, heads, setting, setting.seconds)
        slowness = max(before, setting.calibration.slowness())
        taken.append(msgspec.structs.replace(sample, slowness=slowness))
        if slowness <= SLOW:
            break
    return min(taken, key=lambda sample: sample.slowness)


def _attempt(
    case: Case, subject: Running, heads: Path, setting: Setting, seconds: float, connections: int | None = None
) -> Sample:
    """Run the load once."""
    connections = connections or case.connections
    group = subject.group
    memory = group_memory_bytes(group) if group is not None else 0
    log = setting.folder / "load.log"
    log.unlink(missing_ok=True)
    parts = [case.mode, str(subject.port), str(heads), str(connections), str(seconds), str(case.number)]
    with child([setting.programs["load"], *parts], core=setting.load_core, log=log) as process:
        read_line(process, ANSWER_S, log)
        cpu = group_cpu_ns(group) if group is not None else 0
        write_line(process)
        told: dict[str, float] = json.loads(read_line(process, seconds + ANSWER_S, log))
        # Before the load lets go of its connections.
        cpu = group_cpu_ns(group) - cpu if group is not None else 0
        memory = group_memory_bytes(group) - memory if group is not None else 0
        write_line(process)
        process.wait(ANSWER_S)
    if told["errors"]:
        what = ", ".join(f"{told[kind]:.0f} {kind}" for kind in ("statuses", "closes", "stuck") if told[kind])
        raise SampleError(f"{told['errors']:.0f} errors beside {told['done']:.0f} answers: {what}")
    if told["late"] > LATE_MAX * case.number * seconds:
        raise SampleError(f"does not keep up with {case.number} other requests a second")
    if case.cost is Cost.SOCKET:
        return Sample(memory / 1024 / connections)
    if not told["done"]:
        raise SampleError("no answers")
    rate = told["done"] / told["seconds"] * (BODY_BYTES / 1e6 if case.cost is Cost.GIB else 1)
    cost = None if group is None else case.cost.of(cpu, told["done"])
    return Sample(cost, rate, told["p50_us"], told["p99_us"])
