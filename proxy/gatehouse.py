r"""What a preview's host answers itself, below ``/.portico/``: signing in, signing out, a share's link.

An ASGI app, as the one of the base domain is, so that requests are read and answers are written by the machines that do
it for everybody. No service sees any of it, no sandbox is woken by it; what is right, the sandbox's actor says.

======================== ====== ==================================================================================
``/.portico/sign-in``    GET    the page that asks for the token
\                        POST   ``token=…&to=/path``: a cookie, and back to where the visitor was going
``/.portico/sign-out``   POST   takes the cookie away; GET asks first
``/.portico/share/…``    GET    a cookie, and on to ``/``; a link that opens once asks first
\                        POST   the same, without asking
======================== ====== ==================================================================================
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
import trio
from msgspec.structs import replace as replaced

from actors import (
    PorticoError,
    RefusedBecause,
    Runtime,
    ShareNotFoundError,
    ShareSpentError,
    find_share,
    read_named,
    redeem_share,
)
from proxy.core.gate import (
    FORM_BYTES_MAX,
    SIGN_IN_PATH,
    SIGN_OUT_PATH,
    clear_cookie,
    is_from_here,
    read_form,
    safe_target,
    set_cookie,
    share_path_secret,
    shown_by,
)
from proxy.core.hostname import BuiltInHost, CustomHost, TokenHost
from proxy.core.http1 import Field, RequestHead
from proxy.core.pages import Answer, Code, refusal, render, wants_html
from proxy.core.sign_in import ASKS_FOR_TOKEN, once_page, sign_in_page, sign_out_page
from proxy.core.tries import Key, Tries
from proxy.door import Preview, answer_to_error

log = structlog.get_logger("portico.gatehouse")

FORM_TIMEOUT_S: Final = 30.0
"""For the whole of a form to arrive, which fits into one packet or two."""

App = Callable[[Any, Any, Any], Awaitable[None]]
Page = tuple[int, Sequence[Field], bytes]
"""Status, fields, body."""


class Gatehouse:
    """Answers for all previews of one runtime. Stateless but for the count of wrong tokens."""

    __slots__ = ("_runtime", "_tries")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tries = Tries()

    def app(self, preview: Preview, head: RequestHead, client: str | None) -> App:
        """Return an ASGI app that answers one request for a preview's own pages.

        Args:
            preview: Whose.
            head: Of the request.
            client: Who asks, as one client is counted: an address, or the network of one subscriber. None: nobody can
                say, or many come from there; they are counted together, see `proxy.core.tries`.
        """

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await send({"type": "websocket.close"})
                return
            status, fields, body = await self._answer(preview, head, client, receive)
            headers = [(name, value) for _, name, value in fields]
            headers.append((b"Content-Length", b"%d" % len(body)))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return answer

    async def _answer(self, preview: Preview, head: RequestHead, client: str | None, receive: Any) -> Page:
        visitor = _Visitor(preview, head, (str(preview.host.sandbox), client))
        path = head.target.partition(b"?")[0]
        try:
            if path == SIGN_IN_PATH.encode():
                return await self._sign_in(visitor, receive)
            if path == SIGN_OUT_PATH.encode():
                return _sign_out(visitor)
            secret = share_path_secret(path)
            if secret is not None and not isinstance(preview.host, BuiltInHost):
                return await self._share(visitor, preview.host, secret)
        except PorticoError as error:
            return visitor.told(answer_to_error(error, preview.host.sandbox))
        return visitor.told(refusal(Code.NOT_FOUND))

    async def _sign_in(self, visitor: "_Visitor", receive: Any) -> Page:
        preview, head = visitor.preview, visitor.head
        knock = preview.knock
        if head.method in (b"GET", b"HEAD"):
            shown = shown_by(head, preview.origin, is_custom=isinstance(preview.host, CustomHost))
            sessions = shown.sessions if shown is not None else ()
            judged = await self._runtime.sign_in(preview.host.sandbox, replaced(knock, sessions=sessions))
            return visitor.refused(judged, "/") if isinstance(judged, RefusedBecause) else visitor.sent_on("/")
        if head.method != b"POST":
            return visitor.told(_not_allowed("GET, HEAD, POST"))
        if not is_from_here(head.fields, preview.origin):
            return visitor.told(refusal(Code.CROSS_ORIGIN))
        body = await _read(receive)
        if isinstance(body, Answer):
            return visitor.told(body)
        form = read_form(body)
        if form is None:
            return visitor.told(refusal(Code.BAD_REQUEST, detail="the form has no token in it"))
        if not self._may_try(visitor):
            return visitor.told(refusal(Code.TOO_MANY_TRIES), tried=True)
        token = form.token.encode("utf-8", "replace")
        try:
            judged = await self._runtime.sign_in(preview.host.sandbox, replaced(knock, preview_token=token))
        except PorticoError:
            # Nobody has looked at it.
            self._tries.take_back(visitor.key)
            raise
        if judged is RefusedBecause.AUTH_INVALID:
            self._was_wrong(visitor)
        else:
            self._was_right(visitor)
        if isinstance(judged, RefusedBecause):
            return visitor.refused(judged, form.target, tried=True)
        return visitor.sent_on(form.target, *([set_cookie(preview.origin, judged)] if judged is not None else []))

    async def _share(self, visitor: "_Visitor", host: TokenHost | CustomHost, shown: bytes) -> Page:
        head, origin = visitor.head, visitor.preview.origin
        if head.method not in (b"GET", b"HEAD", b"POST"):
            return visitor.told(_not_allowed("GET, HEAD, POST"))
        if head.method == b"POST" and not is_from_here(head.fields, origin):
            return visitor.told(refusal(Code.CROSS_ORIGIN))
        if not self._may_try(visitor):
            return visitor.told(refusal(Code.TOO_MANY_TRIES))
        if isinstance(host, CustomHost):
            # Without an id, it is as wrong as with another one.
            name, secret = read_named(shown) or ("", shown)
            binding: int | None = host.binding
        else:
            name, secret, binding = host.token.reveal(), shown, None
        sandbox, port = host.sandbox, host.port
        session = None
        try:
            share = await find_share(self._runtime, sandbox, name, port, secret, binding=binding)
            if head.method == b"POST" or not share.once:
                session = await redeem_share(self._runtime, sandbox, name, port, secret, binding=binding)
        except ShareNotFoundError:
            self._was_wrong(visitor)
            # As everything that does not exist, or not any more.
            return visitor.told(refusal(Code.INVALID_TOKEN))
        except ShareSpentError:
            self._was_right(visitor)
            return visitor.told(refusal(Code.SHARE_SPENT))
        except PorticoError:
            # Nobody has looked at it, or it was right and could not be taken note of.
            self._tries.take_back(visitor.key)
            raise
        self._was_right(visitor)
        if session is None:
            # Looking at a link that opens once does not spend it.
            return (200, *once_page()) if visitor.as_html else visitor.told(_not_allowed("POST"))
        age = max(math.ceil(session.expires_at - self._runtime.now()), 0)
        of_share = binding is not None
        return visitor.sent_on("/", set_cookie(origin, session.value, max_age_s=age, of_share=of_share))

    def _may_try(self, visitor: "_Visitor") -> bool:
        """Say whether a secret may be looked at, and count it as wrong until it is known not to be.

        Counted first, so that many at once are not all looked at before the first is found wrong. For a sandbox that
        does not exist nothing is counted: there is nothing to guess, and made-up names would push others out.
        """
        if not self._runtime.exists(visitor.preview.host.sandbox):
            return True
        now = trio.current_time()
        if self._tries.wait_s(visitor.key, now) > 0:
            return False
        self._tries.note_wrong(visitor.key, now)
        return True

    def _was_right(self, visitor: "_Visitor") -> None:
        self._tries.take_back(visitor.key)

    def _was_wrong(self, visitor: "_Visitor") -> None:
        if self._tries.wait_s(visitor.key, trio.current_time()) <= 0:
            return
        sandbox, client = visitor.key
        if client is None:
            client = "all that cannot be told apart: name the proxy that they come by in trusted_proxies"
        log.warning("too many wrong secrets; nothing more is looked at for a minute", sandbox=sandbox, client=client)


class _Visitor:
    """Who asks, and how they are answered."""

    def __init__(self, preview: Preview, head: RequestHead, key: Key) -> None:
        self.preview: Final = preview
        self.head: Final = head
        self.key: Final = key
        """By which wrong tries are counted."""
        self.as_html: Final = wants_html(head.fields)

    def told(self, answer: Answer, target: str = "/", *, tried: bool = False) -> Page:
        if self.as_html and answer.code in ASKS_FOR_TOKEN:
            return answer.status, *sign_in_page(answer, target, tried=tried)
        return answer.status, *render(answer, as_html=self.as_html)

    def refused(self, reason: RefusedBecause, target: str, *, tried: bool = False) -> Page:
        answer = refusal(Code(reason.value), sandbox=self.preview.host.sandbox)
        return self.told(answer, target, tried=tried)

    def sent_on(self, target: str, *cookies: bytes) -> Page:
        """Send the visitor to a path of the preview: absolute, so that it cannot lead anywhere else."""
        fields = [
            _field(b"Location", self.preview.origin + safe_target(target).encode("ascii")),
            _field(b"Cache-Control", b"no-store"),
            # Where the visitor comes from may be a share's link.
            _field(b"Referrer-Policy", b"no-referrer"),
        ]
        fields += (_field(b"Set-Cookie", cookie) for cookie in cookies)
        return 303, fields, b""


def _sign_out(visitor: _Visitor) -> Page:
    if visitor.head.method in (b"GET", b"HEAD"):
        return 200, *sign_out_page()
    if visitor.head.method != b"POST":
        return visitor.told(_not_allowed("GET, HEAD, POST"))
    if not is_from_here(visitor.head.fields, visitor.preview.origin):
        return visitor.told(refusal(Code.CROSS_ORIGIN))
    origin, cookies = visitor.preview.origin, [clear_cookie(visitor.preview.origin)]
    if isinstance(visitor.preview.host, CustomHost):
        cookies.append(clear_cookie(origin, of_share=True))
    return visitor.sent_on("/", *cookies)


async def _read(receive: Any) -> bytes | Answer:
    """Read the request's content, of bounded size and in bounded time."""
    body: bytes = b""
    with trio.move_on_after(FORM_TIMEOUT_S):
        while True:
            event = await receive()
            if event["type"] != "http.request":
                break
            body += bytes(event["body"])
            if len(body) > FORM_BYTES_MAX:
                return refusal(Code.CONTENT_TOO_LARGE)
            if not event["more_body"]:
                return body
    return refusal(Code.REQUEST_TIMEOUT)


def _not_allowed(methods: str) -> Answer:
    detail = f"here it takes {methods}"
    answer = refusal(Code.METHOD_NOT_ALLOWED, detail=detail)
    return replace(answer, fields=(_field(b"Allow", methods.encode("ascii")),))


def _field(name: bytes, value: bytes) -> Field:
    return name.lower(), name, value
