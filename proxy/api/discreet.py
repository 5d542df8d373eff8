"""Structs that may be printed: in their `repr` only what is known to be no secret is shown.

A list of what is secret would lack the field that is added next, and a token would be in somebody's log. So this is a
list of what is not. Numbers, times and choices are shown, and of text what is named in `PLAIN`.
"""

from typing import Final

from msgspec import Struct, UnsetType

PLAIN: Final = frozenset(
    """
    after answer because code container created_at createdAt customHostname error event execId expires_at host_header
    http_body http_path id kind name next orgId port question region restart sandbox sandboxDomain sandboxID sandboxId
    scheme scope sessionID sslStatus startedAt status templateID text time txt_name txt_value when_asleep workerID
    CustomDomain.hostname ExposePort.domain
    """.split()  # noqa: SIM905  # as a list it would take a line for each word
)
"""Fields whose text holds no secret: a name for whatever struct has it, or a field of one struct."""


class Hidden:
    """Stands for what is not shown."""

    def __repr__(self) -> str:
        return "****"


HIDDEN: Final = Hidden()


class Discreet(Struct, frozen=True):
    """Base of structs that are sent to the API, or by it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    # msgspec's own shows everything, and what prints by way of rich asks for it.
    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Return the fields, as they may be shown."""
        kind = type(self).__name__
        shown: list[tuple[str, object]] = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            plain = not PLAIN.isdisjoint((name, f"{kind}.{name}"))
            shown.append((name, value if _shows(value, plain=plain) else HIDDEN))
        return shown


def _shows(value: object, *, plain: bool) -> bool:
    """Say whether a value may be shown, which then shows no more of itself than it may."""
    if isinstance(value, list | tuple):
        return all(isinstance(one, Discreet) for one in value)
    if isinstance(value, str):
        return plain
    return value is None or isinstance(value, bool | int | float | UnsetType | Discreet)
