"""The picture at the end of a run."""

from bench._figure import Figure
from bench._picture import SHARE_MAX, lines, panels

ROWS = [
    ("traffic", Figure("get", 120.0, "CPU us/request")),
    ("traffic", Figure("echo", 30.0, "CPU us/message")),
    ("traffic", Figure("idle-ws", 20.0, "KiB/WebSocket", "<= 2")),
    ("engine", Figure("whole GET", 75.0, "us CPU", "< 150")),
    ("engine", Figure("no goal", 75.0, "us CPU")),
]


def test_costs_stand_beside_costs_and_goals_beside_goals() -> None:
    costs, goals = panels(ROWS)
    assert [(bar.label, bar.value, bar.text) for bar in costs.bars] == [
        ("get", 120.0, "120 a request"),
        ("echo", 30.0, "30 a message"),
    ]
    # Ten times its goal would make all others unreadable.
    assert [(bar.label, bar.value, bar.ours) for bar in goals.bars] == [
        ("idle-ws", SHARE_MAX, False),
        ("whole GET", 0.5, True),
    ]
    assert goals.mark == 1.0


def test_nothing_to_draw_is_no_picture() -> None:
    assert panels([("engine", Figure("no goal", 75.0, "us CPU"))]) == []


def test_lines_fit_the_width_of_the_terminal() -> None:
    drawn = list(lines(panels(ROWS), 80))
    assert max(map(len, drawn)) <= 80
    assert any(line.startswith("  get  █") and line.endswith("120 a request") for line in drawn)
