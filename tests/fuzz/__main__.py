"""Try to break the laws for as long as one likes: ``python -m tests.fuzz [TARGET ...] [--seconds N]``.

Every target in turn, by atheris where that is installed (``make fuzz`` sees to it), which looks for inputs that
reach new code and keeps them in ``.hypothesis/fuzz`` for the next run; else by hypothesis, which goes by the seeds
alone. An input that breaks a law is printed, is kept there too, and makes the exit code 1. Once it is mended it
becomes a test of its own, beside the tests of the module that was wrong.
"""

import argparse
import base64
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".hypothesis" / "fuzz"
SECONDS: Final = 10.0
"""For each target where nothing is said: time to see that all is well, not to search."""
INPUT_BYTES_MAX: Final = 4096
_BATCH: Final = 200
"""Examples of hypothesis between two looks at the clock."""
_COUNT: Final = re.compile(r"stat::number_of_executed_units: *(\d+)")


class Run(NamedTuple):
    """What came of one target."""

    inputs: int
    seconds: float
    failure: bytes | None
    """The input that broke a law."""
    trace: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Try to break the laws of the readers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, where none is named")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each target; {SECONDS:g} by default")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), help="atheris by default, where there is one")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        _fuzz_forever(options.targets[0], options.seconds)
        return 0
    from tests.fuzz.targets import TARGETS

    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    engine = options.engine or "atheris"
    if engine == "atheris" and importlib.util.find_spec("atheris") is None:
        engine = "hypothesis"
        _say("atheris is not installed (pip install --group fuzz): going on with hypothesis, which is not led by")
        _say("what the inputs reach, and so finds less")
    failed = False
    for name in options.targets or TARGETS:
        run = _by_atheris(name, options.seconds) if engine == "atheris" else _by_hypothesis(name, options.seconds)
        failed = failed or run.failure is not None
        _say(f"{name:18} {run.inputs:9} inputs in {run.seconds:6.1f} s by {engine}: {_verdict(name, run)}")
    return int(failed)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _verdict(name: str, run: Run) -> str:
    if run.failure is None:
        return "every law holds"
    kept = FOLDER / f"broken-{name}-{sha1(run.failure, usedforsecurity=False).hexdigest()[:12]}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(run.failure)
    encoded = base64.b64encode(run.failure).decode("ascii")
    return f"BROKEN by {run.failure!r}\n  kept in {kept}, in base64 {encoded}\n{run.trace}"


def _by_hypothesis(name: str, seconds: float) -> Run:
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests.fuzz.inputs import inputs
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    count = 0
    failure: bytes | None = None

    def check(data: bytes) -> None:
        nonlocal count, failure
        count += 1
        try:
            target.check(data)
        except Exception:
            # The last one is the one that hypothesis has made smallest.
            failure = data
            raise

    rules = settings(
        max_examples=_BATCH,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    began = time.monotonic()
    batch = 0
    trace = ""
    while failure is None and (not batch or time.monotonic() - began < seconds):
        batch += 1
        try:
            seed(time.time_ns())(rules(given(inputs(target.seeds()))(check)))()
        except Exception as error:  # noqa: BLE001  # told below, with the input that caused it
            trace = f"  {type(error).__name__}: {error}"
    return Run(count, time.monotonic() - began, failure, trace)


def _by_atheris(name: str, seconds: float) -> Run:
    """Let a process of its own do it: libFuzzer ends the one that it runs in."""
    known = FOLDER / name
    known.mkdir(parents=True, exist_ok=True)
    before = set(known.parent.glob("crash-*"))
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    count = _COUNT.search(done.stderr)
    failure: bytes | None = None
    for crash in set(known.parent.glob("crash-*")) - before:
        failure = crash.read_bytes()
        crash.unlink()
    if failure is None and (done.returncode or count is None):
        raise RuntimeError(f"the process of {name} failed:\n{done.stderr}{done.stdout}")
    # atheris prints the traceback; what libFuzzer says goes to stderr, and helps nobody here.
    return Run(int(count[1]) if count else 0, time.monotonic() - began, failure, done.stdout)


def _fuzz_forever(name: str, seconds: float) -> None:
    import atheris  # type: ignore[import-untyped,unused-ignore]  # installed by `make fuzz` only, and untyped

    # Only what is read with counts as reached: the readers, and the laws, whose branches tell cases apart.
    with atheris.instrument_imports(include=["proxy.core", "proxy.config", "actors.core", "actors.sandbox", "tests"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    known = FOLDER / name
    for seed in target.seeds():
        (known / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    flags = [
        f"-max_total_time={max(int(seconds), 1)}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={FOLDER}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(known), *flags], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
