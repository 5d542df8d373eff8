"""The whole API, put together: every operation there is, and the document that describes them."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actors import Domain, Runtime
from proxy.api import administration, processes, sandboxes, shares
from proxy.api.app import Api
from proxy.api.calls import Call, Ground, Need, Operation, Reply
from proxy.api.keys import KeyRing
from proxy.api.openapi import write_document


def make_api(runtime: Runtime, ring: KeyRing, domains: Sequence[str], folder: Path | None = None) -> Api:
    """Return the API of a runtime, an ASGI app, to be given to a `Server`.

    Args:
        runtime: Open for as long as the API serves.
        ring: Whose keys are let in.
        domains: Base domains of previews.
        folder: The data folder; None: destroyed sandboxes are not explained.
    """
    ground = Ground(runtime, ring, tuple(Domain(domain) for domain in domains), folder)

    async def describe(_call: Call) -> Reply:
        return Reply(200, document)

    described = Operation(
        "GET", "/openapi.json", "openapi", "This document.", describe, Need.NOTHING, {200: dict[str, Any]}
    )
    operations = (
        *sandboxes.OPERATIONS,
        *shares.OPERATIONS,
        *processes.OPERATIONS,
        *administration.OPERATIONS,
        described,
    )
    document = write_document(operations, version("portico"))
    return Api(ground, operations)
