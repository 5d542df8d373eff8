"""How the state model's things look in answers; that secrets are left out is tested where the calls are."""

import msgspec

from actors import MemoryStore, SandboxId, open_runtime
from actors.testing.containers import fake_containers
from proxy.api import schemas
from proxy.api.present import shown_explanation, shown_ports, shown_sandbox, shown_time
from proxy.core.explain import ExplainedStep, Explanation, Question


def test_times_are_in_utc() -> None:
    assert shown_time(0) == "1970-01-01T00:00:00+00:00"


async def test_sandbox_without_a_public_address_has_ports_without_urls() -> None:
    async with open_runtime(MemoryStore(), containers={"fake": fake_containers()}) as runtime:
        sandbox = await runtime.get_sandbox("my-app", container="fake")
        await sandbox.expose_port(8081, token="b", hostname="example.com")
        await sandbox.expose_port(8080, token="a", hostname="example.com")
        state = await sandbox.state()
        ports = shown_ports(state, runtime, secrets=True)
        assert [(port.port, port.token, port.url) for port in ports] == [(8080, "a", None), (8081, "b", None)]
        async with sandbox.running():
            shown = shown_sandbox(await sandbox.state(), runtime, secrets=False)
        assert (shown.status, [port.status for port in shown.ports]) == ("running", ["active", "active"])


def test_explanation_goes_out_with_its_steps_and_outcome() -> None:
    explained = Explanation(
        "https://8080-my-app-****.example.com/",
        SandboxId("my-app"),
        (ExplainedStep(Question.HOST, "port 8080 of my-app", "its first label says so"),),
        404,
        "INVALID_TOKEN",
        "Access denied",
    )
    answer = shown_explanation(explained)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=schemas.Explanation) == answer
    assert msgspec.to_builtins(answer) == {
        "url": explained.url,
        "sandbox": "my-app",
        "steps": [{"question": "host", "answer": "port 8080 of my-app", "because": "its first label says so"}],
        "outcome": {"status": 404, "code": "INVALID_TOKEN", "text": "Access denied"},
    }


def test_host_of_no_sandbox_has_none() -> None:
    assert shown_explanation(Explanation("https://x/", None, (), 421, "MISDIRECTED_REQUEST", "no")).sandbox is None
