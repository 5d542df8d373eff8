"""`proxy.core.explain` in the words of the API."""

from proxy.api import schemas
from proxy.core.explain import Explanation


def describe(explained: Explanation) -> schemas.Explanation:
    """Return an explanation as the API answers it."""
    return schemas.Explanation(
        url=explained.url,
        sandbox=None if explained.sandbox is None else str(explained.sandbox),
        steps=[
            schemas.Step(question=step.question.value, answer=step.answer, because=step.because)
            for step in explained.steps
        ],
        outcome=schemas.Outcome(status=explained.status, code=explained.code, text=explained.outcome),
    )
