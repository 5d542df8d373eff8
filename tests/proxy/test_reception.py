"""What is remembered from request to request of one connection, and what is asked anew each time."""

from urllib.parse import urlsplit

import pytest
import trio.testing

from proxy.core.http1 import RequestHead
from proxy.door import Admitted, Elsewhere, MustWait, Preview
from proxy.reception import ROUTES_MAX, Reception, Routes
from proxy.testing import PreviewEngine, respond

PROXY = "192.0.2.7"


def head_for(host: str, *fields: tuple[bytes, bytes]) -> RequestHead:
    all_fields = [(b"host", b"Host", host.encode("ascii")), *((name.lower(), name, value) for name, value in fields)]
    return RequestHead(b"GET", b"/", b"1.1", all_fields)


async def reception_of(engine: PreviewEngine, *, trusted: bool = False) -> tuple[Reception, str]:
    """Return a reception and the host of a preview that is awake."""
    url = await engine.expose(respond(b"hello"))
    await engine.get(url)
    reception = Reception(
        engine.router._door,
        Routes(),
        peer=PROXY,
        scheme="https",
        trusted=trusted,
        trusts=lambda address: address == PROXY,
    )
    return reception, urlsplit(url).netloc


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


@pytest.mark.parametrize(
    ("trusted", "trail", "client"),
    [
        (False, [], PROXY),
        (False, ["203.0.113.9"], PROXY),
        (True, ["203.0.113.9"], "203.0.113.9"),
        (True, ["203.0.113.9, 192.0.2.7"], "203.0.113.9"),
        (True, ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (True, ["2001:db8:1:2::3"], "2001:db8:1:2::/64"),
        (True, ["whoever"], None),
        (True, [], None),
    ],
)
async def test_who_waits_for_a_wake_is_counted_by_the_address_that_can_be_believed(
    preview_engine: PreviewEngine, trusted: bool, trail: list[str], client: str | None
) -> None:
    reception, host = await reception_of(preview_engine, trusted=trusted)
    await (await preview_engine.sandbox()).hibernate()
    head = head_for(host, *((b"X-Forwarded-For", value.encode()) for value in trail))
    preview = reception.locate(head)
    assert isinstance(preview, Preview)
    waiting = reception.admit_nowait(preview, head)
    assert isinstance(waiting, MustWait)
    assert waiting.client == client
