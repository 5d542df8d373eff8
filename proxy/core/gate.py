"""The gate as browsers meet it: paths of our own, the cookie, and when the cookie counts.

A browser that has signed in, or opened a share's link, holds a session in a cookie. Previews of one base domain are
*same-site* to each other, so ``SameSite`` keeps none of them from using the cookie of another: a page of a hostile
preview could post to this one, or open a WebSocket to it, in the name of whoever looks at both. So a cookie counts only
where the request comes from the preview's own pages, or is a plain navigation; see `cookie_counts`.

============ ============================================================================================
over https   ``__Host-portico-gate``: Secure, and no other host can set it (RFC 6265bis section 4.1.3.2)
over http    ``portico-gate``: the prefix takes Secure, which not every browser allows on ``*.localhost``
of a share   at a custom hostname: ``__Host-portico-share``, and over http ``portico-gate-share``
============ ============================================================================================

Whatever lies below ``/.portico/`` on a preview's host is answered by us, and no service ever sees it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from actors import SHARE_PATH
from proxy.core.http1 import Field, RequestHead, values

OWN_PATH: Final = b"/.portico/"
SIGN_IN_PATH: Final = "/.portico/sign-in"
SIGN_OUT_PATH: Final = "/.portico/sign-out"

SECURE_COOKIE: Final = b"__Host-portico-gate"
PLAIN_COOKIE: Final = b"portico-gate"

SECURE_SHARE_COOKIE: Final = b"__Host-portico-share"
PLAIN_SHARE_COOKIE: Final = b"portico-gate-share"
"""At a custom hostname, where one may sign in and open a link, and the end of the one must not be that of the other."""

SHARE_FIELD: Final = b"portico-share"
"""Bears a share's secret for clients that keep no cookies. As all fields that begin so, it reaches no service."""

SESSION_BYTES: Final = 43
"""32 bytes in base64url."""

NAMED_SESSION_BYTES: Final = 60
"""The same with the id of its share before it, and a full stop between; as `actors.read_named` takes it apart."""

SESSIONS_MAX: Final = 16
"""Compared at most, of the gate's and of shares' each: over plain http a sibling may toss in cookies of the same name,
and must not hide the right one."""

TARGET_BYTES_MAX: Final = 4096
"""Of where a visitor was going; a longer one is forgotten."""

FORM_BYTES_MAX: Final = 16 * 1024
"""Of what the sign-in page sends: a token of at most 512 and a target, each byte as three."""

_HERE: Final = (b"same-origin", b"none")
"""What ``Sec-Fetch-Site`` says of requests by the preview's own pages, and by people."""

# Of a path and a query (RFC 3986 sections 3.3 and 3.4), and what browsers leave as it is: no space, no control, no
# backslash, which browsers read as a slash.
_TARGET: Final = re.compile(r"/[\x21-\x5b\x5d-\x7e]*")


class Form(NamedTuple):
    """What the sign-in page sends. Left out of `repr`."""

    token: str
    target: str

    def __repr__(self) -> str:
        return "Form(****)"


def is_own(target: bytes) -> bool:
    """Say whether a request's target is ours to answer, on any preview."""
    return target.startswith(OWN_PATH)


def share_path_secret(path: bytes) -> bytes | None:
    """Return the secret in the path of a share's link, or None if it is no such path."""
    prefix = SHARE_PATH.encode("ascii")
    return path[len(prefix) :] if path.startswith(prefix) and len(path) > len(prefix) else None


class Shown(NamedTuple):
    """What a request has to show besides a bearer token. Left out of `repr`."""

    sessions: tuple[bytes, ...]
    share_secret: bytes | None
    """From its ``Portico-Share`` field; None if there is not just one."""

    def __repr__(self) -> str:
        return "Shown(****)"


def shown_by(head: RequestHead, origin: bytes, *, is_custom: bool = False) -> Shown | None:
    """Return what a request has to show; None if that is nothing.

    Args:
        head: Of the request.
        origin: Of the preview, ``https://host[:port]``.
        is_custom: Whether it has a custom hostname, where shares have a cookie of their own.
    """
    name = _cookie_name(origin, of_share=False)
    found: tuple[bytes, ...] = ()
    of_shares: tuple[bytes, ...] = ()
    secrets = []
    for key, _, value in head.fields if head.judged is None else head.judged:
        if key == b"cookie":
            found += sessions_in(value, name)
            if is_custom:
                of_shares += sessions_in(value, _cookie_name(origin, of_share=True), NAMED_SESSION_BYTES)
        elif key == SHARE_FIELD:
            secrets.append(value.strip(b" \t"))
    # Each by itself: a tossed cookie of the one kind must not hide the right one of the other either.
    found = found[:SESSIONS_MAX] + of_shares[:SESSIONS_MAX]
    if found and not cookie_counts(head, origin):
        found = ()
    secret = secrets[0] if len(secrets) == 1 else None
    return Shown(found, secret) if found or secret else None


