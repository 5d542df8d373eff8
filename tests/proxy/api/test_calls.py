"""How calls are declared."""

from proxy.api.calls import Call, Need, Operation, Reply
from proxy.api.keys import KeyRecord, Scope
from tests.proxy.api.stage import Stage


async def nothing(_call: Call) -> Reply:
    return Reply(204)


def test_only_what_changes_something_may_be_repeated_by_key() -> None:
    for method, changes in (("GET", False), ("POST", True), ("PUT", True), ("DELETE", True)):
        assert Operation(method, "/x", "x", "X.", nothing, Need.LOOK, {204: None}).changes is changes


async def test_names_of_operations_are_unique_and_their_handlers_too(stage: Stage) -> None:
    operations = stage.api.operations
    assert len({operation.name for operation in operations}) == len(operations)
    assert len({(operation.method, operation.path) for operation in operations}) == len(operations)


async def test_call_reads_its_path_and_asks_its_scope(stage: Stage) -> None:
    await stage.make()
    key = KeyRecord("key-1", "k", "sandbox:my-app", 0.0, "")
    path = {"id": "my-app", "port": "8080"}
    call = Call(stage.api.ground, None, key, Scope.parse(key.scope), path)  # type: ignore[arg-type]  # not looked at
    assert (call.sandbox_id, call.port) == ("my-app", 8080)
    assert (await call.sandbox()).id == "my-app"
    assert call.sees_secrets("my-app")
    assert not call.sees_secrets("another")
