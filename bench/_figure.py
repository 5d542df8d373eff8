"""One measured figure: what every benchmark returns; and whether it is within its goal."""

import re
from typing import Final, NamedTuple

_GOAL: Final = re.compile(r"(<=|<|>=|>)\s*([0-9.]+)")


class Figure(NamedTuple):
    """A row of the table."""

    name: str
    """What was measured, in words."""
    value: float
    unit: str
    goal: str = ""
    """Such as ``<= 1.5`` or ``< 150``; empty where there is none."""


def reached(figure: Figure) -> bool | None:
    """Say whether a figure is within its goal; None if it has none."""
    match = _GOAL.match(figure.goal)
    if match is None:
        return None
    bound = float(match[2])
    return {
        "<=": figure.value <= bound,
        "<": figure.value < bound,
        ">=": figure.value >= bound,
        ">": figure.value > bound,
    }[match[1]]


def share_of_goal(figure: Figure) -> float | None:
    """Give the figure as a multiple of what its goal allows: up to 1 is within it; None if it has none.

    Of a goal to be exceeded it is the inverse, so that less is better for all.
    """
    match = _GOAL.match(figure.goal)
    if match is None or not figure.value or not float(match[2]):
        return None
    share = figure.value / float(match[2])
    return share if match[1].startswith("<") else 1 / share
