"""Writes proxy/client/sync.py from aio.py: the same code, with what says ``async`` taken out.

Two faces kept in step by hand drift apart. Run it after a change of aio.py::

    python tests/proxy/client/unasync.py
"""

import re
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[3] / "proxy" / "client"

DOCSTRING: Final = '''"""The client for code that is not async. Written by tests/proxy/client/unasync.py: do not edit.

The names, arguments and exceptions are those of the embedding API; see `aio` for what differs. A client may be shared
by threads.
"""
'''

# Whole words only, and in this order.
REPLACEMENTS: Final = (
    (r"from anyio import sleep\n", ""),
    (
        r"\bfrom types import TracebackType\n",
        "from time import sleep  # blocks its caller's thread, as all here does\nfrom types import TracebackType\n",
    ),
    (r"``async with``", "``with``"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bAsyncGenerator\b", "Generator"),
    # `(await f(g(x))).y` needs no parentheses without the await.
    (r"\(await ((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)\.", r"\1."),
    (r"\bawait ", ""),
    (r"\bAsync(Client|Sandbox|Process|Iterator)\b", r"\1"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclosing\b", "closing"),
    (r"\baclose\b", "close"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"  # noqa: ASYNC109 - [^\n]*", ""),
)


def unasync(source: str) -> str:
    """Return the source of sync.py, but for what the formatter makes of it."""
    _, _, body = source.split('"""', 2)
    for pattern, replacement in REPLACEMENTS:
        body = re.sub(pattern, replacement, body)
    return DOCSTRING + body.removeprefix("\n")


if __name__ == "__main__":
    (FOLDER / "sync.py").write_text(unasync((FOLDER / "aio.py").read_text(encoding="utf-8")), encoding="utf-8")
