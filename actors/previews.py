"""Preview URLs in the shape of OpenComputer's API: one hostname for each port, worked out rather than asked for.

Of a sandbox with open ports every port has its built-in hostname whether anybody has called or not; what is created,
listed and deleted is only the record that its owner wants it. Of any other sandbox the record is what opens the port,
and the hostname holds its token.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.sandbox.ids import Port, SandboxId
from actors.sandbox.state import Exposure, SandboxState
from actors.sandbox.urls import BUILT_IN_PREFIX, Domain, PublicAddress, built_in_hostname, first_label

if TYPE_CHECKING:
    # The runtime makes handles, so this arrow may exist for the type checker only.
    from actors.runtime import Runtime


@dataclass(frozen=True, slots=True)
class PreviewURL:
    """A port's preview, as it was when asked."""

    id: str
    """Another one each time the preview is made anew."""
    sandbox: SandboxId
    port: int
    hostname: str = field(repr=False)
    """The built-in one where that leads there. Else the token is in it, and it is a secret."""
    url: str = field(repr=False)
    """Of that hostname, with the slash."""


def preview_of(state: SandboxState, exposure: Exposure, public: PublicAddress) -> PreviewURL:
    """Return the preview of an exposed port, on the domain of `public`."""
    if state.open_ports and state.sandbox.startswith(BUILT_IN_PREFIX):
        label = built_in_hostname(state.sandbox, exposure.port, public.domain).removesuffix(f".{public.domain}")
    else:
        label = first_label(state.sandbox, exposure.port, exposure.token)
    return PreviewURL(
        f"preview-{state.sandbox}-{exposure.port:d}-{exposure.generation}",
        state.sandbox,
        exposure.port,
        f"{label}.{public.domain}",
        f"{public.origin(label)}/",
    )


def previews_of(state: SandboxState, public: PublicAddress) -> list[PreviewURL]:
    """Return the previews of a sandbox, by port."""
    return [preview_of(state, state.ports[port], public) for port in sorted(state.ports)]


def public_address(runtime: "Runtime", domain: Domain | None) -> PublicAddress:
    """Return where previews are reached, on `domain` or on the server's first one.

    Raises:
        RuntimeError: No domain was given and no server listens yet.
    """
    public = runtime.public_address
    if domain is not None:
        return PublicAddress(domain, public.listener_port if public is not None else None)
    if public is None:
        raise RuntimeError("no domain to build the hostname on: pass domain=, or ask again once a Server listens")
    return public


def preview_domain(sandbox: SandboxId, port: int, public: PublicAddress) -> str:
    """Return the built-in hostname of a port.

    Raises:
        InvalidNameError: That is no port, or the id of the sandbox does not begin with ``sb-``.
    """
    return built_in_hostname(sandbox, Port(port), public.domain)
