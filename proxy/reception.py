"""What many requests have in common: where they come from, and where they lead.

What a Host names, and how fields are rewritten for it, stays the same from request to request and from connection to
connection of one client. It is worked out once; that saves a fifth of a proxied GET, and more of a connection that
carries only one. Nothing here is a decision: whether a visit may enter is asked of the sandbox's actor each time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from actors import HostHeader
from proxy.application import Application
from proxy.core.addresses import address_group
from proxy.core.exchange import Exchange, ReadResponseHead
from proxy.core.forwarded import read_node
from proxy.core.headers import Forwarding, public_scheme
from proxy.core.http1 import Limits, RequestHead, values
from proxy.core.pages import Answer
from proxy.core.served import Observer
from proxy.core.serving import RequestStarted, ServerConnection
from proxy.door import Admitted, Door, Elsewhere, MustWait, OwnPage, Preview
from proxy.gatehouse import Gatehouse
from proxy.ledger import Ledger

ROUTES_MAX: Final = 4096
"""Remembered at once, of all clients; each takes some 3 KiB."""


class _Route:
    __slots__ = ("forwardings", "preview")

    def __init__(self, preview: Preview) -> None:
        self.preview: Final = preview
        # By the port's own rule, which may change at any time.
        self.forwardings: Final[dict[HostHeader, Forwarding]] = {}


class Routes:
    """Where the hosts that clients have asked for lead, the newest ones; for all connections of a router."""

    __slots__ = ("_routes",)

    def __init__(self) -> None:
        # {(value of the Host field, a secret like every preview's hostname; scheme; client's address; trusted): route}
        self._routes: dict[tuple[bytes, str, str, bool], _Route] = {}

    def get(self, host: bytes, scheme: str, peer: str, trusted: bool) -> _Route | None:
        """Return what is remembered."""
        return self._routes.get((host, scheme, peer, trusted))

    def add(self, host: bytes, scheme: str, peer: str, trusted: bool, route: _Route) -> None:
        """Remember a route, in place of the oldest if there are many."""
        if len(self._routes) >= ROUTES_MAX:
            del self._routes[next(iter(self._routes))]
        self._routes[host, scheme, peer, trusted] = route

    def __len__(self) -> int:
        return len(self._routes)


class Reception:
    """Reads one client's request heads: for whom they are, and what the service is to see of them."""

    __slots__ = ("_observe", "_route", "_routes", "_scheme", "_trusted", "_trusts", "app", "door", "gatehouse", "peer")

    def __init__(
        self,
        door: Door,
        routes: Routes,
        *,
        peer: str,
        scheme: str,
        trusted: bool,
        trusts: Callable[[str], bool],
        app: Application | None = None,
        gatehouse: Gatehouse | None = None,
        observe: Observer | None = None,
    ) -> None:
        """Begin without a request.

        Args:
            door: Judges.
            routes: Of all connections.
            peer: The client's IP address, or ``""``.
            scheme: ``http`` or ``https``, as this connection is spoken to.
            trusted: Whether the peer is a proxy whose word about the client counts.
            app: Answers what is for the base domain; None: nobody does.
            gatehouse: Answers for all connections of a router what previews' hosts answer themselves; None: nobody.
            trusts: Says that of any address.
            observe: Is told of each request when it is over.
        """
        self._observe: Final = observe
        self._trusts: Final = trusts
        self.door: Final = door
        self._routes: Final = routes
        self.app: Final = app
        self.gatehouse: Final = gatehouse
        self.peer: Final = peer
        """The client's IP address, or ``""``."""
        self._scheme: Final = scheme
        self._trusted: Final = trusted
        self._route: _Route | None = None
        """Of the request that was located last."""

    def ledger(self, http: ServerConnection) -> Ledger | None:
        """Return the account of the connection whose machine this is; None: nobody wants one."""
        return None if self._observe is None else Ledger(self._observe, self.peer, http)

    def scheme_of(self, head: RequestHead) -> str:
        """Return what the client of a request speaks: ``http`` or ``https``."""
        return public_scheme(head.fields, self._scheme, trusted=self._trusted)

    def own_page(self, preview: Preview, head: RequestHead) -> Application | None:
        """Return the app that answers a request for a page of the preview's host itself; None: nobody does."""
        if self.gatehouse is None:
            return None
        return self.gatehouse.app(preview, head, self.client(head))

    def locate(self, head: RequestHead) -> Preview | Elsewhere | Answer:
        """Say what a request is for; see `Door.locate`."""
        scheme = self.scheme_of(head)
        # Without one the door refuses the head, and what an absolute-form target names it must compare.
        host = None if head.authority is not None else _host(head)
        if host is not None:
            route = self._route = self._routes.get(host, scheme, self.peer, self._trusted)
            if route is not None:
                return route.preview
        place = self.door.locate(head, scheme)
        # A preview that was named by another field than Host is read anew each time.
        if host is not None and isinstance(place, Preview) and place.public.name != place.host.domain:
            self._route = _Route(place)
            self._routes.add(host, scheme, self.peer, self._trusted, self._route)
        return place

    def admit_nowait(self, preview: Preview, head: RequestHead) -> Admitted | Answer | MustWait | OwnPage:
        """See `Door.admit_nowait`."""
        judged = self.door.admit_nowait(preview, head)
        return replace(judged, client=self.client(head)) if isinstance(judged, MustWait) else judged

    def client(self, head: RequestHead) -> str | None:
        """Return who asks, as one client is counted; None if nobody can say."""
        if not self._trusted:
            return address_group(self.peer)
        # From the right, past every proxy whose word counts: what is further left the client may have made up.
        trail = b",".join(values(head.fields, b"x-forwarded-for")).split(b",")
        for member in reversed(trail):
            address = read_node(member.decode("latin-1")).address
            if not self._trusts(address):
                return address_group(address)
        return None

    def forward(self, head: RequestHead, preview: Preview, admitted: Admitted) -> tuple[Forwarding, RequestHead]:
        """Return how the response's fields are passed on, and the head as the service shall see it."""
        forwarding = self._forwarding(head, preview, admitted)
        fields = forwarding.forward_request(head.fields, head.target, opened_by=admitted.opened_by)
        return forwarding, RequestHead(head.method, head.target, b"1.1", fields)

    def prepare(
        self,
        started: RequestStarted,
        preview: Preview,
        admitted: Admitted,
        limits: Limits,
        read_head: ReadResponseHead,
    ) -> tuple[Forwarding, Exchange]:
        """Return the same, and the exchange that will carry it, for a request without content and upgrade."""
        head = started.head
        if head.lines is not None:
            forwarding = self._forwarding(head, preview, admitted)
            written = forwarding.write_plain_request(head, opened_by=admitted.opened_by)
            return forwarding, Exchange(head, started.framing, written=written, limits=limits, read_head=read_head)
        forwarding, head = self.forward(head, preview, admitted)
        return forwarding, Exchange(head, started.framing, limits=limits, read_head=read_head)

    def _forwarding(self, head: RequestHead, preview: Preview, admitted: Admitted) -> Forwarding:
        host_header = admitted.visit.grant.host_header
        route = self._route if self._route is not None and self._route.preview is preview else None
        known = route.forwardings.get(host_header) if route is not None else None
        if known is not None:
            return known
        forwarding = Forwarding(
            preview.host,
            preview.public,
            scheme=public_scheme(head.fields, self._scheme, trusted=self._trusted),
            client_address=self.peer,
            trusted=self._trusted,
            host_header=host_header,
        )
        if route is not None:
            route.forwardings[host_header] = forwarding
        return forwarding


def _host(head: RequestHead) -> bytes | None:
    """Return the value of the one Host field that an accepted head has."""
    for name, _, value in head.fields if head.judged is None else head.judged:
        if name == b"host":
            return value
    return None
