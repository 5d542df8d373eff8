"""Answers and failures of a load test, and what they come to. Pure: times come in as numbers.

Latencies are counted in buckets of at most one part in 64 of their value, so a test may run for days and a percentile
is never off by more than 2%.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

_EXACT_BITS: Final = 6

FAILED_STATUS: Final = 400
"""Answers from here on count as errors (RFC 9110, 15)."""


class Failure(Enum):
    """Why a request has no answer."""

    NOT_ACCEPTED = "connection not accepted"
    TLS = "TLS failed, or the certificate is not trusted"
    CLOSED = "closed before the answer was complete"
    MALFORMED = "answer is not HTTP"
    TIMEOUT = "no complete answer in time"


class Report(msgspec.Struct, frozen=True):
    """What a load test found. Times in milliseconds; None where nothing was answered."""

    seconds: float
    requests: int
    """Answered, whatever the status."""
    rate: float
    """Of those, a second."""
    asked_rate: float | None
    """What --rate asked for."""
    bytes: int
    """Of content."""
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    mean_ms: float | None
    statuses: dict[str, int]
    errors: dict[str, int]
    """By kind: failures, and answers with a status of 400 or more."""
    unfinished: int
    """Under way when it ended, and counted nowhere else."""


@dataclass
class Tally:
    """Counts as answers come."""

    requests: int = 0
    content_bytes: int = 0
    under_way: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[Failure] = field(default_factory=Counter)
    # {bucket: how many}
    _latencies: Counter[int] = field(default_factory=Counter)
    _total_s: float = 0.0
    _slowest_s: float = 0.0

    def answered(self, status: int, latency_s: float, content_bytes: int) -> None:
        """Count an answer that came whole."""
        self.requests += 1
        self.content_bytes += content_bytes
        self.statuses[status] += 1
        self._latencies[_bucket(latency_s)] += 1
        self._total_s += latency_s
        self._slowest_s = max(self._slowest_s, latency_s)

    def failed(self, failure: Failure) -> None:
        """Count a request without an answer."""
        self.failures[failure] += 1

    @property
    def errors(self) -> int:
        """How many requests failed or were answered with a status of 400 or more."""
        return self.failures.total() + sum(n for status, n in self.statuses.items() if status >= FAILED_STATUS)

    def percentile_s(self, share: float) -> float | None:
        """Give the latency that this share of the answers did not exceed; None if there are none."""
        wanted = share * self.requests
        seen = 0
        for bucket in sorted(self._latencies):
            seen += self._latencies[bucket]
            if seen >= wanted:
                return min(_latency_s(bucket), self._slowest_s)
        return None

    def report(self, seconds: float, asked_rate: float | None = None) -> Report:
        """Put it together, after so many seconds."""

        def milliseconds(value_s: float | None) -> float | None:
            return None if value_s is None else round(value_s * 1000, 3)

        errors = {failure.value: count for failure, count in self.failures.items()}
        errors |= {f"status {status}": n for status, n in sorted(self.statuses.items()) if status >= FAILED_STATUS}
        return Report(
            seconds=round(seconds, 3),
            requests=self.requests,
            rate=round(self.requests / seconds, 1) if seconds > 0 else 0.0,
            asked_rate=asked_rate,
            bytes=self.content_bytes,
            p50_ms=milliseconds(self.percentile_s(0.5)),
            p90_ms=milliseconds(self.percentile_s(0.9)),
            p99_ms=milliseconds(self.percentile_s(0.99)),
            p999_ms=milliseconds(self.percentile_s(0.999)),
            max_ms=milliseconds(self._slowest_s if self.requests else None),
            mean_ms=milliseconds(self._total_s / self.requests if self.requests else None),
            statuses={str(status): count for status, count in sorted(self.statuses.items())},
            errors=errors,
            unfinished=self.under_way,
        )


def _bucket(latency_s: float) -> int:
    """Give the microseconds, shortened to their first seven binary digits; the shift stands above them."""
    microseconds = max(round(latency_s * 1e6), 0)
    shift = max(microseconds.bit_length() - _EXACT_BITS - 1, 0)
    return (shift << (_EXACT_BITS + 1)) | (microseconds >> shift)


def _latency_s(bucket: int) -> float:
    """Give the upper end of a bucket."""
    shift = bucket >> (_EXACT_BITS + 1)
    digits = bucket & ((1 << (_EXACT_BITS + 1)) - 1)
    return (((digits + 1) << shift) - 1) / 1e6
