"""What becomes of a field, told by its name alone (RFC 9110 section 7.6).

Most fields pass as they are. Those that do not are of the connection, or ours to set, or judged by their value in
`proxy.core.headers`; which, is written down here and nowhere else, so that who reads heads, who rewrites them and who
reads trailers cannot come to differ.
"""

from enum import Enum, auto
from functools import lru_cache
from typing import Final


class Fate(Enum):
    """What becomes of a field, by its name."""

    PASS = auto()
    DROP = auto()
    ASSERTED = auto()
    """Passes, or goes into ours, if a trusted proxy says it."""
    OWN_HOST_ONLY = auto()
    """Passes where the preview has a hostname of its own."""
    ORIGIN = auto()
    TE = auto()
    COOKIE = auto()
    AUTHORIZATION = auto()
    PREVIEW_TOKEN = auto()
    LOCATION = auto()
    SET_COOKIE = auto()
    CLEAR_SITE_DATA = auto()


# RFC 9110 section 7.6.1, RFC 9112 section 6 and Appendix C.2.2, RFC 7540 section 3.2.1.
CONNECTION_FIELDS: Final = frozenset(
    b"connection keep-alive proxy-connection transfer-encoding content-length upgrade te http2-settings".split()
)

# Set by us, or by no one. What frameworks are known to believe about where a request came from.
_OURS: Final = frozenset(
    # `Proxy` becomes HTTP_PROXY in the environment of a CGI program (CVE-2016-5385, "httpoxy").
    b"host proxy x-original-url x-rewrite-url x-original-uri x-original-host x-host x-http-host-override "
    # With X-Accel-Mapping, how a front proxy says which orders it takes: Rack answers with the path of a file instead
    # of the file (CVE-2025-61780). We take none, see `_RESPONSE_DROPPED`.
    b"x-sendfile-type".split()
)
_OUR_PREFIXES: Final = (b"x-sandbox-", b"portico-", b"x-portico-", b"proxy-", b"x-accel-")
_ASSERTED: Final = frozenset(
    b"forwarded forwarded-for x-forwarded x-real-ip x-client-ip x-cluster-client-ip true-client-ip client-ip "
    b"cf-connecting-ip cf-connecting-ipv6 fastly-client-ip remote-user x-remote-user x-authenticated-user".split()
)
_ASSERTED_PREFIXES: Final = (b"x-forwarded-", b"x-envoy-", b"x-auth-request-")

_REQUEST_FATES: Final = {
    b"origin": Fate.ORIGIN,
    b"te": Fate.TE,
    b"cookie": Fate.COOKIE,
    b"authorization": Fate.AUTHORIZATION,
    b"x-oc-preview-token": Fate.PREVIEW_TOKEN,
}

_RESPONSE_DROPPED: Final = frozenset(
    # Orders to a front proxy: "send this file, or the answer of this address, instead".
    b"x-sendfile x-lighttpd-send-file x-lighttpd-send-tempfile x-reproxy-url x-litespeed-location "
    # RFC 7838: would lead clients to another authority, past us and our revocations.
    b"alt-svc "
    b"proxy-authenticate proxy-authentication-info".split()
)
_RESPONSE_FATES: Final = {
    b"location": Fate.LOCATION,
    b"set-cookie": Fate.SET_COOKIE,
    # nginx's hint not to buffer an event stream; all its other X-Accel fields are orders.
    b"x-accel-buffering": Fate.PASS,
    # To HEAD and with 304 it tells what GET would bring; and a 101 says what it switches to.
    b"content-length": Fate.PASS,
    b"upgrade": Fate.PASS,
    b"strict-transport-security": Fate.OWN_HOST_ONLY,
    b"clear-site-data": Fate.CLEAR_SITE_DATA,
    b"service-worker-allowed": Fate.OWN_HOST_ONLY,
}
_RESPONSE_PREFIXES_DROPPED: Final = (b"x-accel-", b"portico-", b"x-portico-")


# Names are few and no secrets; the bound is for clients that make them up. 0.06 us a field instead of 0.4.
@lru_cache(maxsize=1024)
def request_fate(name: bytes) -> Fate:
    """Say what becomes of a request's field of that lower-case name."""
    special = _REQUEST_FATES.get(name)
    if special is not None:
        return special
    # CGI, WSGI and their kin read `_` for `-`: x_forwarded_for would pass for the field that we set.
    folded = name.replace(b"_", b"-")
    if folded in CONNECTION_FIELDS or folded in _OURS or folded.startswith(_OUR_PREFIXES):
        return Fate.DROP
    if folded in _ASSERTED or folded.startswith(_ASSERTED_PREFIXES):
        return Fate.ASSERTED if folded == name else Fate.DROP
    return Fate.DROP if folded in _REQUEST_FATES else Fate.PASS


@lru_cache(maxsize=1024)
def response_fate(name: bytes) -> Fate:
    """Say what becomes of a response's field of that lower-case name."""
    special = _RESPONSE_FATES.get(name)
    if special is not None:
        return special
    if name in CONNECTION_FIELDS or name in _RESPONSE_DROPPED or name.startswith(_RESPONSE_PREFIXES_DROPPED):
        return Fate.DROP
    return Fate.PASS


def passes_untouched(name: bytes) -> bool:
    """Say whether a field of that lower-case name is of no concern to us, in requests and in responses.

    All others are judged where heads are, so they must not come in, or leave, by another way: as trailers.
    """
    return request_fate(name) is Fate.PASS and response_fate(name) is Fate.PASS
