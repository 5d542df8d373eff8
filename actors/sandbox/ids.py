"""Names that cannot be wrong: sandbox ids, ports, port tokens, preview tokens.

Whatever comes from outside is parsed here once, at the edge; past it, holding a `SandboxId` *is* the proof
that the text is one. Nothing here draws randomness: `mint` turns bytes that the caller drew into a token,
so that tests and replays are exact.

Secrets (`PortToken`, `PreviewToken`) are not strings. They print as asterisks, and only `reveal()` gives the
text, so that no log line, traceback or `repr` can leak one by accident.
"""

import hashlib
import hmac
import re
from typing import Final, Self

from actors.errors import InvalidNameError

# `65535-{id}-{token}` must fit one 63-octet DNS label (RFC 1035 section 2.3.4): 5 + 1 + 40 + 1 + 16 = 63.
SANDBOX_ID_LENGTH_MAX: Final = 40
PORT_TOKEN_LENGTH_MAX: Final = 16

RESERVED_SANDBOX_IDS: Final = frozenset({"www", "api", "admin", "root", "system", "cloudflare", "workers"})
"""Names that a platform's own hosts are likely to carry."""

PORT_MAX: Final = 65535

EXPOSABLE_PORT_MIN: Final = 1024
"""Lower ports are privileged on most hosts; the built-in form may still reach them."""

PREVIEW_TOKEN_LENGTH_MIN: Final = 16
PREVIEW_TOKEN_LENGTH_MAX: Final = 512
"""Bounds what a request can make us hash, and fits any header limit in use."""

PREVIEW_TOKEN_BYTES: Final = 32
SEAL_BYTES: Final = 32
PORT_TOKEN_BYTES: Final = 20
"""How many random bytes `PortToken.mint` wants: 16 characters of 36 need 83 bits; 160 leave no visible bias."""

SHOWN_NUMBER_MAX: Final = 10**9
"""Larger than any number that could have been meant as a port."""

_SANDBOX_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_SHARE_ID: Final = re.compile(r"[a-z0-9]{16}")
_PORT_TOKEN: Final = re.compile(r"[a-z0-9_]{1,16}")
# RFC 6750 section 2.1, b64token, is what a bearer header can carry; we take any visible ASCII, as the
# published clients do.
_PREVIEW_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


class SandboxId(str):
    """The name of a sandbox: canonical lower case, at most 40 characters, a legal part of a DNS label."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check and fold `text`.

        Raises:
            InvalidNameError: With the rule that `text` breaks.
        """
        if type(text) is cls:
            return text
        if not isinstance(text, str):
            raise InvalidNameError(f"a sandbox id is text, not {type(text).__name__}")
        # ASCII only: str.lower() would fold U+212A KELVIN SIGN to "k" and let two spellings meet.
        folded = text.lower() if text.isascii() else text
        if not 1 <= len(folded) <= SANDBOX_ID_LENGTH_MAX:
            raise InvalidNameError(f"a sandbox id has 1 to {SANDBOX_ID_LENGTH_MAX} characters, not {len(text)}")
        if _SANDBOX_ID.fullmatch(folded) is None:
            raise InvalidNameError(f"sandbox id {folded!r}: only a-z, 0-9 and hyphens, neither first nor last a hyphen")
        if folded in RESERVED_SANDBOX_IDS:
            raise InvalidNameError(f"sandbox id {folded!r} is reserved")
        return super().__new__(cls, folded)

    @classmethod
    def mint(cls, entropy: bytes) -> Self:
        """Make ``sb-`` and 8 hex digits out of at least four random bytes."""
        if len(entropy) < 4:
            raise ValueError("a generated sandbox id takes four bytes of entropy")
        return cls(f"sb-{entropy[:4].hex()}")


SYSTEM: Final[SandboxId] = str.__new__(SandboxId, "system")
"""No sandbox: under this name a store keeps what belongs to none, such as the table of custom hostnames. It is
reserved, so no text from outside becomes it, and stores do not list it."""


