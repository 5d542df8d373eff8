"""The pages that ask a visitor for something: the bearer token, and leave to use up a link or to sign out.

They are answered on the hostname of a preview, without a script. What a visitor was after is kept in the form, so that
it is there after signing in; that is the one thing on any page of ours that comes from the request, and it is escaped.
"""

import html
from typing import Final

from proxy.core.gate import SIGN_IN_PATH, SIGN_OUT_PATH, safe_target
from proxy.core.http1 import Field
from proxy.core.pages import Answer, Code, render_form

ASKS_FOR_TOKEN: Final = frozenset({Code.AUTH_REQUIRED, Code.AUTH_INVALID, Code.TOO_MANY_TRIES})
"""Answers that a navigation gets with a form on them."""

_ASKING_FORM: Final = """<form method="post" action="{action}">
<input type="hidden" name="to" value="{target}">
<label for="token">Preview token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Open the preview</button>
</form>
"""

_BUTTON_FORM: Final = """<form method="post" action="{action}">
<button>{label}</button>
</form>
"""

_SAID: Final = {
    Code.AUTH_INVALID: "That token does not open it any more, or never did.",
    Code.TOO_MANY_TRIES: "Too many tries: wait a minute.",
}


def sign_in_page(answer: Answer, target: str, *, tried: bool = False) -> tuple[list[Field], bytes]:
    """Return the fields and the body of the page that asks for the token.

    Args:
        answer: What a program would be told.
        target: Where the visitor was going.
        tried: Whether a token was typed in, and not only a session shown that has ended.
    """
    form = _ASKING_FORM.format(action=SIGN_IN_PATH, target=html.escape(safe_target(target)))
    return render_form(
        form,
        title="This preview is private",
        advice="Its owner has a token that opens it.",
        said=_SAID.get(answer.code, "") if tried else "",
        status=answer.status,
        code=answer.code.value,
        fields=answer.fields,
    )


def sign_out_page() -> tuple[list[Field], bytes]:
    """Return the fields and the body of the page that asks whether to sign out."""
    form = _BUTTON_FORM.format(action=SIGN_OUT_PATH, label="Sign out")
    return render_form(
        form, title="Sign out?", advice="This browser will be asked for the token again.", status=200, code="SIGN_OUT"
    )


def once_page() -> tuple[list[Field], bytes]:
    """Return the fields and the body of the page before a link that opens once.

    Mail scanners and chats look at links before people do. They press no buttons.
    """
    # No action: back to where the page is, so that the secret is not written into it.
    form = '<form method="post">\n<button>Open the preview</button>\n</form>\n'
    return render_form(
        form,
        title="Somebody shared a preview with you",
        advice="This link opens once, in this browser.",
        status=200,
        code="SHARE",
    )
