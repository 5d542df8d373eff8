"""What is said of an exception: where, not with what."""

from actors.failures import where_raised


def test_groups_are_taken_apart_and_neither_texts_nor_locals_are_said() -> None:
    secret = "k3v9x0q2m7t1z8aa"

    def fail() -> None:
        token = secret
        raise KeyError(token)

    try:
        try:
            fail()
        except KeyError as error:
            raise ExceptionGroup("several", [error, ValueError(secret)]) from None
    except ExceptionGroup as group:
        said = where_raised(group)
    assert said["error"] == "KeyError, ValueError"
    assert "in fail" in said["frames"]
    assert secret not in str(said)
