"""The API in front of the real router and actors, inside one trio test."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors import Domain, DomainBinding, DomainNotVerifiedError, Limits, PublicAddress, Runtime, SandboxId
from proxy.api.app import Api
from proxy.api.assembly import open_api
from proxy.api.calls import Verify
from proxy.api.keys import KeyRing
from proxy.options import DEFAULT_OPTIONS, Options
from proxy.testing import PreviewEngine, Response, preview_engine

ADMIN = "an-admin-key-for-tests"
SPEC = {"kind": "fake"}


class Stage:
    """Makes calls, and hands out keys."""

    def __init__(self, engine: PreviewEngine, api: Api, ring: KeyRing, published: set[str]) -> None:
        self.engine = engine
        self.api = api
        self.ring = ring
        self.published = published
        """Custom hostnames whose owners have published what shows that they are theirs."""

    async def raw(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        key: str | None = ADMIN,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make a call with content as it is."""
        fields = dict(headers or {})
        if key is not None:
            fields["X-API-Key"] = key
        return await self.engine.request(method, f"https://example.com{path}", headers=list(fields.items()), body=body)

    async def call(self, method: str, path: str, body: object = None, **settings: Any) -> Response:
        """Make a call with JSON, or without content if `body` is None."""
        content = None if body is None else json.dumps(body).encode()
        return await self.raw(method, path, content, **settings)

    async def got(self, method: str, path: str, body: object = None, *, status: int = 200, **settings: Any) -> Any:
        """Make a call that must be answered with `status`; return what the answer says."""
        response = await self.call(method, path, body, **settings)
        assert response.status == status, response.body
        return response.json() if response.body else None

    async def refused(
        self, status: int, code: str, method: str, path: str, body: object = None, **settings: Any
    ) -> str:
        """Make a call that must be refused; return the words."""
        response = await self.call(method, path, body, **settings)
        assert (response.status, response.code) == (status, code), response.body
        problem = response.json()
        assert isinstance(problem, dict)
        assert problem.keys() == {"error", "code"}
        return str(problem["error"])

    async def got_text(self, path: str) -> bytes:
        """GET what is no JSON."""
        response = await self.call("GET", path)
        assert response.status == 200, response.body
        return response.body

    async def make(self, name: str = "my-app", **settings: object) -> Any:
        """Make a sandbox whose container is a fake."""
        return await self.got("POST", "/v1/sandboxes", {"id": name, "container": SPEC, **settings}, status=201)

    def key(self, scope: str) -> str:
        """Return a key of that scope."""
        return self.ring.create(scope, scope)[1]


@asynccontextmanager
async def open_stage(
    folder: Path, limits: Limits | None = None, *, options: Options = DEFAULT_OPTIONS
) -> AsyncIterator[Stage]:
    """Open all of it."""
    served: list[Api] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await served[0](scope, receive, send)

    published: set[str] = set()
    ring = KeyRing(folder, ADMIN)
    async with preview_engine(app=app, limits=limits, options=options) as engine:
        # What is asked for where nothing is said of it.
        engine.runtime._around.containers["process"] = engine.containers  # type: ignore[index]  # a dict, in fact
        engine.runtime.public_address = PublicAddress(Domain("example.com"))
        async with open_api(engine.runtime, ring, ["example.com"], verify=_looks(engine.runtime, published)) as api:
            served.append(api)
            yield Stage(engine, api, ring, published)


def _looks(runtime: Runtime, published: set[str]) -> Verify:
    """Return a look at the world outside that sees what the test has published, and asks nobody."""

    async def verify(hostname: str, sandbox: str) -> DomainBinding:
        binding = runtime.domains.binding(hostname, SandboxId(sandbox))
        if binding.hostname not in published:
            raise DomainNotVerifiedError(binding.hostname, ["nothing is there"])
        return await runtime.domains.verify(binding)

    return verify
