"""What the tests of the router's shell share: the engine, over streams in memory and over sockets, and what it logs.

A connection over plain sockets is carried in another way (`proxy.lane`) than one over any other stream
(`proxy.connection`), and nobody outside may see which: what holds for the one is tested on the other.
"""

import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import pytest_trio
import structlog
from structlog.testing import capture_logs

from proxy.testing import PreviewEngine
from proxy.testing import preview_engine as make_engine
from tests.proxy.ways import OpenEngine


@pytest.fixture(params=[False, True], ids=["memory", "sockets"])
def sockets(request: pytest.FixtureRequest) -> bool:
    """Which streams the engine is to use."""
    return bool(request.param)


@pytest.fixture
def open_engine(sockets: bool) -> OpenEngine:
    """`preview_engine` of `proxy.testing`, for a test that wants other settings."""
    return partial(make_engine, sockets=sockets)


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def preview_engine(sockets: bool) -> AsyncIterator[PreviewEngine]:
    """An engine of default settings."""
    async with make_engine(sockets=sockets) as engine:
        yield engine


@pytest.fixture
def logged() -> Iterator[list[structlog.typing.EventDict]]:
    """All that is logged during the test."""
    with capture_logs() as events:
        yield events


@pytest.fixture
def certificate(tmp_path: Path, require_program: Callable[[str], str]) -> Callable[..., tuple[Path, Path]]:
    """Return a function that makes a key and a self-signed certificate for names."""
    openssl = require_program("openssl")

    def make(names: str = "DNS:*.example.com", days: int = 1) -> tuple[Path, Path]:
        key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(key), "-out", str(chain), "-days", str(days), "-subj", "/CN=tests"]
        subprocess.run([*command, "-addext", f"subjectAltName={names}"], check=True, capture_output=True)
        return key, chain

    return make
