"""What the readers of requests refuse, beyond broken protocol: what a request says makes no sense, or two senses."""

from actors import PorticoError


class BadHostError(PorticoError):
    """The bytes could not be the host of any URL: 400, and nothing is routed."""

    code = "BAD_HOST"
    status_code = 400


class AmbiguousCredentialError(PorticoError):
    """A credential was sent more than once, and readers differ on which one counts: 400."""

    code = "BAD_REQUEST"
    status_code = 400
