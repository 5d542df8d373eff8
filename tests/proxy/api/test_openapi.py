"""The document: valid OpenAPI 3.1, and true of the operations."""

from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.proxy.api.stage import Stage


async def test_document_is_valid(stage: Stage) -> None:
    document = await stage.got("GET", "/openapi.json", key=None)
    OpenAPIV31SpecValidator(document).validate()


async def test_every_operation_is_described_once(stage: Stage) -> None:
    document = await stage.got("GET", "/openapi.json", key=None)
    described = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    served = {(operation.method, operation.path) for operation in stage.api.operations}
    assert described.keys() == served
    names = [operation["operationId"] for operation in described.values()]
    assert len(set(names)) == len(names)


async def test_every_reference_leads_to_a_schema_and_every_schema_is_used(stage: Stage) -> None:
    document = await stage.got("GET", "/openapi.json", key=None)
    used = set(_references(document))
    assert used == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in _references(inner)]
    return []


async def test_changes_may_bear_an_idempotency_key_and_open_calls_need_none(stage: Stage) -> None:
    paths = (await stage.got("GET", "/openapi.json", key=None))["paths"]
    names = [parameter["name"] for parameter in paths["/v1/sandboxes"]["post"]["parameters"]]
    assert names == ["Idempotency-Key"]
    assert paths["/healthz"]["get"]["security"] == []
    assert "security" not in paths["/v1/sandboxes"]["get"]
