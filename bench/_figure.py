"""One measured figure: what every benchmark returns."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A row of the table."""

    name: str
    """What was measured, in words."""
    value: float
    unit: str
    goal: str = ""
    """Such as ``<= 1.5`` or ``< 150``; empty where there is none."""
