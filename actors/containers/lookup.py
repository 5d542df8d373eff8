"""From a host to the addresses that may be dialled there."""

import socket
from collections.abc import Sequence

import trio

from actors.containers.places import Places
from actors.errors import NotListeningError


async def look_up(host: str, port: int, places: Places) -> Sequence[tuple[socket.AddressFamily, str]]:
    """Look a name up, every time: whoever moves what it stands for changes its address there.

    What is returned has been judged, and is what is to be dialled: a second look-up could lead elsewhere.

    Raises:
        NotListeningError: It has no address, or none that may be dialled.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise NotListeningError(port, [(host, f"no address: {reason.lower()}")]) from error
    # A scope id (``fe80::1%eth0``) arrives as a number beside the address and is not part of its text.
    addresses = [(family, str(address[0])) for family, _, _, _, address in found]
    reasons = {address: places.refusal(address) for _, address in addresses}
    allowed = [(family, address) for family, address in addresses if reasons[address] is None]
    if not allowed:
        raise NotListeningError(port, [(address, f"{reason}, not dialled") for address, reason in reasons.items()])
    return allowed
