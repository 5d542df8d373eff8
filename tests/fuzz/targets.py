"""All fuzz targets, by name, and what each begins with.

A target takes any bytes and returns, or raises: AssertionError for a law that does not hold, anything else for an
error that its reader must not raise. It remembers nothing from one call to the next.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]  # published without type information

from tests.fuzz import fields, frames, messages, names, records, settings

CORPORA: Final = Path(__file__).parents[1] / "data" / "corpora"
SEED_BYTES_MAX: Final = 2048
"""Longer inputs of the corpora are long by one field: they teach nothing and slow everything down."""


@dataclass(frozen=True, slots=True)
class Target:
    """A law to be broken."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    """Inputs to begin with; the more of the grammar they have among them, the better."""


def _requests() -> Sequence[bytes]:
    found: list[bytes] = []
    for path in sorted(CORPORA.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "raw_b64" in row:
                raw = base64.b64decode(row["raw_b64"])
                found += [raw, raw.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: a\r\n")]
    return [raw for raw in dict.fromkeys(found) if len(raw) <= SEED_BYTES_MAX]


def _answers() -> Sequence[bytes]:
    lines = (CORPORA / "hostile-answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["raw"].encode("latin-1") for line in lines]


def _bodies() -> Sequence[bytes]:
    found = [raw.partition(b"\r\n\r\n")[2] for raw in (*_requests(), *_answers()) if b"chunked" in raw.lower()]
    return [*dict.fromkeys(found)]


def _heads() -> Sequence[bytes]:
    cookies = [
        b"Set-Cookie: a=b; Domain=.example.com; Path=/",
        b"Set-Cookie: __Host-portico-gate=1",
        b"Cookie: a=b; __Host-portico-gate=1",
        b"X-Forwarded-For: 10.0.0.1\nForwarded: for=10.0.0.1\nX-Forwarded-Proto: http",
        b"Authorization: Bearer abc\nX-OC-Preview-Token: abc",
        b"Location: http://localhost:8080/a\nX-Accel-Redirect: /a\nX-Accel-Buffering: no",
        b"Connection: close, X-A\nX-A: b\nTE: trailers\nOrigin: https://a",
    ]
    return [*cookies, *(raw.partition(b"\r\n\r\n")[0] for raw in (*_requests(), *_answers()))]


def _hosts() -> Sequence[bytes]:
    return [
        b"8080-my-app-k3v9x0q2m7t1z8aa.example.com",
        b"8080-My-App-a_b.EXAMPLE.com.:8787",
        b"sb-1a2b3c4d-p8080.example.com",
        b"sb-p1-p2.example.com",
        b"1-8080-a-b.example.com",
        b"8080-a-b.example.com",
        b"localhost:80",
        b"[::1]:8080",
        b"[::ffff:127.0.0.1]",
        b"127.0.0.1",
        b"0x7f.1",
        b"a" * 63 + b".b",
        b"\xc3\xa9.example.com",
    ]


def _frames() -> Sequence[bytes]:
    return [
        bytes.fromhex(text)
        for text in (
            "810568656c6c6f",
            "818500000000 68656c6c6f",
            "010168 800169",
            "827e0080" + "00" * 128,
            "827f0000000000010000" + "00" * 9,
            "880203e9",
            "888200000000 03e9",
            "8900 8a00 880203e8",
            "c1017f",
        )
    ]


def _logs() -> Sequence[bytes]:
    return [b"", b"one", b"one\0two\0three", b"\xff" * 600, records._written(b"one\0two\0three")[0]]  # its own writer


def _events() -> Iterator[bytes]:
    token = "k3v9x0q2m7t1z8aa"
    samples: list[Mapping[str, object]] = [
        {"sandbox": "my-app", "container": {"kind": "process", "options": {"a": 1}}, "open_ports": True},
        {"port": 8080, "token": token, "name": "web", "host_header": "preserve"},
        {"port": 8080},
        {"run_id": "r", "reason": "slept"},
        {"digest": b"\0" * 32, "previous_until": 1.5},
        {},
    ]
    for sample in samples:
        yield msgpack.packb(sample)
        yield msgpack.packb(["port_exposed", 1, sample])


def _settings() -> Sequence[bytes]:
    return [
        b'listen = "127.0.0.1:8787"\ndomains = ["localhost"]\n',
        b"[::1]:8787",
        b"head_timeout_s = 10\nlog_format = json\nreserved_ports = 3000, 4000\n",
        b"trusted_proxies = 10.0.0.0/8, ::1/128\ndata_folder = x\nhead_bytes_max = 4096\ndrain_timeout_s = inf",
        b'trusted_proxies = ["10.0.0.0/8"]\nhead_timeout_s = 1e3\nconnections_max = 0x10\n',
        b"liste = 1",
    ]


TARGETS: Final[Mapping[str, Target]] = {
    "request_head": Target(messages.request_head, _requests),
    "response_head": Target(messages.response_head, _answers),
    "chunked_body": Target(messages.chunked_body, _bodies),
    "hostname": Target(names.hostname, _hosts),
    "custom_hostname": Target(names.custom_hostname, _hosts),
    "label": Target(names.label, lambda: [host.partition(b".")[0] for host in _hosts()]),
    "forwarding": Target(fields.forwarding, _heads),
    "websocket_frames": Target(frames.websocket_frames, _frames),
    "log_records": Target(records.log_records, _logs),
    "events": Target(records.events, lambda: [*_events()]),
    "settings": Target(settings.settings, _settings),
}
"""One for each reader of what comes from outside."""
