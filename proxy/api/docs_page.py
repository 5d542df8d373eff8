"""The OpenAPI document as a page for people, at ``/docs``: nothing is loaded and nothing runs, so it works offline."""

import html
from collections.abc import Mapping
from typing import Any, Final

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
)

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{font:14px ui-monospace,monospace}summary{cursor:pointer;padding:.3rem 0}"
    "b{display:inline-block;width:4.5rem}pre{background:#f4f4f4;padding:1rem;overflow:auto}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}pre{background:#222}}"
)


def write_page(document: Mapping[str, Any]) -> str:
    """Return the page that shows `document`."""
    info = document["info"]
    calls = [
        _call(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    title = f"{_text(info['title'])} {_text(info['version'])}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: the API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}: the API</h1>'
        f"<p>{_text(info['description'])}</p><p>Send a key as <code>X-API-Key</code>. For programs: "
        f'<a href="/openapi.json">openapi.json</a>.</p><h2>Calls</h2>{"".join(calls)}<h2>Schemas</h2>{"".join(schemas)}'
        "</html>\n"
    )


def _call(method: str, path: str, operation: Mapping[str, Any]) -> str:
    lines = [
        f"{parameter['name']} ({parameter['in']}{', required' if parameter.get('required') else ''})"
        for parameter in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        lines.append(f"content: {_kinds(operation['requestBody'])}")
    lines += [f"{status}: {_kinds(response)}" for status, response in operation["responses"].items()]
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{_text(path)}</code> {_text(operation['summary'])}</summary>"
        f"<pre>{_text(chr(10).join(lines))}</pre></details>"
    )


def _kinds(described: Mapping[str, Any]) -> str:
    kinds = [
        content["schema"].get("$ref", content["schema"].get("items", {}).get("$ref", kind)).rpartition("/")[2]
        for kind, content in described.get("content", {}).items()
    ]
    return ", ".join(kinds) or str(described.get("description", ""))


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    fields = [f"{field}{'' if field in schema.get('required', ()) else '?'}" for field in schema.get("properties", {})]
    said = schema.get("description", "")
    shown = _text(chr(10).join(fields))
    return f"<details><summary><code>{_text(name)}</code> {_text(said)}</summary><pre>{shown}</pre></details>"


def _text(value: object) -> str:
    return html.escape(str(value))
