"""Preview URLs in the shape of OpenComputer's API."""

from collections.abc import AsyncIterator

import pytest
import pytest_trio

from actors import (
    Domain,
    InvalidNameError,
    MemoryStore,
    PublicAddress,
    RefusedBecause,
    Runtime,
    SecurityError,
    VisitRequest,
    open_runtime,
)
from actors.sandbox.ids import Port
from actors.testing.containers import fake_containers


@pytest_trio.trio_fixture  # type: ignore[untyped-decorator]  # pytest-trio has no types
async def runtime() -> AsyncIterator[Runtime]:
    """One that is reached at example.com."""
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as opened:
        opened.public_address = PublicAddress(Domain("example.com"))
        yield opened


async def test_open_sandbox_has_built_in_hostnames_and_remembers_which_are_wanted(runtime: Runtime) -> None:
    sandbox = await runtime.get_sandbox("sb-1a2b3c4d", container="fake", open_ports=True)
    assert sandbox.domain == "sb-1a2b3c4d-p80.example.com"
    later = await sandbox.create_preview_url(8080)
    assert (later.port, later.url) == (8080, "https://sb-1a2b3c4d-p8080.example.com/")
    # Low and reserved ones too.
    for port in (80, 3000, 65535):
        await sandbox.create_preview_url(port)
    assert await sandbox.create_preview_url(8080) == later
    assert [preview.port for preview in await sandbox.list_preview_urls()] == [80, 3000, 8080, 65535]
    assert await sandbox.delete_preview_url(8080)
    assert not await sandbox.delete_preview_url(8080)
    assert (await sandbox.create_preview_url(8080)).id != later.id


async def test_other_sandbox_is_opened_by_its_previews_and_by_nothing_else(runtime: Runtime) -> None:
    sandbox = await runtime.get_sandbox("sb-1a2b3c4d", container="fake")
    preview = await sandbox.create_preview_url(8080, "other.example")
    [exposed] = await sandbox.get_exposed_ports("other.example")
    assert (preview.url, preview.hostname) == (exposed.url, f"8080-sb-1a2b3c4d-{exposed.token}.other.example")
    assert exposed.token not in repr(preview)
    assert await runtime.admit(sandbox.id, VisitRequest(Port(8080), None)) is RefusedBecause.INVALID_TOKEN
    for port in (80, 3000):
        with pytest.raises(SecurityError):
            await sandbox.create_preview_url(port)


async def test_names_that_cannot_be_are_refused_before_anything_is_stored(runtime: Runtime) -> None:
    sandbox = await runtime.get_sandbox("my-app", container="fake", open_ports=True)
    for port in (0, 65536, True):
        with pytest.raises(InvalidNameError):
            await sandbox.create_preview_url(port)
    with pytest.raises(InvalidNameError, match="sb-"):
        sandbox.get_preview_domain(80)
    with pytest.raises(InvalidNameError):
        await sandbox.create_preview_url(8080, "1.2.3.4")
    runtime.public_address = None
    with pytest.raises(RuntimeError, match="domain"):
        await sandbox.create_preview_url(8080)
    assert not (await sandbox.state()).ports


async def test_open_sandbox_without_built_in_hostnames_has_token_ones(runtime: Runtime) -> None:
    sandbox = await runtime.get_sandbox("my-app", container="fake", open_ports=True)
    assert (await sandbox.create_preview_url(8080)).hostname.startswith("8080-my-app-")
    with pytest.raises(SecurityError):
        await sandbox.create_preview_url(80)
