"""What the readers refuse has a code and a status, and is caught with everything else of ours."""

import pytest

from actors import PorticoError
from proxy.errors import AmbiguousCredentialError, BadHostError


@pytest.mark.parametrize(("error", "code"), [(BadHostError, "BAD_HOST"), (AmbiguousCredentialError, "BAD_REQUEST")])
def test_refusals_say_which_answer_they_are(error: type[BadHostError | AmbiguousCredentialError], code: str) -> None:
    refused = error("why")
    assert isinstance(refused, PorticoError)
    assert (refused.code, refused.status_code, str(refused)) == (code, 400, "why")
