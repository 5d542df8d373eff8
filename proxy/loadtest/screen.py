"""What is shown while a load test runs, and its report: for people, or for programs.

The live display is drawn from a task, four times a second, on a terminal alone; a report is printed whether the test
ran to its end or was stopped with Ctrl-C.
"""

import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from proxy.core.served import shown_path
from proxy.descriptors import allow_connections
from proxy.loadtest.client import Header, build_request, dial
from proxy.loadtest.drive import Plan, drive
from proxy.loadtest.tally import Report, Tally
from proxy.loadtest.target import LoadTarget, Word, outside, refusal, resolve

REDRAW_S: Final = 0.25


class TargetRefusedError(Exception):
    """The target may not be loaded; the text says why and what to do instead."""


@dataclass(frozen=True)
class Outcome:
    """A report, and whether it is of the whole test."""

    report: Report
    interrupted: bool

    @property
    def clean(self) -> bool:
        """Whether everything was answered, and well."""
        return bool(self.report.requests) and not self.report.errors


async def load(
    target: LoadTarget,
    headers: Sequence[Header],
    plan: Plan,
    console: Console,
    *,
    live: bool,
    vouch: Callable[[], Awaitable[Word]] | None = None,
) -> Outcome:
    """Load a target, showing how it goes; SIGINT and SIGTERM stop it, and what has been done is reported.

    Args:
        target: What to load.
        headers: Sent with each request.
        plan: How much.
        console: Where to show it.
        live: Whether to show how it goes.
        vouch: Asks the server whose key the caller holds; called only for a target that is not on this machine.

    Raises:
        TargetRefusedError: It is none that may be loaded; nothing was sent.
        ValueError: A header cannot be sent, or this process may not have so many connections.
    """
    request = build_request(target, headers)
    if allow_connections(plan.connections) < plan.connections:
        raise ValueError(f"{plan.connections} connections need more open files than are allowed: see `ulimit -n`")
    addresses = await resolve(target.host, target.port)
    word = await vouch() if vouch is not None and outside(addresses) else None
    if (why := refusal(addresses, word)) is not None:
        raise TargetRefusedError(why)
    if outside(addresses) and any(name.lower() == "host" for name, _ in headers):
        raise TargetRefusedError("--header cannot name another host than the URL's, which is the one that was judged")
    tls = ssl.create_default_context() if target.scheme == "https" else None
    tally = Tally()
    interrupted = False
    start = trio.current_time()

    async def stop_when_told(scope: trio.CancelScope) -> None:
        nonlocal interrupted
        async for _ in signals:
            interrupted = True
            scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_told, nursery.cancel_scope)
            if live:
                nursery.start_soon(_watch, tally, plan, console)
            await drive(plan, request, partial(dial, addresses, target, tls), tally)
            nursery.cancel_scope.cancel()
    return Outcome(tally.report(trio.current_time() - start, plan.rate), interrupted)


async def _watch(tally: Tally, plan: Plan, console: Console) -> None:
    """Redraw until cancelled."""
    start = trio.current_time()
    # Refreshed by hand: rich would do it from a thread of its own.
    with Live(console=console, auto_refresh=False, transient=True) as display:
        requests, then = 0, start
        while True:
            await trio.sleep(REDRAW_S)
            now = trio.current_time()
            rate = (tally.requests - requests) / (now - then)
            requests, then = tally.requests, now
            display.update(progress(tally, plan, now - start, rate), refresh=True)


def progress(tally: Tally, plan: Plan, seconds: float, rate: float) -> RenderableType:
    """Draw how far a test is: `seconds` since it began, `rate` since the last time."""
    shares = [seconds / plan.duration_s] if plan.duration_s is not None else []
    if plan.requests is not None:
        shares.append((tally.requests + tally.failures.total()) / plan.requests)
    numbers = Table.grid(padding=(0, 2))
    numbers.add_row(
        f"{seconds:.0f} s",
        f"{tally.requests:,} requests",
        f"{rate:,.0f}/s",
        f"p50 {_milliseconds(_ms(tally.percentile_s(0.5)))}",
        f"p99 {_milliseconds(_ms(tally.percentile_s(0.99)))}",
        f"{tally.errors:,} errors",
    )
    return Group(ProgressBar(total=1.0, completed=min(max(shares), 1.0), width=60), numbers)


def print_report(outcome: Outcome, target: LoadTarget, plan: Plan, console: Console) -> None:
    """Print what was found, for people. Neither host nor query nor headers: they may hold tokens."""
    report = outcome.report
    stopped = ", stopped before its end" if outcome.interrupted else ""
    what = f"GET {shown_path(target.path.encode())} on port {target.port}"
    how = f"{plan.connections} connections, {report.seconds:.1f} s{stopped}"
    console.print(f"{what}: {how}", markup=False, highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("requests", f"{report.requests:,}")
    asked = "" if report.asked_rate is None else f" of {report.asked_rate:,.0f} asked for"
    table.add_row("rate", f"{report.rate:,.1f} a second{asked}")
    for name, value in (
        ("p50", report.p50_ms),
        ("p90", report.p90_ms),
        ("p99", report.p99_ms),
        ("p99.9", report.p999_ms),
        ("slowest", report.max_ms),
        ("mean", report.mean_ms),
    ):
        table.add_row(name, _milliseconds(value))
    per_second = report.bytes / report.seconds if report.seconds else 0.0
    table.add_row("content", f"{report.bytes:,} bytes, {per_second / 1e6:,.2f} MB a second")
    table.add_row("statuses", ", ".join(f"{status}: {count:,}" for status, count in report.statuses.items()) or "none")
    errors = ", ".join(f"{kind}: {count:,}" for kind, count in report.errors.items())
    table.add_row("errors", errors or "none")
    if report.unfinished:
        table.add_row("unfinished", f"{report.unfinished:,} under way at the end")
    console.print(table, highlight=False)


def print_json(outcome: Outcome, console: Console) -> None:
    """Print what was found, for programs: one line."""
    plain: dict[str, object] = {**msgspec.to_builtins(outcome.report), "interrupted": outcome.interrupted}
    console.print(msgspec.json.encode(plain).decode(), markup=False, highlight=False, soft_wrap=True)


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1000


def _milliseconds(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:,.2f} ms" if value_ms < 100 else f"{value_ms:,.0f} ms"
