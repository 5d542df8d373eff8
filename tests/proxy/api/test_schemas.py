"""What the API's structs take and refuse."""

import msgspec
import pytest

from actors import InvalidNameError, SandboxId
from proxy.api import schemas


def decode(kind: type[schemas.Request], text: str) -> object:
    return msgspec.json.decode(text, type=kind)


@pytest.mark.parametrize("name", ["my-app", "A", "sb-1a2b3c4d", "a" * 40, "apis", "WWW2", "x--y"])
def test_a_sandbox_id_that_the_state_model_takes_is_taken(name: str) -> None:
    assert SandboxId(name)
    assert decode(schemas.CreateSandbox, msgspec.json.encode({"id": name}).decode())


@pytest.mark.parametrize("name", ["", "-a", "a-", "a" * 41, "www", "API", "Workers", "ä", "a_b", "a\n", "\u212a"])
def test_a_sandbox_id_that_the_state_model_refuses_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        SandboxId(name)
    with pytest.raises(ValueError, match=r"id"):
        # ``$`` alone would let a line's end pass; whatever the pattern says, the state model has the last word.
        SandboxId(decode(schemas.CreateSandbox, msgspec.json.encode({"id": name}).decode()).id)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (schemas.CreateSandbox, '{"idd": "x"}'),
        (schemas.CreateSandbox, '{"open_ports": 1}'),
        (schemas.CreateSandbox, '{"when_asleep": "never"}'),
        (schemas.CreateSandbox, '{"preview_auth": {"token": "short"}}'),
        (schemas.CreateSandbox, '{"preview_auth": {"scheme": "basic"}}'),
        (schemas.ExposePort, '{"token": "UPPER"}'),
        (schemas.StartProcess, "{}"),
        (schemas.StartProcess, '{"command": []}'),
        (schemas.StartProcess, '{"command": "a\\u0000b"}'),
        (schemas.StartProcess, '{"command": "x", "env": {"A=B": "c"}}'),
        (schemas.StartProcess, '{"command": "x", "id": "../x"}'),
        (schemas.Kill, '{"signal": 0}'),
        (schemas.Kill, '{"signal": true}'),
        (schemas.WaitForPort, '{"port": "8080"}'),
        (schemas.CreateKey, '{"name": "x", "scope": "root"}'),
        (schemas.CreateKey, '{"name": "x", "scope": "sandbox:"}'),
    ],
)
def test_what_is_misspelt_or_of_another_type_is_refused(kind: type[schemas.Request], text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(kind, text)


def test_commands_are_text_or_a_list() -> None:
    for command in ("ls -l", ["ls", "-l", ""]):
        started = decode(schemas.StartProcess, msgspec.json.encode({"command": command}).decode())
        assert isinstance(started, schemas.StartProcess)
        assert started.command == command


def test_every_struct_has_a_json_schema() -> None:
    kinds = [
        kind
        for kind in vars(schemas).values()
        if isinstance(kind, type) and issubclass(kind, schemas.Request | schemas.Answer)
    ]
    _, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    assert components["Sandbox"]["properties"]["ports"]["items"] == {"$ref": "#/components/schemas/Port"}
    assert components["CreateSandbox"]["additionalProperties"] is False