# Pure, and asked with the same value at each request of a page. As with remembered header lines, what is kept is
# bounded, and says nothing about whether it opens anything.
@lru_cache(maxsize=1024)
def sessions_in(value: bytes, name: bytes, length: int = SESSION_BYTES) -> tuple[bytes, ...]:
    """Return the sessions in the value of a ``Cookie`` field, under the cookie's exact name (RFC 6265 section 5.4)."""
    if name not in value:
        return ()
    found = []
    for pair in value.split(b";"):
        key, separator, session = pair.strip(b" \t").partition(b"=")
        if key == name and separator and len(session) == length:
            found.append(session)
    return tuple(found)


def cookie_counts(head: RequestHead, origin: bytes) -> bool:
    """Say whether a cookie may speak for the sender of a request.

    Browsers say where a request comes from in ``Sec-Fetch-Site`` (Fetch Metadata), on plain http in ``Origin`` alone,
    which they send with every WebSocket handshake and every unsafe method. It must be this preview itself; from
    elsewhere only a navigation by a safe method counts, as with ``SameSite=Lax``. Who sends neither is no browser, or
    loads an image.
    """
    elsewhere = False
    for name, _, value in head.fields:
        if name == b"sec-fetch-site":
            elsewhere = elsewhere or value not in _HERE
        elif name == b"origin" and value != origin and value.lower() != origin:
            return False
    return not elsewhere or _is_plain_navigation(head)


def _is_plain_navigation(head: RequestHead) -> bool:
    return (
        head.method in (b"GET", b"HEAD")
        and list(values(head.fields, b"sec-fetch-mode")) == [b"navigate"]
        and not values(head.fields, b"upgrade")
    )


def is_from_here(fields: Sequence[Field], origin: bytes) -> bool:
    """Say whether a change that a request asks of us was asked for by a page of the preview, or by no page at all.

    A token in a form of another site's would sign its visitor in to a preview of that site's choosing.
    """
    if any(site not in _HERE for site in values(fields, b"sec-fetch-site")):
        return False
    return all(sent.lower() == origin for sent in values(fields, b"origin"))


def set_cookie(origin: bytes, session: bytes, *, max_age_s: int | None = None, of_share: bool = False) -> bytes:
    """Return the value of a ``Set-Cookie`` that gives a browser its session.

    Args:
        origin: Of the preview.
        session: From the sandbox.
        max_age_s: None: for as long as the browser calls its session. Whether it still opens, the sandbox says.
        of_share: Whether it is the cookie that shares have at a custom hostname.
    """
    age = b"" if max_age_s is None else b"; Max-Age=%d" % max_age_s
    return _cookie(origin, session, of_share=of_share) + age


def clear_cookie(origin: bytes, *, of_share: bool = False) -> bytes:
    """Return the value of a ``Set-Cookie`` that takes a browser's session away; `of_share` as of `set_cookie`."""
    return _cookie(origin, b"", of_share=of_share) + b"; Max-Age=0"


def _cookie_name(origin: bytes, *, of_share: bool) -> bytes:
    if origin.startswith(b"https:"):
        return SECURE_SHARE_COOKIE if of_share else SECURE_COOKIE
    return PLAIN_SHARE_COOKIE if of_share else PLAIN_COOKIE


def _cookie(origin: bytes, value: bytes, *, of_share: bool) -> bytes:
    secure = b"; Secure" if origin.startswith(b"https:") else b""
    return _cookie_name(origin, of_share=of_share) + b"=" + value + b"; Path=/" + secure + b"; HttpOnly; SameSite=Lax"


def safe_target(text: str) -> str:
    """Return where a visitor may be sent: a path of the preview's own, ``/`` in place of anything else.

    What is returned is put behind the preview's origin, so not even ``//elsewhere`` would lead elsewhere.
    """
    if len(text) > TARGET_BYTES_MAX or _TARGET.fullmatch(text) is None:
        return "/"
    # Not back to where a visitor is asked, or signed out.
    return "/" if text.startswith(("//", OWN_PATH.decode("ascii"))) else text


def read_form(body: bytes) -> Form | None:
    """Read what the sign-in page sends (``application/x-www-form-urlencoded``); None if it makes no sense."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=4, errors="strict")
    except ValueError:
        # Expected: anything can be posted.
        return None
    sent = dict(pairs)
    if len(sent) != len(pairs) or "token" not in sent:
        return None
    # People paste with a space or a line end.
    return Form(sent["token"].strip(), safe_target(sent.get("to", "/")))
