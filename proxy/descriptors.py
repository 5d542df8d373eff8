"""How many open files this process may have, and so how many clients it may serve.

Clients need no credential to open a connection. If they could use up every descriptor, sandboxes could not open their
logs, and owners could not take anything back: so some are kept from them.
"""

import resource
from typing import Final

import structlog

log = structlog.get_logger("portico.descriptors")

KEPT: Final = 256
"""For logs, containers, listeners, and whatever else the embedding program has open."""

PER_CONNECTION: Final = 2
"""One towards the client, one towards the service."""


def allow_connections(wanted: int) -> int:
    """Raise the soft limit on open files as far as is wanted and allowed; return how many clients that is enough for.

    Args:
        wanted: Client connections at once.
    """
    files = wanted * PER_CONNECTION + KEPT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    enough = files if hard == resource.RLIM_INFINITY else min(files, hard)
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    if soft >= files:
        return wanted
    allowed = max((soft - KEPT) // PER_CONNECTION, 1)
    log.debug("few open files allowed: fewer connections than configured", limit=soft, connections=allowed)
    return allowed
