"""Figures and their goals."""

import pytest

from bench._figure import Figure, reached, share_of_goal


@pytest.mark.parametrize(
    ("value", "goal", "is_reached", "share"),
    [
        (1.5, "<= 1.5", True, 1.0),
        (1.5, "< 1.5", False, 1.0),
        (3.0, "<= 1.5", False, 2.0),
        (0.5, ">= 1", False, 2.0),
        (2.0, "> 1", True, 0.5),
        (2.0, "", None, None),
        (0.0, ">= 1", False, None),
    ],
)
def test_figure_is_held_against_its_goal(value: float, goal: str, is_reached: bool | None, share: float | None) -> None:
    figure = Figure("what", value, "us", goal)
    assert reached(figure) is is_reached
    assert share_of_goal(figure) == share