class Port(int):
    """A TCP port, 1 to 65535."""

    __slots__ = ()

    def __new__(cls, number: int) -> Self:
        """Check `number`.

        Raises:
            InvalidNameError: If it is a bool, not an int, or out of range.
        """
        # bool is an int in Python; `expose_port(True)` is a mistake, not port 1.
        if isinstance(number, bool) or not isinstance(number, int):
            raise InvalidNameError(f"a port is a number, not {type(number).__name__}")
        if not 1 <= number <= PORT_MAX:
            raise InvalidNameError(f"port {shown_number(number)} is not between 1 and {PORT_MAX}")
        return super().__new__(cls, number)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a canonical ASCII decimal: no sign, no space, no leading zero.

        Raises:
            InvalidNameError: For anything else; ``08080`` must not be another name of 8080.
        """
        # int() also reads "٨٠٨٠", "8_080" and " 8080"; the pattern is what keeps them out.
        if _PORT.fullmatch(text) is None:
            raise InvalidNameError(f"{text[:20]!r} is not a port: a decimal from 1 to 65535, no leading zero")
        return cls(int(text))


class ShareId(str):
    """The name of a share: 16 characters of ``a-z0-9``, in a hostname where a port's token would stand. No secret."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check `text`.

        Raises:
            InvalidNameError: It is of another form.
        """
        if not isinstance(text, str):
            raise InvalidNameError(f"a share's id is text, not {type(text).__name__}")
        if _SHARE_ID.fullmatch(text) is None:
            raise InvalidNameError("a share's id is 16 characters of a-z and 0-9")
        return super().__new__(cls, text)

    @classmethod
    def mint(cls, entropy: bytes) -> Self:
        """Make one out of at least `PORT_TOKEN_BYTES` random bytes."""
        return cls(PortToken.mint(entropy).reveal())


def shown_number(number: float) -> str:
    """Return a number as text for an error; a long one shortened, as Python refuses to print 4301 digits."""
    return str(number) if abs(number) < SHOWN_NUMBER_MAX else "of many digits"


class _Secret:
    """A text that compares in constant time and prints as asterisks."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself. Whoever calls this must not log it."""
        return self._text

    def matches(self, candidate: str | bytes) -> bool:
        """Compare in constant time, on bytes (`hmac.compare_digest` refuses non-ASCII text)."""
        if isinstance(candidate, str):
            candidate = candidate.encode("utf-8", "surrogatepass")
        return hmac.compare_digest(self._text.encode("ascii"), candidate)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.matches(other._text)

    def __hash__(self) -> int:
        return hash((type(self), self._text))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(****)"

    def __str__(self) -> str:
        return "****"


class Seal:
    """Random bytes that what we hand to browsers is signed with; they never leave the log and this process."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """Check that there are `SEAL_BYTES` of them.

        Raises:
            InvalidNameError: There are not.
        """
        if not isinstance(key, bytes):
            raise InvalidNameError(f"a seal is bytes, not {type(key).__name__}")
        if len(key) != SEAL_BYTES:
            raise InvalidNameError(f"a seal has {SEAL_BYTES} bytes")
        self._key = key

    def reveal(self) -> bytes:
        """Return the bytes. Whoever calls this must not log them."""
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seal) and hmac.compare_digest(self._key, other._key)

    def __hash__(self) -> int:
        return hash((Seal, self._key))

    def __repr__(self) -> str:
        return "Seal(****)"


class PortToken(_Secret):
    """The secret of one exposed port: 1 to 16 characters of ``a-z0-9_``, part of its hostname."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        """Check `text`; it is not folded, an upper-case token is refused.

        Raises:
            InvalidNameError: With the rule broken, never with the text.
        """
        if not isinstance(text, str):
            raise InvalidNameError(f"a token is text, not {type(text).__name__}")
        if not 1 <= len(text) <= PORT_TOKEN_LENGTH_MAX:
            raise InvalidNameError(f"a token has 1 to {PORT_TOKEN_LENGTH_MAX} characters, not {len(text)}")
        if _PORT_TOKEN.fullmatch(text) is None:
            raise InvalidNameError("a token holds only a-z, 0-9 and underscores")
        super().__init__(text)

    @classmethod
    def mint(cls, entropy: bytes) -> Self:
        """Make 16 characters of ``a-z0-9`` (82 bits) out of at least `PORT_TOKEN_BYTES` random bytes.

        No underscore: it is legal in DNS but not in a hostname (RFC 1123 section 2.1), and some clients refuse it.
        """
        if len(entropy) < PORT_TOKEN_BYTES:
            raise ValueError(f"a minted token takes {PORT_TOKEN_BYTES} bytes of entropy")
        number = int.from_bytes(entropy[:PORT_TOKEN_BYTES], "big")
        characters = []
        for _ in range(PORT_TOKEN_LENGTH_MAX):
            number, index = divmod(number, len(_BASE36))
            characters.append(_BASE36[index])
        return cls("".join(characters))


class PreviewToken(_Secret):
    """The bearer secret that gates a whole sandbox; only its `digest` is ever kept."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        """Check `text`: 16 to 512 visible ASCII characters.

        Raises:
            InvalidNameError: With the rule broken, never with the text.
        """
        if not isinstance(text, str):
            raise InvalidNameError(f"a preview token is text, not {type(text).__name__}")
        if len(text) < PREVIEW_TOKEN_LENGTH_MIN:
            raise InvalidNameError(f"a preview token has at least {PREVIEW_TOKEN_LENGTH_MIN} characters")
        if len(text) > PREVIEW_TOKEN_LENGTH_MAX:
            raise InvalidNameError(f"a preview token has at most {PREVIEW_TOKEN_LENGTH_MAX} characters")
        if _PREVIEW_TOKEN.fullmatch(text) is None:
            raise InvalidNameError("a preview token holds only visible ASCII characters")
        super().__init__(text)

    @classmethod
    def mint(cls, entropy: bytes) -> Self:
        """Make 43 characters of base64url out of exactly 32 random bytes."""
        import base64

        if len(entropy) != PREVIEW_TOKEN_BYTES:
            raise ValueError(f"a minted preview token takes {PREVIEW_TOKEN_BYTES} bytes of entropy")
        return cls(base64.urlsafe_b64encode(entropy).rstrip(b"=").decode("ascii"))

    def digest(self) -> bytes:
        """Return the SHA-256 of the text, 32 bytes. The text has 128 bits or more, so no salt is needed."""
        return hashlib.sha256(self._text.encode("ascii")).digest()
