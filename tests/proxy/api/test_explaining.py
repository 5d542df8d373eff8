"""An explanation goes out as it is, and can be read back."""

import msgspec

from actors import SandboxId
from proxy.api import schemas
from proxy.api.explaining import describe
from proxy.core.explain import ExplainedStep, Explanation, Question


def test_explanation_goes_out_with_its_steps_and_outcome() -> None:
    explained = Explanation(
        "https://8080-my-app-****.example.com/",
        SandboxId("my-app"),
        (ExplainedStep(Question.HOST, "port 8080 of my-app", "its first label says so"),),
        404,
        "INVALID_TOKEN",
        "Access denied",
    )
    answer = describe(explained)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=schemas.Explanation) == answer
    assert msgspec.to_builtins(answer) == {
        "url": explained.url,
        "sandbox": "my-app",
        "steps": [{"question": "host", "answer": "port 8080 of my-app", "because": "its first label says so"}],
        "outcome": {"status": 404, "code": "INVALID_TOKEN", "text": "Access denied"},
    }


def test_host_of_no_sandbox_has_none() -> None:
    assert describe(Explanation("https://x/", None, (), 421, "MISDIRECTED_REQUEST", "no")).sandbox is None
