"""The OpenAPI 3.1 document, written from the operations themselves.

msgspec gives the JSON schema (2020-12, which is what OpenAPI 3.1 speaks) of every struct; the rest is a matter of
putting things where the specification wants them (OpenAPI 3.1.1, section 4.8).
"""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from proxy.api import schemas
from proxy.api.calls import BYTES, HTML, Need, Operation
from proxy.api.idempotency import KEY_LENGTH_MAX

_REF: Final = "#/components/schemas/{name}"

_PARTS: Final[Mapping[str, tuple[Any, str]]] = {
    "id": (schemas.SandboxName, "The sandbox."),
    "port": (schemas.PortNumber, "The port."),
    "process": (schemas.ProcessName, "The process."),
    "key": (str, "The key's id."),
    "share": (str, "The share's id."),
    "exec": (schemas.ProcessName, "The session."),
    "hostname": (schemas.Hostname, "The custom hostname."),
}
"""What stands in braces in paths."""

_JSON: Final = "application/json"


def write_document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """Return the document that describes `operations`.

    Args:
        operations: All of them.
        version: Of the server.
    """
    operations = tuple(operations)
    types = list(dict.fromkeys(_types(operations)))
    written, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(types, written, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of, components)
    for operation in operations:
        # Their fields are parameters, not content.
        if operation.query is not None:
            components.pop(operation.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Portico",
            "version": version,
            "description": "Sandboxes, their ports and preview URLs. Calls under `/api` and `/v1/sandbox` are those "
            "of the clients of other systems, kept as those clients send them.",
        },
        "servers": [{"url": "/"}],
        "security": [{"apiKey": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _types(operations: Iterable[Operation]) -> Iterable[Any]:
    yield schemas.Problem
    for operation in operations:
        if operation.body is not None:
            yield operation.body
        if operation.query is not None:
            yield operation.query
        yield from (
            answer for answer in operation.answers.values() if answer is not None and answer not in (BYTES, HTML)
        )
    yield from (kind for kind, _ in _PARTS.values())


def _operation(operation: Operation, schema_of: Mapping[Any, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": _responses(operation, schema_of),
    }
    parameters = _path_parameters(operation, schema_of) + _query_parameters(operation, schema_of, components)
    if operation.changes:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same request with the same key is carried out once, and answered alike.",
                "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH_MAX, "pattern": "^[!-~]+$"},
            }
        )
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {_JSON: {"schema": schema_of[operation.body]}},
        }
    if operation.need is Need.NOTHING:
        described["security"] = []
    return described


def _responses(operation: Operation, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        responses[str(status)] = _response(status, answer, schema_of)
    problems = set(operation.problems)
    if operation.need is not Need.NOTHING:
        problems |= {400, 401, 403}
    for status in sorted(problems):
        responses[str(status)] = _response(status, schemas.Problem, schema_of)
    responses["default"] = {
        "description": "Any other refusal: the request, or the moment, is not right.",
        "content": {_JSON: {"schema": schema_of[schemas.Problem]}},
    }
    return responses


def _response(status: int, answer: Any, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if answer == BYTES:
        described["content"] = {"application/octet-stream": {"schema": {}}}
    elif answer == HTML:
        described["content"] = {"text/html": {"schema": {"type": "string"}}}
    elif answer is not None:
        described["content"] = {_JSON: {"schema": schema_of[answer]}}
    return described


def _path_parameters(operation: Operation, schema_of: Mapping[Any, Any]) -> list[dict[str, Any]]:
    parameters = []
    for name in re.findall(r"{(\w+)}", operation.path):
        kind, description = _PARTS[name]
        parameters.append(
            {"name": name, "in": "path", "required": True, "description": description, "schema": schema_of[kind]}
        )
    return parameters


def _query_parameters(
    operation: Operation, schema_of: Mapping[Any, Any], components: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = components[schema_of[operation.query]["$ref"].rpartition("/")[2]]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": field}
        for name, field in schema["properties"].items()
    ]
