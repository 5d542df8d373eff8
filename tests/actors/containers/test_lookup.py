"""From a host to what may be dialled."""

import socket

import pytest

from actors.containers.lookup import look_up
from actors.containers.places import Places
from actors.errors import NotListeningError


async def test_literals_and_names_lead_to_addresses() -> None:
    assert await look_up("127.0.0.1", 80, Places()) == [(socket.AF_INET, "127.0.0.1")]
    assert (socket.AF_INET, "127.0.0.1") in await look_up("localhost", 80, Places())


async def test_what_may_not_be_dialled_is_named_with_the_reason() -> None:
    with pytest.raises(NotListeningError, match="metadata, not dialled"):
        await look_up("169.254.169.254", 80, Places())


async def test_a_name_without_an_address_says_so() -> None:
    with pytest.raises(NotListeningError, match="no address"):
        await look_up("nobody.invalid", 80, Places())
