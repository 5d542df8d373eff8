"""What is remembered from request to request of one connection, and what is asked anew each time."""

from urllib.parse import urlsplit

import trio.testing

from proxy.core.http1 import RequestHead
from proxy.door import Admitted, Elsewhere, Preview
from proxy.reception import ROUTES_MAX, Reception, Routes
from proxy.testing import PreviewEngine, respond


def head_for(host: str, *fields: tuple[bytes, bytes]) -> RequestHead:
    all_fields = [(b"host", b"Host", host.encode("ascii")), *((name.lower(), name, value) for name, value in fields)]
    return RequestHead(b"GET", b"/", b"1.1", all_fields)


async def reception_of(engine: PreviewEngine, *, trusted: bool = False) -> tuple[Reception, str]:
    """Return a reception and the host of a preview that is awake."""
    url = await engine.expose(respond(b"hello"))
    await engine.get(url)
    return Reception(engine.router._door, Routes(), peer="192.0.2.7", scheme="https", trusted=trusted), urlsplit(
        url
    ).netloc


def visited(reception: Reception, head: RequestHead) -> Preview:
    """Let one request in and see it off."""
    preview = reception.locate(head)
    assert isinstance(preview, Preview)
    admitted = reception.admit_nowait(preview, head)
    assert isinstance(admitted, Admitted)
    reception.forward(head, preview, admitted)
    admitted.visit.end()
    return preview


async def test_same_host_is_made_out_once(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    reception, host = await reception_of(preview_engine)
    first = visited(reception, head_for(host))
    assert reception.locate(head_for(host)) is first


async def test_other_host_is_not_taken_for_the_one_before(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    reception, host = await reception_of(preview_engine)
    visited(reception, head_for(host))
    assert isinstance(reception.locate(head_for("elsewhere.net")), Elsewhere)
    assert isinstance(reception.locate(head_for(host)), Preview)


async def test_other_scheme_of_a_trusted_proxy_is_made_out_anew(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    reception, host = await reception_of(preview_engine, trusted=True)
    first = visited(reception, head_for(host, (b"X-Forwarded-Proto", b"https")))
    assert reception.locate(head_for(host, (b"X-Forwarded-Proto", b"http"))) is not first


async def test_what_is_remembered_admits_nobody(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    reception, host = await reception_of(preview_engine)
    preview = visited(reception, head_for(host))
    await (await preview_engine.sandbox()).unexpose_port(8080)
    assert reception.locate(head_for(host)) is preview
    assert not isinstance(reception.admit_nowait(preview, head_for(host)), Admitted)


async def test_no_host_is_shown(preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock) -> None:
    reception, host = await reception_of(preview_engine)
    visited(reception, head_for(host))
    assert host not in repr(reception)


async def test_routes_are_bounded_and_the_oldest_goes(
    preview_engine: PreviewEngine, autojump_clock: trio.testing.MockClock
) -> None:
    reception, host = await reception_of(preview_engine)
    visited(reception, head_for(host))
    routes = reception._routes
    route = routes.get(host.encode(), "https", "192.0.2.7", False)
    assert route is not None
    for number in range(ROUTES_MAX):
        routes.add(b"%d" % number, "https", "192.0.2.7", False, route)
    assert len(routes) == ROUTES_MAX
    assert routes.get(host.encode(), "https", "192.0.2.7", False) is None
    # Not another client's either.
    assert routes.get(b"1", "https", "192.0.2.8", False) is None
    assert routes.get(b"1", "http", "192.0.2.7", False) is None
