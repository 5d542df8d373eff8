"""The whole API, put together: every operation there is, and the document that describes them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import trio
from starlette.responses import HTMLResponse, Response

from actors import Domain, Runtime
from proxy.api import administration, logs, opencomputer, processes, sandboxes, shares
from proxy.api import domains as custom
from proxy.api.app import Api
from proxy.api.calls import HTML, Call, Ground, Need, Operation, Verify
from proxy.api.docs_page import CONTENT_SECURITY_POLICY, write_page
from proxy.api.keys import KeyRing
from proxy.api.openapi import write_document
from proxy.api.opencomputer_exec import Commands
from proxy.api.sessions import Sessions
from proxy.domains import DomainVerifier


@asynccontextmanager
async def open_api(
    runtime: Runtime,
    ring: KeyRing,
    domains: Sequence[str],
    folder: Path | None = None,
    verify: Verify | None = None,
) -> AsyncIterator[Api]:
    """Open the API of a runtime for the length of the block: an ASGI app, to be given to a `Server`.

    Sessions of commands end with the block.

    Args:
        runtime: Open for as long as the API serves.
        ring: Whose keys are let in.
        domains: Base domains of previews.
        folder: The data folder; None: destroyed sandboxes are not explained.
        verify: Looks whether a custom hostname is its claimant's; None: in the DNS, and at the hostname.
    """
    bases = tuple(Domain(domain) for domain in domains)

    # Both are sent to anybody who asks: they are written once.
    async def describe(_call: Call) -> Response:
        return Response(written, headers={"Cache-Control": "no-store"}, media_type="application/json")

    async def show(_call: Call) -> Response:
        return HTMLResponse(shown, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    page = Operation("GET", "/docs", "docs", "This document, for people.", show, Need.NOTHING, {200: HTML})
    described = Operation(
        "GET", "/openapi.json", "openapi", "This document.", describe, Need.NOTHING, {200: dict[str, Any]}
    )
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        sessions = Sessions(nursery)
        commands = Commands(sessions)
        ground = Ground(runtime, ring, bases, verify or DomainVerifier(runtime).verify, sessions, folder)
        operations = (
            *sandboxes.OPERATIONS,
            *shares.OPERATIONS,
            *processes.OPERATIONS,
            *logs.OPERATIONS,
            *custom.OPERATIONS,
            *administration.OPERATIONS,
            *opencomputer.OPERATIONS,
            *commands.operations(),
            described,
            page,
        )
        document = write_document(operations, version("portico"))
        written, shown = msgspec.json.encode(document), write_page(document)
        try:
            yield Api(ground, operations, {"/api/sandboxes/{id}/exec/{exec}": commands.attach})
        except Exception as error:  # noqa: BLE001  # raised again below, where no nursery wraps it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
