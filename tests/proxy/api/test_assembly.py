"""The whole API, put together."""

from pathlib import Path

import pytest

from actors import InvalidNameError, MemoryStore, open_runtime
from proxy.api.assembly import open_api
from proxy.api.keys import KeyRing
from tests.proxy.api.stage import Stage


async def test_document_describes_all_that_is_served(stage: Stage) -> None:
    document = await stage.got("GET", "/openapi.json", key=None)
    assert set(document["paths"]) == {operation.path for operation in stage.api.operations}


async def test_domain_that_cannot_be_is_refused(tmp_path: Path) -> None:
    async with open_runtime(MemoryStore()) as runtime:
        with pytest.raises(InvalidNameError):
            async with open_api(runtime, KeyRing(tmp_path), ["a b"]):
                pass
