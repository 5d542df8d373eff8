"""The type of a fixture, for the tests that take it."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from actors import Limits, Store
from proxy.application import Application
from proxy.core.served import Observer
from proxy.options import Options
from proxy.testing import PreviewEngine


class OpenEngine(Protocol):
    """Opens an engine of which it is settled what its streams are; see the fixture ``open_engine``."""

    def __call__(
        self,
        *,
        store: Store | None = None,
        options: Options = ...,
        limits: Limits | None = None,
        domains: tuple[str, ...] = ...,
        app: Application | None = None,
        observe: Observer | None = None,
    ) -> AbstractAsyncContextManager[PreviewEngine]: ...
