"""How an exposed port is named in public: base domains, first labels, URLs.

Part of the state model's vocabulary, not of HTTP: owners are given URLs by whoever holds a `Sandbox`, with or
without a server. Reading hostnames that clients send is the router's affair.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from actors.errors import CustomDomainRequiredError, InvalidNameError
from actors.sandbox.ids import Port, PortToken, PreviewToken, SandboxId, ShareId
from actors.sandbox.sessions import naming_share

LABEL_LENGTH_MAX: Final = 63
"""RFC 1035 section 2.3.4, in octets."""

NAME_LENGTH_MAX: Final = 253
"""The 255 octets of RFC 1035 section 2.3.4 as text: less the first length octet and the root's."""

DOMAIN_LENGTH_MAX: Final = NAME_LENGTH_MAX - LABEL_LENGTH_MAX - len(".")
"""So that the longest first label still fits in front of it."""

BUILT_IN_PREFIX: Final = "sb-"
SHARE_PATH: Final = "/.portico/share/"
"""Where a share's secret stands in its link."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# Letters, digits, hyphen: RFC 952 as relaxed by RFC 1123 section 2.1.
_DOMAIN_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# The WHATWG URL standard takes a host for an IPv4 address when its last label looks like this, so browsers
# would dial it instead of asking the DNS.
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Domain(str):
    """A base domain under which previews have their names: checked, lower case, without a trailing dot."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check and fold `text`.

        Raises:
            CustomDomainRequiredError: For ``workers.dev`` and everything under it, which has no wildcard names.
            InvalidNameError: With the rule that `text` breaks.
        """
        if type(text) is cls:
            return text
        if not isinstance(text, str):
            raise InvalidNameError(f"a domain is text, not {type(text).__name__}")
        folded = _checked_domain(text)
        if folded == "workers.dev" or folded.endswith(".workers.dev"):
            raise CustomDomainRequiredError(
                f"{folded} cannot carry preview URLs: they need a custom domain with wildcard DNS (*.your-domain.com)"
            )
        return super().__new__(cls, folded)

    @property
    def is_local(self) -> bool:
        """True for ``localhost`` and names below it, which mean this machine (RFC 6761 section 6.3)."""
        return self == "localhost" or self.endswith(".localhost")


def _checked_domain(text: str) -> str:
    shown = repr(text[:NAME_LENGTH_MAX])
    if not text.isascii():
        raise InvalidNameError(f"domain {shown}: write international names in their ASCII form (xn--...)")
    folded = text.lower().removesuffix(".")
    if not folded:
        raise InvalidNameError("a domain is not empty")
    if "://" in folded:
        raise InvalidNameError(f"domain {shown}: a name is wanted, without a scheme")
    if "/" in folded or "?" in folded or "#" in folded:
        raise InvalidNameError(f"domain {shown}: a name is wanted, without a path")
    if any(character.isspace() for character in folded):
        raise InvalidNameError(f"domain {shown}: a name holds no spaces")
    if "[" in folded or folded.count(":") > 1:
        raise InvalidNameError(f"domain {shown}: an IP address cannot have subdomains")
    if ":" in folded:
        raise InvalidNameError(f"domain {shown}: a name is wanted, without a port")
    if len(folded) > DOMAIN_LENGTH_MAX:
        raise InvalidNameError(
            f"domain {shown}: at most {DOMAIN_LENGTH_MAX} characters, so that preview names stay within DNS limits"
        )
    labels = folded.split(".")
    for label in labels:
        if not is_host_label(label):
            raise InvalidNameError(
                f"domain {shown}: each part has 1 to {LABEL_LENGTH_MAX} of a-z, 0-9 and hyphens, "
                "neither first nor last a hyphen"
            )
    if is_numeric_label(labels[-1]):
        raise InvalidNameError(f"domain {shown}: an IP address cannot have subdomains")
    return folded


def is_host_label(label: str) -> bool:
    """Say whether `label`, in lower case, may be a part of a hostname."""
    return _DOMAIN_LABEL.fullmatch(label) is not None


def is_numeric_label(label: str) -> bool:
    """Say whether a host that ends in this label is taken for an IPv4 address."""
    return _NUMERIC_LABEL.fullmatch(label) is not None


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where clients reach previews."""

    domain: Domain
    """The base domain."""
    listener_port: int | None = None
    """Where our listener is. Shown on local domains only, as on others clients reach us through the TLS of
    whatever stands in front, at 443; shown on any domain when `scheme` is given."""
    scheme: str | None = None
    """None means ``http`` on a local domain and ``https`` elsewhere. When given, this describes the endpoint that
    clients dial, and `listener_port` is that endpoint's."""

    def origin(self, label: str) -> str:
        """Return ``scheme://label.domain[:port]``, without a slash."""
        return self._origin(f"{label}.{self.domain}", is_local=self.domain.is_local)

    def custom_origin(self, hostname: str) -> str:
        """Return ``scheme://hostname[:port]`` of a custom hostname, which is never a local one."""
        return self._origin(hostname, is_local=False)

    def _origin(self, name: str, *, is_local: bool) -> str:
        scheme = self.scheme or ("http" if is_local else "https")
        port = self.listener_port if is_local or self.scheme is not None else None
        suffix = "" if port is None or port == DEFAULT_PORTS.get(scheme) else f":{port}"
        return f"{scheme}://{name}{suffix}"


def first_label(sandbox: SandboxId, port: Port | int, token: PortToken) -> str:
    """Return the first label of the token form. It holds the token, so it is a secret."""
    return f"{port:d}-{sandbox}-{token.reveal()}"


def preview_url(address: PublicAddress, sandbox: SandboxId, port: Port | int, token: PortToken) -> str:
    """Return the URL of an exposed port, always with the slash. It holds the token, so it is a secret."""
    return f"{address.origin(first_label(sandbox, port, token))}/"


def share_url(
    address: PublicAddress, sandbox: SandboxId, port: Port | int, share: ShareId, secret: PreviewToken
) -> str:
    """Return the link of a share. It holds the secret, so it is one."""
    return f"{address.origin(first_label(sandbox, port, PortToken(share)))}{SHARE_PATH}{secret.reveal()}"


def hostname_share_url(address: PublicAddress, hostname: str, share: ShareId, secret: PreviewToken) -> str:
    """Return the link of a share for a custom hostname. It holds the secret, so it is one."""
    named = naming_share(share, secret.reveal().encode("ascii")).decode("ascii")
    return f"{address.custom_origin(hostname)}{SHARE_PATH}{named}"


def built_in_hostname(sandbox: SandboxId, port: Port, domain: Domain) -> str:
    """Return ``{sandbox}-p{port}.{domain}``.

    Raises:
        InvalidNameError: The id does not begin with ``sb-``, so no built-in hostname leads to it.
    """
    if not sandbox.startswith(BUILT_IN_PREFIX):
        raise InvalidNameError(f"sandbox {sandbox!r} has no built-in hostname: its id does not begin with 'sb-'")
    return f"{sandbox}-p{port:d}.{domain}"
