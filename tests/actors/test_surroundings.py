"""Limits can be changed, not switched off."""

from dataclasses import fields, replace

import pytest

from actors.surroundings import Limits


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_greater_than_zero(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be greater than zero"):
        replace(Limits(), **{name: value})


def test_defaults_leave_revocations_room_and_let_a_wake_take_longer_than_a_cut() -> None:
    limits = Limits()
    assert limits.mailbox_reserve > 0
    assert limits.wake_timeout_s > limits.cut_timeout_s
